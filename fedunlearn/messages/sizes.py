"""Bytes of a message as Flower serialises it, counted without serialising the weights."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedunlearn.messages.flower_internals import recorddict_to_proto
from fedunlearn.messages.records import LARGEST_SIGNED, Held, pack


def size(content: RecordDict) -> int:
    """Bytes of a message's content as Flower serialises it, exactly: arrays, metrics, settings, their names.

    The envelope (ids, times: about 200 bytes) is not counted: it differs from run to run.
    """
    return sum(_field(_text(name) + _field(_record(record))) for name, record in content.items())


def _record(record: ArrayRecord | MetricRecord | ConfigRecord) -> int:
    # Counted and not serialised: that would copy all weights once more for every message.
    if isinstance(record, ArrayRecord):
        return _arrays(record)
    if isinstance(record, MetricRecord):
        return sum(_field(_text(name) + _field(_number(value))) for name, value in record.items())
    return _config(tuple((n, _kinds(v), tuple(v) if isinstance(v, list) else v) for n, v in record.items()))


@lru_cache(maxsize=4096)
def _config(items: tuple[tuple[str, Any, Any], ...]) -> int:
    """Of settings, which are few and come again and again: as Flower serialises them."""
    values = {name: list(v) if isinstance(v, tuple) else v for name, _, v in items}
    proto = recorddict_to_proto(RecordDict({"": ConfigRecord(values)}))
    return int(proto.items[0].config_record.ByteSize())


def _kinds(value: Any) -> Any:
    # 1, 1.0 and True are equal, and take different bytes.
    return tuple(map(type, value)) if isinstance(value, list) else type(value)


def _number(value: int | float | list[int] | list[float]) -> int:
    """Of a metric: a double, or a whole number of either sign as Flower chooses."""
    if isinstance(value, float):
        return 9
    if isinstance(value, int):
        return 1 + _varint(value if value > LARGEST_SIGNED else 2 * value if value >= 0 else -2 * value - 1)
    proto = recorddict_to_proto(RecordDict({"": MetricRecord({"": value})}))
    return int(proto.items[0].metric_record.items[0].value.ByteSize())


def _text(text: str) -> int:
    """Of a protobuf string, which is left out where it is empty."""
    return _field(len(text.encode())) if text else 0


def weights_size(name: str, state: Mapping[str, Tensor]) -> int:
    """Bytes of a message that carries these weights and nothing else."""
    return size(RecordDict({name: pack(state)}))


def _arrays(record: ArrayRecord) -> int:
    total = 0
    for name, array in record.items():
        shape = sum(_varint(n) for n in array.shape)
        data = array.bytes if isinstance(array, Held) else len(array.data)
        parts = (len(array.dtype), shape, len(array.stype), data)
        total += _field(_text(name) + _field(sum(_field(n) for n in parts if n)))
    return total


def _field(length: int) -> int:
    """Of a protobuf field that holds ``length`` bytes: its tag, its length and they."""
    return 1 + _varint(length) + length


def _varint(value: int) -> int:
    """Of a protobuf whole number >= 0: seven bits a byte."""
    return max(1, -(-value.bit_length() // 7))
