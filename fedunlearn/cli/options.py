"""Options that several commands share: which experiment, and what is changed in it."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperCommand

from fedunlearn.config import ColumnNames, parse_override
from fedunlearn.config.presets import find_config, preset_names
from fedunlearn.errors import BadInput

ConfigOption = Annotated[
    list[Path] | None,
    typer.Option(
        help=f"An experiment: a TOML file, or a preset ({', '.join(preset_names())}); "
        "without it, generated speech. Given more than once, a later one replaces the keys of those before "
        "it."
    ),
]
DataOption = Annotated[
    Path | None, typer.Option(help="Folder, zip file or table of the corpus; only read (corpus.path).")
]
ColumnsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN=NAME...",
        help="What a table calls its columns, such as path=file speaker=spk emotion=label (corpus.columns).",
    ),
]
EngineOption = Annotated[str | None, typer.Option(help="ray, inline or flower (federation.engine).")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE", help="Any other setting.")
]


class CommandWithColumns(TyperCommand):
    """A command whose option ``--columns`` takes all the words COLUMN=NAME that follow it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line."""
        spread: list[str] = []
        inside = False
        for word in args:
            if word.startswith("-"):
                inside = word.partition("=")[0] == "--columns"
            elif inside and "=" in word and spread[-1] != "--columns":
                spread.append("--columns")
            spread.append(word)
        return super().parse_args(ctx, spread)


def add_command(app: typer.Typer, command: Callable[..., None]) -> None:
    """Add a command to an application.

    Args:
        app: to add it to.
        command: its function.
    """
    with_columns = "columns" in inspect.signature(command).parameters
    app.command(cls=CommandWithColumns if with_columns else None)(command)


def read_columns(words: Iterable[str] | None) -> dict[str, str]:
    """Return the settings that ``--columns`` gives.

    Args:
        words: COLUMN=NAME each.

    Raises:
        BadInput: a word is something else.
    """
    known = ", ".join(ColumnNames.model_fields)
    found = {}
    for word in words or ():
        column, equals, name = word.partition("=")
        if not equals or not name or column not in ColumnNames.model_fields:
            raise BadInput(
                f"--columns {word}: write COLUMN=NAME, such as path=file; COLUMN is one of {known}"
            )
        found[f"corpus.columns.{column}"] = name
    return found


def config_files(places: Iterable[Path] | None) -> tuple[Path, ...]:
    """Return the files that ``--config`` names, by path or by preset.

    Args:
        places: the values of ``--config``; None = it was not given.

    Raises:
        BadInput: one names neither a file nor a preset.
    """
    return tuple(find_config(place) for place in places or ())


def read_overrides(sets: Iterable[str] | None, named: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the settings that the command line changes; an option of its own wins over ``--set``.

    Args:
        sets: the values of ``--set``.
        named: dotted keys to the values of other options; None = not given.

    Raises:
        BadInput: a value of ``--set`` is not KEY.SUB=VALUE.
    """
    overrides = dict(parse_override(text) for text in sets or [])
    return overrides | {key: value for key, value in named.items() if value is not None}
