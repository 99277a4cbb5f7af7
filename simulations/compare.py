"""Unlearning methods side by side: methods x forget sizes x requesters x seeds, on one shared original each.

``python simulations/compare.py --config configs/ravdess.toml --data PATH --methods default,none --sizes 10,20
--requesters 1,4 --seeds 0,1 --engine inline --out DIR``

Every cell is a whole run of the product; trained originals and retrained references are found again by
content. A finished cell is kept in DIR/cells and never computed twice: call again to go on.
"""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedunlearn import config as configuration
from fedunlearn.__main__ import start
from fedunlearn.cli import guarded
from fedunlearn.config import Config, DeletionSettings, ScheduledDeletion
from fedunlearn.errors import EXIT_FAILED, EXIT_OK, BadInput, RunFailed
from fedunlearn.run_folder import write_atomically
from fedunlearn.seeding import rng_for


@dataclass(frozen=True)
class Cell:
    """One run of the comparison."""

    method: str
    size: int
    requesters: int
    seed: int

    def experiment(self, base: Config) -> Config:
        """The base experiment with this cell's method, seed and requests.

        Requesters are drawn from the seed.
        """
        drawn = rng_for(self.seed, "requesters").permutation(base.partition.clients)[: self.requesters]
        schedule = tuple(
            ScheduledDeletion(client=int(c), what="some", count=self.size, after_learning=0)
            for c in sorted(drawn)
        )
        return base.model_copy(
            update={
                "seed": self.seed,
                "unlearning": base.unlearning.model_copy(update={"method": self.method}),
                "deletions": DeletionSettings(schedule=schedule),
            }
        )

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.method}-{self.requesters}x{self.size}-seed{self.seed}"


def compare(
    methods: Annotated[
        str, typer.Option(help="Comma-separated; default = the product's.")
    ] = "default,none,destroy",
    sizes: Annotated[str, typer.Option(help="Utterances that each requester takes back.")] = "10,20,48",
    requesters: Annotated[str, typer.Option(help="Clients that ask at the same time.")] = "1,4",
    seeds: Annotated[
        str, typer.Option(help="Whole experiments: partition, training, requesters.")
    ] = "0,1,2,3,4",
    out: Annotated[Path, typer.Option(help="Folder for cells, tables and figures.")] = Path("runs/compare"),
    config: Annotated[Path | None, typer.Option(help="A complete experiment to start from.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the corpus; only read.")] = None,
    engine: Annotated[str | None, typer.Option(help="ray or inline.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE")] = None,
) -> None:
    """Compare unlearning methods; writes compare.csv, compare.md, compare.tex and figures.

    Exit codes: 0 every cell is there; 2 bad input; 3 a cell failed.
    """

    def command() -> int:
        overrides = dict(configuration.parse_override(text) for text in set_ or [])
        named = {"corpus.path": str(data) if data else None, "federation.engine": engine}
        overrides |= {k: v for k, v in named.items() if v is not None}
        base = configuration.load(config, {"evaluation.retrained_seeds": 2, **overrides})
        default = Config().unlearning.method
        wanted = [default if m.strip() == "default" else m.strip() for m in methods.split(",")]
        cells = [
            Cell(method, size, asking, seed)
            for seed in _numbers("--seeds", seeds, 0)
            for asking in _numbers("--requesters", requesters, 1)
            for size in _numbers("--sizes", sizes, 1)
            for method in dict.fromkeys(wanted)
        ]
        return _compare(base, cells, out)

    raise SystemExit(guarded(command))


def _compare(base: Config, cells: list[Cell], out: Path) -> int:
    from fedunlearn.report import comparison
    from fedunlearn.unlearning import method_named

    console = Console(stderr=True, highlight=False)
    cards = {cell.method: method_named(cell.method) for cell in cells}
    experiments = {cell: cell.experiment(base) for cell in cells}
    (out / "cells").mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal,
    ) as bars:  # fmt: skip
        bar = bars.add_task("Comparing", total=len(cells))
        speech: dict[str, Any] = {}
        for cell in cells:
            bars.update(bar, description=f"{cell.name:<40}")
            try:
                _once(cell, experiments[cell], out, speech)
            except RunFailed as error:
                failed.append(f"{cell.name}: {error}")
            bars.advance(bar)
    rows = [
        row
        for cell in cells
        if (file := _file(cell, experiments[cell], out)).exists()
        for row in _rows(cell, cards[cell.method].sees, json.loads(file.read_text(encoding="utf-8")))
    ]
    if rows:
        text = io.StringIO()
        writer = csv.DictWriter(text, comparison.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        lines = comparison.table(rows)
        write_atomically(out / "compare.csv", text.getvalue())
        write_atomically(out / "compare.md", comparison.markdown(lines))
        write_atomically(out / "compare.tex", comparison.latex(lines))
        comparison.write_figures(rows, out)
        print(comparison.markdown(lines))
        print(f"Tables and figures: {out}")
    for line in failed:
        console.print(f"[red]failed:[/] {line}", soft_wrap=True)
    return EXIT_FAILED if failed else EXIT_OK


def _once(cell: Cell, config: Config, out: Path, speech: dict[str, Any]) -> None:
    """Run a cell unless it is there; ``speech`` holds the decoded corpus from cell to cell."""
    from fedunlearn.federation.engine import play
    from fedunlearn.federation.preparation import listen, prepare, resolve
    from fedunlearn.federation.progress import Progress as Bars

    file = _file(cell, config, out)
    if file.exists():
        return
    config = resolve(config)
    quiet = Bars(Console(quiet=True))
    # Generated speech depends on the seed, recordings do not.
    key = f"{config.corpus.model_dump_json()}{config.seed if config.corpus.name == 'synthetic' else ''}"
    if key not in speech:
        speech.clear()
        speech[key] = listen(config, quiet)
    run = out / "running"
    if run.exists():
        shutil.rmtree(run)  # left by a comparison that was killed
    try:
        results = play(prepare(config, run, out / "references", quiet, speech[key]))
        if results["status"] != "complete":
            raise RunFailed(results["failure"])
        if len(results["requests"]) != cell.requesters:
            raise RunFailed(f"{len(results['requests'])} of {cell.requesters} requests were raised")
    finally:
        shutil.rmtree(run, ignore_errors=True)
    kept = {k: results[k] for k in ("config", "corpus", "models", "gap", "cost", "requests", "versions")}
    write_atomically(file, json.dumps(kept))


def _file(cell: Cell, config: Config, out: Path) -> Path:
    """Named by the cell and by every setting that went into it, so that another config computes anew."""
    decides = config.model_dump(mode="json", exclude={"federation"})
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]
    return out / "cells" / f"{cell.name}-{digest}.json"


def _rows(cell: Cell, sees: str, results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    config, cost, gap = results["config"], results["cost"], results["gap"]
    recovery = config["recovery"]
    gentle = f"{recovery['rounds']} rounds, {recovery['epochs']} epochs, lr {recovery['lr']:g}"
    unlearning = cost["unlearn"]["client_seconds"]
    stages = {
        "original": (gap["none"]["mean"], 0.0),
        "unlearned": (gap["unlearned"]["mean"], unlearning),
        "recovered": (gap["recovered"]["mean"], unlearning + cost["recover"]["client_seconds"]),
        "retrained": ((gap["noise_floor"] or {}).get("mean"), cost["retrain"]["client_seconds"]),
    }
    for stage, (distance, seconds) in stages.items():
        model = results["models"][stage]
        yield {
            "method": cell.method,
            "sees": sees,
            "model": config["model"]["name"],
            "corpus": results["corpus"]["name"],
            "forget_size": cell.size,
            "requesters": cell.requesters,
            "aggregation": config["unlearning"]["aggregation"],
            "recovery": gentle if recovery["rounds"] else "none",
            "seed": cell.seed,
            "stage": stage,
            "forget": model["forget"]["accuracy"],
            "retain": model["retain"]["accuracy"],
            "test": model["test"]["accuracy"],
            "unseen": model["unseen"]["uar"],
            "membership": model["membership"]["auc"],
            "gap": distance,
            "client_seconds": seconds,
        }


def _numbers(option: str, text: str, least: int) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInput(f"{option} {text}: write whole numbers, such as 10,20") from error
    if min(found) < least:
        raise BadInput(f"{option} {text}: must be at least {least}")
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(compare)
    start(app)
