"""A device as one command: ``python -m fedunlearn.client.supernode OPTIONS``, those of ``flower-supernode``.

Flower's own way to answer a message is a new interpreter, which imports torch each time: seconds and hundreds
of megabytes for a message that takes milliseconds. This process starts Flower's SuperNode, imports once, and
forks for each message (``flower-supernode --isolation process``). Both end together.
"""

import gc
import re
import signal
import subprocess
import sys
from pathlib import Path

import torch

from fedunlearn.messages.flower_internals import answer_tasks

_DEFAULT_PORT = "9094"
_END_SECONDS = 5.0
_FOLDER, _CLIENT = re.compile(r'\bdevice="([^"]+)"'), re.compile(r"\bpartition-id=(\d+)")
"""in the node config"""


def serve(options: list[str]) -> int:
    """Start a SuperNode and answer its messages until it ends.

    Args:
        options: of ``flower-supernode``, without ``--isolation``.

    Returns:
        the exit code of the SuperNode
    """
    command = [str(Path(sys.executable).with_name("flower-supernode")), *options, "--isolation", "process"]
    port = options[options.index("--port") + 1] if "--port" in options else _DEFAULT_PORT
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    supernode = subprocess.Popen(command)
    try:
        torch.set_num_threads(1)
        _warm_up(options)
        gc.freeze()  # a forked process shares this memory as long as nobody writes to it
        answer_tasks(f"127.0.0.1:{port}", lambda: supernode.poll() is None)
    except KeyboardInterrupt:
        pass
    finally:
        supernode.terminate()
        try:
            supernode.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            supernode.kill()
    return supernode.wait()


def _warm_up(options: list[str]) -> None:
    """Import and build what no message should have to; without a device's folder, import only."""
    import fedunlearn.client.app  # noqa: F401
    from fedunlearn.client.device import build_shared_model
    from fedunlearn.run_folder import RunFolder

    settings = options[options.index("--node-config") + 1] if "--node-config" in options else ""
    folder, client = _FOLDER.search(settings), _CLIENT.search(settings)
    if folder and client and (Path(folder[1]) / "config.toml").exists():
        build_shared_model(RunFolder(Path(folder[1])), int(client[1]))


if __name__ == "__main__":
    raise SystemExit(serve(sys.argv[1:]))
