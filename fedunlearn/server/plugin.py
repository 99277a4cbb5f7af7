"""How a user's own aggregation is registered."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fedunlearn.blockwise import StateDict
from fedunlearn.config.fields import Options, Settings
from fedunlearn.config.plugins import NoSettings, check_parameters, register, settings_of
from fedunlearn.errors import RunFailed
from fedunlearn.messages.update import Update
from fedunlearn.server.aggregation import AggregationCard, AggregationContext

F = TypeVar("F", bound=Callable[..., Mapping[str, Tensor]])


def aggregation(
    name: str, *, settings: type[Settings] = NoSettings, reads_last_steps: bool = False
) -> Callable[[F], F]:
    """Register a function as an aggregation: how the requesters' updates become one step of the server.

    The function takes ``(updates, context, settings)``: the requesters' updates in client order
    (``fedunlearn.Update``), an ``AggregationContext`` and its own settings. It returns the differences to add
    to the global model, of the updates' names and shapes. It must be a function of its arguments alone: the
    guard calls it again and again, on subsets of the updates.

    Args:
        name: as tables show it.
        settings: class of its settings; ``unlearning.aggregation_options`` is read into it.
        reads_last_steps: whether it reads ``context.others``, which many clients fill memory and checkpoints
            with.

    Raises:
        BadInput: the function takes other parameters.
    """

    def wrap(target: F) -> F:
        check_parameters("aggregation", name, target, ("updates", "context", "settings"))

        def aggregate(
            updates: Sequence[Update], context: AggregationContext, options: Options | None
        ) -> StateDict:
            own: Any = settings_of(f"aggregation {name}", settings, options)
            return _checked(name, target(updates, context, own), updates[0].difference)

        register("aggregation", name, settings, AggregationCard(name, aggregate, reads_last_steps), target)
        return target

    return wrap


def _checked(name: str, joint: object, like: Mapping[str, Tensor]) -> StateDict:
    """A joint step in float64, after a look at its names, shapes and values."""
    if not isinstance(joint, Mapping) or joint.keys() != like.keys():
        raise RunFailed(f"aggregation {name}: must return a difference for each tensor of the updates")
    for key, value in joint.items():
        if not isinstance(value, Tensor) or value.shape != like[key].shape:
            raise RunFailed(f"aggregation {name}: returned {key} in another shape than the updates have")
        if not bool(torch.isfinite(value).all()):
            raise RunFailed(f"aggregation {name}: returned values of {key} that are not finite")
    return {key: joint[key].double() for key in like}
