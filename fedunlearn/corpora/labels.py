"""Checks of a corpus that need its labels only, not its recordings."""

from collections import Counter

from fedunlearn.corpora.folder import name_few
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.errors import BadInput

MOST_EMOTIONS = 256
"""Predictions are stored as 8-bit numbers (``evaluation.judge``)."""
MANY = 32
"""Number of emotions above which a warning is given; the largest sets in use have fewer."""
TELLING = 10
"""Smallest number of recordings, emotions or speakers for which counts of one mean anything."""


def check_emotions(corpus: Corpus, place: str) -> None:
    """Check that the emotions can serve as classes.

    Args:
        corpus: a corpus with at least one recording.
        place: where it was read from, for the message.

    Raises:
        BadInput: there are fewer than two or more than 256 emotions; or ten or more, most of which have a
            single recording, as when a column contains names or scores.
    """
    count, recordings = len(corpus.emotions), len(corpus.utterances)
    if count < 2:
        raise BadInput(
            f"{place}: all recordings are {corpus.emotions[0]!r}; telling emotions apart needs two or more"
        )
    if count > MOST_EMOTIONS:
        raise BadInput(
            f"{place}: has {count} emotions in {recordings} recordings; there can be at most "
            f"{MOST_EMOTIONS} classes: is the emotion column the right one?"
        )
    single = _single_emotions(corpus)
    if count >= TELLING and 2 * len(single) > count:
        raise BadInput(
            f"{place}: {len(single)} of its {count} emotions have a single recording "
            f"({', '.join(single[:3])}, ...): is the emotion column the right one?"
        )


def warn_of_labels(corpus: Corpus) -> list[str]:
    """Warn of many emotions, and of emotions and speakers with a single recording.

    Args:
        corpus: the corpus.

    Returns:
        One line for each warning.
    """
    warnings = []
    if len(corpus.emotions) > MANY:
        warnings.append(f"{len(corpus.emotions)} emotions in {len(corpus.utterances)} recordings")
    if len(corpus.utterances) >= TELLING:
        single = _single_emotions(corpus)
        warnings += name_few("emotions of a single recording, not both trained on and tested", single)
    of_speaker = Counter(u.speaker for u in corpus.utterances)
    alone = sorted(speaker for speaker, count in of_speaker.items() if count == 1)
    if len(of_speaker) >= TELLING and 2 * len(alone) > len(of_speaker):
        warnings += name_few("speakers of a single recording (file names in place of people?)", alone)
    return warnings


def _single_emotions(corpus: Corpus) -> list[str]:
    of_emotion = Counter(u.emotion for u in corpus.utterances)
    return [emotion for emotion in corpus.emotions if of_emotion[emotion] == 1]
