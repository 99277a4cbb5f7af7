"""The parts of the benchmark: which federations and attacks are measured, and the table's rows."""

import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import unlearning
from benchmarks.memory import Watched, watch
from benchmarks.table import Row
from benchmarks.workload import BenchmarkWorkload
from fedunlearn.errors import RunFailed

PARTS = ("overhead", "flower", "floor", "scale", "unlearning", "attack", "start")
WORKERS = 2
MB = 2**20
SIMULATIONS = Path(__file__).resolve().parents[1]
"""where ``python -m benchmarks.NAME`` works"""

SMALL = BenchmarkWorkload(clients=20, utterances=60, rounds=22)
CNN = replace(SMALL, model="cnn", epochs=1, rounds=12, look_every=10)
"""epochs and ``curve_every`` of configs/ravdess-cnn.toml"""
IDLE = BenchmarkWorkload(clients=20, utterances=6, hidden=34_000, rounds=8, look_every=0, idle=True)
"""34,000 hidden units are 24.8 million values: 99 MB"""
LARGER = BenchmarkWorkload(clients=20, utterances=60, hidden=7_000, rounds=5, epochs=1, look_every=0)
"""20 MB"""
SPARING = ("recovery.rounds=1", "recovery.clients=2", "unlearning.asked=2")
"""few clients compute scalars, and few recover"""
COUNTS = (20, 100, 500, 2000)
EACH, TOGETHER = 12, 12_000
"""utterances: of each client; of all clients together"""


class Measurements:
    """Runs measurements in processes of their own, and keeps their raw figures.

    Args:
        repeats: how often each timing is repeated; medians count.
        advance: called with the name of each measurement before it starts.
    """

    def __init__(self, repeats: int, advance: Callable[[str], None]) -> None:
        self._repeats, self.advance = repeats, advance
        self.raw: dict[str, Any] = {}

    def measure(self, module: str, settings: Any, memory: bool = False) -> tuple[dict[str, Any], Watched]:
        """Run a module of this package once, in a process of its own.

        Args:
            module: its name.
            settings: its argument, written as JSON.
            memory: whether to sample its memory.

        Returns:
            its figures, and what was observed from outside.

        Raises:
            RunFailed: it printed no figures.
        """
        self.advance(
            f"{module} {settings.get('clients', '')} {settings.get('model', '')} {settings.get('engine', '')}"
        )
        command = [sys.executable, "-m", f"benchmarks.{module}", json.dumps(settings)]
        seen = watch(command, memory, cwd=SIMULATIONS)
        try:
            found: dict[str, Any] = json.loads(seen.out.strip().splitlines()[-1])
        except (IndexError, ValueError) as error:
            raise RunFailed(f"{module}: printed no figures but {seen.out[-300:]!r}") from error
        self.raw.setdefault(module, []).append({"asked": settings, "found": found, "peak": seen.peak})
        return found, seen

    def federations(
        self, workload: BenchmarkWorkload, *engines: tuple[str, int]
    ) -> dict[tuple[str, int], dict[str, Any]]:
        """Run the same federation on several engines in turn, and take each engine's medians.

        Args:
            workload: the federation.
            engines: (name, workers) of each engine.

        Raises:
            RunFailed: the engines learned different models.
        """
        runs: dict[tuple[str, int], list[dict[str, Any]]] = {engine: [] for engine in engines}
        for _, (engine, workers) in itertools.product(range(self._repeats), engines):
            settings = asdict(replace(workload, engine=engine, workers=workers))
            runs[engine, workers].append(self.measure("federation", settings)[0])
        if len({found["weights"] for found in itertools.chain(*runs.values())}) != 1:
            raise RunFailed(f"{workload}: the engines learned different models: {runs}")
        return {engine: _medians(found) for engine, found in runs.items()}


def _medians(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = found[0]
    return {
        "round": statistics.median(f["round"] for f in found),
        "client_seconds": statistics.median(f["client_seconds"] for f in found),
        "start": {k: statistics.median(f["start"][k] for f in found) for k in first["start"]},
        "bytes": first["bytes"],
    }


INLINE, RAY = ("inline", 0), ("ray", WORKERS)


def overhead(measurements: Measurements) -> list[Row]:
    """Part 1: compare Ray with one process."""
    part, rows = "1 engine: Ray with 2 workers / one process", []
    for name, workload, limit in (("functionals, .4 MB", SMALL, 1.5), ("cnn", CNN, 0.6)):
        engines = (INLINE, ("ray", 1), RAY) if workload is SMALL else (INLINE, RAY)
        found = measurements.federations(workload, *engines)
        ray, inline = found[RAY]["round"], found[INLINE]["round"]
        rows.append(Row(part, name, ray / inline, ("<=", limit), f"{ray:.3f} / {inline:.3f} s a round"))
    found = measurements.federations(IDLE, INLINE, RAY)
    ray, inline = found[RAY]["round"], found[INLINE]["round"]
    note = f"one process {inline:.2f} s; {found[RAY]['bytes']['up'] / 1e6:.0f} MB up a client"
    rows.append(Row(part, "idle clients of 100 MB: s a round", ray, ("<=", 1.5), note))
    return [*rows, Row(part, "same weights on all engines and worker counts", 1.0, (">=", 1))]


def flower(measurements: Measurements) -> list[Row]:
    """Part 2: compare with Flower's quickstart."""
    part, rows = "2 plain Flower (quickstart, stock FedAvg) / Ray engine", []
    one_step = replace(LARGER, utterances=6, rounds=8)
    for name, workload, limit in (
        ("functionals", SMALL, 3.0),
        ("20 MB of weights, one step a client", one_step, 5.0),
        ("20 MB of weights, three steps", LARGER, None),
    ):
        plain = [
            measurements.measure("plain_flower", asdict(replace(workload, workers=WORKERS)))[0]
            for _ in range(2)
        ]
        ours = measurements.federations(workload, RAY)[RAY]["round"]
        theirs = statistics.median(found["round"] for found in plain)
        target = (">=", limit) if limit else None
        rows.append(Row(part, name, theirs / ours, target, f"{theirs:.3f} / {ours:.3f} s a round"))
    return rows


def floor(measurements: Measurements) -> list[Row]:
    """Part 3: measure how much of the machine is used."""
    part, rows = "3 arithmetic alone / (wall x cores)", []
    for name, workload, target in (
        ("cnn", replace(CNN, look_every=0), (">=", 0.7)),
        ("functionals", SMALL, None),
    ):
        least = measurements.measure("arithmetic", asdict(workload))[0]["round"]
        wall = measurements.federations(workload, RAY)[RAY]["round"]
        note = f"{least:.3f} s / ({wall:.3f} s x {WORKERS})"
        rows.append(Row(part, name, least / (wall * WORKERS), target, note))
    return rows


def scale(measurements: Measurements) -> list[Row]:
    """Part 4: measure time and memory from 20 clients to 2,000."""
    part, rows, each = "4 scale, Ray", [], dict[int, float]()
    for kind, of in (("equal data each", lambda _: EACH), ("equal data together", lambda n: TOGETHER // n)):
        for clients in COUNTS:
            workload = BenchmarkWorkload(
                clients=clients, utterances=of(clients), rounds=max(6, min(30, 2000 // clients))
            )
            found, seen = measurements.measure(
                "federation", asdict(replace(workload, workers=WORKERS)), memory=True
            )
            begin = sum(found["start"].values())
            if kind == "equal data each":
                each[clients] = found["round"] / clients
            note = (
                f"{found['round']:.2f} s a round, {seen.peak / MB:,.0f} MB at most, {begin:.1f} s to round 1"
            )
            rows.append(
                Row(
                    part,
                    f"{kind}: {clients:,} clients, ms a client",
                    1e3 * found["round"] / clients,
                    None,
                    note,
                )
            )
            if clients == max(COUNTS) and kind == "equal data each":
                rows.append(Row(part, "most memory of all processes (PSS), GB", seen.peak / 1e9, ("<=", 2.5)))
    rows.append(Row(part, "time a client, 2,000 / 100 clients", each[2000] / each[100], ("<=", 1.3)))
    long = BenchmarkWorkload(clients=100, utterances=EACH, rounds=220, workers=WORKERS)
    found, seen = measurements.measure("federation", asdict(long), memory=True)
    grown = seen.growth(*found["learning"])
    rows.append(Row(part, "growth of memory over 200 rounds", grown, ("<=", 0.05), "100 clients"))
    return rows


def forgetting(measurements: Measurements, data: Path | None) -> list[Row]:
    """Part 5: compare unlearning with retraining."""
    speech = "RAVDESS" if data else "generated speech"
    part, rows = f"5 retraining / (unlearn + recover), {speech}", []
    with tempfile.TemporaryDirectory(prefix="fedunlearn-") as temporary:
        for name, more in (("", ()), (", sparing", SPARING)):
            for count in (10, 48 if data else 40):
                measurements.advance(f"unlearning {count}{name}")
                folder = Path(temporary) / f"{count}{name}"
                found = unlearning.measure(count, data, 1, folder, more)
                gap, ratio = found["gap"], found["ratios"]
                measurements.raw.setdefault("unlearning", []).append({"count": count, "more": more, **found})
                about = f"gap {gap['recovered']:.3f}, doing nothing {gap['none']:.3f}"
                rows += [
                    Row(
                        part,
                        f"{count} utterances{name}: client-seconds",
                        ratio["client_seconds"],
                        (">=", 10),
                        about,
                    ),
                    Row(part, f"{count} utterances{name}: bytes", ratio["bytes"], (">=", 100)),
                    Row(part, f"{count} utterances{name}: wall", ratio["wall_seconds"]),
                ]
    return rows


def attack(measurements: Measurements) -> list[Row]:
    """Part 6: count adversarial samples per second."""
    part, rows = "6 attack, samples a second", []
    for domain in ("log-mel", "waveform"):
        found = measurements.measure("attack", {"domain": domain})[0]
        batched, single, library = (found[name] for name in ("batched", "one_by_one", "library"))
        rows.append(
            Row(
                part,
                f"{domain}: batched / one by one",
                batched / single,
                None,
                f"{batched:.0f} / {single:.0f}",
            )
        )
        ratio = batched / library if library else None
        note = f"{batched:.0f} / {library:.0f}" if library else "torchattacks is not installed (apart)"
        rows.append(Row(part, f"{domain}: batched / torchattacks", ratio, None, note))
    return rows


def beginning(measurements: Measurements) -> list[Row]:
    """Part 7: time from the first import to the end of the first round."""
    rows, part = [], "7 start: import to first round, s"
    for name, engine, limit in (("Ray", RAY, 10.0), ("one process", INLINE, 4.0)):
        begin = measurements.federations(replace(SMALL, rounds=3), engine)[engine]["start"]
        note = ", ".join(f"{k.replace('_', ' ')} {v:.1f}" for k, v in begin.items())
        rows.append(Row(part, name, sum(begin.values()), ("<=", limit), note))
    return rows
