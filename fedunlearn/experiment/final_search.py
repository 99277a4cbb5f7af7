"""The end of a run, for the people who asked: is anything left of their speech, and what was measured?"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from fedunlearn.audit.influence import describe_files, files_with_influence
from fedunlearn.deletion.receipts import (
    add_evidence,
    add_kept,
    add_ledger,
    every_receipt,
    receipt_of,
    removed_by,
)
from fedunlearn.deletion.request import DeletionRequest
from fedunlearn.evaluation.judge import Judge
from fedunlearn.evaluation.metrics import accuracy
from fedunlearn.ledger import LedgerEntry, LedgerReader
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Partition
from fedunlearn.run_folder import RunFolder
from fedunlearn.server.requests import RequestKey
from fedunlearn.vault.traces import Fingerprints, TraceFindings, scan_run


def receipts_of(run: RunFolder, keys: Iterable[RequestKey]) -> dict[RequestKey, Path]:
    """The receipts that there are for these requests."""
    places = {key: receipt_of(run.vault(key[1]), key[0]) for key in keys}
    return {key: path for key, path in places.items() if path.exists()}


def search(
    folders: Sequence[Path],
    partition: Partition,
    books: Mapping[RequestKey, DeletionRequest],
    receipts: Mapping[RequestKey, Path],
    model: EmotionModel,
    elsewhere: Callable[[Fingerprints], TraceFindings] | None = None,
    spared: Iterable[Path] = (),
) -> dict[str, Any]:
    """Look for all that was removed, held-out speech included, in every file of the run.

    Args:
        folders: run folder, reference cache, the engine's own.
        books: of the requests that are gone.
        receipts: theirs.
        model: of the run's kind.
        elsewhere: looks where devices live that are not here.
        spared: the user's own folders, which are not searched where a link leads into them.

    Returns:
        as ``traces.scan_run``
    """
    gone = {u for request in books.values() for u in (*request.utterances, *request.held_out)}
    for path in receipts.values():
        gone |= set(removed_by(path.parent.parent, path.stem))
    return scan_run(folders, partition, gone, model, elsewhere, spared)


class Elsewhere(Protocol):
    """Nodes that devices live on."""

    lost: list[Any]
    """those that cannot be reached any more: address, folder, utterances"""

    def search(self, fingerprints: Fingerprints) -> TraceFindings:
        """Look for traces on all that are left."""
        ...


def left_behind(
    traces: Mapping[str, Any], lost: Iterable[Any], gone: Mapping[RequestKey, DeletionRequest]
) -> list[str]:
    """One line for each way in which deleted speech is left, or may be.

    Args:
        traces: from ``search``.
        lost: nodes that cannot be reached.
        gone: what was deleted.
    """
    problems = [f"deleted speech is left in {', '.join(traces['found'])}"] if traces["found"] else []
    if gone and traces["unsearched"]:
        unknown = "; ".join(traces["unsearched"])
        problems.append(f"deleted speech may be left where the search could not look: {unknown}")
    deleted = {u for request in gone.values() for u in (*request.utterances, *request.held_out)}
    return problems + [
        f"deleted speech may be left on a node that was lost: wipe {node.folder} on {node.address}"
        for node in lost
        if node.utterances & deleted
    ]


def complete_receipts(
    receipts: Mapping[RequestKey, Path],
    books: Mapping[RequestKey, DeletionRequest],
    judge: Judge,
    states: Mapping[str, Mapping[str, Tensor]],
    gap: Mapping[str, Any],
) -> None:
    """Add to each receipt what was measured on its own utterances.

    Args:
        receipts: by request.
        books: what each took back.
        judge: measures.
        states: original, unlearned, recovered and retrained.
        gap: of the run, as in results.json.
    """
    views = {name: judge.view(state) for name, state in states.items()}
    for key, path in receipts.items():
        gone = judge.sets(books[key].utterances).forget
        attacked = {name: judge.membership(views[name], gone) for name in ("recovered", "retrained")}
        add_evidence(
            path,
            {
                "forget_accuracy": {
                    name: accuracy(judge.labels[gone], view.predicted[gone]) for name, view in views.items()
                },
                "membership": {
                    name: {"auc": found["auc"], "low": found["low"], "high": found["high"]}
                    for name, found in attacked.items()
                },
                "gap": gap["recovered"]["mean"],
                "noise_floor": gap["noise_floor"] and gap["noise_floor"]["mean"],
            },
        )


def note_kept(run: RunFolder, cache: Path, results: Mapping[str, Any]) -> None:
    """Name in each receipt the files that still know what was deleted.

    Args:
        run: the folder.
        cache: the reference cache.
        results: of the run.
    """
    kept = describe_files(files_with_influence(run, cache, results), run, cache)
    for _, path in every_receipt(run):
        add_kept(path, kept)


def note_ledger(run: RunFolder, ledger: LedgerReader) -> None:
    """Add to each receipt what the ledger says of its request, and the head that the run ends with.

    Args:
        run: the folder.
        ledger: of the run, with its salt.
    """
    rows: dict[str, list[LedgerEntry]] = {}
    for entry in ledger.entries():
        rows.setdefault(entry.request, []).append(entry)
    for client, path in every_receipt(run):
        add_ledger(path, rows.get(ledger.hashed(path.stem, client), []), ledger.head())
