"""The inbox of a device: where a request that a person files waits until the device reads it.

Filing makes one whole file in the vault's ``inbox/`` and touches nothing else; only the device admits it into
its request store, and unlinks the file after that. So a request may be filed at any moment, by any process,
and is neither lost nor admitted twice, whatever is killed in between.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fedunlearn.config.fields import LARGEST
from fedunlearn.errors import BadInput
from fedunlearn.files import write_atomically
from fedunlearn.links import is_plain

_REQUEST = ".json"
_WITHDRAWAL = ".withdraw.json"
_KINDS = ("all", "some", "emotion", "speaker", "named")


@dataclass(frozen=True)
class FiledRequest:
    """A request as it is filed at one device, before its admission.

    Attributes:
        id: 16 hexadecimal digits, the same on each device that the request concerns.
        what: "all", "some", "emotion", "speaker" or "named".
        event: name of the scheduled or random event; a person's is made from the id.
        count: number of utterances, for "some".
        emotion: for "emotion".
        speaker: for "speaker".
        utterances: ids, for "named".
        deadline: rounds after raising; None = none.
        devices: how many of the person's devices hold recordings that must be deleted.
        reason: in the person's own words; never leaves the device.
    """

    id: str
    what: str
    event: str
    count: int = 0
    emotion: str = ""
    speaker: str = ""
    utterances: tuple[str, ...] = ()
    deadline: int | None = None
    devices: int = 1
    reason: str = ""


@dataclass(frozen=True)
class InboxFile:
    """One file of the inbox: a request, the id of a request to withdraw, or something unreadable.

    Attributes:
        file: to be unlinked once it is admitted.
        request: what is filed; None = a withdrawal or unreadable.
        withdraws: id of the request to withdraw; empty = a request or unreadable.
        problem: why the file cannot be read; empty = it can.
    """

    file: Path
    request: FiledRequest | None = None
    withdraws: str = ""
    problem: str = field(default="", compare=False)

    @property
    def id(self) -> str:
        """The id of the request that it concerns; for an unreadable file, one made from its name."""
        if self.request:
            return self.request.id
        return self.withdraws or hashlib.sha256(self.file.name.encode()).hexdigest()[:16]


class Inbox:
    """A device's inbox.

    Args:
        vault_folder: of the device.
    """

    def __init__(self, vault_folder: Path) -> None:
        self.folder = vault_folder / "inbox"

    def file(self, request: FiledRequest) -> None:
        """File a request; it is on disk when this returns. Filing the same id twice has one effect."""
        self._write(f"{request.id}{_REQUEST}", asdict(request))

    def file_withdrawal(self, request: str) -> None:
        """Ask the device to withdraw a request, if it is not too late."""
        self._write(f"{request}{_WITHDRAWAL}", {"id": request})

    def waiting(self) -> tuple[InboxFile, ...]:
        """Read all files: requests first, then withdrawals, each in the order in which they were filed."""
        return tuple(sorted(self._read(), key=lambda file: (bool(file.withdraws), *_filed_at(file.file))))

    def files(self) -> list[Path]:
        """List the waiting files; none if the inbox is a link: they would belong to somebody else."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return []
        named = (
            f for f in sorted(self.folder.iterdir()) if f.suffix == _REQUEST and not f.name.startswith(".")
        )
        return [file for file in named if is_plain(file)]

    def _read(self) -> Iterator[InboxFile]:
        for file in self.files():
            try:
                yield _parse(file, json.loads(file.read_text(encoding="utf-8")))
            except FileNotFoundError:
                continue  # the device has admitted it in the meantime
            except (ValueError, TypeError) as error:
                yield InboxFile(file, problem=str(error))

    def _write(self, name: str, content: dict[str, Any]) -> None:
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise BadInput(f"{self.folder}: is no folder of its own; remove it, then file again")
        self.folder.mkdir(exist_ok=True)
        write_atomically(self.folder / name, json.dumps(content))


def _parse(file: Path, content: Any) -> InboxFile:
    if not isinstance(content, dict) or not re.fullmatch("[0-9a-f]{16}", str(content.get("id"))):
        raise ValueError("it names no request")
    if file.name.endswith(_WITHDRAWAL):
        return InboxFile(file, withdraws=content["id"])
    if unknown := content.keys() - {f.name for f in fields(FiledRequest)}:
        raise ValueError(f"it says {', '.join(sorted(unknown))}, which no request says")
    request = FiledRequest(**{**content, "utterances": tuple(content.get("utterances", ()))})
    if type(request.deadline) is int:
        # Too long a deadline is no reason to refuse a deletion.
        request = replace(request, deadline=min(request.deadline, LARGEST))
    texts = (request.emotion, request.speaker, request.reason, request.event, *request.utterances)
    numbers = (request.count, request.devices, 1 if request.deadline is None else request.deadline)
    if request.what not in _KINDS or not all(isinstance(text, str) for text in texts):
        raise ValueError("it does not say what is to go")
    if not all(type(n) is int and 0 <= n <= LARGEST for n in numbers) or request.devices < 1:
        raise ValueError("its numbers cannot be right")
    return InboxFile(file, request)


def _filed_at(file: Path) -> tuple[int, str]:
    try:
        return file.stat().st_mtime_ns, file.name
    except FileNotFoundError:
        return 0, file.name


class LabelledUtterance(Protocol):
    """An utterance with its labels, from a vault's index or from a corpus."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def emotion(self) -> str: ...  # noqa: D102
    @property
    def speaker(self) -> str: ...  # noqa: D102


AnyUtterance = TypeVar("AnyUtterance", bound=LabelledUtterance)


def select_utterances(filed: FiledRequest, utterances: Iterable[AnyUtterance]) -> list[AnyUtterance]:
    """Select the utterances that a request names, in their own order; for "some", all that it draws from.

    Args:
        filed: the request.
        utterances: training and held-out utterances; for "some" only the training ones.
    """
    if filed.what == "emotion":
        return [u for u in utterances if u.emotion == filed.emotion]
    if filed.what == "speaker":
        return [u for u in utterances if u.speaker == filed.speaker]
    if filed.what == "named":
        return [u for u in utterances if u.id in filed.utterances]
    return list(utterances)
