"""What encoders cost: ``python simulations/encoder_speed.py`` prints a table and writes encoder-speed.json.

Seconds a round, peak memory, bytes, attack samples a second in a batch and one by one, and the share of the
machine's own matrix rate that is reached, for each part of the encoder that may train. Each is measured in a
process of its own. On a GPU a wav2vec 2.0 base is taken, on a CPU a small one (4 M parameters), with random
weights, which take as long as others.

Exit codes: 0 all was measured, and both ways to attack agree; 2 bad input; 3 they do not, or a process died.
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fedunlearn.__main__ import start
from fedunlearn.cli.exit_codes import run_command
from fedunlearn.config.fields import LARGEST_SHAPE
from fedunlearn.console import Screen, errors, say, visible
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, BadInput, RunFailed

_MODELS = {"cpu": "random:wav2vec2-small", "cuda": "random:wav2vec2-base"}
_WIDTH = 100
"""of the table, also where a file is written to"""
_AGREE = {"float32": 0.01, "bfloat16": 0.3}
"""How far apart the two attacks' results may lie, as a share of what they moved; bfloat16 rounds to 1/256."""


def encoder_speed(
    model: Annotated[str, typer.Option(help="As model.name; default: by device.")] = "",
    trains: Annotated[str, typer.Option(help="Parts that train, by commas.")] = "head,lora,top:2,all",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    clients: Annotated[int, typer.Option(min=1, max=LARGEST_SHAPE, help="In a round.")] = 20,
    utterances: Annotated[int, typer.Option(min=1, max=LARGEST_SHAPE, help="Of each client; one batch.")] = 8,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600.0, help="Of each utterance.")] = 3.0,
    seconds_at_once: Annotated[float, typer.Option(help="Of audio in one piece.")] = 30.0,
    attacked: Annotated[int, typer.Option(min=1, max=LARGEST_SHAPE, help="Utterances attacked.")] = 16,
    steps: Annotated[int, typer.Option(min=1, max=LARGEST_SHAPE, help="Of the attack.")] = 5,
    repeats: Annotated[
        int, typer.Option(min=1, max=LARGEST_SHAPE, help="Measurements; medians are shown.")
    ] = 3,
    threads: Annotated[
        int, typer.Option(min=1, max=LARGEST_SHAPE, help="Of torch on the CPU; a device has 1.")
    ] = 1,
    out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("encoder-speed.json"),
    one: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Measure what speech encoders cost a federation."""

    def command() -> int:
        # Heavy imports wait.
        from benchmarks.encoder_work import EncoderLoad, measure
        from fedunlearn.config.model import ModelSettings
        from fedunlearn.models import resolved

        if not math.isfinite(seconds):
            raise BadInput(f"--seconds {seconds}: give a number of seconds")
        if one:
            print(json.dumps(measure(EncoderLoad(**json.loads(one)))))
            return EXIT_OK
        chosen = {"device": device, "precision": precision, "seconds_at_once": seconds_at_once}
        loads = []
        for part in trains.split(","):
            settings = _settings(ModelSettings, model or _MODELS["cpu"], {**chosen, "trains": part})
            found = resolved(settings).encoder
            loads.append(
                EncoderLoad(
                    model or _MODELS[found.device],
                    part,
                    found.device,
                    found.precision,
                    seconds_at_once,
                    clients,
                    utterances,
                    seconds,
                    attacked,
                    steps,
                    repeats,
                    threads,
                )
            )
        rows = [_in_a_process(vars(load)) for load in loads]
        out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        screen = Screen()
        screen.width = max(screen.width, _WIDTH)
        screen.table(_table(rows))
        for note in _notes(rows):
            say(note)
        apart = [r for r in rows if not r["attack"]["difference"] <= _AGREE[r["load"]["precision"]]]
        for row in apart:
            line = f"{row['load']['trains']}: {row['attack']['difference']:.2g} of what was moved"
            errors.labelled("the two attacks differ:", "red", line)
        return EXIT_FAILED if apart else EXIT_OK

    raise SystemExit(run_command(command))


def _settings(kind: Any, model: str, encoder: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    try:
        return kind(name=model, encoder=encoder)
    except ValidationError as error:
        raise BadInput(
            [f"--{str(e['loc'][-1]).replace('_', '-')} {e['input']}: {e['msg']}" for e in error.errors()]
        ) from error


def _in_a_process(load: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", json.dumps(load)]
    with errors.status(Text(visible(f"Measuring {load['model']}, trains = {load['trains']}"))):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed, perhaps out of memory"])[-1]
        raise RunFailed(f"trains = {load['trains']}: {last}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _table(rows: list[dict[str, Any]]) -> Table:
    load, machine = rows[0]["load"], rows[0]["machine"]
    table = Table(title=f"{load['model']} ({rows[0]['weights']} weights) on {machine['name']}")
    for name in (
        "trains",
        "trained",
        "s/round",
        "of rate",
        "MiB",
        "kB up",
        "kB down",
        "attack/s",
        "1 by 1",
        "of rate",
    ):
        table.add_column(name, justify="left" if name == "trains" else "right", no_wrap=True)
    for row in rows:
        attack = row["attack"]
        table.add_row(
            row["load"]["trains"],
            f"{row['parameters']:,}",
            f"{row['round_seconds']:.3g}",
            f"{row['round_share']:.1%}",
            f"{row['peak_bytes'] / 2**20:,.0f}",
            f"{row['bytes_up'] / 1000:,.0f}",
            f"{row['bytes_down'] / 1000:,.0f}",
            f"{attack['samples_per_second']['batched']:.3g}",
            f"{attack['samples_per_second']['one_by_one']:.3g}",
            f"{attack['share']:.1%}",
        )
    return table


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    load, machine = rows[0]["load"], rows[0]["machine"]
    rate = max(row["matrix_flops_per_second"] for row in rows) / 1e9
    before = rows[0]["start_bytes"] / 2**20
    notes = [
        f"{load['device']}, {load['precision']}, torch {machine['torch']}, {machine['threads']} thread(s); "
        f"{load['clients']} clients of {load['utterances']} utterances of {load['seconds']:g} s (noise), "
        f"one epoch; medians of {load['repeats']}.",
        f"MiB: peak of {rows[0]['peak_of']}; {before:,.0f} of them before the first round.",
        f"of rate: {rate:,.0f} GFLOP/s, which two large matrices reach here, are 100 %.",
        f"attack/s: waveforms of a batch of {load['attacked']}, {load['steps']} steps; the same one by one.",
    ]
    for row in rows:
        if row["listen_seconds"]:
            notes.append(
                f"{row['load']['trains']}: before the first round, {row['listen_seconds']:.3g} s a client to "
                "listen to its utterances once."
            )
    return notes


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(encoder_speed)
    start(app)
