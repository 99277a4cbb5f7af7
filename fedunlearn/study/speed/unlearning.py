"""What forgetting costs beside training again: client-seconds, bytes, seconds on the clock."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedunlearn.study.speed.memory import watch

_TEMPLATE = '[{{client = 0, what = "some", count = {}, after_learning = 0}}]'


def measure(
    count: int, data: Path | None, seed: int, folder: Path, more: Sequence[str] = ()
) -> dict[str, Any]:
    """One client takes back so many utterances; the whole experiment, with one retrained model.

    Args:
        data: RAVDESS; None = generated speech.
        folder: to be made.
        more: further ``--set`` values.

    Returns:
        ratios: retraining over unlearn and recover together, of client_seconds, bytes and wall_seconds.
        gap: mean gap after recovery, beside that of doing nothing. cost: as in results.json.
    """
    command = [sys.executable, "-m", "fedunlearn", "run", "--out", str(folder), "--seed", str(seed)]
    command += ["--engine", "inline", "--cache", str(folder.parent / "references")]
    if data is not None:
        command += ["--config", str(_config()), "--data", str(data)]
    settings = [f"deletions.schedule={_TEMPLATE.format(count)}", "evaluation.retrained_seeds=1"]
    settings += ["evaluation.relearn_steps=0", "evaluation.search=false", *more]
    watch([*command, *(part for setting in settings for part in ("--set", setting))])
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {"ratios": ratios(results["cost"]), "gap": _gap(results), "cost": results["cost"]}


def ratios(cost: dict[str, Any]) -> dict[str, float]:
    """How many times as much retraining takes as unlearning and recovering."""

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


def _config() -> Path:
    return Path(__file__).resolve().parents[3] / "configs" / "ravdess.toml"
