"""Unlearning methods, one file each, found by the names of the files.

``methods`` see the forget set alone, by the type ``contract.Method``; so do ``controls``, which are not meant
to unlearn. Those in ``ticketed`` see its tickets, too: what the device has noted of it in learning.
``privileged`` baselines see more, and each says what by the type of its card. A method is imported when it is
used, so that the names alone can be read at no cost.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fedunlearn.config.plugins import find, is_plugin
from fedunlearn.errors import BadInput

if TYPE_CHECKING:
    from fedunlearn.config import Config
    from fedunlearn.unlearning.contract import MethodCard
    from fedunlearn.unlearning.privileged.contract import PrivilegedCard

C = TypeVar("C")


class _Registry(Mapping[str, C], Generic[C]):
    """The cards that the files of some folders define, by name.

    Args:
        folders: below this one.
        plugins: whether a reference to a user's own method is known, too; it is not among the names.
    """

    def __init__(self, *folders: str, plugins: bool = False) -> None:
        here = Path(__file__).parent
        self._folders = {
            file.stem.rstrip("_").replace("_", "-"): f"{__name__}.{folder}.{file.stem}"
            for folder in folders
            for file in sorted((here / folder).glob("*.py"))
            if file.stem not in ("__init__", "contract")
        }
        self._plugins = plugins

    def __getitem__(self, name: str) -> C:
        if name in self._folders:
            card: C = _card_in(self._folders[name], name)
        elif self._plugins and is_plugin("method", name):
            card = find("method", name).card
        else:
            raise KeyError(name)
        return card

    def __contains__(self, name: object) -> bool:
        return name in self._folders or (
            self._plugins and isinstance(name, str) and is_plugin("method", name)
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)


@lru_cache(maxsize=64)
def _card_in(module: str, name: str) -> Any:
    return next(value for value in vars(import_module(module)).values() if getattr(value, "name", "") == name)


CONTROLS: Mapping[str, "MethodCard"] = _Registry("controls")
"""Methods that are not meant to unlearn, by the name that ``unlearning.method`` takes."""

TICKETED: Mapping[str, "MethodCard"] = _Registry("ticketed")
"""Methods that see the forget set and what its device has noted of it, its tickets."""

METHODS: Mapping[str, "MethodCard"] = _Registry("methods", "ticketed", "controls", plugins=True)
"""Every method that runs on the forget set alone, some with its tickets; controls included."""

PRIVILEGED: Mapping[str, "PrivilegedCard"] = _Registry("privileged")
"""Every privileged baseline."""


def notes_tickets(config: "Config") -> bool:
    """Tell whether the devices of an experiment note tickets, as its method reads them."""
    name = config.unlearning.method
    return name in METHODS and METHODS[name].reads_tickets


def method_named(name: str) -> "MethodCard | PrivilegedCard":
    """The method or privileged baseline of this name.

    Raises:
        BadInput: there is none; the message lists those there are.
    """
    if name in PRIVILEGED:
        return PRIVILEGED[name]
    if name in METHODS:
        return METHODS[name]
    known = ", ".join(sorted((*METHODS, *PRIVILEGED)))
    raise BadInput(f'unlearning.method: there is no "{name}"; known: {known}')
