"""The benchmark: its arithmetic by hand, its federations real, its exit code honest."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark import run
from command_line import call_script

from benchmarks import arithmetic, plain_flower
from benchmarks.federation import measure
from benchmarks.memory import Watched, held_by, watch
from benchmarks.table import Row
from benchmarks.unlearning import ratios
from benchmarks.workload import BenchmarkWorkload

ROOT = Path(__file__).resolve().parents[2]
TINY = BenchmarkWorkload(clients=3, utterances=10, hidden=8, rounds=4, epochs=1, engine="inline")


def test_a_target_is_met_or_missed_or_there_is_none() -> None:
    assert Row("", "", 0.5, ("<=", 0.6)).met is True and Row("", "", 0.7, ("<=", 0.6)).met is False
    assert Row("", "", 3.0, (">=", 3.0)).met is True and Row("", "", 2.9, (">=", 3.0)).met is False
    assert Row("", "", None, (">=", 3.0)).met is None and Row("", "", 1.0).met is None


def test_retraining_over_unlearning_and_recovery_by_hand() -> None:
    def spent(seconds: float, wall: float, up: int, down: int) -> dict[str, float]:
        return {"client_seconds": seconds, "wall_seconds": wall, "bytes_up": up, "bytes_down": down}

    cost = {
        "unlearn": spent(1.0, 2.0, 5, 10),
        "recover": spent(3.0, 2.0, 15, 20),
        "retrain": spent(40.0, 8.0, 500, 500),
    }
    assert ratios(cost) == {"client_seconds": 10.0, "bytes": 20.0, "wall_seconds": 2.0}


def test_growth_by_hand() -> None:
    """From 200 in the second tenth of the stretch to 210 in the last; what lies outside does not count."""
    samples = [(0.0, 50), (11.0, 200), (12.0, 200), (15.0, 260), (19.5, 210), (30.0, 900)]
    assert Watched("", samples).growth(10.0, 20.0) == pytest.approx(0.05)
    assert Watched("", samples).peak == 900
    assert Watched("", samples[:1]).growth(10.0, 20.0) is None


def test_a_command_is_watched_and_its_failure_reported() -> None:
    held = "x = bytearray(80_000_000); import time; time.sleep(1.2); print('done')"
    seen = watch([sys.executable, "-c", held], memory=True)
    assert seen.out == "done\n" and seen.peak > 80_000_000
    assert held_by(2**22 + 1) == 0
    with pytest.raises(RuntimeError, match="no such thing"):
        watch([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_a_federation_is_measured(tmp_path: Path) -> None:
    found = measure(TINY, tmp_path / "run")
    assert found["round"] > 0 and found["client_seconds"] > 0 and found["start"]["first_round"] > 0
    weights = 4 * (2 * 720 + 720 * 8 + 8 + 8 * 8 + 8)
    assert (
        weights < found["bytes"]["up"] < weights + 5000 and weights < found["bytes"]["down"] < weights + 5000
    )
    assert measure(TINY, tmp_path / "elsewhere" / "run")["weights"] == found["weights"]
    assert TINY.trained_on == 8


def test_idle_clients_answer_every_round_and_learn_nothing(tmp_path: Path) -> None:
    """Two rounds more leave the same weights; and later training in the same process does train."""
    idle, longer = replace(TINY, idle=True), replace(TINY, idle=True, rounds=TINY.rounds + 2)
    found, again = (measure(workload, tmp_path / str(workload.rounds) / "run") for workload in (idle, longer))
    assert found["weights"] == again["weights"]
    assert found["bytes"]["up"] > 4 * 720 * 8  # the updates travel all the same
    assert measure(TINY, tmp_path / "trained" / "run")["weights"] != found["weights"]


def test_the_floor_grows_with_the_work() -> None:
    assert arithmetic.measure(TINY)["round"] > 0
    short, long = (
        BenchmarkWorkload(clients=2, hidden=8, epochs=1),
        BenchmarkWorkload(clients=2, hidden=8, epochs=8),
    )
    assert arithmetic.measure(long)["round"] > 3 * arithmetic.measure(short)["round"]


@pytest.mark.slow
def test_plain_flower_does_the_same_work(tmp_path: Path) -> None:
    """In a process of its own: it plays with loggers and standard output."""
    settings = json.dumps({"clients": 3, "utterances": 10, "hidden": 8, "rounds": 4, "epochs": 1})
    seen = watch([sys.executable, "-m", plain_flower.__name__, settings])
    assert json.loads(seen.out.splitlines()[-1])["round"] > 0


def test_an_unknown_part_is_reported_in_one_line() -> None:
    code, output = call_script(run, "--parts", "speed")
    assert code == 2 and "there is no 'speed' (there are overhead, flower," in output


@pytest.mark.slow
def test_the_table_says_what_was_missed_and_so_does_the_exit_code(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    script = [
        sys.executable,
        str(ROOT / "simulations" / "benchmark.py"),
        "--parts",
        "start",
        "--repeats",
        "1",
    ]
    done = subprocess.run([*script, "--out", str(out)], capture_output=True, text=True, check=False)
    rows = json.loads(out.read_text())["rows"]
    assert [row["what"] for row in rows] == ["Ray", "one process"] and all(row["value"] > 0 for row in rows)
    assert done.returncode == (0 if all(row["met"] for row in rows) else 3), done.stderr
    assert "import to first round" in done.stdout
