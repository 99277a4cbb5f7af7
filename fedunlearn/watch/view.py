"""What can be seen of a run from its folder, at any time."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fedunlearn.errors import BadInput
from fedunlearn.files import read_json_object
from fedunlearn.ledger import DamagedLedger, LedgerReader, UnreadableLedger
from fedunlearn.run_folder import RunFolder, is_locked
from fedunlearn.run_progress import TITLES, RunPhase, RunProgress, Standing, read_progress

SILENCE = 10.0
"""Seconds without a sign of life after which a run that nobody plays counts as stopped."""

StatusSeen = Literal["preparing", "stopped"] | Standing


class RoundSeen(BaseModel):
    """A line of metrics.jsonl, as far as it is shown.

    Attributes:
        round: of the timeline, or of a training beside it.
        phase: learn, unlearn, recover, retrain, ...
        test_uar: unweighted average recall on the test set, 0 to 1; None = not evaluated.
        unseen_uar: the same on unseen speakers.
        train_accuracy: on what the clients train on, 0 to 1; None = not evaluated.
        seconds: since the run started or was resumed.
    """

    model_config = ConfigDict(frozen=True)

    round: int
    phase: str
    test_uar: float | None = None
    unseen_uar: float | None = None
    train_accuracy: float | None = None
    seconds: float | None = None


class RunView(BaseModel):
    """A run at one moment.

    Attributes:
        name: of its folder.
        status: preparing; running; stopped, where its process is gone without a result; or how it ended.
        failure: why it is not complete, once it has ended; empty otherwise.
        phase: what it is doing, in words; empty where nothing says so.
        done: steps of the phase that are done.
        total: steps that the phase has; None = not known.
        requests: state -> number of deletion requests whose last state it is.
        rounds: all rounds so far, in order.
        has_page: whether report.html is there.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    status: StatusSeen
    failure: str = ""
    phase: str = ""
    done: int = 0
    total: int | None = None
    requests: dict[str, int] = {}
    rounds: tuple[RoundSeen, ...] = ()
    has_page: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status not in ("preparing", "running")


@dataclass
class _Tail:
    """The lines of a growing file, read once each.

    Attributes:
        file: metrics.jsonl.
        rounds: read so far.
    """

    file: Path
    rounds: list[RoundSeen] = field(default_factory=list)
    _read: bytes = b""

    def update(self) -> None:
        try:
            content = self.file.read_bytes()
        except OSError:
            return
        if not content.startswith(self._read):  # a resumed run repeats rounds
            self.rounds.clear()
            self._read = b""
        end = content.rfind(b"\n") + 1
        for line in content[len(self._read) : end].splitlines():
            try:
                self.rounds.append(RoundSeen.model_validate(json.loads(line)))
            except ValueError:  # damaged; the run itself will say so
                continue
        self._read = content[: max(end, len(self._read))]


class RunWatcher:
    """Reads a run's folder again and again.

    Args:
        folder: of the run.
        silence: seconds without a sign of life after which a run that nobody plays counts as stopped.

    Raises:
        BadInput: it holds no run.
    """

    def __init__(self, folder: Path, silence: float = SILENCE) -> None:
        self.run = RunFolder(folder)
        if not self.run.config.is_file() and not self.run.results.is_file():
            raise BadInput(f"{folder}: holds no run (there is no {self.run.config.name} in it)")
        self._tail = _Tail(self.run.metrics)
        self._silence = silence
        self._last_sign: tuple[int, RunProgress | None] | None = None
        self._changed = monotonic()

    def look(self) -> RunView:
        """Read what is there now."""
        progress = read_progress(self.run.progress)
        self._tail.update()
        status, failure = self._status(progress)
        phase = progress.phase if progress else ""
        return RunView(
            name=self.run.path.resolve().name,
            status=status,
            failure=failure,
            phase=TITLES[RunPhase(phase)] if phase in set(RunPhase) else phase,
            done=progress.done if progress else 0,
            total=progress.total if progress else None,
            requests=self._requests(),
            rounds=tuple(self._tail.rounds),
            has_page=self.run.report.is_file(),
        )

    def _status(self, progress: RunProgress | None) -> tuple[StatusSeen, str]:
        ended = progress.status if progress and progress.status != "running" else None
        if ended or (progress is None and self.run.results.is_file()):
            # A run that is resumed keeps its former result until it goes on.
            return ("preparing", "") if is_locked(self.run.path) else self._result(ended)
        sign = (len(self._tail.rounds), progress)
        if sign != self._last_sign:
            self._last_sign, self._changed = sign, monotonic()
        # Seldom: while the lock is tried, a run that is just being resumed would find it taken.
        if monotonic() - self._changed > self._silence:
            if not is_locked(self.run.path):
                return "stopped", "its process is gone and has left no result; resume it with --resume"
            self._changed = monotonic()
        return ("preparing" if progress is None else "running"), ""

    def _result(self, ended: Standing | None) -> tuple[StatusSeen, str]:
        try:
            results = read_json_object(self.run.results)
        except (OSError, ValueError):
            return ended or "failed", f"{self.run.results}: cannot be read"
        status = ended or results.get("status")
        known = status if status in ("complete", "partial", "failed") else "failed"
        return known, str(results.get("failure") or "")

    def _requests(self) -> dict[str, int]:
        last: dict[str, str] = {}
        try:
            with LedgerReader(self.run.ledger) as ledger:
                for entry in filter(lambda row: row.is_of_request, ledger.entries()):
                    last[entry.request] = entry.state
        except (OSError, ValidationError, UnreadableLedger, DamagedLedger):
            return {}
        return dict(sorted(Counter(last.values()).items()))
