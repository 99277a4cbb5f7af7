"""The encoder that is installed with the package, ``--model small``."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from command_line import call, small_file
from safetensors.torch import load_file

from fedunlearn.config.model import ModelSettings
from fedunlearn.errors import BadInput
from fedunlearn.models import build_model, resolved
from fedunlearn.models.encoders import checkpoint
from fedunlearn.models.encoders.checkpoint import BUNDLED_FOLDER, BUNDLED_SHA256, load, locate
from fedunlearn.seeding import rng_for

ROOT = Path(__file__).resolve().parents[2]


def test_a_wheel_carries_it() -> None:
    """``.ci/run`` installs a wheel and runs with it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    package = ROOT / "fedunlearn"
    carried = {file for pattern in settings["package-data"]["fedunlearn"] for file in package.glob(pattern)}
    assert carried >= set(BUNDLED_FOLDER.iterdir())
    assert {file.name for file in BUNDLED_FOLDER.iterdir()} == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
        "README.md",
    }


def test_it_is_small_and_its_card_is_of_it() -> None:
    size = sum(file.stat().st_size for file in BUNDLED_FOLDER.iterdir())
    encoder = load(locate("small"))
    parameters = sum(p.numel() for p in encoder.parameters())
    assert size < 4e6 and parameters <= 2_000_000
    card = (BUNDLED_FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"{parameters:,} parameters" in card and "float16" in card
    assert "python simulations/pretrain.py" in card and "python simulations/benchmarks/probe.py" in card
    assert '"/' not in (BUNDLED_FOLDER / "config.json").read_text(encoding="utf-8")  # no path of a machine


def test_float32_weights_have_exactly_the_values_of_the_file() -> None:
    saved, loaded = load_file(BUNDLED_FOLDER / "model.safetensors"), load(locate("small")).state_dict()
    assert set(saved) == set(loaded)
    for name, value in loaded.items():
        assert saved[name].dtype == torch.float16 and value.dtype == torch.float32
        assert torch.equal(value, saved[name].float()) and bool(value.isfinite().all())


def test_the_name_means_it_whatever_folders_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    found = locate("small")
    assert (found.folder, found.sha256, found.is_random) == (BUNDLED_FOLDER, BUNDLED_SHA256, False)
    settings = resolved(ModelSettings(name="small"))
    assert settings.name == "small" and settings.encoder.sha256 == BUNDLED_SHA256
    with pytest.raises(BadInput, match=r"config\.json"):
        locate("./small")


def test_a_changed_or_missing_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(BUNDLED_FOLDER, copied)
    monkeypatch.setattr(checkpoint, "BUNDLED_FOLDER", copied)
    assert locate("small").sha256 == BUNDLED_SHA256
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copied / "model.safetensors").write_bytes(weights)
    with pytest.raises(BadInput, match="install it again"):
        locate("small")
    (copied / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"no model\.safetensors.*install it again"):
        locate("small")


def test_it_hears_loudness_and_padding_changes_nothing() -> None:
    """Its layers' means move with loudness, and not with the silence that a batch appends."""
    model = build_model(ModelSettings(name="small"), 6, rng_for(0, "template")).eval()
    generator = torch.Generator().manual_seed(0)
    sound = 0.05 * torch.randn(1, 16_000, generator=generator)
    length = torch.tensor([16_000])
    with torch.no_grad():
        alone, louder = (model.derive(x, length)[0] for x in (sound, 4 * sound))
        longer = torch.nn.functional.pad(sound.repeat(2, 1), (0, 8_000))
        together = model.derive(longer, torch.tensor([16_000, 24_000]))[0][:1]
    assert float((louder - alone).abs().max()) > 0.1
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)


def test_a_run_with_it_needs_nothing_else(tmp_path: Path) -> None:
    """Its config.toml names it by name and digest, so that another machine finds it, too."""
    code, output = call(
        "run", "--config", small_file(tmp_path), "--model", "small", "--out", tmp_path / "run"
    )
    assert code == 0, output
    written = tomllib.loads((tmp_path / "run" / "config.toml").read_text(encoding="utf-8"))["model"]
    assert written["name"] == "small" and written["encoder"]["sha256"] == BUNDLED_SHA256
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["model"]["weights"] == "pre-trained"
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "from: small, the encoder of fedunlearn" in card
    exported = json.loads((tmp_path / "run" / "model" / "config.json").read_text(encoding="utf-8"))
    assert exported["fedunlearn"]["made_from"] == "small"
