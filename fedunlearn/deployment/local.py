"""One experiment as a deployment on this machine, from its settings to its page."""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedunlearn.config import Config
from fedunlearn.deletion.receipts import receipt_of
from fedunlearn.deletion.request import RequestState
from fedunlearn.deployment.costs import DeviceCosts, DeviceTotals, event_costs, unanswered
from fedunlearn.deployment.federation import Federation, SuperNode
from fedunlearn.deployment.flower_programs import START_SECONDS, last_error
from fedunlearn.deployment.incidents import Incident, StepWatch, delete_some
from fedunlearn.deployment.memory import why_no_limit
from fedunlearn.deployment.network import bytes_on_link, set_link, why_no_hosts
from fedunlearn.deployment.processes import ProcessSet
from fedunlearn.errors import BadInput, Interrupted, RunFailed
from fedunlearn.experiment.device_folders import (
    DeviceFolder,
    fill_device_folders,
    hand_back_receipts,
)
from fedunlearn.experiment.preparation import check, resolve
from fedunlearn.experiment.progress import Progress
from fedunlearn.ledger import LedgerReader
from fedunlearn.results_schema import Results
from fedunlearn.run_folder import RunFolder

_POLL_SECONDS = 0.003
"""An unlearn step of a small model takes a tenth of a second, in the middle of which a device is killed."""
_RESTART_SECONDS = 5.0
_LOG = "deployment.log"
_NOT_SERVED = {RequestState.REFUSED, RequestState.WITHDRAWN}


@dataclass(frozen=True)
class DeploymentPlan:
    """How an experiment is deployed, and what happens meanwhile.

    Attributes:
        several_hosts: whether each SuperNode gets a network namespace of its own (root).
        memory: most MiB of each device (root); None = no limit.
        incidents: what happens to devices.
        cut_seconds: how long a cable is down.
        minutes: most that the run may take.
    """

    several_hosts: bool = False
    memory: int | None = None
    incidents: Sequence[Incident] = ()
    cut_seconds: float = 20.0
    minutes: float = 60.0


@dataclass
class Deployed:
    """A deployed run that has ended.

    Attributes:
        results: of the run.
        costs: what devices paid.
        happened: incidents that happened in the middle of their step.
        requests: ids of requests that people filed meanwhile.
    """

    results: Results
    costs: DeviceCosts
    happened: list[Incident] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def deploy(
    config: Config,
    out: Path,
    devices: Path,
    plan: DeploymentPlan,
    progress: Progress,
    tell: Callable[[str], None],
) -> Deployed:
    """Deploy an experiment on this machine and wait for its end. Nothing is left of it but two folders.

    Args:
        config: validated.
        out: folder of the run, the experimenter's; to be made.
        devices: folder for the devices' folders; to be made.
        plan: how, and what happens meanwhile.
        progress: shown while speech is decoded.
        tell: is given a line for each thing that happens.

    Raises:
        BadInput: settings, plan, corpus or folders will not do; nothing was started.
        RunFailed: the run could not be completed.
        Interrupted: it was interrupted, or took too long.
    """
    config = resolve(config)
    check(config, out, out.parent / "references")
    clients = config.partition.client_count
    _check_plan(plan, clients, devices)
    folders = fill_device_folders(config, devices, progress)
    try:
        run = _Deployment(config, RunFolder(out), folders, plan, tell)
        return run.play(devices)
    finally:
        if not out.exists():  # nothing was learned
            shutil.rmtree(devices, ignore_errors=True)


def _check_plan(plan: DeploymentPlan, clients: int, devices: Path) -> None:
    problems = [
        f"--{i.what} {i.client}@{i.step}: the clients are 0 to {clients - 1}"
        for i in plan.incidents
        if i.client >= clients
    ]
    if any(i.what == "cut" for i in plan.incidents) and not plan.several_hosts:
        problems.append("--cut: needs --hosts: on one host there is no cable to cut")
    if plan.several_hosts and (reason := why_no_hosts(clients)):
        problems.append(f"--hosts: {reason}")
    if plan.memory is not None and (reason := why_no_limit()):
        problems.append(f"--memory {plan.memory}: {reason}")
    if devices.exists() and (not devices.is_dir() or any(devices.iterdir())):
        problems.append(f"--devices {devices}: is not an empty folder; name another, or remove it first")
    if problems:
        raise BadInput(problems)


class _Deployment:
    """One deployed run."""

    def __init__(
        self,
        config: Config,
        run: RunFolder,
        devices: Sequence[DeviceFolder],
        plan: DeploymentPlan,
        tell: Callable[[str], None],
    ) -> None:
        self._config, self._run, self._devices = config, run, devices
        self._plan, self._tell = plan, tell
        self._happened: list[Incident] = []
        self._requests: list[str] = []
        self._heal: dict[int, float] = {}
        self._start_at: dict[int, float] = {}

    def play(self, parent: Path) -> Deployed:
        """Start everything, submit the run, wait for its end, end everything."""
        plan, count = self._plan, len(self._devices)
        folder = Path(tempfile.mkdtemp(prefix="fedunlearn-"))
        processes = ProcessSet(folder)
        try:
            memory = None if plan.memory is None else plan.memory << 20
            federation = Federation(processes, self._devices, memory, plan.several_hosts)
            federation.start()
            where = "each on a host of its own" if plan.several_hosts else "on this machine"
            self._tell(f"SuperLink at {federation.address} (TLS, keys); {count} SuperNodes, {where}")
            settings = folder / "experiment.toml"
            settings.write_text(self._config.to_toml())
            submitted = federation.submit(self._run, settings, count, parent)
            self._wait(federation, submitted.poll)
            costs = DeviceCosts(
                event_costs(self._devices), [_totals(federation, n) for n in federation.nodes]
            )
            if not self._run.results.exists():
                raise RunFailed(f"the ServerApp ended without results: {last_error(federation.run_log)}")
        except KeyboardInterrupt:
            raise Interrupted(
                "the deployment was interrupted; what the run found until then is in its folder"
            ) from None
        finally:
            self._keep_log(folder)
            processes.close()
        hand_back_receipts(self._run, {device.client: device for device in self._devices})
        costs.write(self._run.path)
        return Deployed(Results.read(self._run.path), costs, self._happened, self._requests)

    def _wait(self, federation: Federation, ended: Callable[[], int | None]) -> None:
        armed = [(i, StepWatch(self._devices[i.client], i.step)) for i in self._plan.incidents]
        deadline = time.monotonic() + 60 * self._plan.minutes
        while ended() is None:
            if time.monotonic() > deadline:
                raise Interrupted(f"the run took longer than {self._plan.minutes:g} minutes; it was ended")
            federation.check()
            for incident, watch in [*armed]:
                if watch.begun():
                    armed.remove((incident, watch))
                    self._let_happen(federation, incident, watch)
            for client, when in [*self._heal.items()]:
                if time.monotonic() > when:
                    del self._heal[client]
                    self._connect(federation, federation.nodes[client], up=True)
                    self._tell(f"client {client}: its cable is connected again")
            self._keep_running(federation)
            time.sleep(_POLL_SECONDS if armed else 0.1)
        for incident, _ in armed:
            self._tell(f"{incident}: did not happen, the device had no such step")

    def _let_happen(self, federation: Federation, incident: Incident, watch: StepWatch) -> None:
        node = federation.nodes[incident.client]
        if incident.what == "delete":
            self._requests.append(request := delete_some(node.device.vault))
            self._happened.append(incident)
            self._tell(f"client {incident.client}: a person files request {request}")
            return
        if incident.what == "cut":
            self._connect(federation, node, up=False)
            self._heal[incident.client] = time.monotonic() + self._plan.cut_seconds
        else:
            federation.kill_node(node)
        middle = watch.unfinished()
        if middle:
            self._happened.append(incident)
        where = "in the middle of" if middle else "AFTER"
        done = "its cable is cut" if incident.what == "cut" else "killed"
        self._tell(f"client {incident.client}: {done} {where} its step {incident.step!r}")
        if incident.what == "kill":
            self._start_at[incident.client] = time.monotonic() + _RESTART_SECONDS

    def _keep_running(self, federation: Federation) -> None:
        """Start SuperNodes that have ended again, as a service manager does.

        After a kill -9 the SuperLink takes a SuperNode for connected until it has missed two heartbeats (a
        minute), and refuses a second one with the same key until then.
        """
        for node in federation.nodes:
            client, ended = node.device.client, node.process is None or node.process.poll() is not None
            if client not in self._start_at and ended:
                self._start_at[client] = time.monotonic() + _RESTART_SECONDS
            elif client in self._start_at and ended and time.monotonic() > self._start_at[client]:
                federation.kill_node(node)  # what it may have left
                federation.start_node(node)
                self._start_at[client] = time.monotonic() + _RESTART_SECONDS
            elif client in self._start_at and time.monotonic() > self._start_at[client] + START_SECONDS:
                federation.kill_node(node)  # it was refused, but has not ended
            elif client in self._start_at and not ended and federation.is_connected(node):
                del self._start_at[client]
                self._tell(f"client {client}: its SuperNode is connected again")

    def _connect(self, federation: Federation, node: SuperNode, up: bool) -> None:
        if federation.server is not None and node.host is not None:
            set_link(federation.server, node.host, up)

    def _keep_log(self, folder: Path) -> None:
        log = folder / "superlink.log"
        if self._run.path.is_dir() and log.exists():
            shutil.copyfile(log, self._run.path / _LOG)


def _totals(federation: Federation, node: SuperNode) -> DeviceTotals:
    down, up = (
        bytes_on_link(federation.server, node.host) if federation.server and node.host else (None, None)
    )
    peak = node.memory.peak if node.memory else None
    return DeviceTotals(node.device.client, peak, down, up, unanswered(node.device))


def requests_not_served_once(run: RunFolder, filed: Sequence[str] = ()) -> list[str]:
    """List what is wrong with a run's requests: one line for each that was lost, or served twice.

    By the ledger, each request on each device was applied at most once and verified once, and each has a
    receipt; requests that a device refused, or that were withdrawn, are left out.

    Args:
        run: folder of a run that has ended.
        filed: ids of requests that people filed meanwhile, all of which the run must know.
    """
    results, problems = Results.read(run.path), []
    known = {request.id for request in results.requests}
    problems += [f"request {request}: the run does not know it" for request in filed if request not in known]
    with LedgerReader(run.ledger) as ledger:
        for request in results.requests:
            if request.id is None or request.client is None or request.state in _NOT_SERVED:
                continue
            states = ledger.states(request.id, request.client)
            once = states.count("verified") == 1 and states.count("applied") <= 1
            if not once or not receipt_of(run.vault(request.client), request.id).exists():
                problems.append(f"request {request.id} of client {request.client}: {', '.join(states)}")
    return problems
