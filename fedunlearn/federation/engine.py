"""Two engines for the same two apps: Ray through Flower's simulation, or one process.

The apps cannot tell which runs them, and their results agree bit for bit.
"""

import logging
import os
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedunlearn.config import FederationSettings
from fedunlearn.errors import Interrupted, RunFailed
from fedunlearn.federation.accelerator import Sharing, share_gpu, workers_limited
from fedunlearn.federation.client import make_client_app
from fedunlearn.federation.experiment import Experiment
from fedunlearn.vault_index import Index

_CLIENT_FAILED = 3
_LIVES = {"max_restarts": 1000, "max_task_retries": 2}
"""Ray starts a killed worker again, and the message it was at; the client reports that it happened."""


def play(experiment: Experiment, mods: Sequence[Any] = ()) -> dict[str, Any]:
    """Run a prepared experiment on the engine that its config names.

    Args:
        experiment: prepared; its results are set when this returns.
        mods: Flower mods for the ClientApp.

    Returns:
        results, as in results.json.

    Raises:
        RunFailed: the run could not be completed; Interrupted where somebody stopped it.
    """
    client_app = make_client_app(str(experiment.run.path.resolve()), mods)
    server_app = make_server_app(experiment)
    clients = len(experiment.partition.clients)
    settings = experiment.config.federation
    arguments = server_app, client_app, clients, settings, experiment.run.log
    try:
        if settings.engine == "inline":
            run_inline(*arguments)
        else:
            experiment.engine_folders = ray_folders
            run_ray(
                *arguments,
                gpu=partial(share_gpu, experiment.template, experiment.config, partial(_longest, experiment)),
            )
    except RunFailed:
        raise
    except (KeyboardInterrupt, SystemExit) as interrupted:  # Ray turns SIGTERM into SystemExit
        raise Interrupted("the run was interrupted") from interrupted
    except Exception as error:
        with experiment.run.log.open("a", encoding="utf-8") as log:
            log.write(traceback.format_exc())
        raise RunFailed(f"{type(error).__name__}: {error} (traceback in {experiment.run.log})") from error
    finally:
        experiment.stop.set()
        experiment.close()
    if experiment.results is None:
        raise RunFailed("the server ended without results; see log.txt")
    return experiment.results


def _longest(experiment: Experiment) -> int:
    """Samples of the longest utterance on any device."""
    folders = [experiment.run.vault(share.client) for share in experiment.partition.clients]
    return max((entry.samples for folder in folders for entry in Index.read(folder).entries), default=1)


def make_server_app(experiment: Experiment) -> ServerApp:
    """The ServerApp that conducts this experiment."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        experiment.conduct(grid)

    return app


def run_inline(
    server_app: ServerApp, client_app: ClientApp, clients: int, settings: FederationSettings, log: Path
) -> None:
    """Run both apps in this process, one client after another."""
    from flwr.common.constant import SUPERLINK_NODE_ID
    from flwr.supercore.task_identity import TaskIdentity

    # Flower signs every message with the task that runs; its own simulation sets the same three.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID
    grid = InlineGrid(client_app, clients)
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
    server_app(grid, context)


def run_ray(
    server_app: ServerApp,
    client_app: ClientApp,
    clients: int,
    settings: FederationSettings,
    log: Path,
    gpu: Callable[[int], Sharing | None] = lambda workers: None,
) -> None:
    """Run both apps on Flower's simulation: Ray workers of one CPU and one torch thread each.

    Args:
        gpu: how so many workers share the GPU; None where they need none.
    """
    import ray
    from flwr.simulation import run_simulation

    workers = min(settings.workers or os.cpu_count() or 1, clients)
    sharing = gpu(workers)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    failure: list[BaseException] = []
    inner = server_app

    def main(grid: Grid, context: Context) -> None:
        # Flower turns an exception of the server into a log line; keep it.
        try:
            inner(grid, context)
        except BaseException as error:
            failure.append(error)

    outer = ServerApp()
    outer.main()(main)
    with _noise_to(log), workers_limited(sharing):
        try:
            # Deprecated upstream, and the one call that works in process and tells the truth on failure.
            run_simulation(
                outer,
                client_app,
                clients,
                backend_config=backend_config(workers, sharing),
            )
        finally:
            started = psutil.Process().children(recursive=True)
            ray.shutdown()
            _end(started)
    if failure:
        raise failure[0]


def backend_config(workers: int, sharing: Sharing | None) -> dict[str, Any]:
    """What Flower tells Ray: how many workers, and which part of the one GPU each of them takes."""
    init_args = {"num_cpus": workers, "include_dashboard": False, "log_to_driver": False}
    share = 0.0
    if sharing is not None:
        init_args |= {"num_cpus": sharing.workers, "num_gpus": 1}
        share = sharing.share
    # Flower hands these to Ray as options of the worker, so any option may stand here.
    return {"init_args": init_args, "client_resources": {"num_cpus": 1, "num_gpus": share, **_LIVES}}


def _end(processes: Sequence[psutil.Process]) -> None:
    """See that what Ray has started ends with it: interrupted while it starts, it forgets its agents."""
    _, alive = psutil.wait_procs(processes, timeout=2.0)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5.0)


def ray_folders() -> list[Path]:
    """Where Ray writes in this session, spilled objects included; none where it is not running."""
    import ray

    if not ray.is_initialized():
        return []
    context = ray.get_runtime_context()
    return [Path(context.get_temp_dir()) / context.get_session_name()]


class InlineGrid(Grid):
    """Flower's Grid without Flower's runtime: a message is answered when its reply is pulled.

    Args:
        client_app: answers. clients: how many nodes there are; node ids are 1 ... clients.
    """

    def __init__(self, client_app: ClientApp, clients: int) -> None:
        self._app, self._clients = client_app, clients
        self._unanswered: dict[str, Message] = {}
        self._states = {node: RecordDict() for node in range(1, clients + 1)}

    def set_run(self, run: Any) -> None:
        """There is one run only."""

    @property
    def run(self) -> Any:
        """There is one run only."""
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Deprecated upstream; messages are made by their own constructor."""
        raise RuntimeError("make messages with flwr.app.Message")

    def get_node_ids(self) -> Iterable[int]:
        """All nodes."""
        return list(self._states)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take the messages; each is answered when its reply is pulled."""
        ids = []
        for message in messages:
            name = str(uuid4())
            message.metadata.__dict__["_message_id"] = name
            self._unanswered[name] = message
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answer the first of these messages that has no answer yet: nobody's reply waits for another's."""
        wanted = set(message_ids)
        name = next((name for name in self._unanswered if name in wanted), None)
        return [] if name is None else [self._answer(self._unanswered.pop(name))]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, then pull until all are answered."""
        ids = list(self.push_messages(messages))
        return [reply for _ in ids for reply in self.pull_messages(ids)]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        node_config: dict[str, bool | float | int | str] = {"partition-id": node - 1}
        context = Context(
            run_id=1, node_id=node, node_config=node_config, state=self._states[node], run_config={}
        )
        try:
            return self._app(message, context)
        except Exception as error:
            return Message(Error(_CLIENT_FAILED, f"{type(error).__name__}: {error}"), reply_to=message)


@contextmanager
def _noise_to(log: Path) -> Iterator[None]:
    """Send what Flower and Ray log and print to log.txt; the clients' replies tell the user of troubles."""
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
