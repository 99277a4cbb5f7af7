"""How well deleted utterances' features are read off a difference of two models.

The gradient of a linear layer's weights is a sum of outer products of errors and inputs, so the rows of an
update of that layer lie in the span of the inputs it was made from, and with one input every row is a
multiple of it. Anyone with the models before and after a step on few utterances has their features. These are
the attacks that need only the two models (Phong et al. 2018, IEEE TIFS 13(5), section III; Geiping et
al. 2020, arXiv 2003.14053, section 3.1).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.results_schema import Reconstruction


def reconstruct(
    model: EmotionModel, difference: Mapping[str, Tensor], forget: Examples, others: Examples
) -> Reconstruction | None:
    """Read features off a difference of two models' weights.

    Args:
        model: with the weights before; where its first trained layer is linear, that layer is attacked.
        difference: weights after less weights before, by name.
        forget: the n utterances that the difference was made from.
        others: further utterances of the same client.

    Returns:
        r: largest absolute correlation of a direction in the difference with the features of a deleted
        utterance, in [0, 1]; r_others: the same with the client's other utterances, which is chance, None
        without any; named: share of the n that are among the first n when the client's utterances are ordered
        by how much of them lies in the difference's leading directions; chance: that share by guessing. None
        where n = 0 or the model has no linear layer that sees one vector an utterance.
    """
    seen = _first_inputs(model, forget)
    if seen is None:
        return None
    layer, features = seen
    rest = _first_inputs(model, others)
    beside = rest[1] if rest is not None else features[:0]
    weight = difference[f"{layer}.weight"].double()
    if not bool(weight.any()):
        count = len(features) + len(beside)
        return Reconstruction(r=0.0, r_others=None, named=0.0, chance=len(features) / count)
    leading = torch.linalg.svd(weight, full_matrices=False).Vh[: len(features)]
    directions = [leading]
    bias = difference.get(f"{layer}.bias")
    if bias is not None and bool(bias.any()):
        directions.append((bias.double() @ weight)[None, :])
    matches = _correlations(torch.cat(directions), torch.cat([features, beside])).abs().amax(0)
    inside = _unit(torch.cat([features, beside])) @ leading.T
    first = inside.norm(dim=1).argsort(descending=True, stable=True)[: len(features)]
    return Reconstruction(
        r=min(1.0, float(matches[: len(features)].max())),
        r_others=min(1.0, float(matches[len(features) :].max())) if len(beside) else None,
        named=float((first < len(features)).double().mean()),
        chance=len(features) / (len(features) + len(beside)),
    )


def _first_inputs(model: EmotionModel, examples: Examples) -> tuple[str, Tensor] | None:
    """The name of the first trained linear layer, and what it sees: one vector an utterance, [n, D]."""
    if not len(examples):
        return None
    seen: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.append((name, inputs[0].detach().cpu().double()))
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            model.classify(examples.features, examples.frames)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    if not seen or seen[0][1].dim() != 2 or len(seen[0][1]) != len(examples):
        return None
    return seen[0]


def _correlations(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlations of the rows of [m, D] with those of [n, D]: [m, n]; 0 of constant rows."""
    return _unit(a - a.mean(1, keepdim=True)) @ _unit(b - b.mean(1, keepdim=True)).T


def _unit(rows: Tensor) -> Tensor:
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return unit
