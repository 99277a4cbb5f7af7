"""Weights in Flower's records, and the checks that a reply's weights must pass.

These records hold tensors, which are serialised only if somebody reads their bytes. In a deployment Flower
does, to send them. The engines on one host or one cluster do not: in process a message passes the tensors
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
"""the largest integer that fits into a signed protobuf metric"""


class Refused(Exception):
    """A reply must not enter the global model; ``str(error)`` says why."""


class TensorArray(Array):
    """An array of a message that shares the memory of the tensor it was made from.

    Args:
        values: must not change as long as the message exists.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values.detach().cpu().contiguous()
        array = self.values.numpy()
        self.dtype, self.shape, self.stype = str(array.dtype), array.shape, "numpy.ndarray"

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The values in NumPy's file format, as Flower serialises an array."""
        buffer = io.BytesIO()
        np.save(buffer, self.values.numpy(), allow_pickle=False)
        return buffer.getvalue()

    @property
    def bytes(self) -> int:
        """The length of ``data``, computed without serialising it."""
        return _header(self.dtype, self.shape) + self.values.nbytes

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return the values without copying them."""
        return self.values.numpy()

    def __reduce__(self) -> tuple[Any, ...]:
        # With pickle protocol 5, which Ray uses, the values are stored beside the pickle and memory-mapped.
        return _tensor_array, (self.values.numpy(),)


def _tensor_array(array: np.ndarray[Any, Any]) -> TensorArray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shared memory is read-only, which torch has no type for
        return TensorArray(torch.from_numpy(array))


@lru_cache(maxsize=1024)
def _header(dtype: str, shape: tuple[int, ...]) -> int:
    """Number of bytes before the values in NumPy's file format."""
    buffer = io.BytesIO()
    form = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, form)
    return len(buffer.getvalue())


def lend(state: Mapping[str, Tensor]) -> ArrayRecord:
    """Turn a state dict into an array record that shares its memory; it must not be changed any more."""
    record = ArrayRecord()
    for key, value in state.items():
        record[key] = TensorArray(value)
    return record


def pack(state: Mapping[str, Tensor]) -> ArrayRecord:
    """Turn a state dict into an array record with a copy of it, in the state dict's key order."""
    return lend({key: value.detach().clone() for key, value in state.items()})


def borrow(record: ArrayRecord) -> StateDict:
    """Turn an array record into a read-only state dict, which may share its memory; reads no pickle."""
    return {
        key: array.values if isinstance(array, TensorArray) else torch.from_numpy(np.array(array.numpy()))
        for key, array in record.items()
    }


def unpack(record: ArrayRecord) -> StateDict:
    """Turn an array record into a state dict with memory of its own; reads no pickle."""
    return {key: torch.from_numpy(np.array(array.numpy())) for key, array in record.items()}


def weights_like(
    content: RecordDict, name: str, like: Mapping[str, Tensor], borrowed: bool = False, finite: bool = True
) -> StateDict:
    """Read the weights in a reply and check their keys, shapes, types and values.

    Args:
        content: of the reply.
        name: of the array record.
        like: state dict with the expected keys, shapes and types.
        borrowed: whether the result may share the reply's memory, and is only read.
        finite: whether to check that all values are finite; otherwise the caller does.

    Raises:
        Refused: they are missing, have other keys, shapes or types, or contain NaN or infinity.
    """
    record = content.array_records.get(name)
    if record is None:
        raise Refused(f"the reply holds no {name}")
    if record.keys() != like.keys():
        odd = sorted(set(record.keys()) ^ set(like.keys()))
        raise Refused(f"{name} has other keys than the model: {', '.join(odd[:3])}")
    try:
        state = borrow(record) if borrowed else unpack(record)
    except Exception as error:  # NumPy fails in many ways on bytes that are not its own
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
    if values.dtype == torch.float32:  # its squares always fit into float64
        return math.isfinite(sum_of_squares(values))
    return bool(torch.isfinite(values).all())


def number(content: RecordDict, name: str) -> float:
    """Read a scalar metric of a reply.

    Args:
        content: of the reply.
        name: of the metric.

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
    """The settings in a message, such as its round or learning rate, read with their types.

    Every method raises ValueError if the message lacks the setting, or if it has another type.

    Args:
        content: of the message.
        record: name of the config record.
    """

    def __init__(self, content: RecordDict, record: str = "settings") -> None:
        self._settings = content.config_records.get(record, ConfigRecord())

    def integer(self, name: str) -> int:
        """Read an integer."""
        value = self._settings.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"the message's {name} is {value!r}, not a whole number")
        return value

    def real(self, name: str) -> float:
        """Read a float."""
        value = self._settings.get(name)
        if not isinstance(value, float):
            raise ValueError(f"the message's {name} is {value!r}, not a number")
        return value

    def text(self, name: str) -> str:
        """Read a string."""
        value = self._settings.get(name)
        if not isinstance(value, str):
            raise ValueError(f"the message's {name} is {value!r}, not a word")
        return value

    def texts(self, name: str) -> list[str]:
        """Read a list of strings."""
        value = self._settings.get(name)
        if not isinstance(value, list):
            raise ValueError(f"the message's {name} is {value!r}, not a list")
        return [str(v) for v in value]


def serialised(content: RecordDict) -> RecordDict:
    """Return the content of a message with Flower's own arrays, which alone a deployment can send.

    Flower 1.42 names an object's class when it sends it and knows no subclass of ``Array``. The bytes are
    those that ``TensorArray`` gives, so that sizes and values stay as they are.

    Args:
        content: of a message; it is not changed.
    """
    return RecordDict({name: _serialised(record) for name, record in content.items()})


def _serialised(
    record: ArrayRecord | MetricRecord | ConfigRecord,
) -> ArrayRecord | MetricRecord | ConfigRecord:
    if not isinstance(record, ArrayRecord):
        return record
    plain = ArrayRecord()
    for key, array in record.items():
        plain[key] = Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=array.data)
    return plain
