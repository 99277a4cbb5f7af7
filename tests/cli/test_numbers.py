"""Numbers that people give: each has a bound that a message can carry, or a line that names it."""

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from small_run import run_small, small_config
from typer.testing import CliRunner

from fedunlearn.cli import app
from fedunlearn.config import Config, load
from fedunlearn.config.deletion import ScheduledDeletion
from fedunlearn.config.fields import LARGEST, LARGEST_SEED
from fedunlearn.config.partition import LateRecordings
from fedunlearn.deletion.admission import raise_due
from fedunlearn.deletion.inbox import Inbox
from fedunlearn.deletion.request import RequestState
from fedunlearn.deletion.request_store import RequestStore, report_requests
from fedunlearn.errors import BadInput
from fedunlearn.run_folder import RunFolder
from fedunlearn.vault.index import VaultEntry
from fedunlearn.vault.vault import Vault

WRONG = (10**20, 2**63, -(10**20), math.nan, math.inf, -math.inf, 1e300)
"""no setting takes one of these"""


def kinds_of(annotation: Any) -> Iterator[Any]:
    """A type and what it is made of; not what is in a tuple of it."""
    yield annotation
    if get_origin(annotation) is not tuple:
        for part in get_args(annotation):
            yield from kinds_of(part)


def numbers_of(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted keys of all settings that are numbers."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from numbers_of(kind, f"{before}{name}.")
        elif {int, float} & set(kinds_of(kind)):
            yield f"{before}{name}", field


KEYS = [key for key, _ in numbers_of(Config)]
IN_LISTS: list[tuple[str, dict[str, Any], str]] = [
    ("deletions.schedule", {"client": 0, "what": "some", "count": 1, "round": 1}, key)
    for key, _ in numbers_of(ScheduledDeletion)
    if key != "after_learning"
] + [
    ("partition.recordings", {"client": 0, "count": 1, "round": 1}, key)
    for key, _ in numbers_of(LateRecordings)
]


def problems_of(overrides: dict[str, Any]) -> tuple[str, ...]:
    try:
        load(None, overrides)
    except BadInput as error:
        return error.problems
    return ()


def test_the_numbers_were_found() -> None:
    assert {"seed", "federation.timeout", "unlearning.calm.noise", "partition.clients"} <= set(KEYS)
    assert len(KEYS) > 100 and len(IN_LISTS) == 7


@pytest.mark.parametrize("key", KEYS)
def test_no_setting_takes_a_number_that_no_message_can_carry(key: str) -> None:
    for wrong in WRONG:
        problems = problems_of({key: wrong})
        assert problems and all(key in line for line in problems), (key, wrong, problems)


@pytest.mark.parametrize(("section", "row", "key"), IN_LISTS)
def test_nor_does_a_row_of_a_list(section: str, row: dict[str, Any], key: str) -> None:
    for wrong in (*WRONG, -1):
        problems = problems_of({section: [{**row, key: wrong}]})
        assert problems and all(f"{section}.0.{key}" in line for line in problems), (key, wrong, problems)
    assert problems_of({"attackers.clients": [10**20]})


@pytest.mark.slow
def test_the_largest_seed_is_played(tmp_path: Path) -> None:
    results = run_small(tmp_path / "run", small_config(seed=LARGEST_SEED, corpus__speakers=8))
    assert results["status"] == "complete" and results["seed"] == LARGEST_SEED
    with pytest.raises(BadInput, match="seed"):
        small_config(seed=LARGEST_SEED + 1)


# ---- commands --------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.unlock()
    entries = [VaultEntry(f"u{i}", "angry", 0, "train", 1, "ann") for i in range(3)]
    Vault.build(folder.vault(0), [(e, np.zeros(1, np.int16)) for e in entries], 2)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ("delete", "--client", "0", "--all", "--deadline", str(10**20)),
        ("delete", "--client", "0", "--all", "--deadline", str(LARGEST + 1)),
        ("delete", "--client", "0", "--all", "--deadline", "-1"),
        ("delete", "--client", str(10**20), "--all"),
        ("withdraw", "--client", str(10**20), "--request", "0" * 16),
        ("requests", "--client", "-1"),
        ("requests", "--client", str(10**20)),
    ],
)
def test_a_number_on_the_command_line_is_refused_and_nothing_is_filed(
    run: RunFolder, arguments: tuple[str, ...]
) -> None:
    done = CliRunner().invoke(app, [arguments[0], "--run", str(run.path), *arguments[1:]])
    assert done.exit_code == 2 and len(done.output.strip().splitlines()) == 1, done.output
    assert not list(run.vaults.rglob("inbox"))


def test_a_deadline_of_too_many_rounds_in_an_inbox_harms_nobody(run: RunFolder) -> None:
    """Filed by an older version, or by hand: the request is served, and can be reported to the server."""
    inbox, name = run.vault(0) / "inbox", "0123456789abcdef"
    inbox.mkdir()
    filed = {"id": name, "what": "all", "event": f"person-{name}", "deadline": 10**20}
    (inbox / f"{name}.json").write_text(json.dumps(filed))
    config = load(None, {"deletions.schedule": [], "partition.clients": 20})
    store = raise_due(config, Vault(run.vault(0)), 0, 3)
    (request,) = store.all()
    assert request.state is RequestState.RAISED and request.deadline == LARGEST
    # One that is in the device's store already.
    file = run.vault(0) / "requests.json"
    file.write_text(file.read_text().replace(str(LARGEST), str(10**20)))
    reported = report_requests(RequestStore(run.vault(0)), Vault(run.vault(0)).entries, 3, -1)
    assert reported["deadlines"] == [LARGEST]


@pytest.mark.parametrize("wrong", [{"count": 10**20}, {"devices": 10**20}, {"deadline": -1}, {"count": True}])
def test_other_numbers_of_an_inbox_are_refused(run: RunFolder, wrong: dict[str, Any]) -> None:
    inbox, name = run.vault(0) / "inbox", "0123456789abcdef"
    inbox.mkdir()
    (inbox / f"{name}.json").write_text(json.dumps({"id": name, "what": "all", "event": "e", **wrong}))
    (waiting,) = Inbox(run.vault(0)).waiting()
    assert waiting.request is None and waiting.problem


SCRIPTS = Path(__file__).resolve().parents[2] / "simulations"


@pytest.mark.parametrize(
    ("script", "function", "arguments"),
    [
        ("compare", "compare", ["--seeds", str(10**20)]),
        ("compare", "compare", ["--sizes", str(10**20)]),
        ("compare", "compare", ["--sizes", "-1"]),
        ("compare", "compare", ["--requesters", str(10**20)]),
        ("compare", "compare", ["--apart", "1", "--windows", str(10**20)]),
        ("compare", "compare", ["--apart", str(10**20)]),
        ("guard", "guard", ["--seeds", str(10**20)]),
        ("guard", "guard", ["--seeds", "-1"]),
        ("guard", "guard", ["--size", str(10**20)]),
        ("guard", "guard", ["--cases", "scaled:nan"]),
        ("guard", "guard", ["--cases", "targeted:1:inf"]),
        ("soak", "soak", ["--minutes", "nan"]),
        ("soak", "soak", ["--minutes", "inf"]),
        ("soak", "soak", ["--minutes", "-1"]),
        ("soak", "soak", ["--clients", str(10**20)]),
        ("soak", "soak", ["--clients", "0"]),
        ("soak", "soak", ["--seed", "-1"]),
        ("soak", "soak", ["--seed", str(10**20)]),
        ("soak", "soak", ["--engine", "spark"]),
        ("pretrain", "pretrain", ["--out", "never", "--seed", str(10**20)]),
        ("pretrain", "pretrain", ["--out", "never", "--steps", str(10**20)]),
        ("pretrain", "pretrain", ["--out", "never", "--lr", "nan"]),
        ("pretrain", "pretrain", ["--out", "never", "--hidden", str(10**20)]),
        ("benchmarks.gpu", "gpu", ["--seconds", "nan"]),
        ("benchmarks.gpu", "gpu", ["--budget", "nan"]),
        ("benchmarks.gpu", "gpu", ["--clients", str(10**20)]),
        ("benchmarks.gpu", "gpu", ["--seconds-at-once", "nan"]),
        ("benchmarks.probe", "probe", ["--corpus", "ravdess=.", "--seed", str(10**20)]),
        ("benchmarks.probe", "probe", ["--corpus", "ravdess=.", "--partitions", "0"]),
        ("benchmark", "run", ["--repeats", str(10**20)]),
    ],
)
def test_scripts_refuse_such_numbers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, function: str, arguments: list[str]
) -> None:
    import importlib

    import typer

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = importlib.import_module(script)
    command = typer.Typer(pretty_exceptions_enable=False)
    command.command()(getattr(module, function))
    try:
        done = CliRunner().invoke(command, arguments)
    finally:
        sys.modules.pop(script, None)
    assert done.exit_code == 2 and "Traceback" not in done.output, (done.output, done.exception)
    option = {"--cases": "factor|cases"}.get(arguments[-2], arguments[-2].removeprefix("--"))
    assert re.search(option.replace("-", "."), done.output), done.output
    assert not list(tmp_path.iterdir())
