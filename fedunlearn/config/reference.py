"""The page of all settings, docs/configuration.md, generated from the fields' own descriptions.

``python -m fedunlearn.config.reference > docs/configuration.md`` writes it anew.
"""

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from fedunlearn.config import Config
from fedunlearn.config.fields import AUTO, LARGEST, LARGEST_FLOAT, LARGEST_SEED, Options, Settings

INTRODUCTION = """\
# Settings

Every key that a TOML file or `--set key.sub=value` may contain. An unknown key, a wrong type or a value out
of range stops the run before it starts, and all errors are reported at once.

```
python simulations/run.py --config configs/ravdess.toml --data PATH            # a file: one experiment
python simulations/run.py --set training.rounds=10 --set recovery.rounds=2        # single keys, on top of it
```

Keys that a file omits have the default given here, so each file in `configs/` lists only what differs from
them. The `config.toml` that a run leaves in its folder contains every key, with numbers in place of "auto".

This page is generated from the settings themselves: change `fedunlearn/config/`, then run
`python -m fedunlearn.config.reference > docs/configuration.md`.
"""


def describe(settings: type[Settings], name: str) -> str:
    """Return the description of a field.

    Args:
        settings: the class of the settings.
        name: the field's name.

    Returns:
        The field's own description or, where a subclass changes only the default, that of the nearest parent.

    Raises:
        ValueError: the field has no description.
    """
    description = settings.model_fields[name].description
    if description:
        return description
    raise ValueError(f"{settings.__name__}.{name} has no description")


def render() -> str:
    """Return docs/configuration.md as text."""
    sections = [INTRODUCTION]
    for key, settings, values in _sections(Config, Config(), ""):
        rows = [
            " | ".join(
                (
                    f"| `{f'{key}.' if key else ''}{name}`",
                    _default(getattr(values, name) if values else field.default, field),
                    _values(field),
                    f"{describe(settings, name)} |",
                )
            )
            for name, field in settings.model_fields.items()
            if not _is_settings(field.annotation)
        ]
        if rows:
            table = "\n".join(["| key | default | values | meaning |", "|---|---|---|---|", *rows])
            sections.append(f"## {key or 'The experiment'}\n\n{_introduction(settings)}\n\n{table}\n")
    return "\n".join(sections)


def _sections(
    settings: type[Settings], values: Settings | None, key: str
) -> Iterator[tuple[str, type[Settings], Settings | None]]:
    """All classes of settings from one down, with their keys and default values.

    A list of tables has the key ``key[]`` and no values.
    """
    yield key, settings, values
    for name, field in settings.model_fields.items():
        below = f"{key}.{name}" if key else name
        kind: Any = field.annotation
        if _is_settings(kind):
            yield from _sections(kind, getattr(values, name), below)
        elif get_origin(kind) is tuple and _is_settings(get_args(kind)[0]):
            yield from _sections(get_args(kind)[0], None, f"{below}[]")


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def _introduction(settings: type[Settings]) -> str:
    paragraphs = (settings.__doc__ or "").replace("``", "`").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _default(value: Any, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if value is None:
        return '`"auto"`' if AUTO in field.metadata else "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(_table(item) for item in value)}]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value!r}`"


def _table(item: Any) -> str:
    """An item of a list; a table is written inline, as in TOML."""
    if not isinstance(item, Settings):
        return json.dumps(item)
    given = item.model_dump(exclude_unset=True).items()
    return f"{{{', '.join(f'{key} = {json.dumps(value)}' for key, value in given)}}}"


def _values(field: FieldInfo) -> str:
    """Legal values of a field: its choices, or its type with the range."""
    kind: Any = field.annotation
    if type(None) in get_args(kind):
        kind = get_args(kind)[0]
    if get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, Options)):
        return "table"
    words = [part for part in get_args(kind) if get_origin(part) is Literal]
    if words:  # a number, or one of these words
        choices = ", ".join(f'`"{choice}"`' for word in words for choice in get_args(word))
        number = next(part for part in get_args(kind) if part not in words)
        return f"{choices}, number {_range(_bounds_within(number))}"
    if get_origin(kind) is Literal:
        return ", ".join(f'`"{choice}"`' for choice in get_args(kind))
    if kind is bool:
        return "`true`, `false`"
    if kind is str:
        return "text"
    if get_origin(kind) is tuple:
        return {str: "list of texts", int: "list of integers", float: "list of numbers"}.get(
            _plain(get_args(kind)[0]), "list of tables"
        )
    if get_origin(_plain(kind)) is dict or _plain(kind) is Options:
        return "table"
    name = "integer" if _plain(kind) is int else "number"
    auto = '`"auto"`, ' if AUTO in field.metadata else ""
    return f"{auto}{name} {_range([*field.metadata, *_bounds_within(kind)])}"


def _plain(kind: Any) -> Any:
    """The type under annotations and under "or none"."""
    while get_args(kind) and get_origin(kind) is not dict:
        kind = get_args(kind)[0]
    return kind


def _bounds_within(kind: Any) -> list[Any]:
    """Bounds inside an annotated type, as in the ``Count`` of ``Count | None``."""
    found: list[Any] = []
    for annotation in getattr(kind, "__metadata__", ()):
        found += getattr(annotation, "metadata", [annotation])
    return found


def _range(bounds: list[Any]) -> str:
    """A range as an interval, or as a lower bound where the upper one only keeps numbers representable."""
    low, high = "", ""
    for bound in bounds:
        match bound:
            case annotated_types.Ge(ge):
                low = f"[{ge:g}"
            case annotated_types.Gt(gt):
                low = f"({gt:g}"
            case annotated_types.Le(le) if le not in (LARGEST, LARGEST_FLOAT, LARGEST_SEED):
                high = f"{le:g}]"
            case annotated_types.Lt(lt):
                high = f"{lt:g})"
    if high:
        return f"in {low}, {high}"
    return f"{'≥' if low[0] == '[' else '>'} {low[1:]}"


if __name__ == "__main__":
    print(render(), end="")
