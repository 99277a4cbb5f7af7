"""Cheating servers on a small federation: each does what it says, and exact checks find whom they should."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from audited_runs import FIRST, SECOND, AuditedRuns
from rich.console import Console
from torch import Tensor

from fedunlearn.audit.client_record import check_alone
from fedunlearn.audit.replay import ReplayVerdict, replay_run
from fedunlearn.deletion.receipts import read_receipt
from fedunlearn.experiment.progress import Progress
from fedunlearn.ledger import LedgerReader
from fedunlearn.study.audit_bench.audit_file import Contradictions
from fedunlearn.study.audit_bench.cheats import CHEATS
from fedunlearn.study.audit_bench.trial import AuditTrial

ALL = {"requester", "committee", "auditor", "auditor_with_records", "replay"}
REPLAY = {"replay"}
RECORDS = {"auditor_with_records", "replay"}
WHO_FINDS: dict[str, set[str]] = {
    "honest": set(),
    "sham": REPLAY,
    "ignore": ALL,
    "partial-retraining": REPLAY,
    "scale": REPLAY,
    "one-of-two": REPLAY,
    "other-update": REPLAY,
    "rollback": ALL - {"auditor"},
    "relearn": REPLAY,
    "old-model": ALL - {"auditor"},
    "swap": ALL - {"auditor"},
    "two-faced": {"committee", *RECORDS},
    "delay": ALL,
    "forged-receipt": ALL,
    "repeated-receipt": ALL,
    "edited-row": {"auditor", *RECORDS},
    "cut-ledger": {"auditor", *RECORDS},
    "erased-request": RECORDS,
    "hoard": set(),
}
"""server -> verifiers whose exact checks find it"""
SLOW = {"sham", "partial-retraining", "other-update", "old-model", "swap", "delay", "forged-receipt"}
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in WHO_FINDS]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> AuditedRuns:
    return AuditedRuns(tmp_path_factory.mktemp("audited"))


def step_of(trial: AuditTrial, client: int = SECOND) -> dict[str, Tensor]:
    """What the model moved by between the one that a client unlearned from and the next."""
    record = trial.records[client]
    following = record.next_model
    assert following is not None
    before, after = trial.wire.weights[record.sent_to_unlearn], trial.wire.weights[following.digest]
    return {name: (after[name] - before[name]).double() for name in before}


def length(change: Mapping[str, Tensor]) -> float:
    return sum(float(value.square().sum()) for value in change.values()) ** 0.5


def along(change: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Cosine of the angle between two changes."""
    product = sum(float((change[name] * other[name]).sum()) for name in change)
    return product / (length(change) * length(other))


def receipt_names(trial: AuditTrial, client: int = SECOND) -> str:
    (path,) = trial.records[client].receipts
    named = read_receipt(path).model
    assert named is not None
    return named[1]


def digest_after(trial: AuditTrial, client: int = SECOND) -> str:
    following = trial.records[client].next_model
    assert following is not None
    return following.digest


def test_every_server_of_the_bench_is_expected_to_be_found_by_somebody_or_says_why_not() -> None:
    assert set(WHO_FINDS) == set(CHEATS)
    assert len([c for c in CHEATS.values() if not c.control]) >= 12
    for cheat in CHEATS.values():
        assert cheat.control or bool(WHO_FINDS[cheat.name]) == (not cheat.why_not)


@pytest.mark.parametrize("name", NAMES)
def test_exact_checks_find_a_server_or_pass_it(runs: AuditedRuns, name: str) -> None:
    found: Contradictions = runs.seen(name).contradictions
    assert {verifier for verifier, lines in found if lines} == WHO_FINDS[name], found


def test_the_honest_server_is_what_its_receipts_and_a_replay_say(runs: AuditedRuns) -> None:
    honest = runs.honest
    assert receipt_names(honest) == digest_after(honest) == runs.recomputed.unlearned
    assert {record.final for record in honest.records} == {runs.recomputed.recovered}
    assert [m.occasion for m in honest.records[SECOND].received] == ["unlearn", "train", "train", "final"]
    assert [m.occasion for m in honest.records[0].received] == ["train", "train", "final"]
    statistics = runs.seen("honest").statistics
    assert statistics.forgets is not None and statistics.forgets < 0


def test_ignoring_leaves_the_model_and_the_receipt_names_it(runs: AuditedRuns) -> None:
    ignored = runs.trial("ignore")
    assert length(step_of(ignored)) == 0
    assert receipt_names(ignored) == ignored.records[SECOND].sent_to_unlearn
    assert runs.seen("ignore").statistics.forgets == 0


def test_scaling_takes_a_tenth_of_the_step(runs: AuditedRuns) -> None:
    whole, tenth = step_of(runs.honest), step_of(runs.trial("scale"))
    for name, value in tenth.items():
        assert torch.allclose(value, 0.1 * whole[name], rtol=1e-3, atol=1e-6)


def test_one_of_two_applies_what_the_first_requester_sent(runs: AuditedRuns) -> None:
    """By "sum" the joint step is the sum of both updates: what is missing is the second requester's."""
    both, first = step_of(runs.honest), step_of(runs.trial("one-of-two"))
    second = {name: both[name] - first[name] for name in both}
    assert 0 < length(first) < length(both) and length(second) > 0
    seen = runs.seen("one-of-two").statistics.forgets
    honest = runs.seen("honest").statistics.forgets
    assert seen is not None and honest is not None and seen > honest / 2


def test_rolling_back_comes_after_an_honest_receipt(runs: AuditedRuns) -> None:
    rolled = runs.trial("rollback")
    assert receipt_names(rolled) == receipt_names(runs.honest)
    assert digest_after(rolled) == rolled.records[SECOND].sent_to_unlearn


def test_relearning_begins_with_the_honest_model_and_gives_all_of_the_step_back(runs: AuditedRuns) -> None:
    relearned = runs.trial("relearn")
    assert digest_after(relearned) == digest_after(runs.honest)
    returns, honest = (runs.seen(name).statistics.returns for name in ("relearn", "honest"))
    assert returns is not None and honest is not None
    assert returns - honest == pytest.approx(1.0, abs=0.25)  # honest updates differ where the model does


def test_two_faces_are_the_honest_one_and_the_one_without_the_step(runs: AuditedRuns) -> None:
    faces = runs.trial("two-faced")
    shown = {
        client: next(m for m in faces.records[client].received if m.occasion == "train")
        for client in (0, FIRST, SECOND)
    }
    assert shown[FIRST].digest == shown[SECOND].digest == digest_after(runs.honest)
    before = faces.wire.weights[faces.records[SECOND].sent_to_unlearn]
    for name, value in faces.wire.weights[shown[0].digest].items():
        assert torch.allclose(value, before[name], atol=1e-5)


@pytest.mark.slow
def test_other_updates_and_sham_steps_have_the_length_of_the_honest_step(runs: AuditedRuns) -> None:
    honest = step_of(runs.honest)
    for name in ("sham", "other-update"):
        step = step_of(runs.trial(name))
        assert length(step) == pytest.approx(length(honest), rel=1e-3)
        assert along(step, honest) < 0.9
        assert receipt_names(runs.trial(name)) == digest_after(runs.trial(name))


@pytest.mark.slow
def test_a_briefly_trained_model_has_not_moved_as_the_updates_say(runs: AuditedRuns) -> None:
    step = step_of(runs.trial("partial-retraining"))
    assert length(step) > 0 and along(step, step_of(runs.honest)) < 0.9


@pytest.mark.slow
def test_a_swapped_model_is_kept_and_never_sent(runs: AuditedRuns) -> None:
    swapped = runs.trial("swap")
    sent = {model.digest for record in swapped.records for model in record.received}
    assert receipt_names(swapped) == receipt_names(runs.honest)
    assert receipt_names(swapped) not in sent


@pytest.mark.slow
def test_an_old_model_is_deployed_after_an_honest_run(runs: AuditedRuns) -> None:
    old = runs.trial("old-model")
    assert {r.final for r in old.records} == {old.records[SECOND].sent_to_unlearn}
    assert digest_after(old) == digest_after(runs.honest)


def test_an_erased_request_is_in_no_file_of_the_run_folder(runs: AuditedRuns) -> None:
    erased = runs.trial("erased-request")
    name, client = erased.scene.victim
    assert client == SECOND
    with LedgerReader(erased.scene.run.ledger) as ledger:
        assert ledger.states(name, client) == () and ledger.verify() is None
    files = [path for path in erased.scene.run.path.rglob("*") if path.is_file()]
    assert not [path for path in files if name.encode() in path.read_bytes()]


def test_a_receipt_that_nobody_asked_for_is_found_by_the_client(runs: AuditedRuns, tmp_path: Path) -> None:
    record = runs.honest.records[SECOND]
    stranger = tmp_path / "0123456789abcdef.json"
    stranger.write_bytes(record.receipts[0].read_bytes())
    (line,) = check_alone(_with(record, receipts=(*record.receipts, stranger)))
    assert "the receipt of its request 0123456789abcdef is one of request" in line
    stranger.write_bytes(b"{}")
    (line,) = check_alone(_with(record, receipts=(*record.receipts, stranger)))
    assert "is no receipt" in line


@pytest.mark.slow
def test_a_replay_of_the_run_finds_what_its_digests_say(runs: AuditedRuns) -> None:
    progress = Progress(Console(quiet=True))
    assert replay_run(runs.honest.scene.run, None, progress).verdict is ReplayVerdict.REPRODUCED
    for name in ("sham", "scale", "one-of-two", "relearn", "erased-request"):
        assert replay_run(runs.trial(name).scene.run, None, progress).verdict is ReplayVerdict.DIFFERS, name


def _with(record: Any, **changes: Any) -> Any:
    return type(record)(**{**vars(record), **changes})
