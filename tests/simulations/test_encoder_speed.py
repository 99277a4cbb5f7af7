"""The costs of encoders are counted right: operations, matrix rate, two ways to attack."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
def test_what_is_measured(trains: str) -> None:
    """Both ways to attack agree, all 32-bit parameters and the normalisation's constants travel."""
    found = measure(EncoderLoad(**TINY, trains=trains, device="cpu"))  # type: ignore[arg-type]
    assert found["weights"] == "random"
    assert found["attack"]["difference"] < 1e-3
    assert 0 < found["round_share"] < 2 and 0 < found["attack"]["share"] < 2
    assert found["bytes_up"] > 4 * found["parameters"]
    assert found["bytes_up"] - 4 * found["parameters"] < 20_000
    assert (found["listen_seconds"] > 0) == (trains == "head")
    assert found["peak_bytes"] >= found["start_bytes"] > 2**20
    json.dumps(found, allow_nan=False)


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = [f"--{name}={value}" for name, value in TINY.items()]
    command = [sys.executable, str(ROOT / "simulations" / "encoder_speed.py"), *options]
    done = subprocess.run(
        [*command, "--trains=head,top:1", "--out=speed.json"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "random:wav2vec2-tiny (random weights)" in done.stdout
    assert [row["load"]["trains"] for row in json.loads((tmp_path / "speed.json").read_text())] == [
        "head",
        "top:1",
    ]
    refused = subprocess.run(
        [*command, "--trains=heads"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert refused.returncode == 2 and "--trains heads" in refused.stderr
