"""The study of the guard: cases and trials as they are written, rows and table worked out by hand."""

from collections.abc import Mapping
from typing import Any

import pytest

from fedunlearn import config as configuration
from fedunlearn.config import Config
from fedunlearn.errors import BadInput
from fedunlearn.results_schema import Results
from fedunlearn.study.grid import requesters_of
from fedunlearn.study.guard_study import (
    COLUMNS,
    csv_of,
    parse_case,
    row_of,
    table_of,
    trials_of,
    worst_recall,
)


def load(overrides: Mapping[str, Any]) -> Config:
    return configuration.load(None, {"partition.clients": 20, **overrides})


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("honest", {}),
        ("scaled:10", {"attackers.kind": "scaled", "attackers.factor": 10.0, "attackers.clients": (7,)}),
        (
            "targeted:0.5:4",
            {
                "attackers.kind": "targeted",
                "attackers.factor": 0.5,
                "attackers.target": 4,
                "attackers.clients": (7,),
            },
        ),
        ("noise:0.5:0.01", {"privacy.clip": 0.5, "privacy.noise": 0.01}),
    ],
)
def test_a_case_says_what_the_malicious_client_does(text: str, overrides: dict[str, Any]) -> None:
    case = parse_case(text)
    assert case.name == text and case.overrides(7) == overrides


@pytest.mark.parametrize("text", ["", "honest:1", "scaled", "scaled:x", "scaled:1:2", "noise:1", "lies:3"])
def test_what_is_no_case_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--cases"):
        parse_case(text)


def test_an_unknown_guard_is_refused() -> None:
    with pytest.raises(BadInput, match="--guards lax: known are off, config, refuse, strict"):
        trials_of(load, ["calm"], [parse_case("honest")], ["off", "lax"], 4, 1, [1])


def test_the_malicious_client_is_one_of_the_requesters() -> None:
    cases = [parse_case("honest"), parse_case("flipped:2")]
    trials = trials_of(load, ["calm", "l2ul"], cases, ["off", "config"], 4, 3, [1, 2])
    assert len(trials) == 16
    for trial in trials:
        experiment = trial.cell.experiment
        asking = {d.client for d in experiment.deletions.schedule}
        assert len(asking) == 3
        malicious = experiment.attackers.clients
        assert len(malicious) == (trial.case != "honest") and set(malicious) <= asking
        assert (experiment.guard.norm == 0) == (trial.guard == "off")
    assert len({trial.cell.name for trial in trials}) == 16


def test_worst_recall_is_of_the_emotions_that_occur() -> None:
    assert worst_recall([[3, 1], [1, 1]]) == 0.5
    assert worst_recall([[3, 1], [0, 0]]) == 0.75
    assert worst_recall([[0, 0], [0, 0]]) is None


def results(client: int, verified: bool) -> Results:
    model = {
        "test": {"accuracy": 0.5, "uar": 0.4},
        "confusion": {"test": [[1, 1], [0, 4]]},
        "forget": {"accuracy": 0.25},
    }
    privacy = {
        "label_mix": {"tv": 0.1, "uniform": 0.2},
        "membership": {"auc": 0.7},
        "reconstruction": {"r": 0.9},
    }
    step = {"client": client, "round": 3}
    found = {
        "models": dict.fromkeys(("original", "unlearned", "recovered"), model),
        "corpus": {"clients": 20},
        "requests": [
            {"client": client, "state": "verified" if verified else "accepted", "privacy": privacy},
            {"client": 19 if client != 19 else 18, "state": "verified"},
        ],
        "gap": {"recovered": {"mean": 0.03}},
        "kept": [{"client": client + 1, "r": 0.4}, {"client": client, "r": 0.1}],
        "guard": [
            {**step, "what": "clipped", "factor": 0.5},
            {**step, "what": "scaled back", "factor": 0.25},
            {"client": client + 1, "what": "refused", "factor": 0.0},
        ],
    }
    return Results.model_validate(found)


def test_a_row_is_about_the_malicious_client_and_the_table_means_over_seeds() -> None:
    trials = trials_of(load, ["calm"], [parse_case("scaled:3")], ["config"], 4, 1, [1, 2])
    rows = []
    for trial, verified in zip(trials, (True, False), strict=True):
        malicious = requesters_of(20, 1, trial.cell.seed)[0]
        rows.append(row_of(trial, results(malicious, verified)))
    written = csv_of(rows).splitlines()
    assert written[0] == ",".join(COLUMNS) and written[1].endswith(",0.9,0.1,clipped + scaled back,0.125,1.0")
    assert (rows[0].done, rows[0].factor) == ("clipped + scaled back", 0.125)
    assert (rows[0].fulfilled, rows[1].fulfilled) == (1.0, 0.5)
    assert (rows[0].features_update, rows[0].features_kept) == (0.9, 0.1)
    assert rows[0].worst_recall_recovered == 0.5 and rows[0].label_tv == 0.1
    line = table_of(rows).splitlines()[2]
    assert line.startswith("| calm | scaled:3 | config | 0.500 | 0.500 | 0.500 | 0.500 | 0.030 |")
    assert "2 x clipped + scaled back to 0.12" in line and line.endswith("| 0.750 |")
