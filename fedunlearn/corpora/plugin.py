"""How a user's own corpus is registered."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fedunlearn import audio
from fedunlearn.audio import PCM, BadAudio
from fedunlearn.config.fields import Options, Settings
from fedunlearn.config.plugins import NoSettings, check_parameters, register, settings_of
from fedunlearn.corpora.folder import assemble
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.errors import BadInput

F = TypeVar("F", bound=Callable[..., Iterable[Utterance]])


@dataclass(frozen=True)
class CorpusCard:
    """A user's own corpus.

    Attributes:
        name: as tables show it.
        read: its folder (None where the config names none) and the config's options -> the corpus.
        needs_path: whether ``corpus.path`` must be given.
    """

    name: str
    read: Callable[[Path | None, Options | None], Corpus]
    needs_path: bool = True


def corpus(
    name: str,
    *,
    settings: type[Settings] = NoSettings,
    emotions: Sequence[str] = (),
    needs_path: bool = True,
) -> Callable[[F], F]:
    """Register a function as the reader of a corpus.

    The function takes ``(path, settings)``: the folder that ``corpus.path`` (--data) names, an absolute path
    that exists, and its own settings. It gives one ``Utterance`` for each recording; ``recording`` makes one
    of an audio file. Nothing is decoded yet.

    Args:
        name: as tables show it.
        settings: class of its settings; ``corpus.options`` is read into it.
        emotions: order of the model's classes; empty = in alphabetical order.
        needs_path: whether a folder must be given; without one, ``path`` may be None.

    Raises:
        BadInput: the function takes other parameters.
    """

    def wrap(target: F) -> F:
        check_parameters("corpus", name, target, ("path", "settings"))

        def read(path: Path | None, options: Options | None) -> Corpus:
            own: Any = settings_of(f"corpus {name}", settings, options)
            try:
                utterances = list(target(path, own))
            except BadInput:
                raise
            except Exception as error:
                reason = " ".join(str(error).split())
                raise BadInput(f"corpus {name}: cannot be read ({type(error).__name__}: {reason})") from error
            return _checked(name, utterances, emotions)

        register("corpus", name, settings, CorpusCard(name, read, needs_path), target)
        return target

    return wrap


def recording(
    path: Path, *, speaker: str, emotion: str, id: str = "", gender: str = "", text: str = ""
) -> Utterance:
    """The utterance that an audio file holds; it is decoded when it is needed.

    Args:
        path: WAV, FLAC, OGG or another format that libsndfile reads, at any rate.
        speaker: the person who speaks, unique in the corpus.
        emotion: what is expressed.
        id: unique in the corpus; empty = the file's name without its ending.
        gender: where it is known.
        text: what is said, where it is known.
    """
    whole = path.absolute()
    return Utterance(id or path.stem, speaker, emotion, partial(audio.decode, whole), gender, text, whole)


def _checked(name: str, utterances: Sequence[object], emotions: Sequence[str]) -> Corpus:
    found = [u for u in utterances if isinstance(u, Utterance)]
    if len(found) < len(utterances):
        raise BadInput(f"corpus {name}: must give utterances (fedunlearn.Utterance), and nothing else")
    if not found:
        raise BadInput(f"corpus {name}: gives no utterance")
    for utterance in found:
        for key in ("id", "speaker", "emotion"):
            if not isinstance(value := getattr(utterance, key), str) or not value:
                raise BadInput(f"corpus {name}: {key} of {utterance!r} must be a text that is not empty")
    twice = [key for key, count in Counter(u.id for u in found).items() if count > 1]
    if twice:
        raise BadInput(f"corpus {name}: two utterances have the id {twice[0]!r}; each needs one of its own")
    spoken = {u.emotion for u in found}
    order = emotions or sorted(spoken)
    if strangers := sorted(spoken - set(order)):
        raise BadInput(f"corpus {name}: {strangers[0]!r} is none of its emotions ({', '.join(order)})")
    return assemble(name, [_with_checked_sound(u) for u in found], order)


def _with_checked_sound(utterance: Utterance) -> Utterance:
    if utterance.path is not None:
        return utterance
    return replace(utterance, pcm=partial(_sound, utterance.pcm, utterance.id))


def _sound(pcm: Callable[[], PCM], id_: str) -> PCM:
    samples = pcm()
    if not isinstance(samples, np.ndarray) or samples.dtype != np.int16 or samples.ndim != 1:
        raise BadAudio(Path(id_), "must be a vector of int16 samples at 16 kHz")
    return samples
