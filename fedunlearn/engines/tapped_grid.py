"""A grid in one process whose models can be watched, and replaced, on their way to the devices."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from fedunlearn.blockwise import StateDict
from fedunlearn.client.app import make_client_app
from fedunlearn.engines.inline_grid import InlineGrid
from fedunlearn.experiment.experiment import Experiment, MakeServer
from fedunlearn.messages.records import MessageConfig, borrow, lend


@dataclass(frozen=True)
class SentModel:
    """A model on its way to a device.

    Attributes:
        client: the receiver.
        kind: of the message, such as "train".
        round: that the message names; -1 = none.
        phase: that the message names; empty = none.
        weights: of the model; not to be changed.
    """

    client: int
    kind: str
    round: int
    phase: str
    weights: StateDict


class Tap(Protocol):
    """Sees every model before its device does."""

    def pass_on(self, sent: SentModel) -> StateDict:
        """Return the weights that the device gets.

        Args:
            sent: by the server.
        """
        ...


class TappedGrid(InlineGrid):
    """An inline grid with a tap.

    Args:
        client_app: answers the messages.
        clients: how many.
        tap: sees, and may replace, the models in them.
    """

    def __init__(self, client_app: ClientApp, clients: int, tap: Tap) -> None:
        super().__init__(client_app, clients)
        self._tap = tap

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Accept messages, as the tap lets them pass; returns their ids.

        Args:
            messages: of the server.
        """
        borrowed: dict[int, StateDict] = {}
        return super().push_messages([self._tapped(message, borrowed) for message in messages])

    def _tapped(self, message: Message, borrowed: dict[int, StateDict]) -> Message:
        content, metadata = message.content, message.metadata
        record = content.array_records.get("weights")
        if record is None:
            return message
        weights = borrowed.setdefault(id(record), borrow(record))
        settings, about = content.config_records["settings"], MessageConfig(content)
        sent = SentModel(
            metadata.dst_node_id - 1,
            metadata.message_type,
            about.integer("round") if "round" in settings else -1,
            about.text("phase") if "phase" in settings else "",
            weights,
        )
        passed_on = self._tap.pass_on(sent)
        if passed_on is weights:
            return message
        replaced = RecordDict({**content, "weights": lend(passed_on)})
        return Message(replaced, dst_node_id=metadata.dst_node_id, message_type=metadata.message_type)


def play_tapped(experiment: Experiment, make_server: MakeServer, tap: Tap) -> None:
    """Play a prepared experiment in this process with a server and a tap; its results are set afterwards.

    Args:
        experiment: prepared.
        make_server: makes the server.
        tap: on the way to the devices.

    Raises:
        RunFailed: it could not be completed.
    """
    clients = len(experiment.partition.clients)
    try:
        app = make_client_app(str(experiment.run.path.resolve()))
        experiment.conduct(TappedGrid(app, clients, tap), make=make_server)
    finally:
        experiment.stop.set()
        experiment.close()
