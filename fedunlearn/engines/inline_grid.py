"""Flower's Grid in one process, without Flower's runtime; messages and apps are Flower's own.

The runtime polls every node for messages in turn: 6 ms per message at 2,000 nodes, whatever it carries
(docs/scale.md). These grids have all messages at hand.
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
    """Base of the grids that have the whole federation at hand.

    Args:
        clients: how many nodes there are; node ids are 1 ... clients.
    """

    def __init__(self, clients: int) -> None:
        sign_as_simulation()
        self._nodes = list(range(1, clients + 1))

    def set_run(self, run: Any) -> None:
        """Do nothing: there is only one run."""

    @property
    def run(self) -> Any:
        """Nothing: there is only one run."""
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Refuse: deprecated by Flower in favour of the constructor of ``Message``."""
        raise RuntimeError("make messages with flwr.app.Message")

    def get_node_ids(self) -> Iterable[int]:
        """List the ids of all nodes."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Accept messages, which are answered in about this order; returns their ids."""
        named = {}
        for message in messages:
            name = str(uuid4())
            set_message_id(message, name)
            named[name] = message
        self._accept(named)
        return list(named)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages, then pull until all are answered."""
        waiting, replies = set(self.push_messages(messages)), list[Message]()
        while waiting:
            replies += (come := list(self.pull_messages(waiting)))
            waiting -= {reply.metadata.reply_to_message_id for reply in come}
        return replies

    @abstractmethod
    def _accept(self, messages: dict[str, Message]) -> None:
        """Accept messages (id -> message), to be answered when they are pulled, or before."""


class InlineGrid(LocalGrid):
    """A grid whose messages are answered in this process when their replies are pulled.

    Args:
        client_app: answers the messages.
        clients: how many.
    """

    def __init__(self, client_app: ClientApp, clients: int) -> None:
        super().__init__(clients)
        self._app = client_app
        self._unanswered: dict[str, Message] = {}
        self._states = {node: RecordDict() for node in self._nodes}

    def _accept(self, messages: dict[str, Message]) -> None:
        self._unanswered |= messages

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answer the first of these messages that is not answered yet, and return its reply."""
        wanted = set(message_ids)
        name = next((name for name in self._unanswered if name in wanted), None)
        if name is None:
            return []
        message = self._unanswered.pop(name)
        content, failure = run_app(self._app, message, self._states[message.metadata.dst_node_id])
        return [make_reply(message, content, failure)]


def run_app(app: ClientApp, message: Message, state: RecordDict) -> tuple[RecordDict | None, str]:
    """Run a node's app on a message.

    Args:
        app: the ClientApp.
        message: to the node.
        state: of the node, which the app may change.

    Returns:
        (content of the reply, ""), or (None, why it failed)
    """
    node = message.metadata.dst_node_id
    node_config: dict[str, bool | float | int | str] = {"partition-id": node - 1}
    context = Context(run_id=1, node_id=node, node_config=node_config, state=state, run_config={})
    try:
        reply = app(message, context)
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    return (None, reply.error.reason or "") if reply.has_error() else (reply.content, "")


def make_reply(message: Message, content: RecordDict | None, failure: str) -> Message:
    """Make the reply to a message: with this content, or with an error if there is none."""
    if content is None:
        return Message(Error(_CLIENT_FAILED, failure), reply_to=message)
    return Message(content, reply_to=message)
