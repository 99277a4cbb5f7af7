"""The page of a study: its claims, then the tables and figures of each question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from fedunlearn.files import write_atomically
from fedunlearn.report.figures.style import FigureSpec
from fedunlearn.report.study import figures, tables
from fedunlearn.report.study.claims import ClaimResult, ClaimVerdict, claims_table
from fedunlearn.report.study.statistics import unit_names, units_of
from fedunlearn.report.tables import Table
from fedunlearn.report.templates import fill_template
from fedunlearn.report.values import many
from fedunlearn.results_schema import CONTROLS

_WIDTH = 880


@dataclass(frozen=True)
class Answer:
    """What a study found on one question.

    Attributes:
        title: of the question; empty where the study has none.
        rows: of its finished cells, at least one, as ``study.rows.StudyRow``.
        sweep: name of the quantity that is swept; empty where none is.
        values: variant -> the value that it has of it.
    """

    title: str
    rows: pd.DataFrame
    sweep: str = ""
    values: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def tables(self) -> list[Table]:
        """Gaps by swept value or by setting, then recognition."""
        swept = [tables.sweep_table(self.rows, self.sweep, self.values)] if self.values else []
        others = self._others
        rest = [] if others.empty else [*tables.summaries(others), *tables.recognition(others)]
        return [*swept, *rest]

    @property
    def titled_tables(self) -> list[Table]:
        """The tables, with the question in their titles."""
        return [tables.with_title(table, self.title) for table in self.tables]

    @property
    def _others(self) -> pd.DataFrame:
        """Rows of the variants that are not swept."""
        return self.rows[~self.rows["method"].isin(list(self.values))]

    def figures(self, number: int) -> list[FigureSpec]:
        """List its figures.

        Args:
            number: of the question, which names the files.
        """
        found = []
        others = self._others
        if not others.empty:
            alt = "Mean gap by size of the deletion, beside the noise floor"
            found.append(
                FigureSpec(
                    f"question-{number}-gap-by-size",
                    alt,
                    lambda width: figures.gap_by_size(others),
                    (_WIDTH,),
                )
            )
        if self.values:
            alt = f"Mean gap by {self.sweep}, beside the noise floor"
            found.append(
                FigureSpec(
                    f"question-{number}-sweep",
                    alt,
                    lambda width: figures.gap_by_value(self.rows, self.sweep, self.values),
                    (_WIDTH,),
                )
            )
        return found


def write_answer_figures(answers: Sequence[Answer], folder: Path) -> list[Path]:
    """Write the figures of all questions, each as SVG, PDF and PNG.

    Args:
        answers: one for each question.
        folder: where to; it exists.

    Returns:
        the files.
    """
    specs = [spec for number, answer in enumerate(answers, 1) for spec in answer.figures(number)]
    return figures.write_specs(specs, folder)


def write_page(
    notes: Sequence[str],
    claims: Sequence[ClaimResult],
    answers: Sequence[Answer],
    path: Path,
    contributions: Table | None = None,
) -> None:
    """Write the page of a study as a single HTML file that loads nothing else.

    Args:
        notes: paragraphs above the claims.
        claims: decided; may be none.
        answers: one for each question, at least one.
        path: where to; its folder exists.
        contributions: who made which runs, where several people did.

    Raises:
        OSError: the file cannot be written.
    """
    rows = pd.concat([answer.rows for answer in answers])
    page = fill_template(
        "study.html.j2",
        ("page.css", "comparison.css"),
        headline=_headline(claims),
        kicker=_kicker(rows),
        notes=notes,
        claims=claims,
        claims_table=claims_table(claims),
        contributions=contributions,
        answers=[(answer.title, answer.tables, answer.figures(n)) for n, answer in enumerate(answers, 1)],
        units=unit_names(rows),
        controls=list(CONTROLS.values()),
        methods_used=[],
    )
    write_atomically(path, page.encode("utf-8", "replace").decode("utf-8"))


def _headline(claims: Sequence[ClaimResult]) -> str:
    if not claims:
        return "A study of unlearning methods"
    verdicts: tuple[ClaimVerdict, ...] = ("reproduced", "refuted", "not decided")
    counts = {v: sum(claim.verdict == v for claim in claims) for v in verdicts}
    parts = [f"{count} {verdict}" for verdict, count in counts.items() if count]
    return f"{many(len(claims), 'claim')}: {', '.join(parts)}"


def _kicker(rows: pd.DataFrame) -> list[str]:
    corpora, models = rows["corpus"].dropna().unique(), rows["model"].dropna().unique()
    runs = rows.drop_duplicates(["method", "forget_size", "requesters", "recovery", "fold", "seed"])
    return [", ".join(corpora), ", ".join(models), units_of(rows) or "1 seed", many(len(runs), "run")]
