"""Nested settings as dotted keys."""

from collections.abc import Iterator, Mapping
from typing import Any


def dotted_values(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every setting that is no section; an empty section yields none.

    Args:
        tree: settings as plain data.
        prefix: of all keys.
    """
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from dotted_values(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
