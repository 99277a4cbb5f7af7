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
from collections.abc import Sequence
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
        count: n, training utterances.
    """

    def __init__(self, folder: Path, generation: int, count: int) -> None:
        self._folder, self._generation, self._count = folder, generation, count

    def note(self, rows: Sequence[int], part: Tensor, round: int, fading: float, slots: int) -> None:
        """Add what a round has noted to the tickets after the rounds before it.

        Args:
            rows: places of its m utterances among the training utterances.
            part: [m, K], what it has noted of them.
            round: number of the learning round, from 1. Tickets after later rounds are discarded.
            fading: as of ``fade``.
            slots: for how many rounds there are tickets, >= 2.
        """
        whole = torch.zeros(self._count, part.shape[1])
        whole[list(rows)] = part
        noted, before = torch.zeros_like(whole), round - 1
        for number, path in self._slots():
            if number > round:
                discard(path)
            elif number < round and (values := self._read(path)) is not None:
                if values.size == whole.numel():
                    noted, before = torch.from_numpy(values.reshape(whole.shape)), number
                break
        self._write(round % slots, round, fade(noted, whole, fading, round - before))

    def newest(self, size: int) -> Tensor | None:
        """Return the tickets [n, K] after the last round that was noted; None = there are none.

        Args:
            size: K.
        """
        found = self._newest()
        if found is None or found[1].size != self._count * size:
            return None
        return torch.from_numpy(found[1].reshape(self._count, size))

    def rows_of(self, rows: Sequence[int]) -> list[Rows]:
        """Return the tickets of some utterances, [K] each, after every round for which there are tickets.

        Args:
            rows: their places among the training utterances.
        """
        if not self._count:
            return []
        stored = [values for _, path in self._slots() if (values := self._read(path)) is not None]
        return [values.reshape(self._count, -1)[row] for values in stored for row in rows]

    def move(self, rows: Sequence[int], generation: int) -> None:
        """Write the newest tickets of the utterances that stay into another generation of the vault.

        Args:
            rows: their places among the training utterances.
            generation: the next one.
        """
        found = self._newest()
        if found is not None and self._count:
            number, values = found
            staying = torch.from_numpy(values.reshape(self._count, -1)[list(rows)])
            TicketFiles(self._folder, generation, len(rows))._write(0, number, staying)

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
