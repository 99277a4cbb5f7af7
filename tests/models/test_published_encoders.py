"""wav2vec 2.0, HuBERT and WavLM load as they are published, and so do the files that people make of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from published_encoders import CONFIGS, EXTRACTORS, config_of, tensors_of, write_published
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor

from fedunlearn.errors import BadInput
from fedunlearn.models.encoders.checkpoint import load, locate

PARAMETERS = {
    "facebook/wav2vec2-base": 95.04e6,
    "facebook/wav2vec2-large-lv60": 317.39e6,
    "facebook/hubert-base-ls960": 94.37e6,
    "superb/hubert-large-superb-er": 315.70e6,
    "microsoft/wavlm-base-plus": 94.38e6,
    "microsoft/wavlm-large": 315.45e6,
}
OLD_AND_NEW = (("weight_g", "original0"), ("weight_v", "original1"))


def renamed(name: str) -> str:
    """The present name of a tensor that was saved under torch's older weight norm."""
    for old, new in OLD_AND_NEW:
        name = name.replace(f".conv.{old}", f".conv.parametrizations.weight.{new}")
    return name


def encoder_in(tensors: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """The encoder's own tensors, under transformers' present names."""
    headed = any(name.startswith(f"{kind}.") for name in tensors)
    own = {
        k.removeprefix(f"{kind}."): v for k, v in tensors.items() if not headed or k.startswith(f"{kind}.")
    }
    return {renamed(name): value for name, value in own.items()}


def check_loaded(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    found = locate(str(folder))
    loaded, wanted = load(found).state_dict(), encoder_in(tensors, found.kind)
    assert loaded.keys() == wanted.keys()
    assert all(torch.equal(loaded[name], wanted[name]) for name in wanted)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


# ---- the models themselves -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_names_and_shapes_of_every_tensor(name: str) -> None:
    """What is listed by hand is what transformers makes of the configuration, at full size."""
    config = config_of(name)
    (architecture,) = config["architectures"]
    made = getattr(transformers, architecture)
    settings = made.config_class(
        **{k: v for k, v in config.items() if k not in ("architectures", "torch_dtype")}
    )
    with torch.device("meta"):
        expected = {key: tuple(value.shape) for key, value in made(settings).state_dict().items()}
    listed = tensors_of(config)
    assert {renamed(key): shape for key, shape in listed.items()} == expected
    assert sum(torch.Size(shape).numel() for shape in listed.values()) == pytest.approx(
        PARAMETERS[name], rel=2e-4
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_encoder_of_small_width(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = write_published(tmp_path, name, dtype=dtype)
    found = locate(str(tmp_path))
    assert (found.kind, found.layers, found.hidden) == (CONFIGS[name]["model_type"], 2, 16)
    assert found.normalise is EXTRACTORS[name]["do_normalize"] and found.notes == ()
    check_loaded(tmp_path, tensors)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGS if CONFIGS[name]["hidden_size"] == 768])
def test_a_published_encoder_of_base_size(name: str, tmp_path: Path) -> None:
    tensors = write_published(tmp_path, name, narrow=False)
    found = locate(str(tmp_path))
    assert (found.layers, found.hidden) == (12, 768)
    check_loaded(tmp_path, tensors)


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """With the extractor's own normalisation, which is the published one."""
    write_published(tmp_path, name)
    found = locate(str(tmp_path))
    waveform = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(1)) + 0.3
    extractor: Any = AutoFeatureExtractor.from_pretrained(tmp_path)
    inputs = torch.tensor(extractor(waveform.numpy(), sampling_rate=16_000)["input_values"][0])[None]
    assert (abs(float(inputs.mean())) < 1e-3) == found.normalise
    with torch.no_grad():
        ours = load(found)(inputs).last_hidden_state
        theirs = transformers.AutoModel.from_pretrained(tmp_path).eval()(inputs).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_both_namings_of_the_weight_norm(name: str, tmp_path: Path) -> None:
    tensors = write_published(tmp_path, name)
    before = load(locate(str(tmp_path))).state_dict()
    rewrite(tmp_path, lambda saved: {renamed(key): value for key, value in saved.items()})
    after = load(locate(str(tmp_path))).state_dict()
    assert tensors.keys() != {renamed(key) for key in tensors}
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", CONFIGS)
def test_shards_of_half_precision(name: str, tmp_path: Path) -> None:
    """Cut by size, so that weights of one layer lie in different files."""
    tensors = write_published(tmp_path, name, dtype=torch.float16)
    saved, weight_map = load_file(tmp_path / "model.safetensors"), dict[str, str]()
    (tmp_path / "model.safetensors").unlink()
    for i in range(3):
        file = f"model-{i + 1:05}-of-00003.safetensors"
        part = dict(list(saved.items())[i::3])
        save_file(part, tmp_path / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(v.nbytes for v in saved.values())}, "weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    check_loaded(tmp_path, tensors)


@pytest.mark.parametrize("name", CONFIGS)
def test_only_a_pickle_is_one_line(name: str, tmp_path: Path) -> None:
    """As all of these were first published."""
    tensors = write_published(tmp_path, name)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInput) as caught:
        locate(str(tmp_path))
    (problem,) = caught.value.problems
    assert "pytorch_model.bin, which can run code and is not opened here" in problem and "\n" not in problem


# ---- what is missing or superfluous ----------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_without_a_feature_extractor_the_published_normalisation(name: str, tmp_path: Path) -> None:
    tensors = write_published(tmp_path, name, extractor=False)
    found = locate(str(tmp_path))
    assert found.normalise is EXTRACTORS[name]["do_normalize"]
    value = json.dumps(found.normalise)
    (note,) = found.notes
    assert note.startswith(f"{tmp_path}/preprocessor_config.json: missing; do_normalize = {value} is assumed")
    check_loaded(tmp_path, tensors)
    write_published(tmp_path, name)
    assert locate(str(tmp_path)).sha256 == found.sha256  # it hears the same


@pytest.mark.parametrize("name", ["facebook/wav2vec2-base", "superb/hubert-large-superb-er"])
def test_weights_of_an_unknown_head_are_reported(name: str, tmp_path: Path) -> None:
    """Known heads are named in the code; others are not used either, but the user is told."""
    tensors = write_published(tmp_path, name)
    rewrite(tmp_path, lambda w: w | {"lm_head.weight": torch.ones(2)})
    assert locate(str(tmp_path)).notes == ()
    rewrite(tmp_path, lambda w: w | {f"attentive.{i}.weight": torch.ones(2) for i in range(4)})
    (note,) = locate(str(tmp_path)).notes
    assert note == (
        f"{tmp_path}: weights outside the encoder, of no known head, are not used: attentive.0.weight, "
        "attentive.1.weight, attentive.2.weight and 1 more"
    )
    check_loaded(tmp_path, tensors)


@pytest.mark.parametrize(
    "name", [name for name in CONFIGS if CONFIGS[name]["architectures"][0].endswith("Model")]
)
def test_unknown_weights_beside_an_encoder_without_prefix_are_refused(name: str, tmp_path: Path) -> None:
    """They could be the encoder's own."""
    write_published(tmp_path, name)
    rewrite(tmp_path, lambda w: w | {"attentive.weight": torch.ones(2)})
    with pytest.raises(BadInput, match=r"weights that config\.json has no place for: attentive\.weight;"):
        load(locate(str(tmp_path)))
