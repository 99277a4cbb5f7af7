"""``fedunlearn report``: the page of a run again, or one page that compares several."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fedunlearn.cli.exit_codes import run_command
from fedunlearn.console import say, warn
from fedunlearn.errors import EXIT_OK, BadInput
from fedunlearn.inputs import looked_up, read_text, refuse_inside_corpus
from fedunlearn.results_schema import Results
from fedunlearn.run_folder import RunFolder

_DEFAULT = Path("comparison.html")
_REFERENCE = re.compile(r"[0-9a-f]{32}\.safetensors")
"""files of ``evaluation.reference.ReferenceCache``"""


def report(
    folders: Annotated[list[Path], typer.Argument(help="Run folders with results.json, one or more.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Page to write; default: report.html in the run, of several ./comparison.html."),
    ] = None,
    figures: Annotated[
        bool, typer.Option("--figures", help="Each run's figures, too, as SVG, PDF and PNG in DIR/figures.")
    ] = False,
) -> None:
    """Draw a run's report.html again from results.json; of several runs, one page that compares them."""
    raise SystemExit(run_command(lambda: _report(folders, out, figures)))


def read_results(folder: Path) -> dict[str, Any]:
    """The results.json of a run folder.

    Raises:
        BadInput: there is none, or it is none of ours.
    """
    file = RunFolder(folder).results
    try:
        results = json.loads(read_text(file))
    except BadInput as error:
        raise BadInput(f"{error}; give a folder that a run made") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file}: cannot be read ({error}); give a folder that a run made") from error
    if not isinstance(results, dict) or not str(results.get("schema", "")).startswith("fedunlearn/results/"):
        raise BadInput(f"{file}: is not a results.json of fedunlearn")
    return results


def _compare_runs(folders: Sequence[Path], out: Path | None) -> int:
    """Write one page on several runs.

    Raises:
        BadInput: a folder is named twice or holds no run, or the page cannot be written there.
    """
    from fedunlearn.report.runs.page import write_comparison

    problems: list[str] = []
    found: dict[Path, Results] = {}
    beside = {folder: what for folder in folders if (what := _what_is_no_run(folder, out or _DEFAULT))}
    for folder in folders:
        if folder in beside:
            continue
        place = looked_up(folder, folder.resolve)
        if place in found:
            problems.append(f"{folder}: is named twice; a run counts once")
            continue
        try:
            found[place] = Results.read(folder)
        except BadInput as error:
            problems += error.problems
    page = out or _DEFAULT
    problems += unfit(page, found.values())
    if not found and not problems:
        problems = [f"{folder}: {what}; give folders that runs made" for folder, what in beside.items()]
    if problems:
        raise BadInput(list(dict.fromkeys(problems)))
    for folder, what in beside.items():
        warn(f"{folder}: {what}; left out")
    write_comparison(dict(zip(names_of(list(found)), found.values(), strict=True)), page)
    say(f"Comparison of {len(found)} runs: {page.resolve()}")
    return EXIT_OK


def _what_is_no_run(place: Path, page: Path) -> str:
    """What else of ours lies among runs, as ``runs/*`` names it; empty for a run and for strangers."""

    def look() -> str:
        if (place / "results.json").exists():
            return ""
        if place.is_file():
            ours = place.resolve() == page.resolve() or place.name == "benchmark.json"
            return "is a page or a table, not a run" if ours else ""
        if any(_REFERENCE.fullmatch(file.name) for file in place.glob("*.safetensors")):
            return "holds trained references, not a run"
        if (place / "cells").is_dir() or any(place.glob("run-*/soak.toml")):
            return "holds a study of many runs, not a run"
        return ""

    return looked_up(place, look)


def unfit(page: Path, runs: Iterable[Results]) -> list[str]:
    """Why a page cannot be written there; a user's corpus is never written to.

    Args:
        page: where to.
        runs: what it is about.
    """
    place = page.resolve()
    if place.is_dir() or not place.parent.is_dir():
        what = "is a folder" if place.is_dir() else "its folder does not exist"
        return [f"--out {page}: {what}; name a file, such as comparison.html"]
    if place.suffix.lower() not in (".html", ".htm"):
        return [f"--out {page}: is not named as a page; name a file, such as comparison.html"]
    if not os.access(place.parent, os.W_OK) or (place.exists() and not os.access(place, os.W_OK)):
        return [f"--out {page}: cannot be written; name another place"]
    for results in runs:
        path = results.setting("corpus", "path")
        if isinstance(path, str) and path:
            try:
                refuse_inside_corpus("--out", page, path)
            except BadInput as error:
                return list(error.problems)
    return []


def names_of(folders: Sequence[Path]) -> list[str]:
    """The folders' names; with as many parents as it takes to tell them apart."""
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def _report(folders: Sequence[Path], out: Path | None, figures: bool) -> int:
    done = _page(folders[0], out) if len(folders) == 1 else _compare_runs(folders, out)
    for folder in folders if figures else ():
        if len(folders) == 1 or RunFolder(folder).results.exists():
            _figures(folder)
    return done


def _page(folder: Path, out: Path | None) -> int:
    from fedunlearn.report.run_page import write_report

    results, page = read_results(folder), out or RunFolder(folder).report
    if out is not None and (problems := unfit(out, [Results.model_validate(results)])):
        raise BadInput(problems)
    write_report(Results.model_validate(results), page)
    say(f"Report: {page}")
    return EXIT_OK


def _figures(folder: Path) -> None:
    from fedunlearn.report.figures.export import write_figures

    into = RunFolder(folder).figures
    saved = write_figures(Results.read(folder), into)
    say(f"Figures: {len(saved)} files in {into}")
