"""The base class of all settings, and number types with their legal ranges."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

LARGEST = 10**9
"""Upper bound of every count: beyond any real use, and small enough for any message."""
LARGEST_SEED = 2**63 - 1
"""Upper bound of seeds."""
LARGEST_SHAPE = 100_000
"""Upper bound of whatever memory is allocated for: a layer's width, a rank, clients, processes."""
LARGEST_FLOAT = 1e15
"""Upper bound of real numbers: its square still fits a float32."""


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
OpenFraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, le=LARGEST_FLOAT, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, le=LARGEST_FLOAT, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
AtLeastOne = Annotated[int, Field(ge=1, le=LARGEST)]
Shape = Annotated[int, Field(ge=1, le=LARGEST_SHAPE)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Seconds = Annotated[float, Field(ge=0.0, le=3600.0, allow_inf_nan=False)]


def _none_if_auto(value: Any) -> Any:
    return None if value == "auto" else value


def _enough_shadows(value: int) -> int:
    if 0 < value < LEAST_SHADOWS:
        raise ValueError(
            f"shadows must be 0 or at least {LEAST_SHADOWS} (got {value}): each is attacked with what the "
            "others show, and fewer show nothing"
        )
    return value


LEAST_SHADOWS = 8
"""shadow federations from which on an attack learns anything"""
ShadowCount = Annotated[int, Field(ge=0, le=10_000), AfterValidator(_enough_shadows)]

AUTO = BeforeValidator(_none_if_auto)
"""Lets a setting that is worked out from the corpus be given as "auto", which is kept as None."""


class Settings(BaseModel):
    """Base class of all settings: immutable, and strict about unknown keys and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Let a field whose default alone is changed in a subclass keep its description."""
        for name, field in cls.model_fields.items():
            parents = (
                parent.model_fields.get(name) for parent in cls.__mro__[1:] if issubclass(parent, Settings)
            )
            inherited = (parent.description for parent in parents if parent and parent.description)
            field.description = field.description or next(inherited, None)

    @field_validator("*", mode="after")
    @classmethod
    def _can_be_written_down(cls, value: Any) -> Any:
        for text in (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ():
            if isinstance(text, str):
                _check_text(text)
        return value


class Options(BaseModel):
    """Settings of something that a user defined: any keys here, checked by the class that it brings."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    @model_validator(mode="after")
    def _can_be_written_down(self) -> Self:
        for text in _texts_in(self.model_dump()):
            _check_text(text)
        return self


def _texts_in(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from (*_texts_in(key), *_texts_in(value))
    elif isinstance(node, Sequence):
        for value in node:
            yield from _texts_in(value)


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("must be UTF-8, which settings are written down in; rename it") from error
