"""What devices paid in a deployment, by kind of message: one table over all devices."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.table import Table

from fedunlearn.client.costs import DeviceEvent, read_events
from fedunlearn.experiment.device_folders import DeviceFolder
from fedunlearn.files import write_atomically

COSTS_FILE = "device_costs.json"
"""name of the file in the run folder"""
_MIB = 1 << 20


@dataclass(frozen=True)
class EventCost:
    """Medians over all messages of one kind that devices answered; memory is the most of any.

    Attributes:
        count: how many.
        seconds: from the start of the process that answers to the reply.
        cpu_seconds: of that process.
        memory: most bytes in memory of one such process, file pages included.
        bytes_down: content of the message.
        bytes_up: content of the reply.
        written: bytes to the disk.
    """

    count: int
    seconds: float
    cpu_seconds: float
    memory: int
    bytes_down: float
    bytes_up: float
    written: float

    @classmethod
    def of(cls, events: Sequence[DeviceEvent]) -> "EventCost":
        """Summarise events of one kind.

        Args:
            events: at least one, all done.
        """
        return cls(
            len(events),
            median(e.seconds for e in events),
            median(e.cpu_seconds for e in events),
            max(e.memory for e in events),
            median(e.bytes_down for e in events),
            median(e.bytes_up for e in events),
            median(e.written for e in events),
        )


@dataclass(frozen=True)
class DeviceTotals:
    """What one device paid for the whole run.

    Attributes:
        client: its number.
        peak_memory: most bytes of all its processes together, by its control group; None = it had no limit.
        wire_down: bytes that passed its network cable to it, protocols included; None = it had none.
        wire_up: bytes from it.
        unanswered: messages that were begun and not answered: the device was killed.
    """

    client: int
    peak_memory: int | None
    wire_down: int | None
    wire_up: int | None
    unanswered: int


@dataclass(frozen=True)
class DeviceCosts:
    """What devices paid.

    Attributes:
        events: Flower's message type -> cost.
        devices: totals of each, in client order.
    """

    events: Mapping[str, EventCost]
    devices: Sequence[DeviceTotals]

    def write(self, folder: Path) -> None:
        """Write device_costs.json into a run folder."""
        content = {
            "events": {kind: asdict(cost) for kind, cost in self.events.items()},
            "devices": [asdict(totals) for totals in self.devices],
        }
        write_atomically(folder / COSTS_FILE, json.dumps(content, indent=1) + "\n")

    def table(self) -> Table:
        """Make a table with a row for each kind of message."""
        table = Table(title="What a message costs its device (medians; memory: the most)")
        table.add_column("message")
        for heading in ("times", "s", "CPU s", "MiB in memory", "bytes down", "bytes up", "written"):
            table.add_column(heading, justify="right")
        for kind, cost in self.events.items():
            figures = (f"{cost.seconds:.2f}", f"{cost.cpu_seconds:.2f}", f"{cost.memory / _MIB:.0f}")
            sizes = (f"{value:,.0f}" for value in (cost.bytes_down, cost.bytes_up, cost.written))
            table.add_row(kind, str(cost.count), *figures, *sizes)
        return table


def event_costs(devices: Iterable[DeviceFolder]) -> dict[str, EventCost]:
    """Summarise what all devices noted, in the order of a run.

    Args:
        devices: their folders.
    """
    events: dict[str, list[DeviceEvent]] = {}
    for device in devices:
        for event in read_events(device.run.path):
            if event.done:
                events.setdefault(event.kind, []).append(event)
    return {kind: EventCost.of(of_kind) for kind, of_kind in events.items()}


def unanswered(device: DeviceFolder) -> int:
    """Count the messages that a device began and never answered.

    Args:
        device: its folder.
    """
    events = read_events(device.run.path)
    return sum(not event.done for event in events) - sum(event.done for event in events)
