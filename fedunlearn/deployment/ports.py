"""Free TCP ports."""

import socket
from contextlib import ExitStack


def free_ports(count: int) -> list[int]:
    """Find different TCP ports of 127.0.0.1 that no process listens on at the moment.

    Args:
        count: how many.
    """
    with ExitStack() as stack:
        ports = []
        for _ in range(count):
            listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.bind(("127.0.0.1", 0))
            ports.append(int(listener.getsockname()[1]))
        return ports
