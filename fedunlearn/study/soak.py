"""A soak: a federation under every fault at once, for some minutes, in processes that are killed.

This process injects the faults; those that it starts play one life of a run each (``study.soak_life``).
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from fedunlearn import config as configuration
from fedunlearn.config import Config
from fedunlearn.seeding import rng_for

_LONGEST_LIFE = 40.0
"""seconds after which a run is killed or stopped, at the latest"""


@dataclass(frozen=True)
class SoakReport:
    """What a soak found; soak.json has the same fields.

    Attributes:
        injected: kind of fault -> how often it happened.
        runs: runs that came to their end.
        requests: state -> requests that ended in it; "overdue" -> those that missed their deadline.
        rounds: rounds after which the invariants were checked.
        broken: what was lost, one line each.
    """

    injected: Mapping[str, int]
    runs: int
    requests: Mapping[str, int]
    rounds: int
    broken: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Return the fields of soak.json."""
        return {
            "injected": self.injected,
            "runs finished": self.runs,
            "requests": self.requests,
            "rounds checked": self.rounds,
            "broken": self.broken,
        }


class Soak:
    """Starts runs, and injects faults into them.

    Args:
        folder: an empty folder for the runs and for soak.json.
        clients: devices of each run.
        engine: as ``federation.engine``.
        seed: of the faults and of the runs.
    """

    def __init__(self, folder: Path, clients: int, engine: str, seed: int) -> None:
        self._folder, self._clients, self._engine, self._seed = folder, clients, engine, seed
        self._rng = rng_for(seed, "torment")
        self._injected: Counter[str] = Counter()
        self._filed: list[tuple[int, str]] = []
        self._broken: list[str] = []
        self._finished: list[Path] = []

    def run(self, seconds: float) -> SoakReport:
        """Run one federation after another until the time is over and one of them has ended.

        Args:
            seconds: how long faults are injected; the last run may then end undisturbed.
        """
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end or not self._finished:
            run = self._folder / f"run-{number}"
            self._configure(run, self._seed + number)
            self._filed.clear()
            while not self._one_life(run, end):
                self._damage_checkpoint(run / "run")
                if self._broken:
                    return self._report()
            self._finished.append(run)
            number += 1
        return self._report()

    def _configure(self, run: Path, seed: int) -> None:
        run.mkdir()
        config = soak_config(self._clients, self._engine, seed)
        (run / "soak.toml").write_text(config.to_toml(), encoding="utf-8")

    def _one_life(self, run: Path, end: float) -> bool:
        """Play the run until it ends or is ended; whether it has ended by itself."""
        command = [sys.executable, "-m", "fedunlearn", "soak", "--play", str(run)]
        with (run / "said.txt").open("a") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        death = time.monotonic() + self._rng.uniform(5, _LONGEST_LIFE)
        while process.poll() is None:
            time.sleep(self._rng.uniform(0.2, 1.0))
            if time.monotonic() > end:
                continue  # the rest of the run is not disturbed
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
        how = self._rng.choice(["kill -9", "Ctrl-C"])
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
        what = self._rng.random()
        workers = [pid for pid, name in _processes(process.pid).items() if "ClientAppActor" in name]
        if what < 0.12 and workers:
            os.kill(int(self._rng.choice(workers)), signal.SIGKILL)
            self._injected["workers killed"] += 1
        elif what < 0.45 and (run / "vaults").exists():
            self._file_request(run)
        elif what < 0.55 and self._filed:
            self._withdraw(run)

    def _file_request(self, run: Path) -> None:
        from fedunlearn.deletion.inbox import FiledRequest, Inbox

        client = int(self._rng.integers(self._clients))
        vault = run / "vaults" / f"client-{client:04d}"
        if (vault / "index.json").exists():
            name = f"{int(self._rng.integers(2**63)):016x}"
            Inbox(vault).file(
                FiledRequest(name, "some", f"person-{name}", count=int(self._rng.integers(1, 5)))
            )
            if self._rng.random() < 0.3:  # once more, as people do
                Inbox(vault).file(FiledRequest(name, "some", f"person-{name}", count=2))
            self._filed.append((client, name))
            self._injected["requests filed by people"] += 1

    def _withdraw(self, run: Path) -> None:
        from fedunlearn.deletion.inbox import Inbox

        client, name = self._filed[int(self._rng.integers(len(self._filed)))]
        Inbox(run / "vaults" / f"client-{client:04d}").file_withdrawal(name)
        self._injected["withdrawals filed"] += 1

    def _damage_checkpoint(self, run: Path) -> None:
        """Flip a bit in the newest checkpoint now and then, between two lives of the run."""
        files = sorted((run / "checkpoints" / "standing").glob("*.safetensors"))
        whole = [f for f in files if f.with_name(f"{f.name}.json").exists()]
        if len(whole) == 2 and self._rng.random() < 0.5:
            content = bytearray(whole[-1].read_bytes())
            content[int(self._rng.integers(len(content)))] ^= 1 << int(self._rng.integers(8))
            whole[-1].write_bytes(content)
            self._injected["checkpoints damaged"] += 1

    def _report(self) -> SoakReport:
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
        found = SoakReport(
            {**self._injected, **{f"replies {k}": n for k, n in faults.items()}, "offline": away},
            len(runs),
            {**outcome, "overdue": sum(bool(r["overdue"]) for r in rows)},
            rounds,
            self._broken,
        )
        text = json.dumps(found.as_json(), indent=1) + "\n"
        (self._folder / "soak.json").write_text(text, encoding="utf-8")
        return found


def soak_config(clients: int, engine: str, seed: int) -> Config:
    """Return the experiment that a soak runs.

    Args:
        clients: number of devices.
        engine: as ``federation.engine``.
        seed: of all randomness.

    Raises:
        BadInput: the settings allow no such run.
    """
    settings = {
        "seed": seed,
        "corpus.utterances": 12,
        "partition.clients": clients,
        "partition.unseen_speakers": 2,
        "partition.shared_speakers": 3,
        "partition.recordings": [{"client": c, "count": 2, "round": 6} for c in range(5, 9)],
        "model.hidden": 16,
        "training.rounds": 12,
        "training.local.steps": 1,
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


def table_of(found: SoakReport) -> Table:
    """Format what a soak found for a terminal."""
    table = Table(title=f"Soak: {found.runs} runs, {found.rounds} rounds checked")
    table.add_column("what happened")
    table.add_column("times", justify="right")
    for name, times in sorted(found.injected.items()):
        table.add_row(name, str(times))
    table.add_section()
    for state, times in sorted(found.requests.items()):
        table.add_row(f"requests {state}", str(times))
    table.add_section()
    table.add_row("invariants broken", str(len(found.broken)), style="bold")
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
