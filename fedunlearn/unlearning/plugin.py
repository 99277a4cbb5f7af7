"""How a user's own unlearning method is registered."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from fedunlearn.config.fields import Settings
from fedunlearn.config.plugins import NoSettings, check_parameters, register, settings_of
from fedunlearn.config.unlearning import UnlearningSettings
from fedunlearn.examples import ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.unlearning import contract
from fedunlearn.unlearning.contract import ServerScalars, UnlearnFailed, UnlearnResult

F = TypeVar("F", bound=Callable[..., UnlearnResult])


def method(
    name: str,
    *,
    source: str = "",
    settings: type[Settings] = NoSettings,
    reads_log_odds: bool = False,
    needs_waveform: bool = True,
    reads_tickets: bool = False,
) -> Callable[[F], F]:
    """Register a function as an unlearning method.

    The function takes ``(model, forget_set, settings, rng, scalars)`` and nothing else: the model, the forget
    set of one utterance or more, its own settings, a random generator and the few numbers that the server may
    send. It gets a copy of the model, and returns an ``UnlearnResult``, such as ``descend`` gives.

    Args:
        name: as tables show it.
        source: whom it is from, such as a paper.
        settings: class of its settings; ``unlearning.options`` is read into it.
        reads_log_odds: whether it reads ``scalars.trained`` and ``scalars.held_out``, which the server then
            asks the clients for, or ``scalars.unknown``, which it sends with them.
        needs_waveform: whether it reads ``forget_set.waveform``; without it shadow federations take less
            memory.
        reads_tickets: whether it reads ``forget_set.tickets``, which devices then note in learning.

    Raises:
        BadInput: the function takes other parameters.
    """

    def wrap(target: F) -> F:
        check_parameters("method", name, target, ("model", "forget_set", "settings", "rng", "scalars"))

        def choose(chosen: UnlearningSettings) -> Any:
            return settings_of(f"method {name}", settings, chosen.options)

        def objective(
            model: EmotionModel,
            forget_set: ForgetSet,
            settings: Any,
            rng: np.random.Generator,
            scalars: ServerScalars,
        ) -> UnlearnResult:
            result: object = target(copy.deepcopy(model), forget_set, settings, rng, scalars)
            return _checked(name, result, model)

        card = contract.method(
            name,
            source=source or "a user's own",
            settings=choose,
            reads_log_odds=reads_log_odds,
            needs_waveform=lambda chosen: needs_waveform,
            sees="forget + ticket" if reads_tickets else "forget",
        )(objective)
        register("method", name, settings, card, target)
        return target

    return wrap


def _checked(name: str, result: object, model: EmotionModel) -> UnlearnResult:
    if not isinstance(result, UnlearnResult):
        raise UnlearnFailed(f"method {name} returned {type(result).__name__}, not an UnlearnResult")
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    if {key: value.shape for key, value in result.state.items()} != shapes:
        raise UnlearnFailed(f"method {name} returned a state of other names or shapes than the model's")
    return result
