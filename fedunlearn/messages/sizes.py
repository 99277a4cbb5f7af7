"""The size of a message in bytes as Flower serialises it, computed without serialising the weights."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedunlearn.messages.flower_internals import recorddict_to_proto
from fedunlearn.messages.records import LARGEST_SIGNED, TensorArray, pack


def size(content: RecordDict) -> int:
    """Compute the exact size in bytes of a message's content as Flower serialises it.

    The metadata (ids, times: about 200 bytes) are not counted: they differ from run to run.

    Args:
        content: of the message.
    """
    return sum(_field(_text(name) + _field(_record(record))) for name, record in content.items())


def _record(record: ArrayRecord | MetricRecord | ConfigRecord) -> int:
    # Serialising would copy all weights once more for every message.
    if isinstance(record, ArrayRecord):
        return _arrays(record)
    if isinstance(record, MetricRecord):
        return sum(_field(_text(name) + _field(_number(value))) for name, value in record.items())
    return _config(tuple((n, _kinds(v), tuple(v) if isinstance(v, list) else v) for n, v in record.items()))


@lru_cache(maxsize=4096)
def _config(items: tuple[tuple[str, Any, Any], ...]) -> int:
    """Size of settings, which are small and repeat themselves: they are serialised once."""
    values = {name: list(v) if isinstance(v, tuple) else v for name, _, v in items}
    proto = recorddict_to_proto(RecordDict({"": ConfigRecord(values)}))
    return int(proto.items[0].config_record.ByteSize())


def _kinds(value: Any) -> Any:
    # 1, 1.0 and True are equal, but have different sizes.
    return tuple(map(type, value)) if isinstance(value, list) else type(value)


def _number(value: int | float | list[int] | list[float]) -> int:
    """Size of a metric: a double, or an integer in the encoding that Flower chooses for its sign."""
    if isinstance(value, float):
        return 9
    if isinstance(value, int):
        return 1 + _varint(value if value > LARGEST_SIGNED else 2 * value if value >= 0 else -2 * value - 1)
    proto = recorddict_to_proto(RecordDict({"": MetricRecord({"": value})}))
    return int(proto.items[0].metric_record.items[0].value.ByteSize())


def _text(text: str) -> int:
    """Size of a protobuf string, which is left out if it is empty."""
    return _field(len(text.encode())) if text else 0


def weights_size(name: str, state: Mapping[str, Tensor]) -> int:
    """Compute the size in bytes of a message that carries weights and nothing else.

    Args:
        name: of the array record.
        state: the weights.
    """
    return size(RecordDict({name: pack(state)}))


def _arrays(record: ArrayRecord) -> int:
    total = 0
    for name, array in record.items():
        shape = sum(_varint(n) for n in array.shape)
        data = array.bytes if isinstance(array, TensorArray) else len(array.data)
        parts = (len(array.dtype), shape, len(array.stype), data)
        total += _field(_text(name) + _field(sum(_field(n) for n in parts if n)))
    return total


def _field(length: int) -> int:
    """Size of a protobuf field with ``length`` bytes of content: tag, length and content."""
    return 1 + _varint(length) + length


def _varint(value: int) -> int:
    """Size of a protobuf integer >= 0: seven bits per byte."""
    return max(1, -(-value.bit_length() // 7))
