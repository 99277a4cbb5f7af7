"""What a deployed device pays for each message: seconds, memory, bytes and disk, in a file of its own.

Flower starts a process for each message, so that what the operating system counts for this process is what
the message cost, imports included. The file holds no utterance, speaker or weight.
"""

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import psutil
from flwr.app import Message, RecordDict

from fedunlearn.links import open_to_append
from fedunlearn.messages.sizes import size

COSTS = "costs.jsonl"
"""name of the file in a device's folder"""
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class DeviceEvent:
    """One message as it was answered, or begun to be answered, on a device.

    Attributes:
        kind: Flower's message type, such as "train.unlearn".
        done: whether the device answered; otherwise the line says that it began, and has no figures.
        at: seconds since the epoch.
        seconds: from the start of the process to the reply.
        cpu_seconds: of the process, all its threads.
        memory: most bytes that the process had in memory.
        bytes_down: content of the message.
        bytes_up: content of the reply.
        written: bytes that went to the disk.
    """

    kind: str
    done: bool
    at: float
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    written: int = 0


class CostLog:
    """Notes one message in the device's file: when it is begun, and what it cost when it is answered.

    Args:
        folder: of the device.
        message: that is answered.
    """

    def __init__(self, folder: Path, message: Message) -> None:
        self._file, self._kind = folder / COSTS, message.metadata.message_type
        self._down = size(message.content)
        self._write(DeviceEvent(self._kind, False, time.time()))

    def end(self, content: RecordDict) -> None:
        """Note that the message is answered.

        Args:
            content: of the reply.
        """
        process, now = psutil.Process(), time.time()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._write(
            DeviceEvent(
                self._kind,
                True,
                now,
                now - process.create_time(),
                usage.ru_utime + usage.ru_stime,
                usage.ru_maxrss * _MAXRSS_UNIT,
                self._down,
                size(content),
                _written(process),
            )
        )

    def _write(self, event: DeviceEvent) -> None:
        with open_to_append(self._file) as file:
            file.write(json.dumps(asdict(event)) + "\n")


def _written(process: psutil.Process) -> int:
    try:
        return int(process.io_counters().write_bytes)
    except (OSError, AttributeError, psutil.Error):  # not counted on this system
        return 0


def read_events(folder: Path) -> list[DeviceEvent]:
    """Read a device's file; a line that is still being written is left out.

    Args:
        folder: of the device.
    """
    file = folder / COSTS
    if not file.exists():
        return []
    known = {field.name for field in fields(DeviceEvent)}
    rows = (json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1] if line)
    return [DeviceEvent(**{key: row[key] for key in known & row.keys()}) for row in rows]
