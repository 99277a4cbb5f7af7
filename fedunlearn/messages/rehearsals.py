"""What a client reports of a rehearsal: an unlearning of its own speech of which nothing is kept."""

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import RecordDict

from fedunlearn.messages.records import Refused
from fedunlearn.messages.replies import Metrics


@dataclass(frozen=True)
class Rehearsal:
    """What the run's unlearning method did to the model on a client that has requested nothing.

    Attributes:
        norm: L2 norm of the update that it would have sent, over the trained weights.
        silenced: largest share of its probes that a class lost, in [0, 1].
        before: its held-out utterances that the global model gets right.
        after: those that the model gets right with the update.
        held_out: utterances that it holds out.
    """

    norm: float
    silenced: float
    before: int
    after: int
    held_out: int

    @property
    def drop(self) -> float | None:
        """Accuracy lost on the client's held-out speech, in [-1, 1]; None where it holds out none."""
        return (self.before - self.after) / self.held_out if self.held_out else None

    def as_metrics(self) -> Mapping[str, float]:
        """Return what is sent: the server knows how many utterances the client holds out."""
        return {name: value for name, value in vars(self).items() if name != "held_out"}


def read_rehearsal(reply: RecordDict, held_out: int) -> Rehearsal:
    """Read the reply to "train.rehearse".

    Args:
        reply: its content.
        held_out: number of utterances that the client holds out.

    Raises:
        Refused: a number is out of range, or cannot be right for so many utterances.
    """
    metrics = Metrics("train.rehearse", reply)
    before, after = metrics.whole("before"), metrics.whole("after")
    if max(before, after) > held_out:
        raise Refused(f"{before} right before and {after} after, but it holds out {held_out}")
    return Rehearsal(metrics.real("norm"), metrics.real("silenced"), before, after, held_out)
