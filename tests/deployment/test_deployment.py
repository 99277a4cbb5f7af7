"""The parts of a deployment, without a SuperLink."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from flwr.app import Array, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from rich.console import Console
from small_run import prepared, small_config
from typer.testing import CliRunner

from fedunlearn.cli import app
from fedunlearn.client.app import make_client_app
from fedunlearn.client.costs import read_events
from fedunlearn.client.shown_metadata import METADATA, metadata_record, take_metadata
from fedunlearn.deployment.costs import event_costs
from fedunlearn.deployment.credentials import make_node_key, make_tls_files
from fedunlearn.deployment.incidents import Incident, delete_some
from fedunlearn.deployment.network import why_no_hosts
from fedunlearn.engines.deployment_grid import DeploymentGrid
from fedunlearn.engines.inline_grid import InlineGrid
from fedunlearn.errors import BadInput
from fedunlearn.experiment.device_folders import DeviceFolder, device_folder, fill_device_folders
from fedunlearn.experiment.preparation import resolve
from fedunlearn.experiment.progress import Progress
from fedunlearn.messages.flower_internals import set_sender
from fedunlearn.messages.records import Refused, lend, serialised
from fedunlearn.messages.sizes import size
from fedunlearn.run_folder import RunFolder
from fedunlearn.vault.index import Index

OWNER = """
import sys, time
from pathlib import Path
from fedunlearn.deployment.processes import ProcessSet
folder = Path(sys.argv[1]); folder.mkdir()
processes = ProcessSet(folder)
# The child starts another one in a session of its own, as the SuperLink does.
child = "import subprocess, time; p = subprocess.Popen(['sleep', '300'], start_new_session=True); "
child += f"open({str(folder)!r} + '.pid', 'w').write(str(p.pid)); time.sleep(300)"
processes.start([sys.executable, "-c", child], folder / "log", {})
while not Path(f"{folder}.pid").exists():
    time.sleep(0.01)
print("ready", flush=True)
if len(sys.argv) > 2:
    raise RuntimeError(sys.argv[2]) if processes.close() is None else None
time.sleep(300)
"""


def start_owner(folder: Path, *more: str) -> subprocess.Popen[str]:
    here = str(Path(__file__).resolve().parents[2])
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": here},
    )
    assert owner.stdout is not None
    with owner.stdout as output:
        assert output.readline() == "ready\n"
    return owner


def is_gone(process: int) -> bool:
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, None])
def test_nothing_is_left_of_a_deployment_however_its_owner_ends(
    tmp_path: Path, stop: signal.Signals | None
) -> None:
    """Also of a grandchild in a session of its own; None: the owner closes it and fails."""
    folder = tmp_path / "temporary"
    owner = start_owner(folder, *([] if stop else ["failed"]))
    grandchild = int((tmp_path / "temporary.pid").read_text())
    if stop is not None:
        owner.send_signal(stop)
    owner.wait(timeout=20)
    end = time.monotonic() + 20
    while time.monotonic() < end and not (is_gone(grandchild) and not folder.exists()):
        time.sleep(0.05)
    assert is_gone(grandchild)
    assert not folder.exists()


def test_private_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    tls, key = make_tls_files(tmp_path, ["127.0.0.1"]), make_node_key(tmp_path, "device")
    assert {path.stat().st_mode & 0o777 for path in (tls.key, key.private)} == {0o600}
    assert {path.name for path in tmp_path.iterdir()} == {
        *("ca.crt", "superlink.crt", "superlink.key", "device", "device.pub")
    }


# ---- messages --------------------------------------------------------------------------------------------


def test_serialised_weights_are_flowers_own_arrays_of_the_same_size_and_values() -> None:
    weights = {"a": torch.tensor([[1.5, -2.0]]), "n": torch.tensor(3)}
    content = RecordDict({"weights": lend(weights), "settings": ConfigRecord({"round": 1})})
    plain = serialised(content)
    record = plain.array_records["weights"]
    assert [type(array) for array in record.values()] == [Array, Array]
    assert size(plain) == size(content)
    assert all((record[name].numpy() == value.numpy()).all() for name, value in weights.items())
    assert record["a"].object_id  # which Flower makes when it sends it


@pytest.mark.parametrize(
    "name", ["file:../secret", "file:/etc/x", "file:.lock", "file:a/../../b", "index.json"]
)
def test_a_device_cannot_write_outside_its_vault_in_the_run_folder(name: str) -> None:
    shown = ConfigRecord({"client": 1, "file:index.json": b"{}", name: b"x"})
    with pytest.raises(Refused):
        take_metadata(RecordDict({METADATA: shown}))


def test_a_reply_without_metadata_is_as_it_was() -> None:
    content = RecordDict({"metrics": MetricRecord({"a": 1})})
    assert take_metadata(content) is None
    content[METADATA] = ConfigRecord({"client": 2, "file:receipts/r.json": b"{}"})
    assert take_metadata(content) == (2, {"receipts/r.json": b"{}"})
    assert list(content) == ["metrics"]


class ReplyingGrid(InlineGrid):
    """Two devices, each of which shows these files, whatever it is asked."""

    def __init__(self, says: dict[int, int]) -> None:
        super().__init__(make_client_app("nowhere"), 2)
        self._says = says

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for message in self._unanswered.values():
            shown = {"client": self._says[message.metadata.dst_node_id], "file:index.json": b"{}"}
            content = {"metrics": MetricRecord({"a": 1}), METADATA: ConfigRecord(shown)}
            yield Message(RecordDict(content), reply_to=message)
        self._unanswered.clear()


def pulled(grid: Grid) -> list[list[str]]:
    ids = grid.push_messages(
        [Message(RecordDict(), dst_node_id=node, message_type="query") for node in grid.get_node_ids()]
    )
    return [list(reply.content) for reply in grid.pull_messages(ids)]


def test_what_devices_show_is_written_into_the_run_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert pulled(DeploymentGrid(ReplyingGrid({1: 1, 2: 0}), run, 2)) == [["metrics"], ["metrics"]]
    assert [(run.vault(client) / "index.json").read_bytes() for client in (0, 1)] == [b"{}", b"{}"]


@pytest.mark.parametrize("says", [{1: 0, 2: 0}, {1: 0, 2: 7}])
def test_a_device_that_says_that_it_is_another_is_not_heard(tmp_path: Path, says: dict[int, int]) -> None:
    assert pulled(DeploymentGrid(ReplyingGrid(says), RunFolder(tmp_path), 2)) == [["metrics"], []]


class AwayGrid(InlineGrid):
    """The SuperLink answers in place of two devices, whenever it is asked, until they are back."""

    def __init__(self) -> None:
        super().__init__(make_client_app("nowhere"), 2)
        self.back = False

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for message in self._unanswered.values():
            if self.back:
                yield Message(RecordDict({"metrics": MetricRecord({"a": 1})}), reply_to=message)
            else:
                reply = Message(Error(4, "not connected"), reply_to=message)
                set_sender(reply, SUPERLINK_NODE_ID)
                yield reply


def asked(grid: Grid) -> list[str]:
    return list(
        grid.push_messages([Message(RecordDict(), dst_node_id=n, message_type="query") for n in (1, 2)])
    )


def test_the_server_is_told_once_that_a_device_is_away(tmp_path: Path) -> None:
    """As a failure of that device, however often the SuperLink says so."""
    grid = DeploymentGrid(AwayGrid(), RunFolder(tmp_path), 2, away_seconds=0.0)
    ids = asked(grid)
    told = [reply for _ in range(3) for reply in grid.pull_messages(ids)]
    assert [(r.metadata.src_node_id, r.has_error()) for r in told] == [(1, True), (2, True)]
    assert [r.metadata.reply_to_message_id for r in told] == ids


def test_a_device_that_is_back_in_time_was_never_away(tmp_path: Path) -> None:
    away = AwayGrid()
    grid = DeploymentGrid(away, RunFolder(tmp_path), 2, away_seconds=0.4)
    ids = asked(grid)
    assert list(grid.pull_messages(ids)) == []
    away.back = True
    assert [r.has_error() for r in grid.pull_messages(ids)] == [False, False]
    away._unanswered.clear()
    time.sleep(0.3)
    assert list(grid.pull_messages(ids)) == []


# ---- devices ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> list[DeviceFolder]:
    """Of six clients; each test takes another one."""
    parent = tmp_path_factory.mktemp("deployment") / "devices"
    return fill_device_folders(resolve(small_config()), parent, Progress(Console(quiet=True)))


def test_each_device_has_its_own_speech_and_nothing_else(tmp_path: Path, devices: list[DeviceFolder]) -> None:
    """The vaults hold what those of a simulated run hold, each in a private folder of its own."""
    simulated = prepared(tmp_path / "run")
    simulated.close()
    for client, folder in enumerate(devices):
        assert folder.run.path.stat().st_mode & 0o777 == 0o700
        assert [path.name for path in folder.run.vaults.iterdir()] == [f"client-{client:04d}"]
        own, other = Index.read(folder.vault), Index.read(simulated.run.vault(client))
        assert own.entries == other.entries
        audio = "audio-1.i16"
        assert (folder.vault / audio).read_bytes() == (simulated.run.vault(client) / audio).read_bytes()


def test_a_deployed_device_answers_from_its_own_folder_and_notes_what_it_paid(
    devices: list[DeviceFolder],
) -> None:
    device = devices[4]
    message = Message(RecordDict(), dst_node_id=9, message_type="query.population")
    node: dict[str, Any] = {"partition-id": 4, "device": str(device.run.path), "experimenter": True}
    context = Context(run_id=1, node_id=9, node_config=node, state=RecordDict(), run_config={"out": "/none"})
    reply = make_client_app()(message, context)
    assert reply.content.metric_records["metrics"]["client"] == 4
    client, files = take_metadata(reply.content) or (-1, {})
    assert client == 4
    assert files == {name: value for name, value in files.items() if not name.endswith((".i16", ".f32"))}
    begun, done = read_events(device.run.path)
    assert (begun.kind, begun.done, done.done) == ("query.population", False, True)
    assert done.memory > 1 << 20
    assert done.bytes_up > 0
    assert event_costs([device])["query.population"].count == 1


def test_a_device_shows_nothing_unless_its_own_settings_say_so(devices: list[DeviceFolder]) -> None:
    device = devices[5]
    message = Message(RecordDict(), dst_node_id=9, message_type="query.population")
    node: dict[str, Any] = {"partition-id": 5, "device": str(device.run.path)}
    context = Context(run_id=1, node_id=9, node_config=node, state=RecordDict(), run_config={"out": "/none"})
    assert METADATA not in make_client_app()(message, context).content


def test_a_person_deletes_the_first_three_training_recordings(devices: list[DeviceFolder]) -> None:
    device = devices[0]
    request = delete_some(device.vault)
    (waiting,) = (device.vault / "inbox").iterdir()
    assert waiting.name == f"{request}.json"
    assert len(metadata_record(0, device.vault)) > 1  # and none of it is the inbox
    assert not any("inbox" in name for name in metadata_record(0, device.vault))


# ---- the command -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["unlearn", "x@unlearn", "1@", "1@sleep", "-1@train"])
def test_an_incident_says_client_and_step(text: str) -> None:
    with pytest.raises(BadInput, match="CLIENT@STEP"):
        Incident.parse("kill", text)
    assert Incident.parse("kill", "3@unlearn") == Incident("kill", 3, "unlearn")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--kill", "9@unlearn"], "--kill 9@unlearn: the clients are 0 to 3"),
        (["--cut", "1@unlearn"], "--cut: needs --hosts"),
        (["--repeat", "0"], "--repeat"),
        (["--set", "training.rounds=-1"], "training.rounds"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, options: list[str], line: str) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["deploy-local", "--clients", "4", "--out", str(out), *options])
    assert done.exit_code == 2
    assert line in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_many_hosts_do_not_fit_into_the_network() -> None:
    assert "at most 200" in why_no_hosts(201)


def test_folders_are_named_by_client(tmp_path: Path) -> None:
    assert device_folder(tmp_path, 3).vault == tmp_path / "device-0003" / "vaults" / "client-0003"
