"""Flower's programs as processes of one deployment: environment, folders, connection, and the app."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from fedunlearn.console import plain
from fedunlearn.deployment.network import Host
from fedunlearn.deployment.processes import ProcessSet
from fedunlearn.errors import RunFailed

START_SECONDS = 60.0
"""s within which the SuperLink must answer, and a SuperNode must be connected"""
CONNECTION = "deployment"
"""name of the SuperLink in Flower's own configuration"""

APP: Mapping[str, Any] = {
    "project": {"name": "fedunlearn", "version": "0.1.0", "dependencies": ["flwr>=1.41"]},
    "tool": {
        "flwr": {
            "app": {
                "publisher": "fedunlearn",
                "components": {
                    "serverapp": "fedunlearn.flower_app:server_app",
                    "clientapp": "fedunlearn.client.app:client_app",
                },
                "config": {
                    "out": "",
                    "config": "",
                    "data": "",
                    "clients": 20,
                    "deployed": False,
                    "devices": "",
                },
            }
        }
    },
}
"""The app that is submitted: as in pyproject.toml, and no code, which each machine has installed."""


class FlowerPrograms:
    """Starts Flower's programs, each with a folder of its own for what Flower stores.

    Args:
        processes: of the deployment.
        host: where ``flwr`` runs; None = on this machine.

    Attributes:
        app: folder of the app that is submitted.
    """

    def __init__(self, processes: ProcessSet, host: Host | None) -> None:
        self._processes, self._host = processes, host
        self.app = processes.folder / "fedunlearn-app"
        self.app.mkdir()
        (self.app / "pyproject.toml").write_text(tomli_w.dumps(dict(APP)))

    def start(
        self, command: Sequence[str], log: Path, home: str, more: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program.

        Args:
            command: program and arguments.
            log: file that its output is appended to.
            home: name of its folder.
            more: variables of its environment.
        """
        return self._processes.start(command, log, self._variables(home) | dict(more or {}))

    def write_connection(self, address: str, authority: Path) -> None:
        """Write where the SuperLink is, and whose certificates are trusted, for ``flwr``.

        Args:
            address: host:port.
            authority: certificate of the authority.
        """
        self._variables("flwr")
        connection = {"address": address, "root-certificates": str(authority)}
        content = {"superlink": {"default": CONNECTION, CONNECTION: connection}}
        (self._processes.folder / "flwr.home" / "config.toml").write_text(tomli_w.dumps(content))

    def run_flwr(self, *arguments: str) -> None:
        """Run ``flwr`` to its end.

        Args:
            arguments: of the command.

        Raises:
            RunFailed: it reports no success.
        """
        done = subprocess.run(
            on_host(self._host, [program("flwr"), *arguments, "--format", "json"]),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            env={**os.environ, **self._variables("flwr")},
        )
        try:
            answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
        except ValueError:
            answer = {}
        if not answer.get("success"):
            said = (done.stdout + done.stderr).strip().splitlines()
            raise RunFailed(f"flwr {' '.join(arguments[:2])}: {said[-1] if said else 'failed'}")

    def _variables(self, home: str) -> dict[str, str]:
        folder = self._processes.folder / f"{home}.home"
        folder.mkdir(mode=0o700, exist_ok=True)
        binaries = str(Path(sys.executable).parent)
        return {
            "FLWR_HOME": str(folder),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
            # Flower starts its other programs by name.
            "PATH": os.pathsep.join([binaries, os.environ.get("PATH", "")]),
            # The same code as here, also where it is not installed.
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")])
            ),
            "TMPDIR": str(folder),
        }


def on_host(host: Host | None, command: Sequence[str]) -> list[str]:
    """Make a command that runs on a host.

    Args:
        host: None = this machine.
        command: program and arguments.
    """
    return host.inside(command) if host else [*command]


def program(name: str) -> str:
    """Return the path of a program that is installed beside this Python.

    Args:
        name: such as "flwr".
    """
    return str(Path(sys.executable).with_name(name))


def last_error(log: Path) -> str:
    """Return the last line of a log that names an error, or its last line.

    Args:
        log: that some process writes.
    """
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line or "[code:" in line]
    return plain((errors or lines or ["it says nothing"])[-1])
