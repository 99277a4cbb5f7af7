"""Whole runs as deployments: a SuperLink with TLS and keys, a SuperNode for each device; a minute each."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console
from small_run import run_small, small_config, weights_of, without_times

from fedunlearn.client.costs import COSTS
from fedunlearn.config import Config
from fedunlearn.deletion.receipts import receipt_of
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.deployment.credentials import make_node_key
from fedunlearn.deployment.federation import Federation
from fedunlearn.deployment.flower_programs import APP
from fedunlearn.deployment.incidents import Incident
from fedunlearn.deployment.local import Deployed, DeploymentPlan, deploy, requests_not_served_once
from fedunlearn.deployment.memory import why_no_limit
from fedunlearn.deployment.network import why_no_hosts
from fedunlearn.deployment.ports import free_ports
from fedunlearn.deployment.processes import ProcessSet
from fedunlearn.experiment.device_folders import device_folder, fill_device_folders
from fedunlearn.experiment.preparation import resolve
from fedunlearn.experiment.progress import Progress
from fedunlearn.run_folder import RunFolder

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
QUIET = Console(quiet=True)


def three_devices(**overrides: Any) -> Config:
    """One device deletes when learning has ended."""
    schedule = [{"client": 2, "what": "some", "count": 4, "after_learning": 0}]
    return small_config(
        **{
            "partition__clients": 3,
            "training__rounds": 2,
            "deletions__schedule": schedule,
            "federation__retries": 3,
            **overrides,
        }
    )


def deployed(tmp_path: Path, config: Config, *incidents: Incident, **plan: Any) -> Deployed:
    lines: list[str] = []
    done = deploy(
        config,
        tmp_path / "out",
        tmp_path / "devices",
        DeploymentPlan(incidents=incidents, **plan),
        Progress(QUIET),
        lines.append,
    )
    assert done.happened == [*incidents], lines
    assert done.results.status == "complete", done.results.failure
    assert requests_not_served_once(RunFolder(tmp_path / "out"), done.requests) == []
    return done


def without_faults(results: dict[str, Any]) -> str:
    return without_times({**results, "faults": [], "traces": None})


def as_simulated(tmp_path: Path, config: Config) -> dict[str, Any]:
    return run_small(tmp_path / "simulated", config)


def test_a_deployment_gives_the_results_of_a_simulation_bit_for_bit(tmp_path: Path) -> None:
    config = three_devices()
    done = deployed(tmp_path, config)
    assert without_faults(done.results.to_json()) == without_faults(as_simulated(tmp_path, config))
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "simulated")
    assert done.results.faults == []
    assert (tmp_path / "out" / "report.html").exists()
    # The device has its completed receipt, and nothing left of the request's contents.
    (request,) = done.results.requests
    device, run = device_folder(tmp_path / "devices", 2), RunFolder(tmp_path / "out")
    assert request.id is not None
    assert (
        receipt_of(device.vault, request.id).read_bytes() == receipt_of(run.vault(2), request.id).read_bytes()
    )
    assert RequestStore(device.vault).all()[0].utterances == ()
    # The experimenter's folder has no speech.
    assert not list(run.vaults.rglob("*.i16"))


def test_a_device_that_is_killed_while_it_unlearns_is_asked_again_and_serves_once(tmp_path: Path) -> None:
    """Beside it another person deletes while the model is trained."""
    config = three_devices()
    done = deployed(tmp_path, config, Incident("delete", 1, "train"), Incident("kill", 2, "unlearn"))
    assert {request.client for request in done.results.requests} == {1, 2}
    reasons = [fault.reason for fault in done.results.faults if fault.client == 2]
    assert "its process died and was started again" in reasons
    assert len(reasons) <= 4
    assert done.costs.devices[2].unanswered == 1


@pytest.mark.skipif(bool(why_no_hosts(3)), reason=why_no_hosts(3) or "-")
def test_a_cable_that_is_cut_in_the_middle_of_an_unlearn_round_changes_nothing(tmp_path: Path) -> None:
    """Each SuperNode has an address of its own; the reply waits until the cable is connected again."""
    config = three_devices()
    cut = Incident("cut", 2, "unlearn")
    done = deployed(tmp_path, config, cut, several_hosts=True, cut_seconds=15.0)
    assert without_faults(done.results.to_json()) == without_faults(as_simulated(tmp_path, config))
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "simulated")
    assert all((device.wire_up or 0) > 10_000 for device in done.costs.devices)


@pytest.mark.skipif(bool(why_no_limit()), reason=why_no_limit() or "-")
@pytest.mark.parametrize(("model", "memory"), [("functionals", 512), ("small", 640)])
def test_a_device_with_little_memory_trains_and_unlearns(tmp_path: Path, model: str, memory: int) -> None:
    """All its processes together, in one thread; with a torch for CUDA, 270 MiB are its import alone."""
    small = {"model__name": model, "training__rounds": 1, "unlearning__calm__max_steps": 2}
    schedule = [{"client": 1, "what": "some", "count": 4, "after_learning": 0}]
    config = three_devices(**small, partition__clients=2, deletions__schedule=schedule)
    done = deployed(tmp_path, config, memory=memory)
    assert all((device.peak_memory or 0) <= memory << 20 for device in done.costs.devices)
    assert {"train", "train.unlearn", "query.purge"} <= done.costs.events.keys()


# ---- who is refused --------------------------------------------------------------------------------------


def is_refused(log: Path) -> bool:
    return "Failed to initialize the connection" in log.read_text()


def test_an_unknown_key_and_a_plain_text_connection_are_refused(tmp_path: Path) -> None:
    config = resolve(three_devices())
    folders = fill_device_folders(config, tmp_path / "devices", Progress(QUIET))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    processes = ProcessSet(temporary)
    try:
        federation = Federation(processes, folders[:1])
        federation.start()
        ports = free_ports(3)
        stranger = make_node_key(temporary, "stranger")
        tls = ["--root-certificates", str(federation.tls.authority)]
        logs = [tmp_path / f"{name}.log" for name in ("stranger", "keyless", "plain")]
        options = [
            [*tls, "--auth-supernode-private-key", str(stranger.private), "--isolation", "process"],
            [*tls, "--isolation", "process"],
            ["--insecure", "--max-retries", "1", "--isolation", "process"],
        ]
        variables = {"FLWR_HOME": str(temporary), "FLWR_TELEMETRY_ENABLED": "0"}
        program = str(Path(sys.executable).with_name("flower-supernode"))
        started = [
            processes.start(
                [program, "--superlink", federation.address, "--port", str(port), *more], log, variables
            )
            for port, log, more in zip(ports, logs, options, strict=True)
        ]
        assert all(process.pid for process in started)
        end = time.monotonic() + 60
        while not all(map(is_refused, logs)) and time.monotonic() < end:
            time.sleep(0.5)
        said = [log.read_text() for log in logs]
    finally:
        processes.close()
    assert ["Failed to activate SuperNode" in text for text in said] == [True, False, False]
    assert not any("SuperNode ID" in text for text in said)
    assert all(map(is_refused, logs))
    assert not temporary.exists()


# ---- nothing is left -------------------------------------------------------------------------------------


def deployments(place: Path) -> list[int]:
    """Processes of Flower whose certificates or state are in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if ("flower-super" in command or "client.supernode" in command) and str(place) in command:
            found.append(process.pid)
    return found


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_command_that_is_stopped(tmp_path: Path, stop: signal.Signals) -> None:
    (tmp_path / "c.toml").write_text(three_devices().to_toml())
    command = subprocess.Popen(
        [
            sys.executable,
            "simulations/deploy_local.py",
            "--config",
            tmp_path / "c.toml",
            "--out",
            tmp_path / "out",
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )
    devices = tmp_path / "out-devices"
    end = time.monotonic() + 120
    while not (devices / "device-0001" / COSTS).exists() and time.monotonic() < end:
        time.sleep(0.2)
    ours = set(deployments(tmp_path))
    assert ours
    command.send_signal(stop)
    _, said = command.communicate(timeout=60)
    end = time.monotonic() + 30
    while (deployments(tmp_path) or list(tmp_path.glob("fedunlearn-*"))) and time.monotonic() < end:
        time.sleep(0.2)  # after SIGKILL the watcher ends the processes first, and then removes the folder
    assert not deployments(tmp_path)
    assert not list(tmp_path.glob("fedunlearn-*"))
    if stop == signal.SIGINT:
        assert command.returncode == 3
        assert "interrupted" in said


# ---- flwr run --------------------------------------------------------------------------------------------


def test_the_app_that_is_submitted_is_that_of_pyproject() -> None:
    import tomllib

    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())
    app, submitted = ours["tool"]["flwr"]["app"], APP["tool"]["flwr"]["app"]
    assert {key: app[key] for key in submitted} == submitted


def test_flwr_run_gives_the_results_of_a_run_and_its_page(tmp_path: Path) -> None:
    """Of the same settings, on Flower's own simulation, from the folder of the project."""
    config = three_devices()
    (tmp_path / "c.toml").write_text(config.to_toml())
    ports = free_ports(2)
    binaries = str(Path(sys.executable).parent)
    variables = {
        **os.environ,
        "FLWR_HOME": str(tmp_path / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_ADDRESS": "local",  # not one that somebody else has started
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(ports[0]),
        "FLWR_LOCAL_CONTROL_API_PORT": str(ports[1]),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": os.pathsep.join([binaries, os.environ["PATH"]]),
    }
    settings = f'out="{tmp_path / "out"}" config="{tmp_path / "c.toml"}" clients=3'
    try:
        subprocess.run(
            [
                str(Path(binaries) / "flwr"),
                "run",
                ".",
                "--stream",
                "--run-config",
                settings,
                "--federation-config",
                "num-supernodes=3 client-resources-num-cpus=1",
            ],
            cwd=ROOT,
            env=variables,
            timeout=400,
            capture_output=True,
        )
    finally:
        for process in map(psutil.Process, deployments(tmp_path)):
            process.terminate()
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert without_faults(results) == without_faults(as_simulated(tmp_path, config))
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "simulated")
    assert "<html" in (tmp_path / "out" / "report.html").read_text()
