"""Flower's Grid on this machine, without Flower's runtime: the messages and the apps are Flower's own.

The runtime looks for a message at every node in turn and polls between: 6 ms a message at 2,000 nodes,
whatever is in it (docs/scale.md). A grid here knows at once what there is to do.
"""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedunlearn.messages.flower_internals import set_message_id, sign_as_simulation

_CLIENT_FAILED = 3


class LocalGrid(Grid):
    """What every grid does that has the whole federation at hand.

    Args:
        clients: how many nodes there are; node ids are 1 ... clients.
    """

    def __init__(self, clients: int) -> None:
        sign_as_simulation()
        self._nodes = list(range(1, clients + 1))

    def set_run(self, run: Any) -> None:
        """There is one run only."""

    @property
    def run(self) -> Any:
        """There is one run only."""
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Deprecated upstream; messages are made by their own constructor."""
        raise RuntimeError("make messages with flwr.app.Message")

    def get_node_ids(self) -> Iterable[int]:
        """All nodes."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages, to be answered in this order or nearly so; their ids."""
        named = {}
        for message in messages:
            name = str(uuid4())
            set_message_id(message, name)
            named[name] = message
        self._take(named)
        return list(named)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, then pull until all are answered."""
        waiting, replies = set(self.push_messages(messages)), list[Message]()
        while waiting:
            replies += (come := list(self.pull_messages(waiting)))
            waiting -= {reply.metadata.reply_to_message_id for reply in come}
        return replies

    @abstractmethod
    def _take(self, messages: dict[str, Message]) -> None:
        """Messages by their ids, to be answered when they are pulled or before."""


class InlineGrid(LocalGrid):
    """Every message is answered in this process when its reply is pulled.

    Args:
        client_app: answers.
        clients: how many.
    """

    def __init__(self, client_app: ClientApp, clients: int) -> None:
        super().__init__(clients)
        self._app = client_app
        self._unanswered: dict[str, Message] = {}
        self._states = {node: RecordDict() for node in self._nodes}

    def _take(self, messages: dict[str, Message]) -> None:
        self._unanswered |= messages

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answer the first of these messages that has no answer yet: nobody's reply waits for another's."""
        wanted = set(message_ids)
        name = next((name for name in self._unanswered if name in wanted), None)
        if name is None:
            return []
        message = self._unanswered.pop(name)
        content, failure = answered(self._app, message, self._states[message.metadata.dst_node_id])
        return [reply_to(message, content, failure)]


def answered(app: ClientApp, message: Message, state: RecordDict) -> tuple[RecordDict | None, str]:
    """What a node's app says to a message.

    Args:
        state: the node's, which the app may change.

    Returns:
        (content, "") or, where it failed, (None, why)
    """
    node = message.metadata.dst_node_id
    node_config: dict[str, bool | float | int | str] = {"partition-id": node - 1}
    context = Context(run_id=1, node_id=node, node_config=node_config, state=state, run_config={})
    try:
        reply = app(message, context)
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    return (None, reply.error.reason or "") if reply.has_error() else (reply.content, "")


def reply_to(message: Message, content: RecordDict | None, failure: str) -> Message:
    """The reply with this content, or that says that it failed."""
    if content is None:
        return Message(Error(_CLIENT_FAILED, failure), reply_to=message)
    return Message(content, reply_to=message)
