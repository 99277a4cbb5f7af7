"""``fedunlearn pretrain``: a small speech encoder, trained from scratch without labels."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedunlearn.cli.exit_codes import run_command, stopped_as_interrupt
from fedunlearn.config.fields import LARGEST, LARGEST_SEED, LARGEST_SHAPE
from fedunlearn.console import errors, warn
from fedunlearn.errors import EXIT_OK, BadInput


def pretrain(
    out: Annotated[Path, typer.Option(help="New folder for the encoder.")],
    kind: Annotated[str, typer.Option(help="wav2vec2, hubert or wavlm.")] = "wav2vec2",
    data: Annotated[Path | None, typer.Option(help="Folder of recordings; only read.")] = None,
    corpus: Annotated[
        str, typer.Option(help="Whose names its files have; folder = any sound files.")
    ] = "folder",
    only: Annotated[str, typer.Option(help="Learn from these speakers, such as 03,11; empty = all.")] = "",
    leave_out: Annotated[str, typer.Option(help="Not from these speakers.")] = "",
    speakers: Annotated[
        int, typer.Option(min=0, max=LARGEST, help="From the first so many in a seeded order; 0 = all.")
    ] = 0,
    generated: Annotated[
        int | None,
        typer.Option(min=0, max=10_000, help="Speakers to generate [default: 200 without --data, else 0]."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of all that is drawn.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, max=LARGEST, help="Batches to learn from.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=LARGEST_SHAPE, help="Crops in a batch.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at its highest.")] = None,
    hidden: Annotated[
        int | None, typer.Option(min=4, max=LARGEST_SHAPE, help="Width of the transformer.")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, max=1000, help="Layers of the transformer.")] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Round the weights to float16, which halves the file.")
    ] = False,
) -> None:
    """Pre-train a small speech encoder, for --model of a run.

    Without --data it learns from generated speech; with --corpus ravdess --data PATH --only 03,11,16,24 from
    some speakers of a corpus; with --data PATH from any folder of sound files. The encoder knows everybody
    that it has learned from: keep these speakers out of the federation.

    Exit codes: 0 it is saved; 2 bad input; 3 failed or interrupted.
    """

    def command() -> int:
        wanted = {
            "corpus": corpus,
            "data": str(data) if data else "",
            "only": _names(only),
            "leave_out": _names(leave_out),
            "speakers": speakers,
            "generated": generated if generated is not None else 0 if data else 200,
        }
        shape = {"steps": steps, "batch": batch, "lr": lr, "hidden": hidden, "layers": layers}
        return _pretrain(out, kind, wanted, seed, {k: v for k, v in shape.items() if v is not None}, half)

    raise SystemExit(run_command(command))


def _pretrain(
    out: Path, kind: str, wanted: dict[str, Any], seed: int, shape: dict[str, int | float], half: bool
) -> int:
    # Heavy imports wait until the command is called.
    from fedunlearn.corpora import unlabelled
    from fedunlearn.models.encoders import pretrained_folder, pretraining

    choice = unlabelled.Choice(**wanted)
    recipe = pretraining.Recipe(kind=kind, **shape)  # type: ignore[arg-type]
    problems: list[str] = []
    sources: list[unlabelled.Source] = []
    try:
        sources = unlabelled.choose(choice, seed)
    except BadInput as error:
        problems += error.problems
    for check in (
        recipe.check,
        lambda: pretrained_folder.check(out, Path(choice.data) if choice.data else None),
    ):
        try:
            check()
        except BadInput as error:
            problems += error.problems
    if problems:
        raise BadInput(problems)
    for line in (line for source in sources for line in source.warnings):
        warn(line)
    with stopped_as_interrupt(), _bars() as bars:
        listening = bars.add_task("Listening", total=sum(len(s.readers) for s in sources), note="")
        recordings = unlabelled.decode(sources, lambda: bars.advance(listening))
        learning = bars.add_task("Learning", total=recipe.steps, note="")
        pretrained = pretraining.pretrain(
            recordings,
            recipe,
            seed,
            lambda step, loss: bars.update(learning, completed=step, note=f"loss {loss:.3f}"),
        )
        pretrained_folder.write(out, pretrained, recipe, [source.text for source in sources], seed, half)
    first, last = pretrained.curve[0][1], pretrained.curve[-1][1]
    errors.tell(f"{out}: loss {first:.3f} -> {last:.3f}; use it with --model {out}")
    return EXIT_OK


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=errors,
        disable=not errors.is_terminal,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
