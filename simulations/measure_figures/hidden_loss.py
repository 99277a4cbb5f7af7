"""A method made to fool the population attack, and the attacks that see through it.

Small classifiers of noisy Gaussian classes learn their training data by heart. "Unlearning" then moves the
loss of every forget example to where losses of never-seen examples usually lie, and nothing else: with forget
set and one number from the server (``level``), or with a whole list of losses to spread over (``spread``).
An attack that compares losses of forget and of test examples finds nothing. But an easy example has a low
loss in a model that never saw it, and a hard one a high loss; here both have what the method gave them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedunlearn.evaluation.informed import informed
from fedunlearn.evaluation.lira import u_lira
from fedunlearn.evaluation.membership import membership
from fedunlearn.results_schema import MembershipAttack, ShadowAttackScores
from fedunlearn.seeding import rng_for, torch_rng_for

Hiding = Literal["level", "spread"]

CLASSES, REQUESTS = 4, 4
_DIMENSIONS, _HIDDEN = 20, 64
_KEPT, _TEST = 64, 256
_NOISE = 1.3
"""standard deviation of an example about its class's centre, in each coordinate"""


@dataclass(frozen=True)
class Findings:
    """What three attacks say of one kind of model.

    Attributes:
        population: of the first shadow, all its forget examples against the test examples.
        population_mean: its AUC, mean over all shadows.
        ulira: U-LiRA.
        informed: the informed attack.
        accuracy: on test examples, mean over the shadows.
    """

    population: MembershipAttack
    population_mean: float
    ulira: ShadowAttackScores
    informed: ShadowAttackScores
    accuracy: float


@dataclass(frozen=True)
class Examples:
    """Features [n, D] and labels [n]."""

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class World:
    """Candidates may be in a shadow's training data; kept always are, test examples never."""

    candidates: Examples
    kept: Examples
    test: Examples
    request: npt.NDArray[np.int64]
    inside: npt.NDArray[np.bool_]


Weights = list[Tensor]
"""Weights of S two-layer perceptrons: [S, D, H], [S, 1, H], [S, H, C], [S, 1, C]."""


def hidden_loss(
    seed: int = 1, shadows: int = 64, hiding: Hiding = "level", resamples: int = 1000
) -> dict[str, Findings]:
    """Attack models before the hiding and after it, and models that never saw any candidate.

    Args:
        seed: of everything.
        shadows: models, each trained on a random half of 64 candidates.
        hiding: "level" moves every forget example's loss to the median test loss; "spread" gives them the
            quantiles of the test losses, in the order that their own losses had.
        resamples: of the bootstraps.

    Returns:
        "original", "unlearned", "retrained" -> findings
    """
    world = make_world(seed, shadows)
    original = trained(world, world.inside, seed)
    models = {
        "original": original,
        "unlearned": hidden(world, original, hiding),
        "retrained": trained(world, np.zeros_like(world.inside), seed + 1),
    }
    return {name: _findings(world, weights, seed, resamples) for name, weights in models.items()}


def make_world(seed: int, shadows: int, candidates: int = 64, apart: float = 0.5) -> World:
    """Candidates of 4 requests in turn, and for each shadow a random half of them.

    Args:
        apart: standard deviation of the coordinates of the classes' centres; 0: labels mean nothing.
    """
    rng = rng_for(seed, "hidden loss", "world")
    centres = apart * rng.standard_normal((CLASSES, _DIMENSIONS))

    def examples(n: int) -> Examples:
        labels = np.arange(n) % CLASSES
        features = centres[labels] + _NOISE * rng.standard_normal((n, _DIMENSIONS))
        return Examples(torch.from_numpy(features).float(), torch.from_numpy(labels))

    asked, kept, test = examples(candidates), examples(_KEPT), examples(_TEST)
    inside = rng.permuted(np.tile(np.arange(candidates) % 2 == 0, (shadows, 1)), axis=1)
    return World(asked, kept, test, np.arange(candidates) // CLASSES % REQUESTS, inside)


def trained(world: World, inside: npt.NDArray[np.bool_], seed: int, steps: int = 40) -> Weights:
    """S models, each trained on what is kept and on its own candidates, until it knows them by heart.

    Args:
        inside: [S, K], which candidates each is trained on.
    """
    generator = torch_rng_for(seed, "hidden loss", "models")
    shadows = len(inside)
    weights = [
        torch.randn(shadows, _DIMENSIONS, _HIDDEN, generator=generator) / _DIMENSIONS**0.5,
        torch.zeros(shadows, 1, _HIDDEN),
        torch.randn(shadows, _HIDDEN, CLASSES, generator=generator) / _HIDDEN**0.5,
        torch.zeros(shadows, 1, CLASSES),
    ]
    everything = Examples(
        torch.cat([world.kept.features, world.candidates.features]),
        torch.cat([world.kept.labels, world.candidates.labels]),
    )
    used = torch.from_numpy(np.pad(inside, ((0, 0), (_KEPT, 0)), constant_values=True))

    def objective(moved: Weights) -> Tensor:
        per_model = (losses_of(moved, everything) * used).sum(1) / used.sum(1)
        return per_model.sum()

    return _descended(weights, objective, steps)


def hidden(world: World, original: Weights, hiding: Hiding, rounds: int = 30, steps: int = 30) -> Weights:
    """Move the loss of each forget example to a test example's, with the forget set alone.

    In every round the server sends the current distribution of losses on test examples.
    """
    member = torch.from_numpy(world.inside)
    weights, own = original, losses_of(original, world.candidates)
    for _ in range(rounds):
        target = _targets(own, losses_of(weights, world.test), member, hiding)

        def objective(moved: Weights, target: Tensor = target) -> Tensor:
            off = (losses_of(moved, world.candidates) - target) ** 2
            return ((off * member).sum(1) / member.sum(1)).sum()

        weights = _descended(weights, objective, steps, lr=0.003)
    return weights


def logits_of(weights: Weights, examples: Examples) -> Tensor:
    """Compute the logits [S, n, C] of S models on n examples."""
    into, bias, out, out_bias = weights
    return torch.relu(examples.features @ into + bias) @ out + out_bias


def losses_of(weights: Weights, examples: Examples) -> Tensor:
    """Compute the cross-entropies [S, n] in nats."""
    labels = examples.labels.expand(len(weights[0]), -1)
    return cross_entropy(logits_of(weights, examples).transpose(1, 2), labels, reduction="none")


def _targets(own: Tensor, test: Tensor, member: Tensor, hiding: Hiding) -> Tensor:
    """[S, K] losses to move to; anything for those who are no members."""
    if hiding == "level":
        return test.median(1, keepdim=True).values.expand(own.shape)
    rank = own.masked_fill(~member, torch.inf).argsort(1).argsort(1)
    share = ((rank + 0.5) / member.sum(1, keepdim=True)).clamp(max=1.0)
    place = (share * (test.shape[1] - 1)).round().long()
    return test.sort(1).values.gather(1, place)


def _descended(
    weights: Weights, objective: Callable[[Weights], Tensor], steps: int, lr: float = 0.01
) -> Weights:
    """Adam; the models' objectives are summed, and no weight belongs to two of them."""
    moved = [w.detach().clone().requires_grad_() for w in weights]
    optimiser = torch.optim.Adam(moved, lr)
    for _ in range(steps):
        optimiser.zero_grad()
        objective(moved).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return [w.detach() for w in moved]


def _findings(world: World, weights: Weights, seed: int, resamples: int) -> Findings:
    logits = logits_of(weights, world.candidates).numpy()
    labels, test_labels = world.candidates.labels.numpy(), world.test.labels.numpy()
    own, test = (losses_of(weights, part).double().numpy() for part in (world.candidates, world.test))

    def population(shadow: int, drawn: int) -> MembershipAttack:
        mine, rng = world.inside[shadow], rng_for(seed, "bootstrap")
        return membership(own[shadow, mine], labels[mine], test[shadow], test_labels, drawn, rng)

    each = [population(shadow, 0).auc for shadow in range(len(world.inside))]
    arguments = (logits, labels, world.inside)
    right = logits_of(weights, world.test).argmax(2) == world.test.labels
    return Findings(
        population=population(0, resamples),
        population_mean=float(np.mean([auc for auc in each if auc is not None])),
        ulira=u_lira(*arguments, resamples, rng_for(seed, "bootstrap")),
        informed=informed(*arguments, world.request, resamples, rng_for(seed, "bootstrap")),
        accuracy=float(right.double().mean()),
    )
