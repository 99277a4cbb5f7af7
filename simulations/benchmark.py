"""How fast and how large: ``python simulations/benchmark.py``; a table, and benchmark.json.

Every figure is a ratio, or an absolute one with a target, of one run on one machine; medians over repeats.
"""

import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedunlearn.__main__ import start
from fedunlearn.cli.exit_codes import run_command
from fedunlearn.console import Screen, errors, say
from fedunlearn.cpus import usable_cpus
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, BadInput, RunFailed
from fedunlearn.files import write_atomically
from fedunlearn.study.encoder_speed import machine
from fedunlearn.study.speed import unlearning
from fedunlearn.study.speed.memory import Watched, watch
from fedunlearn.study.speed.report import Row, table_of
from fedunlearn.study.speed.world import BenchmarkWorkload

PARTS = ("overhead", "flower", "floor", "scale", "unlearning", "attack", "start")
WORKERS = 2
MB = 2**20

SMALL = BenchmarkWorkload(clients=20, utterances=60, rounds=22)
CNN = replace(SMALL, model="cnn", epochs=1, rounds=12, look_every=10)
"""the epochs and looks of configs/ravdess-cnn.toml"""
IDLE = BenchmarkWorkload(clients=20, utterances=6, hidden=34_000, rounds=8, look_every=0, idle=True)
"""34,000 hidden units are 24.8 million values: 99 MB"""
LARGER = BenchmarkWorkload(clients=20, utterances=60, hidden=7_000, rounds=5, epochs=1, look_every=0)
"""20 MB"""
SPARING = ("recovery.rounds=1", "recovery.clients=2", "unlearning.asked=2")
"""few are asked, and few recover"""
COUNTS = (20, 100, 500, 2000)
EACH, TOGETHER = 12, 12_000
"""utterances: of each client; of all clients together"""


class StudyRunner:
    """Measures, and remembers what it has measured.

    Args:
        repeats: of what is timed; medians count. advance: told of each measurement.
    """

    def __init__(self, repeats: int, advance: Callable[[str], None]) -> None:
        self._repeats, self._advance = repeats, advance
        self.raw: dict[str, Any] = {}

    def ask(self, module: str, told: Any, memory: bool = False) -> tuple[dict[str, Any], Watched]:
        """Measure something once, in a process of its own."""
        self._advance(f"{module} {told.get('clients', '')} {told.get('model', '')} {told.get('engine', '')}")
        command = [sys.executable, "-m", f"fedunlearn.study.speed.{module}", json.dumps(told)]
        seen = watch(command, memory)
        try:
            found: dict[str, Any] = json.loads(seen.out.strip().splitlines()[-1])
        except (IndexError, ValueError) as error:
            raise RunFailed(f"{module}: printed no figures but {seen.out[-300:]!r}") from error
        self.raw.setdefault(module, []).append({"asked": told, "found": found, "peak": seen.peak})
        return found, seen

    def federations(
        self, world: BenchmarkWorkload, *engines: tuple[str, int]
    ) -> dict[tuple[str, int], dict[str, Any]]:
        """The same federation on several engines, in turn, as often as repeats say: medians of each.

        Raises:
            RunFailed: they learned different models.
        """
        runs: dict[tuple[str, int], list[dict[str, Any]]] = {engine: [] for engine in engines}
        for _, (engine, workers) in itertools.product(range(self._repeats), engines):
            told = asdict(replace(world, engine=engine, workers=workers))
            runs[engine, workers].append(self.ask("federation", told)[0])
        if len({found["weights"] for found in itertools.chain(*runs.values())}) != 1:
            raise RunFailed(f"{world}: the engines learned different models: {runs}")
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


def overhead(bench: StudyRunner) -> list[Row]:
    """1: what the engine adds, and takes away."""
    part, rows = "1 engine: Ray with 2 workers / one process", []
    for name, world, limit in (("functionals, .4 MB", SMALL, 1.5), ("cnn", CNN, 0.6)):
        engines = (INLINE, ("ray", 1), RAY) if world is SMALL else (INLINE, RAY)
        found = bench.federations(world, *engines)
        ray, inline = found[RAY]["round"], found[INLINE]["round"]
        rows.append(Row(part, name, ray / inline, ("<=", limit), f"{ray:.3f} / {inline:.3f} s a round"))
    found = bench.federations(IDLE, INLINE, RAY)
    ray, inline = found[RAY]["round"], found[INLINE]["round"]
    note = f"one process {inline:.2f} s; {found[RAY]['bytes']['up'] / 1e6:.0f} MB up a client"
    rows.append(Row(part, "idle clients of 100 MB: s a round", ray, ("<=", 1.5), note))
    return [*rows, Row(part, "same weights on all engines and worker counts", 1.0, (">=", 1))]


def flower(bench: StudyRunner) -> list[Row]:
    """2: beside Flower's quickstart."""
    part, rows = "2 plain Flower (quickstart, stock FedAvg) / Ray engine", []
    one_step = replace(LARGER, utterances=6, rounds=8)
    for name, world, limit in (
        ("functionals", SMALL, 3.0),
        ("20 MB of weights, one step a client", one_step, 5.0),
        ("20 MB of weights, three steps", LARGER, None),
    ):
        plain = [bench.ask("plain_flower", asdict(replace(world, workers=WORKERS)))[0] for _ in range(2)]
        ours = bench.federations(world, RAY)[RAY]["round"]
        theirs = statistics.median(found["round"] for found in plain)
        target = (">=", limit) if limit else None
        rows.append(Row(part, name, theirs / ours, target, f"{theirs:.3f} / {ours:.3f} s a round"))
    return rows


def floor(bench: StudyRunner) -> list[Row]:
    """3: how much of the machine is put to use."""
    part, rows = "3 arithmetic alone / (wall x cores)", []
    for name, world, target in (
        ("cnn", replace(CNN, look_every=0), (">=", 0.7)),
        ("functionals", SMALL, None),
    ):
        least = bench.ask("arithmetic", asdict(world))[0]["round"]
        wall = bench.federations(world, RAY)[RAY]["round"]
        note = f"{least:.3f} s / ({wall:.3f} s x {WORKERS})"
        rows.append(Row(part, name, least / (wall * WORKERS), target, note))
    return rows


def scale(bench: StudyRunner) -> list[Row]:
    """4: from 20 clients to 2,000."""
    part, rows, each = "4 scale, Ray", [], dict[int, float]()
    for kind, of in (("equal data each", lambda _: EACH), ("equal data together", lambda n: TOGETHER // n)):
        for clients in COUNTS:
            world = BenchmarkWorkload(
                clients=clients, utterances=of(clients), rounds=max(6, min(30, 2000 // clients))
            )
            found, seen = bench.ask("federation", asdict(replace(world, workers=WORKERS)), memory=True)
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
    found, seen = bench.ask("federation", asdict(long), memory=True)
    grown = seen.growth(*found["learning"])
    rows.append(Row(part, "growth of memory over 200 rounds", grown, ("<=", 0.05), "100 clients"))
    return rows


def forgetting(bench: StudyRunner, data: Path | None) -> list[Row]:
    """5: beside training again."""
    speech = "RAVDESS" if data else "generated speech"
    part, rows = f"5 retraining / (unlearn + recover), {speech}", []
    with tempfile.TemporaryDirectory(prefix="fedunlearn-") as temporary:
        for name, more in (("", ()), (", sparing", SPARING)):
            for count in (10, 48 if data else 40):
                bench._advance(f"unlearning {count}{name}")
                folder = Path(temporary) / f"{count}{name}"
                found = unlearning.measure(count, data, 1, folder, more)
                gap, ratio = found["gap"], found["ratios"]
                bench.raw.setdefault("unlearning", []).append({"count": count, "more": more, **found})
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


def attack(bench: StudyRunner) -> list[Row]:
    """6: adversarial samples."""
    part, rows = "6 attack, samples a second", []
    for domain in ("log-mel", "waveform"):
        found = bench.ask("attack", {"domain": domain})[0]
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


def beginning(bench: StudyRunner) -> list[Row]:
    """7: from the first import to the end of the first round."""
    rows, part = [], "7 start: import to first round, s"
    for name, engine, limit in (("Ray", RAY, 10.0), ("one process", INLINE, 4.0)):
        begin = bench.federations(replace(SMALL, rounds=3), engine)[engine]["start"]
        note = ", ".join(f"{k.replace('_', ' ')} {v:.1f}" for k, v in begin.items())
        rows.append(Row(part, name, sum(begin.values()), ("<=", limit), note))
    return rows


def run(
    parts: Annotated[str, typer.Option(help=f"Which of: {','.join(PARTS)}.")] = ",".join(PARTS),
    data: Annotated[Path | None, typer.Option(help="RAVDESS, for part 5; else generated speech.")] = None,
    repeats: Annotated[int, typer.Option(min=1, max=20, help="Of what is timed; medians count.")] = 3,
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("runs/benchmark.json"),
) -> None:
    """Measure, print a table, write JSON. Exit code 3 where a target is missed."""
    raise SystemExit(run_command(lambda: _run(parts.split(","), data, repeats, out)))


def _run(parts: list[str], data: Path | None, repeats: int, out: Path) -> int:
    if strangers := [part for part in parts if part not in PARTS]:
        raise BadInput(f"--parts: there is no {strangers[0]!r} (there are {', '.join(PARTS)})")
    if data is not None and not data.is_dir():
        raise BadInput(f"--data {data}: no such folder")
    if not os.access(next(p for p in out.absolute().parents if p.exists()), os.W_OK):
        raise BadInput(f"--out {out}: cannot be written")
    measures: dict[str, Callable[[StudyRunner], list[Row]]] = {
        "overhead": overhead,
        "flower": flower,
        "floor": floor,
        "scale": scale,
        "unlearning": lambda bench: forgetting(bench, data),
        "attack": attack,
        "start": beginning,
    }
    about = machine("cpu") | {"cores": usable_cpus()}
    out.parent.mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("{task.description:<44}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    rows: list[Row] = []
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bars:
        bar = bars.add_task("Measuring", total=None)
        bench = StudyRunner(repeats, lambda what: bars.update(bar, description=what, advance=1))
        for part in parts:
            rows += measures[part](bench)
            # After each part: what was measured outlasts whatever comes then.
            report = {"machine": about, "rows": [row.as_dict() for row in rows], "raw": bench.raw}
            write_atomically(out, json.dumps(report, indent=1) + "\n")
    Screen().table(table_of(rows, about))
    say(f"Figures: {out}")
    return EXIT_FAILED if any(row.met is False for row in rows) else EXIT_OK


if __name__ == "__main__":
    start(lambda: typer.run(run))
