"""Answers to single utterances of the small experiment's speech, with log-odds that are easy to follow."""

from collections.abc import Collection, Mapping

import numpy as np
from small_run import small_config

from fedunlearn import corpora
from fedunlearn.evaluation.judge import View
from fedunlearn.evaluation.utterance_answers import list_answers
from fedunlearn.experiment.preparation import resolve
from fedunlearn.partition import partition_corpus
from fedunlearn.results_schema import UtteranceReport

CONFIG = resolve(small_config())
CORPUS = corpora.load(CONFIG.corpus, CONFIG.seed)
PARTITION = partition_corpus(CORPUS, CONFIG.partition, CONFIG.seed)
EVERYONE = (*PARTITION.train, *PARTITION.test, *PARTITION.unseen)


def _view(log_odds: list[float]) -> View:
    """A view whose answers are right where the log-odds are positive."""
    labels = np.array([CORPUS.emotions.index(u.emotion) for u in EVERYONE])
    values = np.array(log_odds, float)
    predicted = np.where(values > 0, labels, (labels + 1) % len(CORPUS.emotions)).astype(np.uint8)
    nothing = np.zeros(0)
    return View(nothing, nothing, predicted, values)


def listed(deleted: Mapping[str, str], asking: Collection[int]) -> UtteranceReport:
    """The n-th has n nats in the original model, -n unlearned, n - 10 recovered, n +- 1 retrained."""
    before = [float(n) for n in range(len(EVERYONE))]
    views = {
        "original": _view(before),
        "unlearned": _view([-value for value in before]),
        "recovered": _view([value - 10.0 for value in before]),
    }
    retrained = [_view([value + 1.0 for value in before]), _view([value - 1.0 for value in before])]
    return list_answers(views, retrained, CORPUS, PARTITION, deleted, asking)
