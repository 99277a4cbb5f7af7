"""The costs of encoders are counted right: operations, matrix rate, two ways to attack."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.encoder_work import EncoderLoad, flops_of, matrix_rate, measure

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "model": "random:wav2vec2-tiny",
    "clients": 2,
    "utterances": 3,
    "seconds": 0.5,
    "attacked": 4,
    "steps": 3,
    "repeats": 1,
}


def test_operations_of_a_linear_layer() -> None:
    """[5, 7] times [7, 3] is 2 * 5 * 7 * 3 = 210; its weights' gradient is as much, its input's too."""
    layer, x = nn.Linear(7, 3, bias=False), torch.randn(5, 7, requires_grad=True)
    assert flops_of(lambda: layer(x)) == 210
    assert flops_of(lambda: torch.autograd.grad(layer(x).sum(), [x, layer.weight])) == 3 * 210
    assert flops_of(lambda: torch.autograd.grad(layer(x).sum(), [x])) == 2 * 210


def test_operations_of_attention_on_a_cpu() -> None:
    """Two products of [2 heads] [6, 4] and [4, 6] or [6, 6] and [6, 4]: 2 * 2 * (2 * 6 * 6 * 4)."""
    q = torch.randn(1, 2, 6, 4)
    assert flops_of(lambda: nn.functional.scaled_dot_product_attention(q, q, q)) == 2 * 2 * 2 * 6 * 6 * 4


def test_the_matrix_rate_is_of_this_earth() -> None:
    assert 1e8 < matrix_rate("cpu", "float32", side=256) < 1e14


@pytest.mark.parametrize("trains", ["head", pytest.param("all", marks=pytest.mark.slow)])
def test_what_is_measured(trains: str, tmp_path: Path) -> None:
    """Both ways to attack agree, a repetition gives the same bits, all 32-bit parameters and the
    normalisation's constants travel; figures of the round are there before the attack is measured.
    """
    written: list[dict[str, Any]] = []
    load = EncoderLoad(**TINY, trains=trains, device="cpu")  # type: ignore[arg-type]
    found = measure(load, lambda cost: written.append(asdict(cost)), tmp_path / "profile.txt")
    assert found.weights == "random" and found.attack is not None
    assert found.attack.difference < 1e-3
    assert found.round.same_bits and found.attack.same_bits
    assert 0 < found.round.whole_share <= found.round.share < 2 and 0 < found.attack.share < 2
    parts = found.round.training_seconds + found.round.moving_seconds + found.round.averaging_seconds
    assert parts == pytest.approx(found.round.seconds, rel=0.2)
    assert found.travels > 4 * found.parameters
    assert found.travels - 4 * found.parameters < 20_000
    assert (found.listen_seconds > 0) == (trains == "head")
    assert found.peak_bytes >= found.start_bytes > 2**20
    assert [each["attack"] is None for each in written] == [True, False]
    assert written[-1] == asdict(found)
    json.dumps(written, allow_nan=False)
    assert (tmp_path / "profile.txt").read_text().count("Self CPU") >= 2


def test_no_repetition_and_no_attack() -> None:
    """Another process measures the weights' digest alone: one round, nothing else; its bits are the same."""
    once = EncoderLoad(**(TINY | {"attacked": 0, "repeats": 0}), trains="top:1", device="cpu")  # type: ignore[arg-type]
    first, second = measure(once), measure(once)
    assert first.attack is None and first.round.same_bits is None
    assert first.round.weights == second.round.weights


def run_command(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "simulations" / "benchmarks" / "gpu.py"
    sizes = [f"--{name}={value}" for name, value in TINY.items()]
    # Flower and Ray may be missing, as on a rented machine.
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules |= {'flwr': None, 'ray': None}\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
    command = [sys.executable, str(script), "--device=cpu", "--out=gpu.json", *sizes, *options]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    done = run_command(tmp_path, "--trains=head,top:1", "--profile")
    assert done.returncode == 0, done.stderr
    assert "random:wav2vec2-tiny (random weights)" in done.stdout
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["label"] for row in rows] == ["head", "top:1"]
    assert all(row["round"]["same_bits"] and not row["error"] for row in rows)
    assert sorted(path.name for path in tmp_path.glob("gpu*")) == [
        "gpu.0.head.profile.txt",
        "gpu.1.top1.profile.txt",
        "gpu.json",
    ]


@pytest.mark.slow
def test_no_more_than_the_budget(tmp_path: Path) -> None:
    """What does not fit is left out, and named; exit code 3."""
    done = run_command(tmp_path, "--trains=head,all", "--budget=1")
    assert done.returncode == 3, done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["error"] for row in rows] == ["--budget ended before it did", "no time was left of --budget"]
    assert "--budget" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "named"),
    [("--trains=heads", "--trains heads"), ("--trains=top:9", "top:9"), ("--seconds-at-once=0", "at-once")],
)
def test_refused_before_anything_is_measured(tmp_path: Path, wrong: str, named: str) -> None:
    done = run_command(tmp_path, wrong)
    assert done.returncode == 2 and named in done.stderr, done.stderr
    assert not (tmp_path / "gpu.json").exists()
