"""What a client may keep of a run, and what it, several clients, or an auditor can tell from that alone.

A client keeps digests of the models that it was sent, and its receipts: no speech, no feature, no weights.
All checks here are exact: a server that does as it says passes every one of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from fedunlearn.audit.ledger_check import check_ledger
from fedunlearn.checkpoints import BadCheckpoint, load_checkpoint
from fedunlearn.deletion.receipts import BadReceipt, Receipt, read_receipt
from fedunlearn.errors import BadInput, RunFailed
from fedunlearn.ledger import DamagedLedger, LedgerReader, RoundDigests
from fedunlearn.messages.phase import Phase
from fedunlearn.run_folder import RunFolder

Occasion = Literal["unlearn", "train", "final"]
"""when a client is sent a model: with the request to unlearn, to train from, for use when the run is over"""


@dataclass(frozen=True)
class ReceivedModel:
    """A model that a client was sent.

    Attributes:
        occasion: why it was sent.
        round: of the timeline; -1 = when the run was over.
        digest: SHA-256 of its weights, as ``weights_digest`` computes it.
    """

    occasion: Occasion
    round: int
    digest: str


@dataclass(frozen=True)
class ClientRecord:
    """What one client keeps of a run.

    Attributes:
        client: its number.
        requests: ids of its deletion requests.
        received: the models that it was sent since the first unlearn step, in order.
        receipts: copies of its receipts, kept outside of the run folder; the name of each is its request.
        still_held: requests of which its vault still holds recordings.
    """

    client: int
    requests: tuple[str, ...]
    received: tuple[ReceivedModel, ...]
    receipts: tuple[Path, ...]
    still_held: tuple[str, ...] = ()

    @property
    def sent_to_unlearn(self) -> str:
        """Digest of the model that it last unlearned from; empty = it was never asked to."""
        return next((m.digest for m in reversed(self.received) if m.occasion == "unlearn"), "")

    @property
    def next_model(self) -> ReceivedModel | None:
        """The first model that it was sent after it had unlearned; None = there was none."""
        found: ReceivedModel | None = None
        for model in reversed(self.received):
            if model.occasion == "unlearn":
                return found
            found = model
        return None

    @property
    def final(self) -> str:
        """Digest of the model that it was given for use; empty = none."""
        return next((m.digest for m in reversed(self.received) if m.occasion == "final"), "")


def check_alone(record: ClientRecord) -> list[str]:
    """Check what one client can check alone, with its own digests, receipts and vault.

    Args:
        record: of the client.

    Returns:
        one line for each contradiction
    """
    return list(_check_alone(record))


def _check_alone(record: ClientRecord) -> Iterator[str]:
    whose = f"client {record.client}"
    receipts: dict[str, Receipt] = {}
    for path in record.receipts:
        try:
            receipts[path.stem] = read_receipt(path)
        except BadReceipt as error:
            yield str(error)
    for request in record.requests:
        if request not in {path.stem for path in record.receipts}:
            yield f"{whose}: there is no receipt of its request {request}"
    for name, receipt in receipts.items():
        if receipt.request != name:
            yield f"{whose}: the receipt of its request {name} is one of request {receipt.request}"
        elif name not in record.requests:
            yield f"{whose}: there is a receipt of request {name}, which it never made"
        elif name in record.still_held:
            yield f"{whose}: there is a receipt of request {name}, and its vault still holds the recordings"
    following = record.next_model
    if following is None:
        return
    if following.digest == record.sent_to_unlearn:
        yield f"{whose}: the model that followed its unlearn step is the one that it unlearned from"
    elif record.final and record.final == record.sent_to_unlearn:
        yield f"{whose}: the final model is the one that it unlearned from"
    for name, receipt in receipts.items():
        if receipt.model is not None and receipt.model[1] != following.digest:
            yield (
                f"{whose}: the receipt of request {name} names model {receipt.model[1][:12]}, the model that "
                f"followed was {following.digest[:12]}"
            )


def check_together(records: Sequence[ClientRecord]) -> list[str]:
    """Check what clients can check when they compare what they keep.

    Args:
        records: of the clients.

    Returns:
        one line for each contradiction
    """
    found = [line for record in records for line in _check_alone(record)]
    of_round: dict[tuple[str, int], dict[str, int]] = {}
    earlier = {record.sent_to_unlearn for record in records} - {""}
    for record in records:
        for model in record.received:
            sent = of_round.setdefault((model.occasion, model.round), {})
            sent.setdefault(model.digest, record.client)
        if record.final in earlier and not record.requests:
            found.append(f"client {record.client}: the final model is the one that others unlearned from")
    for (occasion, number), digests in of_round.items():
        if len(digests) > 1:
            one, other, *_ = digests.values()
            when = "as the final model" if occasion == "final" else f"in round {number}"
            found.append(f"clients {one} and {other} were sent different models {when}")
    heads = {receipt.head for receipt in _readable(records) if receipt.head}
    if len(heads) > 1:
        found.append(f"the receipts name {len(heads)} different heads of the ledger at the end of the run")
    return found


def check_run(run: RunFolder) -> list[str]:
    """Check what an auditor can check with the run folder alone.

    Args:
        run: the folder; the run is over, and had one unlearn step.

    Returns:
        one line for each contradiction
    """
    return [*_ledger_lines(run, []), *_idle_steps(run)]


def check_run_with(run: RunFolder, records: Sequence[ClientRecord]) -> list[str]:
    """Check what an auditor can check with the run folder and with what clients keep.

    Args:
        run: the folder; the run is over, and had one unlearn step.
        records: of the clients.

    Returns:
        one line for each contradiction
    """
    receipts = [path for record in records for path in record.receipts]
    found = [*_ledger_lines(run, receipts), *_idle_steps(run), *check_together(records)]
    models, recovered = _models_of(run), checkpoint_digest(run, "recovered")
    for record in records:
        for model in (one for one in record.received if one.occasion == "train"):
            before = [recorded for recorded in models if recorded.round < model.round]
            if before and before[-1].digest != model.digest:
                found.append(
                    f"client {record.client} was sent another model in round {model.round} than the ledger "
                    "records"
                )
        if record.final and record.final != recovered:
            found.append(f"client {record.client} was not given the model that was kept as the final one")
    return list(dict.fromkeys(found))


def checkpoint_digest(run: RunFolder, name: str) -> str:
    """Read the SHA-256 of a model that a run keeps; empty where there is none.

    Args:
        run: the folder.
        name: of the model, such as "unlearned".
    """
    try:
        return str(load_checkpoint(run.checkpoints / f"{name}.safetensors")[1]["sha256"])
    except BadCheckpoint:
        return ""


def _idle_steps(run: RunFolder) -> Iterator[str]:
    for earlier, later in pairwise(_models_of(run)):
        if later.phase == Phase.UNLEARN and later.digest == earlier.digest:
            yield f"{run.ledger}: the unlearn step in round {later.round} left the model as it was"


def _ledger_lines(run: RunFolder, receipts: Sequence[Path]) -> list[str]:
    readable = [path for path in receipts if _is_receipt(path)]
    try:
        check = check_ledger(run, receipts=readable)
    except (BadInput, RunFailed) as error:
        return [str(error)]
    return list(check.contradictions)


@dataclass(frozen=True)
class _RecordedModel:
    phase: str
    round: int
    digest: str


def _models_of(run: RunFolder) -> list[_RecordedModel]:
    """The models that the ledger records, in order; none where it cannot be read."""
    try:
        with LedgerReader(run.ledger) as ledger:
            rows = [row for row in ledger.entries() if row.is_of_model]
            return [_RecordedModel(r.state, r.round, RoundDigests.of_text(r.content).model) for r in rows]
    except (DamagedLedger, FileNotFoundError, ValueError):
        return []  # the check of the ledger names it


def _readable(records: Sequence[ClientRecord]) -> Iterator[Receipt]:
    for record in records:
        for path in record.receipts:
            if _is_receipt(path):
                yield read_receipt(path)


def _is_receipt(path: Path) -> bool:
    try:
        read_receipt(path)
    except BadReceipt:
        return False
    return True
