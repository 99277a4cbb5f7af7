"""How a user's own model is registered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fedunlearn.config.fields import Settings
from fedunlearn.config.model import ModelSettings
from fedunlearn.config.plugins import NoSettings, check_parameters, register, settings_of
from fedunlearn.errors import BadInput
from fedunlearn.models.contract import EmotionModel, Standardise

F = TypeVar("F", bound=Callable[..., EmotionModel])


@dataclass(frozen=True)
class ModelCard:
    """A user's own model.

    Attributes:
        name: as tables show it.
        build: number of emotions and settings -> the model.
    """

    name: str
    build: Callable[[int, ModelSettings], EmotionModel]


def model(name: str, *, settings: type[Settings] = NoSettings) -> Callable[[F], F]:
    """Register a class derived from ``EmotionModel``, or a function that makes one, as a model.

    It takes ``(classes, settings)``: the number of emotions, and its own settings. Its initial weights come
    from torch's global generator, which is seeded before it is called.

    Args:
        name: as tables show it.
        settings: class of its settings; ``model.options`` is read into it.

    Raises:
        BadInput: it takes other parameters.
    """

    def wrap(target: F) -> F:
        check_parameters("model", name, target, ("classes", "settings"))

        def build(classes: int, chosen: ModelSettings) -> EmotionModel:
            own: Any = settings_of(f"model {name}", settings, chosen.options)
            try:
                made: object = target(classes, own)
            except Exception as error:
                reason = " ".join(str(error).split())
                raise BadInput(f"model {name}: cannot be built ({type(error).__name__}: {reason})") from error
            return _checked(name, made, classes)

        register("model", name, settings, ModelCard(name, build), target)
        return target

    return wrap


def _checked(name: str, made: object, classes: int) -> EmotionModel:
    if not isinstance(made, EmotionModel):
        raise BadInput(f"model {name}: is {type(made).__name__}, not derived from fedunlearn.EmotionModel")
    kinds = {"norm": Standardise, "feature_name": str, "dims": int, "classes": int}
    for attribute, kind in kinds.items():
        if not isinstance(getattr(made, attribute, None), kind):
            raise BadInput(f"model {name}: {attribute} must be set, of type {kind.__name__}")
    if made.classes != classes:
        raise BadInput(f"model {name}: classes is {made.classes}, and must be the {classes} that were given")
    return made
