"""Computes a run again and compares it with its ledger: proof of execution by replay.

The settings, the seed, the corpus and what people filed decide every number of a run. Computed again from
them, in one process, every model must have the digest that the ledger recorded while the run went on, every
update that was aggregated must be among those of its round, and every device must have committed to the
recordings that the corpus gives it. Who shortens, scales or leaves out a step, or writes the ledger of
another run, is found; who keeps another model beside the run that the ledger describes is not.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from fedunlearn import config as configuration
from fedunlearn.audit.ledger_check import check_ledger, open_ledger
from fedunlearn.audit.ledger_notes import read_stores
from fedunlearn.blockwise import StateDict
from fedunlearn.client.app import make_client_app
from fedunlearn.config import Config
from fedunlearn.deletion.inbox import FiledRequest, Inbox
from fedunlearn.deletion.receipts import BadReceipt, removed_by
from fedunlearn.deletion.request import DeletionRequest
from fedunlearn.engines.inline_grid import InlineGrid
from fedunlearn.errors import BadInput
from fedunlearn.experiment.experiment import Experiment, make_context, make_server
from fedunlearn.experiment.preparation import prepare
from fedunlearn.experiment.progress import Progress
from fedunlearn.experiment.recorder import RunRecorder
from fedunlearn.experiment.references import first_weights
from fedunlearn.experiment.results import versions
from fedunlearn.files import read_json_object
from fedunlearn.ledger import COMMITTED, LedgerEntry, LedgerReader, RoundDigests, broken_link
from fedunlearn.messages.phase import Phase
from fedunlearn.run_folder import RunFolder
from fedunlearn.run_progress import RunPhase
from fedunlearn.server.requests import TrackedRequest
from fedunlearn.server.state import Fault, ServerStep
from fedunlearn.vault.commitment import SECRET

_SIDE_TRAINING = {str(Phase.RETRAIN), str(Phase.COUNTERFACTUAL)}
"""phases of which the ledger has no rows"""


class ReplayVerdict(StrEnum):
    """What a replay has found.

    Attributes:
        REPRODUCED: everything that the ledger records is what the experiment gives.
        DIFFERS: something in it is not.
        UNDECIDED: the ledger does not say enough.
    """

    REPRODUCED = "reproduced"
    DIFFERS = "differs"
    UNDECIDED = "undecided"


class ReplayFinding(StrEnum):
    """What differs first.

    Attributes:
        CHAIN: a row was changed, removed or reordered.
        COMMITMENT: a device committed to other recordings.
        UPDATES: other updates were aggregated in a round.
        MODEL: the updates are the same, the model that was made of them is another.
        MISSING: a round of the experiment is not in the ledger.
        ADDED: the ledger has a round that the experiment does not have.
        REQUEST: a request took another way.
        NOTED: a receipt, a model or another file contradicts the ledger (``ledger_check``).
    """

    CHAIN = "chain"
    COMMITMENT = "commitment"
    UPDATES = "updates"
    MODEL = "model"
    MISSING = "missing"
    ADDED = "added"
    REQUEST = "request"
    NOTED = "noted"


@dataclass(frozen=True)
class ReplayDifference:
    """The first difference between a ledger and the replay of its run.

    Attributes:
        finding: what differs.
        row: position in the ledger; None = the ledger has no such row.
        round: of the timeline; None = of no round.
        phase: of the round; empty = of no round.
        meaning: one line.
    """

    finding: ReplayFinding
    row: int | None
    round: int | None
    phase: str
    meaning: str


@dataclass(frozen=True)
class RunReplay:
    """The result of a replay.

    Attributes:
        verdict: what was found.
        rounds: models in the ledger that the replay has, too, up to the first difference.
        updates: updates in these rounds.
        commitments: commitments of devices that the replay has, too.
        repeated: rows of rounds that the run played again after it was interrupted, and which do not count.
        difference: the first; None = there is none.
        reason: why it is undecided, in one line; empty where it is decided.
    """

    verdict: ReplayVerdict
    rounds: int = 0
    updates: int = 0
    commitments: int = 0
    repeated: int = 0
    difference: ReplayDifference | None = None
    reason: str = ""

    @property
    def line(self) -> str:
        """The result in one line."""
        if self.difference is not None:
            return self.difference.meaning
        if self.reason:
            return self.reason
        again = f"; {self.repeated} rows are of rounds that were played again" if self.repeated else ""
        return (
            f"{self.rounds} models, {self.updates} updates and {self.commitments} commitments of devices are "
            f"what the experiment gives{again}"
        )


def replay_run(
    run: RunFolder, data: Path | None, progress: Progress, receipts: Sequence[Path] = ()
) -> RunReplay:
    """Compute a run again, and compare it with its ledger.

    The run folder is only read. The replay needs as long as the run's own rounds in one process, and room
    for the devices' vaults in the folder for temporary files.

    Args:
        run: the folder; the run has ended, or was interrupted.
        data: folder of the corpus; None = where the run read it.
        progress: shown meanwhile.
        receipts: copies that are kept outside of the run folder.

    Raises:
        BadInput: the folder is not of a run; or its settings, the corpus or a receipt cannot be read.
        RunFailed: the ledger is none; or the replay lost its quorum.
    """
    noted = check_ledger(run, receipts=receipts)
    with open_ledger(run) as ledger:
        entries, salt = ledger.entries(), ledger.salt
    if broken := broken_link(entries):
        broken = f"{run.ledger}: {broken}"
        return _differs(ReplayDifference(ReplayFinding.CHAIN, None, None, "", broken))
    models, repeated = effective_rows(entries)
    if not models or models[0].state != Phase.CALIBRATE:
        since = f"before row {models[0].position}" if models else "at all"
        reason = f"{run.ledger}: has no digests of models {since}; it was written by an earlier version"
        return RunReplay(ReplayVerdict.UNDECIDED, reason=reason)
    config, filed = _config_of(run, data), _filed_by_people(run)
    with tempfile.TemporaryDirectory() as folder:
        again = RunFolder(Path(folder) / "run")
        experiment = prepare(config, again.path, Path(folder) / "references", progress)
        try:
            if salt is not None and salt != experiment.recorder.ledger.salt:
                reason = f"{run.ledger}: its salt is not the one that follows from the run's seed"
                return RunReplay(ReplayVerdict.UNDECIDED, reason=reason)
            _take_over_secrets(run, again)
            with progress.phase(RunPhase.LEARN, len(models)):
                _play(experiment, filed, len(models), progress)
        finally:
            experiment.close()
        with LedgerReader(again.ledger) as ledger:
            found = _RunComparison(run, entries, models, repeated, ledger).result()
        if reason := _why_undecided(run, found, experiment.state.faults):
            return replace(found, verdict=ReplayVerdict.UNDECIDED, difference=None, reason=reason)
    if found.difference is None and noted.contradictions:
        difference = ReplayDifference(ReplayFinding.NOTED, None, None, "", noted.contradictions[0])
        return replace(found, verdict=ReplayVerdict.DIFFERS, difference=difference)
    return found


def effective_rows(entries: Sequence[LedgerEntry]) -> tuple[list[LedgerEntry], int]:
    """Select the rows of models that count.

    A run that was killed goes on from its last checkpoint. Rounds that it plays again are in the ledger once
    if they give the same; where somebody filed a request meanwhile, they may give something else, and the
    later rows count.

    Args:
        entries: of a ledger.

    Returns:
        (the rows in order, number of rows that do not count)
    """
    models: list[LedgerEntry] = []
    repeated = 0
    for row in (e for e in entries if e.is_of_model):
        while models and _is_before(row, models[-1]):
            models.pop()
            repeated += 1
        models.append(row)
    return models, repeated


def _is_before(row: LedgerEntry, other: LedgerEntry) -> bool:
    """Whether a row cannot follow another one: it is of an earlier round, or of the same one and phase."""
    return row.round < other.round or (row.round, row.state) == (other.round, other.state)


# ---- computing the run again -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Filed:
    """What a person filed at one device: a request, or the withdrawal of one."""

    client: int
    rounds_done: int
    request: FiledRequest | None
    withdraws: str = ""


def _config_of(run: RunFolder, data: Path | None) -> Config:
    changes: dict[str, Any] = {"federation.engine": "inline", "federation.checkpoint_every": 0}
    if data is not None:
        changes["corpus.path"] = str(data)
    return configuration.load(run.config, changes)


def _filed_by_people(run: RunFolder) -> list[_Filed]:
    """Read what people filed: all that the settings do not schedule or draw."""
    unusable: list[str] = []
    stores = read_stores(run, unusable)
    if unusable:
        raise BadInput(unusable)
    filed = []
    for (name, client), request in stores.items():
        if request.event == f"person-{name}":
            filed.append(_Filed(client, request.round, _as_filed(run, client, request)))
        if request.withdrawn is not None:
            filed.append(_Filed(client, request.withdrawn, None, name))
    return filed


def _as_filed(run: RunFolder, client: int, request: DeletionRequest) -> FiledRequest:
    """A request as its person filed it; what a closed one named is in its receipt."""
    named = (*request.utterances, *request.held_out)
    if not named:
        try:
            named = removed_by(run.vault(client), request.id)
        except BadReceipt as error:
            raise BadInput(str(error)) from error
    return FiledRequest(
        request.id,
        "named",
        request.event,
        utterances=named,
        deadline=request.deadline,
        devices=request.devices,
    )


def _take_over_secrets(run: RunFolder, again: RunFolder) -> None:
    """Copy the secrets of real devices, where they were revealed."""
    for client in again.clients():
        secret = run.vault(client) / SECRET
        if secret.is_file():
            (again.vault(client) / SECRET).write_bytes(secret.read_bytes())


class _Replayed:
    """Callbacks that write the ledger of the replay, and nothing else."""

    def __init__(self, recorder: RunRecorder, progress: Progress) -> None:
        self._recorder, self._progress = recorder, progress
        self.digests = recorder.digests

    def on_round_end(self, row: Mapping[str, Any], weights: StateDict | None) -> None:
        self._progress.step()

    def on_request_state(self, request: TrackedRequest, state: str, timeline_round: int) -> None:
        self._recorder.on_request_state(request, state, timeline_round)

    def ledger_head(self) -> str:
        return self._recorder.ledger_head()

    def on_first_request(self) -> None:
        pass

    def on_unlearn_updates(self, *_: object) -> dict[int, Any]:
        return {}

    def checkpoint(self, copies: int = 1) -> None:
        pass


def _play(experiment: Experiment, filed: Sequence[_Filed], rounds: int, progress: Progress) -> None:
    """Play the main line of a run; people file when they did."""
    state, run = experiment.state, experiment.run
    callbacks = _Replayed(experiment.recorder, progress)
    client_app = make_client_app(str(run.path.resolve()))
    grid = InlineGrid(client_app, len(experiment.partition.clients))
    context = make_context(grid, experiment.prepared, state, callbacks, experiment.stop)
    server = make_server(context)
    server.begin(first_weights(experiment.config, experiment.judge.classes, experiment.config.seed))
    waiting = sorted(filed, key=lambda one: one.rounds_done)

    def file_what_is_due() -> None:
        while waiting and waiting[0].rounds_done <= state.rounds_done:
            one = waiting.pop(0)
            inbox = Inbox(run.vault(one.client))
            inbox.file(one.request) if one.request else inbox.file_withdrawal(one.withdraws)

    def listening() -> bool:
        if state.step is ServerStep.LISTEN:
            file_what_is_due()
        return False

    server.play(listening)
    # The run may have been resumed after its end, with new requests or to try open ones again.
    while waiting or callbacks.digests.models < rounds:
        file_what_is_due()
        if not server.listen_again(retry_open=True):
            break
        server.play(listening)


# ---- comparing -------------------------------------------------------------------------------------------


class _RunComparison:
    """Compares the rows of a ledger with those of the replay."""

    def __init__(
        self,
        run: RunFolder,
        entries: Sequence[LedgerEntry],
        models: Sequence[LedgerEntry],
        repeated: int,
        replayed: LedgerReader,
    ) -> None:
        self._run, self._entries, self._models, self._repeated = run, entries, models, repeated
        self._replayed, self._again = replayed, replayed.entries()

    def result(self) -> RunReplay:
        """Compare all of it."""
        commitments, difference = self._compare_commitments()
        rounds = updates = 0
        if difference is None:
            rounds, updates, difference = self._compare_models()
        difference = difference or self._compare_requests()
        if difference is not None:
            return replace(
                _differs(difference),
                rounds=rounds,
                updates=updates,
                commitments=commitments,
                repeated=self._repeated,
            )
        return RunReplay(ReplayVerdict.REPRODUCED, rounds, updates, commitments, self._repeated)

    def _compare_commitments(self) -> tuple[int, ReplayDifference | None]:
        same, ours, theirs = 0, _by_subject(self._entries), _by_subject(self._again)
        clients = {self._replayed.subject(c): c for c in RunFolder(self._replayed.path.parent).clients()}
        for subject in {**ours, **theirs}:
            known, again = ours.get(subject, []), theirs.get(subject, [])
            for row in known:
                if row.content not in {e.content for e in again}:
                    who = (
                        f"client {clients[subject]}"
                        if subject in clients
                        else "a client that it does not have"
                    )
                    what = (
                        f"row {row.position}: {who} committed to other recordings than the corpus gives "
                        "it; is --data the corpus of the run, unchanged?"
                    )
                    return same, self._at(ReplayFinding.COMMITMENT, row, what)
                same += 1
            for row in again[len(known) :]:
                if self._is_over:
                    what = f"no row says what client {clients[subject]} committed to in round {row.round}"
                    return same, self._absent(ReplayFinding.COMMITMENT, row, what)
        return same, None

    def _compare_models(self) -> tuple[int, int, ReplayDifference | None]:
        again, _ = effective_rows(self._again)
        updates = 0
        for number, row in enumerate(self._models):
            if number >= len(again):
                what = f"{_named(row)}: the run that these settings give ends before it"
                return number, updates, self._at(ReplayFinding.ADDED, row, what)
            expected = again[number]
            if (row.round, row.state) != (expected.round, expected.state):
                what = f"{_named(row)}: the run that these settings give has {_place(expected)} here"
                finding = ReplayFinding.MISSING if row.round >= expected.round else ReplayFinding.ADDED
                return number, updates, self._at(finding, row, what)
            here, there = RoundDigests.of_text(row.content), RoundDigests.of_text(expected.content)
            if here != there:
                finding, what = _compare_digests(here, there)
                return number, updates, self._at(finding, row, f"{_named(row)}: {what}")
            updates += len(here.updates)
        if len(again) > len(self._models) and self._is_over:
            missing = again[len(self._models)]
            what = f"{_place(missing)} is not in the ledger: its last rows were cut off"
            return len(self._models), updates, self._absent(ReplayFinding.MISSING, missing, what)
        return len(self._models), updates, None

    def _compare_requests(self) -> ReplayDifference | None:
        ours, theirs = _of_requests(self._entries), _of_requests(self._again)
        for key, row in ours.items():
            other = theirs.get(key)
            if other is None or other.round != row.round:
                there = f"in round {other.round}" if other else "never"
                what = f"{_named(row)}: in the run that these settings give, the request gets there {there}"
                return self._at(ReplayFinding.REQUEST, row, what)
        for key, row in theirs.items():
            if key not in ours and self._is_over:
                what = f"no row says that a request was {row.state} in round {row.round}"
                return self._absent(ReplayFinding.REQUEST, row, what)
        return None

    @property
    def _is_over(self) -> bool:
        """Whether the run has come to its end, so that nothing may be missing."""
        return self._run.results.exists()

    def _at(self, finding: ReplayFinding, row: LedgerEntry, what: str) -> ReplayDifference:
        return ReplayDifference(finding, row.position, row.round, row.state, f"{self._run.ledger}: {what}")

    def _absent(self, finding: ReplayFinding, row: LedgerEntry, what: str) -> ReplayDifference:
        return ReplayDifference(finding, None, row.round, row.state, f"{self._run.ledger}: {what}")


def _compare_digests(here: RoundDigests, there: RoundDigests) -> tuple[ReplayFinding, str]:
    """Say what differs first in a round: the ledger's digests against the replay's."""
    if here.updates == there.updates:
        return ReplayFinding.MODEL, "the updates are right, but another model was made of them"
    own = len({*there.updates} - {*here.updates})
    if len(here.updates) != len(there.updates):
        what = f"{len(here.updates)} updates were aggregated, it should be {len(there.updates)}"
    else:
        what = f"{own} of {len(there.updates)} updates are not what their clients compute"
    return ReplayFinding.UPDATES, what


def _by_subject(entries: Sequence[LedgerEntry]) -> dict[str, list[LedgerEntry]]:
    found: dict[str, list[LedgerEntry]] = {}
    for row in entries:
        if row.content and row.state == COMMITTED:
            found.setdefault(row.subject, []).append(row)
    return found


def _of_requests(entries: Sequence[LedgerEntry]) -> dict[tuple[str, str], LedgerEntry]:
    return {(row.request, row.state): row for row in entries if row.is_of_request}


def _why_undecided(run: RunFolder, found: RunReplay, again: Sequence[Fault]) -> str:
    """Say why an honest run may differ from its replay as this one does; empty = it may not."""
    difference, results = found.difference, _read_results(run)
    if difference is None or difference.round is None or difference.finding is ReplayFinding.COMMITMENT:
        return ""
    where = f"{run.ledger}: differs from {_place_of(difference)} on"
    made, here = results.get("versions", {}), versions()
    if made and made.get("torch") != here["torch"]:
        return f"{where}; the run was made with torch {made.get('torch')}, this is {here['torch']}"
    known = {(f.round, str(f.phase), f.client) for f in again}
    failed = [
        fault
        for fault in results.get("faults", [])
        if fault["kind"] == "failed"
        and fault["round"] <= difference.round
        and fault["phase"] not in _SIDE_TRAINING
        and (fault["round"], fault["phase"], fault["client"]) not in known
    ]
    if failed:
        first = failed[0]
        return (
            f"{where}; client {first['client']} failed in round {first['round']} ({first['phase']}), says "
            f"{run.results.name}, which a replay cannot know"
        )
    return ""


def _read_results(run: RunFolder) -> dict[str, Any]:
    try:
        return read_json_object(run.results)
    except (OSError, ValueError):
        return {}


def _place_of(difference: ReplayDifference) -> str:
    return f"{difference.phase} in round {difference.round}"


def _named(row: LedgerEntry) -> str:
    return f"row {row.position} ({row.state} in round {row.round})"


def _place(row: LedgerEntry) -> str:
    return f"{row.state} in round {row.round}"


def _differs(difference: ReplayDifference) -> RunReplay:
    return RunReplay(ReplayVerdict.DIFFERS, difference=difference)
