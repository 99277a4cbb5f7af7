"""The inbox of a device: where a person's wish waits until the device reads it.

Whoever files a wish makes one whole file in the vault's ``inbox/`` and touches nothing else; only the device
moves it into its book, and unlinks it after that. So a wish may be filed at any moment, by any process, and
is neither lost nor heard twice, whatever is killed in between.
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

_WISH = ".json"
_WITHDRAWAL = ".withdraw.json"
_KINDS = ("all", "some", "emotion", "speaker", "named")


@dataclass(frozen=True)
class FiledRequest:
    """What somebody asks of one device.

    Attributes:
        id: 16 hexadecimal digits. The same on each device that the wish concerns.
        what: "all", "some", "emotion", "speaker" or "named".
        event: the schedule's or arrival's name; a person's is made of the id.
        count, emotion, speaker, utterances: see ``what``.
        deadline: rounds after raising; None = none.
        devices: how many of the person's devices hold speech that must go.
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
    """One file of the inbox: a wish, or the id of a request to be withdrawn, or something else altogether.

    Attributes:
        file: to be unlinked once the book is written.
        wish: what is asked.
        withdraws: the id of what is taken back. Neither: it cannot be read.
        problem: why not.
    """

    file: Path
    wish: FiledRequest | None = None
    withdraws: str = ""
    problem: str = field(default="", compare=False)

    @property
    def id(self) -> str:
        """Of the request that it speaks of; of an unreadable file, one made of its name."""
        if self.wish:
            return self.wish.id
        return self.withdraws or hashlib.sha256(self.file.name.encode()).hexdigest()[:16]


class Inbox:
    """A device's inbox.

    Args:
        vault_folder: of the device.
    """

    def __init__(self, vault_folder: Path) -> None:
        self.folder = vault_folder / "inbox"

    def file(self, wish: FiledRequest) -> None:
        """Leave a wish for the device; on disk when this returns. Filing the same id again has one effect."""
        self._leave(f"{wish.id}{_WISH}", asdict(wish))

    def file_withdrawal(self, request: str) -> None:
        """Ask the device to take a request back, if it is not too late."""
        self._leave(f"{request}{_WITHDRAWAL}", {"id": request})

    def waiting(self) -> tuple[InboxFile, ...]:
        """Everything that waits: wishes first, then withdrawals, each in the order in which it was filed."""
        return tuple(sorted(self._read(), key=lambda w: (bool(w.withdraws), *_filed(w.file))))

    def files(self) -> list[Path]:
        """The files that wait. None where the inbox is a link: they would be somebody else's."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return []
        named = (f for f in sorted(self.folder.iterdir()) if f.suffix == _WISH and not f.name.startswith("."))
        return [file for file in named if is_plain(file)]

    def _read(self) -> Iterator[InboxFile]:
        for file in self.files():
            try:
                yield _understood(file, json.loads(file.read_text(encoding="utf-8")))
            except FileNotFoundError:
                continue  # the device has heard it in the meantime
            except (ValueError, TypeError) as error:
                yield InboxFile(file, problem=str(error))

    def _leave(self, name: str, content: dict[str, Any]) -> None:
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise BadInput(f"{self.folder}: is no folder of its own; remove it, then file again")
        self.folder.mkdir(exist_ok=True)
        write_atomically(self.folder / name, json.dumps(content))


def _understood(file: Path, content: Any) -> InboxFile:
    if not isinstance(content, dict) or not re.fullmatch("[0-9a-f]{16}", str(content.get("id"))):
        raise ValueError("it names no request")
    if file.name.endswith(_WITHDRAWAL):
        return InboxFile(file, withdraws=content["id"])
    if unknown := content.keys() - {f.name for f in fields(FiledRequest)}:
        raise ValueError(f"it says {', '.join(sorted(unknown))}, which no wish says")
    wish = FiledRequest(**{**content, "utterances": tuple(content.get("utterances", ()))})
    if type(wish.deadline) is int:
        # Somebody who gives too many rounds wants the deletion all the same.
        wish = replace(wish, deadline=min(wish.deadline, LARGEST))
    texts = (wish.emotion, wish.speaker, wish.reason, wish.event, *wish.utterances)
    numbers = (wish.count, wish.devices, 1 if wish.deadline is None else wish.deadline)
    if wish.what not in _KINDS or not all(isinstance(text, str) for text in texts):
        raise ValueError("it does not say what is to go")
    if not all(type(n) is int and 0 <= n <= LARGEST for n in numbers) or wish.devices < 1:
        raise ValueError("its numbers cannot be right")
    return InboxFile(file, wish)


def _filed(file: Path) -> tuple[int, str]:
    try:
        return file.stat().st_mtime_ns, file.name
    except FileNotFoundError:
        return 0, file.name


class Spoken(Protocol):
    """An utterance, as a vault's index or as the corpus knows it."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def emotion(self) -> str: ...  # noqa: D102
    @property
    def speaker(self) -> str: ...  # noqa: D102


AnySpoken = TypeVar("AnySpoken", bound=Spoken)


def matching(wish: FiledRequest, spoken: Iterable[AnySpoken]) -> list[AnySpoken]:
    """Those that a wish may mean, in their own order; for "some", all that it is drawn from.

    Args:
        spoken: training and held-out utterances; for "some" the training ones alone.
    """
    if wish.what == "emotion":
        return [u for u in spoken if u.emotion == wish.emotion]
    if wish.what == "speaker":
        return [u for u in spoken if u.speaker == wish.speaker]
    if wish.what == "named":
        return [u for u in spoken if u.id in wish.utterances]
    return list(spoken)
