"""What a malicious requester achieves, with and without the guard: cases, guards, cells and rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite, prod
from typing import Any

import pandas as pd

from fedunlearn.config import Config
from fedunlearn.errors import BadInput
from fedunlearn.report.markup import markdown
from fedunlearn.report.tables import Cell as TableCell
from fedunlearn.report.tables import Column, Row, Table
from fedunlearn.report.values import fraction
from fedunlearn.results_schema import RequestPrivacy, Results
from fedunlearn.study.grid import Axes, ConfigLoader, StudyCell, Variant, cells_of, requesters_of

GUARDS: dict[str, dict[str, Any]] = {
    "off": {"guard.norm": 0.0, "guard.together": 0.0, "guard.drop": 0.0, "guard.silenced": 0.0},
    "config": {},
    "refuse": {"guard.too_long": "refuse", "guard.harmful": "refuse"},
    "strict": {"guard.norm": 1.5, "guard.together": 1.5, "guard.drop": 0.1, "guard.silenced": 0.1},
}
"""Name -> overrides: off; the experiment's own; the same, refusing; tighter than honest updates need."""

_KINDS = ("scaled", "flipped", "targeted", "random")


@dataclass(frozen=True, kw_only=True)
class GuardRow:
    """One run of the guard study, a row of guard.csv. A value that is not known is None.

    Attributes:
        method: name of the unlearning method.
        case: behaviour of the first requester.
        guard: which of ``GUARDS``.
        seed: of the run.
        requesters: clients that file a request.
        size: utterances that each deletes.
        test_unlearned: test accuracy right after the last unlearn step.
        test_recovered: test accuracy after recovery.
        uar_unlearned: test UAR right after the last unlearn step.
        uar_recovered: test UAR after recovery.
        worst_recall_unlearned: lowest recall of an emotion right after the last unlearn step.
        worst_recall_recovered: lowest recall of an emotion after recovery.
        test_original: test accuracy of the original.
        worst_recall_original: lowest recall of an emotion of the original.
        forget_recovered: forget accuracy after recovery.
        gap_recovered: mean gap after recovery; None where nothing was forgotten.
        label_tv: how far the best guess of the forget set's label mix is off, as a total variation distance.
        label_uniform: the same of the guess "all classes alike".
        told_auc: AUC at which the update tells deleted utterances from those that the client kept.
        features_update: correlation at which deleted features are read off the update.
        features_kept: correlation at which they are read off the models that the run folder keeps.
        done: what the guard did to the first requester's updates.
        factor: share of the update that was left.
        fulfilled: share of the requests that were verified.
    """

    method: str
    case: str
    guard: str
    seed: int
    requesters: int
    size: int
    test_unlearned: float | None
    test_recovered: float | None
    uar_unlearned: float | None
    uar_recovered: float | None
    worst_recall_unlearned: float | None
    worst_recall_recovered: float | None
    test_original: float | None
    worst_recall_original: float | None
    forget_recovered: float | None
    gap_recovered: float | None
    label_tv: float | None
    label_uniform: float | None
    told_auc: float | None
    features_update: float | None
    features_kept: float | None
    done: str
    factor: float
    fulfilled: float


COLUMNS = tuple(field.name for field in fields(GuardRow))
"""of guard.csv"""


@dataclass(frozen=True)
class Case:
    """One behaviour of the first requester.

    Attributes:
        name: as written on the command line.
        overrides: client -> settings of the experiment that make it behave so.
    """

    name: str
    overrides: Callable[[int], dict[str, Any]]


def parse_case(text: str) -> Case:
    """Read a case written as ``honest``, ``KIND:FACTOR``, ``targeted:FACTOR:CLASS`` or ``noise:CLIP:SIGMA``.

    Raises:
        BadInput: it is none of these.
    """
    kind, *numbers = text.strip().split(":")
    try:
        values = [float(n) for n in numbers]
    except ValueError:
        values = []
    values = values if all(map(isfinite, values)) else []
    if kind == "honest" and not numbers:
        return Case("honest", lambda _: {})
    if kind == "noise" and len(values) == 2:
        clip, noise = values
        return Case(text, lambda _: {"privacy.clip": clip, "privacy.noise": noise})
    if kind in _KINDS and (len(values) == 1 or (kind == "targeted" and len(values) == 2)):
        chosen = {"attackers.kind": kind, "attackers.factor": values[0]}
        if len(values) == 2:
            chosen["attackers.target"] = int(values[1])
        return Case(text, lambda client: {**chosen, "attackers.clients": (client,)})
    raise BadInput(
        f"--cases {text}: write honest, KIND:FACTOR (of {', '.join(_KINDS)}), targeted:FACTOR:CLASS "
        "or noise:CLIP:SIGMA"
    )


@dataclass(frozen=True)
class Trial:
    """One run of the guard study.

    Attributes:
        cell: the run.
        case: name of the first requester's behaviour.
        guard: which of ``GUARDS``.
    """

    cell: StudyCell
    case: str
    guard: str


def trials_of(
    load: ConfigLoader,
    methods: Sequence[str],
    cases: Sequence[Case],
    guards: Sequence[str],
    size: int,
    requesters: int,
    seeds: Sequence[int],
) -> list[Trial]:
    """List all runs, seed by seed.

    Args:
        load: overrides -> the experiment with them.
        methods: unlearning methods of honest requesters.
        cases: behaviours of the first requester.
        guards: which of ``GUARDS``.
        size: utterances that each requester deletes.
        requesters: clients that file a request; the first one is malicious.
        seeds: of whole experiments.

    Raises:
        BadInput: a guard is not known, or the experiment refuses the settings.
    """
    unknown = sorted(set(guards) - set(GUARDS))
    if unknown:
        raise BadInput(f"--guards {','.join(unknown)}: known are {', '.join(GUARDS)}")
    clients = load({}).partition.client_count
    found = []
    for seed in seeds:
        malicious = min(requesters_of(clients, 1, seed))
        for method in methods:
            for case in cases:
                for guard in guards:
                    name = f"{method}-{case.name}-{guard}".replace(":", "_")
                    overrides = {**GUARDS[guard], **case.overrides(malicious)}
                    axes = Axes([Variant(name, method)], [size], [requesters], [seed])
                    (cell,) = cells_of(_with(load, overrides), axes)
                    found.append(Trial(cell, case.name, guard))
    return found


def _with(load: ConfigLoader, overrides: Mapping[str, Any]) -> ConfigLoader:
    def loaded(more: Mapping[str, Any]) -> Config:
        return load({**overrides, **more})

    return loaded


def row_of(trial: Trial, results: Results) -> GuardRow:
    """Make the row of one run."""
    models, cell = results.models, trial.cell
    clients = results.corpus.clients or 0
    malicious = min(requesters_of(clients, 1, cell.seed))
    privacy = next((r.privacy for r in results.requests if r.client == malicious), RequestPrivacy.empty())
    interventions = [i for i in results.guard if i.client == malicious]
    verified = sum(request.state == "verified" for request in results.requests)
    return GuardRow(
        method=cell.variant.algorithm,
        case=trial.case,
        guard=trial.guard,
        seed=cell.seed,
        requesters=cell.requesters,
        size=cell.size,
        test_unlearned=models.unlearned.test.accuracy,
        test_recovered=models.recovered.test.accuracy,
        uar_unlearned=models.unlearned.test.uar,
        uar_recovered=models.recovered.test.uar,
        worst_recall_unlearned=worst_recall(models.unlearned.confusion.test),
        worst_recall_recovered=worst_recall(models.recovered.confusion.test),
        test_original=models.original.test.accuracy,
        worst_recall_original=worst_recall(models.original.confusion.test),
        forget_recovered=models.recovered.forget.accuracy,
        # Where nothing was forgotten there is nothing to compare with.
        gap_recovered=results.gap.recovered.mean if verified else None,
        label_tv=privacy.label_mix.tv,
        label_uniform=privacy.label_mix.uniform,
        told_auc=privacy.membership.auc,
        features_update=privacy.reconstruction.r,
        features_kept=next((leak.r for leak in results.kept if leak.client == malicious), None),
        done=" + ".join(dict.fromkeys(i.what for i in interventions if i.what)) or "nothing",
        factor=prod((i.factor for i in interventions if i.factor is not None), start=1.0),
        fulfilled=verified / len(results.requests),
    )


def worst_recall(confusion: Sequence[Sequence[int]]) -> float | None:
    """Return the lowest recall of the emotions that occur; None without any.

    Args:
        confusion: counts [true emotion][recognised emotion].
    """
    recalls = [row[label] / sum(row) for label, row in enumerate(confusion) if sum(row)]
    return min(recalls, default=None)


_SHOWN = {
    "test, after the step": "test_unlearned",
    "test, recovered": "test_recovered",
    "worst recall, after the step": "worst_recall_unlearned",
    "worst recall, recovered": "worst_recall_recovered",
    "gap, recovered": "gap_recovered",
    "label mix TV (uniform)": "label_tv",
    "told apart (AUC)": "told_auc",
    "features read off the update (r)": "features_update",
    "off the models kept (r)": "features_kept",
}
"""head of a column -> the column of guard.csv"""
_NUMBERS = [*_SHOWN.values(), "label_uniform", "factor", "fulfilled"]


def csv_of(rows: Iterable[GuardRow]) -> str:
    """Write rows as the text of guard.csv; what is not known is empty."""
    frame = pd.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))
    return frame.to_csv(index=False, lineterminator="\n")  # type: ignore[no-any-return]


def table_of(rows: Iterable[GuardRow]) -> str:
    """Write means over the seeds as Markdown, a line for each method, case and guard."""
    frame = pd.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))
    by = ["method", "case", "guard"]
    groups = frame.astype(dict.fromkeys(_NUMBERS, float)).groupby(by, sort=False)
    means = groups[_NUMBERS].mean()
    lines = []
    for (key, own), (_, mean) in zip(groups, means.iterrows(), strict=True):
        method, case, guard = key
        numbers = [fraction(mean[column]) for column in _SHOWN.values()]
        numbers[5] += f" ({fraction(mean['label_uniform'])})"
        texts = [case, guard, *numbers, _interventions(own), fraction(mean["fulfilled"])]
        lines.append(Row(method, cells=tuple(map(TableCell, texts))))
    columns = [
        *(Column(name, left=True) for name in by),
        *(Column(name) for name in _SHOWN),
        Column("what the guard did", left=True),
        Column("fulfilled"),
    ]
    return markdown([Table(tuple(columns), tuple(lines))])


def _interventions(rows: pd.DataFrame) -> str:
    """``2 x clipped to 0.50``: how often the guard did what, and the mean share of the update left."""
    parts = []
    for what, left in rows.groupby("done", sort=False)["factor"]:
        share = "" if what == "nothing" or not left.max() else f" to {left.mean():.2f}"
        parts.append(f"{len(left)} x {what}{share}")
    return ", ".join(parts)
