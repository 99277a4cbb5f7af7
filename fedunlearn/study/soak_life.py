"""One life of a soak's run: it is played until it ends or is killed, and checked after every round."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from fedunlearn import config as configuration
from fedunlearn.engines.engine import play
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, RunFailed
from fedunlearn.experiment.experiment import Experiment, write_completed
from fedunlearn.experiment.preparation import prepare
from fedunlearn.experiment.progress import Progress
from fedunlearn.seeding import rng_for
from fedunlearn.study.soak_invariants import broken


class _RandomFailures:
    """A Flower mod: now and then a device fails, before or after it has computed its reply."""

    def __init__(self, tally: Path) -> None:
        self._tally = tally

    def __call__(self, message: Any, context: Any, call_next: Any) -> Any:
        rng = rng_for(time.time_ns(), "failure", os.getpid())
        chance = 0.0 if message.metadata.message_type == "query.population" else 0.01
        if rng.random() < chance:
            self._fail()
        reply = call_next(message, context)
        if rng.random() < chance:
            self._fail()
        return reply

    def _fail(self) -> None:
        with self._tally.open("ab") as file:
            file.write(b".")
        raise OSError("the soak lets this device fail")


def play_life(folder: Path) -> int:
    """Play a run of a soak, from its beginning or from its last checkpoint, and check its invariants.

    Args:
        folder: of the run; soak.toml in it is the experiment.

    Returns:
        exit code of the process; ``broken.txt`` says what was lost.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    config = configuration.load(folder / "soak.toml")
    out = folder / "run"
    resume = (out / "config.toml").exists()
    experiment = prepare(config, out, folder / "references", Progress(Console(quiet=True)), resume=resume)
    experiment.recorder.add_listener(_RoundCheck(folder, experiment))
    try:
        results = play(experiment, [_RandomFailures(folder / "failures")])
    except RunFailed as failure:
        print(failure, flush=True)
        return EXIT_FAILED
    write_completed(experiment, results)
    return EXIT_OK


class _RoundCheck:
    """Checks the invariants after a round, and remembers accepted requests for the next life of the run."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self._folder, self._experiment = folder, experiment
        self._accepted_file = folder / "accepted.txt"
        text = self._accepted_file.read_text() if self._accepted_file.exists() else ""
        pairs = (line.rpartition(" ") for line in text.splitlines() if line)
        self._accepted = {(name, int(client)) for name, _, client in pairs}

    def __call__(self, row: Mapping[str, Any]) -> None:
        if row["phase"] not in {"learn", "recover"}:
            return  # of a reference; or in the middle of an unlearn step, which is not on disk yet
        before = set(self._accepted)
        if problems := broken(self._experiment, self._accepted):
            (self._folder / "broken.txt").write_text("\n".join(problems) + "\n")
            raise AssertionError(problems[0])
        with self._accepted_file.open("a") as file:
            file.writelines(f"{name} {client}\n" for name, client in sorted(self._accepted - before))
        with (self._folder / "checked").open("ab") as file:
            file.write(b".")
