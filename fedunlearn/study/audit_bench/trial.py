"""One run of the bench: a server plays it over honest devices, and it is noted what each verifier sees."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from fedunlearn.audit.client_record import (
    ClientRecord,
    Occasion,
    ReceivedModel,
    check_alone,
    check_run,
    check_run_with,
    check_together,
    checkpoint_digest,
)
from fedunlearn.blockwise import StateDict
from fedunlearn.checkpoints import load_checkpoint
from fedunlearn.config import Config
from fedunlearn.deletion.receipts import BadReceipt, read_receipt
from fedunlearn.deletion.request import DeletionRequest
from fedunlearn.engines.tapped_grid import SentModel, play_tapped
from fedunlearn.errors import RunFailed
from fedunlearn.experiment.experiment import Experiment, write_completed
from fedunlearn.experiment.preparation import DecodedCorpus, prepare
from fedunlearn.experiment.progress import Progress
from fedunlearn.experiment.replay import Replay
from fedunlearn.experiment.shadows import replay_data
from fedunlearn.experiment.timeline import build_timeline
from fedunlearn.ledger import LedgerReader
from fedunlearn.messages.phase import Phase
from fedunlearn.models.contract import trained_names
from fedunlearn.results_schema import Results
from fedunlearn.run_folder import RunFolder
from fedunlearn.server.cheating import WatchedServer, norm
from fedunlearn.server.context import ServerContext
from fedunlearn.server.request_tracker import weights_digest
from fedunlearn.study.audit_bench.audit_file import Contradictions, Observation, Statistics
from fedunlearn.study.audit_bench.cheats import Cheat
from fedunlearn.study.audit_bench.forgeries import RequestKey, Scene
from fedunlearn.vault.index import Index

_ROUNDING = 1e-5
"""relative length of a step that rounding alone may make"""


@dataclass(frozen=True)
class Recomputed:
    """What a replay of an honest run gives.

    Attributes:
        unlearned: digest of the model after the unlearn step.
        recovered: digest of the final model.
        head: of the ledger.
    """

    unlearned: str
    recovered: str
    head: str


class Wire:
    """The way from the server to the devices: what each is sent since the first unlearn step.

    Attributes:
        received: client -> models, in order.
        weights: digest -> weights.
    """

    def __init__(self) -> None:
        self.received: dict[int, list[ReceivedModel]] = {}
        self.weights: dict[str, StateDict] = {}
        self._server: WatchedServer | None = None
        self._digests: dict[int, tuple[StateDict, str]] = {}

    def connect(self, server: WatchedServer) -> None:
        """Have a server's models pass by from now on.

        Args:
            server: whose.
        """
        self._server = server

    def pass_on(self, sent: SentModel) -> StateDict:
        """Note a model, and return it as the server sends it to this client.

        Args:
            sent: by the server.
        """
        server = self._server
        if server is None or not server.playing:
            return sent.weights
        weights = server.send(sent.client, sent.weights)
        if sent.kind == "train.unlearn":
            self._note(sent.client, "unlearn", sent.round, weights)
        elif sent.phase == Phase.RECOVER and server.before is not None:
            self._note(sent.client, "train", sent.round, weights)
        return weights

    def deploy(self, clients: Sequence[int]) -> None:
        """Give every client the model for use.

        Args:
            clients: all of them.
        """
        server = self._server
        final = server.deploy() if server is not None else None
        if server is None or final is None:
            return
        for client in clients:
            self._note(client, "final", -1, server.send(client, final))

    def _note(self, client: int, occasion: Occasion, number: int, weights: StateDict) -> None:
        known = self._digests.get(id(weights))
        digest = weights_digest(weights) if known is None else known[1]
        self._digests[id(weights)] = weights, digest  # kept, so that no other object gets its id
        self.weights[digest] = weights
        self.received.setdefault(client, []).append(ReceivedModel(occasion, number, digest))


@dataclass(frozen=True)
class AuditTrial:
    """A run that was played.

    Attributes:
        experiment: played, with results; another trial on the same run may have forged its own copy.
        wire: what clients were sent.
        deletions: the requests, with the utterances that they named.
        scene: the folder, as the operator leaves it, and the requests.
        records: what clients keep.
    """

    experiment: Experiment
    wire: Wire
    deletions: Mapping[RequestKey, DeletionRequest]
    scene: Scene
    records: tuple[ClientRecord, ...]


def play_trial(
    cheat: Cheat,
    config: Config,
    out: Path,
    cache: Path,
    decoded: DecodedCorpus,
    progress: Progress,
    untouched: Path | None = None,
) -> AuditTrial:
    """Play one run with one server, and let its operator forge what it forges.

    Args:
        cheat: the server.
        config: the experiment: requests of at least two clients, all right after learning.
        out: the run folder, to be made.
        cache: of references.
        decoded: the corpus.
        progress: shown meanwhile.
        untouched: vaults of an earlier run on the same speech; those that are as they were are taken.

    Raises:
        RunFailed: the run could not be completed.
    """
    experiment = prepare(config, out, cache, progress, decoded, untouched)
    wire = Wire()

    def make_server(context: ServerContext) -> WatchedServer:
        server = cheat.server(context)
        wire.connect(server)
        return server

    play_tapped(experiment, make_server, wire)
    if experiment.results is None:
        raise RunFailed("the server ended without results")
    wire.deploy([share.client for share in experiment.partition.clients])
    write_completed(experiment, experiment.results)
    return _forged(cheat, experiment, wire, experiment.recorder.read_deletions(), experiment.run)


def forge_trial(cheat: Cheat, honest: AuditTrial, out: Path) -> AuditTrial:
    """Let an operator forge a copy of an honest run; equal to ``play_trial``, and faster.

    Args:
        cheat: whose server is the honest one.
        honest: a trial of the honest server.
        out: folder of the copy, to be made.
    """
    shutil.copytree(honest.scene.run.path, out)
    return _forged(cheat, honest.experiment, honest.wire, honest.deletions, RunFolder(out))


def _forged(
    cheat: Cheat,
    experiment: Experiment,
    wire: Wire,
    deletions: Mapping[RequestKey, DeletionRequest],
    run: RunFolder,
) -> AuditTrial:
    keys = sorted(deletions, key=lambda key: key[1])
    scene = Scene(run, victim=keys[-1], other=keys[0])
    kept = run.path.with_name(f"{run.path.name}-kept")
    if cheat.handed_out:
        _hand_out(run, kept)
    if cheat.forge is not None:
        cheat.forge(scene)
    if not cheat.handed_out:
        _hand_out(run, kept)
    records = tuple(_record_of(client, deletions, run, wire, kept) for client in run.clients())
    return AuditTrial(experiment, wire, deletions, scene, records)


def recompute(trial: AuditTrial) -> Recomputed:
    """Compute an honest run again, from its config, its seeds and the speech.

    Args:
        trial: of the honest server.
    """
    experiment = trial.experiment
    config, partition, rows = experiment.config, experiment.partition, experiment.record.log.rows
    timeline = build_timeline(experiment.state, rows, trial.deletions, partition, config)
    data = replay_data(config, experiment.judge, partition, timeline)
    stages = Replay(data, config.seed).play()
    with LedgerReader(trial.scene.run.ledger) as ledger:
        head = ledger.head()
    return Recomputed(weights_digest(stages["unlearned"]), weights_digest(stages["recovered"]), head)


def observe(cheat: Cheat, trial: AuditTrial, honest: Recomputed | None) -> Observation:
    """Write down what each verifier sees of a run.

    Args:
        cheat: the server.
        trial: of it.
        honest: what a replay of this seed gives; None = nobody replays it.
    """
    run, records = trial.scene.run, trial.records
    alone = (*check_run(run), *_check_results(trial))
    found = Contradictions(
        requester=tuple(check_alone(records[trial.scene.victim[1]])),
        committee=tuple(check_together(records)),
        auditor=alone,
        auditor_with_records=tuple(dict.fromkeys((*alone, *check_run_with(run, records)))),
        replay=(*check_run(run), *_check_replay(run, records, honest)) if honest else (),
    )
    models = _Models(trial)
    return Observation(
        seed=trial.experiment.config.seed,
        cheat=cheat.name,
        statistics=models.statistics(),
        contradictions=found,
        retrained=models.of_retrained(),
    )


# ---- what clients keep -----------------------------------------------------------------------------------


def _hand_out(run: RunFolder, folder: Path) -> None:
    """Copy every receipt to a place outside of the run folder, client by client."""
    for client in run.clients():
        receipts = run.vault(client) / "receipts"
        if receipts.is_dir():
            shutil.copytree(receipts, folder / str(client), dirs_exist_ok=True)


def _record_of(
    client: int,
    deletions: Mapping[RequestKey, DeletionRequest],
    run: RunFolder,
    wire: Wire,
    kept: Path,
) -> ClientRecord:
    held = {entry.id for entry in Index.read(run.vault(client)).entries}
    own = {name: request for (name, whose), request in deletions.items() if whose == client}
    still = tuple(name for name, r in own.items() if held & {*r.utterances, *r.held_out})
    received = tuple(wire.received.get(client, ()))
    return ClientRecord(
        client, tuple(own), received, tuple(sorted((kept / str(client)).rglob("*.json"))), still
    )


# ---- checks that need more than digests ------------------------------------------------------------------


def _check_results(trial: AuditTrial) -> list[str]:
    """Compare the accuracies in results.json with those of the checkpoints, on the held-out speech."""
    run, judge, found = trial.scene.run, trial.experiment.judge, list[str]()
    results, test = Results.read(run.path), judge.sets([]).test
    for name in ("unlearned", "recovered"):
        weights = load_checkpoint(run.checkpoints / f"{name}.safetensors")[0]
        right = float(np.mean(judge.predictions(weights)[test] == judge.labels[test]))
        said = results.models[name].test.accuracy
        if said is None or abs(said - right) > 1e-9:
            found.append(f"results.json: accuracy of {name} is {said}, that of its checkpoint is {right}")
    if results.status != "complete":
        found.append(f"results.json: the run is {results.status}: {results.failure}")
    return found


def _check_replay(run: RunFolder, records: Sequence[ClientRecord], honest: Recomputed) -> list[str]:
    """Compare every digest that a run has left with that of the run computed again."""
    found = []
    for name, expected in (("unlearned", honest.unlearned), ("recovered", honest.recovered)):
        if checkpoint_digest(run, name) != expected:
            found.append(f"checkpoints/{name}.safetensors is not the model that the replay gives")
    with LedgerReader(run.ledger) as ledger:
        if ledger.head() != honest.head:
            found.append("the ledger's head is not the one that the replay gives")
    for record in records:
        following = record.next_model
        if following is not None and following.digest != honest.unlearned:
            found.append(
                f"client {record.client} was sent another model after the step than the replay gives"
            )
        if record.final and record.final != honest.recovered:
            found.append(f"client {record.client} was given another final model than the replay gives")
        found += [line for path in record.receipts for line in _check_receipt(path, honest)]
    return found


def _check_receipt(path: Path, honest: Recomputed) -> list[str]:
    try:
        named = read_receipt(path).model
    except BadReceipt as error:
        return [str(error)]
    other = named is not None and named[1] != honest.unlearned
    return [f"{path.name}: names another model than the replay gives"] if other else []


# ---- statistics ------------------------------------------------------------------------------------------


class _Models:
    """The models of a trial, and the speech on which verifiers evaluate them."""

    def __init__(self, trial: AuditTrial) -> None:
        experiment = trial.experiment
        self._trial, self._judge = trial, experiment.judge
        self._config, self._retrained = experiment.config, [r.state for r in experiment.record.retrained]
        self._victim = trial.records[trial.scene.victim[1]]
        victim = trial.deletions[trial.scene.victim]
        self._forget = victim.utterances
        self._all_forget = [u for r in trial.deletions.values() for u in r.utterances]
        share = experiment.partition.clients[self._victim.client]
        gone = {*victim.utterances, *victim.held_out}
        self._rest = [u.id for u in (*share.train, *share.test) if u.id not in gone]
        self._test = [(s.client, [u.id for u in s.test]) for s in experiment.partition.clients]
        self._trained = trained_names(experiment.template)

    def statistics(self) -> Statistics:
        run = self._trial.scene.run
        before, following = self._before, self._weights(self._following)
        final = self._weights(self._victim.final)
        remains = None
        if self._retrained and self._trial.wire.received:
            recovered = load_checkpoint(run.checkpoints / "recovered.safetensors")[0]
            remains = self._remains(recovered, self._retrained[0])
        return Statistics(
            forgets=None if before is None or following is None else self._forgets(before, following),
            returns=None
            if before is None or following is None or final is None
            else self._returns(before, following, final),
            damage=None if before is None else self._damage(before),
            remains=remains,
        )

    def of_retrained(self) -> Statistics:
        before = self._before
        if before is None or len(self._retrained) < 2:
            return Statistics()
        first, second = self._retrained[:2]
        return Statistics(forgets=self._forgets(before, first), remains=self._remains(second, first))

    @property
    def _before(self) -> StateDict | None:
        return self._weights(self._victim.sent_to_unlearn)

    @property
    def _following(self) -> str:
        following = self._victim.next_model
        return "" if following is None else following.digest

    def _weights(self, digest: str) -> StateDict | None:
        return self._trial.wire.weights.get(digest)

    def _mean(self, weights: Mapping[str, Tensor], ids: Sequence[str]) -> float:
        """Mean log-odds of the true emotion over utterances, nats."""
        mask = self._judge.sets(ids).forget
        return float(np.nanmean(self._judge.view(weights).log_odds[mask]))

    def _forgets(self, before: StateDict, after: Mapping[str, Tensor]) -> float:
        def change(ids: Sequence[str]) -> float:
            return self._mean(after, ids) - self._mean(before, ids)

        return change(self._forget) - (change(self._rest) if self._rest else 0.0)

    def _returns(self, before: StateDict, after: StateDict, final: StateDict) -> float:
        back = {name: before[name] - after[name] for name in self._trained}
        gone = {name: final[name] - after[name] for name in self._trained}
        length = norm(back)
        if length <= _ROUNDING * norm({name: before[name] for name in self._trained}):
            return 0.0  # there was no step to return from
        along = sum(float((back[name].double() * gone[name].double()).sum()) for name in self._trained)
        return along / length**2

    def _damage(self, before: StateDict) -> float:
        falls = []
        for client, ids in self._test:
            final = self._weights(self._trial.records[client].final)
            if ids and final is not None:
                falls.append(self._mean(before, ids) - self._mean(final, ids))
        return float(np.mean(falls)) if falls else 0.0

    def _remains(self, weights: Mapping[str, Tensor], retrained: Mapping[str, Tensor]) -> float:
        return self._mean(weights, self._all_forget) - self._mean(retrained, self._all_forget)
