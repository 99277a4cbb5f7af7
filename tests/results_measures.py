"""The measures of a record beyond those of every run: intervals, attacks, fairness, distances, cost."""

from typing import Any

import numpy as np
from scipy.stats import norm

STAGES = ("original", "unlearned", "recovered")
SHARE_OF_REQUESTERS = {"unlearn": 0.9, "recover": 0.15}


def add_measures(results: dict[str, Any]) -> dict[str, Any]:
    """The same record, with everything that ``configs/ravdess-full.toml`` measures; changed in place."""
    rng = np.random.default_rng(11)
    for name, model in results["models"].items():
        _intervals(model, rng)
        for seed in model.get("seeds", ()):
            if "accuracy_interval" not in seed["test"]:
                _intervals(seed, rng)
        assert "tpr_at" in model["membership"], name
    spread = {"unlearned": 0.02, "recovered": 0.014, "none": 0.021, "destroy": 0.025}
    for name, half in spread.items():
        gap = results["gap"][name]
        gap |= {"low": round(max(0.0, gap["mean"] - half), 4), "high": round(gap["mean"] + half, 4)}
        gap["against"] = [round(gap["mean"] - 0.002, 4), round(gap["mean"] + 0.002, 4)]
    ways = {
        "recovered": (0.926, 0.991),
        "unlearned": (1.29, 0.84),
        "control: none": (0.0, 1.0),
        "control: destroy": (2.06, 0.0),
    }
    for row in results["ranking"]:
        name = next(name for name in ways if row["name"].startswith(name))
        row |= dict(zip(("forgetting", "retention"), ways[name], strict=True))
    results["gap"] |= {"rho": 27.4, "nothing_to_forget": False}
    results |= {
        "distances": {
            "original": {"tow": 0.533, "ks": 0.61, "wasserstein": 1.21, "js": 0.187},
            "unlearned": {"tow": 0.746, "ks": 0.19, "wasserstein": 0.33, "js": 0.102},
            "recovered": {"tow": 0.957, "ks": 0.12, "wasserstein": 0.17, "js": 0.061},
            "destroy": {"tow": 0.061, "ks": 0.55, "wasserstein": 0.71, "js": 0.214},
            "retrained": {"tow": 0.981, "ks": 0.07, "wasserstein": 0.06, "js": 0.021},
        },
        "relearn": {
            "original": _relearn(0.0, 0, 0),
            "unlearned": _relearn(31.5, 27, 36),
            "recovered": _relearn(52.0, 44, 61),
            "retrained": {**_relearn(200.0, 200, 200), "reached": False},
        },
        "reversion": {
            "forget": 0.162,
            "membership": 0.044,
            "gap": -0.0562,
            "steps": [
                {"round": 30, "clients": [1], "before": 1.0, "unlearned": 0.431, "recovered": 0.584},
                {"round": 35, "clients": [2], "before": 0.584, "unlearned": 0.43, "recovered": 0.58},
                {"round": 40, "clients": [3, 4], "before": 0.58, "unlearned": 0.425, "recovered": 0.587},
            ],
        },
        "fairness": _fairness(rng),
        "gum": {
            "unlearned": {"gum": 0.741, "cgum": 0.702, "efficacy": 0.968, "utility": 0.934, "time": 0.543},
            "recovered": {"gum": 0.688, "cgum": 0.671, "efficacy": 0.981, "utility": 0.991, "time": 0.461},
        },
        "attacks": _attacks(rng),
        "answers": {
            "groups": [
                {"subset": "forget", "request": "r", **_answers([2.5, 3.0]), "deviations": [0.4, None]},
                {
                    "subset": "test",
                    "client": 7,
                    "speaker": 0,
                    "places": [421],
                    "emotions": [2],
                    **_answers([-1.25]),
                    "deviations": [0.1],
                },
            ],
            "left_out": 0,
        },
        "collateral": {
            "requesters": {
                "unlearned": {"rms": 2.06, "mean": -0.91, "slope": 0.71, "n": 48},
                "recovered": {"rms": 1.42, "mean": -0.52, "slope": 0.82, "n": 48},
                "retrained": {"rms": 1.27, "mean": -0.44, "slope": 0.88, "n": 48},
                "seeds": {"rms": 1.02, "mean": 0.0, "slope": 0.9, "n": 48},
            },
            "others": {
                "unlearned": {"rms": 1.31, "mean": -0.37, "slope": 0.86, "n": 192},
                "recovered": {"rms": 0.84, "mean": -0.05, "slope": 0.94, "n": 192},
                "retrained": {"rms": 1.08, "mean": -0.02, "slope": 0.91, "n": 192},
                "seeds": {"rms": 1.05, "mean": 0.0, "slope": 0.91, "n": 192},
            },
            "spread": {"original": 2.61, "unlearned": 0.77, "recovered": 1.02, "retrained": 1.93},
        },
    }
    for request in results["requests"]:
        request["usual_norm"] = round(1.9 - 0.01 * request["round_raised"], 3)
    for phase, cost in results["cost"].items():
        cost["bytes_stored"] = 1_920_000 if phase == "learn" else 0
        cost["roles"] = _roles(cost, SHARE_OF_REQUESTERS.get(phase, 0.0))
    results["config"]["evaluation"] |= {"relearn_steps": 200, "shadows": 64, "shadow_workers": 0}
    return results


def _answers(log_odds: list[float]) -> dict[str, Any]:
    answers = {"log_odds": log_odds, "correct": "".join("1" if value > 0 else "0" for value in log_odds)}
    return dict.fromkeys(("original", "unlearned", "recovered", "retrained"), answers)


def _intervals(model: dict[str, Any], rng: np.random.Generator) -> None:
    for part in ("test", "unseen", "retain", "forget"):
        record = model[part]
        record["accuracy_interval"] = _around(record["accuracy"], record["n"])
        if "uar" in record:
            record["uar_interval"] = _around(record["uar"], record["n"])
    attack = model["membership"]
    curve = _sampled_roc(rng, attack["auc"], model["forget"]["n"], model["test"]["n"])
    fpr, tpr = np.array(curve["fpr"]), np.array(curve["tpr"])
    low = {name: float(tpr[fpr <= float(name)].max()) for name in ("0.01", "0.001")}
    attack |= {"n": model["forget"]["n"], "tpr_at": low, "roc": curve}
    same = round(0.5 + 0.9 * (attack["auc"] - 0.5), 3)
    model["membership_same_speaker"] = {
        "auc": same,
        "low": round(max(0.0, same - 0.11), 3),
        "high": round(min(1.0, same + 0.11), 3),
        "n": 88,
    }
    counts = np.full((6, 6), round(60 * (1 - model["unseen"]["accuracy"]) / 5)) + rng.integers(0, 4, (6, 6))
    np.fill_diagonal(counts, round(60 * model["unseen"]["accuracy"]))
    model["confusion"]["unseen"] = counts.tolist()


def _around(share: float, n: int) -> list[float]:
    half = 1.96 * np.sqrt(max(share * (1 - share), 0.002) / n)
    return [round(max(0.0, share - half), 4), round(min(1.0, share + half), 4)]


def _sampled_roc(rng: np.random.Generator, auc: float, members: int, others: int) -> dict[str, list[float]]:
    scores = np.concatenate([rng.normal(np.sqrt(2) * norm.ppf(auc), 1, members), rng.normal(0, 1, others)])
    inside = np.arange(members + others) < members
    order = np.argsort(-scores)
    fpr = np.concatenate([[0.0], np.cumsum(~inside[order]) / others])
    tpr = np.concatenate([[0.0], np.cumsum(inside[order]) / members])
    kept = np.unique(np.linspace(0, len(fpr) - 1, 150).round().astype(int))
    return {"fpr": fpr[kept].round(5).tolist(), "tpr": tpr[kept].round(5).tolist()}


def _attack(auc: float, members: int, others: int, wide: float) -> dict[str, Any]:
    lift = np.sqrt(2) * norm.ppf(auc)
    fpr = np.concatenate([[0.0], np.geomspace(1 / others, 1, 90)])
    tpr = np.concatenate([[0.0], norm.cdf(lift + norm.ppf(fpr[1:-1])), [1.0]])
    rates = {name: float(norm.cdf(lift + norm.ppf(float(name)))) for name in ("0.01", "0.001")}
    return {
        "auc": auc,
        "low": round(auc - wide, 3),
        "high": round(min(1.0, auc + wide), 3),
        "n_in": members,
        "n_out": others,
        "left_out": 3,
        "tpr_at": {
            name: {"value": round(v, 4), "low": round(0.7 * v, 4), "high": round(min(1.0, 1.4 * v), 4)}
            for name, v in rates.items()
        },
        "roc": {"fpr": fpr.round(6).tolist(), "tpr": tpr.round(6).tolist()},
    }


def _attacks(rng: np.random.Generator) -> dict[str, Any]:
    def requests(auc: float) -> list[dict[str, Any]]:
        return [
            {"request": f"r-{c:03d}-1", "client": c, "auc": round(auc + rng.normal(0, 0.03), 3), "n": n}
            for c, n in ((1, 48), (2, 20), (3, 12), (4, 12))
        ]

    ulira = dict(zip(STAGES, (0.871, 0.602, 0.618), strict=True))
    informed = dict(zip(STAGES, (0.842, 0.713, 0.655), strict=True))
    return {
        "shadows": 64,
        "candidates": 92,
        "replay": {"exact": True, "difference": 0.0, "departures": []},
        "ulira": {"stages": {s: _attack(a, 2944, 2944, 0.016) for s, a in ulira.items()}, "why": None},
        "informed": {
            "stages": {
                s: _attack(a, 2944, 2944, 0.024) | {"requests": requests(a)} for s, a in informed.items()
            },
            "why": None,
        },
        "klom": {
            "original": {"mean": 8.1, "median": 8.4, "p95": 10.9, "gaussian": 2.3, "n": 90, "models": 15},
            "unlearned": {"mean": 5.9, "median": 5.8, "p95": 9.6, "gaussian": 0.62, "n": 90, "models": 15},
            "recovered": {"mean": 4.7, "median": 4.5, "p95": 8.2, "gaussian": 0.41, "n": 90, "models": 15},
            "null": {"mean": 2.9, "median": 2.8, "p95": 4.6, "gaussian": 0.12, "n": 90, "models": 15},
            "why": None,
        },
        "collateral": {
            "unlearned": {"rms": 2.21, "mean": -1.02, "slope": 0.67, "n": 2944},
            "recovered": {"rms": 1.93, "mean": -0.71, "slope": 0.75, "n": 2944},
            "seeds": {"rms": 1.33, "mean": 0.0, "slope": 0.9, "n": 90210},
        },
        "following": {
            "unlearned": {"rms": 0.9, "mean": -0.31, "slope": 0.86, "residual": 0.71, "n": 2944},
            "recovered": {"rms": 1.2, "mean": 0.12, "slope": 0.78, "residual": 1.05, "n": 2944},
        },
    }


def _fairness(rng: np.random.Generator) -> dict[str, Any]:
    speakers = []
    for client in range(20):
        if client == 1:
            continue  # it deleted everything
        for speaker in range(2 if client == 5 else 1):
            before = float(np.clip(rng.normal(0.61, 0.11), 0.2, 0.95))
            values = [
                before,
                *(
                    float(np.clip(before + rng.normal(m, s), 0, 1))
                    for m, s in ((-0.09, 0.05), (-0.026, 0.04), (-0.033, 0.04))
                ),
            ]
            named = zip((*STAGES, "retrained"), values, strict=True)
            speakers.append(
                {"client": client, "speaker": speaker, "gender": ("female", "male")[client % 2], "n": 12}
                | {name: round(value, 4) for name, value in named}
            )
    names = (*STAGES, "retrained")

    def means(chosen: list[dict[str, Any]], shift: float = 0.0) -> dict[str, float]:
        return {m: round(min(1.0, float(np.mean([s[m] for s in chosen])) + shift), 4) for m in names}

    emotions = ("anger", "disgust", "fear", "happiness", "neutral", "sadness")
    shifts = (0.12, -0.05, -0.08, -0.02, 0.1, -0.07)
    return {
        "speakers": speakers,
        "genders": [
            {"gender": g, "n": 12 * len(who), **means(who)}
            for g in ("female", "male")
            if (who := [s for s in speakers if s["gender"] == g])
        ],
        "emotions": [
            {"emotion": e, "n": 40, **means(speakers, shift)}
            for e, shift in zip(emotions, shifts, strict=True)
        ],
        "change": {name: _change(speakers, name) for name in names[1:]},
    }


def _change(speakers: list[dict[str, Any]], name: str) -> dict[str, Any]:
    change = np.array([s[name] - s["original"] for s in speakers])
    return {
        "mean": round(float(change.mean()), 4),
        "std": round(float(change.std(ddof=1)), 4),
        "worst": round(float(change.min()), 4),
        "worst_client": speakers[int(change.argmin())]["client"],
        "n": len(speakers),
    }


def _relearn(steps: float, low: float, high: float) -> dict[str, Any]:
    return {"steps": steps, "low": low, "high": high, "reached": True, "target": 1.0, "limit": 200}


def _roles(cost: dict[str, Any], share: float) -> dict[str, dict[str, float]]:
    columns = ("client_seconds", "bytes_up", "bytes_down")
    requesters: dict[str, float] = {c: type(cost[c])(share * cost[c]) for c in columns}
    return {"requesters": requesters, "others": {c: cost[c] - requesters[c] for c in columns}}
