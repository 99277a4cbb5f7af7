"""The judge's looks at the global model, beside the rounds where others compute them.

A look at all speech can take as long as a round. Where clients train in other processes, the next round
begins meanwhile; rows are kept in the order in which their rounds ended, all the same.
"""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedunlearn.evaluation.judge import Predictions
from fedunlearn.server.state import Log

_WAITING = 2
"""looks that may be under way: behind a judge who is slower than the rounds, these wait"""


@dataclass(frozen=True)
class _Round:
    log: Log
    row: dict[str, Any]
    seen: "Future[Predictions] | None"


class BackgroundEvaluation:
    """Rounds that are over, until the judge has seen their models.

    Args:
        look: the judge's predictions with these weights.
        tell: told of each round when it has been seen, in order: its log, its row, the predictions.
        aside: whether to look in a thread of its own; ``look`` is then called there and nowhere else.
    """

    def __init__(
        self,
        look: Callable[[Mapping[str, Tensor]], Predictions],
        tell: Callable[[Log, dict[str, Any], Predictions | None], None],
        aside: bool,
    ) -> None:
        self._look, self._tell = look, tell
        # How many threads torch takes is set thread by thread, and can change the last bit.
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        self._aside = aside
        self._rounds: deque[_Round] = deque()

    def add_round(self, log: Log, row: dict[str, Any], weights: Mapping[str, Tensor] | None) -> None:
        """A round is over.

        Args:
            weights: to be looked at, and not to be changed any more; None = not this time.
        """
        seen = None
        if weights is not None and self._aside:
            seen = self._thread.submit(self._look, weights)
        elif weights is not None:
            seen = Future()
            seen.set_result(self._look(weights))
        self._rounds.append(_Round(log, row, seen))
        self._settle(_WAITING)

    @property
    def settled(self) -> bool:
        """Whether all rounds have been told of."""
        self.settle_seen()
        return not self._rounds

    def settle(self) -> None:
        """See that all rounds are told of."""
        self._settle(0)

    def settle_seen(self) -> None:
        """As far as the judge has come, without waiting for the rest."""
        self._settle(len(self._rounds))

    def close(self) -> None:
        """Let go of what is not told of."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _settle(self, waiting: int) -> None:
        while self._rounds:
            seen = self._rounds[0].seen
            looks = sum(round_.seen is not None for round_ in self._rounds)
            if seen is not None and not seen.done() and looks <= waiting:
                return
            predictions = seen.result() if seen is not None else None
            over = self._rounds.popleft()
            self._tell(over.log, over.row, predictions)
