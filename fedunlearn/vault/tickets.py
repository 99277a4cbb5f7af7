"""What a device notes of its own training utterances while the model is trained on them: their tickets.

tickets.<slot>-<generation>.tickets   number of a round, SHA-256 of the rest, and float32 [n, K]: a row for
                                      each training utterance, in vault order

A ticket is what training on the utterance has taken from the weights, as the model notes it
(``EmotionModel.contribution``), times the weight of the client's update in the global model, summed over the
rounds. In each round a share of it fades: without the utterance, what it has taught would have been taught by
others in part.

A round may be trained twice: where a message is repeated, and where a run is resumed from a checkpoint. So
the tickets after a round are made from those after the round before, and there are slots for as many rounds
as a run may go back. A slot is written in place, so that nothing older stays on the disk.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedunlearn.links import discard, is_plain

Rows = npt.NDArray[np.float32]

SUFFIX = ".tickets"
_ROUND, _DIGEST = 8, hashlib.sha256().digest_size
"""bytes"""


def fade(noted: Tensor, part: Tensor, fading: float, rounds: int = 1) -> Tensor:
    """Add what a round has noted, and let a share of all fade.

    Args:
        noted: [n, K], what was noted until now.
        part: [n, K], what this round has noted.
        fading: share in [0, 1) that fades in each round, this one included.
        rounds: rounds since the last one that was noted, >= 1.
    """
    return (noted * (1.0 - fading) ** (rounds - 1) + part) * (1.0 - fading)


class TicketFiles:
    """The tickets in one generation of a vault; they are read and written by one process at a time.

    Args:
        folder: of the vault.
        generation: of the vault.
        ids: of the n training utterances, in vault order.
    """

    def __init__(self, folder: Path, generation: int, ids: Sequence[str]) -> None:
        self._folder, self._generation, self._ids = folder, generation, tuple(ids)
        self._place = {utterance: number for number, utterance in enumerate(ids)}

    def note(self, ids: Sequence[str], part: Tensor, round: int, fading: float, slots: int) -> None:
        """Add what a round has noted to the tickets after the rounds before it.

        Args:
            ids: of its m utterances.
            part: [m, K], what it has noted of them.
            round: number of the learning round, from 1. Tickets after later rounds are discarded.
            fading: as of ``fade``.
            slots: for how many rounds there are tickets, >= 2.
        """
        whole = torch.zeros(len(self._ids), part.shape[1])
        whole[[self._place[i] for i in ids]] = part
        noted, before = torch.zeros_like(whole), round - 1
        for number, path in self._slots():
            if number > round:
                discard(path)
            elif number < round and (values := self._read(path)) is not None:
                if values.size == whole.numel():
                    noted, before = torch.from_numpy(values.reshape(whole.shape)), number
                break
        self._write(round % slots, round, fade(noted, whole, fading, round - before))

    def of(self, ids: Sequence[str], size: int) -> Tensor | None:
        """Return the tickets [m, K] of m utterances after the last round that was noted.

        Args:
            ids: of the utterances.
            size: K.

        Returns:
            None where there are none, or not of all of them
        """
        found = self._newest()
        if found is None or found[1].size != len(self._ids) * size or any(i not in self._place for i in ids):
            return None
        return torch.from_numpy(found[1].reshape(len(self._ids), size))[[self._place[i] for i in ids]]

    def rows_of(self, ids: Iterable[str]) -> list[Rows]:
        """Return the tickets of training utterances, [K] each, after every round for which there are tickets.

        Args:
            ids: of utterances; those that are not among the training utterances are left out.
        """
        places = [self._place[i] for i in ids if i in self._place]
        stored = [values for _, path in self._slots() if (values := self._read(path)) is not None]
        return [values.reshape(len(self._ids), -1)[place] for values in stored for place in places]

    def move_without(self, gone: Collection[str]) -> None:
        """Write the newest tickets of the utterances that stay into the next generation of the vault.

        Args:
            gone: ids of those that do not stay.
        """
        found = self._newest()
        if found is not None and self._ids:
            number, values = found
            staying = [i for i in self._ids if i not in gone]
            kept = values.reshape(len(self._ids), -1)[[self._place[i] for i in staying]]
            TicketFiles(self._folder, self._generation + 1, staying)._write(0, number, torch.from_numpy(kept))

    def move_with(self, new: Sequence[str]) -> None:
        """Write all tickets into the next generation of the vault, with zeros for new training utterances.

        Args:
            new: ids, which follow all others.
        """
        grown = TicketFiles(self._folder, self._generation + 1, (*self._ids, *new))
        for number, path in self._slots():
            if self._ids and (values := self._read(path)) is not None:
                rows = torch.from_numpy(values.reshape(len(self._ids), -1))
                slot = int(path.stem.partition(".")[2].rpartition("-")[0])
                grown._write(slot, number, torch.cat([rows, torch.zeros(len(new), rows.shape[1])]))

    def _newest(self) -> tuple[int, Rows] | None:
        for number, path in self._slots():
            if (values := self._read(path)) is not None:
                return number, values
        return None

    def _slots(self) -> list[tuple[int, Path]]:
        """The round that each slot says it is of, the newest first."""
        found = []
        for path in self._folder.glob(f"tickets.*-{self._generation}{SUFFIX}"):
            if is_plain(path):
                with path.open("rb") as file:
                    found.append((int.from_bytes(file.read(_ROUND), "little"), path))
        return sorted(found, reverse=True)

    def _read(self, path: Path) -> Rows | None:
        """All values of a slot; None where it was not written whole."""
        content = path.read_bytes()
        head, body = content[: _ROUND + _DIGEST], content[_ROUND + _DIGEST :]
        if head[_ROUND:] != hashlib.sha256(head[:_ROUND] + body).digest():
            return None
        return np.frombuffer(body, np.float32).copy()

    def _write(self, slot: int, round: int, values: Tensor) -> None:
        path = self._folder / f"tickets.{slot}-{self._generation}{SUFFIX}"
        number, body = round.to_bytes(_ROUND, "little"), values.contiguous().numpy().tobytes()
        content = number + hashlib.sha256(number + body).digest() + body
        if path.is_symlink() or (path.exists() and not is_plain(path)):
            discard(path)
        with path.open("r+b" if path.exists() else "xb") as file:
            file.write(content)
            file.truncate()
