"""What files say about a ledger: results, checkpoints, request stores, receipts, and copies kept outside."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedunlearn.deletion.receipts import BadReceipt, Receipt, every_receipt, read_receipt
from fedunlearn.deletion.request import DeletionRequest
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.errors import BadInput
from fedunlearn.files import read_json_object
from fedunlearn.run_folder import RunFolder

RequestKey = tuple[str, int]
"""id of a request, and its client"""


@dataclass(frozen=True)
class NotedRequest:
    """A request in results.json.

    Attributes:
        key: its id and client.
        state: its last state.
        history: state and round of each step.
    """

    key: RequestKey
    state: str
    history: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class NotedLedger:
    """What results.json says about the ledger.

    Attributes:
        head: hash of its last row.
        entries: number of its rows; None = not stated.
        complete: whether the run was complete by then.
        requests: all requests that the server knew.
    """

    head: str
    entries: int | None
    complete: bool
    requests: tuple[NotedRequest, ...]


@dataclass(frozen=True)
class LedgerNotes:
    """Everything that the run folder and the caller's own files say about the ledger.

    Attributes:
        heads: (where it was noted, head) each.
        results: what results.json says; None = there is none.
        stores: requests in the devices' request stores.
        receipts: (name, client, content) of each receipt in the vaults.
        copies: (name, content) of each receipt kept outside of the run folder.
        unusable: one line for each file in the run folder that is not what it should be.
    """

    heads: tuple[tuple[str, str], ...]
    results: NotedLedger | None
    stores: Mapping[RequestKey, DeletionRequest]
    receipts: tuple[tuple[str, int, Receipt], ...]
    copies: tuple[tuple[str, Receipt], ...]
    unusable: tuple[str, ...]

    @property
    def keys(self) -> set[RequestKey]:
        """All requests that are named anywhere."""
        reported = {r.key for r in self.results.requests} if self.results else set()
        return {*self.stores, *reported, *((r.request, client) for _, client, r in self.receipts)}


def known_requests(run: RunFolder) -> set[RequestKey]:
    """Read which requests the devices' request stores and results.json name.

    Args:
        run: the folder.

    Raises:
        BadInput: one of these files is not what it should be, or cannot be read.
    """
    unusable: list[str] = []
    results, stores = _read_results(run, unusable), read_stores(run, unusable)
    if unusable:
        raise BadInput(unusable)
    return {*stores, *(r.key for r in results.requests)} if results else {*stores}


def read_notes(run: RunFolder, head: str, copies: Sequence[tuple[str, Receipt]]) -> LedgerNotes:
    """Read everything that files say about the ledger.

    Args:
        run: the folder.
        head: a head of the ledger that was noted outside; empty = none.
        copies: (name, content) of each receipt that is kept outside.

    Raises:
        BadInput: a file cannot be read.
    """
    unusable: list[str] = []
    results = _read_results(run, unusable)
    heads = [
        *([("--head", head)] if head else []),
        *([(run.results.name, results.head)] if results else []),
        *_read_manifests(run, unusable),
    ]
    receipts = tuple(_read_receipts(run, unusable))
    return LedgerNotes(
        tuple(heads), results, read_stores(run, unusable), receipts, tuple(copies), tuple(unusable)
    )


def read_copy(path: Path) -> Receipt:
    """Read a receipt that is kept outside.

    Args:
        path: of the receipt.

    Raises:
        BadInput: it is no receipt, is damaged, or cannot be read.
    """
    try:
        return read_receipt(path)
    except BadReceipt as error:
        raise BadInput(f"--receipt {error}") from error
    except OSError as error:
        raise BadInput(f"--receipt {path}: cannot be read ({error.strerror})") from error


def _read_object(file: Path, unusable: list[str]) -> dict[str, Any] | None:
    """Read a JSON object in the run folder; None if it does not exist or is not what it should be."""
    try:
        return read_json_object(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        unusable.append(f"{file}: {error}")
        return None
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror})") from error


def _read_manifests(run: RunFolder, unusable: list[str]) -> Iterator[tuple[str, str]]:
    """Read the heads that were noted beside checkpoints."""
    for file in sorted(run.checkpoints.rglob("*.safetensors.json")):
        manifest = _read_object(file, unusable) or {}
        head = manifest.get("ledger_head")
        if isinstance(head, str):
            yield str(file.relative_to(run.path)), head
        elif "ledger_head" in manifest:
            unusable.append(f"{file}: ledger_head is no hash")


def _read_receipts(run: RunFolder, unusable: list[str]) -> Iterator[tuple[str, int, Receipt]]:
    for client, file in every_receipt(run):
        try:
            receipt = read_receipt(file)
        except BadReceipt as error:
            unusable.append(str(error))
            continue
        except OSError as error:
            raise BadInput(f"{file}: cannot be read ({error.strerror})") from error
        if receipt.request == file.stem:
            yield str(file.relative_to(run.path)), client, receipt
        else:
            unusable.append(f"{file}: is the receipt of another request ({receipt.request})")


def read_stores(run: RunFolder, unusable: list[str]) -> dict[RequestKey, DeletionRequest]:
    """Read the requests in all devices' request stores.

    Args:
        run: the folder.
        unusable: gets a line for each file that holds no requests.

    Raises:
        BadInput: a file cannot be read.
    """
    found: dict[RequestKey, DeletionRequest] = {}
    for client in run.clients():
        try:
            found |= {(r.id, client): r for r in RequestStore(run.vault(client)).all()}
        except BadInput as error:
            unusable += error.problems
        except OSError as error:
            raise BadInput(f"{run.vault(client)}: cannot be read ({error.strerror})") from error
    return found


def _read_results(run: RunFolder, unusable: list[str]) -> NotedLedger | None:
    content = _read_object(run.results, unusable)
    if content is None:
        return None
    try:
        return _results(content)
    except TypeError as error:
        unusable.append(f"{run.results}: {error}")
        return None


def _results(content: Mapping[str, Any]) -> NotedLedger:
    ledger, requests = content.get("ledger"), content.get("requests", [])
    if not isinstance(ledger, dict) or not isinstance(ledger.get("head"), str):
        raise TypeError("does not say what the ledger's head was")
    entries = ledger.get("entries")
    if entries is not None and not _is_count(entries):
        raise TypeError("does not say how many rows the ledger had")
    if not isinstance(requests, list):
        raise TypeError("its requests are no list")
    return NotedLedger(
        ledger["head"], entries, content.get("status") == "complete", tuple(map(_reported, requests))
    )


def _reported(row: Any) -> NotedRequest:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not _is_count(row.get("client")):
        raise TypeError("one of its requests has no id or no client")
    history = row.get("history", [])
    if not isinstance(history, list) or not all(
        isinstance(step, dict) and isinstance(step.get("state"), str) and _is_count(step.get("round"))
        for step in history
    ):
        raise TypeError("the history of one of its requests is none")
    if not isinstance(row.get("state"), str):
        raise TypeError("one of its requests has no state")
    steps = tuple((step["state"], step["round"]) for step in history)
    return NotedRequest((row["id"], row["client"]), row["state"], steps)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
