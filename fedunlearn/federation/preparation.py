"""Everything before the first message: read the corpus, deal it, fill the vaults, set up the judge."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from fedunlearn import corpora
from fedunlearn.audio import PCM
from fedunlearn.config import Config
from fedunlearn.corpora import Corpus
from fedunlearn.deletion import check_schedule
from fedunlearn.errors import BadInput
from fedunlearn.evaluation.judge import Judge
from fedunlearn.evaluation.reference import ReferenceCache
from fedunlearn.federation.experiment import Experiment
from fedunlearn.federation.progress import Progress
from fedunlearn.models import build_model
from fedunlearn.partition import Partition, deal
from fedunlearn.run_folder import RunFolder, write_atomically
from fedunlearn.seeding import rng_for
from fedunlearn.unlearning import method_named
from fedunlearn.vault import Entry, Vault

Speech = tuple[Corpus, Mapping[str, PCM]]
"""A corpus and its decoded recordings by id."""


def resolve(config: Config) -> Config:
    """Fill in what is left to be derived: generated speech has a speaker a client, and the unseen ones."""
    if config.corpus.name != "synthetic" or config.corpus.speakers:
        return config
    speakers = config.partition.clients + config.partition.unseen_speakers
    return config.model_copy(
        update={"corpus": config.corpus.model_copy(update={"speakers": max(speakers, 2)})}
    )


def read_speech(config: Config) -> tuple[Corpus, Partition]:
    """Read names and deal them, without decoding anything.

    Raises:
        BadInput: the corpus, the partition or the schedule.
    """
    corpus = corpora.load(config.corpus, config.seed)
    partition = deal(corpus, config.partition, config.seed)
    check_schedule(config.deletions, partition, config.training.rounds)
    return corpus, partition


def check(config: Config, out: Path) -> None:
    """See that a run can start: method, corpus, partition, schedule and output, all at once.

    Raises:
        BadInput: with every problem found, one line each.
    """
    attempts: tuple[Callable[[], object], ...] = (
        lambda: method_named(config.unlearning.method),
        lambda: read_speech(config),
        RunFolder(out).check,
    )
    problems: list[str] = []
    for attempt in attempts:
        try:
            attempt()
        except BadInput as error:
            problems += error.problems
    if problems:
        raise BadInput(problems)


def listen(config: Config, progress: Progress) -> Speech:
    """Read and decode a corpus: what several experiments on the same speech may share.

    Raises:
        BadInput: the corpus, or a recording that cannot be read.
    """
    corpus = corpora.load(config.corpus, config.seed)
    with progress.task("Listening to the speech", len(corpus.utterances)) as advance:
        return corpora.recordings(corpus, config.corpus.skip_bad, lambda _: advance())


def prepare(
    config: Config, out: Path, cache: Path, progress: Progress, speech: Speech | None = None
) -> Experiment:
    """Everything up to the first message.

    Args:
        config: validated. out: the run folder, to be made. cache: of trained references.
        progress: shown while decoding.
        speech: from ``listen`` with the same corpus settings (and seed, if generated), to decode it once.

    Raises:
        BadInput: anything that the user can put right; before training.
    """
    torch.set_num_threads(1)  # more would fight over the cores, and could change the last bit
    config = resolve(config)
    check(config, out)
    run = RunFolder(out)
    run.create()
    try:
        corpus, sound = speech or listen(config, progress)
        # Again: recordings that cannot be read may have been left out.
        partition = deal(corpus, config.partition, config.seed)
        check_schedule(config.deletions, partition, config.training.rounds)
    except BaseException:
        shutil.rmtree(out)
        raise
    write_atomically(run.config, config.to_toml())
    labels = {emotion: label for label, emotion in enumerate(corpus.emotions)}
    for share in partition.clients:
        entries = [
            (Entry(u.id, u.emotion, labels[u.emotion], split, len(sound[u.id])), sound[u.id])
            for split, utterances in share.splits
            for u in utterances
        ]
        Vault.build(run.vault(share.client), entries, len(corpus.emotions))
    template = build_model(config.model, len(corpus.emotions), rng_for(config.seed, "template"))
    judge = Judge(partition, sound, corpus.emotions, template, config.seed, config.evaluation.bootstrap)
    return Experiment(config, run, corpus, partition, judge, template, ReferenceCache(cache), progress)
