"""One machine as several hosts: Linux network namespaces with addresses of their own, which need root.

The SuperLink's host has a bridge; each device's host is connected to it by a virtual cable, whose end at the
bridge can be taken down and up again.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "fu"
_SUBNET = "10.213.7"
_FIRST = 10
_MOST = 200
_SECONDS = 10.0


@dataclass(frozen=True)
class Host:
    """A network namespace.

    Attributes:
        name: of the namespace.
        address: IPv4.
        link: device at the other end of its cable; empty = it is the SuperLink's host.
    """

    name: str
    address: str
    link: str = ""

    def inside(self, command: Sequence[str]) -> list[str]:
        """Make a command that runs on this host, with the same process id.

        Args:
            command: program and arguments.
        """
        return [_ip(), "netns", "exec", self.name, *command]


def why_no_hosts(devices: int) -> str:
    """Say why this machine cannot be several hosts; empty if it can.

    Args:
        devices: how many besides the SuperLink's.
    """
    if devices > _MOST:
        return f"at most {_MOST} devices fit into the network"
    if not _ip():
        return "the command ip (iproute2) is not installed"
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    name = f"{_PREFIX}-try-{os.getpid()}"
    tried = subprocess.run([_ip(), "netns", "add", name], capture_output=True, text=True, timeout=_SECONDS)
    if tried.returncode:
        return f"network namespaces cannot be made ({tried.stderr.strip().splitlines()[-1:]})"
    cable = subprocess.run(
        [_ip(), "-n", name, "link", "add", "name", "end1", "type", "veth", "peer", "name", "end2"],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    _run("netns", "del", name)
    return f"virtual cables cannot be made ({cable.stderr.strip()})" if cable.returncode else ""


def make_hosts(mark: str, devices: int) -> tuple[Host, list[Host]]:
    """Make the SuperLink's host and a host for each device, all connected.

    Args:
        mark: of the deployment, 8 characters.
        devices: how many.

    Returns:
        (the SuperLink's, the devices' in client order)
    """
    server = Host(f"{_PREFIX}-{mark}-s", f"{_SUBNET}.1")
    _run("netns", "add", server.name)
    _run("-n", server.name, "link", "set", "lo", "up")
    _run("-n", server.name, "link", "add", "name", "bridge", "type", "bridge")
    _run("-n", server.name, "address", "add", f"{server.address}/24", "dev", "bridge")
    _run("-n", server.name, "link", "set", "bridge", "up")
    hosts = []
    for client in range(devices):
        host = Host(f"{_PREFIX}-{mark}-{client}", f"{_SUBNET}.{_FIRST + client}", f"device{client}")
        _run("netns", "add", host.name)
        _run("-n", host.name, "link", "set", "lo", "up")
        cable = ("type", "veth", "peer", "name", "eth0", "netns", host.name)
        _run("-n", server.name, "link", "add", "name", host.link, *cable)
        _run("-n", server.name, "link", "set", host.link, "master", "bridge")
        _run("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
        _run("-n", host.name, "link", "set", "eth0", "up")
        _run("-n", server.name, "link", "set", host.link, "up")
        hosts.append(host)
    return server, hosts


def set_link(server: Host, host: Host, up: bool) -> None:
    """Take the cable of a device's host down, or up again.

    Args:
        server: the SuperLink's host.
        host: of the device.
        up: whether it is connected afterwards.
    """
    _run("-n", server.name, "link", "set", host.link, "up" if up else "down")


def bytes_on_link(server: Host, host: Host) -> tuple[int, int]:
    """Count the bytes that have passed the cable of a device's host: (to the device, from the device).

    Args:
        server: the SuperLink's host.
        host: of the device.
    """
    counters = f"/sys/class/net/{host.link}/statistics"
    both = server.inside(["cat", f"{counters}/tx_bytes", f"{counters}/rx_bytes"])
    found = subprocess.run(both, capture_output=True, text=True, timeout=_SECONDS, check=True)
    down, up = map(int, found.stdout.split())
    return down, up


def remove_hosts(mark: str) -> None:
    """Remove the hosts of a deployment, if it has any; their cables go with them.

    Args:
        mark: of the deployment.
    """
    for folder in (Path("/run/netns"), Path("/var/run/netns")):
        for place in folder.glob(f"{_PREFIX}-{mark}-*") if _ip() else ():
            with suppress(subprocess.SubprocessError, OSError):
                subprocess.run([_ip(), "netns", "del", place.name], capture_output=True, timeout=_SECONDS)


def _ip() -> str:
    return shutil.which("ip", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])) or ""


def _run(*arguments: str) -> None:
    done = subprocess.run([_ip(), *arguments], capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
