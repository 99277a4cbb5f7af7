"""What processes keep of devices between messages: nothing of what was purged, whichever process did it."""

import gc
import os
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from small_run import prepared, small_config
from torch import Tensor

from fedunlearn.client.app import HANDLERS, make_client_app
from fedunlearn.client.device import Device
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.engines.engine import run_inline
from fedunlearn.messages.records import number
from fedunlearn.messages.scalars import as_settings
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.seeding import rng_for
from fedunlearn.server.clients import Payload, settings
from fedunlearn.unlearning.contract import ServerScalars
from fedunlearn.vault.traces import Fingerprints, find_traces
from fedunlearn.vault.vault import Vault

CLIENT = 2
"""requests the deletion of four of its utterances"""
# A seed of its own: other tests keep the speech of theirs in memory.
CONFIG = small_config(seed=77, unlearning__method="l2ul", unlearning__l2ul__attack__per_utterance=2)


class Talk:
    """A server that sends what a test needs."""

    def __init__(self, grid: Grid, out: Path) -> None:
        self._grid, self._out = grid, out
        self.model = build_model(CONFIG.model, 6, rng_for(0, "any"))

    def send(self, kind: str, client: int, content: RecordDict) -> RecordDict:
        """One message and its answer."""
        message = Message(content, dst_node_id=client + 1, message_type=kind)
        (reply,) = self._grid.send_and_receive([message])
        assert not reply.has_error(), reply.error
        return reply.content

    def train(self, client: int, weight: float = 0.0) -> None:
        """An ordinary round at one client, in which it notes tickets if its update has a weight."""
        work = {"steps": 0, "epochs": 1, "lr": 0.01, "weight": weight, "fading": 0.1}
        outgoing = settings(round=1, rounds_done=9, phase="learn", stream=1, **work)
        self.send("train", client, Payload(self.model.state_dict()).with_settings(outgoing))

    def query_deletions(self) -> list[str]:
        """Ids of the client's requests."""
        outgoing = RecordDict({"settings": settings(rounds_done=9, trained=9)})
        ids = self.send("query.deletions", CLIENT, outgoing).config_records["requests"]["ids"]
        assert isinstance(ids, list)
        return [str(i) for i in ids]

    def unlearn(self, requests: list[str]) -> None:
        """Unlearn them at the client, with an attack."""
        scalars = as_settings(ServerScalars(test_accuracy=0.1))
        outgoing = settings(round=3, rounds_done=9, requests=requests, **scalars)
        self.send("train.unlearn", CLIENT, Payload(self.model.state_dict()).with_settings(outgoing))

    def purge(self, requests: list[str]) -> bool:
        """Remove them; whether the client verified it."""
        outgoing = settings(
            requests=requests,
            rounds_done=9,
            round=9,
            round_applied=8,
            model="ab" * 32,
            model_before="cd" * 32,
            ledger_head="",
        )
        return number(self.send("query.purge", CLIENT, RecordDict({"settings": outgoing})), "verified") == 1


def talk(out: Path, script: Callable[[Talk], None], mods: Sequence[Any] = ()) -> None:
    """Run a script of messages against a run's devices, in this process."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        script(Talk(grid, out))

    run_inline(app, make_client_app(str(out), mods), 6, CONFIG.federation, out / "log.txt")


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    experiment = prepared(tmp_path / "run", CONFIG, remember=False)
    experiment.close()
    del experiment  # the judge in it, who knows all features
    gc.collect()
    yield tmp_path / "run"


def in_memory(windows: Fingerprints) -> bool:
    """Whether any tensor or array that is alive in this process holds one of them."""
    gc.collect()
    objects = gc.get_objects()
    objects += gc.get_referents(*objects)
    kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, Tensor | np.ndarray)}
    held = {id(o): o for o in objects if type(o) in kinds}
    nothing = np.zeros(0, np.int16)
    for value in held.values():
        array = value.detach().numpy() if isinstance(value, Tensor) else value
        if array.dtype == object or not array.nbytes:
            continue
        plain = torch.from_numpy(np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8).copy())
        if windows.shared_by([(nothing, plain)]):
            return True
    return False


def windows_of(out: Path, model: EmotionModel, requests: list[str]) -> Fingerprints:
    vault = Vault(out / "vaults" / f"client-{CLIENT:04d}")
    outgoing = [u for r in RequestStore(vault.folder).all() if r.id in requests for u in r.utterances]
    assert len(outgoing) == 4
    return vault.fingerprints(outgoing, model)


def test_after_a_purge_no_feature_of_what_was_deleted_is_alive(out: Path) -> None:
    def script(send: Talk) -> None:
        send.train(CLIENT)
        requests = send.query_deletions()
        windows = windows_of(out, send.model, requests)
        assert in_memory(windows)  # the device keeps its examples between rounds: the search does find them
        send.unlearn(requests)
        assert send.purge(requests)
        assert not in_memory(windows)
        send.train(CLIENT)
        assert not in_memory(windows)

    talk(out, script)


def test_after_a_purge_no_ticket_of_what_was_deleted_is_alive_or_in_any_file(out: Path) -> None:
    def script(send: Talk) -> None:
        send.train(CLIENT, weight=0.01)
        requests = send.query_deletions()
        vault = Vault(out / "vaults" / f"client-{CLIENT:04d}")
        outgoing = [u for r in RequestStore(vault.folder).all() if r.id in requests for u in r.utterances]
        rows = vault.tickets.rows_of(outgoing)
        assert len(rows) == 4
        tickets = Fingerprints.of(rows)
        assert in_memory(tickets)
        del rows
        assert not in_memory(tickets)  # the device reads them anew for each message
        send.unlearn(requests)
        assert not in_memory(tickets)
        assert {path.suffix for path in find_traces([out], tickets).found} == {".tickets"}
        assert send.purge(requests)
        assert not in_memory(tickets)
        assert not find_traces([out], tickets).found
        send.train(CLIENT, weight=0.01)
        assert not find_traces([out], tickets).found

    talk(out, script)


def test_unlearning_leaves_no_adversarial_sample_and_no_optimiser_behind(out: Path) -> None:
    """What is made for a message is gone when it is answered: no tensor more than the weights sent."""

    def alive() -> dict[int, Tensor]:
        gc.collect()
        return {id(o): o for o in gc.get_objects() if issubclass(type(o), Tensor)}

    def script(send: Talk) -> None:
        send.train(CLIENT)
        requests = send.query_deletions()
        send.unlearn(requests)  # imports and buffers that come with the first
        before = alive()
        send.unlearn(requests)
        assert [tuple(t.shape) for key, t in alive().items() if key not in before] == []
        assert send.purge(requests)
        features = [t for t in alive().values() if t.dim() == 3 and t.shape[-1] == send.model.dims]
        assert all(len(t) != 4 and len(t) != 8 for t in features)  # four utterances, two samples of each

    talk(out, script)


def test_a_failing_device_keeps_nothing_alive_either(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception keeps the frames it came through, and they what they had read."""
    failures: list[BaseException] = []
    read: list[weakref.ref[Tensor]] = []

    def keep(message: Message, context: Context, call_next: Any) -> Message:
        try:
            reply: Message = call_next(message, context)
            return reply
        except Exception as error:
            failures.append(error)
            raise

    def damaged(device: Device, content: RecordDict) -> RecordDict:
        speech = device.vault.forget_set(device.vault.ids("train"), device.model)
        read.append(weakref.ref(speech.waveform))
        raise KeyError(len(speech))

    monkeypatch.setitem(HANDLERS, "train.retain_part", damaged)

    def script(send: Talk) -> None:
        with pytest.raises(AssertionError, match="KeyError"):
            send.send("train.retain_part", CLIENT, RecordDict({"settings": ConfigRecord({"rounds_done": 9})}))
        gc.collect()
        assert len(failures) == len(read) == 1 and read[0]() is None

    talk(out, script, [keep])


def test_a_worker_drops_what_another_has_purged_at_its_next_message_to_anybody(out: Path) -> None:
    def script(send: Talk) -> None:
        send.train(CLIENT)
        requests = send.query_deletions()
        windows = windows_of(out, send.model, requests)
        _elsewhere(lambda: send.purge(requests))
        assert in_memory(windows)  # this process has received no message since
        send.train(0)
        assert not in_memory(windows)

    talk(out, script)


def _elsewhere(work: Callable[[], bool]) -> None:
    """Do it in another process."""
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if work() else 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_without_a_purge_devices_are_kept_and_hardly_looked_at(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of devices in one process: a message looks at its own one, and at one count for the run."""
    looked: list[Path] = []
    real = Vault.is_current.fget  # type: ignore[attr-defined]

    def counting(vault: Vault) -> bool:
        looked.append(vault.folder)
        return bool(real(vault))

    def script(send: Talk) -> None:
        for client in range(6):
            send.train(client)
        monkeypatch.setattr(Vault, "is_current", property(counting))
        opened: list[Path] = []
        monkeypatch.setattr(Vault, "_open", lambda vault: opened.append(vault.folder))
        for client in (4, 1):
            send.train(client)
        assert [p.name for p in looked] == ["client-0004", "client-0001"] and opened == []

    talk(out, script)


def test_devices_of_an_earlier_run_are_let_go(out: Path, tmp_path: Path) -> None:
    talk(out, lambda send: send.train(CLIENT))
    requests: list[str] = []
    talk(out, lambda send: requests.extend(send.query_deletions()))
    windows = windows_of(out, build_model(CONFIG.model, 6, rng_for(0, "any")), requests)
    assert in_memory(windows)
    prepared(tmp_path / "next", small_config(seed=4), remember=False).close()
    talk(tmp_path / "next", lambda send: send.train(0))
    assert not in_memory(windows)
