"""What encoders cost: ``python simulations/benchmarks/gpu.py`` prints a table and writes gpu.json.

For each part of an encoder that may train: seconds of a round of 20 clients, peak memory, waveforms attacked
a second, the share that is reached of the rate of a product of two large matrices, and whether a repetition
gives the same bits. On a GPU the first part is measured once more without ``deterministic``, and a second
process must get the same weights. A GPU gets wav2vec 2.0 base, a CPU a small one (4 M), with random
weights, which take as long as others. Flower and Ray are not needed.

Each measurement has a process of its own, and is written as soon as it is there. What does not fit into
``--budget`` is left out.

Exit codes: 0 all was measured; 2 bad input; 3 a process died, time ran out, the attack in batches differs
from the one by one, or bits that should be the same differ.
"""

import json
import math
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fedunlearn.__main__ import start
from fedunlearn.cli.exit_codes import run_command
from fedunlearn.config.fields import LARGEST_SHAPE
from fedunlearn.console import Screen, errors, say, visible
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, BadInput

if TYPE_CHECKING:
    from benchmarks.encoder_work import EncoderLoad

_WIDTH = 110
"""of the table, also where a file is written to"""
_AGREE = {"float32": 0.01, "bfloat16": 0.3}
"""How far apart the two attacks' results may lie, as a share of what they moved; bfloat16 rounds to 1/256."""
_ERROR_LINES = 60


@dataclass(frozen=True)
class _Size:
    """What is measured by default on a kind of device."""

    model: str
    utterances: int
    seconds_at_once: float
    attacked: int
    steps: int


_SIZES = {
    "cpu": _Size("random:wav2vec2-small", 8, 30.0, 16, 5),
    "cuda": _Size("random:wav2vec2-base", 64, 200.0, 86, 10),
}
"""A GPU needs minutes of audio in one piece: with 24 s most of its time passes between two kernels."""


@dataclass
class _Row:
    """One measurement: its figures, as far as there are any, and what went wrong."""

    label: str
    load: "EncoderLoad"
    cost: dict[str, Any] | None = None
    error: str = ""


def gpu(
    model: Annotated[str, typer.Option(help="As model.name; default: by device.")] = "",
    trains: Annotated[str, typer.Option(help="Parts that train, by commas.")] = "all,head,top:2,lora",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    clients: Annotated[int, typer.Option(min=1, max=LARGEST_SHAPE, help="In a round.")] = 20,
    utterances: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_SHAPE, help="Of each client; one batch.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600.0, help="Of each utterance.")] = 3.0,
    seconds_at_once: Annotated[float | None, typer.Option(help="Of audio in one piece.")] = None,
    attacked: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_SHAPE, help="Utterances attacked.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=LARGEST_SHAPE, help="Of the attack.")] = None,
    repeats: Annotated[
        int, typer.Option(min=1, max=LARGEST_SHAPE, help="Measurements; medians are shown.")
    ] = 3,
    threads: Annotated[
        int, typer.Option(min=1, max=LARGEST_SHAPE, help="Of torch on the CPU; a device has 1.")
    ] = 1,
    budget: Annotated[float, typer.Option(min=1.0, max=86_400.0, help="Seconds in all.")] = 240.0,
    profile: Annotated[bool, typer.Option(help="Write tables of the slowest operations, too.")] = False,
    out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("gpu.json"),
    one: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Measure what speech encoders cost a federation."""

    def command() -> int:
        # Heavy imports wait.
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        from benchmarks.encoder_work import EncoderLoad
        from fedunlearn.models.encoders.devices import choose

        if one:
            return _measure(one, profile, out)
        for name, value in (("seconds", seconds), ("budget", budget)):
            if not math.isfinite(value):
                raise BadInput(f"--{name} {value}: give a number of seconds")
        found, _ = choose(device, precision)  # type: ignore[arg-type]
        size = _SIZES[found]
        load = EncoderLoad(
            model or size.model,
            "",
            device,
            precision,
            True,
            size.seconds_at_once if seconds_at_once is None else seconds_at_once,
            clients,
            utterances or size.utterances,
            seconds,
            attacked or size.attacked,
            steps or size.steps,
            4,
            repeats,
            threads,
        )
        rows = [_Row(part, _resolved(replace(load, trains=part))) for part in trains.split(",")]
        if found == "cuda":
            any_bits = replace(rows[0].load, deterministic=False)
            rows.append(_Row(f"{rows[0].label}, any bits", any_bits))
            rows.append(_Row(f"{rows[0].label}, again", replace(rows[0].load, attacked=0, repeats=0)))
        end = perf_counter() + budget
        for number, row in enumerate(rows):
            _in_a_process(row, out, number, profile and row.load.repeats > 0, end - perf_counter())
            _write(rows, out)
        measured = [row for row in rows if row.cost is not None]
        screen = Screen()
        screen.width = max(screen.width, _WIDTH)
        if measured:
            screen.table(_table(measured))
            for note in _notes(measured):
                say(note)
        problems = _problems(rows)
        for label, problem in problems:
            errors.labelled(f"{label}:", "red", problem)
        return EXIT_FAILED if problems else EXIT_OK

    raise SystemExit(run_command(command))


def _resolved(load: "EncoderLoad") -> "EncoderLoad":
    """Complete a load. Raises BadInput where a setting or the encoder is wrong."""
    from pydantic import ValidationError

    from fedunlearn.config.model import ModelSettings
    from fedunlearn.models import resolved

    names = ("trains", "device", "precision", "seconds_at_once")
    try:
        settings = ModelSettings.model_validate(
            {"name": load.model, "encoder": {name: getattr(load, name) for name in names}}
        )
    except ValidationError as error:
        raise BadInput(
            [f"--{str(e['loc'][-1]).replace('_', '-')} {e['input']}: {e['msg']}" for e in error.errors()]
        ) from error
    encoder = resolved(settings).encoder
    return replace(load, device=encoder.device, precision=encoder.precision)


def _in_a_process(row: _Row, out: Path, number: int, profile: bool, seconds: float) -> None:
    """Measure in a process of its own, and read what it has written, even where it came to no end."""
    if seconds <= 0:
        row.error = "no time was left of --budget"
        return
    partial = out.with_suffix(f".{number}.part.json")
    partial.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--one", json.dumps(asdict(row.load)), "--out", str(partial)]
    command += ["--profile"] if profile else []
    with errors.status(Text(visible(f"Measuring {row.load.model}, trains = {row.label}"))):
        try:
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=seconds)
        except subprocess.TimeoutExpired:
            row.error = "--budget ended before it did"
        else:
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["killed, perhaps out of memory"]
                row.error = "\n".join(lines[-_ERROR_LINES:])
    if partial.exists():
        row.cost = json.loads(partial.read_text("utf-8"))
        partial.unlink()


def _measure(text: str, profile: bool, out: Path) -> int:
    from benchmarks.encoder_work import EncoderCost, EncoderLoad, measure
    from fedunlearn.files import write_atomically

    def write(cost: EncoderCost) -> None:
        write_atomically(out, json.dumps(asdict(cost)))

    load = EncoderLoad(**json.loads(text))
    table = out.with_name(out.name.replace(".part.json", f".{load.trains.replace(':', '')}.profile.txt"))
    measure(load, write, table if profile else None)
    return EXIT_OK


def _write(rows: list[_Row], out: Path) -> None:
    from fedunlearn.files import write_atomically

    found = [
        {"label": row.label, "error": row.error} | (row.cost or {"load": asdict(row.load)}) for row in rows
    ]
    write_atomically(out, json.dumps(found, indent=1) + "\n")


def _problems(rows: list[_Row]) -> list[tuple[str, str]]:
    """Everything that is not as it should be: which measurement, and a line."""
    problems = [(row.label, row.error.splitlines()[-1]) for row in rows if row.error]
    for row in (row for row in rows if row.cost is not None):
        cost: dict[str, Any] = row.cost or {}
        attack = cost.get("attack")
        if attack and not attack["difference"] <= _AGREE[cost["load"]["precision"]]:
            problems.append(
                (row.label, f"the two attacks differ by {attack['difference']:.2g} of what was moved")
            )
        if row.load.deterministic and False in (cost["round"]["same_bits"], (attack or {}).get("same_bits")):
            problems.append((row.label, "a repetition gave other bits"))
        first = rows[0].cost
        if row.label.endswith(", again") and first and cost["round"]["weights"] != first["round"]["weights"]:
            problems.append((row.label, "another process gave other bits"))
    return problems


def _table(rows: list[_Row]) -> Table:
    first = rows[0].cost or {}
    table = Table(
        title=f"{first['load']['model']} ({first['weights']} weights) on {first['machine']['name']}"
    )
    for name in (
        "trains",
        "trained",
        "s/round",
        "training",
        "moving",
        "of rate",
        "GiB",
        "MB sent",
        "attack/s",
    ):
        table.add_column(name, justify="left" if name == "trains" else "right", no_wrap=True)
    for name in ("1 by 1", "of rate", "same bits"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cost: dict[str, Any] = row.cost or {}
        of_round, attack = cost["round"], cost["attack"]
        bits = [b for b in (of_round["same_bits"], attack and attack["same_bits"]) if b is not None]
        table.add_row(
            row.label,
            f"{cost['parameters']:,}",
            f"{of_round['seconds']:.3g}",
            f"{of_round['training_seconds']:.3g}",
            f"{of_round['moving_seconds']:.3g}",
            f"{of_round['share']:.1%}",
            f"{cost['peak_bytes'] / 2**30:.2f}",
            f"{cost['travels'] / 1e6:,.1f}",
            *(
                [f"{attack['samples_per_second']:.3g}", f"{attack['one_by_one_per_second']:.3g}"]
                if attack
                else ["-", "-"]
            ),
            f"{attack['share']:.1%}" if attack else "-",
            {True: "yes", False: "no"}[all(bits)] if bits else "-",
        )
    return table


def _notes(rows: list[_Row]) -> list[str]:
    first: dict[str, Any] = rows[0].cost or {}
    load, machine = first["load"], first["machine"]
    rate = max((row.cost or {})["matrix_flops_per_second"] for row in rows) / 1e12
    notes = [
        f"{load['device']}, {load['precision']}, torch {machine['torch']}, {machine['threads']} thread(s); "
        f"{load['clients']} clients of {load['utterances']} utterances of {load['seconds']:g} s (noise), "
        f"one epoch, {load['seconds_at_once']:g} s at once; medians of {load['repeats']}.",
        "s/round: all; of it training, and moving weights to and from the device; the rest is averaging.",
        f"of rate: {rate:,.3g} TFLOP/s, which two large matrices reach here, are 100 %; of training alone.",
        f"GiB: peak of {first['peak_of']}; {first['start_bytes'] / 2**30:.2f} before the first round.",
        f"attack/s: waveforms of a batch of {load['attacked']}, {load['steps']} steps; the same one by one.",
    ]
    for row in rows:
        if row.cost and row.cost["listen_seconds"]:
            notes.append(
                f"{row.label}: before the first round, {row.cost['listen_seconds']:.3g} s a client to listen "
                "to its utterances once."
            )
    return notes


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(gpu)
    start(app)
