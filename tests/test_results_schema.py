"""results.json as types: written, read back, read with holes; a writer's mistakes are refused."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from results_example import eventful_results, example_results
from results_measures import add_measures

from fedunlearn.errors import BadInput
from fedunlearn.results_schema import SCHEMA_FILE, Gap, Recognition, Results, TimelineEntry, json_schema

JUNK = (None, 7, "x", [None], [["a", 1, 2], [3], [3, None, 5], {}], {"a": 1}, math.nan, True)


def measured() -> dict[str, Any]:
    record: dict[str, Any] = json.loads(json.dumps(add_measures(eventful_results())))
    return record


def paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from paths(value, (*path, key))


def test_the_schema_in_the_package_is_the_one_made_from_the_models() -> None:
    assert json.loads(SCHEMA_FILE.read_text(encoding="utf-8")) == json_schema()


def test_what_is_read_is_written_again() -> None:
    record = measured()
    results = Results.model_validate(record)
    # Older records have the noise floor beside the gaps; it is read as one of them.
    floor = record.pop("noise_floor")
    record["gap"]["noise_floor"] = floor
    assert results.to_json() == record
    assert results.gap.noise_floor.forget == floor["forget"]


def test_absent_stays_absent_and_an_empty_part_is_null() -> None:
    gap = {"forget": 0.1, "retain": None, "test": 0.1, "membership": None, "mean": 0.1}
    record = {"failure": None, "fairness": None, "gap": {"none": gap, "noise_floor": None, "rho": None}}
    assert json.dumps(Results.model_validate(record).to_json()["gap"]) == json.dumps(record["gap"])
    assert Results.model_validate(record).to_json() == record
    assert Recognition(accuracy=0.5, n=2, accuracy_interval=(0.25, 0.75)).to_json() == {
        "accuracy": 0.5,
        "n": 2,
        "accuracy_interval": [0.25, 0.75],
    }


@pytest.mark.parametrize("record", [{}, None, 7, [], {"models": None, "gap": {}, "requests": [None, {}]}])
def test_holes_are_empty_parts(record: Any) -> None:
    results = Results.model_validate(record)
    assert not results.models and not results.gap and not results.attacks.informed.stages.recovered
    assert results.models.recovered.forget.accuracy is None
    assert results.models["retrained"].seeds == [] and results.gap["noise_floor"].mean is None
    assert all(request.id is None and request.history == [] for request in results.requests)
    assert results.setting("unlearning", "method") is None
    assert len(results.to_frame()) == 0


def test_anything_in_place_of_anything_is_survived() -> None:
    record = measured()
    rng = random.Random(0)
    for path in rng.sample([path for path in paths(record) if path], 50):
        *parents, last = path
        node: Any = record
        for key in parents:
            node = node[key]
        kept = node[last]
        for junk in JUNK:
            node[last] = junk
            results = Results.model_validate(record)
            json.dumps(results.to_json(), allow_nan="config" in path)
        results.to_frame()
        node[last] = kept


def test_one_wrong_value_costs_no_other() -> None:
    record = measured()
    record["models"]["recovered"]["forget"]["accuracy"] = "0.5"
    record["requests"][0]["steps"] = True
    record["timeline"][1] = 3
    results = Results.model_validate(record)
    assert results.models.recovered.forget.accuracy is None and results.models.recovered.forget.n == 92
    assert results.requests[0].steps is None and results.requests[0].client == 1
    assert not results.timeline[1] and results.timeline[2].phase == "learn"


def test_a_writer_is_held_to_names_types_and_ranges() -> None:
    gap: dict[str, Any] = {"forget": 0.1, "retain": 0.1, "test": 0.1, "membership": 0.1, "mean": 0.1}
    assert Gap(**gap).mean == 0.1
    for wrong in ({"mean": 1.5}, {"mean": "0.1"}, {"mean": math.nan}, {"average": 0.1}):
        with pytest.raises(ValidationError):
            Gap(**(gap | wrong))
    with pytest.raises(KeyError):
        Results.model_validate({}).models["destroyed"]


def test_mypy_finds_what_a_writer_and_a_reader_get_wrong(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        "from fedunlearn.results_schema import Recognition, Results\n"
        "Recognition(accuracy=0.5, n=2, accuracy_interval=None)\n"
        "Recognition(acc=0.5, n=2, accuracy_interval=None)\n"
        "Recognition(n=2, accuracy_interval=None)\n"
        "Recognition(accuracy='0.5', n=2, accuracy_interval=None)\n"
        "def read(results: Results) -> float | None:\n"
        "    return results.models.recovered.forget.acc\n"
    )
    settings = tmp_path / "mypy.ini"
    # strict, as the package is checked; nothing but the types of results is looked into
    settings.write_text(
        "[mypy]\nstrict = True\nfollow_imports = skip\n[mypy-fedunlearn.results_schema,pydantic.*]\n"
        "follow_imports = normal\n[mypy-pandas.*]\nignore_missing_imports = True\n"
    )
    options = ["--config-file", str(settings), "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "mypy", *options, str(file)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    lines = [line for line in found.stdout.splitlines() if ": error:" in line]
    assert {int(line.split(":")[1]) for line in lines} == {3, 4, 5, 7}, found.stdout


def test_a_table_has_a_row_for_each_model_and_measure() -> None:
    frame = Results.model_validate(measured()).to_frame()
    assert not frame.duplicated(["model", "measure"]).any()
    assert set(frame["method"]) == {"l2ul"} and set(frame["seed"]) == {1}
    row = frame[(frame["model"] == "recovered") & (frame["measure"] == "forget_accuracy")].iloc[0]
    assert row["value"] == 0.587 and row["n"] == 92 and row["low"] < 0.587 < row["high"]
    assert {"test_macro_f1", "unseen_macro_f1"} <= set(frame["measure"])
    gaps = frame[frame["measure"] == "gap_mean"].set_index("model")["value"]
    assert gaps["none"] == 0.199 and gaps["noise_floor"] == 0.0072


def test_a_run_is_read_from_its_folder_or_its_file(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(example_results()))
    assert Results.read(tmp_path) == Results.read(file) == Results.model_validate(example_results())
    for content, expected in (("{", "cannot be read"), ("[]", "is not a results.json of fedunlearn")):
        file.write_text(content)
        with pytest.raises(BadInput, match=expected):
            Results.read(tmp_path)
    with pytest.raises(BadInput, match="give a folder that a run made"):
        Results.read(tmp_path / "nobody")


def test_the_types_load_without_torch_and_pandas() -> None:
    code = "import sys, fedunlearn.results_schema; print({'torch', 'pandas', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_timeline_round_needs_all_of_its_fields() -> None:
    missing = TimelineEntry.required
    assert set(missing) == set(TimelineEntry.model_fields)


@pytest.mark.parametrize(
    ("place", "value", "useless"),
    [
        ((), None, False),
        (("config", "unlearning", "method"), "destroy", True),
        (("unlearning",), {"method": "mine", "control": "forgets all"}, True),
        (("gap", "recovered", "mean"), 0.25, True),
        (("gap", "recovered"), None, False),
        (("ranking", 0, "useful"), False, True),
        (("requests",), [], None),
        (("models", "retrained", "retain", "n"), 0, None),
        (("gap",), None, None),
    ],
)
def test_what_is_useless(place: tuple[Any, ...], value: Any, useless: bool | None) -> None:
    """No better than a control (0.199), a control itself, or by the ranking; unknown without any gap."""
    record: Any = example_results()
    node = record
    for key in place[:-1]:
        node = node[key]
    if place:
        node[place[-1]] = value
    assert Results.model_validate(record).useless is useless
