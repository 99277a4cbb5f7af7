"""The cost of unlearning compared with retraining: client-seconds, bytes, wall-clock seconds."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory import watch

_TEMPLATE = '[{{client = 0, what = "some", count = {}, after_learning = 0}}]'


def measure(
    count: int, data: Path | None, seed: int, folder: Path, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Run an experiment in which one client deletes utterances, with one retrained model.

    Args:
        count: utterances to delete.
        data: folder of RAVDESS; None = generated speech.
        seed: seed of the experiment.
        folder: the run folder to create.
        more: further ``--set`` values.

    Returns:
        ``ratios``: retraining over unlearning and recovery together, of client_seconds, bytes and
        wall_seconds;
        ``gap``: mean gap after recovery, and that of doing nothing;
        ``cost``: as in results.json.
    """
    command = [sys.executable, "-m", "fedunlearn", "run", "--out", str(folder), "--seed", str(seed)]
    command += ["--engine", "inline", "--cache", str(folder.parent / "references")]
    if data is not None:
        command += ["--config", "ravdess", "--data", str(data)]
    settings = [f"deletions.schedule={_TEMPLATE.format(count)}", "evaluation.retrained_seeds=1"]
    settings += ["evaluation.relearn_steps=0", "evaluation.search=false", *more]
    watch([*command, *(part for setting in settings for part in ("--set", setting))])
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {"ratios": ratios(results["cost"]), "gap": _gap(results), "cost": results["cost"]}


def ratios(cost: dict[str, Any]) -> dict[str, float]:
    """Divide the cost of retraining by that of unlearning and recovery together."""

    def of(phase: str) -> dict[str, float]:
        spent = cost[phase]
        return {
            "client_seconds": spent["client_seconds"],
            "bytes": spent["bytes_up"] + spent["bytes_down"],
            "wall_seconds": spent["wall_seconds"],
        }

    unlearn, recover, retrain = of("unlearn"), of("recover"), of("retrain")
    return {name: retrain[name] / (unlearn[name] + recover[name]) for name in retrain}


def _gap(results: dict[str, Any]) -> dict[str, float]:
    return {"recovered": results["gap"]["recovered"]["mean"], "none": results["gap"]["none"]["mean"]}
