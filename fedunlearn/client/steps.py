"""What a device computes for its replies, as functions of the model, its speech and the settings.

No message and no vault: the ClientApp answers with them, and shadow federations are made of them.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedunlearn.blockwise import StateDict, difference
from fedunlearn.client.adversaries import Adversary, craft_update
from fedunlearn.client.privacy import released
from fedunlearn.config import Config
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.messages.scalars import Sums
from fedunlearn.models.contract import EmotionModel
from fedunlearn.seeding import rng_for
from fedunlearn.training import Moments, calibrate, predict, train
from fedunlearn.unlearning.contract import Method, ServerScalars, UnlearnResult
from fedunlearn.unlearning.low_rank import log_odds_of, smoothed
from fedunlearn.vault.calibration import FEWEST


def moments_of(model: EmotionModel, examples: Examples) -> Moments:
    """A client's part of the normalisation constants; of three utterances or fewer it tells nothing."""
    few = len(examples) < FEWEST
    return calibrate(model, examples.take(torch.arange(0)) if few else examples)


def trained(
    model: EmotionModel,
    start: Mapping[str, Tensor],
    training: Callable[[], float],
    into: Mapping[str, Tensor] | None = None,
) -> tuple[StateDict, float]:
    """Train a model in place from these weights: what that moved it by, and the loss.

    Args:
        into: tensors to write the difference into; None = new ones.
    """
    model.load_state_dict(start)
    loss = training()
    return difference(model.state_dict(), start, into), loss


def train_in_round(
    model: EmotionModel,
    kept: Examples,
    config: Config,
    epochs: int,
    lr: float,
    client: int,
    phase: str,
    number: int,
    stream: int,
) -> float:
    """An ordinary or a recovery round of one client, in place; the mean loss of its last epoch.

    Args:
        kept: what it trains on, at least one example.
        phase, number: "learn" and the ordinary round, or "recover" and the round of the clock.
        stream: seed of the training's random streams.

    Raises:
        TrainingDiverged: the loss is not finite.
    """
    local = config.training.local.model_copy(update={"epochs": epochs})
    return train(model, kept, local, lr, rng_for(stream, "client", client, phase, number))


def heard_by(
    model: EmotionModel, held_out: Examples, trained_on: Examples | None, rank: int
) -> tuple[int, Sums, Sums]:
    """How a client's speech fares with a model: held-out answers that are right, and sums of log-odds.

    Args:
        trained_on: its training speech; None = no log-odds are asked for.
        rank: of the smoothed model.

    Returns:
        (right answers, sums of the training speech, sums of the held-out speech)
    """
    right = int((predict(model, held_out).argmax(1) == held_out.labels).sum())
    if trained_on is None:
        return right, Sums(), Sums()
    return right, _sums(smoothed(model, rank), trained_on), _sums(model, held_out)


def _sums(model: EmotionModel, examples: Examples) -> Sums:
    # Sums are for a spread over all clients; of a few utterances they would tell too much.
    return Sums() if len(examples) < FEWEST else Sums.of(log_odds_of(model, examples))


def unlearned(
    model: EmotionModel,
    forget_set: ForgetSet,
    method: Method,
    config: Config,
    scalars: ServerScalars,
    client: int,
    timeline_round: int,
    stream: int,
) -> tuple[UnlearnResult, StateDict]:
    """A requester's unlearning: the result, and by how much it would move the model, which is not changed.

    Raises:
        UnlearnFailed: the loss or the output is not finite.
    """
    rng = rng_for(stream, "unlearn", client, timeline_round)
    result = method(model, forget_set, config.unlearning, rng, scalars)
    return result, difference(result.state, model.state_dict())


def sent(
    model: EmotionModel,
    update: StateDict,
    own: Callable[[], Examples],
    config: Config,
    client: int,
    timeline_round: int,
    stream: int,
) -> dict[str, Tensor]:
    """An unlearn update as it leaves the device: with noise where the settings say so, a lie of who lies.

    Args:
        model: that the update is for; not changed.
        own: the training speech that an attacker works with.
    """
    if client in config.attackers.clients:
        rng, target = rng_for(stream, "attacker", client, timeline_round), config.attackers.target
        return craft_update(
            config.attackers, Adversary(model, update, own(), config.training.local, target, rng)
        )
    moved = {name for name, p in model.named_parameters() if p.requires_grad}
    return released(update, moved, config.privacy, rng_for(stream, "privacy", client, timeline_round))
