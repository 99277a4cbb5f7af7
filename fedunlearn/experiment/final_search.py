"""The end of a run, for the people who requested deletions: what is left, and what was measured?"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from fedunlearn.experiment.prepared_run import PreparedRun
from fedunlearn.ledger import LedgerEntry, LedgerReader
from fedunlearn.links import plain_files, remove, wipe
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Partition
from fedunlearn.results_schema import GapReport, Results, Traces
from fedunlearn.run_folder import RunFolder
from fedunlearn.server.requests import RequestKey
from fedunlearn.vault.traces import Fingerprints, TraceFindings, scan_run


def find_receipts(run: RunFolder, keys: Iterable[RequestKey]) -> dict[RequestKey, Path]:
    """Find the receipts that there are for these requests.

    Args:
        run: the run folder.
        keys: of the requests.
    """
    places = {key: receipt_of(run.vault(key[1]), key[0]) for key in keys}
    return {key: path for key, path in places.items() if path.exists()}


def search(
    folders: Sequence[Path],
    partition: Partition,
    gone: Mapping[RequestKey, DeletionRequest],
    receipts: Mapping[RequestKey, Path],
    model: EmotionModel,
    on_nodes: Callable[[Fingerprints], TraceFindings] | None = None,
    spared: Iterable[Path] = (),
) -> tuple[Traces, dict[str, int]]:
    """Search every file of the run for all that was deleted, held-out speech included.

    Args:
        folders: run folder, reference cache, the engine's own.
        partition: of the run.
        gone: requests whose utterances have left the vaults.
        receipts: of these requests.
        model: of the run's kind.
        on_nodes: searches the nodes of a cluster that devices live on.
        spared: the user's own folders, which are not searched where a link leads into them.

    Returns:
        what was found, and how many "files" and "bytes" were searched.
    """
    deleted = {u for request in gone.values() for u in (*request.utterances, *request.held_out)}
    for path in receipts.values():
        deleted |= set(removed_by(path.parent.parent, path.stem))
    found = scan_run(folders, partition, deleted, model, on_nodes, spared)
    traces = Traces(
        windows=found["windows"],
        found=found["found"],
        unsearched=found["unsearched"],
        spared=found["spared"],
    )
    return traces, {part: found[f"scanned_{part}"] for part in ("files", "bytes")}


class RemoteNodes(Protocol):
    """Nodes of a cluster that devices live on."""

    @property
    def lost(self) -> Sequence[Any]:
        """Those that cannot be reached any more: address, folder, utterances."""
        ...

    def search(self, fingerprints: Fingerprints) -> TraceFindings:
        """Search all nodes that are left.

        Args:
            fingerprints: of what was deleted.
        """
        ...


@dataclass(frozen=True)
class EngineStorage:
    """Where an engine keeps data, so that the search for traces looks there, too.

    Attributes:
        folders: returns the folders on this machine that the engine writes to.
        nodes: of a cluster, with the devices' vaults; None = the vaults are in the run folder.
    """

    folders: Callable[[], Sequence[Path]] = tuple
    nodes: RemoteNodes | None = None


def search_run(
    prepared: PreparedRun,
    gone: Mapping[RequestKey, DeletionRequest],
    states: Mapping[str, Mapping[str, Tensor]],
    results: Results,
    storage: EngineStorage,
) -> None:
    """Search a run for what was deleted, and complete the receipts with what was measured.

    Args:
        prepared: what the run is made of.
        gone: requests whose utterances have left the vaults.
        states: original, unlearned, recovered and retrained.
        results: of the run; what was found is added to it.
        storage: where the engine keeps data.
    """
    receipts = find_receipts(prepared.run, gone)
    folders = [prepared.run.path, prepared.cache.folder, *storage.folders()]
    on_nodes = storage.nodes.search if storage.nodes else None
    spared = prepared.config.corpus.folders
    results.traces, results.times.searched = search(
        folders, prepared.partition, gone, receipts, prepared.template, on_nodes, spared
    )
    problems = left_behind(results.traces, storage.nodes.lost if storage.nodes else [], gone)
    if problems:
        results.status = "partial"
        results.failure = "; ".join(filter(None, (results.failure, *problems)))
    complete_receipts(receipts, gone, prepared.judge, states, results.gap)


def left_behind(traces: Traces, lost: Iterable[Any], gone: Mapping[RequestKey, DeletionRequest]) -> list[str]:
    """List the ways in which deleted speech is left, or may be, one line each.

    Args:
        traces: from ``search``.
        lost: nodes that cannot be reached.
        gone: what was deleted.
    """
    problems = [f"deleted speech is left in {', '.join(traces.found)}"] if traces.found else []
    if gone and traces.unsearched:
        unknown = "; ".join(traces.unsearched)
        problems.append(f"deleted speech may be left where the search could not look: {unknown}")
    deleted = {u for request in gone.values() for u in (*request.utterances, *request.held_out)}
    return problems + [
        f"deleted speech may be left on a node that was lost: wipe {node.folder} on {node.address}"
        for node in lost
        if node.utterances & deleted
    ]


def complete_receipts(
    receipts: Mapping[RequestKey, Path],
    gone: Mapping[RequestKey, DeletionRequest],
    judge: Judge,
    states: Mapping[str, Mapping[str, Tensor]],
    gap: GapReport,
) -> None:
    """Add to each receipt what was measured on its own utterances.

    Args:
        receipts: by request.
        gone: requests whose utterances have left the vaults.
        judge: measures.
        states: original, unlearned, recovered and retrained.
        gap: of the run.
    """
    views = {name: judge.view(state) for name, state in states.items()}
    for key, path in receipts.items():
        forget = judge.sets(gone[key].utterances).forget
        attacked = {name: judge.membership(views[name], forget) for name in ("recovered", "retrained")}
        add_evidence(
            path,
            {
                "forget_accuracy": {
                    name: accuracy(judge.labels[forget], view.predicted[forget])
                    for name, view in views.items()
                },
                "membership": {
                    name: {"auc": found.auc, "low": found.low, "high": found.high}
                    for name, found in attacked.items()
                },
                "gap": gap.recovered.mean,
                "noise_floor": gap.noise_floor.mean,
            },
        )


def note_kept(run: RunFolder, cache: Path, results: Results) -> None:
    """Name in each receipt the files that still know what was deleted.

    Args:
        run: the folder.
        cache: the reference cache.
        results: of the run.
    """
    kept = describe_files(files_with_influence(run, cache, results.to_json()), run, cache)
    for _, path in every_receipt(run):
        add_kept(path, kept)


def wipe_references(run: RunFolder) -> None:
    """Wipe the references and the state of a run that is over, and name in its receipts no file that is kept.

    Args:
        run: the folder.
    """
    for folder in (run.own_references, run.standings):
        if folder.is_dir():
            for file in list(plain_files(folder)):
                wipe(file)
            remove(folder)
    for _, path in every_receipt(run):
        add_kept(path, [])


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
