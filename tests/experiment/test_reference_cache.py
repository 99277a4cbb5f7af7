"""Learned models kept by content: the key holds all that decides them, and damage is as good as absence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedunlearn.experiment.reference_cache
from fedunlearn.checkpoints import save_checkpoint
from fedunlearn.config import Config, LocalSettings, TrainingSettings, load
from fedunlearn.config.model import EncoderSettings, ModelSettings
from fedunlearn.experiment.reference_cache import Learned, ReferenceCache, reference_key

CONTENTS = ("a" * 64, "b" * 64, "")
DECIDES: dict[str, Any] = {
    "model.name": "functionals",
    "model.hidden": 64,
    "model.dropout": 0.1,
    "model.encoder.trains": "lora",
    "model.encoder.projection": 64,
    "model.encoder.lora_rank": 4,
    "model.encoder.lora_alpha": 8,
    "model.encoder.seconds_at_once": 10.0,
    "model.encoder.device": "cpu",
    "model.encoder.precision": "bfloat16",
    "model.encoder.deterministic": False,
    "model.encoder.state_precision": "float32",
    "model.encoder.head": "kept",
    "model.encoder.labels": ["ang", "sad"],
    "model.encoder.sha256": "0" * 64,
    "training.rounds": 31,
    "training.server_optimizer": "adam",
    "training.server_lr": 0.5,
    "training.server_momentum": 0.5,
    "training.late_clients": 0.25,
    "training.local.steps": 4,
    "training.local.epochs": 4,
    "training.local.gradient_clip": 4.0,
    "training.local.batch_size": 8,
    "training.local.optimizer": "adamw",
    "training.local.lr": 0.04,
    "training.local.momentum": 0.8,
    "training.local.weight_decay": 0.1,
    "training.local.lr_schedule": "cosine",
    "training.local.crop_seconds": 1.0,
    "training.local.time_mask": 0.1,
    "training.local.band_mask": 0.1,
    "training.local.feature_noise": 0.1,
    "training.local.mixup": 0.1,
    "training.local.label_smoothing": 0.1,
    "evaluation.curve_every": 2,
}
DOES_NOT: dict[str, Any] = {
    "seed": 9,
    "model.encoder.gpu_share": 0.5,
    "corpus.path": "/elsewhere",
    "corpus.columns.path": "file",
    "corpus.skip_bad": True,
    "deletions.schedule": [],
    "deletions.rate": 0.5,
    "unlearning.method": "none",
    "unlearning.aggregation": "mean",
    "unlearning.clip": 7.0,
    "unlearning.l2ul.elasticity": 7.0,
    "unlearning.l2ul.attack.eps": 7.0,
    "recovery.rounds": 9,
    "recovery.reversion": "removed",
    "evaluation.retrained_seeds": 3,
    "evaluation.bootstrap": 500,
    "federation.engine": "inline",
    "federation.workers": 2,
}


def key(
    overrides: dict[str, Any] | None = None, stream: int = 1, contents: tuple[str, ...] = CONTENTS
) -> str:
    return reference_key(load(None, overrides), stream, contents)


# ---- the key ---------------------------------------------------------------------------------------------


def test_every_setting_of_model_and_training_decides() -> None:
    named = {k.rpartition(".")[2] for k in DECIDES}
    apart = {"local", "encoder", "gpu_share", "options"}  # the last: see test_extending.py
    for settings in (ModelSettings, EncoderSettings, TrainingSettings, LocalSettings):
        assert set(settings.model_fields) - apart <= named, "a new setting: add it here"
    cnn = {"model.name": "cnn"}  # the model that takes every setting
    keys = {key(cnn | {name: value}) for name, value in DECIDES.items()}
    assert len(keys) == len(DECIDES) and key(cnn) not in keys


@pytest.mark.parametrize("name", DOES_NOT)
def test_what_comes_after_learning_does_not_decide(name: str) -> None:
    """The run's seed enters through the stream and the contents, not by itself."""
    assert load(None, {name: DOES_NOT[name]}) != Config()
    assert key({name: DOES_NOT[name]}) == key()


def test_stream_and_contents_and_their_order_decide() -> None:
    a, b, _ = CONTENTS
    others = {
        key(stream=2),
        key(contents=(b, a, "")),
        key(contents=(a, "", b)),
        key(contents=(a, b)),
        key(contents=(a, b, "", "")),
        key(contents=(a + b, "", "")),
    }
    assert len(others) == 6 and key() not in others


@pytest.mark.parametrize(("name", "value"), [("_FORMAT", 99), ("__version__", "99")])
def test_another_version_is_another_key(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    before = key()
    monkeypatch.setattr(fedunlearn.experiment.reference_cache, name, value)
    assert key() != before


def test_the_key_can_be_a_file_name() -> None:
    assert key() == key() and key().isalnum() and len(key()) == 32


# ---- the cache -------------------------------------------------------------------------------------------


def learned() -> Learned:
    return Learned(
        {"w": torch.tensor([[1.5, -0.0]]), "norm.mean": torch.tensor([0.1])},
        [{"round": 1, "loss": 0.3}, {"round": 2, "loss": 0.1 + 0.2}, {"round": 3, "loss": None}],
        {1: np.array([0, 7, 255], np.uint8), 3: np.array([1, 2, 3], np.uint8)},
        {"rounds": 3, "client_seconds": 1.25, "bytes_up": 10**12},
    )


def test_a_learned_model_comes_back_as_it_went_in(tmp_path: Path) -> None:
    cache, kept = ReferenceCache(tmp_path / "deep" / "references"), learned()
    assert cache.find("k") is None
    cache.keep("k", kept)
    found = cache.find("k")
    assert found is not None
    assert list(found.state) == list(kept.state)
    assert all(torch.equal(found.state[n], kept.state[n]) for n in kept.state)
    assert (list(found.rows), found.cost) == (list(kept.rows), kept.cost)
    assert list(found.curve) == [1, 3]
    for round_, predictions in kept.curve.items():
        assert found.curve[round_].dtype == np.uint8
        assert np.array_equal(found.curve[round_], predictions)
    assert cache.find("other") is None


def test_keeping_again_replaces(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path)
    cache.keep("k", learned())
    cache.keep("k", Learned({"w": torch.ones(1)}, [], learned().curve, {}))
    found = cache.find("k")
    assert found is not None and list(found.state) == ["w"]


@pytest.mark.parametrize("end", ["", ".json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_model_is_not_found_and_can_be_kept_again(tmp_path: Path, end: str, damage: str) -> None:
    cache = ReferenceCache(tmp_path)
    cache.keep("k", learned())
    file = tmp_path / f"k.safetensors{end}"
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[len(content) // 2] ^= 4
        file.write_bytes(content if damage == "flipped" else content[:-5])
    assert cache.find("k") is None
    cache.keep("k", learned())
    assert cache.find("k") is not None


def test_numbers_in_the_manifest_cannot_be_edited(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path)
    cache.keep("k", learned())
    file = tmp_path / "k.safetensors.json"
    manifest = json.loads(file.read_text())
    manifest["cost"]["rounds"] = 1
    file.write_text(json.dumps(manifest))
    assert cache.find("k") is None


def test_a_checkpoint_of_something_else_is_not_found(tmp_path: Path) -> None:
    for number, (state, about) in enumerate(
        [
            ({"w": torch.ones(1)}, {}),
            ({"w": torch.ones(1)}, {"curve_rounds": [], "rows": [], "cost": {}, "order": ["w"]}),
            ({"curve": torch.ones(1, 1)}, {"curve_rounds": [1], "rows": [], "order": []}),
            ({"curve": torch.ones(2, 1)}, {"curve_rounds": [1], "rows": [], "cost": {}, "order": []}),
            ({"curve": torch.ones(1, 1)}, {"curve_rounds": [1], "rows": [], "cost": {}, "order": ["w"]}),
            ({"curve": torch.ones(1, 1)}, {"curve_rounds": [1], "rows": [], "cost": {}}),
        ]
    ):
        save_checkpoint(tmp_path / f"{number}.safetensors", state, about)
        assert ReferenceCache(tmp_path).find(str(number)) is None
