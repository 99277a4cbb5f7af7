"""``fedunlearn explore``: one page to explore runs and comparisons, with its own script."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedunlearn.cli.exit_codes import run_command
from fedunlearn.cli.report import names_of, unfit
from fedunlearn.console import say, warn
from fedunlearn.errors import EXIT_OK, BadInput
from fedunlearn.inputs import looked_up, read_text
from fedunlearn.results_schema import Results
from fedunlearn.run_folder import RunFolder

_DEFAULT = Path("explore.html")


def explore(
    places: Annotated[
        list[Path], typer.Argument(help="Run folders, folders of `fedunlearn compare`, or both.")
    ],
    out: Annotated[Path, typer.Option(help="Page to write.")] = _DEFAULT,
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the corpus; only read. The page then plays some utterances that are still held, "
            "of people who asked for no deletion in any of the runs."
        ),
    ] = None,
) -> None:
    """Write one HTML page to explore runs: it sorts, contrasts methods, moves an attack's threshold.

    It shows single utterances, too; of deleted ones never more than an index and numbers. The page is one
    file, works from disk, and loads nothing.

    Exit codes: 0 it is written; 2 bad input.
    """
    raise SystemExit(run_command(lambda: _explore(places, out, corpus)))


def _explore(places: Sequence[Path], out: Path, corpus: Path | None) -> int:
    found, problems = _read_all(places)
    problems += unfit(out, found.values())
    if not found and not problems:
        problems = [
            f"{places[0]}: holds no finished run; give run folders, or a folder of fedunlearn compare"
        ]
    if problems:
        raise BadInput(list(dict.fromkeys(problems)))
    # Heavy imports wait until the input is known to be good.
    from fedunlearn.held_speech import held_speech
    from fedunlearn.report.explore.overview import ExploredRun
    from fedunlearn.report.explore.page import write_exploration

    if corpus is not None and not looked_up(corpus, corpus.exists):
        raise BadInput(f"--corpus {corpus}: does not exist; give the folder of the runs' corpus")
    speech = held_speech(found, corpus)
    pages = _reports(places, out)
    runs = [
        ExploredRun(name, results, _sees(results), pages.get(name, "")) for name, results in found.items()
    ]
    write_exploration(runs, speech, out)
    sound = f", with the sound of {len(speech.clips)} utterances" if speech.clips else ""
    size = out.stat().st_size / 1e6
    say(f"Page to explore {len(runs)} runs{sound} ({size:.1f} MB): {out.resolve()}")
    return EXIT_OK


def _read_all(places: Sequence[Path]) -> tuple[dict[str, Results], list[str]]:
    """Read the results of all places, by name, and collect what is wrong with places."""
    found: dict[str, Results] = {}
    problems: list[str] = []
    twice = 0
    for name, file in _files(places, problems):
        if name in found:
            twice += 1
            continue
        try:
            found[name] = Results.read(file) if file.name == "results.json" else _read_cell(file)
        except BadInput as error:
            problems += error.problems
    if twice:
        warn(f"{twice} cells are in several folders; each counts once")
    return found, problems


def _files(places: Sequence[Path], problems: list[str]) -> Iterator[tuple[str, Path]]:
    """Yield name and file of each run and of each finished cell; a place that is neither is a problem."""
    if len({looked_up(place, place.resolve) for place in places}) < len(places):
        problems.append("a folder is named twice; a run counts once")
    runs = _run_folders(places)
    for name, folder in runs.items():
        yield name, RunFolder(folder).results
    for place in places:
        if place in runs.values():
            continue
        cells = place / "cells"
        if not looked_up(place, cells.is_dir):
            problems.append(
                f"{place}: is neither a run (no results.json) nor a comparison (no cells); give a folder "
                "that fedunlearn run or fedunlearn compare made"
            )
            continue
        for file in sorted(cells.glob("*.json")):
            yield file.stem, file


def _run_folders(places: Sequence[Path]) -> dict[str, Path]:
    """Name those of the places that hold a run."""
    folders = [place for place in places if looked_up(place, RunFolder(place).results.exists)]
    if not folders:
        return {}
    names = names_of([looked_up(folder, folder.resolve) for folder in folders])
    return dict(zip(names, folders, strict=True))


def _read_cell(file: Path) -> Results:
    """Read a finished cell; one of an earlier version does not name its schema."""
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file}: cannot be read ({error}); remove it and run the comparison again") from error
    results = Results.model_validate(content)
    if not results.models or not results.config:
        raise BadInput(f"{file}: is no finished cell of a comparison; remove it and run the comparison again")
    return results


def _sees(results: Results) -> str:
    """What the method sees; empty where it is not known here."""
    if results.unlearning.sees:
        return results.unlearning.sees
    from fedunlearn.unlearning import method_named

    try:
        return method_named(str(results.setting("unlearning", "method"))).sees
    except BadInput:
        return ""


def _reports(places: Sequence[Path], out: Path) -> dict[str, str]:
    """Find the report of each run folder, as an address relative to the page."""
    return {
        name: Path(os.path.relpath(RunFolder(folder).report.resolve(), out.resolve().parent)).as_posix()
        for name, folder in _run_folders(places).items()
        if RunFolder(folder).report.exists()
    }
