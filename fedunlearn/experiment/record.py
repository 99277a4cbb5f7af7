"""The experimenter's record of a run: models and measurements that no server keeps."""

from dataclasses import dataclass, field
from typing import Any

from fedunlearn.blockwise import StateDict
from fedunlearn.evaluation.judge import Predictions
from fedunlearn.experiment.reference_cache import Learned
from fedunlearn.server.cost import PhaseCost
from fedunlearn.server.history import History
from fedunlearn.server.requests import RequestKey
from fedunlearn.server.state import GlobalModel, ServerState
from fedunlearn.unlearning.contract import UnknownSpeakers

Contents = tuple[tuple[int, ...], tuple[int, ...]]
"""the training and the held-out utterances that a request names, as indexes into the corpus"""


@dataclass
class Log:
    """The rows of one training's rounds, and what the judge predicted after each.

    Attributes:
        rows: one a round.
        curve: the judge's predictions after each round; None where it did not evaluate the model.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    curve: list[Predictions | None] = field(default_factory=list)

    def learned(
        self,
        state: StateDict,
        cost: PhaseCost,
        history: History | None = None,
        unknown: UnknownSpeakers | None = None,
    ) -> Learned:
        """Make what the reference cache keeps of this training.

        Args:
            state: weights at its end.
            cost: of the training.
            history: of the server, where the cache keeps it.
            unknown: of the server's state, where the cache keeps it.
        """
        curve = {r["round"]: p for r, p in zip(self.rows, self.curve, strict=True) if p is not None}
        return Learned(state, self.rows, curve, cost.as_dict(), history, unknown)

    @classmethod
    def of(cls, learned: Learned) -> "Log":
        """Make the log of a training that the reference cache kept.

        Args:
            learned: from the cache.
        """
        return cls([dict(r) for r in learned.rows], [learned.curve.get(r["round"]) for r in learned.rows])


@dataclass
class SideTraining:
    """A training beside the run's main line: of the original or of a retrained model.

    Attributes:
        name: "counterfactual" or "retrained-<number>".
        model: as far as it has come.
        log: its rounds.
        faults: how many there were when it began.
    """

    name: str
    model: GlobalModel
    log: Log
    faults: int


@dataclass
class ExperimentRecord:
    """What the experimenter records of a run.

    Attributes:
        finished: whether the run is over and results have been made of it.
        original: weights of the model as if no deletion had been requested, once there are any.
        unlearned: weights right after the last unlearn step, once there are any.
        blur: noise along the requesters' updates, which the run folder's copy of the original gets.
        retrained: what was trained from scratch without the forget set, seed by seed.
        log: of the main line.
        side_training: the one in progress.
        origins: reference -> "cached" or "trained".
        keys: reference -> its key in the cache.
        metrics: lines of metrics.jsonl.
        contents: what each request names, for when the devices have dropped it.
    """

    finished: bool = False
    original: StateDict | None = None
    unlearned: StateDict | None = None
    blur: StateDict | None = None
    retrained: list[Learned] = field(default_factory=list)
    log: Log = field(default_factory=Log)
    side_training: SideTraining | None = None
    origins: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    metrics: int = 0
    contents: dict[RequestKey, Contents] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedRun:
    """What a run is resumed from.

    Attributes:
        state: of the server.
        record: of the experimenter.
    """

    state: ServerState
    record: ExperimentRecord
