"""The figures of docs/measures.md: ``python simulations/measures.py`` writes docs/figures/measures-*.svg.

Worked examples on drawn numbers and small models (``measure_figures.examples``), and two small runs on
generated speech, of ten clients of whom three delete twelve utterances, that differ in their recovery alone.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console

from fedunlearn import config as configuration
from fedunlearn.__main__ import start
from fedunlearn.cli.exit_codes import run_command
from fedunlearn.errors import EXIT_OK

_SMALL: dict[str, Any] = {
    "seed": 1,
    "partition.clients": 10,
    "federation.engine": "inline",
    "deletions.schedule": [
        {"client": client, "what": "some", "count": 12, "after_learning": 0} for client in (1, 2, 3)
    ],
}
_RECOVERIES: dict[str, dict[str, Any]] = {
    "gentle": {"recovery.steps": 3, "recovery.lr": 0.02},
    "ordinary": {"recovery.steps": 15, "recovery.lr": 0.05},
}


def measures(
    out: Annotated[Path, typer.Option(help="Folder of the figures.")] = Path("docs/figures"),
    png: Annotated[bool, typer.Option(help="PNG beside SVG.")] = False,
) -> None:
    """Draw the figures of the measures; exit codes: 0 all are there; 3 a run failed."""

    def command() -> int:
        # Heavy imports wait until the input is known to be good.
        from measure_figures.examples import examples, of_run
        from measure_figures.figures import write_measure_figures

        out.mkdir(parents=True, exist_ok=True)
        numbers = {**examples(), **of_run(_runs())}
        for file in write_measure_figures(numbers, out, ("svg", "png") if png else ("svg",)):
            print(file)
        return EXIT_OK

    raise SystemExit(run_command(command))


def _runs() -> dict[str, Any]:
    from fedunlearn.engines.engine import play
    from fedunlearn.experiment.preparation import prepare
    from fedunlearn.experiment.progress import Progress

    results = {}
    with TemporaryDirectory() as folder:
        for name, recovery in _RECOVERIES.items():
            config = configuration.load(None, {**_SMALL, **recovery})
            progress = Progress(Console(quiet=True))
            results[name] = play(prepare(config, Path(folder) / name, Path(folder) / "references", progress))
    return results


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(measures)
    start(app)
