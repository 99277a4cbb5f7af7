"""The tables of the recipe's grid: what each recipe gives, and how far the default is from the best."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import pandas as pd

from fedunlearn.report.statistics import spread
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import MISSING
from result_tables.recipes import Recipe, RecipeScores

NEAR_BEST, NEAR_CENTRAL = 0.02, 0.03
"""test UAR by which the default may be below the best recipe of the grid, and below central training"""
_DIVERGED = "diverged"


@dataclass(frozen=True, kw_only=True)
class RecipeRow:
    """One training: a row of recipe.csv.

    Attributes:
        corpus: as tables name it.
        recipe: by which recipe.
        seed: of the partition and of training.
        scores: of the original model.
    """

    corpus: str
    recipe: Recipe
    seed: int
    scores: RecipeScores


@dataclass(frozen=True)
class Verdict:
    """How the default recipe does on a corpus. Test UARs are means over seeds.

    Attributes:
        default: test UAR of the default recipe.
        best: that of the best federated recipe.
        best_name: its name.
        central: that of the best central training.
    """

    default: float
    best: float
    best_name: str
    central: float

    @property
    def is_near_best(self) -> bool:
        """Whether the default is within ``NEAR_BEST`` of the best."""
        return self.best - self.default <= NEAR_BEST + _ROUNDING

    @property
    def is_near_central(self) -> bool:
        """Whether the default is within ``NEAR_CENTRAL`` of central training, or above it."""
        return self.central - self.default <= NEAR_CENTRAL + _ROUNDING


_ROUNDING = 1e-9


def verdict_of(rows: Sequence[RecipeRow]) -> Verdict:
    """Compare the default with the best federated recipe and with central training.

    A recipe that diverged with any seed has a test UAR of 0.

    Args:
        rows: of one corpus, with every recipe.
    """
    means = {recipe.name: (recipe, _mean_uar(own)) for recipe, own in _by_recipe(rows)}
    federated = {name: uar for name, (recipe, uar) in means.items() if not recipe.passes}
    best = max(federated, key=federated.__getitem__)
    default = next(uar for recipe, uar in means.values() if recipe.is_default)
    central = max((uar for recipe, uar in means.values() if recipe.passes), default=math.nan)
    return Verdict(default, federated[best], best, central)


def csv_of(rows: Sequence[RecipeRow]) -> str:
    """Write every training as the text of recipe.csv; what is not known is empty."""
    written = [
        {
            "corpus": row.corpus,
            "recipe": row.recipe.name,
            "default": row.recipe.is_default,
            "passes": row.recipe.passes,
            "seed": row.seed,
            **asdict(row.scores),
        }
        for row in rows
    ]
    return pd.DataFrame(written).to_csv(index=False, lineterminator="\n")  # type: ignore[no-any-return]


def summary_table(rows: Sequence[RecipeRow]) -> Table:
    """Tabulate the verdict on each corpus."""
    lines = []
    for corpus in dict.fromkeys(row.corpus for row in rows):
        found = verdict_of([row for row in rows if row.corpus == corpus])
        cells = [f"{found.default:.3f}", f"{found.best:.3f}", found.best_name, f"{found.central:.3f}"]
        cells += ["yes" if near else "no" for near in (found.is_near_best, found.is_near_central)]
        lines.append(_row(corpus, cells))
    heads = ["default", "best", "by", "central", f"within {NEAR_BEST} of best"]
    heads.append(f"within {NEAR_CENTRAL} of central")
    columns = (Column("corpus", left=True), *(Column(head, left=head == "by") for head in heads))
    caption = (
        f"UAR on held-out speech of the client speakers, {_seeds(rows)}. Best: of the federated recipes; "
        "central: the best of the central ones. Both are chosen by the UAR shown."
    )
    return Table(columns, tuple(lines), "The default recipe", caption)


def recipe_tables(rows: Sequence[RecipeRow]) -> list[Table]:
    """Tabulate every recipe, a table for each corpus."""
    return [_table(corpus, rows) for corpus in dict.fromkeys(row.corpus for row in rows)]


def _table(corpus: str, rows: Sequence[RecipeRow]) -> Table:
    mine = [row for row in rows if row.corpus == corpus]
    best, lines = verdict_of(mine).best_name, []
    for recipe, own in _by_recipe(mine):
        scores = [row.scores for row in own]
        marks = [
            mark for mark, true in (("default", recipe.is_default), ("best", recipe.name == best)) if true
        ]
        if any(one.test_uar is None for one in scores):
            measures = [_DIVERGED, MISSING, MISSING]
        else:
            columns = (
                [s.test_uar for s in scores],
                [s.unseen_uar for s in scores],
                [s.retain for s in scores],
            )
            measures = [str(spread(column)) for column in columns]
        lines.append(_row(recipe.name, [*measures, ", ".join(marks)]))
    heads = ("test UAR", "unseen UAR", "retain")
    columns_ = (Column("recipe", left=True), *map(Column, heads), Column("", left=True))
    caption = (
        f"{_seeds(rows).capitalize()}{' ± half the 95 % interval' if _several(rows) else ''}. Test: held-out "
        "speech of the client speakers; unseen: speakers who take no part; retain: accuracy on all training "
        "speech."
    )
    return Table(columns_, tuple(lines), corpus, caption)


def _by_recipe(rows: Sequence[RecipeRow]) -> list[tuple[Recipe, list[RecipeRow]]]:
    recipes = {row.recipe.name: row.recipe for row in rows}
    return [(recipe, [row for row in rows if row.recipe.name == name]) for name, recipe in recipes.items()]


def _mean_uar(rows: Sequence[RecipeRow]) -> float:
    known = [row.scores.test_uar for row in rows if row.scores.test_uar is not None]
    return fmean(known) if len(known) == len(rows) else 0.0


def _several(rows: Sequence[RecipeRow]) -> bool:
    return len({row.seed for row in rows}) > 1


def _seeds(rows: Sequence[RecipeRow]) -> str:
    return f"mean over {len({row.seed for row in rows})} seeds" if _several(rows) else "one seed"


def _row(head: str, cells: Sequence[str]) -> Row:
    return Row(head, cells=tuple(map(Cell, cells)))
