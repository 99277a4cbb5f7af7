"""The head of a fine-tuned checkpoint: replaced unless it is asked for, then kept with its label map."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from published_encoders import write_published
from safetensors.torch import load_file, save_file
from small_run import prepared, small_config
from tiny_encoders import save_preprocessor, tiny_config
from transformers import (
    AutoModelForAudioClassification,
    HubertForCTC,
    HubertForSequenceClassification,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    WavLMForCTC,
    WavLMForSequenceClassification,
)

from fedunlearn import config as configuration
from fedunlearn.audio import pad
from fedunlearn.config.model import EncoderSettings, ModelSettings
from fedunlearn.errors import BadInput
from fedunlearn.models import build_model, resolved
from fedunlearn.models.encoders.checkpoint import load, locate
from fedunlearn.models.encoders.model import EncoderModel
from fedunlearn.models.encoders.saving import save_model
from fedunlearn.training import set_calibration

CLASSIFIERS = {
    "wav2vec2": Wav2Vec2ForSequenceClassification,
    "hubert": HubertForSequenceClassification,
    "wavlm": WavLMForSequenceClassification,
}
RECOGNISERS = {"wav2vec2": Wav2Vec2ForCTC, "hubert": HubertForCTC, "wavlm": WavLMForCTC}
LABELS = ("Angry", "sadness", "neu", "joy", "other")
EMOTIONS = ("neutral", "happy", "sad", "angry")


def fine_tuned(folder: Path, kind: str = "wav2vec2", norm: str = "group", **config: Any) -> Any:
    """A small classifier with random weights, as transformers saves it; returns the model."""
    settings = {"classifier_proj_size": 6, "id2label": dict(enumerate(LABELS))} | config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = CLASSIFIERS[kind](tiny_config(kind, norm, **settings))
        if model.config.use_weighted_layer_sum:
            torch.nn.init.normal_(model.layer_weights)
    model.save_pretrained(folder)
    save_preprocessor(folder)
    return model.eval()


def settings_of(folder: Path, head: str = "kept", **encoder: Any) -> ModelSettings:
    return ModelSettings(name=str(folder), encoder=EncoderSettings(head=head, **encoder))  # type: ignore[arg-type]


def built(settings: ModelSettings, classes: int = len(EMOTIONS), seed: int = 1) -> EncoderModel:
    model = build_model(settings, classes, torch.Generator().manual_seed(seed)).eval()
    assert isinstance(model, EncoderModel)
    return model


def logits(model: EncoderModel) -> torch.Tensor:
    waveform, samples = pad([WAVE])
    with torch.no_grad():
        return model(waveform, samples)[0]


def published_logits(model: Any) -> torch.Tensor:
    """With the waveform normalised as the extractor would."""
    wave = (WAVE - WAVE.mean()) / (WAVE.var(correction=0) + 1e-7).sqrt()
    with torch.no_grad():
        answers: torch.Tensor = model(wave[None]).logits[0]
    return answers


WAVE = 0.1 * torch.randn(6000, generator=torch.Generator().manual_seed(2))


def line(settings: ModelSettings, emotions: tuple[str, ...] = EMOTIONS) -> str:
    with pytest.raises(BadInput) as caught:
        resolved(settings, emotions)
    (problem,) = caught.value.problems
    assert "\n" not in problem
    return problem


@pytest.mark.parametrize("trains", ["head", "top:1", "all"])
@pytest.mark.parametrize(("norm", "weighted"), [("group", True), ("group", False), ("layer", True)])
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_kept_head_answers_as_published(
    kind: str, norm: str, weighted: bool, trains: str, tmp_path: Path
) -> None:
    """Emotion by emotion, whatever the seed, and whatever the normalisation constants."""
    published = fine_tuned(tmp_path, kind, norm, use_weighted_layer_sum=weighted)
    settings = resolved(settings_of(tmp_path, trains=trains), EMOTIONS)
    assert settings.encoder.labels == ("neu", "joy", "sadness", "Angry")
    model, wanted = built(settings), published_logits(published)[[2, 3, 1, 0]]
    torch.testing.assert_close(logits(model), wanted, rtol=0, atol=1e-5)
    dims = len(model.norm.mean)
    set_calibration(model, torch.linspace(-1.0, 1.0, dims), torch.linspace(2.0, 9.0, dims))
    torch.testing.assert_close(logits(model), wanted, rtol=0, atol=1e-5)
    assert torch.equal(logits(built(settings, seed=5)), logits(built(settings)))


def test_a_kept_head_is_trained_and_saved(tmp_path: Path) -> None:
    fine_tuned(tmp_path / "start", use_weighted_layer_sum=True)
    model = built(resolved(settings_of(tmp_path / "start"), EMOTIONS))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert names == [
        "layer_weights",
        "projector.weight",
        "projector.bias",
        "classifier.weight",
        "classifier.bias",
    ]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4))
    save_model(model, EMOTIONS, tmp_path / "saved", "card")
    saved = AutoModelForAudioClassification.from_pretrained(tmp_path / "saved").eval()
    torch.testing.assert_close(published_logits(saved), logits(model), rtol=0, atol=1e-5)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["fedunlearn"]["head"] == "kept"
    again = built(resolved(settings_of(tmp_path / "saved"), EMOTIONS))
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_head_of_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    name = "superb/hubert-large-superb-er"
    tensors = write_published(tmp_path, name, dtype=dtype)
    model = built(resolved(settings_of(tmp_path), ("angry", "neutral")), 2)
    assert torch.equal(model.classifier.weight.detach(), tensors["classifier.weight"][[2, 0]])
    assert torch.equal(model.layer_weights.detach(), tensors["layer_weights"])
    assert model.projector.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("task", ["classification", "ctc"])
def test_by_default_a_head_is_replaced(kind: str, task: str, tmp_path: Path) -> None:
    """The encoder is taken under its prefix; the new head has as many classes as asked."""
    model = (RECOGNISERS if task == "ctc" else CLASSIFIERS)[kind](tiny_config(kind))
    model.save_pretrained(tmp_path)
    save_preprocessor(tmp_path)
    encoder = load(locate(str(tmp_path)))
    wanted = model.base_model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in encoder.state_dict().items())
    settings = resolved(ModelSettings(name=str(tmp_path)), EMOTIONS)
    assert settings.encoder.labels == () and settings.encoder.head == "new"
    one, other = built(settings, 7), built(settings, 7, seed=2)
    assert one.classifier.weight.shape == (7, 256) and not torch.equal(
        one.classifier.weight, other.classifier.weight
    )


# ---- the label map ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "emotions", "expected"),
    [
        (("neu", "hap", "ang", "sad"), ("sad", "neutral"), ("sad", "neu")),
        (("FEAR", "Surprise", "disgust", "calm"), ("fearful", "surprised"), ("FEAR", "Surprise")),
        (("neutral", "happiness", "anger"), ("anger", "happy"), ("anger", "happiness")),
        (
            ("joy", "happiness", "sad"),
            ("happiness", "sad"),
            ("happiness", "sad"),
        ),  # the same name comes first
        (("Smutek", "Złość"), ("złość", "smutek"), ("Złość", "Smutek")),
    ],
)
def test_labels_are_matched_by_name(
    labels: tuple[str, ...], emotions: tuple[str, ...], expected: tuple[str, ...], tmp_path: Path
) -> None:
    fine_tuned(tmp_path, id2label=dict(enumerate(labels)))
    assert resolved(settings_of(tmp_path), emotions).encoder.labels == expected


def test_labels_may_be_chosen(tmp_path: Path) -> None:
    published = fine_tuned(tmp_path)
    emotions, labels = ("calm", "neutral", "angry"), ("other", "neu", "Angry")
    settings = resolved(settings_of(tmp_path, labels=labels), emotions)
    assert settings.encoder.labels == labels
    torch.testing.assert_close(
        logits(built(settings, 3)), published_logits(published)[[4, 2, 0]], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("config", "emotions", "labels", "expected"),
    [
        (
            {},
            ("calm", "sad", "disgust"),
            (),
            "has no label, or more than one, for calm, disgust (its labels: Angry, sadness, neu, joy, "
            "other); name one for each of calm, sad, disgust in model.encoder.labels",
        ),
        (
            {"id2label": {0: "joy", 1: "hap"}},
            ("happy", "sad"),
            (),
            "more than one, for happy, sad (its labels: joy",
        ),
        ({}, ("joy", "happy"), (), "two emotions of the corpus (joy, happy) have the same label"),
        (
            {},
            EMOTIONS,
            ("neu", "joy"),
            "needs 4 different labels, one for each of neutral, happy, sad, angry (got neu",
        ),
        ({}, EMOTIONS, ("neu", "neu", "joy", "Angry"), "needs 4 different labels"),
        (
            {},
            EMOTIONS,
            ("neu", "joy", "sadness", "angry"),
            "has no label angry; it has Angry, sadness, neu, joy, other",
        ),
        ({"id2label": {0: "LABEL_0", 1: "LABEL_1"}}, EMOTIONS, (), "names no labels (id2label"),
        ({"id2label": {0: "sad", 1: "sad"}}, EMOTIONS, (), "names no labels (id2label"),
    ],
)
def test_labels_that_cannot_be_matched(
    config: dict[str, Any], emotions: tuple[str, ...], labels: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    fine_tuned(tmp_path, **config)
    problem = line(settings_of(tmp_path, labels=labels), emotions)
    assert expected in problem and problem.startswith("model.encoder.")


def test_there_must_be_a_label_for_each_class(tmp_path: Path) -> None:
    """Where a recording that cannot be read was the only one of its emotion."""
    fine_tuned(tmp_path)
    settings = resolved(settings_of(tmp_path), EMOTIONS)
    with pytest.raises(BadInput, match=r"names 4 labels, but there are 3 emotions"):
        built(settings, 3)


# ---- in a run --------------------------------------------------------------------------------------------


def test_a_run_keeps_head_and_labels(tmp_path: Path) -> None:
    """The settings of the run name the labels; what had to be assumed is among its warnings."""
    speech = ("ang", "dis", "fea", "hap", "neu", "sad")
    published = fine_tuned(tmp_path / "start", id2label=dict(enumerate(speech)), use_weighted_layer_sum=True)
    (tmp_path / "start" / "preprocessor_config.json").unlink()
    config = small_config(model__name=str(tmp_path / "start"), model__encoder__head="kept")
    experiment = prepared(tmp_path / "run", config)
    made_with = configuration.load(tmp_path / "run" / "config.toml").model.encoder
    assert (made_with.head, made_with.labels) == ("kept", speech)
    assert any("do_normalize = true is assumed" in line for line in experiment.corpus.warnings)
    template = experiment.template
    assert isinstance(template, EncoderModel)
    torch.testing.assert_close(logits(template.eval()), published_logits(published), rtol=0, atol=1e-5)


def test_a_run_that_cannot_keep_the_head_does_not_start(tmp_path: Path) -> None:
    fine_tuned(tmp_path / "start")
    config = small_config(model__name=str(tmp_path / "start"), model__encoder__head="kept")
    with pytest.raises(BadInput) as caught:
        prepared(tmp_path / "run", config)
    (problem,) = caught.value.problems
    assert "more than one, for disgust, fearful (its labels: Angry" in problem
    assert not (tmp_path / "run").exists()


# ---- heads that cannot be kept ---------------------------------------------------------------------------


def test_a_checkpoint_without_a_classification_head(tmp_path: Path) -> None:
    write_published(tmp_path / "encoder", "facebook/wav2vec2-base")
    assert "names no labels" in line(settings_of(tmp_path / "encoder"))
    model = HubertForCTC(tiny_config("hubert", id2label=dict(enumerate(LABELS))))
    model.save_pretrained(tmp_path / "ctc")
    save_preprocessor(tmp_path / "ctc")
    assert "weights are missing: classifier.bias, classifier.weight, projector.bias and 1 more" in line(
        settings_of(tmp_path / "ctc")
    )
    assert "has random weights and no head" in line(settings_of(Path("random:wav2vec2-tiny")))


def test_a_head_of_another_form(tmp_path: Path) -> None:
    """That of a well-known tutorial, whose classifier has two layers."""
    fine_tuned(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if "classifier" not in name}
    dense = {"classifier.dense.weight": torch.ones(16, 16), "classifier.out_proj.weight": torch.ones(5, 16)}
    save_file(weights | dense, path, {"format": "pt"})
    assert "weights are missing: classifier.bias, classifier.weight" in line(settings_of(tmp_path))
    assert locate(str(tmp_path)).notes == ()
    built(resolved(ModelSettings(name=str(tmp_path)), EMOTIONS))  # the encoder can be used


def test_a_head_behind_one_more_layer_norm(tmp_path: Path) -> None:
    """The mean over the frames of a layer norm's output does not follow from the mean of its input."""
    fine_tuned(tmp_path, norm="layer", use_weighted_layer_sum=False)
    assert "reads the last layer after one more layer norm" in line(settings_of(tmp_path))


@pytest.mark.parametrize("value", [torch.ones(4, 6), torch.full((5, 6), torch.nan)])
def test_a_damaged_head(value: torch.Tensor, tmp_path: Path) -> None:
    fine_tuned(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(load_file(path) | {"classifier.weight": value}, path, {"format": "pt"})
    assert "do not fit its config.json, or are not finite: classifier.weight;" in line(settings_of(tmp_path))
