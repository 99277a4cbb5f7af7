"""The common form of every corpus: a list of utterances and the order of their emotions."""

from collections.abc import Callable
from dataclasses import dataclass, field

from fedunlearn.audio import PCM, AudioFile


@dataclass(frozen=True)
class Utterance:
    """One recording.

    Attributes:
        id: name, unique in its corpus. It stays on the device and with the judge and is never sent.
        speaker: the person who speaks, unique in its corpus.
        emotion: one of the corpus's emotions.
        pcm: reads (or generates again) the recording: int16 [S], 16 kHz. Raises audio.BadAudio.
        gender: the speaker's gender; empty if the corpus does not give it.
        text: what is said; empty if the corpus does not give it.
        path: the file that ``pcm`` decodes; None if there is none.
    """

    id: str
    speaker: str
    emotion: str
    pcm: Callable[[], PCM] = field(compare=False, repr=False)
    gender: str = ""
    text: str = ""
    path: AudioFile | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Corpus:
    """A collection of utterances.

    Attributes:
        name: the reader's name, such as "ravdess".
        utterances: all utterances, sorted by id.
        emotions: the class order of every model trained on this corpus.
        warnings: what the reader left out or found odd, one line each.
    """

    name: str
    utterances: tuple[Utterance, ...]
    emotions: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def speakers(self) -> tuple[str, ...]:
        """All speakers, sorted."""
        return tuple(sorted({u.speaker for u in self.utterances}))
