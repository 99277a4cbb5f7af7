"""Speed and size: ``python simulations/benchmark.py`` prints a table and writes benchmark.json.

Every figure is a ratio, or an absolute figure with a target, of one run on one machine; medians of repeats.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import parts as measured
from benchmarks.encoder_work import machine
from benchmarks.parts import PARTS, Measurements
from benchmarks.table import Row, table_of
from fedunlearn.__main__ import start
from fedunlearn.cli.exit_codes import run_command
from fedunlearn.console import Screen, errors, say
from fedunlearn.cpus import usable_cpus
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, BadInput
from fedunlearn.files import write_atomically


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
    measures: dict[str, Callable[[Measurements], list[Row]]] = {
        "overhead": measured.overhead,
        "flower": measured.flower,
        "floor": measured.floor,
        "scale": measured.scale,
        "unlearning": lambda measurements: measured.forgetting(measurements, data),
        "attack": measured.attack,
        "start": measured.beginning,
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
        measurements = Measurements(repeats, lambda what: bars.update(bar, description=what, advance=1))
        for part in parts:
            rows += measures[part](measurements)
            # After each part, so that it is kept if a later part fails.
            report = {"machine": about, "rows": [row.as_dict() for row in rows], "raw": measurements.raw}
            write_atomically(out, json.dumps(report, indent=1) + "\n")
    Screen().table(table_of(rows, about))
    say(f"Figures: {out}")
    return EXIT_FAILED if any(row.met is False for row in rows) else EXIT_OK


if __name__ == "__main__":
    start(lambda: typer.run(run))
