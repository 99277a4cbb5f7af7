"""What a malicious requester does to the model, with and without the guard: cases, guards, cells and rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

from fedunlearn.config import Config
from fedunlearn.errors import BadInput
from fedunlearn.study.grid import GUARD_OFF, Axes, Cell, ConfigLoader, Variant, cells_of, requesters_of

GUARDS: dict[str, dict[str, Any]] = {
    "off": dict(GUARD_OFF),
    "config": {},
    "refuse": {"guard.too_long": "refuse", "guard.harmful": "refuse"},
    "strict": {"guard.norm": 8.0, "guard.together": 12.0, "guard.drop": 0.1, "guard.silenced": 0.6},
}
"""Name -> overrides: off; the experiment's own; the same, refusing; tighter than honest methods need."""

_KINDS = ("scaled", "flipped", "targeted", "random")

COLUMNS = (
    "method",
    "case",
    "guard",
    "seed",
    "requesters",
    "size",
    "test_unlearned",
    "test_recovered",
    "uar_unlearned",
    "uar_recovered",
    "worst_recall_unlearned",
    "worst_recall_recovered",
    "test_original",
    "worst_recall_original",
    "forget_recovered",
    "gap_recovered",
    "label_tv",
    "label_uniform",
    "told_auc",
    "features_update",
    "features_kept",
    "done",
    "factor",
    "fulfilled",
)


@dataclass(frozen=True)
class Case:
    """One behaviour of the first requester: ``overrides(client)`` of the experiment make it so."""

    name: str
    overrides: Callable[[int], dict[str, Any]]


def parse_case(text: str) -> Case:
    """Read a case: ``honest``, ``KIND:FACTOR``, ``targeted:FACTOR:CLASS`` or ``noise:CLIP:SIGMA``.

    Raises:
        BadInput: none of these.
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
    """One run: how the first requester behaves, under which guard."""

    cell: Cell
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
        load: puts overrides on top of the experiment.
        methods: unlearning methods of honest requesters.
        cases: behaviours of the first requester.
        guards: names of ``GUARDS``.
        size: utterances that each requester deletes.
        requesters: clients that request a deletion.
        seeds: whole experiments.

    Raises:
        BadInput: a guard that is not known, or settings that the experiment refuses.
    """
    unknown = sorted(set(guards) - set(GUARDS))
    if unknown:
        raise BadInput(f"--guards {','.join(unknown)}: known are {', '.join(GUARDS)}")
    clients = load({}).partition.clients
    found = []
    for seed in seeds:
        attacker = min(requesters_of(clients, 1, seed))
        for method in methods:
            for case in cases:
                for guard in guards:
                    name = f"{method}-{case.name}-{guard}".replace(":", "_")
                    overrides = {**GUARDS[guard], **case.overrides(attacker)}
                    axes = Axes([Variant(name, method)], [size], [requesters], [seed])
                    (cell,) = cells_of(_with(load, overrides), axes)
                    found.append(Trial(cell, case.name, guard))
    return found


def _with(load: ConfigLoader, overrides: Mapping[str, Any]) -> ConfigLoader:
    def loaded(more: Mapping[str, Any]) -> Config:
        return load({**overrides, **more})

    return loaded


def row_of(trial: Trial, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of one run; a missing value is None.

    Args:
        trial: the run.
        results: its results.json.
    """
    models, cell = results["models"], trial.cell
    attacker = min(requesters_of(results["corpus"]["clients"], 1, cell.seed))
    privacy = next((r.get("privacy") for r in results["requests"] if r["client"] == attacker), None) or {}
    mix, membership = privacy.get("label_mix") or {}, privacy.get("membership") or {}
    done = [i for i in results["guard"] if i["client"] == attacker]
    verified = sum(r["state"] == "verified" for r in results["requests"])
    left = 1.0
    for intervention in done:
        left *= intervention["factor"]
    return {
        "method": cell.variant.algorithm,
        "case": trial.case,
        "guard": trial.guard,
        "seed": cell.seed,
        "requesters": cell.requesters,
        "size": cell.size,
        "test_unlearned": models["unlearned"]["test"]["accuracy"],
        "test_recovered": models["recovered"]["test"]["accuracy"],
        "test_original": models["original"]["test"]["accuracy"],
        "uar_unlearned": models["unlearned"]["test"]["uar"],
        "uar_recovered": models["recovered"]["test"]["uar"],
        "worst_recall_original": worst_recall(models["original"]["confusion"]["test"]),
        "worst_recall_unlearned": worst_recall(models["unlearned"]["confusion"]["test"]),
        "worst_recall_recovered": worst_recall(models["recovered"]["confusion"]["test"]),
        "forget_recovered": models["recovered"]["forget"]["accuracy"],
        # Where nothing was unlearned there is nothing to compare with.
        "gap_recovered": results["gap"]["recovered"]["mean"] if verified else None,
        "label_tv": mix.get("tv"),
        "label_uniform": mix.get("uniform"),
        "told_auc": membership.get("auc"),
        "features_update": (privacy.get("reconstruction") or {}).get("r"),
        "features_kept": next(
            (row["r"] for row in results.get("kept", []) if row["client"] == attacker), None
        ),
        "done": " + ".join(dict.fromkeys(i["what"] for i in done)) or "nothing",
        "factor": left,
        "fulfilled": verified / len(results["requests"]),
    }


def worst_recall(confusion: Sequence[Sequence[int]]) -> float | None:
    """Return the lowest recall of the emotions that occur.

    Args:
        confusion: counts [true][recognised].
    """
    recalls = [row[label] / sum(row) for label, row in enumerate(confusion) if sum(row)]
    return min(recalls, default=None)


_SHOWN = (
    ("test, after the step", "test_unlearned"),
    ("test, recovered", "test_recovered"),
    ("worst recall, after the step", "worst_recall_unlearned"),
    ("worst recall, recovered", "worst_recall_recovered"),
    ("gap, recovered", "gap_recovered"),
    ("label mix TV (uniform)", "label_tv"),
    ("told apart (AUC)", "told_auc"),
    ("features read off the update (r)", "features_update"),
    ("off the models kept (r)", "features_kept"),
)


def table_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """Format means over the seeds as Markdown: one line for each method, case and guard."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["case"], row["guard"]), []).append(row)
    head = ["method", "case", "guard", *(title for title, _ in _SHOWN), "what the guard did", "fulfilled"]
    lines = [head, ["---"] * 3 + ["---:"] * len(_SHOWN) + ["---", "---:"]]
    for (method, case, guard), own in groups.items():
        numbers = [_mean(own, column) for _, column in _SHOWN]
        numbers[5] += f" ({_mean(own, 'label_uniform')})"
        lines.append([method, case, guard, *numbers, _did(own), _mean(own, "fulfilled")])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _mean(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    known = [row[column] for row in rows if row[column] is not None]
    return f"{fmean(known):.3f}" if known else "–"


def _did(rows: Sequence[Mapping[str, Any]]) -> str:
    counted: dict[str, list[float]] = {}
    for row in rows:
        counted.setdefault(row["done"], []).append(row["factor"])
    parts = [
        f"{len(left)} x {what}" + ("" if what == "nothing" or not max(left) else f" to {fmean(left):.2f}")
        for what, left in counted.items()
    ]
    return ", ".join(parts)
