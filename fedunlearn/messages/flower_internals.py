"""All that this package uses of Flower beyond its public API, so that a new release can break one place only.

Flower's public modules are ``flwr.app``, ``flwr.clientapp``, ``flwr.serverapp`` and ``flwr.simulation``.
"""

import os
import sys
import time
from collections.abc import Callable

from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import recorddict_to_proto
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "answer_tasks",
    "is_from_superlink",
    "recorddict_to_proto",
    "set_message_id",
    "set_sender",
    "sign_as_simulation",
]


def sign_as_simulation() -> None:
    """Set the task identity that Flower signs every message of this process with.

    Flower's own simulation sets the same three values.
    """
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID


def set_message_id(message: Message, message_id: str) -> None:
    """Give a message its id, which Flower's runtime would set when the message is pushed."""
    message.metadata.__dict__["_message_id"] = message_id


def is_from_superlink(reply: Message) -> bool:
    """Tell whether a reply is the SuperLink's own, in place of a SuperNode that cannot be reached."""
    return bool(reply.has_error()) and reply.metadata.src_node_id == SUPERLINK_NODE_ID


def set_sender(reply: Message, node: int) -> None:
    """Let a reply of the SuperLink be from the node in whose place it was made."""
    reply.metadata.__dict__["_src_node_id"] = node


def answer_tasks(runtime_address: str, goes_on: Callable[[], bool], poll_seconds: float = 0.1) -> None:
    """Answer a SuperNode's messages, each in a process that is forked from this one.

    It stands in for Flower's SuperExec with ``flower-supernode --isolation process``. In the forked process
    this function ends the process and does not return.

    Args:
        runtime_address: host:port of the SuperNode's runtime API, on this machine.
        goes_on: whether the SuperNode is still there.
        poll_seconds: between two questions for a message.
    """
    # Imported here: only a device's own process talks to this API.
    import httpx
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.constant import TaskType
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.supernode.runtime.run_clientapp import run_clientapp

    client = RuntimeHttpClient.from_server_address(
        server_address=runtime_address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec")],
    )
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP], agentapp_fab_hashes=[])
    parent = os.getpid()
    while goes_on():
        try:
            answer = client.AcquireTask(request)
        except httpx.HTTPError:  # it is not ready yet, or not there any more
            answer = None
        if answer is None or not (answer.HasField("task") and answer.token):
            time.sleep(poll_seconds)
        elif child := os.fork():
            os.waitpid(child, 0)
        else:
            try:
                run_clientapp(
                    runtime_api_address=runtime_address,
                    token=answer.token,
                    insecure=True,
                    parent_pid=parent,
                    runtime_dependency_install=False,
                )
            finally:  # what the parent does at its end is not for this process
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)
