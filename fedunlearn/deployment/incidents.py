"""What happens to a device in the middle of a run: a kill -9, a cable that is cut, a person who deletes.

An incident waits for its device to begin answering a message of one kind, which the device notes in its own
folder (``client.costs``).
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedunlearn.client.costs import COSTS, read_events
from fedunlearn.deletion.inbox import FiledRequest, Inbox
from fedunlearn.errors import BadInput
from fedunlearn.experiment.device_folders import DeviceFolder
from fedunlearn.vault.index import Index

STEPS = {
    "listen": "query.deletions",
    "train": "train",
    "evaluate": "evaluate",
    "unlearn": "train.unlearn",
    "purge": "query.purge",
}
"""Step, as the command line names it -> Flower's message type."""
_DELETED = 3


@dataclass(frozen=True)
class Incident:
    """One thing that happens to a device, once.

    Attributes:
        what: "kill" its processes with SIGKILL, "cut" its cable, or "delete" some of its recordings.
        client: number of the device.
        step: key of ``STEPS``; it happens when the device has begun this step for the first time.
    """

    what: Literal["kill", "cut", "delete"]
    client: int
    step: str

    @classmethod
    def parse(cls, what: Literal["kill", "cut", "delete"], text: str) -> "Incident":
        """Read CLIENT@STEP.

        Args:
            what: see the class.
            text: such as "3@unlearn".

        Raises:
            BadInput: it is something else.
        """
        client, _, step = text.partition("@")
        if not client.isdecimal() or step not in STEPS:
            raise BadInput(
                f"--{what} {text}: write CLIENT@STEP, such as 2@unlearn; STEP is one of {', '.join(STEPS)}"
            )
        return cls(what, int(client), step)

    def __str__(self) -> str:
        return f"{self.what} {self.client}@{self.step}"


class StepWatch:
    """Watches one device's file for the beginning of a step.

    Args:
        device: its folder.
        step: key of ``STEPS``.
    """

    def __init__(self, device: DeviceFolder, step: str) -> None:
        self._folder, self._kind = device.run.path, STEPS[step]
        self._size = -1

    def begun(self) -> bool:
        """Tell whether the device has begun the step, ever."""
        file = self._folder / COSTS
        size = file.stat().st_size if file.exists() else 0
        if size == self._size:
            return False
        self._size = size
        return any(event.kind == self._kind for event in read_events(self._folder))

    def unfinished(self) -> bool:
        """Tell whether the device has begun the step and not answered."""
        events = [event for event in read_events(self._folder) if event.kind == self._kind]
        return bool(events) and not events[-1].done


def delete_some(vault: Path) -> str:
    """File a person's request to delete the first training recordings of a device, as the command does.

    Args:
        vault: folder of the device's vault.

    Returns:
        id of the request
    """
    name = secrets.token_hex(8)
    chosen = [entry.id for entry in Index.read(vault).entries if entry.split == "train"][:_DELETED]
    Inbox(vault).file(FiledRequest(name, "named", f"person-{name}", utterances=tuple(chosen)))
    return name
