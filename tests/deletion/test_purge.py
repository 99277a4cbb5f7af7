"""A request's last step: whatever stops it, it ends verified, with a receipt and nothing left."""

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tone
from tiny_model import tiny

from fedunlearn.audio import PCM
from fedunlearn.deletion.purge import AppliedRequests, PurgeResult, implied_held_out, purge_requests
from fedunlearn.deletion.receipts import MethodRecord, receipt_of
from fedunlearn.deletion.request import DeletionRequest, RequestState
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.partition import Split
from fedunlearn.seeding import rng_for
from fedunlearn.vault.index import VaultEntry
from fedunlearn.vault.traces import Fingerprints, find_traces
from fedunlearn.vault.vault import Vault

MODEL = tiny()
METHOD = MethodRecord("relabel", "somebody 2025", "forget", "sum")
APPLIED = AppliedRequests(rounds_done=7, round=9, round_applied=8, model="ab" * 32, method=METHOD)
ANNA, BEN = "0123456789abcdef", "fedcba9876543210"


def recordings(speakers: Sequence[str] = ("anna", "ben")) -> list[tuple[VaultEntry, PCM]]:
    """Two people's: of each u0, u1 for training and u2 held out."""
    return [
        (VaultEntry(f"{who}-{take}", "calm", 1, split, 4000, speakers[number]), tone(number, 1, take))
        for number, who in enumerate(("anna", "ben"))
        for take, split in enumerate[Split](("train", "train", "test"))
    ]


SPEECH = {entry.id: pcm for entry, pcm in recordings()}


def windows_of(*ids: str) -> Fingerprints:
    return Fingerprints.of_recordings((SPEECH[i], MODEL.features_of(SPEECH[i])) for i in ids)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def make_run(run: Path) -> Path:
    """A run folder with one vault: Anna wants all of hers gone, Ben one of his."""
    vault = Vault.build(run / "vaults" / "client-0000", recordings(), 3)
    vault.derive(MODEL)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "model").write_bytes(b"weights")
    (run / "metrics.jsonl").write_text("{}\n")
    RequestStore(vault.folder).add(
        [
            DeletionRequest(ANNA, 0, "named", 5, "anna", ("anna-0", "anna-1")),
            DeletionRequest(BEN, 0, "named", 5, "ben", ("ben-1",)),
        ]
    )
    return run


def folder_of(run: Path) -> Path:
    return run / "vaults" / "client-0000"


def send_purge(run: Path, *requests: str) -> PurgeResult:
    beside = [run / "checkpoints", run / "metrics.jsonl"]
    return purge_requests(Vault(folder_of(run)), MODEL, requests or (ANNA,), beside, APPLIED)


def states(run: Path) -> list[RequestState]:
    return [r.state for r in RequestStore(folder_of(run)).all()]


def assert_done(run: Path) -> None:
    """Anna is gone and has her receipt; Ben's speech is as it was; nothing is left lying about."""
    vault = Vault(folder_of(run))
    assert list(vault.entries) == ["ben-0", "ben-1", "ben-2"]
    for i in vault.entries:
        assert np.array_equal(vault.read_audio(i), SPEECH[i])
        assert torch.equal(vault.read_features(i, MODEL), MODEL.features_of(SPEECH[i]))
    assert not find_traces([run], windows_of("anna-0", "anna-1", "anna-2")).found
    assert states(run) == [RequestState.PURGED, RequestState.RAISED]
    receipt = json.loads(receipt_of(vault.folder, ANNA).read_text())
    assert receipt["removed"] == {
        "utterances": ["anna-0", "anna-1"],
        "held_out": ["anna-2"],
        "count": 3,
        "seconds": 0.75,
        "derived": ["tiny"],
    }
    left = {p.name for p in vault.folder.iterdir()}
    generation = vault.generation
    assert left == {
        "index.json",
        f"audio-{generation}.i16",
        f"tiny-{generation}.f32",
        f"tiny-{generation}.frames",
        "requests.json",
        "receipts",
    }
    assert [p.name for p in (vault.folder / "receipts").iterdir()] == [f"{ANNA}.json"]


# ---- undisturbed -----------------------------------------------------------------------------------------


def test_a_purge_leaves_a_receipt_and_nothing_else(run: Path) -> None:
    assert find_traces([run], windows_of("anna-2")).found
    assert send_purge(run) == PurgeResult(removed=3, verified=True)
    assert_done(run)


def test_a_purge_whose_reply_was_lost_may_be_asked_for_again(run: Path) -> None:
    send_purge(run)
    receipt = receipt_of(folder_of(run), ANNA).read_bytes()
    time.sleep(1.1)  # receipts tell the time in seconds
    for _ in range(2):
        assert send_purge(run) == PurgeResult(removed=0, verified=True)
        assert_done(run)
        assert receipt_of(folder_of(run), ANNA).read_bytes() == receipt


@pytest.mark.parametrize("together", [True, False])
def test_held_out_speech_that_is_named_goes_and_stands_in_its_own_receipt(run: Path, together: bool) -> None:
    """Anna requests the deletion of her training speech, then of the held-out one, which would go along
    otherwise."""
    held_out = "aaaaaaaaaaaaaaaa"
    store = RequestStore(folder_of(run))
    store.add([DeletionRequest(held_out, 0, "named", 5, "more", (), held_out=("anna-2",))])
    if together:
        assert send_purge(run, ANNA, held_out) == PurgeResult(removed=3, verified=True)
    else:
        assert send_purge(run, held_out) == PurgeResult(removed=1, verified=True)
        assert list(Vault(folder_of(run)).ids("test")) == ["ben-2"]
        assert send_purge(run, ANNA) == PurgeResult(removed=2, verified=True)
    removed = {r: json.loads(receipt_of(folder_of(run), r).read_text())["removed"] for r in (ANNA, held_out)}
    assert (removed[ANNA]["utterances"], removed[ANNA]["held_out"]) == (["anna-0", "anna-1"], [])
    assert (removed[held_out]["utterances"], removed[held_out]["held_out"]) == ([], ["anna-2"])
    assert not find_traces([run], windows_of("anna-0", "anna-1", "anna-2")).found


def test_two_requests_are_distinguished(run: Path) -> None:
    assert send_purge(run, ANNA, BEN) == PurgeResult(removed=4, verified=True)
    receipts = [json.loads(receipt_of(folder_of(run), r).read_text()) for r in (ANNA, BEN)]
    assert [r["removed"]["utterances"] for r in receipts] == [["anna-0", "anna-1"], ["ben-1"]]
    assert [r["removed"]["held_out"] for r in receipts] == [["anna-2"], []]
    assert list(Vault(folder_of(run)).entries) == ["ben-0", "ben-2"]


def test_what_two_requests_ask_for_goes_with_the_first(run: Path) -> None:
    RequestStore(folder_of(run)).add([DeletionRequest("c" * 16, 0, "named", 6, "c", ("anna-1", "ben-1"))])
    assert send_purge(run, ANNA, "c" * 16) == PurgeResult(removed=4, verified=True)
    receipt = json.loads(receipt_of(folder_of(run), "c" * 16).read_text())
    assert receipt["removed"]["utterances"] == ["ben-1"]


def test_a_request_that_this_device_does_not_know_is_not_verified(run: Path) -> None:
    assert send_purge(run, "e" * 16) == PurgeResult(removed=0, verified=False)
    assert send_purge(run, ANNA, "e" * 16) == PurgeResult(removed=3, verified=False)


# ---- a client that leaves leaves nothing behind ------------------------------------------------------------


def shared(folder: Path, *people: tuple[str, Split, int]) -> Vault:
    entries = [VaultEntry(f"u{i}", "calm", 1, s, 64, who, when) for i, (who, s, when) in enumerate(people)]
    pcm = [np.full(64, i, np.int16) for i in range(len(entries))]
    return Vault.build(folder, list(zip(entries, pcm, strict=True)), 3)


def test_a_speaker_who_leaves_a_shared_device_takes_the_held_out_speech_along(tmp_path: Path) -> None:
    people: list[tuple[str, Split, int]] = [
        ("anna", "train", 0),
        ("anna", "train", 0),
        ("anna", "test", 0),
        ("ben", "train", 0),
        ("ben", "test", 0),
        ("carl", "test", 0),
        ("anna", "train", 9),
        ("anna", "test", 9),
    ]
    vault = shared(tmp_path / "v", *people)
    assert implied_held_out(vault, ["u0"], ["u0"], 5) == ()
    assert implied_held_out(vault, ["u0", "u1"], ["u1"], 5) == (
        "u2",
    )  # what she will record in round 9 may come
    assert implied_held_out(vault, ["u0", "u1"], ["u0", "u1"], 9) == ()  # by then she has recorded more
    assert implied_held_out(vault, ["u3"], ["u3"], 5) == ("u4",)
    # The device trains on nothing any more: it has left, and everything with it.
    assert implied_held_out(vault, ["u0", "u1", "u2", "u3"], ["u3"], 5) == ("u4", "u5")
    assert implied_held_out(vault, ["u0", "u1"], [], 5) == ()


def test_without_names_a_device_is_one_person(tmp_path: Path) -> None:
    vault = shared(tmp_path / "v", ("", "train", 0), ("", "train", 0), ("", "test", 0))
    assert implied_held_out(vault, ["u0"], ["u0"], 0) == ()
    assert implied_held_out(vault, ["u0", "u1"], ["u1"], 0) == ("u2",)


# ---- a trace is found ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["checkpoints/old", "vaults/client-0000/adversarial.bin"])
def test_a_leftover_of_4_ms_is_found_and_the_request_stays_unverified(run: Path, place: str) -> None:
    leftover = run / place
    leftover.write_bytes(b"odd" + SPEECH["anna-2"][1003 : 1003 + 64].tobytes())
    for removed in (3, 0):
        assert send_purge(run) == PurgeResult(removed, verified=False)
        assert not receipt_of(folder_of(run), ANNA).exists()
    assert not find_traces([folder_of(run) / "evidence"], windows_of(*SPEECH)).found  # it holds no speech
    leftover.unlink()
    assert send_purge(run) == PurgeResult(0, verified=True)
    assert_done(run)


def test_of_two_requests_only_the_one_with_a_trace_is_unverified(run: Path) -> None:
    leftover = run / "checkpoints" / "old"
    leftover.write_bytes(MODEL.features_of(SPEECH["ben-1"]).numpy().tobytes())
    assert send_purge(run, ANNA, BEN) == PurgeResult(4, verified=False)
    receipts = folder_of(run) / "receipts"
    assert [p.name for p in receipts.iterdir()] == [f"{ANNA}.json"]
    assert [p.name for p in (folder_of(run) / "evidence").iterdir()] == [BEN]
    leftover.unlink()
    assert send_purge(run, BEN) == PurgeResult(0, verified=True)
    assert sorted(p.name for p in receipts.iterdir()) == [f"{ANNA}.json", f"{BEN}.json"]
    assert not (folder_of(run) / "evidence").exists()


def test_nobody_elses_vault_is_looked_into(run: Path) -> None:
    """The device receives the list of places to search; it is complete."""
    other = run / "vaults" / "client-0001"
    other.mkdir()
    (other / "audio-1.i16").write_bytes(SPEECH["anna-0"].tobytes())
    assert send_purge(run).verified


# ---- interrupted -----------------------------------------------------------------------------------------


class DeathError(BaseException):
    """Not an Exception: nothing that tidies up after a failure may run on."""


class Disk:
    """Counts operations on files and fails at one of them.

    Args:
        call: at which. dead: nothing works any more from then on; else this one call fails (disk full).
        after: it fails once the operation is done.
    """

    def __init__(self, call: int, dead: bool, after: bool) -> None:
        self.call, self.dead, self.after, self.count = call, dead, after, 0

    @property
    def failed(self) -> bool:
        return self.count >= self.call

    def wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.dead and self.count > self.call:
                raise DeathError
            if self.count == self.call:
                if self.after:
                    made = real(*args, **kwargs)
                    if hasattr(made, "close"):
                        made.close()
                raise DeathError if self.dead else OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        return operation


OPERATIONS = [
    (Path, "open"),
    (Path, "replace"),
    (Path, "unlink"),
    (Path, "mkdir"),
    (Path, "rmdir"),
    (os, "fsync"),
]


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killing a process loses nothing that was written; waiting for the disk only takes time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("purge") / "template")


@pytest.mark.usefixtures("quick_disk")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("dead", [False, True])
def test_whatever_operation_fails_the_next_attempt_completes_it(
    template: Path, tmp_path: Path, dead: bool, after: bool
) -> None:
    failures, outcomes = 0, set()
    for call in range(1, 1000):
        run = shutil.copytree(template, tmp_path / f"run-{call}")
        disk = Disk(call, dead, after)
        with pytest.MonkeyPatch.context() as patch:
            for place, name in OPERATIONS:
                patch.setattr(place, name, disk.wrap(getattr(place, name)))
            try:
                purged = send_purge(run)
            except (OSError, DeathError):
                failures += 1
            else:
                assert purged.verified  # it was no matter, or nothing failed
        outcomes.add(len(Vault(folder_of(run)).entries))
        if not disk.failed:
            break
        assert not list(folder_of(run).rglob("*.tmp")), call
        assert send_purge(run).verified, call
        assert_done(run)
        shutil.rmtree(run)
    assert failures > 50 and outcomes == {3, 6}, (failures, outcomes)


@pytest.mark.usefixtures("quick_disk")
def test_killed_at_random_moments_60_times(template: Path, tmp_path: Path) -> None:
    """SIGKILL to a process in the middle of a purge; every third time, to the one that tries again, too."""
    rng = rng_for(11, "kills")
    whole = _seconds_of_a_purge(template, tmp_path)
    kills, cut_off = 0, 0
    while kills < 60:
        run = shutil.copytree(template, tmp_path / f"run-{kills}")
        for _ in range(2 if kills % 3 == 0 else 1):
            child = os.fork()
            if not child:
                try:
                    send_purge(run)
                finally:
                    os._exit(0)
            time.sleep(float(rng.uniform(0, whole)))
            os.kill(child, signal.SIGKILL)
            cut_off += os.waitpid(child, 0)[1] != 0
            kills += 1
        assert send_purge(run).verified
        assert_done(run)
        shutil.rmtree(run)
    assert cut_off > 20  # the others had finished


def _seconds_of_a_purge(template: Path, tmp_path: Path) -> float:
    run = shutil.copytree(template, tmp_path / "timed")
    start = time.perf_counter()
    send_purge(run)
    return 1.2 * (time.perf_counter() - start)


def test_a_device_that_died_after_another_request_of_the_same_person_came_in(run: Path) -> None:
    """The evidence of the first attempt counts, also where the second one requests more at once."""
    disk = Disk(1, dead=True, after=False)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DeathError):
        patch.setattr("fedunlearn.deletion.purge.find_traces", disk.wrap(find_traces))
        send_purge(run)
    assert list(Vault(folder_of(run)).entries) == ["ben-0", "ben-1", "ben-2"]
    assert states(run) == [RequestState.RAISED, RequestState.RAISED]
    leftover = run / "checkpoints" / "old"
    leftover.write_bytes(SPEECH["anna-1"][:64].tobytes())
    assert send_purge(run, ANNA, BEN) == PurgeResult(
        1, verified=False
    )  # the trace of what went in the first attempt
    leftover.unlink()
    assert send_purge(run, ANNA, BEN) == PurgeResult(0, verified=True)
    removed = json.loads(receipt_of(folder_of(run), ANNA).read_text())["removed"]
    assert (removed["count"], removed["seconds"], removed["held_out"]) == (3, 0.75, ["anna-2"])
