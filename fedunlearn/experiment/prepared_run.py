"""What a run is made of, before the first message."""

from dataclasses import dataclass

from fedunlearn.config import Config
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.evaluation.judge import Judge
from fedunlearn.experiment.reference_cache import ReferenceCache
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Partition
from fedunlearn.run_folder import RunFolder


@dataclass(frozen=True)
class PreparedRun:
    """What a run is made of, before the first message.

    Attributes:
        config: validated and resolved.
        run: the run folder.
        corpus: all speech of the run.
        partition: of the corpus.
        judge: who knows all speech.
        template: a model of the run's kind.
        cache: of references.
    """

    config: Config
    run: RunFolder
    corpus: Corpus
    partition: Partition
    judge: Judge
    template: EmotionModel
    cache: ReferenceCache

    @property
    def corpus_digest(self) -> str:
        """Digest of all speech that the judge knows."""
        return self.judge.content_of([])
