"""A run computed again from its settings: what its ledger says of models, updates and recordings is so."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import call_wide as call
from flwr.app import Context, Message
from forged_ledgers import made_anew, rewrite, rows, statements
from rich.console import Console
from small_run import prepared, resumed, run_small, small_config

import fedunlearn.deletion.receipts
import fedunlearn.server.unlearn_step
from fedunlearn.audit.ledger_check import check_ledger
from fedunlearn.audit.replay import ReplayFinding, ReplayVerdict, RunReplay, effective_rows, replay_run
from fedunlearn.checkpoints import load_checkpoint, save_checkpoint
from fedunlearn.config import Config
from fedunlearn.deletion.inbox import FiledRequest, Inbox
from fedunlearn.deletion.receipts import read_receipt
from fedunlearn.engines.engine import play
from fedunlearn.experiment.experiment import write_completed
from fedunlearn.experiment.ledger_digests import LedgerDigests
from fedunlearn.experiment.progress import Progress
from fedunlearn.ledger import LedgerEntry, LedgerReader, RoundDigests, blinded_update, update_key
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.update import Update
from fedunlearn.run_folder import RunFolder
from fedunlearn.server.aggregation import RunningMean
from fedunlearn.server.request_tracker import weights_digest
from fedunlearn.unlearning import METHODS, PRIVILEGED
from fedunlearn.vault.vault import Vault

CLIENTS = 4
REQUESTER = 1
BRIEF: dict[str, Any] = {
    "corpus__utterances": 10,
    "partition__clients": CLIENTS,
    "partition__unseen_speakers": 0,
    "training__rounds": 2,
    "deletions__schedule": [{"client": REQUESTER, "what": "some", "count": 3, "after_learning": 0}],
}
"""two rounds of learning, one deletion, one round of recovery"""
BY_PERSON = "0123456789abcdef"


def brief(**overrides: Any) -> Config:
    return small_config(**(BRIEF | overrides))


def replayed(run: RunFolder, receipts: Sequence[Path] = ()) -> RunReplay:
    return replay_run(run, None, Progress(Console(quiet=True)), receipts)


def played(out: Path, config: Config | None = None) -> RunFolder:
    run_small(out, config or brief())
    return RunFolder(out)


def entries(run: RunFolder) -> tuple[LedgerEntry, ...]:
    with LedgerReader(run.ledger) as ledger:
        return ledger.entries()


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return played(tmp_path_factory.mktemp("honest") / "run")


@pytest.fixture
def run(honest: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(honest.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture
def receipt(run: RunFolder, tmp_path: Path) -> Path:
    """The requester's receipt, as it keeps a copy of it."""
    (file,) = run.vaults.glob("*/receipts/*.json")
    return Path(shutil.copy(file, tmp_path / "mine.json"))


# ---- what the ledger records -----------------------------------------------------------------------------


def test_the_ledger_records_every_round_in_order(honest: RunFolder) -> None:
    """Calibration, two rounds of four clients, the requester's step, its purge, one recovery of four."""
    models = [e for e in entries(honest) if e.is_of_model]
    found = [(e.state, e.round, len(RoundDigests.of_text(e.content).updates)) for e in models]
    assert found == [
        ("calibrate", 0, 0),
        ("learn", 1, CLIENTS),
        ("learn", 2, CLIENTS),
        ("unlearn", 2, 1),
        ("purge", 2, 0),
        ("recover", 3, CLIENTS),
    ]


def test_models_in_the_ledger_are_those_in_the_run_folder_and_in_the_receipt(
    honest: RunFolder, receipt: Path
) -> None:
    models = {e.state: RoundDigests.of_text(e.content).model for e in entries(honest) if e.is_of_model}
    for name, phase in (("recovered", "recover"), ("unlearned", "unlearn")):
        weights, _ = load_checkpoint(honest.checkpoints / f"{name}.safetensors")
        assert models[phase] == weights_digest(weights)
    assert models["purge"] == models["unlearn"]
    read = read_receipt(receipt)
    assert read.model == (2, models["unlearn"])
    before = [e for e in entries(honest) if (e.state, e.round) == ("learn", 2)]
    assert [RoundDigests.of_text(e.content).model for e in before] == [read.model_before]
    place = {e.hash: e.position for e in entries(honest)}
    (unlearn,) = [e for e in entries(honest) if e.state == "unlearn"]
    assert place[read.head_at_purge] >= unlearn.position


def test_every_device_commits_at_first_contact_and_again_after_its_purge(honest: RunFolder) -> None:
    with LedgerReader(honest.ledger) as ledger:
        committed = [e for e in ledger.entries() if e.state == "committed"]
        own = [e.content for e in committed if e.subject == ledger.subject(REQUESTER)]
    assert len(committed) == CLIENTS + 1 and len(set(own)) == 2
    assert [e.round for e in committed] == [0] * CLIENTS + [2]


def test_a_cached_original_leaves_the_ledger_of_a_trained_one(honest: RunFolder, tmp_path: Path) -> None:
    run_small(tmp_path / "again", brief(), cache=honest.path.parent / "run-references")
    results = json.loads((tmp_path / "again" / "results.json").read_text())
    assert results["times"]["references"]["original"] == "cached"
    assert entries(RunFolder(tmp_path / "again")) == entries(honest)


class KeptUpdates:
    """What each client knows of its own updates: a digest of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.digests: dict[tuple[str, int, int], str] = {}
        note = LedgerDigests.on_update

        def keep(digests: LedgerDigests, update: Update, phase: Phase, timeline_round: int) -> None:
            self.digests[str(phase), timeline_round, update.client] = update.digest
            note(digests, update, phase, timeline_round)

        monkeypatch.setattr(LedgerDigests, "on_update", keep)

    def missing(self, run: RunFolder) -> list[tuple[str, int, int]]:
        """(phase, round, client) of each update that its client, told the key, does not find."""
        with LedgerReader(run.ledger) as ledger:
            assert ledger.salt is not None
            there = {
                (e.state, e.round): RoundDigests.of_text(e.content).updates
                for e in ledger.entries()
                if e.is_of_model
            }
            return [
                key
                for key, digest in self.digests.items()
                if blinded_update(update_key(ledger.salt, *key), digest) not in there[key[:2]]
            ]


# ---- honest runs -----------------------------------------------------------------------------------------


def test_an_honest_run_is_computed_again(honest: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in honest.path.rglob("*") if path.is_file()}
    code, output = call("audit", "replay", honest.path)
    assert code == 0, output
    assert "6 models, 13 updates and 5 commitments of devices are what the experiment gives" in output
    assert before == {path: path.read_bytes() for path in honest.path.rglob("*") if path.is_file()}


def file_for(out: Path, client: int, **request: Any) -> None:
    Inbox(RunFolder(out).vault(client)).file(FiledRequest(event=f"person-{request['id']}", **request))


def test_what_people_filed_after_the_end_is_computed_again(tmp_path: Path) -> None:
    """The ids of what was deleted are dropped by the device, and stand in the receipt."""
    out, config = tmp_path / "run", brief(deletions__schedule=[])
    experiment = prepared(out, config, tmp_path / "cache")
    write_completed(experiment, play(experiment))
    file_for(out, 2, id=BY_PERSON, what="emotion", emotion="sad")
    file_for(out, 3, id=BY_PERSON[::-1], what="named", utterances=("nobody's",))
    resumed(out, config, tmp_path / "cache")
    found = replayed(RunFolder(out))
    assert found.verdict is ReplayVerdict.REPRODUCED, found.line
    assert {"unlearn", "purge"} <= {e.state for e in entries(RunFolder(out))}


EARLY = [{"client": 2, "what": "all", "round": 1}]
LATER = [{"client": 1, "count": 2, "round": 1}]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"federation__engine": "ray", "federation__workers": 2},
        {"availability__drop": 0.5, "availability__slow": 0.7, "availability__offline": 0.2},
        {"unlearning__aggregation": "sequential"},
        *({"unlearning__method": name} for name in PRIVILEGED),
        *({"unlearning__method": name} for name, card in METHODS.items() if card.reads_tickets),
        {"deletions__schedule": EARLY, "partition__recordings": LATER},
    ],
    ids=str,
)
def test_runs_of_every_kind_are_computed_again(tmp_path: Path, overrides: Mapping[str, Any]) -> None:
    two = [{"client": c, "what": "some", "count": 2, "after_learning": 0} for c in (1, 2)]
    config = brief(**({"deletions__schedule": two} | overrides))
    found = replayed(played(tmp_path / "run", config))
    assert found.verdict is ReplayVerdict.REPRODUCED, found.line


def test_rounds_that_were_played_again_count_as_they_were_played_last() -> None:
    """Round 3 was lost in a crash; meanwhile somebody filed a request, so that it became another one."""
    row = LedgerEntry(1, "", "", 0, "calibrate", "", "", "{}")
    lost = [(1, "learn"), (2, "learn"), (3, "learn")]
    again = [(2, "unlearn"), (2, "purge"), (3, "recover"), (3, "recover")]
    played_rows = [replace(row, round=r, state=s, position=n) for n, (r, s) in enumerate([*lost, *again])]
    kept, repeated = effective_rows(played_rows)
    assert [e.position for e in kept] == [0, 1, 3, 4, 6] and repeated == 2


# ---- servers that cheat ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_update_scaled_down_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger says truly what arrived; the model that was made of it is another one."""
    apply = fedunlearn.server.unlearn_step.apply_unlearn_updates

    def scaled(weights: Any, updates: Any, inputs: Any, ids: Any) -> Any:
        return apply(weights, updates, replace(inputs, share=0.1), ids)

    with monkeypatch.context() as patched:
        kept = KeptUpdates(patched)
        patched.setattr(fedunlearn.server.unlearn_step, "apply_unlearn_updates", scaled)
        run = played(tmp_path / "run")
    found = replayed(run)
    assert found.difference is not None
    assert (found.difference.finding, found.difference.phase) == (ReplayFinding.MODEL, "unlearn")
    # Nobody else: folder and receipts are consistent, and each client finds its own update.
    assert check_ledger(run).contradictions == () and kept.missing(run) == []


@pytest.mark.parametrize("recorded", [False, True])
def test_a_client_that_was_left_out_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    """Where the server does not record its updates either, the client finds that by itself."""
    add, note = RunningMean.add, LedgerDigests.on_update

    def left_out(mean: RunningMean, update: Update) -> None:
        if update.client != 2 or "mean_square" in update.difference:  # all count in the calibration
            add(mean, update)

    def unrecorded(digests: LedgerDigests, update: Update, *when: Any) -> None:
        if recorded or update.client != 2:
            note(digests, update, *when)

    with monkeypatch.context() as patched:
        patched.setattr(RunningMean, "add", left_out)
        patched.setattr(LedgerDigests, "on_update", unrecorded)
        kept = KeptUpdates(patched)
        run = played(tmp_path / "run")
    found = replayed(run)
    assert found.difference is not None and (found.rounds, found.difference.round) == (1, 1)
    assert found.difference.finding is (ReplayFinding.MODEL if recorded else ReplayFinding.UPDATES)
    assert check_ledger(run).contradictions == ()
    assert {client for _, _, client in kept.missing(run)} == (set() if recorded else {2})


def test_a_device_with_other_recordings_than_the_corpus_gives_it_is_found(tmp_path: Path) -> None:
    experiment = prepared(tmp_path / "run", brief())
    vault = Vault(experiment.run.vault(3))
    vault.purge(vault.ids("train")[:1])
    experiment.run.write_results(play(experiment).to_json())
    found = replayed(experiment.run)
    assert found.difference is not None and found.difference.finding is ReplayFinding.COMMITMENT
    assert "client 3 committed to other recordings" in found.line


# ---- ledgers and folders that were changed ---------------------------------------------------------------


def cut(run: RunFolder) -> None:
    """The last round is cut off; the heads in results.json and in the checkpoints are made to fit."""
    made_anew(run, rows(run)[:-1])


def other_digest(run: RunFolder) -> None:
    """The digest of one model is another one, and the chain is made anew."""
    changed = [(*row[:4], row[4].replace('"model": "', '"model": "0')[:-1] + "}") for row in rows(run)]
    made_anew(run, [new if old[3] == "recover" else old for old, new in zip(rows(run), changed, strict=True)])


def without_round(run: RunFolder) -> None:
    made_anew(run, [row for row in rows(run) if row[2:4] != (2, "learn")])


def later_purge(run: RunFolder) -> None:
    made_anew(run, [(*row[:2], row[2] + (row[3] == "purged"), *row[3:]) for row in rows(run)])


def without_receipts(run: RunFolder) -> None:
    """Receipts and the requests of results.json go, too, so that nothing in the folder contradicts."""
    for file in run.vaults.glob("*/receipts/*.json"):
        file.unlink()
    rewrite(run.results, status="partial", requests=[])


@pytest.mark.parametrize(
    ("change", "finding", "words"),
    [
        (cut, ReplayFinding.MISSING, "recover in round 3 is not in the ledger"),
        (other_digest, ReplayFinding.MODEL, "the updates are right, but another model was made of them"),
        (without_round, ReplayFinding.MISSING, "has learn in round 2 here"),
        (later_purge, ReplayFinding.REQUEST, "in round 2"),
    ],
)
def test_a_ledger_that_was_made_anew_is_found_by_replay_and_by_a_kept_receipt(
    run: RunFolder, receipt: Path, change: Callable[[RunFolder], None], finding: ReplayFinding, words: str
) -> None:
    without_receipts(run)
    change(run)
    assert call("ledger", "verify", run.path, "--receipt", receipt)[0] == 3
    found = replayed(run)
    assert found.difference is not None and found.difference.finding is finding and words in found.line


def test_a_final_model_that_was_swapped_is_found(run: RunFolder) -> None:
    """With its manifest made to fit, the file is whole in itself; its digest is not the ledger's."""
    weights, about = load_checkpoint(run.checkpoints / "original.safetensors")
    save_checkpoint(run.checkpoints / "recovered.safetensors", weights, about)
    code, output = call("ledger", "verify", run.path)
    assert code == 3 and "recovered.safetensors: is not the model of row" in output


def test_a_receipt_with_another_model_is_found(run: RunFolder) -> None:
    """Its digest and its head fit; the models that it says unlearning began with and gave are none."""
    (file,) = run.vaults.glob("*/receipts/*.json")
    content = json.loads(file.read_text())
    for part, words in (("before", "is in no row before row"), ("sha256", "is not in the ledger")):
        forged = {**content, "from_model": {**content["from_model"], part: "ab" * 32}}
        fedunlearn.deletion.receipts._write(file, forged)
        code, output = call("ledger", "verify", run.path)
        assert code == 3 and "abababababab" in output and words in output, output


def test_an_older_copy_of_the_folder_is_found_by_a_kept_receipt_alone(tmp_path: Path) -> None:
    """The copy is an honest run's that nobody had asked to delete anything: nothing in it can tell."""
    out, config = tmp_path / "run", brief(deletions__schedule=[])
    experiment = prepared(out, config, tmp_path / "cache")
    write_completed(experiment, play(experiment))
    shutil.copytree(out, tmp_path / "older")
    file_for(out, 2, id=BY_PERSON, what="emotion", emotion="sad")
    resumed(out, config, tmp_path / "cache")
    (own,) = out.glob("vaults/*/receipts/*.json")
    mine = Path(shutil.copy(own, tmp_path / "mine.json"))
    shutil.rmtree(out)
    shutil.copytree(tmp_path / "older", out)
    assert replayed(RunFolder(out)).verdict is ReplayVerdict.REPRODUCED  # not found without a receipt
    assert call("ledger", "verify", out)[0] == 0
    code, output = call("audit", "replay", out, "--receipt", mine)
    assert code == 3 and "is missing (row" in output, output


@pytest.mark.slow
def test_another_honest_run_in_its_place_is_found_by_a_kept_receipt_alone(
    run: RunFolder, receipt: Path, tmp_path: Path
) -> None:
    """Who plays a whole run of other settings and puts it there has a folder without contradictions."""
    shutil.rmtree(run.path)
    other = played(tmp_path / "run", brief(training__local__steps=1))
    assert check_ledger(other).contradictions == ()
    assert replayed(other).verdict is ReplayVerdict.REPRODUCED  # not found without a receipt
    assert check_ledger(other, receipts=[receipt]).contradictions != ()


# ---- what cannot be decided ------------------------------------------------------------------------------


def test_the_ledger_of_an_earlier_version_is_read_and_says_nothing_of_models(run: RunFolder) -> None:
    made_anew(run, [row for row in rows(run) if not row[4]])
    statements(run, "ALTER TABLE entries DROP COLUMN content")
    assert call("ledger", "show", run.path)[0] == 0
    assert [e.content for e in entries(run)] == [""] * len(entries(run)) != []
    code, output = call("audit", "replay", run.path)
    assert code == 4 and output.count("\n") == 1 and "written by an earlier version" in output


def test_a_reply_that_was_lost_in_the_run_leaves_it_undecided(tmp_path: Path) -> None:
    """Client 2 failed in round 2 and was not asked again: its update is not in the ledger, and rightly so."""

    def failing(message: Message, context: Context, call_next: Any) -> Message:
        settings = message.content.config_records.get("settings", {})
        when = settings.get("phase"), settings.get("round")
        if (context.node_config["partition-id"], *when) == (2, "learn", 2):
            raise OSError("no battery")
        reply: Message = call_next(message, context)
        return reply

    run_small(tmp_path / "run", brief(federation__retries=0, federation__quorum=0.7), mods=[failing])
    found = replayed(RunFolder(tmp_path / "run"))
    assert found.verdict is ReplayVerdict.UNDECIDED and found.rounds == 2, found
    assert "client 2 failed in round 2 (learn)" in found.line


def test_what_is_no_run_folder_is_said_in_one_line(tmp_path: Path) -> None:
    code, output = call("audit", "replay", tmp_path)
    assert code == 2 and output.count("\n") == 1 and "is no run folder" in output
