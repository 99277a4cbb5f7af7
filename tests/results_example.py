"""A results record such as a run of the default experiment leaves, for tests of what reads it."""

import math
from typing import Any

import numpy as np

EMOTIONS = ["anger", "disgust", "fear", "happiness", "neutral", "sadness"]
EDGES = [round(float(edge), 6) for edge in np.linspace(0.0, 8.0, 41)]
MODEL_VALUES = {
    "original": (0.604, 0.612, 0.447, 0.998, 1.0, 0.782, 0.12, 0.9),
    "unlearned": (0.508, 0.514, 0.401, 0.909, 0.425, 0.454, 1.4, 1.2),
    "recovered": (0.579, 0.583, 0.421, 0.995, 0.587, 0.498, 1.1, 1.0),
    "retrained": (0.571, 0.575, 0.417, 0.996, 0.554, 0.471, 1.2, 1.0),
}


def example_results() -> dict[str, Any]:
    """A complete run: 20 clients, four of them delete 92 utterances in all; two retrained seeds."""
    rng = np.random.default_rng(7)
    models = {name: _model(rng, *values) for name, values in MODEL_VALUES.items()}
    second = _model(rng, 0.578, 0.581, 0.409, 0.993, 0.543, 0.462, 1.2, 1.0)
    models["retrained"]["seeds"] = [dict(models["retrained"]), second]
    return {
        "schema": "fedunlearn/results/1",
        "seed": 1,
        "status": "complete",
        "failure": None,
        "config": _config(),
        "versions": {
            "python": "3.11.9",
            "fedunlearn": "0.1.0",
            "torch": "2.11.0",
            "torchaudio": "2.11.0",
            "flwr": "1.41.0",
            "ray": "2.51.1",
            "numpy": "2.3.1",
        },
        "corpus": {
            "name": "synthetic",
            "utterances": 1560,
            "speakers": 26,
            "clients": 20,
            "emotions": list(EMOTIONS),
            "unseen_speakers": 6,
            "warnings": ["s03_017: shorter than 0.5 s, padded with silence"],
        },
        "models": models,
        "gap": {
            "unlearned": _gap(0.129, 0.087, 0.061, 0.017),
            "recovered": _gap(0.033, 0.001, 0.008, 0.027),
            "none": _gap(0.446, 0.002, 0.037, 0.311),
            "destroy": _gap(0.391, 0.829, 0.408, 0.027),
        },
        "noise_floor": _gap(0.011, 0.003, 0.006, 0.009),
        "ranking": [
            _rank("recovered (l2ul)", 0.0173, True, "closer to retrained than both controls"),
            _rank("unlearned (l2ul)", 0.0735, True, "closer to retrained than both controls"),
            _rank("control: none", 0.199, False, "leaves the model as it is"),
            _rank("control: destroy", 0.4138, False, "random weights"),
        ],
        "requests": _requests(),
        "cost": {
            "learn": _cost(30, 128.4, 71.2, 223_200_000, 223_200_000),
            "unlearn": _cost(3, 1.9, 1.1, 1_488_000, 1_488_000),
            "recover": _cost(12, 9.7, 6.0, 86_304_000, 86_304_000),
            "retrain": _cost(42, 171.0, 95.3, 299_200_000, 299_200_000),
        },
        "timeline": _timeline(),
        "retrained_timeline": [
            _step(r, "retrain", _learned(r, 0.571, 0.417, 0.996, 0.554)) for r in range(1, 43)
        ],
        "faults": [
            {"round": 12, "phase": "learn", "client": 7, "kind": "refused", "reason": "reply holds NaN"}
        ],
        "times": {
            "started": "2026-01-05T09:12:44+00:00",
            "wall_seconds": 184.2,
            "phases": {"learn": 71.2, "unlearn": 1.1, "recover": 6.0, "judge": 12.4},
            "references": {"original": "trained", "retrained": "cached"},
        },
    }


def eventful_results() -> dict[str, Any]:
    """The same run with requests that wait: for a window, for devices that are away, slow or drop.

    #1 is of a person with two devices, #2 in time, #3 overdue, #4 withdrawn, #5 refused, #6 still open, #7 of
    speech that no model had been trained on.
    """
    results = example_results()
    first, second, third, fourth = results["requests"]
    unserved = (
        "round_applied",
        "rounds_waited",
        "forget_accuracy",
        "steps",
        "stopped",
        "adversarial",
        "attack_success",
        "update_norm",
    )
    never = fourth | dict.fromkeys(unserved)
    results["requests"] = [
        first
        | {
            "round_applied": 32,
            "rounds_waited": 2,
            "devices": 2,
            "learned": 30,
            "joint_with": ["x"],
            "history": _history(30, 30, 32, 32, 32, 34),
        },
        first
        | {
            "client": 9,
            "utterances": 12,
            "learned": 12,
            "round_applied": 34,
            "rounds_waited": 4,
            "devices": 2,
            "attempts": 3,
            "history": _history(30, 31, 34, 34, 34, 34),
        },
        second
        | {
            "round_raised": 31,
            "round_applied": 32,
            "rounds_waited": 1,
            "deadline": 5,
            "history": _history(31, 31, 32, 32, 32, 32),
        },
        third
        | {
            "round_raised": 33,
            "round_applied": 41,
            "rounds_waited": 8,
            "deadline": 5,
            "overdue": True,
            "attempts": 2,
            "history": _history(33, 36, 40, 41, 41, 42),
        },
        never
        | {
            "id": "r-005-1",
            "client": 5,
            "state": "withdrawn",
            "round_raised": 35,
            "reason_open": "its person withdrew it",
            "history": [*_history(35, 36), {"state": "withdrawn", "round": 38}],
        },
        never
        | {
            "id": "r-006-1",
            "client": 6,
            "state": "refused",
            "round_raised": 37,
            "reason_open": "names 2 utterances that are not its own",
            "history": [*_history(37), {"state": "refused", "round": 37}],
        },
        never
        | {
            "state": "accepted",
            "round_raised": 39,
            "deadline": 11,
            "attempts": 2,
            "reason_open": "client 4 dropped twice",
            "history": _history(39, 39),
        },
        never
        | {
            "id": "r-007-1",
            "client": 7,
            "learned": 0,
            "round_raised": 40,
            "history": [{"state": s, "round": 40} for s in ("raised", "purged", "verified")],
        },
    ]
    results["timeline"] = [
        row | ({"round": moved, "requests": names} if row["phase"] == "unlearn" else {})
        for row, (moved, names) in _unlearn_steps(results["timeline"])
    ]
    results |= {
        "status": "partial",
        "failure": "request r-004-1 of client 4 is accepted, not verified",
        "availability": {
            "unreachable": [[31, 4], [33, 2], [34, 5], [40, 1]],
            "requesters": [[3, 34, 36], [3, 37, 39], [9, 31, 32]],
        },
        "faults": [
            {"round": 32, "phase": "unlearn", "client": 9, "kind": "late", "reason": "3 rounds late"},
            {"round": 40, "phase": "unlearn", "client": 4, "kind": "dropped", "reason": "no reply"},
            {"round": 42, "phase": "unlearn", "client": 4, "kind": "dropped", "reason": "no reply"},
        ],
    }
    results["config"]["deletions"]["window"] = 2
    return results


def _history(*rounds: int) -> list[dict[str, Any]]:
    states = ("raised", "accepted", "unlearned", "applied", "purged", "verified")
    return [{"state": state, "round": round_} for state, round_ in zip(states, rounds, strict=False)]


def _unlearn_steps(timeline: list[dict[str, Any]]) -> list[tuple[dict[str, Any], tuple[int, list[str]]]]:
    """Each row, and where an unlearn step of it goes in the eventful run."""
    steps = iter([(32, ["r-001-1", "r-002-1"]), (34, ["r-001-1"]), (41, ["r-003-1"])])
    moved = [(row, next(steps) if row["phase"] == "unlearn" else (0, [])) for row in timeline]
    order = {"unlearn": 0.5}
    return sorted(moved, key=lambda m: (m[1][0] or m[0]["round"]) + order.get(m[0]["phase"], 0.0))


def _model(
    rng: np.random.Generator,
    test_uar: float,
    test: float,
    unseen: float,
    retain: float,
    forget: float,
    auc: float,
    forget_loss: float,
    test_loss: float,
) -> dict[str, Any]:
    counts = [
        np.histogram(np.clip(rng.gamma(1.2, mean / 1.2, n), 0, 7.99), EDGES)[0].tolist()
        for mean, n in ((forget_loss, 92), (test_loss, 240))
    ]
    confusion = np.full((6, 6), round(40 * (1 - test) / 5)) + rng.integers(0, 3, (6, 6))
    np.fill_diagonal(confusion, round(40 * test))
    return {
        "test": {"uar": test_uar, "accuracy": test, "macro_f1": round(test_uar - 0.01, 3), "n": 240},
        "unseen": {
            "uar": unseen,
            "accuracy": round(unseen + 0.006, 3),
            "macro_f1": round(unseen - 0.02, 3),
            "n": 360,
        },
        "retain": {"accuracy": retain, "n": 868},
        "forget": {"accuracy": forget, "n": 92},
        "membership": {"auc": auc, "low": round(auc - 0.06, 3), "high": round(auc + 0.06, 3)},
        "losses": {"edges": list(EDGES), "forget": counts[0], "test": counts[1]},
        "confusion": {"test": confusion.tolist()},
    }


def _gap(forget: float, retain: float, test: float, membership: float) -> dict[str, float]:
    mean = round((forget + retain + test + membership) / 4, 4)
    return {"forget": forget, "retain": retain, "test": test, "membership": membership, "mean": mean}


def _rank(name: str, mean_gap: float, useful: bool, why: str) -> dict[str, Any]:
    return {"name": name, "mean_gap": mean_gap, "useful": useful, "why": why}


def _cost(rounds: int, client: float, wall: float, up: int, down: int) -> dict[str, float]:
    return {
        "rounds": rounds,
        "client_seconds": client,
        "wall_seconds": wall,
        "bytes_up": up,
        "bytes_down": down,
    }


def _requests() -> list[dict[str, Any]]:
    wanted = ((1, "all", 48, 30), (2, "some", 20, 35), (3, "some", 12, 40), (4, "some", 12, 40))
    return [
        {
            "id": f"r-{client:03d}-1",
            "client": client,
            "what": what,
            "utterances": utterances,
            "round_raised": round_,
            "round_applied": round_,
            "rounds_waited": 0,
            "state": "verified",
            "forget_accuracy": [1.0, 0.45],
            "steps": 18 + client,
            "stopped": "level",
            "adversarial": 20 * utterances,
            "attack_success": 0.97,
            "update_norm": 1.234 * client,
            "deadline": None,
            "overdue": False,
            "devices": 1,
            "learned": utterances,
            "attempts": 1,
            "reason_open": None,
            "history": _history(round_, round_, round_, round_, round_, round_),
        }
        for client, what, utterances, round_ in wanted
    ]


def _timeline() -> list[dict[str, Any]]:
    rows = [_step(0, "calibrate", {"test_uar": None, "unseen_uar": None}, loss=None)]
    rows += [_step(r, "learn", _learned(r, 0.604, 0.447, 0.998, 1.0)) for r in range(1, 31)]
    after = [((30,), ["r-001-1"]), ((35,), ["r-002-1"]), ((40,), ["r-003-1", "r-004-1"])]
    for (round_,), requests in after:
        dip = {"test_uar": 0.51, "unseen_uar": 0.4, "retain_accuracy": 0.91, "forget_accuracy": 0.43}
        rows.append(_step(round_, "unlearn", dip, requests=requests))
        for r in range(1, 5):
            back = 1 - math.exp(-r)
            rows.append(
                _step(
                    round_ + r,
                    "recover",
                    {
                        "test_uar": round(0.51 + 0.069 * back, 3),
                        "unseen_uar": round(0.4 + 0.021 * back, 3),
                        "retain_accuracy": round(0.91 + 0.085 * back, 3),
                        "forget_accuracy": round(0.43 + 0.157 * back, 3),
                    },
                )
            )
        if round_ < 40:
            rows.append(_step(round_ + 5, "listen", {"test_uar": None, "forget_accuracy": None}, loss=None))
    return rows


def _learned(r: int, test: float, unseen: float, retain: float, forget: float) -> dict[str, float]:
    """A learning curve that starts at chance and ends at the values given."""
    share, chance = 1 - math.exp(-r / 6), 1 / 6
    final = {"test_uar": test, "unseen_uar": unseen, "retain_accuracy": retain, "forget_accuracy": forget}
    return {name: round(chance + (value - chance) * share, 3) for name, value in final.items()}


def _step(
    round_: int,
    phase: str,
    measures: dict[str, Any],
    requests: list[str] | None = None,
    loss: float | None = 0.5,
) -> dict[str, Any]:
    empty = dict.fromkeys(("test_uar", "unseen_uar", "retain_accuracy", "forget_accuracy"))
    fixed = {"round": round_, "phase": phase, "loss": loss, "requests": requests or [], "refused": 0}
    return {**fixed, **empty, **measures}


def _config() -> dict[str, Any]:
    return {
        "seed": 1,
        "corpus": {"name": "synthetic", "path": "", "speakers": 26, "utterances": 60},
        "model": {"name": "functionals", "hidden": 128, "dropout": 0.0},
        "training": {"rounds": 30, "server_optimizer": "average", "local": {"epochs": 5, "lr": 0.05}},
        "deletions": {"schedule": [{"client": 1, "what": "all", "round": None, "after_learning": 0}]},
        "unlearning": {"method": "l2ul", "aggregation": "sum", "l2ul": {"attack": {"eps": 0.4, "steps": 5}}},
        "recovery": {"rounds": 4, "epochs": 1, "lr": 0.02},
        "evaluation": {"curve_every": 1, "retrained_seeds": 2, "bootstrap": 1000},
    }
