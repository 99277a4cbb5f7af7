"""All that this package uses of Flower beyond its public API, so that a new release can break one place only.

Flower's public modules are ``flwr.app``, ``flwr.clientapp``, ``flwr.serverapp`` and ``flwr.simulation``.
"""

from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import recorddict_to_proto
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["recorddict_to_proto", "set_message_id", "sign_as_simulation"]


def sign_as_simulation() -> None:
    """Set the task identity that Flower signs every message of this process with.

    Flower's own simulation sets the same three values.
    """
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID


def set_message_id(message: Message, message_id: str) -> None:
    """Give a message its id, which Flower's runtime would set when the message is pushed."""
    message.metadata.__dict__["_message_id"] = message_id
