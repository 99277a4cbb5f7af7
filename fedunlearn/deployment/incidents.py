"""What happens to a device in the middle of a run: a kill -9, a cable that is cut, a person who deletes.

An incident waits for its device to begin answering a message of one kind, which the device notes in its own
folder (``client.costs``).
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedunlearn.client.costs import read_events
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
        step: key of ``STEPS``; it happens as soon as the device is seen in the middle of this step.
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
    """Watches whether a device is in the middle of a step.

    Args:
        device: its folder.
        step: key of ``STEPS``.
    """

    def __init__(self, device: DeviceFolder, step: str) -> None:
        self._device, self._kind = device, STEPS[step]

    def begun(self) -> bool:
        """Tell whether the device is serving the step at this moment, with its vault open."""
        run = self._device.run
        marks = run.liveness.read_bytes() if run.liveness.exists() else b""
        return marks[self._device.client : self._device.client + 1] == b"\1" and self.unfinished()

    def unfinished(self) -> bool:
        """Tell whether the device has begun the step and not answered."""
        events = read_events(self._device.run.path)
        return bool(events) and events[-1].kind == self._kind and not events[-1].done


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
