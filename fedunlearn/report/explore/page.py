"""The file: style, script and data in one HTML page, which loads nothing and works from disk.

The data of a run are compressed, and are read when the run is opened; so a page of hundreds of runs is small
and opens at once.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedunlearn.files import write_atomically
from fedunlearn.report.explore.detail import detail_of
from fedunlearn.report.explore.overview import ExploredRun, overview_of
from fedunlearn.report.values import many

SCRIPTS: Final = (
    *("page", "statistics", "charts", "methods", "planes", "run", "recognition", "attack", "utterances"),
    *("sound", "requests", "start"),
)
"""files of ``script``, in the order of the page"""
_MOST_UTTERANCES = 60_000
"""held utterances that a page shows one by one, over all of its runs"""
_FEWEST_UTTERANCES = 100
_DIGITS = 4


@dataclass(frozen=True)
class HeldClip:
    """A recording of speech that no run of the page was asked to delete.

    Attributes:
        corpus: which corpus, as ``HeldSpeech.corpora`` names it.
        place: index into that corpus.
        sound: an encoded sound file.
    """

    corpus: str
    place: int
    sound: bytes


@dataclass(frozen=True)
class HeldSpeech:
    """The recordings of a page.

    Attributes:
        corpora: name of each run whose utterances they are -> name of the corpus in ``clips``.
        clips: the recordings.
        kind: media type of the recordings.
    """

    corpora: Mapping[str, str]
    clips: Sequence[HeldClip]
    kind: str = "audio/ogg"


NO_SPEECH: Final = HeldSpeech({}, ())


def write_exploration(runs: Sequence[ExploredRun], speech: HeldSpeech, path: Path) -> None:
    """Write the page to explore runs, as a single HTML file.

    The same results under the same names give the same bytes. The file appears whole or not at all.

    Args:
        runs: at least one; their names differ.
        speech: recordings of utterances that are still held.
        path: where to; its folder exists.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomically(path, render_exploration(runs, speech))


def render_exploration(runs: Sequence[ExploredRun], speech: HeldSpeech = NO_SPEECH) -> str:
    """Render the page as text.

    Args:
        runs: at least one; their names differ.
        speech: recordings of utterances that are still held.
    """
    loader = PackageLoader("fedunlearn.report", "explore")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, _, _ = loader.get_source(environment, "explore.css")
    scripts = [loader.get_source(environment, f"script/{name}.js")[0] for name in SCRIPTS]
    most = max(_FEWEST_UTTERANCES, _MOST_UTTERANCES // max(len(runs), 1))
    heard: dict[str, set[int]] = {}
    for clip in speech.clips:
        heard.setdefault(clip.corpus, set()).add(clip.place)
    details = [_packed(detail_of(run, most, heard.get(speech.corpora.get(run.name, ""), ()))) for run in runs]
    clips = {f"{clip.corpus}:{clip.place}": base64.b64encode(clip.sound).decode() for clip in speech.clips}
    page = environment.get_template("explore.html.j2").render(
        style=Markup(style),
        script=Markup("\n".join(scripts)),
        title=f"fedunlearn: {many(len(runs), 'run')} to explore",
        overview=_json(_plain(overview_of(runs))),
        details=details,
        clips=_json({"kind": speech.kind, "corpora": dict(speech.corpora), "clips": clips}),
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def _json(node: Any) -> Markup:
    """JSON that may stand in a script element."""
    text = json.dumps(node, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _packed(node: Any) -> Markup:
    text = json.dumps(_plain(node), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(base64.b64encode(zlib.compress(text.encode(), 6)).decode())


def _plain(node: Any) -> Any:
    """Plain data of dataclasses; numbers with as many digits as can be seen."""
    if isinstance(node, float):
        return round(node, _DIGITS)
    if isinstance(node, str | int) or node is None:
        return node
    if isinstance(node, list | tuple):
        if all(isinstance(value, int) for value in node):
            return node
        return [round(value, _DIGITS) if isinstance(value, float) else _plain(value) for value in node]
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    return {field.name: _plain(getattr(node, field.name)) for field in fields(node)}
