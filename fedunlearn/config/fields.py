"""What all settings are made of: the base class, and numbers and texts with their legal ranges."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

LARGEST = 10**9
"""of every count: more rounds, utterances or steps than anybody will see, and few enough for any message"""
LARGEST_SEED = 2**63 - 1
LARGEST_SHAPE = 100_000
"""of what memory is asked for: a layer's width, a rank, clients, processes"""
LARGEST_FLOAT = 1e15
"""its square is still a float32, of which models are made"""


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
OpenFraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, le=LARGEST_FLOAT, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, le=LARGEST_FLOAT, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
AtLeastOne = Annotated[int, Field(ge=1, le=LARGEST)]
Shape = Annotated[int, Field(ge=1, le=LARGEST_SHAPE)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Seconds = Annotated[float, Field(ge=0.0, le=3600.0, allow_inf_nan=False)]


class Settings(BaseModel):
    """Base of all settings: frozen, strict about unknown keys and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @field_validator("*", mode="after")
    @classmethod
    def _can_be_written_down(cls, value: Any) -> Any:
        for text in (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ():
            if isinstance(text, str):
                _check_text(text)
        return value


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("must be UTF-8, which settings are written down in; rename it") from error
