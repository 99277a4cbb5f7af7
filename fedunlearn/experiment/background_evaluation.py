"""Evaluation of the global model in the background, while the next rounds are trained.

Evaluating it on all speech can take as long as a round. Where clients train in other processes, the next
round begins meanwhile; rows are kept in the order in which their rounds ended, all the same.
"""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedunlearn.evaluation.judge import Predictions
from fedunlearn.experiment.record import Log

_MOST_PENDING = 2
"""evaluations that may be pending: where they are slower than the rounds, the rounds wait"""


@dataclass(frozen=True)
class _Round:
    log: Log
    row: dict[str, Any]
    predictions: "Future[Predictions] | None"


class BackgroundEvaluation:
    """Holds rounds that have ended until their models are evaluated.

    Args:
        evaluate: the judge's predictions with these weights.
        record: called with each round once it is evaluated, in order: its log, its row, the predictions.
        in_background: whether to evaluate in a thread of its own; ``evaluate`` is then called there alone.
    """

    def __init__(
        self,
        evaluate: Callable[[Mapping[str, Tensor]], Predictions],
        record: Callable[[Log, dict[str, Any], Predictions | None], None],
        in_background: bool,
    ) -> None:
        self._evaluate, self._record = evaluate, record
        # How many threads torch takes is set thread by thread, and can change the last bit.
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        self._in_background = in_background
        self._rounds: deque[_Round] = deque()

    def add_round(self, log: Log, row: dict[str, Any], weights: Mapping[str, Tensor] | None) -> None:
        """Add a round that has ended.

        Args:
            log: that the round belongs to.
            row: of the round.
            weights: to be evaluated, and not to be changed any more; None = not this time.
        """
        predictions = None
        if weights is not None and self._in_background:
            predictions = self._thread.submit(self._evaluate, weights)
        elif weights is not None:
            predictions = Future()
            predictions.set_result(self._evaluate(weights))
        self._rounds.append(_Round(log, row, predictions))
        self._settle(_MOST_PENDING)

    @property
    def settled(self) -> bool:
        """Whether all rounds have been recorded."""
        self.settle_evaluated()
        return not self._rounds

    def settle(self) -> None:
        """Wait until all rounds are recorded."""
        self._settle(0)

    def settle_evaluated(self) -> None:
        """Record the rounds that are evaluated, without waiting for the rest."""
        self._settle(len(self._rounds))

    def close(self) -> None:
        """Drop the rounds that are not recorded."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _settle(self, most_pending: int) -> None:
        while self._rounds:
            first = self._rounds[0].predictions
            pending = sum(round_.predictions is not None for round_ in self._rounds)
            if first is not None and not first.done() and pending <= most_pending:
                return
            predictions = first.result() if first is not None else None
            over = self._rounds.popleft()
            self._record(over.log, over.row, predictions)
