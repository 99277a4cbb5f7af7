"""Which utterances each request of a run names, as the experimenter knows it once the devices dropped it.

Once a request is closed and judged, its device's request store drops the ids and the person's words. A
resumed run judges every request again, so the experimenter keeps what each one named, as indexes into the
corpus, in the run's record.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from fedunlearn.corpora.utterance import Corpus
from fedunlearn.deletion.receipts import removed_by
from fedunlearn.deletion.request import DeletionRequest, RequestState
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.experiment.record import Contents, SavedRun
from fedunlearn.files import write_atomically
from fedunlearn.partition import Partition
from fedunlearn.run_folder import RunFolder
from fedunlearn.server.requests import RequestKey, TrackedRequest
from fedunlearn.server.state import ServerState
from fedunlearn.vault.index import Index

_DONE = frozenset({RequestState.VERIFIED, RequestState.WITHDRAWN, RequestState.REFUSED})
_DELETED = "(deleted)"


def read_deletions(
    run: RunFolder, corpus: Corpus, known: Mapping[RequestKey, Contents], clients: Iterable[int]
) -> dict[RequestKey, DeletionRequest]:
    """Read all requests of these clients, with the utterances of the corpus that they name or named.

    Recordings that a person has added to a device are in no corpus; no measure includes them.

    Args:
        run: whose devices have the request stores.
        corpus: of the run.
        known: contents of requests that may be closed.
        clients: whose request stores are read, in this order.
    """
    deletions: dict[RequestKey, DeletionRequest] = {}
    there = {utterance.id for utterance in corpus.utterances}
    for client in clients:
        for request in RequestStore(run.vault(client)).all():
            key = request.id, client
            if key in known and not (request.utterances or request.held_out):
                utterances, held_out = (
                    tuple(corpus.utterances[place].id for place in part) for part in known[key]
                )
                request = replace(request, utterances=utterances, held_out=held_out)
            utterances, held_out = (
                tuple(u for u in part if u in there) for part in (request.utterances, request.held_out)
            )
            deletions[key] = replace(request, utterances=utterances, held_out=held_out)
    return deletions


def utterances_of(
    requests: Iterable[TrackedRequest], deletions: Mapping[RequestKey, DeletionRequest]
) -> list[str]:
    """List the training utterances that these requests name, sorted.

    Args:
        requests: as the server knows them.
        deletions: as ``read_deletions`` gives them.
    """
    return sorted({u for r in requests if r.key in deletions for u in deletions[r.key].utterances})


def contents_of(
    deletions: Mapping[RequestKey, DeletionRequest], corpus: Corpus
) -> dict[RequestKey, Contents]:
    """List what requests name, as indexes into the corpus; requests that name nothing are left out.

    Args:
        deletions: as ``read_deletions`` gives them.
        corpus: of the run.
    """
    place = {utterance.id: number for number, utterance in enumerate(corpus.utterances)}
    return {
        key: (tuple(place[u] for u in r.utterances), tuple(place[u] for u in r.held_out))
        for key, r in deletions.items()
        if r.utterances or r.held_out
    }


def close_requests(run: RunFolder, partition: Partition, saved: SavedRun) -> None:
    """Drop utterance ids and the persons' words of requests that are verified, withdrawn or refused.

    For when a run has ended and its results are written. The devices' request stores and logs lose them; the
    receipt, which is the person's own, keeps the ids of what was removed. A request that is open stays whole.

    Args:
        run: whose results are written.
        partition: of the run.
        saved: of the run; it must have come to its end, else nothing is closed.
    """
    if not saved.record.finished:
        return
    everywhere: set[str] = set()
    for share in partition.clients:
        vault = run.vault(share.client)
        store = RequestStore(vault)
        done = [r for r in store.all() if not r.is_open and _is_done(saved.state, (r.id, share.client))]
        if not done:
            continue
        left = {entry.id for entry in Index.read(vault).entries}
        named = {u for r in done for u in (*r.utterances, *r.held_out, *removed_by(vault, r.id))} - left
        words = named | {r.reason for r in done if r.reason}
        _redact(vault / "log.txt", words)
        store.close(r.id for r in done)
        everywhere |= words
    _redact(run.log, everywhere)


def _is_done(state: ServerState, key: RequestKey) -> bool:
    tracked = state.requests.get(key)
    return tracked is not None and tracked.state in _DONE


def _redact(log: Path, words: Iterable[str]) -> None:
    """Remove words from a log that no process writes any more."""
    longest_first = sorted(words, key=len, reverse=True)
    if not longest_first or not log.exists():
        return
    text = log.read_text(encoding="utf-8", errors="replace")
    whole_words = "|".join(map(re.escape, longest_first))
    short = re.sub(rf"(?<![\w-])(?:{whole_words})(?![\w-])", _DELETED, text)
    if short != text:
        write_atomically(log, short)
