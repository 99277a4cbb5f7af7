"""Weights in and out of Flower's records, and the refusal of whatever is not weights."""

import json
from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

State = dict[str, Tensor]
"""A model's state dict, on the CPU."""


class Refused(Exception):
    """A reply that must not enter the global model; ``str(error)`` says why."""


def pack(state: Mapping[str, Tensor]) -> ArrayRecord:
    """State dict to an array record: NumPy's own format, in the state's key order."""
    return ArrayRecord({key: value.detach().cpu() for key, value in state.items()})


def unpack(record: ArrayRecord) -> State:
    """Array record to a state dict. Never reads pickled data."""
    return {key: torch.from_numpy(np.array(array.numpy())) for key, array in record.items()}


def weights_like(content: RecordDict, name: str, like: Mapping[str, Tensor]) -> State:
    """The weights in a reply, if they are of the global model's form and finite.

    Raises:
        Refused: missing, of other keys, shapes or types, or with NaN or infinity.
    """
    record = content.array_records.get(name)
    if record is None:
        raise Refused(f"the reply holds no {name}")
    if record.keys() != like.keys():
        odd = sorted(set(record.keys()) ^ set(like.keys()))
        raise Refused(f"{name} has other keys than the model: {', '.join(odd[:3])}")
    try:
        state = unpack(record)
    except Exception as error:  # bytes of a stranger: NumPy's reader fails in many ways
        raise Refused(f"{name} cannot be read ({error})") from error
    for key, expected in like.items():
        if state[key].shape != expected.shape or state[key].dtype != expected.dtype:
            raise Refused(
                f"{name}: {key} is {state[key].dtype} {tuple(state[key].shape)}, "
                f"the model's is {expected.dtype} {tuple(expected.shape)}"
            )
        if not torch.isfinite(state[key]).all():
            raise Refused(f"{name}: {key} has values that are not finite")
    return state


def number(content: RecordDict, name: str) -> float:
    """A scalar metric of a reply.

    Raises:
        Refused: missing, a list, or not finite.
    """
    value = content.metric_records.get("metrics", MetricRecord()).get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise Refused(f"the reply's metric {name} is {value!r}, not a finite number")
    return float(value)


def count(content: RecordDict, name: str) -> int:
    """A count of a reply, >= 0.

    Raises:
        Refused: missing, not finite, or negative.
    """
    value = int(number(content, name))
    if value < 0:
        raise Refused(f"the reply's metric {name} is {value}; a count was expected")
    return value


class Asked:
    """The small settings that go with a message (round, stream, learning rate), read with their types.

    Raises (every method):
        ValueError: the message lacks the setting, or it is of another type.
    """

    def __init__(self, content: RecordDict, record: str = "settings") -> None:
        self._settings = content.config_records.get(record, ConfigRecord())

    def integer(self, name: str) -> int:
        """A whole number."""
        value = self._settings.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"the message's {name} is {value!r}, not a whole number")
        return value

    def real(self, name: str) -> float:
        """A number."""
        value = self._settings.get(name)
        if not isinstance(value, float):
            raise ValueError(f"the message's {name} is {value!r}, not a number")
        return value

    def text(self, name: str) -> str:
        """A word."""
        value = self._settings.get(name)
        if not isinstance(value, str):
            raise ValueError(f"the message's {name} is {value!r}, not a word")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of words."""
        value = self._settings.get(name)
        if not isinstance(value, list):
            raise ValueError(f"the message's {name} is {value!r}, not a list")
        return [str(v) for v in value]


def size(content: RecordDict) -> int:
    """Bytes of everything a message carries: arrays, metrics and settings (these as JSON)."""
    # Flower 1.41 cannot count an empty word or an empty list, so settings are counted here.
    settings = sum(len(json.dumps(dict(record), default=str)) for record in content.config_records.values())
    arrays = sum(record.count_bytes() for record in content.array_records.values())
    return settings + arrays + sum(record.count_bytes() for record in content.metric_records.values())
