"""A soak: a federation under all that can go wrong, for some minutes: ``python simulations/soak.py``.

Devices are offline, slow, drop out and fail; requests arrive at random and in bursts, whole clients leave,
speakers have several devices, people file wishes and withdraw them from other processes; workers are killed,
the whole run is killed -9 or stopped by Ctrl-C and taken up again, checkpoints are damaged in between. After
every round the run's invariants are checked (``fedunlearn/study/invariants.py``); at the end of each run,
that every request was followed to its end and that nothing of what was deleted is left.

Exit codes: 0 nothing was lost; 3 something was.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedunlearn import config as configuration
from fedunlearn.__main__ import start
from fedunlearn.cli.exit_codes import run_command
from fedunlearn.config import Config
from fedunlearn.console import Screen, errors, say
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, BadInput, RunFailed
from fedunlearn.folders import make_new_folder
from fedunlearn.seeding import rng_for

_LONGEST_LIFE = 40.0
"""seconds after which a run is killed or stopped, at most"""


def soak(
    minutes: Annotated[
        float, typer.Option(help="How long runs are tormented; then the last one may end.")
    ] = 3.0,
    clients: Annotated[int, typer.Option(help="Devices.")] = 50,
    engine: Annotated[str, typer.Option(help="ray, inline or flower.")] = "ray",
    seed: Annotated[int, typer.Option(help="Of the torments and of the runs.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder to make; default: runs/soak-DATE.")] = None,
    play: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Torment a federation and see that nothing is lost."""

    def command() -> int:
        if play is not None:
            return _play(play)
        if not 0 <= minutes < math.inf:
            raise BadInput(f"--minutes {minutes}: give a number of minutes, 0 or more")
        _settings(clients, engine, seed)  # what is wrong with it, before anything is made
        if out is not None and out.exists():
            raise BadInput(f"--out {out}: exists; name another, or remove it first")
        folder, _ = make_new_folder(out or Path("runs") / f"soak-{datetime.now():%Y%m%d-%H%M%S}")
        return _Tormentor(folder, clients, engine, seed).torment(60 * minutes)

    raise SystemExit(run_command(command))


# ---- the one who torments --------------------------------------------------------------------------------


class _Tormentor:
    """Starts runs, and lets happen to them what may."""

    def __init__(self, folder: Path, clients: int, engine: str, seed: int) -> None:
        self._folder, self._clients, self._engine, self._seed = folder, clients, engine, seed
        self._dice = rng_for(seed, "torment")
        self._injected: Counter[str] = Counter()
        self._wishes: list[tuple[int, str]] = []
        self._broken: list[str] = []
        self._finished: list[Path] = []

    def torment(self, seconds: float) -> int:
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end or not self._finished:
            run = self._folder / f"run-{number}"
            self._configure(run, self._seed + number)
            self._wishes.clear()
            while not self._one_life(run, end):
                self._torment_files(run / "run")
                if self._broken:
                    return self._say()
            self._finished.append(run)
            number += 1
        return self._say()

    def _configure(self, run: Path, seed: int) -> None:
        run.mkdir()
        config = _settings(self._clients, self._engine, seed)
        (run / "soak.toml").write_text(config.to_toml(), encoding="utf-8")

    def _one_life(self, run: Path, end: float) -> bool:
        """Play the run until it ends or is made to. Whether it has ended by itself."""
        command = [sys.executable, __file__, "--play", str(run)]
        with (run / "said.txt").open("a") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        death = time.monotonic() + self._dice.uniform(5, _LONGEST_LIFE)
        while process.poll() is None:
            time.sleep(self._dice.uniform(0.2, 1.0))
            if time.monotonic() > end:
                continue  # what is left may go on in peace
            if time.monotonic() > death:
                self._end(process)
                return False
            self._disturb(process, run / "run")
        self._injected["client failures"] += _count(run / "failures")
        if process.returncode == 0:
            return True
        self._broken += (run / "broken.txt").read_text().splitlines() if (run / "broken.txt").exists() else []
        if not self._broken:
            self._broken.append(f"{run}: ended with {process.returncode}; see said.txt")
        return False

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        how = self._dice.choice(["kill -9", "Ctrl-C"])
        self._injected[f"runs ended by {how}"] += 1
        if how == "kill -9":
            _kill_session(process.pid)
            process.wait()
            return
        os.kill(process.pid, signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            self._broken.append("a run did not end within a minute after Ctrl-C")
            _kill_session(process.pid)
        deadline = time.monotonic() + 20
        while _processes(process.pid) and time.monotonic() < deadline:
            time.sleep(0.2)
        if left := _processes(process.pid):
            self._broken.append(f"after Ctrl-C these lived on: {', '.join(left.values())}")
            _kill_session(process.pid)

    def _disturb(self, process: subprocess.Popen[bytes], run: Path) -> None:
        what = self._dice.random()
        workers = [pid for pid, name in _processes(process.pid).items() if "ClientAppActor" in name]
        if what < 0.12 and workers:
            os.kill(int(self._dice.choice(workers)), signal.SIGKILL)
            self._injected["workers killed"] += 1
        elif what < 0.45 and (run / "vaults").exists():
            self._wish(run)
        elif what < 0.55 and self._wishes:
            self._withdraw(run)

    def _wish(self, run: Path) -> None:
        from fedunlearn.deletion.inbox import FiledRequest, Inbox

        client = int(self._dice.integers(self._clients))
        vault = run / "vaults" / f"client-{client:04d}"
        if (vault / "index.json").exists():
            name = f"{int(self._dice.integers(2**63)):016x}"
            Inbox(vault).file(
                FiledRequest(name, "some", f"person-{name}", count=int(self._dice.integers(1, 5)))
            )
            if self._dice.random() < 0.3:  # once more, as impatient people do
                Inbox(vault).file(FiledRequest(name, "some", f"person-{name}", count=2))
            self._wishes.append((client, name))
            self._injected["wishes filed by people"] += 1

    def _withdraw(self, run: Path) -> None:
        from fedunlearn.deletion.inbox import Inbox

        client, name = self._wishes[int(self._dice.integers(len(self._wishes)))]
        Inbox(run / "vaults" / f"client-{client:04d}").file_withdrawal(name)
        self._injected["withdrawals filed"] += 1

    def _torment_files(self, run: Path) -> None:
        """Between two lives: a flipped bit in the newest checkpoint, now and then."""
        files = sorted((run / "checkpoints" / "standing").glob("*.safetensors"))
        whole = [f for f in files if f.with_name(f"{f.name}.json").exists()]
        if len(whole) == 2 and self._dice.random() < 0.5:
            content = bytearray(whole[-1].read_bytes())
            content[int(self._dice.integers(len(content)))] ^= 1 << int(self._dice.integers(8))
            whole[-1].write_bytes(content)
            self._injected["checkpoints damaged"] += 1

    def _say(self) -> int:
        runs = [json.loads((run / "run" / "results.json").read_text()) for run in self._finished]
        for results in runs:
            self._broken += [f"run ended {results['status']}: {results['failure']}"] * (
                results["status"] != "complete"
            )
        rows = [row for results in runs for row in results["requests"]]
        faults = Counter(f["kind"] for results in runs for f in results["faults"])
        outcome = Counter(row["state"] for row in rows)
        rounds = sum(_count(run / "checked") for run in self._folder.glob("run-*"))
        away = sum(n for r in runs for _, n in (r["availability"] or {"unreachable": []})["unreachable"])
        told = {
            "injected": {**self._injected, **{f"replies {k}": n for k, n in faults.items()}, "offline": away},
            "runs finished": len(runs),
            "requests": {**outcome, "overdue": sum(bool(r["overdue"]) for r in rows)},
            "rounds checked": rounds,
            "broken": self._broken,
        }
        (self._folder / "soak.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        Screen().table(_table(told))
        for line in self._broken:
            errors.labelled("broken:", "red", line)
        if not self._broken:
            say("Nothing was lost.")
        return EXIT_FAILED if self._broken else EXIT_OK


def _settings(clients: int, engine: str, seed: int) -> Config:
    """Of one run. Raises BadInput where it cannot be so."""
    settings = {
        "seed": seed,
        "corpus.utterances": 12,
        "partition.clients": clients,
        "partition.unseen_speakers": 2,
        "partition.shared_speakers": 3,
        "partition.recordings": [{"client": c, "count": 2, "round": 6} for c in range(5, 9)],
        "model.hidden": 16,
        "training.rounds": 12,
        "training.local.epochs": 1,
        "deletions.schedule": [{"client": 1, "what": "all", "round": 4}],
        "deletions.rate": 0.01,
        "deletions.rate_count": 3,
        "deletions.burst_rate": 0.1,
        "deletions.burst_clients": 6,
        "deletions.leave_rate": 0.002,
        "deletions.arrive_for": 25,
        "deletions.deadline": 4,
        "deletions.window": 1,
        "deletions.patience": 60,
        "recovery.rounds": 2,
        "availability.offline": 0.1,
        "availability.offline_rounds": 2,
        "availability.slow": 0.2,
        "availability.drop": 0.1,
        "evaluation.bootstrap": 100,
        "federation.engine": engine,
        "federation.checkpoint_every": 3,
        "federation.retries": 2,
        "federation.timeout": 60.0,
    }
    return configuration.load(None, settings)


def _table(told: dict[str, Any]) -> Table:
    table = Table(title=f"Soak: {told['runs finished']} runs, {told['rounds checked']} rounds checked")
    table.add_column("what happened")
    table.add_column("times", justify="right")
    for name, times in sorted(told["injected"].items()):
        table.add_row(name, str(times))
    table.add_section()
    for state, times in sorted(told["requests"].items()):
        table.add_row(f"requests {state}", str(times))
    table.add_section()
    table.add_row("invariants broken", str(len(told["broken"])), style="bold")
    return table


def _count(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _processes(session: int) -> dict[int, str]:
    """Living processes of a session: pid -> command line."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,stat=,args=", "-s", str(session)], capture_output=True, text=True, check=False
    ).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return {int(pid): args for pid, state, args in rows if not state.startswith("Z")}


def _kill_session(session: int) -> None:
    deadline = time.monotonic() + 10
    while (alive := _processes(session)) and time.monotonic() < deadline:
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


# ---- the one who is tormented ----------------------------------------------------------------------------


class _Fails:
    """A Flower mod: now and then a device fails, before or after it has done what it was asked."""

    def __init__(self, tally: Path) -> None:
        self._tally = tally

    def __call__(self, message: Any, context: Any, call_next: Any) -> Any:
        dice = rng_for(time.time_ns(), "failure", os.getpid())
        chance = 0.0 if message.metadata.message_type == "query.population" else 0.01
        if dice.random() < chance:
            self._fail()
        reply = call_next(message, context)
        if dice.random() < chance:
            self._fail()
        return reply

    def _fail(self) -> None:
        with self._tally.open("ab") as file:
            file.write(b".")
        raise OSError("the soak lets this device fail")


def _play(folder: Path) -> int:
    from fedunlearn import config as configuration
    from fedunlearn.engines.engine import play
    from fedunlearn.experiment.preparation import prepare
    from fedunlearn.experiment.progress import Progress
    from fedunlearn.experiment.request_contents import close_requests
    from fedunlearn.study.invariants import broken

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a soak in the background was told to ignore it
    config = configuration.load(folder / "soak.toml")
    out = folder / "run"
    resume = (out / "config.toml").exists()
    remembered = folder / "accepted.txt"
    lines = remembered.read_text().splitlines() if remembered.exists() else []
    accepted = {(name, int(client)) for name, _, client in (line.partition(" ") for line in lines if line)}
    experiment = prepare(config, out, folder / "references", Progress(Console(quiet=True)), resume=resume)

    def check(row: Mapping[str, Any]) -> None:
        if row["phase"] not in {"learn", "recover"}:
            return  # of a reference; or in the middle of an unlearn step, which is not on disk yet
        before = set(accepted)
        if problems := broken(experiment, accepted):
            (folder / "broken.txt").write_text("\n".join(problems) + "\n")
            raise AssertionError(problems[0])
        with remembered.open("a") as file:
            file.writelines(f"{name} {client}\n" for name, client in sorted(accepted - before))
        with (folder / "checked").open("ab") as file:
            file.write(b".")

    experiment.recorder.add_listener(check)
    try:
        results = play(experiment, [_Fails(folder / "failures")])
    except RunFailed as failure:
        print(failure, flush=True)
        return EXIT_FAILED
    experiment.run.write_results(results)
    close_requests(experiment.run, experiment.partition, experiment.saved)
    return EXIT_OK


def _soak() -> None:
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(soak)
    command()


if __name__ == "__main__":
    start(_soak)
