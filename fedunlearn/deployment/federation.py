"""A SuperLink and SuperNodes as processes: TLS, a key for each SuperNode, and a folder for each device.

Every command is Flower's own, with its documented options; docs/deployment.md gives them for several
machines.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from fedunlearn.deployment.credentials import NodeKey, TlsFiles, make_node_key, make_tls_files
from fedunlearn.deployment.flower_programs import (
    CONNECTION,
    START_SECONDS,
    FlowerPrograms,
    last_error,
    on_host,
    program,
)
from fedunlearn.deployment.memory import MemoryGroup
from fedunlearn.deployment.network import Host, make_hosts
from fedunlearn.deployment.ports import free_ports
from fedunlearn.deployment.processes import ProcessSet
from fedunlearn.errors import RunFailed
from fedunlearn.experiment.device_folders import DeviceFolder
from fedunlearn.run_folder import RunFolder

_LOOPBACK = "127.0.0.1"
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""environment of a device, which computes in one thread"""


@dataclass
class SuperNode:
    """One device's SuperNode.

    Attributes:
        device: its folder.
        key: its key pair.
        port: of its own runtime API, on its own machine.
        host: where it runs; None = on this machine, as everything.
        memory: control group that limits its memory; None = no limit.
        process: that runs it; None = it is not started.
        log_start: place in its log where its last start begins.
    """

    device: DeviceFolder
    key: NodeKey
    port: int
    host: Host | None = None
    memory: MemoryGroup | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    log_start: int = 0


class Federation:
    """A SuperLink and one SuperNode for each device, started in this order by ``start``.

    Args:
        processes: that hold all of it.
        devices: the devices' folders.
        memory: most bytes of each device, all its processes together; None = no limit.
        several_hosts: whether each of them gets a network namespace of its own.

    Attributes:
        server: the SuperLink's host; None = this machine.
        nodes: the SuperNodes, in client order.
        tls: TLS files of the SuperLink.
    """

    def __init__(
        self,
        processes: ProcessSet,
        devices: Sequence[DeviceFolder],
        memory: int | None = None,
        several_hosts: bool = False,
    ) -> None:
        self._processes, folder = processes, processes.folder
        self._superlink: subprocess.Popen[bytes] | None = None
        ports = free_ports(1 + len(devices))
        self.server: Host | None = None
        hosts: Sequence[Host | None] = [None] * len(devices)
        if several_hosts:
            self.server, hosts = make_hosts(processes.mark, len(devices))
        self._host = self.server.address if self.server else _LOOPBACK
        self.address = f"{self._host}:{ports[0]}"
        self._port = ports[0]
        self.tls: TlsFiles = make_tls_files(folder, sorted({self._host, _LOOPBACK}))
        self.nodes = [
            SuperNode(
                device,
                make_node_key(folder, f"device-{device.client:04d}"),
                port,
                host,
                MemoryGroup.create(processes.mark, device.client, memory) if memory else None,
            )
            for device, port, host in zip(devices, ports[1:], hosts, strict=True)
        ]
        self._programs = FlowerPrograms(processes, self.server)
        self._programs.write_connection(self.address, self.tls.authority)

    @property
    def log(self) -> Path:
        """Output of the SuperLink and of the ServerApp."""
        return self._processes.folder / "superlink.log"

    @property
    def run_log(self) -> Path:
        """What ``flwr run`` says, with the output of the ServerApp."""
        return self._processes.folder / "run.log"

    def log_of(self, node: SuperNode) -> Path:
        """Return the output of a SuperNode and its ClientApp.

        Args:
            node: of the device.
        """
        return node.device.run.path / "supernode.log"

    # ---- starting --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the SuperLink, register every SuperNode's key, start the SuperNodes and wait for them.

        Raises:
            RunFailed: one of them does not start within ``START_SECONDS``.
        """
        tls = self.tls
        command = [
            program("flower-superlink"),
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
        ]
        command += [
            "--ssl-ca-certfile",
            str(tls.authority),
            "--ssl-certfile",
            str(tls.certificate),
            "--ssl-keyfile",
            str(tls.key),
        ]
        command += ["--host", self._host, "--port", str(self._port)]
        self._superlink = self._programs.start(on_host(self.server, command), self.log, "superlink")
        ready = b"Uvicorn running"
        self._wait_for(lambda: ready in self.log.read_bytes(), "the SuperLink does not start", self.log)
        for node in self.nodes:
            self.register(node.key)
        for node in self.nodes:
            self.start_node(node)
        for node in self.nodes:
            self.wait_for_node(node)

    def register(self, key: NodeKey) -> None:
        """Tell the SuperLink of a SuperNode's public key; without that, the SuperNode is refused.

        Args:
            key: of the SuperNode.
        """
        self._programs.run_flwr("supernode", "register", str(key.public), CONNECTION)

    def start_node(self, node: SuperNode) -> None:
        """Start a SuperNode, or start it again with the same key and folder.

        Args:
            node: that is not running.
        """
        device = node.device
        settings = f'partition-id={device.client} device="{device.run.path.resolve()}" experimenter=true'
        command = [sys.executable, "-m", "fedunlearn.client.supernode"]
        command += ["--superlink", self.address, "--port", str(node.port)]
        command += [
            "--root-certificates",
            str(self.tls.authority),
            "--auth-supernode-private-key",
            str(node.key.private),
        ]
        command += ["--node-config", settings]
        log = self.log_of(node)
        node.log_start = log.stat().st_size if log.exists() else 0
        words = on_host(node.host, command)
        # First the control group: another network namespace sees another /sys.
        words = node.memory.inside(words) if node.memory else words
        node.process = self._programs.start(words, log, f"device-{device.client:04d}", _ONE_THREAD)

    def wait_for_node(self, node: SuperNode) -> None:
        """Wait until a SuperNode is connected.

        Args:
            node: that was started.

        Raises:
            RunFailed: it is not within ``START_SECONDS``.
        """
        problem = f"the SuperNode of client {node.device.client} does not connect"
        self._wait_for(lambda: self.is_connected(node), problem, self.log_of(node), node.process)

    def is_connected(self, node: SuperNode) -> bool:
        """Tell whether a SuperNode has connected since it was last started.

        Args:
            node: that was started.
        """
        said = self.log_of(node).read_bytes()[node.log_start :]
        return b"SuperNode ID:" in said

    def kill_node(self, node: SuperNode) -> None:
        """Kill a SuperNode and everything that it has started, as if its machine had lost power.

        Args:
            node: that is running.
        """
        if node.process is not None:
            self._processes.kill(node.process)
            node.process = None

    def submit(self, run: RunFolder, config: Path, clients: int, devices: Path) -> subprocess.Popen[bytes]:
        """Submit the run; the process that is returned ends with it.

        Args:
            run: folder to make.
            config: of the experiment.
            clients: how many.
            devices: folder with the devices' folders.
        """
        settings = self._processes.folder / "run.toml"
        values = {"out": str(run.path.resolve()), "config": str(config.resolve()), "clients": clients}
        settings.write_text(tomli_w.dumps({**values, "deployed": True, "devices": str(devices.resolve())}))
        command = [program("flwr"), "run", str(self._programs.app), CONNECTION]
        command += ["--stream", "--run-config", str(settings)]
        return self._programs.start(on_host(self.server, command), self.run_log, "flwr")

    def check(self) -> None:
        """Check that the SuperLink is running.

        Raises:
            RunFailed: it is not.
        """
        if self._superlink is not None and self._superlink.poll() is not None:
            raise RunFailed(f"the SuperLink has ended with exit code {self._superlink.returncode}")

    def _wait_for(
        self,
        met: Callable[[], bool],
        problem: str,
        log: Path,
        process: subprocess.Popen[bytes] | None = None,
    ) -> None:
        end = time.monotonic() + START_SECONDS
        while not met():
            self.check()
            if time.monotonic() > end or (process is not None and process.poll() is not None):
                raise RunFailed(f"{problem} ({last_error(log)})")
            time.sleep(0.1)
