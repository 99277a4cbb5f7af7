"""The device's book: every request ever raised here, durable in the vault folder.

Only the device writes it, one process at a time; a reader sees the book before a change or after it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedunlearn.config.fields import LARGEST
from fedunlearn.deletion.request import DeletionRequest, RequestState
from fedunlearn.errors import BadInput
from fedunlearn.files import lock_folder, write_atomically
from fedunlearn.vault.index import VaultEntry


class RequestStore:
    """A device's own requests.

    Args:
        vault_folder: of the device; need not hold a book yet.
    """

    def __init__(self, vault_folder: Path) -> None:
        self.folder = vault_folder
        self._file = vault_folder / "requests.json"

    def all(self) -> tuple[DeletionRequest, ...]:
        """Every request ever raised here, in order.

        Raises:
            BadInput: what is there is no book.
        """
        try:
            return tuple(_request(row) for row in json.loads(self._file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return ()
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadInput(f"{self._file}: is no book of requests; it was cut or changed") from error

    def open(self) -> tuple[DeletionRequest, ...]:
        """Those not yet purged, nor refused, nor withdrawn."""
        return tuple(r for r in self.all() if r.is_open)

    def add(self, requests: Iterable[DeletionRequest]) -> None:
        """Write new requests; an event or an id that was raised before is not raised again."""

        def added(book: Sequence[DeletionRequest]) -> Sequence[DeletionRequest]:
            grown = list(book)
            for request in requests:
                if not is_known(request, grown):
                    grown.append(request)
            return grown

        self.change(added)

    def set_state(self, ids: Iterable[str], state: RequestState) -> None:
        """Move requests to a state; those that have passed it already stay where they are.

        Raises:
            ImpossibleStep: for one of them it cannot follow; then none is moved.
        """
        self._each(ids, lambda request: request.moved(state))

    def close(self, ids: Iterable[str]) -> None:
        """Drop the utterance ids and the words of requests that are done with: counts, dates and states stay.

        For when they are purged, verified and judged: the judge needs the ids up to the end of a run.

        Raises:
            ValueError: one is open still.
        """

        self._each(ids, lambda request: request.closed())

    def change(self, change: Callable[[tuple[DeletionRequest, ...]], Sequence[DeletionRequest]]) -> None:
        """Read, change and write the book with no other process doing so meanwhile.

        Where the change raises, or changes nothing, nothing is written.
        """
        with lock_folder(self.folder):
            before = self.all()
            after = tuple(change(before))
            if after != before:
                write_atomically(self._file, json.dumps([asdict(r) for r in after], indent=1))

    def _each(self, ids: Iterable[str], change: Callable[[DeletionRequest], DeletionRequest]) -> None:
        wanted = set(ids)
        self.change(lambda book: [change(r) if r.id in wanted else r for r in book])


def is_known(request: DeletionRequest, book: Iterable[DeletionRequest]) -> bool:
    """Whether the same wish stands in a book already."""
    return any(r.event == request.event or r.id == request.id for r in book)


def _request(row: dict[str, Any]) -> DeletionRequest:
    for name, kind in {"id": str, "client": int, "round": int, "event": str, "utterances": list}.items():
        if not isinstance(row[name], kind):
            raise TypeError(f"the {name} of a request is {type(row[name]).__name__}")
    named = {name: tuple(row.get(name, ())) for name in ("utterances", "held_out")}
    return DeletionRequest(**{**row, **named, "state": RequestState(row["state"])})


Answer = dict[str, list[str] | list[int]]
"""Equally long lists, one place for each request: ids; counts (training utterances of it on this device);
states ("raised", "withdrawn", "refused" or "purged"); deadlines (rounds that are left, >= 0; -1 = none);
devices (how many hold speech of the same person); learned (how many of its utterances a training round has
used)."""


def report_requests(
    book: RequestStore, entries: Mapping[str, VaultEntry], rounds_done: int, trained: int
) -> Answer:
    """Every request raised by ``rounds_done``, in the order of the book.

    Args:
        entries: of the device's vault.
        rounds_done: rounds done. A run that goes on from an earlier date hears what had been raised by then.
        trained: the last date at which this device's training counted; -1 = never.
    """
    raised = [r for r in book.all() if r.round <= rounds_done]
    return {
        "ids": [r.id for r in raised],
        "counts": [r.count for r in raised],
        "states": [str(r.at(rounds_done)) for r in raised],
        "deadlines": [_left(r, rounds_done) for r in raised],
        "devices": [r.devices for r in raised],
        "learned": [
            sum(u in entries and entries[u].recorded <= trained for u in r.utterances) for r in raised
        ],
    }


def _left(request: DeletionRequest, rounds_done: int) -> int:
    if request.deadline is None:
        return -1
    return min(max(0, request.round + request.deadline - rounds_done), LARGEST)
