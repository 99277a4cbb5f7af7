"""The two apps for ``flwr run .``; ``python simulations/run.py`` does not use this module.

Run config (``--run-config 'out="/abs/path" clients=20'``):
    out      absolute path that does not exist yet and that every node can access
    config   TOML file or preset; empty = generated speech
    data     folder of the corpus
    clients  number of nodes of the federation
"""

from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedunlearn import config as configuration
from fedunlearn.client.app import make_client_app
from fedunlearn.config.presets import find_config
from fedunlearn.console import errors
from fedunlearn.errors import BadInput, RunFailed
from fedunlearn.experiment.experiment import write_completed
from fedunlearn.experiment.preparation import prepare
from fedunlearn.experiment.progress import Progress

client_app = make_client_app()
server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Prepare the experiment in the folder that the run config names, conduct it, and write results.json.

    The report is made afterwards by ``fedunlearn report OUT``: Flower ships no templates with an app.

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
        try:
            experiment.conduct(grid)
        except RunFailed as failure:
            experiment.write_failure(str(failure))
            raise
        finally:
            experiment.close()
    results = experiment.results
    assert results is not None
    write_completed(experiment, results)
    if results.status != "complete":
        raise RunFailed(results.failure or "")
