"""``fedunlearn deploy-local``: one experiment as a deployment on this machine."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fedunlearn import config as configuration
from fedunlearn.cli.exit_codes import run_command, stopped_as_interrupt
from fedunlearn.cli.options import ConfigOption, DataOption, SetOption, config_files, read_overrides
from fedunlearn.console import Screen, errors, say
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, BadInput

_PATIENCE = {"federation.retries": 3}
"""default of a deployment: a device that was killed or cut off is asked again, 10 s after it was missed"""


def deploy_local(
    config: ConfigOption = None,
    data: DataOption = None,
    clients: Annotated[int | None, typer.Option(help="Devices (partition.clients).")] = None,
    model: Annotated[str | None, typer.Option(help="Recogniser (model.name).")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all randomness.")] = None,
    set_: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make; default: runs/DATE-deployed.")] = None,
    devices: Annotated[
        Path | None, typer.Option(help="Folder for the devices' folders; default: OUT-devices.")
    ] = None,
    delete: Annotated[
        list[str] | None,
        typer.Option(metavar="CLIENT@STEP", help="A person deletes three recordings, such as 2@train."),
    ] = None,
    kill: Annotated[
        list[str] | None,
        typer.Option(metavar="CLIENT@STEP", help="SIGKILL a device and start it again, such as 3@unlearn."),
    ] = None,
    hosts: Annotated[
        bool, typer.Option("--hosts", help="Each SuperNode on a host of its own: network namespaces (root).")
    ] = False,
    cut: Annotated[
        list[str] | None,
        typer.Option(metavar="CLIENT@STEP", help="Cut a device's network, such as 3@unlearn; needs --hosts."),
    ] = None,
    cut_seconds: Annotated[float, typer.Option(help="Until a network that was cut is healed.")] = 20.0,
    memory: Annotated[
        int | None, typer.Option(help="Most MiB of each device, all its processes together (root).")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Most that one run may take.")] = 60.0,
    repeat: Annotated[int, typer.Option(help="Runs, one after the other; a folder each in OUT.")] = 1,
) -> None:
    """Deploy one experiment on this machine: a SuperLink with TLS, and a SuperNode for each device.

    Every SuperNode has a key of its own and a folder with its own speech. STEP is listen, train, evaluate,
    unlearn or purge; what happens to a device happens in the middle of that step.

    Exit codes: 0 every run is complete and every request was served once; 2 bad input; 3 otherwise.
    """
    named = {
        "corpus.path": str(data) if data else None,
        "partition.clients": clients,
        "model.name": model,
        "seed": seed,
    }

    def command() -> int:
        from fedunlearn.deployment.incidents import Incident
        from fedunlearn.deployment.local import DeploymentPlan

        incidents = [
            *(Incident.parse("delete", text) for text in delete or ()),
            *(Incident.parse("kill", text) for text in kill or ()),
            *(Incident.parse("cut", text) for text in cut or ()),
        ]
        if repeat < 1 or minutes <= 0 or cut_seconds <= 0 or (memory is not None and memory < 1):
            raise BadInput("--repeat, --minutes, --cut-seconds, --memory: give numbers above 0")
        overrides = _PATIENCE | read_overrides(set_, named)
        settings = configuration.load(config_files(config), overrides)
        plan = DeploymentPlan(hosts, memory, incidents, cut_seconds, minutes)
        folder = out or Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-deployed"
        if repeat == 1:
            beside = devices or folder.with_name(f"{folder.name}-devices")
            return _deploy(settings, folder, beside, plan)
        places = [folder / f"{number:02d}" for number in range(1, repeat + 1)]
        codes = [_deploy(settings, place, place.with_name(f"{place.name}-devices"), plan) for place in places]
        say(f"{codes.count(EXIT_OK)} of {repeat} runs are complete, with every request served once")
        return max(codes)

    raise SystemExit(run_command(command))


def _deploy(config: Any, out: Path, devices: Path, plan: Any) -> int:
    from fedunlearn.deployment.local import deploy, requests_not_served_once
    from fedunlearn.experiment.progress import Progress
    from fedunlearn.run_folder import RunFolder

    with stopped_as_interrupt(), Progress(errors) as progress:
        deployed = deploy(config, out, devices, plan, progress, say)
    problems = requests_not_served_once(RunFolder(out), deployed.requests)
    Screen().table(deployed.costs.table())
    say(f"Report: {RunFolder(out).report}")
    say(f"Devices: {devices}")
    results = deployed.results
    missed = [str(incident) for incident in plan.incidents if incident not in deployed.happened]
    _tell_failures([*problems, *(f"{text}: not in the middle of the step" for text in missed)])
    if results.status != "complete":
        errors.labelled(f"{results.status}:", "red", results.failure or "")
    return EXIT_OK if results.status == "complete" and not problems and not missed else EXIT_FAILED


def _tell_failures(lines: Sequence[str]) -> None:
    for line in lines:
        errors.labelled("failed:", "red", line)
