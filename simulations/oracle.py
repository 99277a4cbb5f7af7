"""What would perfect targets be worth? ``python simulations/oracle.py --config ravdess --data PATH``.

A run with CALM and its shadow federations, then the same federations once more: their requesters train
towards the answers of models that were never trained on the utterances. That is an oracle, not a method; it
shows how much of what an attacker finds is due to wrong targets, and how much to the unlearn step.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fedunlearn import config as configuration
from fedunlearn.__main__ import start
from fedunlearn.cli.exit_codes import run_command, stopped_as_interrupt
from fedunlearn.cli.options import ConfigOption, DataOption, SetOption, config_files, read_overrides
from fedunlearn.cli.progress_bars import cell_bars
from fedunlearn.config import Config
from fedunlearn.console import Screen, say
from fedunlearn.errors import EXIT_OK, BadInput
from fedunlearn.files import write_atomically
from fedunlearn.unlearning import METHODS

_FIXED: dict[str, Any] = {
    "unlearning.method": "calm",
    "unlearning.calm.objective": "calibrated",
    "evaluation.shadows": 0,  # this command plays them
    "evaluation.relearn_steps": 0,
    "evaluation.search": False,
}


def oracle(
    config: ConfigOption = None,
    data: DataOption = None,
    seed: Annotated[int | None, typer.Option(help="Of all randomness.")] = None,
    shadows: Annotated[int, typer.Option(min=8, help="Shadow federations.")] = 32,
    beside: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD", help="A method beside CALM, with shadows alike. May be repeated."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of runs and tables.")] = Path("runs/oracle"),
    set_: SetOption = None,
) -> None:
    """Compare CALM with CALM that is told the truth; writes oracle.md and oracle.json.

    Exit codes: 0 all is there; 2 bad input; 3 it failed or was interrupted.
    """

    def command() -> int:
        named = {"corpus.path": str(data) if data else None, "seed": seed, "federation.engine": "inline"}
        given = read_overrides(set_, named)
        clashes = [key for key, value in _FIXED.items() if given.get(key, value) != value]
        if clashes:
            raise BadInput(
                [f"--set {key}: the study sets it to {_FIXED[key]!r}; leave it out" for key in clashes]
            )
        overrides = given | _FIXED
        files = config_files(config)
        told = configuration.load(files, overrides)
        unknown = [name for name in beside or () if name not in METHODS]
        if unknown:
            raise BadInput([f"--beside {name}: is none of {', '.join(METHODS)}" for name in unknown])
        others = [
            configuration.load(files, overrides | {"unlearning.method": name})
            for name in dict.fromkeys(beside or ())
            if name != told.unlearning.method
        ]
        return _study(told, others, out, shadows)

    raise SystemExit(run_command(command))


def _study(config: Config, others: Sequence[Config], out: Path, shadows: int) -> int:
    # Heavy imports wait until the input is known to be good.
    from oracle_targets.measures import oracle_json, oracle_table
    from oracle_targets.study import oracle_rows, own_row, play_with_shadows

    from fedunlearn.report.markup import markdown

    with stopped_as_interrupt(), cell_bars() as bars:
        bar = bars.add_task("shadow federations", total=(3 + len(others)) * shadows)
        run = play_with_shadows(config, out, shadows, lambda: bars.advance(bar))
        rows = [*oracle_rows(run, lambda: bars.advance(bar)), own_row(run)]
        for other in others:
            rows.append(own_row(play_with_shadows(other, out, shadows, lambda: bars.advance(bar))))
    exact = run.shadows.replay is not None and run.shadows.replay.exact is True
    table = markdown([oracle_table(rows, shadows, exact)])
    write_atomically(out / "oracle.md", table)
    write_atomically(out / "oracle.json", oracle_json(rows, shadows, exact, config.seed))
    Screen().print(table, soft_wrap=True)
    say(f"Tables: {out}")
    return EXIT_OK


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(oracle)
    start(app)
