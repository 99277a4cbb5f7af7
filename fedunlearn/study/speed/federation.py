"""One federation, timed: seconds a round, seconds to the first, and a digest of what was learned.

    python -m fedunlearn.study.speed.federation '{"clients": 100}'

Measures in a process of its own, and prints one line of JSON.
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

from fedunlearn.client import steps as local_work  # noqa: E402
from fedunlearn.engines.engine import play  # noqa: E402
from fedunlearn.experiment.preparation import prepare  # noqa: E402
from fedunlearn.experiment.progress import Progress  # noqa: E402
from fedunlearn.study.speed.world import BenchmarkWorkload  # noqa: E402


def idle(message: Message, context: Context, call_next: Any) -> Message:
    """A Flower mod: clients do all that they do, but train."""
    setattr(local_work, "train", lambda *_: 0.0)  # noqa: B010
    reply: Message = call_next(message, context)
    return reply


def measure(world: BenchmarkWorkload, folder: Path) -> dict[str, Any]:
    """Play a federation.

    Args:
        folder: to be made for it.

    Returns:
        start: {imports, prepare, first_round} s, one after another. round: s, mean of all after the first.
        client_seconds: of computing, a round. bytes: {up, down}, a client and round.
        learning: when it began and ended, seconds since 1970. weights: SHA-256 of the final model.
    """
    start = {"imports": perf_counter() - _BEGAN}
    config = world.config()
    heard = world.heard(config)
    begin = perf_counter()
    experiment = prepare(config, folder, folder.parent / "references", Progress(Console(quiet=True)), heard)
    del heard
    start["prepare"] = perf_counter() - begin
    times: list[float] = []
    experiment.run.on_metrics = lambda _: times.append(time.time())
    begin = time.time()
    mods: Sequence[Any] = [idle] if world.idle else []
    results = play(experiment, mods)
    start["first_round"] = times[0] - begin
    cost, rounds = results["cost"]["learn"], world.rounds
    blob = (experiment.run.checkpoints / "original.safetensors").read_bytes()
    # The judge looks at one round while the next goes on, and at the last one in any case: only a whole
    # stretch that ends before that has a length.
    return {
        "start": start,
        "round": (times[-2] - times[0]) / (rounds - 2),
        "client_seconds": cost["client_seconds"] / rounds,
        "bytes": {way: cost[f"bytes_{way}"] / rounds / world.clients for way in ("up", "down")},
        "learning": [times[0], times[-2]],
        "weights": hashlib.sha256(blob).hexdigest(),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="fedunlearn-") as temporary:
        print(
            json.dumps(measure(BenchmarkWorkload(**json.loads(sys.argv[1])), Path(temporary) / "run")),
            flush=True,
        )
    os._exit(0)  # what is left to be taken apart is of no interest
