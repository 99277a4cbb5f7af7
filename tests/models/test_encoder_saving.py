"""A trained encoder model saved as transformers saves its own, and loaded with nothing of this package."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from saved_encoders import EMOTIONS, logits_of, trained, utterance
from tiny_encoders import KINDS, tiny_encoder
from torch import Tensor

from fedunlearn.audio import pad
from fedunlearn.config.model import ModelSettings
from fedunlearn.errors import BadInput
from fedunlearn.models import build_model
from fedunlearn.models.encoders.checkpoint import locate
from fedunlearn.models.encoders.model import EncoderModel
from fedunlearn.models.encoders.saving import Head, fold, save_model

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
"""transformers' WavLM calls torch so; loading a saved folder shows it."""
LENGTHS = (400, 4000, 7321)
"""samples: the shortest that gives a frame, and two that no stride divides"""


def logits_in(folder: Path, waveform: Tensor) -> Tensor:
    """As somebody gets them who has the folder and transformers."""
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    extractor = AutoFeatureExtractor.from_pretrained(folder)
    model, info = AutoModelForAudioClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    inputs = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        found: Tensor = model(**inputs).logits[0]
    return found


# ---- the fold --------------------------------------------------------------------------------------------


@given(
    layers=st.integers(1, 6),
    width=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    spread=st.floats(0.0, 4.0),
)
def test_a_folded_head_gives_of_raw_means_what_the_head_gives_of_standardised_ones(
    layers: int, width: int, seed: int, spread: float
) -> None:
    """z = sum_l p_l (x_l - m_l) / (a_l b), then W z + c, written out; against softmax(w') x, then W' + c'."""
    rng = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return spread * torch.randn(shape, generator=rng, dtype=torch.float64)

    x, mean, a, b = drawn(layers, width), drawn(layers, width), drawn(layers).exp(), drawn(width).exp()
    head = Head(drawn(layers), drawn(2, width), drawn(2))
    z = sum(p * (x[i] - mean[i]) / (a[i] * b) for i, p in enumerate(head.layer_weights.softmax(0)))
    wanted = head.weight @ z + head.bias
    found = fold(mean, a, b, head)
    mixed = found.layer_weights.double().softmax(0) @ x
    parts = (found.weight.double().abs() @ mixed.abs()) + found.bias.abs()
    torch.testing.assert_close(
        found.weight.double() @ mixed + found.bias, wanted, rtol=0, atol=1e-5 * float(1 + parts.max())
    )


def test_nothing_to_fold_folds_to_the_same_head() -> None:
    head = Head(torch.tensor([0.5, 0.1]).log(), torch.ones(3, 2), torch.arange(3.0))
    found = fold(torch.zeros(2, 2), torch.ones(2), torch.ones(2), head)
    assert torch.equal(found.weight, head.weight) and torch.equal(found.bias, head.bias)
    torch.testing.assert_close(found.layer_weights.softmax(0), torch.tensor([5 / 6, 1 / 6]))


# ---- saved and loaded ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("trains", ["head", "top:1", "lora", "all"])
def test_transformers_gives_the_same_logits(tmp_path: Path, kind: str, norm: str, trains: str) -> None:
    pytest.importorskip("peft") if trains == "lora" else None
    normalise = (norm == "group") != (trains == "top:1")
    start = tiny_encoder(tmp_path / "start", kind, norm, normalise=normalise)
    model = trained(start, trains)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [logits_of(model, utterance(n)) for n in LENGTHS]
    save_model(model, EMOTIONS, tmp_path / "saved", "# card\n")
    for n, logits in zip(LENGTHS, wanted, strict=True):
        torch.testing.assert_close(logits_in(tmp_path / "saved", utterance(n)), logits, rtol=0, atol=1e-5)
        assert torch.equal(logits_of(model, utterance(n)), logits), "saving changed the model"
    assert len({str(logits.numpy().round(3)) for logits in wanted}) == len(LENGTHS)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_folder_holds_weights_labels_and_card_and_no_word_of_where_it_was_made(tmp_path: Path) -> None:
    start = tiny_encoder(tmp_path / "home of somebody" / "start", seed=3)
    saved = tmp_path / "new" / "saved"
    save_model(trained(start, "all"), EMOTIONS, saved, "# The card: ä\n")
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    assert {p.name for p in saved.iterdir()} == names and [p.name for p in saved.parent.iterdir()] == [
        "saved"
    ]
    assert (saved / "README.md").read_text(encoding="utf-8") == "# The card: ä\n"
    config = json.loads((saved / "config.json").read_text())
    assert config["id2label"] == {"0": "anger", "1": "calm", "2": "sadness"}
    assert config["label2id"] == {"anger": 0, "calm": 1, "sadness": 2}
    assert config["use_weighted_layer_sum"] is True and config["classifier_proj_size"] == 5
    assert config["architectures"] == ["Wav2Vec2ForSequenceClassification"]
    sha256 = locate(str(start)).sha256
    assert config["fedunlearn"] == {
        "made_from": "start",
        "sha256": sha256,
        "random_weights": False,
        "trained": "all",
        "head": "new",
    }
    assert all(b"home of somebody" not in p.read_bytes() for p in saved.iterdir())


def test_the_same_model_saved_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    model = trained(tiny_encoder(tmp_path / "start"), "top:1")
    state = torch.random.get_rng_state()
    for name in ("one", "two"):
        save_model(model, EMOTIONS, tmp_path / name, "card")
    assert torch.equal(state, torch.random.get_rng_state()), "nothing was drawn"
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_a_copy_of_the_model_saves_as_the_model_does(tmp_path: Path) -> None:
    """Copies share what is frozen; merging the adapters of one must not reach the other."""
    pytest.importorskip("peft")
    model = trained(tiny_encoder(tmp_path / "start"), "lora")
    copied = copy.deepcopy(model)
    save_model(copied, EMOTIONS, tmp_path / "one", "card")
    save_model(model, EMOTIONS, tmp_path / "two", "card")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    fresh = trained(tmp_path / "start", "lora")
    assert torch.equal(logits_of(fresh, utterance(4000)), logits_of(model, utterance(4000)))


def test_an_empty_folder_is_filled_and_any_other_refused(tmp_path: Path) -> None:
    model = trained(tiny_encoder(tmp_path / "start"), "head")
    (tmp_path / "empty").mkdir()
    save_model(model, EMOTIONS, tmp_path / "empty", "card")
    before = {p: p.read_bytes() for p in (tmp_path / "empty").iterdir()}
    assert len(before) == 4
    for place in (
        tmp_path / "empty",
        tmp_path / "empty" / "README.md",
        tmp_path / "empty" / "README.md" / "x",
    ):
        with pytest.raises(BadInput) as refused:
            save_model(model, EMOTIONS, place, "card")
        assert len(refused.value.problems) == 1 and str(place) in str(refused.value)
    assert before == {p: p.read_bytes() for p in (tmp_path / "empty").iterdir()}


def test_nothing_is_left_where_saving_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    model = trained(tiny_encoder(tmp_path / "start"), "head")
    monkeypatch.setattr("fedunlearn.models.encoders.saving.write_atomically", full)
    (tmp_path / "runs").mkdir()
    with pytest.raises(OSError, match="No space"):
        save_model(model, EMOTIONS, tmp_path / "runs" / "saved", "card")
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("emotions", [("anger", "calm"), ("anger", "calm", "anger")])
def test_as_many_names_as_classes(tmp_path: Path, emotions: tuple[str, ...]) -> None:
    model = trained(tiny_encoder(tmp_path / "start"), "head")
    with pytest.raises(ValueError, match="3 classes need as many different emotions"):
        save_model(model, emotions, tmp_path / "saved", "card")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("trains", ["head", "all"])
def test_a_saved_folder_is_a_checkpoint_again(tmp_path: Path, trains: str) -> None:
    """Of it the encoder is taken, as it was trained; the head begins anew."""
    model = trained(tiny_encoder(tmp_path / "start"), trains)
    save_model(model, EMOTIONS, tmp_path / "saved", "card")
    again = trained(tmp_path / "saved", "head")
    assert again.checkpoint.sha256 != model.checkpoint.sha256
    waveform, samples = pad([utterance(4000)])
    with torch.no_grad():
        theirs, _ = again.derive(waveform, samples)
        if trains == "all":
            features, frames = model.derive(waveform, samples)
            ours = model._layer_means(model.encoder, features[:, :, 0], frames).flatten(1)
        else:
            ours = model.derive(waveform, samples)[0][:, 0]
    torch.testing.assert_close(theirs[:, 0], ours)


def test_random_weights_keep_their_name(tmp_path: Path) -> None:
    model = build_model(
        ModelSettings(name="random:wav2vec2-tiny"), 3, torch.Generator().manual_seed(1)
    ).eval()
    assert isinstance(model, EncoderModel)
    save_model(model, EMOTIONS, tmp_path / "saved", "card")
    info = json.loads((tmp_path / "saved" / "config.json").read_text())["fedunlearn"]
    assert info["made_from"] == "random:wav2vec2-tiny" and info["random_weights"] is True
    wanted = logits_of(model, utterance(4000))
    torch.testing.assert_close(logits_in(tmp_path / "saved", utterance(4000)), wanted, rtol=0, atol=1e-5)
