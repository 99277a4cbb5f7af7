"""Options that several commands share: which experiment, and what is changed in it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedunlearn.config import parse_override
from fedunlearn.config.presets import find_config, preset_names

ConfigOption = Annotated[
    list[Path] | None,
    typer.Option(
        help=f"An experiment: a TOML file, or a preset ({', '.join(preset_names())}); "
        "without it, generated speech. Given more than once, a later one replaces the keys of those before "
        "it."
    ),
]
DataOption = Annotated[Path | None, typer.Option(help="Folder of the corpus; only read (corpus.path).")]
EngineOption = Annotated[str | None, typer.Option(help="ray, inline or flower (federation.engine).")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE", help="Any other setting.")
]


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
