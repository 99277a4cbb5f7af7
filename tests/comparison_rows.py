"""Rows as ``simulations/compare.py`` writes them, made up, so that tables can be worked out by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fedunlearn.study.rows import StudyRow, frame_of
from fedunlearn.unlearning import CONTROLS


def rows_of(
    gaps: Mapping[str, Sequence[float]],
    sees: Mapping[str, str] | None = None,
    floor: float = 0.01,
    **changed: Any,
) -> pd.DataFrame:
    """One run for each method and gap, seed after seed.

    A run's forget accuracy is its gap above the retrained model's 0.5, retain and test are the retrained
    model's own (1.0, 0.6); right after unlearning the forget accuracy was 0.05 lower. The retrained seeds
    lie 0.02 apart in forget accuracy and 0.01 in retain accuracy.
    """
    rows = []
    for method, values in gaps.items():
        for seed, value in enumerate(values):
            for stage in ("original", "unlearned", "recovered", "retrained"):
                gap = {"original": 0.3, "unlearned": value, "recovered": value, "retrained": floor}[stage]
                own = {"original": 0.5, "unlearned": value - 0.05, "recovered": value, "retrained": 0.0}
                row: dict[str, Any] = {
                    "method": method,
                    "algorithm": method,
                    "control": method in CONTROLS,
                    "sees": (sees or {}).get(method, "forget"),
                    "model": None,
                    "corpus": None,
                    "forget_size": 10,
                    "requesters": 1,
                    "aggregation": "sum",
                    "recovery": "gentle",
                    "window": 0,
                    "rounds_waited_mean": 0.0,
                    "seed": seed,
                    "stage": stage,
                    "gap": gap,
                    "forget": 0.5 + own[stage],
                    "retain": 1.0,
                    "test": 0.6,
                    "unseen": None,
                    "membership": None,
                    "client_seconds": 1.0,
                    "settings": "",
                    "recovery_rounds": None,
                    "recovery_steps": None,
                    "recovery_epochs": None,
                    "recovery_lr": None,
                    "gap_forget": gap,
                    "gap_retain": None,
                    "gap_test": None,
                    "gap_membership": None,
                    "reversion": 0.05 if stage == "recovered" else None,
                    "reversion_membership": None,
                    "noise_floor": floor,
                    "original": None,
                    "scalars": "",
                    "fold": 0,
                    "test_uar": 0.55,
                    "test_macro_f1": 0.5,
                    "unseen_wa": None,
                    "unseen_macro_f1": None,
                    "seeds": ((0.5, 1.0), (0.52, 0.99), (0.48, 1.01)) if stage == "retrained" else (),
                }
                rows.append(StudyRow(**row | changed))
    return frame_of(rows)
