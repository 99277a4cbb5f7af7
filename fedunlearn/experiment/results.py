"""Assembling the results of a run."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from torch import Tensor

from fedunlearn.caveats import find_caveats
from fedunlearn.config.guard import AttackerSettings
from fedunlearn.deletion.request import DeletionRequest, RequestState
from fedunlearn.evaluation.gum import gum_of
from fedunlearn.evaluation.judge import Judge, Predictions
from fedunlearn.evaluation.verdict import STAGES, Verdict
from fedunlearn.experiment.analyses import measure_kept_models, measure_relearning, run_attacks
from fedunlearn.experiment.prepared_run import PreparedRun
from fedunlearn.experiment.record import ExperimentRecord, Log
from fedunlearn.experiment.request_contents import utterances_of
from fedunlearn.experiment.shadows import Shadows
from fedunlearn.ledger import LedgerReader
from fedunlearn.messages.phase import Phase
from fedunlearn.results_schema import (
    RANDOM_WEIGHTS,
    SCHEMA,
    Absences,
    AddedRecordings,
    Attackers,
    AttackReport,
    CorpusSummary,
    GuardIntervention,
    GumReport,
    LedgerHead,
    MethodUsed,
    PhaseCostRow,
    Recognizer,
    ReplyFault,
    RequestOutcome,
    RequestStep,
    Results,
    ReversionStep,
    RoleCostRow,
    RoleCosts,
    Status,
    StepRehearsed,
    TimelineEntry,
    Times,
    UnknownSpeakersMeasured,
)
from fedunlearn.server.availability import Availability
from fedunlearn.server.cost import PhaseCost, RoleCost
from fedunlearn.server.requests import RequestKey, TrackedRequest
from fedunlearn.server.state import Fault, ServerState
from fedunlearn.unlearning import method_named, notes_tickets
from fedunlearn.unlearning.contract import MethodCard
from fedunlearn.unlearning.privileged.contract import PrivilegedCard

_VERSIONED = ("fedunlearn", "torch", "torchaudio", "transformers", "flwr", "ray", "numpy")
TimelineRow = Mapping[str, Any]
WeightsView = Mapping[str, Tensor]


def versions() -> dict[str, str]:
    """Return the versions of Python and the libraries that numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _VERSIONED}}


def describe_method(card: MethodCard | PrivilegedCard) -> MethodUsed:
    """The method: its names, what it sees ("forget": the forget set alone), its source, whether a control."""
    title, control = (card.title, card.control) if isinstance(card, MethodCard) else ("", "")
    return MethodUsed(
        method=card.name,
        sees=card.sees,
        source=card.source,
        title=title or card.name,
        control=control,
    )


@dataclass(frozen=True)
class JudgedModels:
    """The models of a finished run that results compare.

    Attributes:
        states: weights of "original", "recovered", "unlearned" and "retrained".
        retrained: weights of all retrained models; the original alone where nothing was forgotten.
        destroyed: weights of a model that has learned nothing.
        kept: name -> weights as the run folder keeps them.
        shadows: of the shadow federations; None where they are switched off.
    """

    states: Mapping[str, WeightsView]
    retrained: Sequence[WeightsView]
    destroyed: WeightsView
    kept: Mapping[str, WeightsView]
    shadows: Shadows | None


@dataclass(frozen=True)
class ResultsAssembler:
    """Assembles results.json from what a run is made of and what became of it.

    Attributes:
        prepared: what the run is made of.
        state: of the server.
        record: of the experimenter.
    """

    prepared: PreparedRun
    state: ServerState
    record: ExperimentRecord

    def describe_run(
        self,
        requests: Mapping[RequestKey, DeletionRequest],
        status: Status,
        failure: str | None,
        timeline: list[TimelineEntry],
        times: Times,
    ) -> Results:
        """Collect what is known of every run, however it ended.

        Args:
            requests: all requests of the run, with the utterances that they name.
            status: how it ended.
            failure: what went wrong, one line; None where nothing did.
            timeline: of the global model.
            times: of the run.
        """
        config, corpus, partition, state = (
            self.prepared.config,
            self.prepared.corpus,
            self.prepared.partition,
            self.state,
        )
        with LedgerReader(self.prepared.run.ledger) as reader:
            entries, head = len(reader.entries()), reader.head()
        return Results(
            schema=SCHEMA,
            config=config.model_dump(mode="json"),
            seed=config.seed,
            versions=versions(),
            unlearning=describe_method(method_named(config.unlearning.method)),
            corpus=CorpusSummary(
                name=corpus.name,
                utterances=len(corpus.utterances),
                speakers=len(corpus.speakers),
                clients=len(partition.clients),
                emotions=list(corpus.emotions),
                unseen_speakers=len({u.speaker for u in partition.unseen}),
                warnings=list(corpus.warnings),
            ),
            model=Recognizer(**self.prepared.template.about()),
            requests=request_rows(state.requests.values(), requests, state.faults),
            cost=self._costs(),
            unknown_speakers=(
                UnknownSpeakersMeasured(**asdict(state.unknown))
                if state.unknown
                else UnknownSpeakersMeasured.empty()
            ),
            guard=[GuardIntervention(**row) for row in state.guarded],
            rehearsals=[StepRehearsed(**row) for row in state.rehearsals],
            attackers=describe_attackers(config.attackers),
            faults=[
                ReplyFault(round=f.round, phase=str(f.phase), client=f.client, reason=f.reason, kind=f.kind)
                for f in state.faults
            ],
            added=[AddedRecordings(**row) for row in state.additions],
            ledger=LedgerHead(entries=entries, head=head),
            status=status,
            failure=failure,
            timeline=timeline,
            times=times,
        )

    def _costs(self) -> dict[str, PhaseCostRow]:
        rows = {str(phase): cost_row(cost) for phase, cost in self.state.costs.items()}
        noted = bytes_noted(self.prepared)
        if noted is not None:
            rows["learn"] = rows["learn"].model_copy(update={"bytes_noted": noted})
        return rows

    def describe_unfinished(
        self,
        status: Status,
        failure: str,
        requests: Mapping[RequestKey, DeletionRequest],
        started: datetime,
    ) -> Results:
        """Assemble the results of a run that did not finish: why, and how far it had come.

        Args:
            status: "partial" where it was interrupted.
            failure: the reason, one line.
            requests: all requests of the run, with the utterances that they name.
            started: when the run was started.
        """
        log = self.record.log
        # A run may be stopped between a round's row and its predictions.
        whole = min(len(log.rows), len(log.curve))
        forget = utterances_of((r for r in self.state.requests.values() if r.gone), requests)
        entries = timeline(log.rows[:whole], log.curve[:whole], self.prepared.judge, forget)
        times = Times(started=started.isoformat(timespec="seconds"))
        return self.describe_run(requests, status, failure, entries, times)

    def describe_finished(
        self,
        models: JudgedModels,
        requests: Mapping[RequestKey, DeletionRequest],
        times: Times,
    ) -> Results:
        """Assemble the results of a run that has ended, all but the search for traces.

        Args:
            models: to be judged.
            requests: all requests of the run, with the utterances that they name.
            times: when the run started and how long its phases took.
        """
        judge, config, state, record = self.prepared.judge, self.prepared.config, self.state, self.record
        served = state.requests.values()
        gone = {r.key: requests[r.key] for r in served if r.gone and r.key in requests}
        forget = utterances_of((r for r in served if r.gone), requests)
        first = record.retrained[0] if record.retrained else None
        retrained_log = Log.of(first) if first else Log()
        judged = {name: models.states[name] for name in STAGES} | {RANDOM_WEIGHTS.model: models.destroyed}
        open_ends = unfulfilled(served, state.silent_clients, state.faults)
        entries = timeline(record.log.rows, record.log.curve, judge, forget)
        emotions, method = self.prepared.corpus.emotions, config.unlearning.method
        verdict = Verdict(judge, judged, models.retrained, forget, emotions, method)
        scores = verdict.models()
        original = scores.original.forget.accuracy
        status: Status = "partial" if open_ends else "complete"
        results = self.describe_run(requests, status, "; ".join(open_ends) or None, entries, times)
        results.cost["retrain"] = cost_row(PhaseCost.of(first.cost) if first else PhaseCost())
        results.models = scores
        results.gap = verdict.gaps()
        results.ranking = verdict.ranking()
        results.distances = verdict.distances()
        results.fairness = verdict.fairness()
        results.collateral = verdict.collateral()
        results.reversion = verdict.reversion(reversion_steps(entries, original, served))
        results.gain = verdict.gain()
        results.caveats = find_caveats(results)
        results.relearn = measure_relearning(
            judge, self.prepared.template, models.states, forget, original, config
        )
        results.gum = gum_of(scores, results.cost) or GumReport.empty()
        results.references = dict(record.keys)
        results.retrained_timeline = timeline(retrained_log.rows, retrained_log.curve, judge, forget)
        results.availability = self._absences()
        # A request of several devices is listed with the first of them.
        clients = {r.id: r.client for r in reversed(list(served))}
        shadows = models.shadows
        results.attacks = run_attacks(shadows, clients, config) if shadows else AttackReport.empty()
        deleted = {u: key[0] for key, request in gone.items() for u in request.utterances}
        asking = {client for _, client in (*requests, *state.requests)}
        results.answers = verdict.answers(self.prepared.corpus, self.prepared.partition, deleted, asking)
        results.kept = measure_kept_models(judge, self.prepared.partition, models.kept, gone)
        return results

    def _absences(self) -> Absences:
        config, state = self.prepared.config, self.state
        availability = Availability(config.availability, config.seed, config.partition.client_count)
        if availability.certain:
            return Absences.empty()
        requesters = {client for _, client in state.requests}
        return Absences(**availability.in_results(state.rounds_done_at, requesters))


def describe_attackers(settings: AttackerSettings) -> Attackers:
    """The malicious clients as results have them; empty where there are none."""
    if not settings.clients:
        return Attackers.empty()
    return Attackers(
        clients=list(settings.clients),
        kind=settings.kind,
        factor=settings.factor,
        target=settings.target,
    )


def bytes_noted(prepared: PreparedRun) -> int | None:
    """Size of the tickets of all training utterances, one float32 a number; None where none are noted."""
    if not notes_tickets(prepared.config):
        return None
    return 4 * prepared.template.ticket_size * len(prepared.partition.train)


def cost_row(cost: PhaseCost) -> PhaseCostRow:
    """The cost of a phase as results have it."""
    return PhaseCostRow(
        rounds=cost.rounds,
        client_seconds=cost.client_seconds,
        wall_seconds=cost.wall_seconds,
        bytes_up=cost.bytes_up,
        bytes_down=cost.bytes_down,
        bytes_stored=cost.bytes_stored,
        roles=RoleCosts(requesters=_role_row(cost.requesters), others=_role_row(cost.others)),
    )


def _role_row(cost: RoleCost) -> RoleCostRow:
    return RoleCostRow(client_seconds=cost.client_seconds, bytes_up=cost.bytes_up, bytes_down=cost.bytes_down)


def reversion_steps(
    entries: Sequence[TimelineEntry], original: float | None, requests: Iterable[TrackedRequest]
) -> list[ReversionStep]:
    """What each joint unlearn step did to the forget accuracy, and what its recovery did to that.

    The rounds of a privileged baseline are one step, of which the last names the requests.

    Args:
        entries: the timeline.
        original: the original's forget accuracy, where a step is the first entry.
        requests: of the run, for whose each was.

    Returns:
        a row a step: round, clients, and forget accuracy on all of D_f before, unlearned, recovered (None
        where no recovery round followed).
    """
    whose: dict[str, set[int]] = {}
    for request in requests:
        whose.setdefault(request.id, set()).add(request.client)
    steps: list[ReversionStep] = []
    before = here = original
    on_the_way = recovering = False
    for entry in entries:
        before = before if on_the_way else here
        here = entry.forget_accuracy
        unlearning, request_ids = entry.phase == Phase.UNLEARN, entry.requests
        on_the_way = unlearning and not request_ids
        if unlearning and request_ids:
            clients = sorted(set().union(*(whose.get(name, set()) for name in request_ids)))
            steps.append(
                ReversionStep(
                    round=entry.round, clients=clients, before=before, unlearned=here, recovered=None
                )
            )
        recovering = (unlearning and bool(request_ids)) or (recovering and entry.phase == Phase.RECOVER)
        if recovering and entry.phase == Phase.RECOVER:
            steps[-1].recovered = here
    return steps


def timeline(
    rows: Iterable[TimelineRow], curve: Sequence[Predictions | None], judge: Judge, forget: Sequence[str]
) -> list[TimelineEntry]:
    """One entry a round, the forget and retain accuracy filled in now that D_f is known.

    Args:
        rows: what the server logged of each round.
        curve: what the global model predicted after it; None where it was not evaluated.
        judge: evaluates the predictions.
        forget: D_f.
    """
    entries = []
    for row, predictions in zip(rows, curve, strict=True):
        point = judge.curve_point(predictions) if predictions is not None else None
        retain, gone = (
            judge.retain_and_forget(predictions, forget) if predictions is not None else (None, None)
        )
        entries.append(
            TimelineEntry(
                round=row["round"],
                phase=str(row["phase"]),
                loss=row["loss"],
                refused=row["refused"],
                requests=row["requests"],
                test_uar=point.test_uar if point else None,
                unseen_uar=point.unseen_uar if point else None,
                retain_accuracy=retain,
                forget_accuracy=gone,
            )
        )
    return entries


def request_rows(
    tracked: Iterable[TrackedRequest],
    contents: Mapping[RequestKey, DeletionRequest],
    faults: Sequence[Fault],
) -> list[RequestOutcome]:
    """What was requested and what became of it, in the order of requests.

    Args:
        tracked: all requests, as the server tracked them.
        contents: with the utterances that they name.
        faults: of the run; the last of a client is why its request is still open.
    """
    rows, reasons = [], {f.client: f.reason for f in faults if f.kind != "repeated"}
    for request in tracked:
        applied = request.round_applied
        rows.append(
            RequestOutcome(
                id=request.id,
                client=request.client,
                what=contents[request.key].what if request.key in contents else None,
                round_raised=request.round_raised,
                round_applied=applied,
                utterances=request.utterances,
                state=str(request.state),
                rounds_waited=None if applied is None else applied - request.round_raised,
                deadline=request.deadline,
                overdue=request.overdue,
                devices=request.devices,
                learned=request.learned,
                attempts=request.attempts,
                history=[RequestStep(**step) for step in request.history],
                reason_open=reasons.get(request.client) if request.unfinished else None,
                **request.outcome,
            )
        )
    return rows


def unfulfilled(
    served: Iterable[TrackedRequest], silent_clients: Iterable[int], faults: Sequence[Fault]
) -> list[str]:
    """What was not fulfilled, one line each, with the last that went wrong at that client."""
    reasons = {f.client: f" ({f.reason})" for f in faults if f.kind != "repeated"}
    return [
        *(
            f"request {r.id} of client {r.client} is {r.state}, not verified{reasons.get(r.client, '')}"
            for r in served
            if r.state not in {RequestState.VERIFIED, RequestState.WITHDRAWN, RequestState.REFUSED}
        ),
        *(f"client {c} did not say whether it has deletions" for c in sorted(silent_clients)),
    ]
