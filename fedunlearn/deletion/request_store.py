"""The request store: every request ever raised at a device, durable in its vault folder.

Only the device writes it, one process at a time; a reader sees the state before a change or after it.
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
    """The deletion requests of one device, in the file ``requests.json``.

    Args:
        vault_folder: of the device; the file need not exist yet.
    """

    def __init__(self, vault_folder: Path) -> None:
        self.folder = vault_folder
        self._file = vault_folder / "requests.json"

    def all(self) -> tuple[DeletionRequest, ...]:
        """Read every request ever raised here, in order.

        Raises:
            BadInput: the file holds no requests.
        """
        try:
            return tuple(_request(row) for row in json.loads(self._file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return ()
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadInput(f"{self._file}: is not a request store; it was cut or changed") from error

    def open(self) -> tuple[DeletionRequest, ...]:
        """Read the requests that are not yet purged, refused or withdrawn."""
        return tuple(r for r in self.all() if r.is_open)

    def add(self, requests: Iterable[DeletionRequest]) -> None:
        """Add requests; an event or an id that was raised before is not raised again."""

        def add_new(before: Sequence[DeletionRequest]) -> Sequence[DeletionRequest]:
            grown = list(before)
            for request in requests:
                if not is_known(request, grown):
                    grown.append(request)
            return grown

        self.change(add_new)

    def set_state(self, ids: Iterable[str], state: RequestState) -> None:
        """Move requests to a state; those that have passed it already stay where they are.

        Args:
            ids: of the requests.
            state: to move to.

        Raises:
            ImpossibleStep: it cannot follow the state of one of them; then none is moved.
        """
        self._each(ids, lambda request: request.moved(state))

    def close(self, ids: Iterable[str]) -> None:
        """Drop the utterance ids and the words of closed requests; counts, rounds and states stay.

        To be called after the evaluation: the judge needs the ids up to the end of a run.

        Raises:
            ValueError: one of them is still open.
        """
        self._each(ids, lambda request: request.closed())

    def change(self, change: Callable[[tuple[DeletionRequest, ...]], Sequence[DeletionRequest]]) -> None:
        """Read, change and write all requests, with no other process doing so meanwhile.

        Nothing is written if ``change`` raises or changes nothing.

        Args:
            change: all requests -> all requests after the change.
        """
        with lock_folder(self.folder):
            before = self.all()
            after = tuple(change(before))
            if after != before:
                write_atomically(self._file, json.dumps([asdict(r) for r in after], indent=1))

    def _each(self, ids: Iterable[str], change: Callable[[DeletionRequest], DeletionRequest]) -> None:
        wanted = set(ids)
        self.change(lambda requests: [change(r) if r.id in wanted else r for r in requests])


def is_known(request: DeletionRequest, requests: Iterable[DeletionRequest]) -> bool:
    """Tell whether a request, by its event or its id, is among others."""
    return any(r.event == request.event or r.id == request.id for r in requests)


def _request(row: dict[str, Any]) -> DeletionRequest:
    for name, kind in {"id": str, "client": int, "round": int, "event": str, "utterances": list}.items():
        if not isinstance(row[name], kind):
            raise TypeError(f"the {name} of a request is {type(row[name]).__name__}")
    named = {name: tuple(row.get(name, ())) for name in ("utterances", "held_out")}
    return DeletionRequest(**{**row, **named, "state": RequestState(row["state"])})


RequestReport = dict[str, list[str] | list[int]]
"""lists of equal length with one item per request: ids; counts (its training utterances on this device);
states ("raised", "withdrawn", "refused" or "purged"); deadlines (rounds left, >= 0; -1 = none); devices (how
many hold recordings of the same person); learned (how many of its utterances a training round has used)"""


def report_requests(
    store: RequestStore, entries: Mapping[str, VaultEntry], rounds_done: int, last_trained: int
) -> RequestReport:
    """Report every request raised by ``rounds_done`` to the server, in the order in which they were raised.

    Args:
        store: of the device.
        entries: of its vault.
        rounds_done: rounds done; a resumed run that continues from an earlier round sees only what was
            raised by then.
        last_trained: rounds done when this device's training last counted; -1 = never.
    """
    raised = [r for r in store.all() if r.round <= rounds_done]
    return {
        "ids": [r.id for r in raised],
        "counts": [r.count for r in raised],
        "states": [str(r.at(rounds_done)) for r in raised],
        "deadlines": [_rounds_left(r, rounds_done) for r in raised],
        "devices": [r.devices for r in raised],
        "learned": [
            sum(u in entries and entries[u].recorded <= last_trained for u in r.utterances) for r in raised
        ],
    }


def _rounds_left(request: DeletionRequest, rounds_done: int) -> int:
    if request.deadline is None:
        return -1
    return min(max(0, request.round + request.deadline - rounds_done), LARGEST)
