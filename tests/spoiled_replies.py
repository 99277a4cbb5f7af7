"""A Flower mod that spoils replies."""

import io
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord

from fedunlearn.messages.records import pack, unpack

FAULTY = 4


class Spoil:
    """A Flower mod that spoils one client's replies to one kind of message.

    Args:
        kind: message type. how: what to do to the reply. times: how often; then the client is well again.
    """

    def __init__(self, kind: str, how: str, times: int = 1000, client: int = FAULTY) -> None:
        self.kind, self.how, self.times, self.client = kind, how, times, client

    def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
        mine = (
            message.metadata.message_type == self.kind and context.node_config["partition-id"] == self.client
        )
        if not mine or self.times <= 0:
            return call_next(message, context)
        self.times -= 1
        if self.how == "raise":
            raise OSError("the disk is full")
        reply = call_next(message, context)
        content = reply.content
        if self.how == "count":
            content.metric_records["metrics"]["examples"] = 1_000_000
        elif self.how == "negative count":
            content.metric_records["metrics"]["examples"] = -5
        elif self.how == "no update":
            del content["update"]
        elif self.how == "no metrics":
            content["metrics"] = MetricRecord({})
        elif self.how == "requests":
            content["requests"] = ConfigRecord({"ids": ["a", "b"], "counts": [1]})
        else:
            weights = unpack(content.array_records["update"])
            first = next(iter(weights))
            if self.how == "nan":
                weights[first].view(-1)[0] = float("nan")
            elif self.how == "infinity":
                weights[first].view(-1)[0] = float("inf")
            elif self.how == "shape":
                weights[first] = torch.zeros(3, 3, 3)
            elif self.how == "type":
                weights[first] = weights[first].double()
            elif self.how == "key":
                weights["somebody else's"] = weights.pop(first)
            content["update"] = pack(weights) if self.how != "pickle" else _pickled(weights)
        return reply


def _pickled(weights: dict[str, torch.Tensor]) -> ArrayRecord:
    record = pack(weights)
    first = next(iter(record))
    buffer = io.BytesIO()
    np.save(buffer, np.array([object()], dtype=object), allow_pickle=True)
    record[first] = Array("float32", record[first].shape, "numpy.ndarray", buffer.getvalue())
    return record
