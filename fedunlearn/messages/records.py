"""Weights in and out of Flower's records, and the refusal of whatever is not weights.

A record of ours holds tensors, and serialises them when somebody asks for bytes. In a deployment Flower does,
for the wire. The engines on one host or one cluster never do: in process a message hands over the tensors
themselves, and Ray puts them into its object store, where every worker of the host reads them in place.
"""

import io
import math
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedunlearn.blockwise import StateDict, sum_of_squares

LARGEST_SIGNED = 2**63 - 1
"""the largest whole number that a protobuf metric carries with a sign"""

LARGE = 1 << 23
"""bytes of weights from which on each update is dealt with by itself: sent alone, and read before the next"""


class Refused(Exception):
    """A reply that must not enter the global model; ``str(error)`` says why."""


class Held(Array):
    """An array of a message that is still the tensor it was made of.

    Args:
        values: on the CPU; not to be changed as long as the message lives.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values.detach().cpu().contiguous()
        array = self.values.numpy()
        self.dtype, self.shape, self.stype = str(array.dtype), array.shape, "numpy.ndarray"

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """NumPy's own format, as Flower would have serialised it at once."""
        buffer = io.BytesIO()
        np.save(buffer, self.values.numpy(), allow_pickle=False)
        return buffer.getvalue()

    @property
    def bytes(self) -> int:
        """``len(data)``, without making it."""
        return _header(self.dtype, self.shape) + self.values.nbytes

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values, not copied."""
        return self.values.numpy()

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled with protocol 5, as Ray does, the values travel beside the pickle and are mapped
        return _held, (self.values.numpy(),)


def _held(array: np.ndarray[Any, Any]) -> Held:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shared memory is read-only, which torch cannot express
        return Held(torch.from_numpy(array))


@lru_cache(maxsize=1024)
def _header(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes that NumPy's format puts before the values."""
    buffer = io.BytesIO()
    form = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, form)
    return len(buffer.getvalue())


def lend(state: Mapping[str, Tensor]) -> ArrayRecord:
    """State dict to an array record that shares its memory: nobody may change it any more."""
    record = ArrayRecord()
    for key, value in state.items():
        record[key] = Held(value)
    return record


def pack(state: Mapping[str, Tensor]) -> ArrayRecord:
    """State dict to an array record with a copy of it, in the state's key order."""
    return lend({key: value.detach().clone() for key, value in state.items()})


def borrow(record: ArrayRecord) -> StateDict:
    """Array record to a state dict, for reading only: it may share the record's memory. No pickle is read."""
    return {
        key: array.values if isinstance(array, Held) else torch.from_numpy(np.array(array.numpy()))
        for key, array in record.items()
    }


def unpack(record: ArrayRecord) -> StateDict:
    """Array record to a state dict of one's own. Never reads pickled data."""
    return {key: torch.from_numpy(np.array(array.numpy())) for key, array in record.items()}


def weights_like(
    content: RecordDict, name: str, like: Mapping[str, Tensor], borrowed: bool = False, finite: bool = True
) -> StateDict:
    """The weights in a reply, if they are of the global model's form and finite.

    Args:
        borrowed: for reading only, and no longer than the reply lives.
        finite: whether to look that they are; if not, the caller does.

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
        state = borrow(record) if borrowed else unpack(record)
    except Exception as error:  # bytes of a stranger: NumPy's reader fails in many ways
        raise Refused(f"{name} cannot be read ({error})") from error
    for key, expected in like.items():
        if state[key].shape != expected.shape or state[key].dtype != expected.dtype:
            raise Refused(
                f"{name}: {key} is {state[key].dtype} {tuple(state[key].shape)}, "
                f"the model's is {expected.dtype} {tuple(expected.shape)}"
            )
        if finite and not _finite(state[key]):
            raise Refused(f"{name}: {key} has values that are not finite")
    return state


def _finite(values: Tensor) -> bool:
    if values.dtype == torch.float32:  # whose squares no float64 is too small for
        return math.isfinite(sum_of_squares(values))
    return bool(torch.isfinite(values).all())


def number(content: RecordDict, name: str) -> float:
    """A scalar metric of a reply.

    Raises:
        Refused: missing, a list, or not finite.
    """
    value = content.metric_records.get("metrics", MetricRecord()).get(name)
    if isinstance(value, int) and abs(value) > LARGEST_SIGNED:
        raise Refused(f"the reply's metric {name} has more than 64 bits")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused(f"the reply's metric {name} is {value!r:.60}, not a finite number")
    return float(value)


class MessageConfig:
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
