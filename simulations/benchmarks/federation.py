"""One federation, timed: seconds a round, seconds to the first, and a digest of what was learned.

    python -m benchmarks.federation '{"clients": 100}'

Runs in a process of its own, in simulations/, and prints one line of JSON.
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

_BEGAN = perf_counter()

from flwr.app import Context, Message  # noqa: E402
from rich.console import Console  # noqa: E402

from benchmarks.workload import BenchmarkWorkload  # noqa: E402
from fedunlearn.engines.engine import play  # noqa: E402
from fedunlearn.experiment.preparation import prepare  # noqa: E402
from fedunlearn.experiment.progress import Progress  # noqa: E402


def idle(message: Message, context: Context, call_next: Any) -> Message:
    """A Flower mod: clients do everything except train, because each round has no steps."""
    training = message.metadata.message_type == "train"
    if training:
        message.content.config_records["settings"].update(steps=0, epochs=0)
    reply: Message = call_next(message, context)
    if training and not reply.has_error():
        reply.content.metric_records["metrics"]["loss"] = 0.0  # the mean over no step is not a number
    return reply


def measure(workload: BenchmarkWorkload, folder: Path) -> dict[str, Any]:
    """Run a federation.

    Args:
        workload: the federation to run.
        folder: the run folder to create.

    Returns:
        ``start``: {imports, prepare, first_round}, consecutive stretches in s;
        ``round``: mean of all rounds after the first, s;
        ``client_seconds``: computing time of all clients in a round, s;
        ``bytes``: {up, down} of one client in one round;
        ``learning``: when learning began and ended, seconds since 1970;
        ``weights``: SHA-256 of the final model's file.
    """
    start = {"imports": perf_counter() - _BEGAN}
    config = workload.config()
    corpus = workload.decoded_corpus(config)
    begin = perf_counter()
    experiment = prepare(config, folder, folder.parent / "references", Progress(Console(quiet=True)), corpus)
    del corpus
    start["prepare"] = perf_counter() - begin
    times: list[float] = []
    experiment.run.followers.append(lambda _: times.append(time.time()))
    begin = time.time()
    mods: Sequence[Any] = [idle] if workload.idle else []
    results = play(experiment, mods)
    start["first_round"] = times[0] - begin
    cost, rounds = results.cost["learn"].to_json(), workload.rounds
    blob = (experiment.run.checkpoints / "original.safetensors").read_bytes()
    # A round is evaluated while the next one runs, and the last one always is: the mean covers the rounds
    # before that evaluation.
    return {
        "start": start,
        "round": (times[-2] - times[0]) / (rounds - 2),
        "client_seconds": cost["client_seconds"] / rounds,
        "bytes": {way: cost[f"bytes_{way}"] / rounds / workload.clients for way in ("up", "down")},
        "learning": [times[0], times[-2]],
        "weights": hashlib.sha256(blob).hexdigest(),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="fedunlearn-") as temporary:
        print(
            json.dumps(measure(BenchmarkWorkload(**json.loads(sys.argv[1])), Path(temporary) / "run")),
            flush=True,
        )
    os._exit(0)  # skips the shutdown of threads and workers, which is not measured
