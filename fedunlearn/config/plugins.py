"""Methods, models, corpora and aggregations that a user defines outside this package.

One is named by a reference: ``path/to/mine.py:name``, something that a decorator registered in that file, or
``name``, an entry point of an installed package. A file is executed once in a process. Its digest is part of
the experiment (``Config.plugins``), so that a resumed run, a worker and a replay refuse a file that changed.

Nothing heavy is imported here; the user's own file imports what it needs.
"""

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from fedunlearn.config.fields import Settings
from fedunlearn.errors import BadInput
from fedunlearn.inputs import looked_up

Kind = Literal["method", "model", "corpus", "aggregation"]

GROUPS: Mapping[Kind, str] = {
    "method": "fedunlearn.methods",
    "model": "fedunlearn.models",
    "corpus": "fedunlearn.corpora",
    "aggregation": "fedunlearn.aggregations",
}
"""Kind -> the group of entry points that an installed package declares it in."""

_FILE = re.compile(r"(?P<file>.+\.py)(?::(?P<name>[^:/\\]*))?", re.DOTALL)
_MODULE = "fedunlearn_plugin_"

S = TypeVar("S", bound=Settings)


class NoSettings(Settings):
    """Settings of what has none."""


@dataclass(frozen=True)
class Plugin:
    """Something that a user registered.

    Attributes:
        kind: what it is.
        name: as tables show it.
        settings: class of its settings, which ``options`` in the config are read into.
        card: what the package calls; its type depends on ``kind``.
        module: where it was defined.
        attribute: its name there.
        file: that module's source; None where there is none, as in a notebook.
        sha256: digest of the file; empty until ``find`` has filled it in.
    """

    kind: Kind
    name: str
    settings: type[Settings]
    card: Any
    module: str
    attribute: str
    file: Path | None
    sha256: str = ""


_registered: list[Plugin] = []
"""everything that a decorator has registered in this process, the newest last"""


def register(kind: Kind, name: str, settings: type[Settings], card: object, target: Any) -> None:
    """Remember what a decorator was applied to.

    Args:
        kind: what it is.
        name: as tables show it.
        settings: class of its settings.
        card: what the package calls.
        target: the function or class that was decorated.

    Raises:
        BadInput: the name or the settings class will not do.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w+. -]{1,60}", name):
        raise BadInput(f"{kind} {name!r}: the name must be 1 to 60 letters, digits, spaces or any of _ + . -")
    if not (isinstance(settings, type) and issubclass(settings, Settings)):
        raise BadInput(f"{kind} {name}: its settings must be a class derived from fedunlearn.Settings")
    module = sys.modules.get(target.__module__)
    file = getattr(module, "__file__", None)
    _registered.append(
        Plugin(
            kind,
            name,
            settings,
            card,
            target.__module__,
            target.__qualname__,
            Path(file).absolute() if file else None,
        )
    )


def check_parameters(kind: Kind, name: str, target: Callable[..., object], expected: Sequence[str]) -> None:
    """See that a function, or a class's constructor, takes exactly the parameters that it will be given.

    Args:
        kind: what it is, for the message.
        name: as registered, for the message.
        target: the function or class.
        expected: names of its parameters, in order.

    Raises:
        BadInput: it takes others.
    """
    found = inspect.signature(target).parameters
    if list(found) != list(expected) or any(
        p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.KEYWORD_ONLY) for p in found.values()
    ):
        raise BadInput(f"{kind} {name}: must take ({', '.join(expected)}), not ({', '.join(found)})")


def is_plugin(kind: Kind, name: str) -> bool:
    """Whether a name is a reference to something outside this package."""
    return _FILE.fullmatch(name) is not None or name in _entry_points(kind)


def canonical(kind: Kind, name: str) -> str:
    """The reference by which every process finds the same thing: with the file's absolute path.

    A name that a decorator registered in this process is turned into the reference of its file.

    Raises:
        BadInput: the path cannot be looked up.
    """
    match = _FILE.fullmatch(name)
    if match:
        file = looked_up(match["file"], lambda: Path(match["file"]).expanduser().absolute())
        return f"{file}:{match['name']}" if match["name"] else str(file)
    own = [p for p in _registered if (p.kind, p.name) == (kind, name) and not p.module.startswith(_MODULE)]
    if own and name not in _entry_points(kind):
        if own[-1].file is None:
            raise BadInput(
                f"{kind} {name}: was defined in {own[-1].module}, which is no file; workers cannot load it: "
                f"put it into a file and name it as path/to/file.py:{name}"
            )
        return f"{own[-1].file}:{name}"
    return name


def short_name(name: str) -> str:
    """A name as tables and files show it: of a reference, what follows the file."""
    match = _FILE.fullmatch(name)
    return match["name"] or Path(match["file"]).stem if match else name


def split_reference(text: str) -> tuple[str, str]:
    """``NAME:REST`` -> (name, rest), where the name may be a reference to a file, with a colon of its own."""
    match = re.match(r"(.+?\.py:[^:/\\]+)(?::(.*))?$", text, re.DOTALL)
    if match:
        return match[1], match[2] or ""
    name, _, rest = text.partition(":")
    return name, rest


def key_of(kind: Kind, reference: str) -> str:
    """The name under which ``Config.plugins`` keeps the digest of a reference's file."""
    match = _FILE.fullmatch(reference)
    return match["file"] if match else f"{GROUPS[kind]}:{reference}"


def find(kind: Kind, reference: str) -> Plugin:
    """What a reference names; its file is executed if it was not yet.

    Raises:
        BadInput: one line that names the file and what is wrong: it is missing, cannot be executed, does not
            define the name, or does not register it as this kind.
    """
    match = _FILE.fullmatch(reference)
    if match:
        return _in_file(kind, Path(match["file"]).expanduser().absolute(), match["name"] or "")
    points = _entry_points(kind)
    if reference not in points:
        raise BadInput(f"{reference}: no installed package has an entry point of this name in {GROUPS[kind]}")
    return _at_entry_point(kind, points[reference])


def settings_of(what: str, kind: type[S], options: BaseModel | None) -> S:
    """A plug-in's own settings, read from the config's options.

    Args:
        what: names it, in the message.
        kind: class of the settings.
        options: as the config has them; None = every setting has its default.

    Raises:
        BadInput: a key that it does not know, or a value out of range. ``config.load`` has said so before.
    """
    try:
        return kind.model_validate({} if options is None else options.model_dump())
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BadInput(f"{what}: options: {wrong}") from error


@lru_cache(maxsize=8)
def _entry_points(kind: Kind) -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUPS[kind])}


def _in_file(kind: Kind, file: Path, name: str) -> Plugin:
    module, digest = _executed(file)
    here = [p for p in _registered if p.module == module.__name__]
    return replace(_pick(kind, here, module, name, str(file)), sha256=digest)


def _at_entry_point(kind: Kind, point: EntryPoint) -> Plugin:
    place = f"entry point {point.name} ({point.value})"
    try:
        module = import_module(point.module)
    except BadInput as error:
        raise BadInput(f"{place}: {'; '.join(error.problems)}") from error
    except Exception as error:
        raise BadInput(f"{place}: {_cause(error, point.module)}") from error
    file = Path(str(module.__file__))
    here = [p for p in _registered if p.module == module.__name__]
    digest = hashlib.sha256(looked_up(file, file.read_bytes)).hexdigest()
    return replace(_pick(kind, here, module, point.attr or point.name, place), sha256=digest)


def _pick(kind: Kind, registered: Sequence[Plugin], module: ModuleType, name: str, place: str) -> Plugin:
    """The one of this name, which is the registered one or that of the function or class."""
    named = [p for p in registered if name in (p.name, p.attribute)]
    fitting = [p for p in named if p.kind == kind]
    if fitting:
        return fitting[-1]
    decorator = f"@fedunlearn.{kind}"
    if named:
        raise BadInput(f"{place}: {name} is registered as {_a(named[-1].kind)}, not as {_a(kind)}")
    if name and hasattr(module, name):
        raise BadInput(f"{place}: {name} is not registered as {_a(kind)}; decorate it with {decorator}")
    known = ", ".join(dict.fromkeys(p.name for p in registered if p.kind == kind))
    has = f"it has {known}" if known else f"it registers no {kind} (decorate one with {decorator})"
    if not name:
        raise BadInput(f"{place}: say which {kind} of the file is meant, as FILE.py:NAME; {has}")
    raise BadInput(f"{place}: has no {kind} {name!r}; {has}")


def _a(kind: Kind) -> str:
    return f"an {kind}" if kind == "aggregation" else f"a {kind}"


def _executed(file: Path) -> tuple[ModuleType, str]:
    """The module that a file is, executed once for each content that it has, and the content's digest."""
    if not looked_up(file, file.is_file):
        raise BadInput(f"{file}: no such file")
    content = looked_up(file, file.read_bytes)
    digest = hashlib.sha256(content).hexdigest()
    name = f"{_MODULE}{hashlib.sha256(f'{file}:{digest}'.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name], digest
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module  # dataclasses and pydantic look their module up
    try:
        exec(compile(content, str(file), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        _registered[:] = [p for p in _registered if p.module != name]
        if isinstance(error, BadInput):
            raise BadInput(f"{file}: {'; '.join(error.problems)}") from error
        raise BadInput(f"{file}: {_cause(error, str(file))}") from error
    return module, digest


def _cause(error: BaseException, file: str) -> str:
    """Why a file cannot be executed, in one line."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: is not valid Python ({error.msg})"
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == file]
    where = f"line {lines[-1]}: " if lines else ""
    reason = " ".join(str(error).split())[:300]
    return f"{where}cannot be imported ({type(error).__name__}{': ' if reason else ''}{reason})"
