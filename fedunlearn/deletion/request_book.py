"""The device's book: every request ever raised here, durable in the vault folder.

Only the device writes it, one process at a time; a reader sees the book before a change or after it.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedunlearn.deletion.request import DeletionRequest, State
from fedunlearn.errors import BadInput
from fedunlearn.run_folder import alone_in, write_atomically


class RequestBook:
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

    def set_state(self, ids: Iterable[str], state: State) -> None:
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
        with alone_in(self.folder):
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
    return DeletionRequest(**{**row, **named, "state": State(row["state"])})
