"""Admission: what is filed at any moment is admitted once, becomes a request or is refused, and stays so."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from fedunlearn.config import Config, load
from fedunlearn.deletion.admission import note_devices, raise_due
from fedunlearn.deletion.inbox import FiledRequest, Inbox
from fedunlearn.deletion.request import FOLLOWS, DeletionRequest, ImpossibleStep, RequestState, step
from fedunlearn.deletion.request_store import RequestStore, report_requests
from fedunlearn.vault.index import VaultEntry
from fedunlearn.vault.vault import Vault

ROOT = Path(__file__).resolve().parents[2]
NO_SCHEDULE = load(None, {"deletions.schedule": [], "partition.clients": 20})
"""no requests but those filed by hand"""


def vault_with(folder: Path, entries: Sequence[VaultEntry]) -> Vault:
    return Vault.build(folder, [(e, np.zeros(e.samples, np.int16)) for e in entries], 3)


def six(folder: Path) -> Vault:
    """u0 ... u5, angry and calm in turn, u0-u3 by ann and u4-u5 by bob; t0 is held out (angry, ann)."""
    trained = [
        VaultEntry(f"u{i}", ("angry", "calm")[i % 2], i % 2, "train", 1, "ann" if i < 4 else "bob")
        for i in range(6)
    ]
    return vault_with(folder, [*trained, VaultEntry("t0", "angry", 0, "test", 1, "ann")])


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return six(tmp_path / "vault")


def new_request(number: int, what: str = "all", **more: object) -> FiledRequest:
    return FiledRequest(f"{number:016x}", what, f"person-{number}", **more)  # type: ignore[arg-type]


def listen(vault: Vault, rounds_done: int = 0, config: Config = NO_SCHEDULE) -> list[DeletionRequest]:
    return list(raise_due(config, vault, 0, rounds_done).all())


# ---- what becomes of what is filed -----------------------------------------------------------------------


def test_a_filed_request_is_admitted_at_the_next_query_and_leaves_the_inbox(vault: Vault) -> None:
    inbox = Inbox(vault.folder)
    inbox.file(new_request(1, "named", utterances=("u3", "u0"), deadline=4, reason="mine"))
    assert RequestStore(vault.folder).all() == ()
    (request,) = listen(vault, 7)
    assert (request.id, request.round, request.state) == (f"{1:016x}", 7, RequestState.RAISED)
    assert (request.utterances, request.deadline, request.reason) == (("u0", "u3"), 4, "mine")
    assert inbox.waiting() == () and listen(vault, 9) == [request]


@pytest.mark.parametrize(
    ("what", "more", "expected", "held_out"),
    [
        ("all", {}, "u0 u1 u2 u3 u4 u5", "t0"),
        ("some", {"count": 6}, "u0 u1 u2 u3 u4 u5", ""),
        ("emotion", {"emotion": "calm"}, "u1 u3 u5", ""),
        ("emotion", {"emotion": "angry"}, "u0 u2 u4", "t0"),
        ("speaker", {"speaker": "bob"}, "u4 u5", ""),
        ("speaker", {"speaker": "ann"}, "u0 u1 u2 u3", "t0"),
        ("named", {"utterances": ("u5",)}, "u5", ""),
        ("named", {"utterances": ("t0", "u5")}, "u5", "t0"),
        ("named", {"utterances": ("t0",)}, "", "t0"),
    ],
)
def test_each_kind_names_its_own_utterances(
    vault: Vault, what: str, more: dict[str, object], expected: str, held_out: str
) -> None:
    """Training ones count, since they are unlearned; held-out ones go with them."""
    Inbox(vault.folder).file(new_request(1, what, **more))
    (request,) = listen(vault)
    assert " ".join(request.utterances) == expected and request.count == len(expected.split())
    assert " ".join(request.held_out) == held_out and request.held_out_count == len(held_out.split())
    assert request.state is RequestState.RAISED
    report = report_requests(RequestStore(vault.folder), vault.entries, 0, 0)
    assert (report["counts"], report["learned"]) == ([request.count], [request.count])


def test_held_out_speech_is_requested_once_too(vault: Vault) -> None:
    inbox = Inbox(vault.folder)
    inbox.file(new_request(1, "emotion", emotion="angry"))
    listen(vault, 1)
    inbox.file(new_request(2, "named", utterances=("t0",)))
    inbox.file(new_request(3))
    listen(vault, 2)
    _, again, rest = RequestStore(vault.folder).all()
    assert (again.state, again.note) == (RequestState.REFUSED, "already requested")
    assert (rest.utterances, rest.held_out) == (("u1", "u3", "u5"), ())
    inbox.file_withdrawal(new_request(1).id)
    listen(vault, 3)
    inbox.file(new_request(4, "named", utterances=("t0",)))
    assert listen(vault, 4)[-1].held_out == ("t0",)


def test_a_device_with_held_out_speech_alone_takes_it_back(vault: Vault) -> None:
    vault.purge([f"u{i}" for i in range(6)])
    Inbox(vault.folder).file(new_request(1))
    (request,) = listen(vault)
    assert (request.state, request.utterances, request.held_out) == (RequestState.RAISED, (), ("t0",))


@pytest.mark.parametrize(
    ("what", "more", "why"),
    [
        ("named", {"utterances": ("u1", "v1", "v0")}, "this device holds no utterance v0, v1"),
        ("named", {}, "no utterance is named"),
        ("emotion", {"emotion": "sad"}, "this device trains on no utterance of emotion 'sad'"),
        ("speaker", {"speaker": "cy"}, "this device trains on no utterance of speaker 'cy'"),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_reason_that_stays(
    vault: Vault, what: str, more: dict[str, object], why: str
) -> None:
    Inbox(vault.folder).file(new_request(1, what, **more))
    (request,) = listen(vault)
    assert (request.state, request.utterances, request.note) == (RequestState.REFUSED, (), why)
    report = report_requests(RequestStore(vault.folder), vault.entries, 0, 0)
    assert report["states"] == ["refused"] and report["counts"] == [0] and why not in json.dumps(report)


def test_only_utterances_without_a_request_count(vault: Vault) -> None:
    inbox = Inbox(vault.folder)
    inbox.file(new_request(1, "emotion", emotion="calm"))
    listen(vault, 1)
    inbox.file(new_request(2, "speaker", speaker="bob"))
    inbox.file(new_request(3, "named", utterances=("u1", "u3")))
    listen(vault, 2)
    calm, bob, again = RequestStore(vault.folder).all()
    assert (calm.utterances, bob.utterances) == (("u1", "u3", "u5"), ("u4",))
    assert (again.state, again.note) == (RequestState.REFUSED, "already requested")


def test_an_id_is_admitted_once_whatever_else_it_says(vault: Vault) -> None:
    Inbox(vault.folder).file(new_request(1, "named", utterances=("u1",)))
    first = listen(vault)
    Inbox(vault.folder).file(FiledRequest(new_request(1).id, "named", "another event", utterances=("u2",)))
    assert listen(vault) == first


def test_what_was_withdrawn_may_be_requested_again(vault: Vault) -> None:
    inbox = Inbox(vault.folder)
    inbox.file(new_request(1))
    listen(vault, 1)
    inbox.file_withdrawal(new_request(1).id)
    inbox.file(new_request(2, "named", utterances=("u1",)))
    listen(vault, 2)  # requests are admitted before withdrawals
    inbox.file(new_request(3, "named", utterances=("u1",)))
    listen(vault, 3)
    assert [r.state for r in listen(vault, 4)] == [
        RequestState.WITHDRAWN,
        RequestState.REFUSED,
        RequestState.RAISED,
    ]


def test_a_device_that_holds_nothing_any_more_refuses(vault: Vault) -> None:
    vault.purge(["t0", *(f"u{i}" for i in range(6))])
    Inbox(vault.folder).file(new_request(1))
    (request,) = listen(vault)
    assert (request.state, request.note) == (RequestState.REFUSED, "this device trains on no utterance")


def test_what_is_recorded_later_is_not_requested_yet(tmp_path: Path) -> None:
    entries = [VaultEntry("old", "calm", 1, "train", 1), VaultEntry("new", "calm", 1, "train", 1, recorded=5)]
    vault = vault_with(tmp_path / "v", entries)
    Inbox(vault.folder).file(new_request(1))
    assert listen(vault, 4)[0].utterances == ("old",)
    Inbox(vault.folder).file(new_request(2))
    assert listen(vault, 5)[1].utterances == ("new",)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": "x"}', '{"id": "0123456789abcdef"}', "\x00"])
def test_what_is_no_request_is_refused_once_and_stops_nobody(vault: Vault, content: str) -> None:
    inbox = Inbox(vault.folder)
    inbox.file(new_request(1))
    (inbox.folder / "scribble.json").write_text(content)
    good, bad = listen(vault, 1)
    assert good.state is RequestState.RAISED and bad.state is RequestState.REFUSED
    assert "cannot be understood" in bad.note and inbox.waiting() == ()
    (inbox.folder / "scribble.json").write_text(content)
    assert listen(vault, 2) == [good, bad]


# ---- withdrawing -----------------------------------------------------------------------------------------


def test_a_request_is_withdrawn_until_it_is_unlearned(vault: Vault) -> None:
    inbox, store = Inbox(vault.folder), RequestStore(vault.folder)
    inbox.file(new_request(1, "named", utterances=("u1",)))
    inbox.file(new_request(2, "named", utterances=("u2",)))
    listen(vault, 1)
    store.set_state([new_request(2).id], RequestState.UNLEARNED)
    for number in (1, 2, 3):
        inbox.file_withdrawal(new_request(number).id)
    first, second = listen(vault, 2)
    assert (first.state, first.withdrawn) == (RequestState.WITHDRAWN, 2)
    assert (second.state, second.note) == (RequestState.UNLEARNED, "too late to withdraw: it is unlearned")
    assert inbox.waiting() == ()
    with pytest.raises(ImpossibleStep, match="withdrawn cannot become unlearned"):
        store.set_state([new_request(1).id], RequestState.UNLEARNED)


def test_a_request_that_is_withdrawn_before_its_admission_is_both(vault: Vault) -> None:
    Inbox(vault.folder).file_withdrawal(new_request(1).id)
    Inbox(vault.folder).file(new_request(1))
    assert [r.state for r in listen(vault)] == [RequestState.WITHDRAWN]


# ---- what leaves the device ------------------------------------------------------------------------------


def test_the_report_holds_counts_states_and_deadlines(tmp_path: Path) -> None:
    entries = [VaultEntry(f"u{i}", "calm", 1, "train", 1, recorded=i) for i in range(4)]
    vault = vault_with(tmp_path / "v", entries)
    inbox, store = Inbox(vault.folder), RequestStore(vault.folder)
    inbox.file(new_request(1, "named", utterances=("u0", "u3"), deadline=4, devices=2))
    listen(vault, 3)
    inbox.file(new_request(2, "named", utterances=("u1",)))
    listen(vault, 5)
    report = report_requests(store, vault.entries, 5, last_trained=2)
    assert report == {
        "ids": [new_request(1).id, new_request(2).id],
        "counts": [2, 1],
        "states": ["raised", "raised"],
        "deadlines": [2, -1],
        "devices": [2, 1],
        "learned": [1, 1],
    }
    assert report_requests(store, vault.entries, 5, last_trained=-1)["learned"] == [0, 0]
    assert report_requests(store, vault.entries, 99, last_trained=2)["deadlines"] == [0, -1]


def test_a_resumed_run_receives_what_it_received_in_that_round(vault: Vault) -> None:
    inbox, store = Inbox(vault.folder), RequestStore(vault.folder)
    inbox.file(new_request(1))
    listen(vault, 2)
    inbox.file_withdrawal(new_request(1).id)
    listen(vault, 4)
    report = {
        rounds_done: report_requests(store, vault.entries, rounds_done, 0)["states"]
        for rounds_done in range(1, 6)
    }
    assert report == {1: [], 2: ["raised"], 3: ["raised"], 4: ["withdrawn"], 5: ["withdrawn"]}


@pytest.mark.parametrize("state", [RequestState.RAISED, RequestState.UNLEARNED, RequestState.PURGED])
def test_the_server_receives_four_words_alone(vault: Vault, state: RequestState) -> None:
    Inbox(vault.folder).file(new_request(1))
    listen(vault)
    store = RequestStore(vault.folder)
    store.set_state([new_request(1).id], state)
    expected = "purged" if state is RequestState.PURGED else "raised"
    assert report_requests(store, vault.entries, 0, 0)["states"] == [expected]


# ---- states ----------------------------------------------------------------------------------------------


def test_the_way_of_a_request_and_its_short_cuts() -> None:
    """A step that was taken before has no effect; one that the table does not know is impossible."""
    way = [
        RequestState.RAISED,
        RequestState.ACCEPTED,
        RequestState.UNLEARNED,
        RequestState.APPLIED,
        RequestState.PURGED,
        RequestState.VERIFIED,
    ]
    for place, state in enumerate(way):
        assert all(step(state, earlier) is state for earlier in way[: place + 1])
        for later in way[place + 1 :]:
            if later in FOLLOWS[state]:
                assert step(state, later) is later
            else:
                with pytest.raises(ImpossibleStep):
                    step(state, later)
    short_cuts = {(a, b) for a in way for b in FOLLOWS[a] if b in way and way.index(b) > way.index(a) + 1}
    assert short_cuts == {
        (RequestState.RAISED, RequestState.UNLEARNED),
        (RequestState.RAISED, RequestState.PURGED),
        (RequestState.ACCEPTED, RequestState.PURGED),
        (RequestState.UNLEARNED, RequestState.PURGED),
    }


@pytest.mark.parametrize("end", [RequestState.WITHDRAWN, RequestState.REFUSED])
def test_what_is_withdrawn_or_refused_stays_so_and_too_late_is_too_late(end: RequestState) -> None:
    assert step(RequestState.RAISED, end) is step(RequestState.ACCEPTED, end) is step(end, end) is end
    for state in set(RequestState) - {end}:
        with pytest.raises(ImpossibleStep):
            step(end, state)
    for state in (RequestState.UNLEARNED, RequestState.APPLIED, RequestState.PURGED, RequestState.VERIFIED):
        with pytest.raises(ImpossibleStep):
            step(state, end)


def test_a_closed_request_keeps_its_count_and_no_utterance(vault: Vault) -> None:
    store = RequestStore(vault.folder)
    Inbox(vault.folder).file(new_request(1, reason="because"))
    listen(vault, 3)
    with pytest.raises(ValueError, match="is raised: it cannot be closed yet"):
        store.close([new_request(1).id])
    store.set_state([new_request(1).id], RequestState.PURGED)
    store.close([new_request(1).id])
    store.close([new_request(1).id])
    (request,) = store.all()
    assert (request.count, request.utterances, request.reason) == (6, (), "")
    assert (request.held_out_count, request.held_out) == (1, ())
    assert (request.state, request.round, request.id) == (RequestState.PURGED, 3, new_request(1).id)
    assert "u1" not in (vault.folder / "requests.json").read_text()


@pytest.mark.parametrize(
    ("what", "more", "why"),
    [
        ("named", {"utterances": ("secret-1",)}, "this device holds no such utterance"),
        ("speaker", {"speaker": "secret"}, "this device holds no such utterance"),
        ("named", {}, "no utterance is named"),
    ],
)
def test_a_refusal_that_is_closed_says_why_and_not_what_was_named(
    vault: Vault, what: str, more: dict[str, object], why: str
) -> None:
    Inbox(vault.folder).file(new_request(1, what, reason="a secret, too", **more))
    listen(vault)
    store = RequestStore(vault.folder)
    store.close([new_request(1).id])
    (request,) = store.all()
    assert (request.state, request.note) == (RequestState.REFUSED, why)
    assert "secret" not in (vault.folder / "requests.json").read_text()


# ---- people with several devices -------------------------------------------------------------------------


def test_one_speaker_on_two_devices_is_one_request_on_both(tmp_path: Path) -> None:
    schedule = [{"client": 0, "what": "speaker", "speaker": "ann", "round": 2}]
    config = load(None, {"partition.clients": 20, "deletions.schedule": schedule, "deletions.deadline": 9})
    vaults = []
    for client, speakers in enumerate(["ann", "ann", "bob"]):
        entries = [VaultEntry(f"c{client}-{i}", "calm", 1, "train", 1, speakers) for i in range(client + 1)]
        vaults.append(vault_with(tmp_path / str(client), entries))
        note_devices(vaults[-1].folder, {"ann": 2} if speakers == "ann" else {})
    for rounds_done in (1, 2):
        stores = [raise_due(config, v, c, rounds_done).all() for c, v in enumerate(vaults)]
    (here,), (there,), nobody = stores
    assert here.id == there.id and (here.client, there.client) == (0, 1) and nobody == ()
    assert (here.utterances, there.utterances) == (("c0-0",), ("c1-0", "c1-1"))
    assert here.devices == there.devices == 2 and here.deadline == there.deadline == 9
    # One that is scheduled at the other device is not the same request.
    other = load(None, {"partition.clients": 20, "deletions.schedule": [{**schedule[0], "client": 1}]})
    fresh = vault_with(tmp_path / "fresh", [VaultEntry("c0-0", "calm", 1, "train", 1, "ann")])
    assert raise_due(other, fresh, 0, 2).all()[0].id != here.id


# ---- several processes, and crashes ----------------------------------------------------------------------

FILER = """
import sys
from pathlib import Path
from fedunlearn.deletion.inbox import FiledRequest, Inbox
inbox = Inbox(Path(sys.argv[1]))
for n in range(int(sys.argv[2])):
    inbox.file(FiledRequest(f"{n:016x}", "named", f"person-{n}", utterances=(f"u{n}",)))
    if n % 3 == 0:
        inbox.file_withdrawal(f"{n:016x}")
    if n % 5 == 0:
        inbox.file(FiledRequest(f"{n:016x}", "named", f"person-{n}", utterances=(f"u{n}",)))
"""


def test_none_is_lost_and_none_read_twice_while_another_process_files(tmp_path: Path) -> None:
    number = 60
    vault = vault_with(tmp_path / "v", [VaultEntry(f"u{n}", "calm", 1, "train", 1) for n in range(number)])
    command = [sys.executable, "-c", FILER, str(vault.folder), str(number)]
    filer = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    listenings = 0
    while filer.poll() is None:
        listen(vault, listenings)
        listenings += 1
    assert filer.wait() == 0
    store = listen(vault, listenings)
    assert sorted(r.id for r in store) == [f"{n:016x}" for n in range(number)]
    assert {r.id for r in store if r.state is RequestState.WITHDRAWN} == {
        f"{n:016x}" for n in range(0, number, 3)
    }
    assert len({r.round for r in store}) > 1, "all were filed before the first listening: nothing was tested"


def test_two_devices_processes_do_not_undo_each_others_writing(tmp_path: Path) -> None:
    """A reply after its timeout: both are at work on one store, one adding, one moving states."""
    count = 40
    adding = """
import sys
from pathlib import Path
from fedunlearn.deletion.request import DeletionRequest, RequestState
from fedunlearn.deletion.request_store import RequestStore
book = RequestStore(Path(sys.argv[1]))
for n in range(int(sys.argv[2])):
    name = f"{sys.argv[3]}-{n}"
    book.add([DeletionRequest(name, 0, "all", n, name, ("u",))])
    book.set_state([name], RequestState.UNLEARNED)
"""
    command = [sys.executable, "-c", adding, str(tmp_path), str(count)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen([*command, name], env=environment) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    store = RequestStore(tmp_path).all()
    assert len(store) == 2 * count and {r.state for r in store} == {RequestState.UNLEARNED}


def test_a_disk_that_fills_up_loses_no_request(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox(vault.folder)
    inbox.file(new_request(1))
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            listen(vault)
        with pytest.raises(OSError, match="disk full"):
            inbox.file(new_request(2))
    assert [w.id for w in inbox.waiting()] == [new_request(1).id]
    assert [r.id for r in listen(vault)] == [new_request(1).id]


@given(names=st.text(max_size=9), number=st.integers(0, 9))
@settings(max_examples=25)
def test_a_request_survives_being_filed(names: str, number: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        filed = new_request(7, "named", utterances=(names, "b"), deadline=number or None, reason=names)
        Inbox(Path(folder)).file(filed)
        (waiting,) = Inbox(Path(folder)).waiting()
        assert waiting.request == filed


class LifeOfRequests(RuleBasedStateMachine):
    """A device, the people who ask and a server that serves; beside it, what must be true of each request."""

    filed_requests = Bundle("filed requests")

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.vault = six(self.folder / "vault")
        self.inbox, self.store = Inbox(self.vault.folder), RequestStore(self.vault.folder)
        self.rounds_done, self.number = 0, 0
        self.filed: dict[str, FiledRequest] = {}
        self.leaving: set[str] = set()
        self.expected: dict[str, tuple[RequestState, tuple[str, ...]]] = {}
        self.emotion = {e.id: e.emotion for e in self.vault.entries.values()}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(
        target=filed_requests,
        utterances=st.sets(st.sampled_from(["t0", *(f"u{i}" for i in range(6))]), min_size=1),
    )
    def request_some(self, utterances: set[str]) -> FiledRequest:
        return self.file("named", utterances=tuple(sorted(utterances)))

    @rule(target=filed_requests, emotion=st.sampled_from(["angry", "calm"]))
    def request_an_emotion(self, emotion: str) -> FiledRequest:
        return self.file("emotion", emotion=emotion)

    def file(self, what: str, **more: object) -> FiledRequest:
        self.number += 1
        new = new_request(self.number, what, **more)
        self.request_again(new)
        return new

    @rule(known=filed_requests)
    def request_again(self, known: FiledRequest) -> None:
        """The same request, by its id: also after it was withdrawn, or purged."""
        self.inbox.file(known)
        self.filed[known.id] = known

    @rule(known=filed_requests)
    def withdraw(self, known: FiledRequest) -> None:
        self.inbox.file_withdrawal(known.id)
        self.leaving.add(known.id)

    @rule(crash=st.sampled_from(["none", "none", "before the store", "before unlinking"]))
    def listen(self, crash: str) -> None:
        self.rounds_done += 1
        waiting = self.inbox.waiting()
        if crash == "before the store" and any(w.request and w.id not in self.expected for w in waiting):
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("killed")))
                with pytest.raises(OSError, match="killed"):
                    raise_due(NO_SCHEDULE, self.vault, 0, self.rounds_done)
            assert self.inbox.waiting() == waiting
            return
        kept = {w.file: w.file.read_bytes() for w in waiting}
        raise_due(NO_SCHEDULE, self.vault, 0, self.rounds_done)
        assert self.inbox.waiting() == ()
        for file in waiting:
            if file.request and file.request.id not in self.expected:
                self.expected[file.request.id] = self.outcome(file.request)
        for name in self.leaving & self.expected.keys():
            state, utterances = self.expected[name]
            if state is RequestState.RAISED:
                self.expected[name] = RequestState.WITHDRAWN, utterances
        if crash == "before unlinking":
            for path, content in kept.items():
                path.write_bytes(content)
        else:
            self.filed.clear()
            self.leaving.clear()

    def outcome(self, asked: FiledRequest) -> tuple[RequestState, tuple[str, ...]]:
        spoken_for = {
            u for state, ids in self.expected.values() if state is not RequestState.WITHDRAWN for u in ids
        }
        meant = (u for u, e in self.emotion.items() if u in asked.utterances or e == asked.emotion)
        left = tuple(u for u in meant if u not in spoken_for)
        return (RequestState.RAISED, left) if left else (RequestState.REFUSED, ())

    @rule(known=filed_requests)
    def unlearn(self, known: FiledRequest) -> None:
        self.serve(
            known.id,
            RequestState.UNLEARNED,
            {RequestState.RAISED, RequestState.UNLEARNED, RequestState.PURGED},
        )

    @rule(known=filed_requests)
    def purge(self, known: FiledRequest) -> None:
        """Of what was unlearned, or never learned; the vault first, the store after it; perhaps once more."""
        state, utterances = self.expected.get(known.id, (None, ()))
        if state in {RequestState.RAISED, RequestState.UNLEARNED, RequestState.PURGED}:
            self.vault.purge(utterances)
        self.serve(
            known.id, RequestState.PURGED, {RequestState.RAISED, RequestState.UNLEARNED, RequestState.PURGED}
        )

    def serve(self, name: str, state: RequestState, possible: set[RequestState]) -> None:
        now, utterances = self.expected.get(name, (None, ()))
        if now is None:
            self.store.set_state([name], state)  # not known yet: no effect
        elif now in possible:
            self.store.set_state([name], state)
            self.expected[name] = (now if now is RequestState.PURGED else state), utterances
        else:
            with pytest.raises(ImpossibleStep):
                self.store.set_state([name], state)

    @invariant()
    def every_request_had_one_effect_and_the_right_one(self) -> None:
        store = self.store.all()
        assert {r.id: (r.state, (*r.utterances, *r.held_out)) for r in store} == self.expected
        assert not any(u.startswith("t") for r in store for u in r.utterances)
        assert len(store) == len(self.expected)

    @invariant()
    def no_utterance_is_requested_twice_and_the_purged_ones_are_gone(self) -> None:
        active = [
            r for r in self.store.all() if r.state not in {RequestState.WITHDRAWN, RequestState.REFUSED}
        ]
        named = [u for r in active for u in (*r.utterances, *r.held_out)]
        assert len(named) == len(set(named))
        gone = {u for r in active if r.state is RequestState.PURGED for u in (*r.utterances, *r.held_out)}
        assert Vault(self.vault.folder).entries.keys() == self.emotion.keys() - gone

    @invariant()
    def reports_name_nobody(self) -> None:
        report = json.dumps(
            report_requests(self.store, self.vault.entries, self.rounds_done, self.rounds_done)
        )
        assert not any(u in report for u in self.emotion)


LifeOfRequests.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLifeOfRequests = LifeOfRequests.TestCase
