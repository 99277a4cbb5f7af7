"""The clients of a replayed federation, as arrays: who holds what, and what their devices compute."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from fedunlearn.audio import PCM, pad, to_float
from fedunlearn.blockwise import StateDict
from fedunlearn.client.steps import (
    calibration_moments,
    evaluate,
    notes_for,
    outgoing_update,
    train_in_round,
    train_update,
    unlearn_update,
    with_unknown,
)
from fedunlearn.config import Config
from fedunlearn.config.work import LocalWork
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.experiment.replayed_tickets import ReplayedTickets
from fedunlearn.experiment.replayed_vaults import ReplayedVaults
from fedunlearn.experiment.timeline import Timeline, TimelineRound
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.scalars import Evaluation, pool_evaluations
from fedunlearn.messages.update import Update
from fedunlearn.models import build_model
from fedunlearn.seeding import rng_for
from fedunlearn.server.late_clients import LateClients
from fedunlearn.server.steps import sample_clients
from fedunlearn.server.tickets import ticket_terms
from fedunlearn.unlearning import METHODS
from fedunlearn.unlearning.contract import Method, ServerScalars, UnlearnFailed
from fedunlearn.unlearning.log_odds import measure_smoothed


@dataclass(frozen=True)
class ReplayData:
    """All that a federation is made of, as arrays, so that it can be sent to another process.

    Attributes:
        config: the experiment.
        timeline: what its run did.
        classes: emotions.
        train: of each client, in client order, the ids of what it trains on.
        test: of each client, in client order, the ids of what it holds out.
        place: utterance -> its row in features, frames and labels.
        features: of all speech [N, T, D].
        frames: of each utterance [N].
        labels: of each utterance [N].
        audio: of the candidates, and of all training speech where clients rehearse, if the method reads
            waveforms; else empty.
        method_instead: of a study: gives the method with which a requester unlearns the utterances with these
            ids, instead of the experiment's; clients that rehearse keep to the latter.
    """

    config: Config
    timeline: Timeline
    classes: int
    train: tuple[tuple[str, ...], ...]
    test: tuple[tuple[str, ...], ...]
    place: Mapping[str, int]
    features: npt.NDArray[np.float32]
    frames: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    audio: Mapping[str, PCM]
    method_instead: Callable[[tuple[str, ...]], Method] | None = None

    def method_for(self, ids: tuple[str, ...]) -> Method:
        """Return the method with which a requester unlearns utterances.

        Args:
            ids: of the utterances.
        """
        own = METHODS[self.config.unlearning.method].unlearn
        return own if self.method_instead is None else self.method_instead(ids)


class ReplayedClients:
    """Computes in this process what the clients of a run compute on their devices.

    Args:
        data: of the run.
        stream: seed of all randomness.
        outside: utterances that no client holds.

    Attributes:
        model: a model of the run's kind; its weights are those of the last call.
        vaults: what the clients hold.
        tickets: what they have noted.
        targets: utterance -> log-odds towards which its device trained it, of methods that have such targets.
    """

    def __init__(self, data: ReplayData, stream: int, outside: Collection[str] = ()) -> None:
        self.data, self._config, self._timeline = data, data.config, data.timeline
        self._stream = stream
        self.model = build_model(self._config.model, data.classes, rng_for(0, "template"))
        arrays = (data.features, data.frames, data.labels)
        self._all = Examples(*(torch.from_numpy(array) for array in arrays))
        self._kept: dict[tuple[str, ...], Examples] = {}
        late = LateClients.of(self._config)
        self.vaults = ReplayedVaults(data.train, data.timeline, late, frozenset(outside))
        self.tickets = ReplayedTickets(data.train)
        self.targets: dict[str, float] = {}

    def examples(self, ids: Iterable[str]) -> Examples:
        """Take the features and labels of utterances, in this order.

        Args:
            ids: of the utterances.
        """
        key = tuple(ids)
        if key not in self._kept:
            rows = torch.tensor([self.data.place[u] for u in key], dtype=torch.int64)
            self._kept[key] = self._all.take(rows)
        return self._kept[key]

    def moments(self) -> list[Update]:
        """Compute the clients' moments, for calibration."""
        updates = []
        for client, ids in self.vaults.reached(0, ()).items():
            moments = calibration_moments(self.model, self.examples(ids))
            means = {"mean": moments.mean, "mean_square": moments.mean_square}
            updates.append(Update(client, moments.frames, means))
        return updates

    def train(
        self,
        weights: StateDict,
        rounds_done: int,
        withheld: Collection[str],
        phase: Phase,
        number: int,
        work: LocalWork,
        lr: float,
        most: int = 0,
        notes: bool = False,
        stream: int | None = None,
    ) -> list[Update]:
        """Train the clients that can be reached and have joined learning.

        Args:
            weights: that they start from.
            rounds_done: rounds done.
            withheld: utterances that no client trains on.
            phase: LEARN or RECOVER.
            number: of the learning round, or of the timeline round in recovery.
            work: of each client.
            lr: learning rate.
            most: clients that train; 0 = all.
            notes: whether they note tickets.
            stream: seed of the training's random streams; None = the federation's.

        Returns:
            their updates, in client order
        """
        updates, there = [], self.vaults.training(rounds_done, withheld)
        chosen = sample_clients(there, most, self._config.seed, phase, number)
        trained_on = sum(len(there[c]) for c in chosen)
        terms = ticket_terms(self._config, number, trained_on, len(chosen), notes)
        for client in chosen:
            kept = self.examples(there[client])
            when = str(phase), number, self._stream if stream is None else stream
            noted = notes_for(self.model, kept, terms.weight)
            training = partial(train_in_round, self.model, kept, self._config, work, lr, client, *when, noted)
            updates.append(Update(client, len(kept), train_update(self.model, weights, training)[0]))
            if noted is not None:
                self.tickets.note(client, there[client], terms.weigh(noted), number, terms.fading)
        return updates

    def unlearn(
        self,
        weights: StateDict,
        round_: TimelineRound,
        client: int,
        ids: tuple[str, ...],
        scalars: ServerScalars,
        left_out: StateDict | None,
        method: Method | None = None,
    ) -> Update | None:
        """Make one requester's update.

        Args:
            weights: of the global model.
            round_: of the timeline.
            client: the requester.
            ids: of its forget set.
            scalars: of the server.
            left_out: what the server sends with them.
            method: with which it unlearns; None = that of the data.

        Returns:
            None where it fails, as in a run it would be left out of the step
        """
        share = min(1.0, len(ids) / self.vaults.holding(round_)[client])
        method, when = method or self.data.method_for(ids), (client, round_.timeline_round)
        self.model.load_state_dict(weights)
        try:
            result, moved = unlearn_update(
                self.model,
                with_unknown(self.model, self.forget_set(ids), left_out),
                method,
                self._config,
                replace(scalars, share=share),
                *when,
                self._stream,
            )
        except UnlearnFailed:
            return None
        if result.targets is not None:
            self.targets |= dict(zip(ids, result.targets.tolist(), strict=True))
        gone = self._timeline.purged(round_.timeline_round)
        own = partial(self.examples, self.vaults.held(client, round_.rounds_done, gone))
        leaves = outgoing_update(self.model, moved, own, self._config, *when, self._stream)
        return Update(client, len(ids), leaves)

    def forget_set(self, ids: tuple[str, ...]) -> ForgetSet:
        """Take utterances as a client unlearns them.

        Args:
            ids: of the utterances.
        """
        audio, examples = self.data.audio, self.examples(ids)
        nothing = torch.zeros(len(ids), 0), torch.zeros(len(ids)).long()
        waveform = pad([to_float(audio[u]) for u in ids]) if audio else nothing
        return ForgetSet(examples, *waveform, tickets=self.tickets.of(ids))

    def scalars(
        self, weights: StateDict, round_: TimelineRound, log_odds: bool, among: Collection[int] | None = None
    ) -> ServerScalars:
        """Have the clients that can be reached evaluate a model.

        Args:
            weights: of the model.
            round_: of the timeline.
            log_odds: whether log-odds are wanted.
            among: clients that count; None = all.
        """
        gone, replies = self._timeline.purged(round_.timeline_round), []
        self.model.load_state_dict(weights)
        away = self._timeline.away[round_.rounds_done]
        there = [c for c, held in self.vaults.holding(round_).items() if held and c not in away]
        smoothed = measure_smoothed(self.model) if log_odds else None
        most, seed = self._config.unlearning.asked, self._config.seed
        for client in sample_clients(there, most, seed, Phase.EVALUATE, round_.timeline_round):
            if among and client not in among:
                continue
            held_out = self.examples(u for u in self.data.test[client] if u not in gone)
            own = self.examples(self.vaults.held(client, round_.rounds_done, gone)) if log_odds else None
            right, of_trained, of_held_out = evaluate(self.model, held_out, own, smoothed)
            replies.append(Evaluation(right, len(held_out), of_trained, of_held_out))
        return pool_evaluations(replies)
