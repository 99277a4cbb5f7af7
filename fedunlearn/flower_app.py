"""The ServerApp for ``flwr run``; ``python simulations/run.py`` does not use this module.

The ClientApp is ``client.app.client_app``: a device imports no server and no judge.

Flower ships no code of this package: the SuperLink and every SuperNode import what is installed there.

Run config (``--run-config 'out="/abs/path" clients=20'``):
    out       absolute path that does not exist yet
    config    TOML file or preset; empty = generated speech
    data      folder of the corpus
    clients   number of nodes of the federation
    deployed  whether each device has a folder of its own, which its node config names; otherwise all nodes
              must have access to ``out``
    devices   of a deployment on one machine: folder with the devices' folders, which is searched at the end

Node config of a SuperNode (``--node-config 'partition-id=3 device="/abs/path"'``):
    partition-id  number of the client
    device        the device's folder, as ``fedunlearn deploy-local`` makes it
    experimenter  whether the device shows the experimenter the metadata of its vault, with every reply
"""

from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedunlearn import config as configuration
from fedunlearn.config.presets import find_config
from fedunlearn.console import errors
from fedunlearn.engines.deployment_grid import DeploymentGrid
from fedunlearn.engines.engine import conduct_with
from fedunlearn.errors import BadInput, RunFailed
from fedunlearn.experiment.experiment import Experiment
from fedunlearn.experiment.final_search import EngineStorage
from fedunlearn.experiment.preparation import prepare
from fedunlearn.experiment.progress import Progress
from fedunlearn.results_schema import Results
from fedunlearn.vault.relocation import mark_as_moved
from fedunlearn.whole_run import play_to_the_page

server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Prepare the experiment in the folder that the run config names, conduct it, and draw its page.

    Raises:
        BadInput: the run config is wrong.
        RunFailed: the run could not be completed, or a request is unfulfilled.
    """
    settings = context.run_config
    out = Path(str(settings["out"]))
    if not out.is_absolute():
        raise BadInput(f'out = "{out}": give an absolute path, such as --run-config \'out="/tmp/run"\'')
    file = find_config(str(settings["config"])) if settings["config"] else None
    overrides: dict[str, Any] = {"partition.clients": int(settings["clients"])}
    if settings["data"]:
        overrides["corpus.path"] = str(settings["data"])
    config = configuration.load(file, overrides)
    with Progress(errors) as progress:
        experiment = prepare(config, out, out.parent / "references", progress)
        for warning in experiment.corpus.warnings:
            progress.warn(warning)
        storage = EngineStorage()
        if settings["deployed"]:
            grid, storage = _on_devices(grid, experiment, str(settings["devices"]))
        results = play_to_the_page(experiment, player=partial(_play, grid=grid, storage=storage))
    if results.status != "complete":
        raise RunFailed(results.failure or "")


def _play(experiment: Experiment, grid: Grid, storage: EngineStorage) -> Results:
    return conduct_with(experiment, lambda: experiment.conduct(grid, storage))


def _on_devices(grid: Grid, experiment: Experiment, devices: str) -> tuple[Grid, EngineStorage]:
    """Leave the speech to the devices: the run folder keeps the metadata files that they show."""
    shares = experiment.partition.clients
    for share in shares:
        mark_as_moved(experiment.run.vault(share.client))
    searched = [Path(devices)] if devices else []
    return DeploymentGrid(grid, experiment.run, len(shares)), EngineStorage(lambda: searched)
