"""The cells of a study are run one at a time; each leaves one JSON file."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

from rich.console import Console

from fedunlearn import __version__, corpora
from fedunlearn.config import Config
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.engines.engine import play
from fedunlearn.errors import BadInput, RunFailed
from fedunlearn.experiment.preparation import (
    DecodedCorpus,
    check,
    count_speakers,
    decode_corpus,
    prepare,
    resolve,
)
from fedunlearn.experiment.progress import Progress
from fedunlearn.files import HAS_LOCKS, lock_file, lock_folder, remove_unlocked, write_atomically
from fedunlearn.partition import Partition, partition_corpus
from fedunlearn.results_schema import Results
from fedunlearn.study.grid import WHOLE_CLIENT, StudyCell, requesters_of
from fedunlearn.study.plan import Study
from fedunlearn.study.speech import SpeechDigest, digest_partition, digest_recordings
from fedunlearn.unlearning import method_named

_SPEECH = "speech"
"""key of a cell's file that is not of its results: ``SpeechDigest``"""
_KEPT = (
    *("config", "corpus", "models", "gap", "cost", "requests", "references", "versions", "guard", "kept"),
    *("attackers", "caveats", "attacks", "collateral", "schema", "seed", "status", "unlearning", "fairness"),
    *("timeline", "availability", "answers", "distances"),
)


class StudyRunner:
    """Runs the cells of a study in a folder of finished cells and trained references.

    Recordings are decoded once, and vaults that a cell left unchanged serve the next one. Both are removed at
    the end: use the runner in a ``with`` statement. Several processes may work in one folder: each has runs
    and vaults of its own.

    Args:
        out: folder of the study; made by the first cell.
        partial: whether a run may end with requests unfulfilled.
        warn: called with each warning about the corpus, once it has been decoded.
    """

    def __init__(
        self, out: Path, partial: bool = False, warn: Callable[[str], None] = lambda line: None
    ) -> None:
        self._partial, self._warn = partial, warn
        self._out, self._cells = out, out / "cells"
        self._running = out / "running" / str(os.getpid())
        self._lock: int | None = None
        self._decoded: tuple[str, DecodedCorpus] | None = None
        self._undecoded: tuple[str, Corpus] | None = None
        self._recordings: tuple[str, float] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._decoded is not None:  # else nothing in the folder is ours
            self._clear()

    def check(self, cells: Sequence[StudyCell]) -> None:
        """Check that every cell can be run, before any is.

        Raises:
            BadInput: method, corpus, partition, output; more requesters than clients; a requester that holds
                less than it is to delete. One line each.
        """
        problems: dict[str, str] = {}
        most = max(cell.requesters for cell in cells)
        for name in {cell.variant.algorithm: None for cell in cells}:
            try:
                method_named(name)
            except BadInput as error:
                problems[name] = str(error)
        for same in _by_partition(cells):
            config = resolve(same[0].experiment)
            try:
                corpus = self._corpus(config)
                partition = partition_corpus(corpus, config.partition, config.seed)
            except BadInput as error:
                # Reported for one partition; the problems of the others are nearly always the same.
                raise BadInput([*problems.values(), *error.problems]) from error
            for cell in same:
                option, why = _cannot_ask(cell, partition)
                if why and option not in problems:
                    way_out = "" if cell.size == WHOLE_CLIENT else _way_out(cell, corpus, most)
                    problems[option] = f"{option}: {why}{way_out}"
        if problems:
            raise BadInput(list(problems.values()))
        check(resolve(cells[0].experiment), self._out / "next", self._out / "references")

    def file(self, cell: StudyCell) -> Path:
        """Return a cell's file, named by the cell and by a digest of its settings.

        A cell of another experiment has another file, so that it is computed. Where a cell of another name
        with the same settings is finished, it is that one's.
        """
        digest = digest_of(cell)
        own = self._cells / f"{cell.name}-{digest}.json"
        if own.exists():
            return own
        return next(iter(sorted(self._cells.glob(f"*-{digest}.json"))), own)

    def results(self, cell: StudyCell) -> Results | None:
        """Read what a finished cell found; None where it is not finished."""
        try:
            return Results.model_validate(json.loads(self.file(cell).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def speech(self, cell: StudyCell) -> SpeechDigest | None:
        """Read what speech a finished cell was of; None where it is not finished, or does not say."""
        try:
            found = json.loads(self.file(cell).read_text(encoding="utf-8")).get(_SPEECH)
        except FileNotFoundError:
            return None
        return SpeechDigest(**found) if found else None

    def play(self, cell: StudyCell) -> None:
        """Run a cell and keep what it found; the rest of the run is removed.

        Raises:
            BadInput: a recording cannot be read.
            RunFailed: the run failed; Interrupted where it was stopped by the user.
        """
        quiet = Progress(Console(quiet=True))
        config = resolve(cell.experiment)
        decoded = self._decode(config, quiet)
        run, vaults = self._running / "run", self._running / "vaults"
        try:
            experiment = prepare(config, run, self._out / "references", quiet, decoded, vaults)
        except BadInput as error:
            raise RunFailed("; ".join(error.problems)) from error
        try:
            results = play(experiment)
        finally:
            # A folder that cannot be moved or removed is in the way of the next cell, which reports it.
            shutil.rmtree(vaults, ignore_errors=True)
            with suppress(OSError):
                experiment.run.vaults.rename(vaults)
            shutil.rmtree(run, ignore_errors=True)
        if results.status != "complete" and not self._partial:
            raise RunFailed(results.failure or "")
        if len(results.requests) != cell.requesters:
            raise RunFailed(f"{len(results.requests)} of {cell.requesters} requests were raised")
        self._cells.mkdir(parents=True, exist_ok=True)
        content = results.to_json()
        kept = {key: content[key] for key in _KEPT}
        kept[_SPEECH] = asdict(self._describe(decoded, config))
        write_atomically(self.file(cell), json.dumps(kept))

    def _describe(self, decoded: DecodedCorpus, config: Config) -> SpeechDigest:
        corpus, recordings = decoded
        self._recordings = self._recordings or digest_recordings(corpus, recordings.pcm)
        partition = partition_corpus(corpus, config.partition, config.seed)
        return SpeechDigest(*self._recordings, digest_partition(corpus, partition))

    def _decode(self, config: Config, quiet: Progress) -> DecodedCorpus:
        key = _recordings_key(config)
        if self._decoded is None or self._decoded[0] != key:
            self._decoded = self._recordings = None  # two corpora at a time would be too many
            self._clear()  # vaults of other recordings
            self._claim()
            self._decoded = key, decode_corpus(config, quiet)
            for line in self._decoded[1][0].warnings:
                self._warn(line)
        return self._decoded[1]

    def _corpus(self, config: Config) -> Corpus:
        key = _recordings_key(config)
        if self._undecoded is None or self._undecoded[0] != key:
            self._undecoded = key, corpora.load(config.corpus, config.seed)
        return self._undecoded[1]

    def _claim(self) -> None:
        """Make and lock this process's folder of runs; remove those of processes that were killed."""
        everyone = self._running.parent
        everyone.mkdir(parents=True, exist_ok=True)
        with lock_folder(everyone):
            _remove_unlocked_in(everyone)
            self._running.mkdir()
            if HAS_LOCKS:
                self._lock = os.open(self._running, os.O_RDONLY)
                lock_file(self._lock)

    def _clear(self) -> None:
        shutil.rmtree(self._running, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        with suppress(OSError):  # another process works there, or nothing was made
            self._running.parent.rmdir()


def remove_abandoned(out: Path) -> None:
    """Remove the runs and vaults of processes that have ended from the folder of a study.

    Args:
        out: folder of the study.
    """
    everyone = out / "running"
    if everyone.is_dir():
        with lock_folder(everyone):
            _remove_unlocked_in(everyone)
        with suppress(OSError):  # another process works there
            everyone.rmdir()


def _remove_unlocked_in(everyone: Path) -> None:
    for folder in everyone.iterdir():
        remove_unlocked(folder)


def digest_of(cell: StudyCell) -> str:
    """Compute the digest of the settings that decide a cell; its name and the engine are not among them."""
    decides = cell.experiment.model_dump(mode="json", exclude={"federation", "study"})
    written = json.dumps({"version": __version__, **decides}, sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()[:12]


def group_speakers(config: Config, study: Study) -> Config:
    """Take fewer clients of several speakers each, where one would hold less than is to be deleted.

    Args:
        config: the experiment, with its number of clients.
        study: whose largest request every client must be able to make, with every seed and fold.

    Returns:
        the experiment with the largest number of clients that will do; unchanged where none will.

    Raises:
        BadInput: the corpus cannot be read.
    """
    most = max(asking for question in study.questions for asking in question.axes.requesters)
    for clients in range(config.partition.client_count, max(most, 2) - 1, -1):
        fewer = config.partition.model_copy(update={"clients": clients})
        tried = config.model_copy(update={"partition": fewer})
        if all(
            _least(tried, fold, seed) >= study.largest
            for fold in study.folds or [fewer.fold]
            for seed in study.seeds
        ):
            return tried
    return config


def _least(config: Config, fold: int, seed: int) -> int:
    """Utterances that the client with the fewest trains on."""
    settings = config.partition.model_copy(update={"fold": fold})
    counted = count_speakers(config.model_copy(update={"partition": settings, "seed": seed}))
    partition = partition_corpus(corpora.load(counted.corpus, seed), counted.partition, seed)
    return min(len(share.train) for share in partition.clients)


def count_clients(config: Config, fold: int | None = None) -> Config:
    """Work out the numbers of clients and unseen speakers, of which requesters are drawn, if not given.

    Args:
        config: the experiment that a study starts from.
        fold: the first that the study takes; None = the experiment's own.

    Raises:
        BadInput: the corpus cannot be read, or has no such fold.
    """
    own = config.partition
    first = own.model_copy(update={"fold": own.fold if fold is None else fold})
    counted = count_speakers(config.model_copy(update={"partition": first})).partition
    return config.model_copy(update={"partition": counted.model_copy(update={"fold": own.fold})})


def _recordings_key(config: Config) -> str:
    """Return the settings that decide the recordings: the seed counts for generated speech only."""
    return f"{config.corpus.model_dump_json()}{config.seed if config.corpus.name == 'synthetic' else ''}"


def _by_partition(cells: Sequence[StudyCell]) -> list[list[StudyCell]]:
    """For each fold and seed: one cell for each size and number of requesters."""
    found: dict[tuple[int, int], dict[tuple[int, int], StudyCell]] = {}
    for cell in cells:
        found.setdefault((cell.fold, cell.seed), {}).setdefault((cell.size, cell.requesters), cell)
    return [list(same.values()) for same in found.values()]


def _cannot_ask(cell: StudyCell, partition: Partition) -> tuple[str, str]:
    """Return an option, and why this cell's requests cannot be raised; empty where they can."""
    clients = len(partition.clients)
    if cell.requesters > clients:
        return f"--requesters {cell.requesters}", f"there are {clients} clients"
    if cell.size == WHOLE_CLIENT:
        left = clients - cell.requesters
        most = f"; take at most {clients - 2} requesters" if clients > 2 else ""
        few = f"{cell.requesters} of {clients} clients would delete everything, and two have to be left{most}"
        return "--sizes all", few if left < 2 else ""
    asking = requesters_of(clients, cell.requesters, cell.seed)
    least, client = min((len(partition.clients[c].train), c) for c in asking)
    short = f"client {client} (seed {cell.seed}) trains on {least} utterances only; take at most {least}"
    return f"--sizes {cell.size}", short if least < cell.size else ""


def _way_out(cell: StudyCell, corpus: Corpus, most: int) -> str:
    """Find how many clients there may be for each to hold enough, if ``most`` of them request a deletion."""
    settings = cell.experiment.partition
    for clients in range(settings.client_count - 1, most - 1, -1):
        partition = partition_corpus(corpus, settings.model_copy(update={"clients": clients}), cell.seed)
        if min(len(share.train) for share in partition.clients) >= cell.size:
            return f", or let fewer clients hold more each: --set partition.clients={clients}"
    return ""
