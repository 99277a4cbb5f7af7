"""Everything before the first message: read and partition the corpus, fill the vaults, set up the judge."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from fedunlearn import config as configuration
from fedunlearn import corpora
from fedunlearn.audio import PCM
from fedunlearn.client.liveness import reset_liveness
from fedunlearn.config import Config
from fedunlearn.config.model import ModelSettings
from fedunlearn.corpora.folder import name_few
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.deletion.admission import note_devices
from fedunlearn.deletion.default_schedule import fit_default_schedule, is_default
from fedunlearn.deletion.inbox import Inbox
from fedunlearn.deletion.schedule_check import check_schedule
from fedunlearn.errors import BadInput
from fedunlearn.evaluation.judge import Judge
from fedunlearn.evaluation.recordings import RecordingCache
from fedunlearn.experiment.checkpoint import RunCheckpoints, differences
from fedunlearn.experiment.experiment import Experiment
from fedunlearn.experiment.folder_check import (
    AS_LEFT,
    check_files,
    check_index,
    check_settings,
    check_unused,
    check_vault,
    clean,
    refuse_ended,
)
from fedunlearn.experiment.prepared_run import PreparedRun
from fedunlearn.experiment.progress import Progress
from fedunlearn.experiment.record import SavedRun
from fedunlearn.experiment.reference_cache import ReferenceCache
from fedunlearn.files import write_atomically
from fedunlearn.inputs import looked_up, refuse_inside_corpus
from fedunlearn.ledger import DamagedLedger, LedgerReader
from fedunlearn.models import build_model, notes_on, resolved
from fedunlearn.models.contract import EmotionModel, trained_names
from fedunlearn.partition import (
    ClientShare,
    Partition,
    count_in,
    partition_corpus,
    recorded_later,
    with_counts,
)
from fedunlearn.run_folder import RunFolder
from fedunlearn.seeding import rng_for
from fedunlearn.server.availability import Availability
from fedunlearn.server.tickets import check_tickets
from fedunlearn.unlearning import method_named
from fedunlearn.vault.additions import note_labels, waiting_files
from fedunlearn.vault.arrays import DamagedVault, write_vault
from fedunlearn.vault.calibration import CALIBRATION, FEWEST
from fedunlearn.vault.index import VaultEntry
from fedunlearn.vault.relocation import restore_arrays_from_corpus
from fedunlearn.vault.vault import Vault, is_untouched

DecodedCorpus = tuple[Corpus, RecordingCache]
"""A corpus and its decoded recordings."""


def resolve(config: Config, corpus: Corpus | None = None) -> Config:
    """Fill in what follows from the rest: whole paths, numbers of clients and speakers, which encoder.

    Args:
        config: validated.
        corpus: where it has been read already.
    """
    with suppress(BadInput):  # ``check`` lists this problem with all others
        config = configuration.with_plugins(config)
    if config.corpus.path:
        path = _absolute(config.corpus.path)
        config = config.model_copy(update={"corpus": config.corpus.model_copy(update={"path": path})})
    with suppress(BadInput, OSError):  # ``check`` lists these problems, too
        config = count_speakers(config, corpus)
        config = _fit_schedule(config, corpus)
    availability = config.availability
    if availability.trace:
        availability = availability.model_copy(update={"trace": _absolute(availability.trace)})
    model = config.model
    with suppress(BadInput):
        model = _with_labels(config, corpus)
    return config.model_copy(update={"availability": availability, "model": model})


def _with_labels(config: Config, corpus: Corpus | None) -> ModelSettings:
    """The settings of the recogniser, resolved; the emotions are read where a checkpoint's head is kept."""
    if not config.model.is_encoder or config.model.encoder.head == "new":
        return resolved(config.model)
    emotions: tuple[str, ...] = ()
    with suppress(BadInput, OSError):  # ``check`` lists a problem with the corpus once
        emotions = (corpus or corpora.load(config.corpus, config.seed)).emotions
    return resolved(config.model, emotions)


def count_speakers(config: Config, corpus: Corpus | None = None) -> Config:
    """Work out the numbers of clients and of unseen speakers, and of speakers to generate, if not given.

    Args:
        config: validated.
        corpus: where it has been read already; else its names are read if they are needed.

    Raises:
        BadInput: the corpus.
    """
    settings, partition = config.corpus, config.partition
    if settings.name == "synthetic" and not settings.speakers:
        partition = with_counts(partition, None)
        speakers = max(partition.client_count + partition.unseen_count, 2)
        settings = settings.model_copy(update={"speakers": speakers})
    elif partition.clients is None or partition.unseen_speakers is None:
        corpus = corpus or corpora.load(settings, config.seed)
        partition = count_in(corpus, partition)
    return config.model_copy(update={"corpus": settings, "partition": partition})


def _fit_schedule(config: Config, corpus: Corpus | None) -> Config:
    if not is_default(config.deletions):
        return config
    corpus = corpus or corpora.load(config.corpus, config.seed)
    partition = partition_corpus(corpus, config.partition, config.seed)
    return config.model_copy(update={"deletions": fit_default_schedule(config.deletions, partition)})


def _absolute(path: str) -> str:
    return looked_up(path, lambda: str(Path(path).expanduser().absolute()))


def read_speech(config: Config, corpus: Corpus | None = None) -> tuple[Corpus, Partition]:
    """Read the names of a corpus, unless they are known, and partition it, without decoding anything.

    Args:
        config: resolved.
        corpus: where it has been read already.

    Raises:
        BadInput: the corpus, the partition or the schedule.
    """
    corpus = corpus or corpora.load(config.corpus, config.seed)
    partition = partition_corpus(corpus, config.partition, config.seed)
    if problem := config.unknown_attacker(len(partition.clients)):
        raise BadInput(problem)
    recorded_later(partition, config.partition, config.seed)
    check_schedule(config.deletions, partition, config.training.rounds)
    return corpus, partition


def check(config: Config, out: Path, cache: Path, corpus: Corpus | None = None) -> None:
    """Check that a run can start: method, corpus, partition, schedule and output, all at once.

    Args:
        config: resolved.
        out: the run folder.
        cache: of trained references.
        corpus: where it has been read already.

    Raises:
        BadInput: with every problem found, one line each.
    """
    clients = config.partition.clients or 1  # unknown only where the corpus cannot be read
    problems = [
        *_problems(lambda: configuration.with_plugins(config)),
        *_problems(lambda: method_named(config.unlearning.method)),
        *_problems(lambda: check_tickets(config)),
        *_problems(lambda: _with_labels(config, corpus)),
        *_problems(lambda: read_speech(config, corpus)),
        *_problems(lambda: Availability(config.availability, config.seed, clients)),
    ]
    output = [
        *_problems(RunFolder(out).check),
        *_problems(lambda: refuse_inside_corpus("--out", out, config.corpus.path)),
    ]
    # The cache lies beside the output unless it is named; a problem with both is listed once.
    output = output or [
        *_problems(lambda: _check_cache(cache)),
        *_problems(lambda: refuse_inside_corpus("--cache", cache, config.corpus.path)),
    ]
    if problems or output:
        raise BadInput([*problems, *output])


def _problems(attempt: Callable[[], object]) -> tuple[str, ...]:
    try:
        attempt()
    except BadInput as error:
        return error.problems
    except OSError as error:
        return (f"{error.filename}: cannot be read ({error.strerror})",)
    return ()


def _check_cache(cache: Path) -> None:
    places = (cache, *cache.absolute().parents)
    # A link that leads nowhere is in the way, too.
    nearest = looked_up(f"--cache {cache}", lambda: next(p for p in places if p.exists() or p.is_symlink()))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise BadInput(f"--cache {cache}: cannot be written ({nearest} is no folder, or not yours to write)")


def decode_corpus(config: Config, progress: Progress) -> DecodedCorpus:
    """Read and decode a corpus: what several experiments on the same speech may share.

    Args:
        config: resolved.
        progress: shown meanwhile.

    Raises:
        BadInput: the corpus, or a recording that cannot be read.
    """
    corpus = corpora.load(config.corpus, config.seed)
    with progress.task("Listening to the speech", len(corpus.utterances)) as advance:
        corpus, pcm = corpora.recordings(corpus, config.corpus.skip_bad, lambda _: advance())
    return corpus, RecordingCache(pcm)


def prepare(
    config: Config,
    out: Path,
    cache: Path,
    progress: Progress,
    decoded: DecodedCorpus | None = None,
    untouched: Path | None = None,
    resume: bool = False,
) -> Experiment:
    """Prepare a run: everything up to the first message.

    Args:
        config: validated.
        out: the run folder, to be made.
        cache: of trained references; an ephemeral run has its own, in the run folder.
        progress: shown while decoding.
        decoded: from ``decode_corpus`` with the same corpus settings (and seed, if generated).
        untouched: vaults of an earlier run on what was ``decoded``. Those that are still as they would be
            made are moved from there, which saves writing all speech anew.
        resume: resume the run that ``out`` holds.

    Raises:
        BadInput: anything that the user can put right; before training.
    """
    torch.set_num_threads(1)  # more would fight over the cores, and could change the last bit
    config = resolve(config, decoded[0] if decoded else None)
    run, waiting = RunFolder(out), dict[Path, bytes]()
    cache = run.own_references if config.evaluation.ephemeral else cache
    kept = dict[Path, bytes]()
    if resume:
        run.lock()
        try:
            check_files(run)
            _check_same(config, run)
            _check_cache(cache)
            refuse_inside_corpus("--cache", cache, config.corpus.path)
            _with_labels(config, None)  # what is wrong with it, before anything is decoded
            refuse_ended(config, run)
            if run.standings.exists():
                return _resume(config, run, cache, progress, decoded)
            check_settings(run, configuration.load(run.config))
            made_with = run.config.read_bytes()
            waiting = _begin_anew(run)
            kept = {run.config: made_with, **waiting}
        except BaseException:
            run.unlock()
            raise
    try:
        check(config, out, cache, decoded[0] if decoded else None)
        run.create()
        write_atomically(run.config, config.to_toml())
        corpus, speech = decoded or decode_corpus(config, progress)
        # Again: recordings that cannot be read may have been left out.
        corpus, partition = read_speech(config, corpus)
        corpus = _with_warnings(corpus, partition, notes_on(config.model))
        template = build_model(config.model, len(corpus.emotions), rng_for(config.seed, "template"))
        later = recorded_later(partition, config.partition, config.seed)
        judge = _judge(config, corpus, partition, speech, template, progress)
        _fill_vaults(run, corpus, partition, speech, template, untouched, later)
        for file, request in waiting.items():
            file.parent.mkdir(exist_ok=True)
            write_atomically(file, request)
        references = ReferenceCache(cache)
        references.clean()
        return Experiment(PreparedRun(config, run, corpus, partition, judge, template, references), progress)
    except BaseException as error:
        run.undo(error)  # nothing has been learned yet
        _put_back(kept)
        raise


def _with_warnings(corpus: Corpus, partition: Partition, notes: Sequence[str]) -> Corpus:
    """The corpus, with warnings: of the model; no unseen speakers; updates made from too few utterances."""
    few = [f"client {s.client} ({len(s.train)})" for s in partition.clients if 0 < len(s.train) < FEWEST]
    what = f"clients with fewer than {FEWEST} training utterances, which their ordinary updates give away"
    none = (
        f"no unseen speakers: {len(partition.clients)} clients leave none of {len(corpus.speakers)}, so "
        "that nothing is measured on speakers outside the federation"
    )
    unseen = () if partition.unseen else (none,)
    return replace(corpus, warnings=(*corpus.warnings, *notes, *unseen, *name_few(what, few)))


def _put_back(kept: Mapping[Path, bytes]) -> None:
    """What a run that could not begin anew had in its folder: its settings and what people have filed."""
    for file, content in kept.items():
        with suppress(OSError):  # the user must see the first error
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, content)


def _check_same(config: Config, run: RunFolder) -> None:
    """Check that a run is resumed with the settings it was made with, before anything else is done to it."""
    made = resolve(configuration.load(run.config))
    if config.partition.clients is None or config.partition.unseen_speakers is None:
        # The corpus cannot be read any more, which is reported by what reads it next.
        config = config.model_copy(update={"partition": made.partition, "deletions": made.deletions})
    changed = differences(made.model_dump(mode="json"), config.model_dump(mode="json"))
    if changed:
        raise BadInput(
            [f"--resume: {run.path} was made with {k} = {a!r}, this run has {b!r}" for k, a, b in changed]
        )


def _check_ledger(run: RunFolder, head: str | None) -> None:
    """Check that the ledger is whole before it grows: rows written after a loss would hide it."""
    try:
        with LedgerReader(run.ledger) as ledger:
            broken = ledger.verify(head)
    except DamagedLedger as error:
        raise BadInput(f"--resume: {error}; put it back as the run left it, or make a new run") from error
    except FileNotFoundError:
        broken = "is missing"
    if broken:
        raise BadInput(f"--resume: {run.ledger}: {broken}; put it back as the run left it, or make a new run")


def _begin_anew(run: RunFolder) -> dict[Path, bytes]:
    """Clear away a run of which nothing was ever saved; returns what people have filed in the meantime.

    Raises:
        BadInput: deletion requests were raised already, so that clearing would lose them.
    """
    check_unused(run)
    vaults = [run.vault(client) for client in run.clients()]
    links = [path for path in (run.checkpoints, run.vaults, *vaults) if path.is_symlink()]
    if links:  # what they lead to would be left behind
        raise BadInput(f"--resume: {links[0]}: is a link; remove it and what it leads to, and make a new run")
    filed = [file for vault in vaults for file in (*Inbox(vault).files(), *waiting_files(vault))]
    waiting = {file: file.read_bytes() for file in filed}
    run.clear()
    return waiting


def _resume(
    config: Config, run: RunFolder, cache: Path, progress: Progress, decoded: DecodedCorpus | None
) -> Experiment:
    """Prepare the experiment of a run that was interrupted, or that is over."""
    corpus, speech = decoded or decode_corpus(config, progress)
    corpus, partition = read_speech(config, corpus)
    corpus = _with_warnings(corpus, partition, notes_on(config.model))
    template = build_model(config.model, len(corpus.emotions), rng_for(config.seed, "template"))
    judge = _judge(config, corpus, partition, speech, template, progress)
    checkpoints = RunCheckpoints(run.standings, config, judge.content_of([]), cache)
    saved, damaged = checkpoints.latest(trained_names(template))
    for line in damaged:
        progress.warn(line)
    if saved is None:
        check_unused(run)
    else:
        _check_ledger(run, checkpoints.ledger_head)
    clean(run)
    # The processes that were at work are dead; that does not mean that devices have failed.
    reset_liveness(run, len(partition.clients))
    later = recorded_later(partition, config.partition, config.seed)
    for share in partition.clients:
        vault = run.vault(share.client)
        entries = [entry for entry, _ in recordings_of(share, corpus, speech, later)]
        request_ids = _requests_of(saved, share.client)
        check_index(vault, entries)
        restore_arrays_from_corpus(run, corpus, share.client)
        check_vault(vault, entries, speech, template, request_ids)
        note_devices(vault, partition.devices_of(share.client))
        note_labels(vault, corpus.emotions)
    references = ReferenceCache(cache)
    references.clean()
    try:
        prepared = PreparedRun(config, run, corpus, partition, judge, template, references)
        return Experiment(prepared, progress, saved)
    except (DamagedLedger, ValueError) as error:  # of another salt
        raise BadInput(f"--resume: {error}; {AS_LEFT}") from error


def _requests_of(saved: SavedRun | None, client: int) -> list[str]:
    """Ids of the requests that the server knows of a client."""
    return [] if saved is None else [name for name, whose in saved.state.requests if whose == client]


def _judge(
    config: Config,
    corpus: Corpus,
    partition: Partition,
    speech: RecordingCache,
    template: EmotionModel,
    progress: Progress,
) -> Judge:
    with progress.task("Deriving features", len(speech.pcm)) as advance:
        speech.features(template, advance)
    return Judge(partition, speech, corpus.emotions, template, config.seed, config.evaluation.bootstrap)


def _fill_vaults(
    run: RunFolder,
    corpus: Corpus,
    partition: Partition,
    speech: RecordingCache,
    model: EmotionModel,
    untouched: Path | None,
    later: Mapping[str, int],
) -> None:
    classes = len(corpus.emotions)
    # The judge needs the features of all anyway: no device derives its own a second time.
    derived = {model.feature_name: speech.features(model)} if model.stores_features else {}
    for share in partition.clients:
        recordings = recordings_of(share, corpus, speech, later)
        vault = run.vault(share.client)
        earlier = untouched / vault.name if untouched else None
        if earlier and _is_untouched(earlier, [e for e, _ in recordings], classes):
            earlier.rename(vault)
            (vault / CALIBRATION).unlink(missing_ok=True)  # another federation's
        else:
            write_vault(vault, recordings, classes, derived)
        note_devices(vault, partition.devices_of(share.client))
        note_labels(vault, corpus.emotions)
    reset_liveness(run, len(partition.clients))
    if hasattr(os, "sync"):  # not on Windows
        os.sync()


def recordings_of(
    share: ClientShare, corpus: Corpus, speech: RecordingCache, later: Mapping[str, int]
) -> list[tuple[VaultEntry, PCM]]:
    """List what goes into one client's vault when it is made.

    Args:
        share: of the client.
        corpus: of the run.
        speech: decoded.
        later: utterance -> rounds done when it is recorded; others are there from the beginning.
    """
    labels = {emotion: label for label, emotion in enumerate(corpus.emotions)}
    return [
        (
            VaultEntry(
                u.id,
                u.emotion,
                labels[u.emotion],
                split,
                len(speech.pcm[u.id]),
                u.speaker,
                later.get(u.id, 0),
            ),
            speech.pcm[u.id],
        )
        for split, utterances in share.splits
        for u in utterances
    ]


def _is_untouched(folder: Path, entries: Sequence[VaultEntry], classes: int) -> bool:
    try:
        return folder.exists() and is_untouched(Vault(folder), entries, classes)
    except DamagedVault:
        return False
