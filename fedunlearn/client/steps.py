"""What a device computes for its replies, as functions of the model, its examples and the settings.

They use no message and no vault: the ClientApp calls them, and so do the replay and the shadow federations.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fedunlearn.blockwise import StateDict, difference
from fedunlearn.client.adversaries import Adversary, craft_update
from fedunlearn.client.privacy import privatize
from fedunlearn.config import Config
from fedunlearn.config.work import LocalWork
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.messages.rehearsals import Rehearsal
from fedunlearn.messages.scalars import Sums
from fedunlearn.messages.update import Update
from fedunlearn.models.contract import EmotionModel, trained_names
from fedunlearn.models.probes import Probes
from fedunlearn.seeding import rng_for
from fedunlearn.training import Moments, calibrate, predict, train
from fedunlearn.unlearning.contract import Method, ServerScalars, UnlearnResult
from fedunlearn.unlearning.log_odds import log_odds_of, smoothed_log_odds
from fedunlearn.vault.calibration import FEWEST


def calibration_moments(model: EmotionModel, examples: Examples) -> Moments:
    """Compute a client's part of the normalisation constants; empty for three utterances or fewer."""
    few = len(examples) < FEWEST
    return calibrate(model, examples.take(torch.arange(0)) if few else examples)


def train_update(
    model: EmotionModel,
    start: Mapping[str, Tensor],
    training: Callable[[], float],
    into: Mapping[str, Tensor] | None = None,
) -> tuple[StateDict, float]:
    """Train a model in place from the given weights.

    Args:
        model: loads ``start`` first.
        start: weights that training starts from.
        training: trains the model and returns the loss.
        into: tensors to write the difference into; None = new ones.

    Returns:
        (weights after training minus ``start``, loss)
    """
    model.load_state_dict(start)
    loss = training()
    return difference(model.state_dict(), start, into), loss


def train_in_round(
    model: EmotionModel,
    kept: Examples,
    config: Config,
    work: LocalWork,
    lr: float,
    client: int,
    phase: str,
    round: int,
    stream: int,
    noted: Tensor | None = None,
) -> float:
    """Train one client's ordinary or recovery round in place.

    Args:
        model: with the weights to start from.
        kept: what the client trains on, at least one example.
        config: the experiment.
        work: how much it trains.
        lr: learning rate.
        client: number of the client.
        phase: "learn" or "recover".
        round: the learning round in phase "learn", the timeline round in phase "recover".
        stream: seed of the training's random streams.
        noted: as of ``train``.

    Returns:
        mean loss of the last steps, as ``train`` returns it

    Raises:
        TrainingDiverged: the loss is not finite.
    """
    local = config.training.local.with_work(work)
    return train(model, kept, local, lr, rng_for(stream, "client", client, phase, round), noted=noted)


def notes_for(model: EmotionModel, kept: Examples, weight: float) -> Tensor | None:
    """Return where a round's part of each ticket is noted, zeros [n, K]; None where nothing is to be noted.

    Args:
        model: that is trained.
        kept: the n examples that it is trained on.
        weight: that the server gives each utterance of the round; 0 = devices note nothing.
    """
    return torch.zeros(len(kept), model.ticket_size) if weight and len(kept) else None


def evaluate(
    model: EmotionModel,
    held_out: Examples,
    trained_on: Examples | None,
    smoothed: Callable[[Examples], Tensor] | None = None,
) -> tuple[int, Sums, Sums]:
    """Evaluate a model on a client's held-out examples and, if wanted, sum up its log-odds.

    Args:
        model: with the weights to evaluate.
        held_out: examples that the client does not train on.
        trained_on: examples that it trains on; None = no log-odds are wanted.
        smoothed: ``measure_smoothed`` of the model, where it was made for several clients; None = it is made.

    Returns:
        (correct held-out predictions, sums over ``trained_on``, smoothed, sums over ``held_out``)
    """
    right = _count_right(model, held_out)
    if trained_on is None:
        return right, Sums(), Sums()
    of_trained = sum_log_odds(model, [trained_on], smoothed or partial(smoothed_log_odds, model))
    return right, of_trained, sum_log_odds(model, [held_out])


def _count_right(model: EmotionModel, examples: Examples) -> int:
    return int((predict(model, examples).argmax(1) == examples.labels).sum())


def sum_log_odds(
    model: EmotionModel,
    parts: Sequence[Examples],
    measure: Callable[[Examples], Tensor] | None = None,
) -> Sums:
    """Sum up the log-odds that a model gives a client's speech.

    Sums serve to compute a spread over all clients; sums of a few utterances would reveal too much.

    Args:
        model: with the weights to evaluate.
        parts: the speech.
        measure: gives the log-odds of examples; None = ``log_odds_of`` the model.

    Returns:
        no sums where there are fewer than four utterances
    """
    if sum(map(len, parts)) < FEWEST:
        return Sums()
    measure = measure or partial(log_odds_of, model)
    return sum((Sums.of(measure(part)) for part in parts if len(part)), Sums())


def with_unknown(
    model: EmotionModel, forget_set: ForgetSet, left_out: Mapping[str, Tensor] | None
) -> ForgetSet:
    """Read from the model without this client how it answers the forget set.

    Args:
        model: with the global weights.
        forget_set: D_f.
        left_out: trained tensor -> what the model without the client has more than the global one; None =
            the server sent nothing.
    """
    if left_out is None or not len(forget_set):
        return forget_set
    without = copy.deepcopy(model)
    weights = model.state_dict()
    without.load_state_dict({**weights, **{name: weights[name] + value for name, value in left_out.items()}})
    return replace(forget_set, unknown=log_odds_of(without, forget_set.examples))


def unlearn_update(
    model: EmotionModel,
    forget_set: ForgetSet,
    method: Method,
    config: Config,
    scalars: ServerScalars,
    client: int,
    timeline_round: int,
    stream: int,
) -> tuple[UnlearnResult, StateDict]:
    """Run an unlearning method on a requester's forget set; the model itself is not changed.

    Args:
        model: with the global weights.
        forget_set: D_f of the requests.
        method: the unlearning method.
        config: the experiment.
        scalars: numbers that the server sent along.
        client: number of the requester.
        timeline_round: round in which it unlearns.
        stream: seed of the method's random streams.

    Returns:
        (the method's result, unlearned weights minus the model's weights)

    Raises:
        UnlearnFailed: the loss or the output is not finite.
    """
    rng = rng_for(stream, "unlearn", client, timeline_round)
    result = method(model, forget_set, config.unlearning, rng, scalars)
    return result, difference(result.state, model.state_dict())


def outgoing_update(
    model: EmotionModel,
    update: StateDict,
    own: Callable[[], Examples],
    config: Config,
    client: int,
    timeline_round: int,
    stream: int,
) -> dict[str, Tensor]:
    """Turn an unlearn update into what leaves the device: privatized, or forged by a malicious client.

    Args:
        model: with the weights that the update is relative to; not changed.
        update: of the unlearning method.
        own: gives the training examples that a malicious client works with.
        config: the experiment.
        client: number of the requester.
        timeline_round: round in which it unlearns.
        stream: seed of the random streams.
    """
    if client in config.attackers.clients:
        rng, target = rng_for(stream, "attacker", client, timeline_round), config.attackers.target
        adversary = Adversary(model, update, own(), config.training.local, target, rng)
        return craft_update(config.attackers, adversary)
    rng = rng_for(stream, "privacy", client, timeline_round)
    return privatize(update, trained_names(model), config.privacy, rng)


def draw_rehearsal(
    ids: Sequence[str], size: int, client: int, timeline_round: int, stream: int
) -> tuple[str, ...]:
    """Draw what a client unlearns in a rehearsal.

    Args:
        ids: of its training utterances, at least one.
        size: how many; all of them where it has fewer.
        client: number of the client.
        timeline_round: round of the unlearn step.
        stream: seed of the draw.

    Returns:
        ids, in their order
    """
    rng = rng_for(stream, "rehearse", client, timeline_round, "drawn")
    drawn = rng.choice(len(ids), min(size, len(ids)), replace=False)
    return tuple(ids[i] for i in sorted(drawn.tolist()))


def rehearse(
    model: EmotionModel,
    probes: Probes,
    forget_set: ForgetSet,
    held_out: Examples,
    method: Method,
    config: Config,
    scalars: ServerScalars,
    client: int,
    timeline_round: int,
    stream: int,
) -> Rehearsal:
    """Measure what an honest unlearning does to the model; neither the model nor anything else is changed.

    Args:
        model: with the global weights.
        probes: of these weights.
        forget_set: utterances that the client keeps.
        held_out: examples that the client does not train on.
        method: the unlearning method.
        config: the experiment.
        scalars: numbers that the server sent along.
        client: number of the client.
        timeline_round: round of the unlearn step.
        stream: seed of the random streams.

    Raises:
        UnlearnFailed: the loss or the output is not finite.
    """
    rng, before = rng_for(stream, "rehearse", client, timeline_round), model.state_dict()
    moved = difference(method(model, forget_set, config.unlearning, rng, scalars).state, before)
    moved = privatize(moved, trained_names(model), config.privacy, rng)
    candidate = copy.deepcopy(model)
    candidate.load_state_dict({name: value + moved[name] for name, value in before.items()})
    return Rehearsal(
        Update(client, len(forget_set), moved).norm,
        probes.silenced(candidate.state_dict()),
        _count_right(model, held_out),
        _count_right(candidate, held_out),
        len(held_out),
    )
