"""Which utterances each request of a run names, as the experimenter knows it once the devices forgot it.

Once a request is done with and judged, its device's book drops the ids and the person's words. Whoever
resumes the run judges every request again, so the experimenter keeps what each one named, as indexes into the
corpus, with the run's standing.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from fedunlearn.corpora.utterance import Corpus
from fedunlearn.deletion.receipts import removed_by
from fedunlearn.deletion.request import DeletionRequest, RequestState
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.files import write_atomically
from fedunlearn.partition import Partition
from fedunlearn.run_folder import RunFolder
from fedunlearn.server.requests import RequestKey, TrackedRequest
from fedunlearn.server.state import Contents, Standing
from fedunlearn.vault.index import Index

_DONE = frozenset({RequestState.VERIFIED, RequestState.WITHDRAWN, RequestState.REFUSED})
_DELETED = "(deleted)"


def read_books(
    run: RunFolder, corpus: Corpus, known: Mapping[RequestKey, Contents], clients: Iterable[int]
) -> dict[RequestKey, DeletionRequest]:
    """All requests of these clients, with the utterances that they name or named.

    Args:
        run: whose devices have the books.
        corpus: of the run.
        known: contents of requests that may be closed.
        clients: whose books are read, in this order.
    """
    books: dict[RequestKey, DeletionRequest] = {}
    for client in clients:
        for request in RequestStore(run.vault(client)).all():
            key = request.id, client
            if key in known and not (request.utterances or request.held_out):
                utterances, held_out = (
                    tuple(corpus.utterances[place].id for place in part) for part in known[key]
                )
                request = replace(request, utterances=utterances, held_out=held_out)
            books[key] = request
    return books


def named_by(requests: Iterable[TrackedRequest], books: Mapping[RequestKey, DeletionRequest]) -> list[str]:
    """The training utterances that these requests name, sorted.

    Args:
        requests: as the server knows them.
        books: as ``read_books`` gives them.
    """
    return sorted({u for r in requests if r.key in books for u in books[r.key].utterances})


def contents_of(books: Mapping[RequestKey, DeletionRequest], corpus: Corpus) -> dict[RequestKey, Contents]:
    """What the requests of these books name, as indexes into the corpus; requests that name nothing left out.

    Args:
        books: as ``read_books`` gives them.
        corpus: of the run.
    """
    place = {utterance.id: number for number, utterance in enumerate(corpus.utterances)}
    return {
        key: (tuple(place[u] for u in r.utterances), tuple(place[u] for u in r.held_out))
        for key, r in books.items()
        if r.utterances or r.held_out
    }


def close_books(run: RunFolder, partition: Partition, standing: Standing) -> None:
    """Drop utterance ids and the persons' words of requests that are verified, withdrawn or refused.

    For when a run has ended and its results are written. The devices' books lose them, and the logs; the
    receipt, which is the person's own, keeps the ids of what was removed. A request that is open stays whole.

    Args:
        run: whose results are written.
        partition: of the run.
        standing: of the run; it must have come to its end, else nothing is closed.
    """
    if not standing.finished:
        return
    everywhere: set[str] = set()
    for share in partition.clients:
        vault = run.vault(share.client)
        book = RequestStore(vault)
        done = [r for r in book.all() if not r.is_open and _is_done(standing, (r.id, share.client))]
        if not done:
            continue
        left = {entry.id for entry in Index.read(vault).entries}
        named = {u for r in done for u in (*r.utterances, *r.held_out, *removed_by(vault, r.id))} - left
        words = named | {r.reason for r in done if r.reason}
        _redact(vault / "log.txt", words)
        book.close(r.id for r in done)
        everywhere |= words
    _redact(run.log, everywhere)


def _is_done(standing: Standing, key: RequestKey) -> bool:
    served = standing.requests.get(key)
    return served is not None and served.state in _DONE


def _redact(log: Path, words: Iterable[str]) -> None:
    """Take words out of a log that is written by nobody any more."""
    longest_first = sorted(words, key=len, reverse=True)
    if not longest_first or not log.exists():
        return
    text = log.read_text(encoding="utf-8", errors="replace")
    whole_words = "|".join(map(re.escape, longest_first))
    short = re.sub(rf"(?<![\w-])(?:{whole_words})(?![\w-])", _DELETED, text)
    if short != text:
        write_atomically(log, short)
