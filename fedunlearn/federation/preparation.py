"""Everything before the first message: read the corpus, deal it, fill the vaults, set up the judge."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from fedunlearn import config as configuration
from fedunlearn import corpora
from fedunlearn.config import Config
from fedunlearn.corpora import Corpus
from fedunlearn.deletion import RequestBook, check_schedule, note_devices
from fedunlearn.errors import BadInput
from fedunlearn.evaluation.judge import Judge
from fedunlearn.evaluation.reference import ReferenceCache
from fedunlearn.federation.attendance import open_attendance
from fedunlearn.federation.availability import Availability
from fedunlearn.federation.experiment import Experiment
from fedunlearn.federation.progress import Progress
from fedunlearn.federation.resume import Shelf, differences
from fedunlearn.federation.standing import trained_names
from fedunlearn.inputs import looked_up
from fedunlearn.ledger import DamagedLedger, LedgerReader
from fedunlearn.models import build_model, resolved
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Partition, deal, recorded_later
from fedunlearn.run_folder import RunFolder, write_atomically
from fedunlearn.seeding import rng_for
from fedunlearn.speech import Speech
from fedunlearn.unlearning import method_named
from fedunlearn.vault import Entry, Vault
from fedunlearn.vault_papers import refill_from

Heard = tuple[Corpus, Speech]
"""A corpus and its decoded recordings."""


def resolve(config: Config) -> Config:
    """Fill in what follows from the rest: whole paths, a generated speaker for each client, which encoder."""
    corpus = config.corpus
    if corpus.path:
        corpus = corpus.model_copy(update={"path": _absolute(corpus.path)})
    if corpus.name == "synthetic" and not corpus.speakers:
        speakers = config.partition.clients + config.partition.unseen_speakers
        corpus = corpus.model_copy(update={"speakers": max(speakers, 2)})
    availability = config.availability
    if availability.trace:
        availability = availability.model_copy(update={"trace": _absolute(availability.trace)})
    model = config.model
    with suppress(BadInput):  # ``check`` says what is wrong with it, and all else that is
        model = resolved(model)
    return config.model_copy(update={"corpus": corpus, "availability": availability, "model": model})


def _absolute(path: str) -> str:
    return looked_up(path, lambda: str(Path(path).expanduser().absolute()))


def read_speech(config: Config, corpus: Corpus | None = None) -> tuple[Corpus, Partition]:
    """Read names, unless they are known, and deal them, without decoding anything.

    Raises:
        BadInput: the corpus, the partition or the schedule.
    """
    corpus = corpus or corpora.load(config.corpus, config.seed)
    partition = deal(corpus, config.partition, config.seed)
    recorded_later(partition, config.partition, config.seed)
    check_schedule(config.deletions, partition, config.training.rounds)
    return corpus, partition


def check(config: Config, out: Path, cache: Path, corpus: Corpus | None = None) -> None:
    """See that a run can start: method, corpus, partition, schedule and output, all at once.

    Args:
        corpus: where it has been read already.

    Raises:
        BadInput: with every problem found, one line each.
    """
    problems = [
        *_problems(lambda: method_named(config.unlearning.method)),
        *_problems(lambda: resolved(config.model)),
        *_problems(lambda: read_speech(config, corpus)),
        *_problems(lambda: Availability(config.availability, config.seed, config.partition.clients)),
    ]
    output = [
        *_problems(RunFolder(out).check),
        *_problems(lambda: _check_outside("--out", out, config.corpus.path)),
    ]
    # The cache lies beside the output unless it is named; what is wrong with both is said once.
    output = output or [
        *_problems(lambda: _check_cache(cache)),
        *_problems(lambda: _check_outside("--cache", cache, config.corpus.path)),
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


def _check_outside(option: str, folder: Path, corpus: str) -> None:
    if not corpus or not looked_up(corpus, Path(corpus).exists):
        return
    speech = Path(corpus).resolve()
    speech = speech if speech.is_dir() else speech.parent
    if looked_up(f"{option} {folder}", folder.resolve).is_relative_to(speech):
        raise BadInput(
            f"{option} {folder}: lies inside the corpus {speech}, which is never written; name another"
        )


def listen(config: Config, progress: Progress) -> Heard:
    """Read and decode a corpus: what several experiments on the same speech may share.

    Raises:
        BadInput: the corpus, or a recording that cannot be read.
    """
    corpus = corpora.load(config.corpus, config.seed)
    with progress.task("Listening to the speech", len(corpus.utterances)) as advance:
        corpus, pcm = corpora.recordings(corpus, config.corpus.skip_bad, lambda _: advance())
    return corpus, Speech(pcm)


def prepare(
    config: Config,
    out: Path,
    cache: Path,
    progress: Progress,
    heard: Heard | None = None,
    untouched: Path | None = None,
    resume: bool = False,
) -> Experiment:
    """Everything up to the first message.

    Args:
        config: validated. out: the run folder, to be made. cache: of trained references.
        progress: shown while decoding.
        heard: from ``listen`` with the same corpus settings (and seed, if generated), to decode it once.
        untouched: vaults of an earlier run on what was ``heard``. Those that are still as they would be made
            are moved from there, which saves writing all speech anew.
        resume: take up the run that ``out`` holds, from where it stands.

    Raises:
        BadInput: anything that the user can put right; before training.
    """
    torch.set_num_threads(1)  # more would fight over the cores, and could change the last bit
    config = resolve(config)
    run, waiting = RunFolder(out), dict[Path, bytes]()
    kept = dict[Path, bytes]()
    if resume:
        run.lock()
        try:
            _check_same(config, run)
            resolved(config.model)  # what is wrong with it, before anything is heard
            if run.standings.exists():
                return _take_up(config, run, cache, progress, heard)
            made_with = run.config.read_bytes()
            waiting = _begin_anew(run)
            kept = {run.config: made_with, **waiting}
        except BaseException:
            run.unlock()
            raise
    try:
        check(config, out, cache, heard[0] if heard else None)
        run.create()
        write_atomically(run.config, config.to_toml())
        corpus, speech = heard or listen(config, progress)
        # Again: recordings that cannot be read may have been left out.
        corpus, partition = read_speech(config, corpus)
        template = build_model(config.model, len(corpus.emotions), rng_for(config.seed, "template"))
        later = recorded_later(partition, config.partition, config.seed)
        judge = _judge(config, corpus, partition, speech, template, progress)
        _fill_vaults(run, corpus, partition, speech, template, untouched, later)
        for file, wish in waiting.items():
            file.parent.mkdir(exist_ok=True)
            write_atomically(file, wish)
        return Experiment(config, run, corpus, partition, judge, template, ReferenceCache(cache), progress)
    except BaseException as error:
        run.undo(error)  # nothing has been learned yet
        _put_back(kept)
        raise


def _put_back(kept: Mapping[Path, bytes]) -> None:
    """What a run that could not begin anew had in its folder: its settings and what people have filed."""
    for file, content in kept.items():
        with suppress(OSError):  # what went wrong before is what the user must hear
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, content)


def _check_same(config: Config, run: RunFolder) -> None:
    """See that a run is taken up with the settings it was made with, before anything else is done to it."""
    made = resolve(configuration.load(run.config))
    told = differences(made.model_dump(mode="json"), config.model_dump(mode="json"))
    if told:
        raise BadInput(
            [f"--resume: {run.path} was made with {k} = {a!r}, this run has {b!r}" for k, a, b in told]
        )


def _check_ledger(run: RunFolder, head: str | None) -> None:
    """See that the ledger is whole before it grows: rows written after a loss would hide it."""
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
    """Clear away a run of which nothing was ever written down; returns the wishes filed in the meantime.

    Raises:
        BadInput: devices have answered to somebody already, so that clearing would lose requests.
    """
    vaults = sorted(run.vaults.glob("client-*")) if run.vaults.exists() else []
    if any(RequestBook(vault).all() for vault in vaults):
        raise BadInput(
            f"--resume: {run.path}: people have asked, and where it stood was never written down "
            "(federation.checkpoint_every = 0); make a new run"
        )
    waiting = {file: file.read_bytes() for vault in vaults for file in vault.glob("inbox/*.json")}
    run.clear()
    return waiting


def _take_up(
    config: Config, run: RunFolder, cache: Path, progress: Progress, heard: Heard | None
) -> Experiment:
    """The experiment of a run that was left, as it stands."""
    corpus, speech = heard or listen(config, progress)
    corpus, partition = read_speech(config, corpus)
    template = build_model(config.model, len(corpus.emotions), rng_for(config.seed, "template"))
    judge = _judge(config, corpus, partition, speech, template, progress)
    shelf = Shelf(run.standings, config, judge.content_of([]))
    standing, damaged = shelf.latest(trained_names(template))
    for line in damaged:
        progress.warn(line)
    if standing is not None:
        _check_ledger(run, shelf.ledger_head)
    # The processes that were at work are dead, which tells nothing of the devices.
    open_attendance(run, len(partition.clients))
    for share in partition.clients:
        refill_from(run, corpus, share.client)
    return Experiment(
        config, run, corpus, partition, judge, template, ReferenceCache(cache), progress, standing
    )


def _judge(
    config: Config, corpus: Corpus, partition: Partition, speech: Speech, template: EmotionModel,
    progress: Progress,
) -> Judge:  # fmt: skip
    with progress.task("Deriving features", len(speech.pcm)) as advance:
        speech.features(template, advance)
    return Judge(partition, speech, corpus.emotions, template, config.seed, config.evaluation.bootstrap)


def _fill_vaults(
    run: RunFolder,
    corpus: Corpus,
    partition: Partition,
    speech: Speech,
    model: EmotionModel,
    untouched: Path | None,
    later: Mapping[str, int],
) -> None:
    labels = {emotion: label for label, emotion in enumerate(corpus.emotions)}
    classes = len(corpus.emotions)
    # The judge needs the features of all anyway: no device derives its own a second time.
    derived = {model.feature_name: speech.features(model)} if model.stores_features else {}
    for share in partition.clients:
        recordings = [
            (
                Entry(
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
        vault = run.vault(share.client)
        earlier = untouched / vault.name if untouched else None
        if earlier and earlier.exists() and Vault(earlier).is_untouched([e for e, _ in recordings], classes):
            earlier.rename(vault)
        else:
            Vault.write(vault, recordings, classes, derived)
        note_devices(vault, partition.devices_of(share.client))
    open_attendance(run, len(partition.clients))
    if hasattr(os, "sync"):  # not on Windows
        os.sync()
