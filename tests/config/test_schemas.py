"""results.json and metrics.jsonl are what their schemas say; and the schemas say enough to be broken."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from results_example import eventful_results, example_results
from small_run import prepared, run_small, small_config
from spoiled_replies import Spoil


def schema(name: str) -> dict[str, Any]:
    """As it is shipped with the package."""
    found: dict[str, Any] = json.loads(
        files("fedunlearn").joinpath(f"schemas/{name}.schema.json").read_text()
    )
    return found


RESULTS, METRICS = schema("results"), schema("metrics")


def strict(text: str) -> Any:
    """JSON without NaN and infinities, which Python would read and a schema lets pass."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no number in JSON"))


def breaches(record: Any, of: Mapping[str, Any] = RESULTS) -> list[str]:
    errors = Draft202012Validator(dict(of)).iter_errors(record)
    return [f"{'.'.join(map(str, e.absolute_path))}: {e.message[:120]}" for e in errors]


def properties(node: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, dict):
        for name, value in node.get("properties", {}).items():
            yield f"{path}.{name}", value
        for key, value in node.items():
            yield from properties(value, f"{path}.{key}")
    elif isinstance(node, list):
        for item in node:
            yield from properties(item, path)


@pytest.mark.parametrize("one", [RESULTS, METRICS], ids=["results", "metrics"])
def test_a_schema_is_one_and_describes_every_property(one: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(one)
    assert one["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    described = {path: value for path, value in properties(one) if ".allOf" not in path}
    assert len(described) > 8
    for path, value in described.items():
        assert len(value.get("description", "")) > 2, path
        assert {"type", "$ref", "anyOf", "const"} & value.keys(), path


# ---- runs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def played(folder: Path, name: str, mods: Any = (), **changes: Any) -> Path:
    """A small run; those with the same data share their retrained models."""
    run_small(folder / name, small_config(**changes), mods, folder / "references")
    return folder / name


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "complete": ("complete", {"evaluation__retrained_seeds": 2}),
    "one-seed": ("complete", {"evaluation__retrained_seeds": 1}),
    "nobody-asks": ("complete", {"deletions__schedule": []}),
    "away": ("complete", {"availability__offline": 0.2, "evaluation__retrained_seeds": 1}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_leaves_what_the_schemas_say(folder: Path, name: str) -> None:
    status, changes = RUNS[name]
    run = played(folder, name, **changes)
    results = strict((run / "results.json").read_text())
    assert breaches(results) == []
    assert results["status"] == status
    assert results.keys() <= RESULTS["properties"].keys(), "a key that the schema does not name"
    assert (results["availability"] is not None) == (name == "away")
    metrics = run / "metrics.jsonl"
    # Where learning was found in the cache and nothing is requested, there was no round.
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    assert lines or name == "nobody-asks"
    for line in lines:
        row = strict(line)
        assert breaches(row, METRICS) == []
        assert row.keys() <= METRICS["properties"].keys()


def test_a_request_left_open_is_partial(folder: Path) -> None:
    mods = [Spoil("train.unlearn", "raise", client=2)]
    run = played(folder, "partial", mods, evaluation__retrained_seeds=1)
    results = strict((run / "results.json").read_text())
    assert breaches(results) == []
    assert results["status"] == "partial" and results["models"] and results["faults"]


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_that_ended_early_leaves_what_the_schema_says(tmp_path: Path, interrupted: bool) -> None:
    experiment = prepared(tmp_path / "run")
    experiment.write_failure("round 1: nobody answered", interrupted)
    experiment.close()
    results = strict((tmp_path / "run" / "results.json").read_text())
    assert breaches(results) == []
    assert "models" not in results
    assert results["status"] == ("partial" if interrupted else "failed")


@pytest.mark.parametrize("example", [example_results, eventful_results])
def test_the_example_of_other_tests_is_true_to_the_schema(example: Callable[[], dict[str, Any]]) -> None:
    assert breaches(json.loads(json.dumps(example()))) == []


# ---- planted violations ----------------------------------------------------------------------------------

MISSING = object()
PLANTED: list[tuple[str, Any]] = [
    ("schema", "somebody/else/1"),
    ("schema", MISSING),
    ("status", "done"),
    ("failure", "yet it is complete"),
    ("seed", -1),
    ("seed", 1.5),
    ("corpus.clients", 0),
    ("corpus.emotions", "anger"),
    ("models", MISSING),
    ("models.retrained", MISSING),
    ("models.recovered.forget.accuracy", 1.01),
    ("models.recovered.test.uar", -0.01),
    ("models.recovered.test.n", -1),
    ("models.recovered.test.n", "240"),
    ("models.recovered.membership.auc", 1.5),
    ("models.recovered.confusion.test", [[1, -1]]),
    ("models.recovered.losses.forget", [0.5]),
    ("models.retrained.seeds.1.forget.accuracy", 2),
    ("gap", MISSING),
    ("gap.recovered", MISSING),
    ("gap.recovered.mean", "0.017"),
    ("gap.recovered.mean", MISSING),
    ("gap.unlearned.test", -0.2),
    ("ranking.0.useful", "yes"),
    ("requests.0.state", "forgotten"),
    ("requests.0.utterances", -3),
    ("requests.0.forget_accuracy", [0.5]),
    ("requests.0.client", None),
    ("cost.unlearn", MISSING),
    ("cost.retrain", MISSING),
    ("cost.recover.client_seconds", -0.1),
    ("cost.learn.bytes_up", 1.5),
    ("timeline.0.phase", "sleep"),
    ("timeline.3.test_uar", 1.2),
    ("timeline.3.round", None),
    ("faults.0.client", "7"),
    ("faults.0.kind", "bad luck"),
    ("times.started", MISSING),
]


@pytest.mark.parametrize(("place", "value"), PLANTED, ids=[f"{p}={v!r:.20}" for p, v in PLANTED])
def test_a_planted_violation_is_found(place: str, value: Any) -> None:
    record = json.loads(json.dumps(example_results()))
    *parents, last = [int(key) if key.isdecimal() else key for key in place.split(".")]
    node: Any = record
    for key in parents:
        node = node[key]
    if value is MISSING:
        del node[last]
    else:
        node[last] = value
    assert breaches(record)


def test_a_run_that_failed_says_why_and_shows_all_or_nothing() -> None:
    whole = json.loads(json.dumps(example_results()))
    failed = {k: v for k, v in whole.items() if k not in {"models", "gap", "ranking"}} | {"status": "failed"}
    assert any("failure" in breach for breach in breaches(failed))
    failed["failure"] = "quorum lost"
    assert breaches(failed) == []
    assert breaches(failed | {"models": whole["models"]}), "models without gaps"


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ("round", -1),
        ("phase", "sleep"),
        ("loss", -0.5),
        ("test_uar", 7),
        ("requests", [1]),
        ("seconds", None),
    ],
)
def test_a_planted_violation_of_a_round_is_found(changed: str, value: Any) -> None:
    row = {"round": 1, "phase": "learn", "loss": 1.2, "refused": 0, "requests": [], "seconds": 0.5}
    assert breaches(row | {"test_uar": 0.5}, METRICS) == []
    assert breaches(row | {changed: value}, METRICS)
    less = copy.copy(row)
    del less["round"]
    assert breaches(less, METRICS)
