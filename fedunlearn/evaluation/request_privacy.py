"""The privacy of the request itself: what a server learns about the deleted data from one update.

The server is honest but curious: it knows the model before, the update as it arrived, and the method. Two
questions are asked. Which emotions were deleted, and how many of each? And which utterances: given candidates
of the same client, can the deleted ones be distinguished from the others? The server could run every attack
here; the judge, who knows the truth, measures how well each did and reports the best. An update of zeros
reveals
nothing: the server then knows what it knew before.
"""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedunlearn.evaluation.membership import membership
from fedunlearn.evaluation.reconstruction import reconstruct
from fedunlearn.examples import Examples
from fedunlearn.models.contract import EmotionModel
from fedunlearn.results_schema import LabelMixAttack, Reconstruction, RequestPrivacy, UpdateMembership
from fedunlearn.training import predict

Mix = npt.NDArray[np.float64]
"""Share of each class, [C], >= 0, sum 1."""


def request_privacy(
    model: EmotionModel,
    before: Mapping[str, Tensor],
    update: Mapping[str, Tensor],
    forget: Examples,
    kept: Examples,
    held_out: Examples,
    corpus_labels: npt.NDArray[np.int64],
    resamples: int,
    rng: np.random.Generator,
) -> RequestPrivacy:
    """Measure what an update reveals about the forget set that it was made from.

    Args:
        model: any of the run's kind; a copy is used.
        before: the global weights that the requester started from.
        update: the weight differences that it sent, by name.
        forget: D_f.
        kept: the client's other training utterances.
        held_out: the client's test utterances.
        corpus_labels: [N] of all training utterances of all clients.
        resamples: of the bootstrap.
        rng: of the bootstrap.
    """
    model = copy.deepcopy(model)
    model.load_state_dict(dict(before))
    known = [_losses(model, part) for part in (forget, kept, held_out)]
    aligned = [_alignment(model, update, part) for part in (forget, kept, held_out)]
    guesses = label_mixes(model, update)
    rebuilt = reconstruct(model, update, forget, kept if len(kept) else held_out)
    model.load_state_dict({k: v + update[k] for k, v in before.items()})
    rises = [_losses(model, part) - was for part, was in zip((forget, kept, held_out), known, strict=True)]
    attacks = {"loss rise": rises, "gradient alignment": aligned}
    # An update may be so long that the model's output is not finite: then this attack tells nothing.
    attacks = {n: scores for n, scores in attacks.items() if all(np.isfinite(s).all() for s in scores)}
    seed = int(rng.integers(2**62))

    def best(other: int, examples: Examples, against: str) -> UpdateMembership | None:
        found = [
            _auc(scores[0], forget, scores[other], examples, against, name, resamples, seed)
            for name, scores in attacks.items()
        ]
        known = [f for f in found if f is not None]
        return max(known, key=lambda f: f.auc or 0.0) if known else None

    from_kept, from_held_out = best(1, kept, "kept"), best(2, held_out, "held-out")
    nothing = UpdateMembership.empty()
    mix = _best_guess(guesses, forget.labels.numpy(), corpus_labels, model.classes)
    return RequestPrivacy(
        label_mix=mix or LabelMixAttack.empty(),
        membership=from_kept or from_held_out or nothing,
        membership_held_out=from_held_out or nothing,
        reconstruction=rebuilt or Reconstruction.empty(),
    )


def label_mixes(model: EmotionModel, update: Mapping[str, Tensor]) -> dict[str, Mix]:
    """Guesses of the forget set's label mix, by attack.

    Forgetting an utterance pushes down the output of its class: the gradient of the cross-entropy by the
    output bias is p - y, so that an ascent step lowers the bias of the true class alone (after Zhao et al.
    2020, iDLG, arXiv 2001.02610). Each guess is a vector [C] >= 0 as shares; where all of it is zero, the
    server guesses that all classes are equally frequent. "bias": by how much the output bias falls; "rows":
    by how much the sums of the rows of the output matrix fall, whose inputs are mostly of one sign; "half
    rows": half way from there to equal shares; "lengths": the lengths of the rows' changes.

    Args:
        model: with the weights before.
        update: differences, by name.
    """
    matrix, bias = _output_layer(model)
    found = {}
    if bias is not None:
        found["bias"] = _shares(-update[bias].double())
    if matrix is not None:
        rows = update[matrix].double()
        found["rows"] = _shares(-rows.sum(1))
        found["half rows"] = (found["rows"] + 1 / model.classes) / 2
        found["lengths"] = _shares(rows.norm(dim=1))
    return found


def total_variation(a: Mix, b: Mix) -> float:
    """Half the sum of absolute differences, in [0, 1]."""
    return 0.5 * float(np.abs(a - b).sum())


def mix_of(labels: npt.NDArray[np.int64], classes: int) -> Mix:
    """Shares of the classes among n >= 1 labels."""
    return np.bincount(labels, minlength=classes) / len(labels)


def _best_guess(
    guesses: Mapping[str, Mix], forget: npt.NDArray[np.int64], corpus: npt.NDArray[np.int64], classes: int
) -> LabelMixAttack | None:
    if not len(forget) or not guesses or classes < 2:
        return None
    truth = mix_of(forget, classes)
    distances = {name: total_variation(guess, truth) for name, guess in guesses.items()}
    best = min(distances, key=lambda name: distances[name])
    return LabelMixAttack(
        tv=distances[best],
        attack=best,
        uniform=total_variation(np.full(classes, 1 / classes), truth),
        corpus=total_variation(mix_of(corpus, classes), truth),
    )


def _shares(amounts: Tensor) -> Mix:
    positive = np.maximum(0.0, amounts.numpy())
    whole = positive.sum()
    return positive / whole if whole > 0 else np.full(len(positive), 1 / len(positive))


def _output_layer(model: EmotionModel) -> tuple[str | None, str | None]:
    """Names of the last trained matrix [C, H] and of the last trained vector [C]."""
    shapes = [(n, p.shape) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [n for n, shape in shapes if len(shape) == 2 and shape[0] == model.classes]
    vectors = [n for n, shape in shapes if shape == (model.classes,)]
    return matrices[-1] if matrices else None, vectors[-1] if vectors else None


def _auc(
    forget_scores: npt.NDArray[np.float64],
    forget: Examples,
    other_scores: npt.NDArray[np.float64],
    other: Examples,
    against: str,
    attack: str,
    resamples: int,
    seed: int,
) -> UpdateMembership | None:
    """The chance that a deleted utterance scores higher than another of the same label mix."""
    found = membership(
        -forget_scores,
        forget.labels.numpy(),
        -other_scores,
        other.labels.numpy(),
        resamples,
        np.random.Generator(np.random.PCG64(seed)),
    )
    if found.auc is None:
        return None
    return UpdateMembership(
        auc=found.auc,
        low=found.low,
        high=found.high,
        against=against,
        attack=attack,
        tpr_at=found.tpr_at,
    )


def _losses(model: EmotionModel, examples: Examples) -> npt.NDArray[np.float64]:
    losses: npt.NDArray[np.float64] = cross_entropy(
        predict(model, examples).double(), examples.labels, reduction="none"
    ).numpy()
    return losses


def _alignment(
    model: EmotionModel, update: Mapping[str, Tensor], examples: Examples
) -> npt.NDArray[np.float64]:
    """Cosine of the update and the gradient of each utterance's loss, in [-1, 1]; 0 where either is zero."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    weights: Sequence[Tensor] = [p for _, p in named]
    moved = torch.cat([update[n].double().flatten() for n, _ in named])
    was_training = model.training
    model.eval()
    found = []
    for position in range(len(examples)):
        one = examples.take(torch.tensor([position]))
        loss = cross_entropy(model.classify(one.features, one.frames), one.labels)
        gradient = torch.cat([g.double().flatten().cpu() for g in torch.autograd.grad(loss, weights)])
        length = float(gradient.norm() * moved.norm())
        found.append(float(gradient @ moved) / length if length > 0 else 0.0)
    model.train(was_training)
    return np.array(found, np.float64)
