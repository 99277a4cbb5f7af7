"""Recordings for the page to explore runs: speech of people who asked for no deletion in any of its runs."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from fedunlearn import corpora
from fedunlearn.audio import BadAudio, encode_mp3
from fedunlearn.config import CorpusSettings, PartitionSettings
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.errors import BadInput
from fedunlearn.partition import Partition, partition_corpus
from fedunlearn.report.explore.page import HeldClip, HeldSpeech
from fedunlearn.results_schema import Results, UtteranceGroup

S = TypeVar("S", bound=BaseModel)

_GENERATED = "synthetic"
MOST_CLIPS: Final = 60
"""recordings of a page; about 10 kB each"""


@dataclass(frozen=True)
class _Source:
    """Runs on one corpus: the same folder and settings, or the same generated speech.

    Attributes:
        corpus: the speech.
        runs: name -> results.
        private: everyone whose device asked for a deletion in any of the runs.
    """

    corpus: Corpus
    runs: Mapping[str, Results]
    private: frozenset[str]


def held_speech(runs: Mapping[str, Results], folder: Path | None) -> HeldSpeech:
    """Encode the held utterances whose answers are farthest from those of the retrained models.

    Args:
        runs: name -> results.
        folder: the corpus, of the runs on real speech; None = only generated speech is made again, where this
            version still generates the same.

    Returns:
        at most ``MOST_CLIPS`` recordings, as MP3.

    Raises:
        BadInput: the folder holds another corpus than the runs, no run lists utterances by their places, or
            the runs are of several corpora.
    """
    real = {name: run for name, run in runs.items() if run.corpus.name != _GENERATED}
    found = _generated({name: run for name, run in runs.items() if name not in real})
    if folder is not None:
        found += _recorded(real, folder)
    most = MOST_CLIPS // max(len(found), 1)
    clips = [clip for number, source in enumerate(found) for clip in _clips(str(number), source, most)]
    of_run = {name: str(number) for number, source in enumerate(found) for name in source.runs}
    return HeldSpeech(of_run, clips, "audio/mpeg")


def _recorded(runs: Mapping[str, Results], folder: Path) -> list[_Source]:
    """The runs on real speech, by the settings that read it; a person is the same in all of them."""
    names = {str(run.corpus.name) for run in runs.values() if _lists_places(run)}
    if len(names) != 1 or len({run.corpus.name for run in runs.values()}) != 1:
        what = f"runs of {', '.join(sorted(names))}" if names else "no run that lists utterances of a corpus"
        raise BadInput(f"--corpus {folder}: there are {what}; give runs of this corpus alone")
    found = []
    for settings, mine in _by_settings(runs).items():
        moved = CorpusSettings.model_validate_json(settings).model_copy(update={"path": str(folder)})
        corpus = corpora.load(moved, 0)
        if not all(_is_of(run, corpus) for run in mine.values()):
            raise BadInput(
                f"--corpus {folder}: holds {len(corpus.utterances)} utterances, other ones than the runs; "
                "give the corpus that they were made from, without a recording more or less"
            )
        found.append(_Source(corpus, mine, _private_speakers(corpus, mine.values())))
    private = frozenset().union(*(source.private for source in found))
    return [replace(source, private=private) for source in found]


def _generated(runs: Mapping[str, Results]) -> list[_Source]:
    """The runs on generated speech, by settings and seed, where it is generated as it was."""
    found = []
    for seed in {run.seed or 0: None for run in runs.values()}:
        own = {name: run for name, run in runs.items() if (run.seed or 0) == seed}
        with suppress(BadInput):
            for settings, mine in _by_settings(own).items():
                corpus = corpora.load(CorpusSettings.model_validate_json(settings), seed)
                if all(_is_of(run, corpus) for run in mine.values()) and any(
                    map(_lists_places, mine.values())
                ):
                    found.append(_Source(corpus, mine, _private_speakers(corpus, mine.values())))
    return found


def _by_settings(runs: Mapping[str, Results]) -> dict[str, dict[str, Results]]:
    """The runs by their corpus settings as JSON, without the path."""
    found: dict[str, dict[str, Results]] = {}
    for name, run in runs.items():
        settings = _section(CorpusSettings, run, "corpus")
        key = settings.model_copy(update={"path": ""}).model_dump_json()
        found.setdefault(key, {})[name] = run
    return found


def _lists_places(run: Results) -> bool:
    return any(group.places for group in run.answers.groups)


def _clips(number: str, source: _Source, most: int) -> Iterator[HeldClip]:
    orders = [_by_distance(run) for run in source.runs.values()]
    longest = max(map(len, orders), default=0)
    in_turn = (order[n] for n in range(longest) for order in orders if n < len(order))
    utterances = source.corpus.utterances
    held = dict.fromkeys(place for place in in_turn if utterances[place].speaker not in source.private)
    for place in islice(held, most):
        try:
            yield HeldClip(number, place, encode_mp3(utterances[place].pcm()))
        except BadAudio as error:
            raise BadInput(str(error)) from error


def _private_speakers(corpus: Corpus, runs: Iterable[Results]) -> frozenset[str]:
    found: set[str] = set()
    partitions: dict[str, Partition] = {}
    for run in runs:
        settings = _section(PartitionSettings, run, "partition")
        key = f"{settings.model_dump_json()} {run.seed}"
        if key not in partitions:
            partitions[key] = partition_corpus(corpus, settings, run.seed or 0)
        shares = partitions[key].clients
        asking = {request.client for request in run.requests if request.client is not None}
        found |= {u.speaker for client in asking for _, held in shares[client].splits for u in held}
    return frozenset(found)


def _section(kind: type[S], run: Results, name: str) -> S:
    try:
        return kind.model_validate_json(json.dumps(run.setting(name) or {}))
    except ValidationError as error:
        raise BadInput(
            f"--corpus: {name} of a run's config cannot be read ({error.error_count()} errors); it is of "
            "another version: leave --corpus out, or run it again"
        ) from error


def _is_of(run: Results, corpus: Corpus) -> bool:
    """Whether the run was made from this corpus, as far as its results tell."""
    same = len(corpus.utterances) == run.corpus.utterances and list(corpus.emotions) == run.corpus.emotions
    return same and all(_fits(group, corpus) for group in run.answers.groups)


def _fits(group: UtteranceGroup, corpus: Corpus) -> bool:
    """Whether the emotions of the utterances are those of the corpus at their places."""
    names = [corpus.utterances[place].emotion for place in group.places if place < len(corpus.utterances)]
    return names == [corpus.emotions[k] for k in group.emotions if k < len(corpus.emotions)]


def _by_distance(run: Results) -> list[int]:
    """Places of held utterances, those farthest from the retrained models first."""
    found: list[tuple[float, int]] = []
    for group in run.answers.groups:
        after, retrained = group[run.final_model].log_odds, group.retrained.log_odds
        for place, own, reference in zip(group.places, after, retrained, strict=False):
            if own is not None and reference is not None:
                found.append((-abs(own - reference), place))
    return [place for _, place in sorted(found)]
