"""The judge evaluates any model on every set, from the corpus and never from a vault.

It belongs to the experimenter and is no device. It derives features of all utterances once, in memory, when
the run is prepared, and writes none of it anywhere.
"""

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedunlearn.corpora.utterance import Utterance
from fedunlearn.evaluation.fairness import Staying
from fedunlearn.evaluation.lira import confidence
from fedunlearn.evaluation.membership import membership, same_speaker
from fedunlearn.evaluation.metrics import accuracy, confusion, recognition, uar
from fedunlearn.evaluation.reconstruction import reconstruct
from fedunlearn.evaluation.recordings import RecordingCache
from fedunlearn.evaluation.request_privacy import request_privacy
from fedunlearn.evaluation.resampling import Answers, Draws
from fedunlearn.examples import Examples, pad_features
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Partition
from fedunlearn.results_schema import (
    Confusion,
    LossHistogram,
    MembershipAttack,
    ModelScores,
    Recognition,
    Reconstruction,
    RequestPrivacy,
)
from fedunlearn.seeding import rng_for
from fedunlearn.training import predict

Predictions = npt.NDArray[np.uint8]
"""Class of every utterance the judge knows, in the judge's order: [N]."""
BooleanMask = npt.NDArray[np.bool_]

_HISTOGRAM = np.linspace(0.0, 8.0, 41)


@dataclass(frozen=True)
class CurvePoint:
    """Measures of a global model during a run, when D_f may not yet be known."""

    test_uar: float | None
    unseen_uar: float | None
    train_accuracy: float | None


@dataclass(frozen=True)
class View:
    """A model's output for every utterance that the judge knows, in the judge's order.

    Attributes:
        probabilities: [N, C] float64.
        losses: [N] nats, float64.
        predicted: [N] classes.
        log_odds: [N] ln p_y - ln(1 - p_y) of the true class, nats, float64; NaN where a logit is not finite.
    """

    probabilities: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]
    predicted: Predictions
    log_odds: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sets:
    """Masks of D_f, D_r, D_t and of unseen speakers' utterances, each [N]."""

    forget: BooleanMask
    retain: BooleanMask
    test: BooleanMask
    unseen: BooleanMask


class Judge:
    """Holds features and labels of the whole corpus.

    Args:
        partition: of the corpus.
        speech: every recording of the partition; not kept.
        emotions: the class order.
        model: any model of the run's kind, for deriving and classifying; its weights are overwritten.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """

    def __init__(
        self,
        partition: Partition,
        speech: RecordingCache,
        emotions: Sequence[str],
        model: EmotionModel,
        seed: int,
        resamples: int,
    ) -> None:
        self._model, self._seed, self._resamples = model, seed, resamples
        self.classes = len(emotions)
        everyone: tuple[Utterance, ...] = (*partition.train, *partition.test, *partition.unseen)
        self._position = {u.id: i for i, u in enumerate(everyone)}
        labels = [emotions.index(u.emotion) for u in everyone]
        features = speech.features(model)
        self._examples = pad_features([features[u.id] for u in everyone], labels)
        self.labels = np.array(labels, np.int64)
        """[N] true classes"""
        self._speakers = np.array([u.speaker for u in everyone])
        self._trained_by = [(s.client, u) for s in partition.clients for u in s.train]
        self._tested_by = [(s.client, u) for s in partition.clients for u in s.test]
        self._train = self._mask(u.id for u in partition.train)
        self._test = self._mask(u.id for u in partition.test)
        self._unseen = self._mask(u.id for u in partition.unseen)
        self._digest = {
            u.id: _digest_of([speech.digest(u.id), str(label)])
            for u, label in zip(everyone, labels, strict=True)
        }
        # What is kept by content holds predictions for everyone, in this order, over these emotions.
        self._judged = _digest_of([*emotions, *self._digest.values()])

    def content_of(self, ids: Iterable[str]) -> str:
        """A digest of these utterances' audio and labels, in order, and of all that the judge evaluates on.

        It identifies what a client was trained on and evaluated on: the digest changes with any recording,
        also of a speaker whom no client has.
        """
        return _digest_of([self._judged, *(self._digest[i] for i in ids)])

    def content_of_held(self, recordings: Iterable[tuple[str, int]]) -> str:
        """Compute ``content_of`` for recordings on a device: (SHA-256 of the samples, label) of each."""
        return _digest_of([self._judged, *(_digest_of([sha256, str(label)]) for sha256, label in recordings)])

    def predictions(self, state: Mapping[str, Tensor]) -> Predictions:
        """The class that a model predicts for each utterance: [N]."""
        return self.looking()(state)

    def looking(self, aside: bool = False) -> Callable[[Mapping[str, Tensor]], Predictions]:
        """A function that does as ``predictions``.

        Args:
            aside: whether it gets a copy of the model, so that another thread can call it.
        """
        model = copy.deepcopy(self._model) if aside else self._model

        def look(state: Mapping[str, Tensor]) -> Predictions:
            return self._logits(state, model).argmax(1).numpy().astype(np.uint8)

        return look

    def curve_point(self, predictions: Predictions) -> CurvePoint:
        """The measures of the learning curve."""
        return CurvePoint(
            uar(*self._pick(self._test, predictions)),
            uar(*self._pick(self._unseen, predictions)),
            accuracy(*self._pick(self._train, predictions)),
        )

    def retain_and_forget(
        self, predictions: Predictions, forget: Iterable[str]
    ) -> tuple[float | None, float | None]:
        """Accuracy on D_r and on D_f."""
        gone = self._mask(forget)
        return (
            accuracy(*self._pick(self._train & ~gone, predictions)),
            accuracy(*self._pick(gone, predictions)),
        )

    def request_privacy(
        self,
        before: Mapping[str, Tensor],
        update: Mapping[str, Tensor],
        forget: Iterable[str],
        kept: Iterable[str],
        held_out: Iterable[str],
    ) -> RequestPrivacy:
        """Measure what one requester's update reveals about its forget set.

        Args:
            before: the weights that it started from.
            update: the weight differences that it sent.
            forget: D_f of that client.
            kept: its other training utterances.
            held_out: its test utterances.
        """
        parts = [np.flatnonzero(self._mask(ids)) for ids in (forget, kept, held_out)]
        forgotten, left, tested = (self._examples.take(torch.from_numpy(part)) for part in parts)
        return request_privacy(
            self._model,
            before,
            update,
            forgotten,
            left,
            tested,
            self.labels[self._train],
            self._resamples,
            rng_for(self._seed, "bootstrap"),
        )

    def reconstruct(
        self,
        before: Mapping[str, Tensor],
        difference: Mapping[str, Tensor],
        forget: Sequence[str],
        others: Sequence[str],
    ) -> Reconstruction | None:
        """Measure how well deleted utterances' features are read off a difference of two models.

        Args:
            before: the weights that the difference starts from.
            difference: weights after minus weights before.
            forget: the utterances that it was made from.
            others: further utterances of the same client.
        """
        self._model.load_state_dict(dict(before))
        return reconstruct(self._model, difference, self.examples(forget), self.examples(others))

    def examples(self, ids: Sequence[str]) -> Examples:
        """Features and labels of these utterances, in this order."""
        return self._examples.take(torch.tensor([self._position[i] for i in ids], dtype=torch.int64))

    def view(self, state: Mapping[str, Tensor]) -> View:
        """A model's output for every utterance."""
        logits = self._logits(state).double()
        losses = cross_entropy(logits, self._examples.labels, reduction="none").numpy()
        predicted = logits.argmax(1).numpy().astype(np.uint8)
        return View(logits.softmax(1).numpy(), losses, predicted, confidence(logits.numpy(), self.labels))

    def sets(self, forget: Iterable[str]) -> Sets:
        """The sets, given D_f: the union of all requests' utterances."""
        gone = self._mask(forget)
        return Sets(gone, self._train & ~gone, self._test, self._unseen)

    def held_out(self, forget: Iterable[str]) -> tuple[BooleanMask, BooleanMask]:
        """Divide D_t into the speech of the speakers whose speech was deleted, and that of all others.

        Args:
            forget: D_f.
        """
        asking = np.isin(self._speakers, self._speakers[self._mask(forget)])
        return self._test & asking, self._test & ~asking

    def answers(self, view: View, mask: BooleanMask) -> Answers:
        """A model's predictions and losses on one set."""
        labels = self.labels[mask]
        return Answers(view.predicted[mask] == labels, view.losses[mask], labels)

    def staying(self, forget: Iterable[str]) -> tuple[BooleanMask, list[Staying]]:
        """D_t of the speakers whose training speech the federation keeps, and whose each utterance is."""
        gone = set(forget)
        kept = {(c, u.speaker) for c, u in self._trained_by if u.id not in gone}
        who = [(c, u) for c, u in self._tested_by if (c, u.speaker) in kept]
        own: dict[int, list[str]] = {}
        for client, utterance in [*self._trained_by, *self._tested_by]:
            names = own.setdefault(client, [])
            if utterance.speaker not in names:
                names.append(utterance.speaker)
        about = [Staying(c, sorted(own[c]).index(u.speaker), u.gender) for c, u in who]
        return self._mask(u.id for _, u in who), about

    def measure(self, view: View, forget: Iterable[str]) -> ModelScores:
        """All measures of one model by itself.

        Args:
            view: of the model.
            forget: D_f, the union of all requests' utterances.
        """
        sets = self.sets(forget)
        losses, labels = view.losses, self.labels
        return ModelScores(
            test=self._recognition(view, sets.test),
            unseen=self._recognition(view, sets.unseen),
            # A request may be for one emotion alone, of which the mean recall says nothing.
            retain=self._recognition(view, sets.retain, with_uar=False),
            forget=self._recognition(view, sets.forget, with_uar=False),
            membership=self.membership(view, sets.forget),
            membership_same_speaker=same_speaker(
                losses[sets.forget],
                labels[sets.forget],
                self._speakers[sets.forget],
                losses[sets.test],
                labels[sets.test],
                self._speakers[sets.test],
                self._resamples,
                rng_for(self._seed, "bootstrap", "same speaker"),
            ),
            losses=LossHistogram(
                edges=_HISTOGRAM.tolist(),
                forget=_counts(losses[sets.forget]),
                test=_counts(losses[sets.test]),
            ),
            confusion=Confusion(
                test=confusion(*self._pick(sets.test, view.predicted), self.classes),
                unseen=confusion(*self._pick(sets.unseen, view.predicted), self.classes),
            ),
        )

    def membership(self, view: View, forget: BooleanMask) -> MembershipAttack:
        """The population attack on these utterances, with the same resamples for every model."""
        return membership(
            view.losses[forget],
            self.labels[forget],
            view.losses[self._test],
            self.labels[self._test],
            self._resamples,
            rng_for(self._seed, "bootstrap"),
        )

    def draws(self, sets: Sets) -> Draws:
        """Resamples of the sets that the gap is measured on."""
        forget, retain, test = (int(mask.sum()) for mask in (sets.forget, sets.retain, sets.test))
        return Draws(forget, retain, test, self._resamples, rng_for(self._seed, "bootstrap", "gap"))

    def _recognition(self, view: View, mask: BooleanMask, *, with_uar: bool = True) -> Recognition:
        return recognition(*self._pick(mask, view.predicted), with_uar=with_uar)

    def _mask(self, ids: Iterable[str]) -> BooleanMask:
        mask = np.zeros(len(self._position), bool)
        mask[[self._position[i] for i in ids]] = True
        return mask

    def _pick(self, mask: BooleanMask, predictions: Predictions) -> tuple[npt.NDArray[np.int64], Predictions]:
        return self.labels[mask], predictions[mask]

    def _logits(self, state: Mapping[str, Tensor], model: EmotionModel | None = None) -> Tensor:
        model = model or self._model
        model.load_state_dict(dict(state))
        return predict(model, self._examples)


def _counts(losses: npt.NDArray[np.float64]) -> list[int]:
    # What lies beyond the last edge is counted in the last bin.
    return [int(n) for n in np.histogram(np.minimum(losses, _HISTOGRAM[-1]), _HISTOGRAM)[0]]


def _digest_of(words: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()
