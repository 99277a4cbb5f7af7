"""Runs the two apps on an engine: Ray, a Ray cluster, one process, or Flower's own simulation on Ray.

The apps do not know which engine runs them, and the results agree bit for bit.
"""

import logging
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedunlearn.client.app import make_client_app
from fedunlearn.config.federation import FederationSettings
from fedunlearn.cpus import usable_cpus
from fedunlearn.engines.gpu_sharing import Sharing, share_gpu, workers_limited
from fedunlearn.engines.inline_grid import InlineGrid
from fedunlearn.errors import Interrupted, RunFailed
from fedunlearn.experiment.experiment import Experiment
from fedunlearn.experiment.final_search import EngineStorage
from fedunlearn.links import open_to_append
from fedunlearn.results_schema import Results
from fedunlearn.vault.index import Index
from fedunlearn.vault.relocation import restore_arrays_from_corpus

_REACH_SECONDS = 5.0
_LONGEST_FOR_RAY = 35
"""bytes in the name of a temporary folder: a socket's whole name may have 107, of which Ray adds about 70"""


def play(experiment: Experiment, mods: Sequence[Any] = ()) -> Results:
    """Run a prepared experiment on the engine that its config names.

    Args:
        experiment: prepared; its results are set when this returns.
        mods: Flower mods for the ClientApp.

    Returns:
        results, as in results.json

    Raises:
        Interrupted: the run was interrupted.
        RunFailed: it could not be completed.
    """
    settings = experiment.config.federation
    inline = settings.engine == "inline"
    client_app = make_client_app(str(experiment.run.path.resolve()), mods)
    server_app = make_server_app(experiment, EngineStorage() if inline else EngineStorage(ray_folders))
    clients = len(experiment.partition.clients)
    arguments = server_app, client_app, clients, settings, experiment.run.log

    def start() -> None:
        if inline:
            run_inline(*arguments)
        elif settings.ray_address:
            run_cluster(experiment, mods)
        else:
            gpu = partial(share_gpu, experiment.template, experiment.config, partial(_longest, experiment))
            (run_ray if settings.engine == "ray" else run_flower)(*arguments, gpu=gpu)

    return conduct_with(experiment, start)


def conduct_with(experiment: Experiment, conduct: Callable[[], None]) -> Results:
    """Conduct an experiment in a way of one's own, and close it; every failure becomes ``RunFailed``.

    Args:
        experiment: prepared; its results are set when this returns.
        conduct: has ``experiment.conduct`` called.

    Returns:
        results, as in results.json

    Raises:
        Interrupted: the run was interrupted.
        RunFailed: it could not be completed.
    """
    try:
        conduct()
    except RunFailed:
        raise
    except (KeyboardInterrupt, SystemExit) as interrupted:  # Ray turns SIGTERM into SystemExit
        raise Interrupted("the run was interrupted") from interrupted
    except Exception as error:
        with open_to_append(experiment.run.log) as log:
            log.write(traceback.format_exc())
        raise RunFailed(f"{type(error).__name__}: {error} (traceback in {experiment.run.log})") from error
    finally:
        experiment.stop.set()
        experiment.close()
    if experiment.results is None:
        raise RunFailed("the server ended without results; see log.txt")
    return experiment.results


def _longest(experiment: Experiment) -> int:
    """Return the number of samples of the longest utterance on any device."""
    folders = [experiment.run.vault(share.client) for share in experiment.partition.clients]
    return max((entry.samples for folder in folders for entry in Index.read(folder).entries), default=1)


def make_server_app(experiment: Experiment, storage: EngineStorage) -> ServerApp:
    """Make the ServerApp that conducts this experiment.

    Args:
        experiment: prepared.
        storage: where the engine keeps data.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        experiment.conduct(grid, storage)

    return app


def run_inline(
    server_app: ServerApp, client_app: ClientApp, clients: int, settings: FederationSettings, log: Path
) -> None:
    """Run both apps in this process, one client after another.

    Args:
        server_app: conducts the experiment.
        client_app: answers for all clients.
        clients: how many.
        settings: of the engine.
        log: not used: everything is in this process.
    """
    server_app(InlineGrid(client_app, clients), _server_context())


def run_ray(
    server_app: ServerApp,
    client_app: ClientApp,
    clients: int,
    settings: FederationSettings,
    log: Path,
    gpu: Callable[[int], Sharing | None] = lambda workers: None,
) -> None:
    """Run the ServerApp here and the ClientApp on Ray workers of one CPU and one torch thread each.

    Args:
        server_app: conducts the experiment.
        client_app: answers for all clients.
        clients: how many.
        settings: of the engine.
        log: file for the output of Ray.
        gpu: decides how so many workers share the GPU; None = they need none.
    """
    import ray

    from fedunlearn.engines.ray_grid import RayGrid

    workers = min(settings.workers or usable_cpus(), clients)
    sharing = gpu(workers)
    with _short_folder_for_ray(), _ray_for(sharing, log):
        init = ray_options(workers, sharing)
        ray.init(**init)
        share = sharing.share if sharing else 0.0
        server_app(RayGrid.of_workers(client_app, clients, init["num_cpus"], share), _server_context())


def run_cluster(experiment: Experiment, mods: Sequence[Any]) -> None:
    """Run the ServerApp here and the ClientApp on the nodes of a Ray cluster, vaults on their own disks.

    Args:
        experiment: prepared.
        mods: Flower mods for the ClientApp.
    """
    import ray

    from fedunlearn.engines.cluster_grid import ClusterGrid, app_maker

    settings, run = experiment.config.federation, experiment.run
    with _ray_for(None, run.log):
        try:
            _reach(settings.ray_address)
            ray.init(address=settings.ray_address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise RunFailed(
                f"federation.ray_address = {settings.ray_address!r}: no Ray cluster answers there ({reason})"
            ) from error
        clients = len(experiment.partition.clients)
        grid = ClusterGrid(
            app_maker(make_client_app, mods),
            run,
            clients,
            settings.workers,
            settings.node_folder,
            partial(restore_arrays_from_corpus, run, experiment.corpus),
        )
        server_app = make_server_app(experiment, EngineStorage(ray_folders, grid))
        try:
            server_app(grid, _server_context())
        finally:
            grid.wipe_nodes()


def run_flower(
    server_app: ServerApp,
    client_app: ClientApp,
    clients: int,
    settings: FederationSettings,
    log: Path,
    gpu: Callable[[int], Sharing | None] = lambda workers: None,
) -> None:
    """Run both apps on Flower's own simulation, as ``flwr run`` does.

    It is slower than ``run_ray``; it shows that both are ordinary Flower apps.

    Args:
        server_app: of the run.
        client_app: of the devices.
        clients: how many there are.
        settings: of the federation.
        log: file for what Flower and Ray log.
        gpu: as of ``run_ray``.
    """
    from flwr.simulation import run_simulation

    workers = min(settings.workers or usable_cpus(), clients)
    sharing = gpu(workers)
    failure: list[BaseException] = []
    inner = server_app

    def main(grid: Grid, context: Context) -> None:
        # Flower only logs an exception of the server; keep it.
        try:
            inner(grid, context)
        except BaseException as error:
            failure.append(error)

    outer = ServerApp()
    outer.main()(main)
    with _short_folder_for_ray(), _ray_for(sharing, log):
        # Deprecated by Flower, but the only call that works in process and reports failures.
        run_simulation(outer, client_app, clients, backend_config=backend_config(workers, sharing))
    if failure:
        raise failure[0]


def _reach(address: str) -> None:
    """Check that a process listens at an address; Ray itself would try for minutes.

    Raises:
        ConnectionError: there is none.
    """
    import grpc

    if address == "auto":
        return
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_REACH_SECONDS)
        except grpc.FutureTimeoutError:
            raise ConnectionError(f"nobody listens, tried for {_REACH_SECONDS:g} s") from None


def _server_context() -> Context:
    return Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})


@contextmanager
def _ray_for(sharing: Sharing | None, log: Path) -> Iterator[None]:
    """Prepare for starting Ray inside: its output goes to the log, and its processes end with the block."""
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _output_to(log), workers_limited(sharing), _importing_as_here():
        try:
            yield
        finally:
            started = psutil.Process().children(recursive=True)
            ray.shutdown()
            _end(started)


@contextmanager
def _short_folder_for_ray() -> Iterator[None]:
    """Give Ray a temporary folder with a name short enough for its sockets.

    If TMPDIR has too long a name (batch systems), Ray gets a folder of its own, which is removed at the end.
    """
    usual = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(os.fsencode(usual)) <= _LONGEST_FOR_RAY or os.name != "posix":
        yield
        return
    try:
        folder = tempfile.mkdtemp(prefix="fedunlearn-", dir="/tmp")
    except OSError as error:
        raise RunFailed(
            f"TMPDIR = {usual}: its name is too long for Ray's sockets, and /tmp cannot be written "
            f"({error.strerror}); set RAY_TMPDIR to a folder whose name has at most {_LONGEST_FOR_RAY} bytes"
        ) from error
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["RAY_TMPDIR"]
        else:
            os.environ["RAY_TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _importing_as_here() -> Iterator[None]:
    """Let processes that are started inside import from the same places as this one."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*sys.path, before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def ray_options(workers: int, sharing: Sharing | None) -> dict[str, Any]:
    """Return the arguments of ``ray.init``: number of CPUs, and a GPU if there is one to share.

    Args:
        workers: how many.
        sharing: of the GPU; None = none is shared.
    """
    # "local": a Ray that runs here already belongs to somebody else.
    options = {"address": "local", "num_cpus": workers, "include_dashboard": False, "log_to_driver": False}
    return options if sharing is None else options | {"num_cpus": sharing.workers, "num_gpus": 1}


def backend_config(workers: int, sharing: Sharing | None) -> dict[str, Any]:
    """Return Flower's backend settings: number of workers, and the part of the GPU for each.

    Args:
        workers: how many.
        sharing: of the GPU; None = none is shared.
    """
    from fedunlearn.engines.ray_grid import RESTARTS

    share = sharing.share if sharing else 0.0
    # Flower passes these to Ray as options of the worker, so any option may be given.
    resources = {"num_cpus": 1, "num_gpus": share, **RESTARTS}
    return {"init_args": ray_options(workers, sharing), "client_resources": resources}


def _end(processes: Sequence[psutil.Process]) -> None:
    """End all processes that Ray has started: interrupted during its start, it leaves some behind."""
    _, alive = psutil.wait_procs(processes, timeout=2.0)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5.0)


def ray_folders() -> list[Path]:
    """List the folders that Ray writes to in this session, spilled objects included; empty without Ray."""
    import ray

    if not ray.is_initialized():
        return []
    context = ray.get_runtime_context()
    return [Path(context.get_temp_dir()) / context.get_session_name()]


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Redirect what Flower and Ray log and print to log.txt; the clients' replies report problems."""
    open_to_append(log).close()  # a link in its place is removed
    handler = logging.FileHandler(log, encoding="utf-8")
    loggers = [logging.getLogger(name) for name in ("flwr", "ray")]
    before = [(list(logger.handlers), logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        with redirect_stdout(handler.stream), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
        handler.close()
