"""The comparison of methods: its cells, its resumption, its tables."""

import csv
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small_run import SMALL
from typer import Typer
from typer.testing import CliRunner

from fedunlearn.federation import engine
from fedunlearn.report.comparison import COLUMNS, Spread, latex, markdown, methods_of, spread, table

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    found = importlib.util.spec_from_file_location("compare_script", ROOT / "simulations" / "compare.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    sys.modules["compare_script"] = module
    found.loader.exec_module(module)
    return module


def call(script: ModuleType, out: Path, *arguments: str) -> tuple[int, str]:
    app = Typer()
    app.command()(script.compare)
    settings = [
        part
        for key, value in SMALL.items()
        if key not in {"seed", "deletions.schedule", "federation.engine"}
        for part in ("--set", f"{key}={value}")
    ]
    result = CliRunner().invoke(app, [*settings, "--engine", "inline", "--out", str(out), *arguments])
    return result.exit_code, result.output


def test_a_comparison_from_cells_to_tables_and_again_from_where_it_stopped(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ("--methods", "default,none", "--sizes", "4", "--requesters", "1,2", "--seeds", "0")
    code, said = call(script, tmp_path, *chosen)
    assert code == 0, said
    with (tmp_path / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 2 * 2 * 4  # methods x requesters x stages
    assert {r["method"] for r in rows} == {"calm", "none"} and {r["sees"] for r in rows} == {"forget"}
    originals = {(r["requesters"], r["test"], r["unseen"]) for r in rows if r["stage"] == "original"}
    assert len({(test, unseen) for _, test, unseen in originals}) == 1  # one shared original
    for r in rows:
        if r["stage"] == "original" or (r["method"] == "none" and r["stage"] == "unlearned"):
            twin = next(
                o
                for o in rows
                if o["stage"] == "original" and o["requesters"] == r["requesters"] and o["method"] == "calm"
            )
            assert (r["forget"], r["retain"], r["gap"]) == (twin["forget"], twin["retain"], twin["gap"])
    for name in ("compare.md", "compare.tex", "forget-retain.pdf", "gap-by-method.png", "gap-by-size.svg"):
        assert (tmp_path / name).stat().st_size > 0
    assert not (tmp_path / "running").exists()

    def never(*_: Any) -> None:
        raise AssertionError("a finished cell was computed again")

    before = (tmp_path / "compare.csv").read_text()
    monkeypatch.setattr(engine, "play", never)
    code, said = call(script, tmp_path, *chosen)
    assert code == 0, said
    assert (tmp_path / "compare.csv").read_text() == before
    with pytest.raises(AssertionError, match="computed again"):
        app = Typer()
        app.command()(script.compare)
        arguments = ["--engine", "inline", "--out", str(tmp_path), *chosen, "--set", "recovery.rounds=3"]
        arguments += [p for k, v in SMALL.items() if k.startswith(("corpus", "part", "train", "model"))
                      for p in ("--set", f"{k}={v}")]  # fmt: skip
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_what_a_method_sees_stands_in_the_table(script: ModuleType, tmp_path: Path) -> None:
    chosen = ("--methods", "fed-eraser,fine-tune", "--sizes", "4", "--requesters", "1", "--seeds", "0")
    code, said = call(script, tmp_path, *chosen)
    assert code == 0, said
    with (tmp_path / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    sees = {(r["method"], r["sees"]) for r in rows}
    assert sees == {("fed-eraser", "history"), ("fine-tune", "retain")}
    assert all(float(r["client_seconds"]) > 0 for r in rows if r["stage"] == "unlearned")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sizes", "ten"], "--sizes ten: write whole numbers"),
        (["--requesters", "0"], "--requesters 0: must be at least 1"),
        (["--methods", "magic"], 'there is no "magic"'),
        (["--sizes", "9999", "--requesters", "1", "--seeds", "0"], "count is 9999"),
    ],
)
def test_a_mistake_is_said_before_anything_runs(
    script: ModuleType, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    code, said = call(script, tmp_path / "out", *arguments)
    assert code == 2 and expected in said
    assert list(tmp_path.rglob("*.json")) == []


def test_spread_of_three_seeds() -> None:
    """Mean 2, standard deviation 1, t(0.975, 2) = 4.3027: half width 4.3027 / sqrt(3) = 2.4841."""
    found = spread([1.0, 2.0, 3.0, None])
    assert found.mean == 2.0 and found.half == pytest.approx(2.4841, abs=1e-4)
    assert str(Spread(0.1234, 0.05)) == "0.123 ± 0.050"
    assert str(spread([0.5])) == "0.500" and math.isnan(spread([]).mean)


def rows_of(gaps: dict[str, list[float]], sees: dict[str, str]) -> list[dict[str, Any]]:
    base = {"forget_size": 10, "requesters": 1, "client_seconds": 1.0}
    return [
        {**base, "method": m, "sees": sees.get(m, "forget"), "seed": s, "stage": stage, "gap": g}
        for m, values in gaps.items()
        for s, value in enumerate(values)
        for stage, g in (("recovered", value), ("retrained", 0.01))
    ]


def test_the_table_is_sorted_and_the_best_forget_only_method_is_bold() -> None:
    rows = rows_of(
        {"a": [0.3, 0.3], "b": [0.2, 0.2], "none": [0.1, 0.1], "scrub": [0.05, 0.05]}, {"scrub": "retain"}
    )
    assert methods_of(rows) == ["scrub", "none", "b", "a"]
    lines = table(rows)
    cells = {line[0]: line[2] for line in lines}
    assert cells["b"].startswith("**0.200") and "**" not in cells["scrub"] + cells["none"] + cells["a"]
    assert lines[-1][0] == "retrained (noise floor)" and lines[-1][2].startswith("0.010")
    assert r"\textbf{0.200" in latex(lines) and r"$\pm$" in latex(lines)
    assert markdown(lines).count("\n") == 7
