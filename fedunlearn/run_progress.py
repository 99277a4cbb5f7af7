"""How far a run is: a small file in its folder that other programs read while it goes on.

Nothing in a run reads it, and it contains no times: it changes no result.
"""

from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedunlearn.files import read_json_object, write_atomically

Standing = Literal["running", "complete", "partial", "failed"]


class RunPhase(StrEnum):
    """The parts of a run, as times in results.json name them."""

    MEET = "meet"
    LEARN = "learn"
    UNLEARN = "unlearn and recover"
    RETRAIN = "retrain"
    SHADOWS = "shadows"
    JUDGE = "judge"
    SEARCH = "search"


TITLES = {
    RunPhase.MEET: "Meeting the devices",
    RunPhase.LEARN: "Learning",
    RunPhase.UNLEARN: "Unlearning and recovering",
    RunPhase.RETRAIN: "Retraining without the forgotten",
    RunPhase.SHADOWS: "Training shadow federations",
    RunPhase.JUDGE: "Judging",
    RunPhase.SEARCH: "Searching for what was deleted",
}
"""Phase -> what a person reads."""


class RunProgress(BaseModel):
    """The content of progress.json.

    Attributes:
        format: version of this format.
        status: running; or, once results.json is written, the status in it.
        phase: of the run, as in the times of results.json; empty before the first.
        done: steps of the phase that are done, mostly rounds.
        total: steps that the phase has; None = not known.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    status: Standing = "running"
    phase: str = ""
    done: Annotated[int, Field(ge=0)] = 0
    total: Annotated[int, Field(ge=0)] | None = None


def write_progress(file: Path, progress: RunProgress) -> None:
    """Write the file. If that fails, the old one stays: a run does not end for it.

    Args:
        file: progress.json of a run folder.
        progress: of the run.
    """
    with suppress(OSError):
        write_atomically(file, progress.model_dump_json() + "\n")


def read_progress(file: Path) -> RunProgress | None:
    """Read the file; None where there is none that can be read, as of a run by an older version.

    Args:
        file: progress.json of a run folder.
    """
    try:
        return RunProgress.model_validate(read_json_object(file))
    except (OSError, ValueError, ValidationError):
        return None


def end_progress(file: Path, status: Standing | None) -> None:
    """Note that a run has ended, where it has a file.

    Args:
        file: progress.json of a run folder.
        status: as in results.json; None = it has none, and nothing is noted.
    """
    if status is not None and (progress := read_progress(file)) is not None:
        write_progress(file, progress.model_copy(update={"status": status}))
