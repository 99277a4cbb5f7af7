"""Speech without labels for pre-training: generated, a folder of sound files, or speakers of a corpus."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedunlearn import audio
from fedunlearn.audio import PCM, BadAudio
from fedunlearn.config import CorpusSettings
from fedunlearn.corpora import READERS
from fedunlearn.corpora.folder import ENDINGS, NAMED_AT_MOST, NOT_READ, files, name_not_read
from fedunlearn.errors import BadInput
from fedunlearn.inputs import looked_up
from fedunlearn.seeding import rng_for, stream_key

FOLDER = "folder"
"""Name, beside those of the corpora, of any folder of sound files."""
_UTTERANCES = 20
"""Utterances of each generated speaker."""


@dataclass(frozen=True)
class Choice:
    """Which speech is used, and of which speakers.

    Attributes:
        corpus: a reader's name, or "folder".
        data: where the recordings are; "" = none.
        only: use only these speakers; empty = all.
        leave_out: do not use these speakers.
        speakers: of the remaining ones use this many, drawn at random; 0 = all.
        generated: number of speakers to generate in addition. Their voices occur in no generated corpus of a
            run, whatever its seed.
    """

    corpus: str = FOLDER
    data: str = ""
    only: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    speakers: int = 0
    generated: int = 0


@dataclass(frozen=True)
class Source:
    """Speech that has been chosen; nothing is decoded yet.

    Attributes:
        text: a description: "48 recordings of ravdess (speakers 03, 11)".
        readers: one function for each recording: returns int16 PCM [S] at 16 kHz, raises audio.BadAudio.
        warnings: what was left out, one line each.
    """

    text: str
    readers: tuple[Callable[[], PCM], ...]
    warnings: tuple[str, ...] = ()


def choose(choice: Choice, seed: int) -> list[Source]:
    """Find the speech to pre-train on. Labels are not read.

    Args:
        choice: what is wanted.
        seed: seed of the speakers drawn and generated.

    Raises:
        BadInput: the corpus is unknown, there is no such folder or no sound in it, the corpus does not have
            the speakers, or none are left.
    """
    found = []
    if choice.data:
        found.append(_sound_files(choice) if choice.corpus == FOLDER else _some_speakers(choice, seed))
    elif choice.only or choice.leave_out or choice.speakers or choice.corpus != FOLDER:
        raise BadInput(
            "--corpus, --only, --leave-out and --speakers choose among recordings: say with --data where"
        )
    if choice.generated:
        found.append(_generated(choice.generated, seed))
    if not found:
        raise BadInput("nothing to learn from: give --data PATH, or --generated 1 or more")
    return found


def decode(sources: Sequence[Source], progress: Callable[[], None] | None = None) -> list[PCM]:
    """Decode all recordings, in order.

    Args:
        sources: the recordings.
        progress: called after each recording.

    Raises:
        BadInput: recordings cannot be read; the message names them.
    """
    sound: list[PCM] = []
    bad: list[str] = []
    for source in sources:
        for read in source.readers:
            try:
                sound.append(read())
            except BadAudio as error:
                bad.append(str(error))
            if progress is not None:
                progress()
    if bad:
        more = f"; and {len(bad) - NAMED_AT_MOST} more" if len(bad) > NAMED_AT_MOST else ""
        raise BadInput(
            [*bad[:NAMED_AT_MOST], f"{len(bad)} recordings cannot be read: repair or remove them{more}"]
        )
    return sound


def _sound_files(choice: Choice) -> Source:
    if choice.only or choice.leave_out or choice.speakers:
        raise BadInput(
            "--only, --leave-out and --speakers need to know who speaks: name the reader of the recordings "
            f"with --corpus ({_known()})"
        )
    root = _there(choice.data)
    readable = ENDINGS[:-1]
    paths = sorted(files(root, readable))
    passed_over = name_not_read([p.relative_to(root) for p in files(root, (".mp4", *NOT_READ))])
    if not paths:
        also = "".join(f"; {line}" for line in passed_over)
        raise BadInput(f"--data {choice.data}: no sound file in it ({', '.join(readable)}){also}")
    return Source(
        f"{len(paths)} sound files of the folder {root.name}",
        tuple(partial(audio.decode, p) for p in paths),
        tuple(passed_over),
    )


def _some_speakers(choice: Choice, seed: int) -> Source:
    if choice.corpus not in READERS or choice.corpus == "synthetic":
        raise BadInput(f"--corpus {choice.corpus}: is not known; known are {_known()}, {FOLDER}")
    _there(choice.data)
    corpus = READERS[choice.corpus](CorpusSettings(name=choice.corpus, path=choice.data), seed)
    strangers = sorted({*choice.only, *choice.leave_out} - set(corpus.speakers))
    if strangers:
        raise BadInput(
            f"{choice.corpus} has no speaker {', '.join(strangers)}; "
            f"its speakers are {', '.join(corpus.speakers)}"
        )
    names = [s for s in choice.only or corpus.speakers if s not in choice.leave_out]
    if choice.speakers > len(names):
        raise BadInput(f"--speakers {choice.speakers}: {len(names)} are there to choose from")
    if choice.speakers:
        order = rng_for(seed, "pretraining", "speakers").permutation(len(names))
        names = [names[i] for i in order[: choice.speakers]]
    chosen = set(names)
    if not chosen:
        raise BadInput("--leave-out: leaves no speaker to learn from")
    readers = tuple(u.pcm for u in corpus.utterances if u.speaker in chosen)
    return Source(
        f"{len(readers)} recordings of {choice.corpus} (speakers {', '.join(sorted(chosen))})",
        readers,
        corpus.warnings,
    )


def _generated(speakers: int, seed: int) -> Source:
    from fedunlearn.corpora import synthetic

    # A separate random stream: a federation with seed 1 uses the generated speech of seed 1.
    corpus = synthetic.read(speakers, _UTTERANCES, stream_key(seed, "pretraining", "speech"))
    return Source(
        f"{len(corpus.utterances)} generated utterances of {speakers} generated speakers",
        tuple(u.pcm for u in corpus.utterances),
    )


def _there(data: str) -> Path:
    path = looked_up(f"--data {data}", lambda: Path(data).expanduser().absolute())
    if not looked_up(f"--data {data}", path.exists):
        raise BadInput(f"--data {data}: no such file or folder")
    return path


def _known() -> str:
    return ", ".join(name for name in READERS if name != "synthetic")
