"""Checkpoints: bit for bit there and back, anything else refused, and no pickle is ever read."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.checkpoints import BadCheckpoint, _own_digest, load_checkpoint, save_checkpoint

STATE = {
    "weight": torch.arange(6.0).reshape(2, 3).T,
    "bias": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
    "double": torch.tensor([0.1], dtype=torch.float64),
    "count": torch.tensor(3),
    "flags": torch.tensor([True, False]),
    "nothing": torch.zeros(0, 4),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "model.safetensors"
    save_checkpoint(path, STATE, {"model": "original", "seed": 1})
    return path


def manifest_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def copied(saved: Path, folder: Path) -> Path:
    path = folder / "copy.safetensors"
    path.write_bytes(saved.read_bytes())
    manifest_of(path).write_bytes(manifest_of(saved).read_bytes())
    return path


def test_weights_come_back_bit_for_bit(saved: Path) -> None:
    state, manifest = load_checkpoint(saved)
    assert state.keys() == STATE.keys()
    for key, value in STATE.items():
        assert state[key].dtype == value.dtype and state[key].shape == value.shape
        assert state[key].numpy().tobytes() == value.contiguous().numpy().tobytes()
    assert (manifest["model"], manifest["seed"], manifest["bytes"]) == ("original", 1, saved.stat().st_size)


def test_the_same_weights_are_the_same_bytes_whatever_their_order(saved: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", dict(reversed(STATE.items())), {"model": "original", "seed": 1})
    assert (tmp_path / "m").read_bytes() == saved.read_bytes()


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), in_manifest=st.booleans())
def test_a_flipped_bit_is_refused_wherever_it_is(
    saved: Path, where: float, bit: int, in_manifest: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = copied(saved, tmp_path_factory.getbasetemp())
    file = manifest_of(path) if in_manifest else path
    content = bytearray(file.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    file.write_bytes(content)
    if in_manifest and _reads_the_same(file, manifest_of(saved)):
        return
    with pytest.raises(BadCheckpoint, match=r"copy\.safetensors"):
        load_checkpoint(path)


def _reads_the_same(a: Path, b: Path) -> bool:
    try:
        return bool(json.loads(a.read_bytes()) == json.loads(b.read_bytes()))
    except ValueError:
        return False


@given(share=st.floats(0, 1, exclude_max=True), in_manifest=st.booleans())
def test_a_cut_tail_is_refused(
    saved: Path, share: float, in_manifest: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = copied(saved, tmp_path_factory.getbasetemp())
    file = manifest_of(path) if in_manifest else path
    os.truncate(file, int(share * (file.stat().st_size - 1)))
    with pytest.raises(BadCheckpoint):
        load_checkpoint(path)


def test_weights_without_a_manifest_are_an_interrupted_save(saved: Path, tmp_path: Path) -> None:
    path = copied(saved, tmp_path)
    manifest_of(path).unlink()
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        load_checkpoint(path)
    path = copied(saved, tmp_path)
    path.unlink()
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        load_checkpoint(path)


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"sha256": null}', "\xff", "[" * 9])
def test_a_manifest_that_is_none_is_refused(saved: Path, tmp_path: Path, text: str) -> None:
    path = copied(saved, tmp_path)
    manifest_of(path).write_text(text, encoding="latin-1")
    with pytest.raises(BadCheckpoint):
        load_checkpoint(path)


def test_the_notes_about_a_model_cannot_replace_its_checksum(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", STATE, {"sha256": "mine", "bytes": -1})
    _, manifest = load_checkpoint(tmp_path / "m")
    assert manifest["sha256"] != "mine" and manifest["bytes"] > 0


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("maker", ["pickle", "torch"])
def test_a_pickle_with_a_right_checksum_is_refused_unread(tmp_path: Path, maker: str) -> None:
    path, trace = tmp_path / "m", tmp_path / "trace"
    if maker == "pickle":
        path.write_bytes(pickle.dumps(Payload(trace)))
    else:
        torch.save({"a": Payload(trace)}, path)
    manifest = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    manifest_of(path).write_text(json.dumps(manifest | {"manifest_sha256": _own_digest(manifest)}))
    with pytest.raises(BadCheckpoint, match="not a safetensors file"):
        load_checkpoint(path)
    assert not trace.exists()


def test_a_save_that_fails_leaves_the_old_checkpoint_readable_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two writes the new weights stand beside the old manifest: refused, never mixed."""
    path = tmp_path / "m"
    save_checkpoint(path, {"a": torch.zeros(2)}, {})
    replaced: list[Path] = []
    replace = Path.replace

    def failing(source: Path, target: Path) -> Path:
        if replaced:
            raise OSError("power cut")
        replaced.append(target)
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", failing)
        with pytest.raises(OSError, match="power cut"):
            save_checkpoint(path, {"a": torch.ones(2)}, {})
    with pytest.raises(BadCheckpoint, match="do not match the checksum"):
        load_checkpoint(path)
