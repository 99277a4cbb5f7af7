"""An encoder as a recogniser: padding, pieces, what is shared, what travels, and whole runs on it."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from small_run import small_config
from tiny_encoders import KINDS, NORMS, RECEPTIVE_FIELD, tiny_encoder
from torch import Tensor
from typer.testing import CliRunner

from fedunlearn.audio import pad
from fedunlearn.cli import app
from fedunlearn.cli.run import closing_table
from fedunlearn.config import LocalSettings
from fedunlearn.config.model import EncoderSettings, ModelSettings
from fedunlearn.errors import BadInput
from fedunlearn.evaluation.recordings import RecordingCache
from fedunlearn.examples import Examples
from fedunlearn.experiment.preparation import check, prepare, resolve
from fedunlearn.experiment.progress import Progress
from fedunlearn.models import build_model
from fedunlearn.models.encoders.model import EncoderModel, normalised
from fedunlearn.results_schema import Results
from fedunlearn.seeding import rng_for
from fedunlearn.training import calibrate, set_calibration, train
from fedunlearn.vault.index import VaultEntry
from fedunlearn.vault.vault import Vault

TRAINS = ("head", "top:1", "lora", "all")
LENGTHS = (8000, 3000, 1200, 5000)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {(k, n): tiny_encoder(root / f"{k}-{n}", kind=k, norm=n) for k in KINDS for n in NORMS}


def made(folder: Path, trains: str = "head", seed: int = 0, **settings: Any) -> EncoderModel:
    """Hidden states are not rounded, unless a test says so: these are tests of exactness."""
    exact = {"projection": 8, "device": "cpu", "state_precision": "float32"}
    encoder = EncoderSettings.model_validate({"trains": trains, **exact, **settings})
    model = build_model(ModelSettings(name=str(folder), encoder=encoder), 4, rng_for(seed, "test model"))
    assert isinstance(model, EncoderModel)
    return model.eval()


def waves(*lengths: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return pad([(0.1 * rng.standard_normal(n)).astype(np.float32) for n in lengths])


def examples_of(model: EncoderModel, *lengths: int) -> Examples:
    features, frames = model.derive(*waves(*lengths))
    return Examples(features.detach(), frames, torch.arange(len(lengths)) % model.classes)


def calibrated(model: EncoderModel) -> EncoderModel:
    moments = calibrate(model, examples_of(model, *LENGTHS))
    set_calibration(model, moments.mean, moments.mean_square)
    return model


def frozen(model: EncoderModel) -> Iterator[tuple[str, Tensor]]:
    travels = set(model.state_dict())
    yield from ((n, t) for n, t in model.named_parameters() if n not in travels)


# ---- padding, pieces, length -----------------------------------------------------------------------------


@pytest.mark.parametrize("trains", ["head", "all"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_the_others_in_the_batch_change_no_prediction(
    folders: dict[tuple[str, str], Path], kind: str, norm: str, trains: str
) -> None:
    model = calibrated(made(folders[kind, norm], trains))
    waveform, samples = waves(*LENGTHS)
    longer = torch.nn.functional.pad(waveform, (0, 4000))
    with torch.no_grad():
        together = model(waveform, samples)
        alone = torch.cat([model(waveform[i : i + 1, :n], samples[i : i + 1]) for i, n in enumerate(LENGTHS)])
        padded = model(longer, samples)
    assert together.std(0).max() > 1e-3  # the utterances are told apart at all
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(together, padded, atol=2e-5, rtol=1e-4)


def test_the_ordinary_group_norm_would_fail_that(folders: dict[tuple[str, str], Path]) -> None:
    """What the test above guards against is there: with transformers' norm an answer depends on padding."""
    model = made(folders["wav2vec2", "group"], "all")
    first = model.encoder.feature_extractor.conv_layers[0]
    ordinary = torch.nn.GroupNorm(16, 16)
    ordinary.weight, ordinary.bias = first.layer_norm.weight, first.layer_norm.bias
    first.layer_norm = ordinary
    waveform, samples = waves(8000, 1200)
    with torch.no_grad():
        together, alone = model(waveform, samples)[1], model(waveform[1:, :1200], samples[1:])[0]
    assert (together - alone).abs().max() > 1e-3


@pytest.mark.parametrize("trains", ["top:1", "lora", "all"])
def test_pieces_change_neither_answers_nor_gradients(
    folders: dict[tuple[str, str], Path], trains: str
) -> None:
    whole = made(folders["wav2vec2", "group"], trains)
    pieces = made(folders["wav2vec2", "group"], trains, seconds_at_once=0.51)
    examples = examples_of(whole, *LENGTHS)

    def outcome(model: EncoderModel) -> tuple[Tensor, Tensor]:
        x = examples.features.clone().requires_grad_()
        logits = model.classify(x, examples.frames)
        trained = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(
            torch.nn.functional.cross_entropy(logits, examples.labels), [x, *trained]
        )
        return logits, torch.cat([g.flatten() for g in gradients])

    (logits, gradient), (other_logits, other_gradient) = outcome(whole), outcome(pieces)
    torch.testing.assert_close(logits, other_logits, atol=1e-5, rtol=1e-4)
    assert float((gradient - other_gradient).norm() / gradient.norm()) < 1e-4


def test_dropout_is_the_same_when_a_piece_is_computed_again(folders: dict[tuple[str, str], Path]) -> None:
    """With all of the head's input dropped but what the seed keeps, a gradient of other units would show."""
    model = made(folders["wav2vec2", "layer"], "all", seconds_at_once=0.51).train()
    examples = examples_of(model, *LENGTHS)

    def loss() -> Tensor:
        torch.manual_seed(5)
        return model.classify(examples.features, examples.frames).square().sum()

    weight = model.encoder.encoder.layers[0].feed_forward.output_dense.weight
    (gradient,) = torch.autograd.grad(loss(), weight)
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        weight += step
        above = loss()
        weight -= 2 * step
        below = loss()
    assert float(above - below) == pytest.approx(2e-2 * float(gradient.norm()), rel=0.05)


def test_an_utterance_shorter_than_one_frame_is_processed(folders: dict[tuple[str, str], Path]) -> None:
    for trains in ("head", "all"):
        model = made(folders["hubert", "group"], trains)
        with torch.no_grad():
            short = model(*waves(7))
            padded = model(
                torch.nn.functional.pad(normalised(*waves(7)), (0, RECEPTIVE_FIELD)), torch.tensor([7])
            )
        assert torch.isfinite(short).all() and torch.isfinite(padded).all()


@pytest.mark.parametrize("trains", TRAINS)
def test_no_utterances_have_no_answers(folders: dict[tuple[str, str], Path], trains: str) -> None:
    model = made(folders["wav2vec2", "group"], trains)
    nothing = torch.zeros(0, 500, 1) if trains != "head" else torch.zeros(0, 1, model.dims)
    frames = torch.zeros(0, dtype=torch.int64)
    assert model.classify(nothing, frames).shape == (0, 4)
    assert model.calibration_rows(nothing, frames).shape == (0, 3 * 16)


def test_normalised_counts_true_samples_only() -> None:
    waveform = torch.tensor([[1.0, 3.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    by_hand = torch.tensor([[-1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(normalised(waveform, torch.tensor([2, 4])), by_hand, atol=1e-5, rtol=0)


# ---- the head --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trains", ["top:1", "lora", "all"])
def test_before_training_it_does_not_matter_what_is_going_to_train(
    folders: dict[tuple[str, str], Path], trains: str
) -> None:
    """The stored means of a frozen encoder are what an encoder that trains computes anew."""
    head, other = made(folders["wavlm", "layer"]), made(folders["wavlm", "layer"], trains)
    for name, value in head.state_dict().items():
        other.state_dict()[name].copy_(value)
    head, other = calibrated(head), calibrated(other)
    torch.testing.assert_close(head.norm.std, other.norm.std)
    with torch.no_grad():
        torch.testing.assert_close(head(*waves(*LENGTHS)), other(*waves(*LENGTHS)), atol=2e-5, rtol=1e-4)


def test_the_head_by_hand(folders: dict[tuple[str, str], Path]) -> None:
    """One layer chosen, scales a = (1, 2, 2) and b = 1: the projection of (x - mean) / 2 of that layer."""
    model = made(folders["wav2vec2", "layer"])
    features = torch.randn(5, 1, 3 * 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.norm.mean.fill_(0.5)
        model.norm.std.copy_(torch.cat([torch.ones(16), torch.full((32,), 2.0)]))
        model.layer_weights.copy_(torch.tensor([-99.0, -99.0, 99.0]))
        expected = model.classifier(model.projector((features[:, 0, 32:] - 0.5) / 2))
        given = model.classify(features, torch.ones(5, dtype=torch.int64))
    torch.testing.assert_close(given, expected)


# ---- what is shared, what travels ------------------------------------------------------------------------


@pytest.mark.parametrize("trains", TRAINS)
def test_frozen_tensors_are_shared_and_trained_ones_are_not(
    folders: dict[tuple[str, str], Path], trains: str
) -> None:
    model = made(folders["wav2vec2", "group"], trains)
    for other in (copy.deepcopy(model), made(folders["wav2vec2", "group"], trains, seed=1)):
        mine, theirs = dict(model.named_parameters()), dict(other.named_parameters())
        assert mine.keys() == theirs.keys()
        alike = {name for name in mine if mine[name].data_ptr() == theirs[name].data_ptr()}
        assert alike == {name for name, p in mine.items() if not p.requires_grad}
    held = [p for p in model.pretrained.parameters()]
    assert trains == "head" or any(p.data_ptr() == q.data_ptr() for _, p in frozen(model) for q in held)


def test_what_travels(folders: dict[tuple[str, str], Path]) -> None:
    """By hand: 3 layers of 16; norm 2 * 48, layer weights 3, projector 16 * 8 + 8, classifier 8 * 4 + 4."""
    values = {
        t: sum(v.numel() for v in made(folders["wav2vec2", "layer"], t).state_dict().values()) for t in TRAINS
    }
    assert values["head"] == 96 + 3 + 136 + 36
    assert values["lora"] == values["head"] + 2 * 2 * (8 * 16 + 16 * 8)  # rank 8 on q and v of two layers
    assert values["head"] < values["lora"] < values["top:1"] < values["all"]
    assert made(folders["wav2vec2", "layer"], "lora").about() | {"sha256": ""} == {
        "weights": "pre-trained",
        "kind": "wav2vec2",
        "sha256": "",
        "trains": "lora",
        "device": "cpu",
        "precision": "float32",
        "travels": values["lora"],
        "parameters": sum(p.numel() for p in made(folders["wav2vec2", "layer"], "lora").parameters()),
    }


@pytest.mark.parametrize("trains", TRAINS)
def test_training_moves_all_that_trains_and_nothing_else(
    folders: dict[tuple[str, str], Path], trains: str
) -> None:
    model = calibrated(made(folders["hubert", "layer"], trains))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    still = {name: value.clone() for name, value in frozen(model)}
    held = [p.clone() for p in model.pretrained.parameters()]
    settings = LocalSettings(steps=0, epochs=2, batch_size=2)
    train(model, examples_of(model, *LENGTHS), settings, 0.05, rng_for(1, "train"))
    after = model.state_dict()
    unmoved = {name for name in before if torch.equal(before[name], after[name])}
    # A softmax is blind to what is added to all keys' products, so a key's bias has no gradient.
    assert {n for n in unmoved if not n.endswith("k_proj.bias")} == {"norm.mean", "norm.std"}
    assert all(torch.equal(value, still[name]) for name, value in frozen(model))
    assert all(torch.equal(a, b) for a, b in zip(held, model.pretrained.parameters(), strict=True))


def test_features_are_shared_only_by_models_that_make_the_same_bits(
    folders: dict[tuple[str, str], Path],
) -> None:
    folder = folders["wav2vec2", "group"]
    exact, rough = made(folder), made(folder, precision="bfloat16")
    pcm = np.random.default_rng(1).integers(-9000, 9000, 5000).astype(np.int16)
    assert not torch.equal(exact.features_of(pcm), rough.features_of(pcm))
    speech = RecordingCache({"u": pcm})
    for model in (exact, rough, made(folder, seed=3)):
        assert torch.equal(speech.features(model)["u"], model.features_of(pcm))
    assert exact.feature_name == made(folder, seed=3).feature_name


def test_weights_of_another_model_are_refused(folders: dict[tuple[str, str], Path]) -> None:
    head, lora = made(folders["wav2vec2", "layer"]), made(folders["wav2vec2", "layer"], "lora")
    with pytest.raises(RuntimeError, match="another model"):
        head.load_state_dict(lora.state_dict())
    with pytest.raises(RuntimeError, match="another model"):
        lora.load_state_dict(head.state_dict())


def test_the_same_seed_makes_the_same_model_whatever_was_loaded_before(
    folders: dict[tuple[str, str], Path],
) -> None:
    first = made(folders["hubert", "group"], "lora", seed=4).state_dict()
    made(folders["wavlm", "layer"], "all")
    torch.manual_seed(99)
    again = made(folders["hubert", "group"], "lora", seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_folder_that_changed_is_not_mistaken_for_what_it_was(tmp_path: Path) -> None:
    """Neither by a worker that builds later, nor when a run is resumed."""
    start = tiny_encoder(tmp_path / "start")
    config = resolve(small_config(model__name=str(start), model__encoder__device="cpu"))
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.toml").write_text(config.to_toml())
    tiny_encoder(start, seed=1)
    with pytest.raises(BadInput, match="not the encoder that was used"):
        build_model(config.model, 4, rng_for(0, "test model"))
    with pytest.raises(BadInput, match="not the encoder that was used"):
        prepare(config, out, tmp_path / "cache", Progress(Console(quiet=True)), resume=True)


# ---- on a device -----------------------------------------------------------------------------------------


def test_a_vault_keeps_the_means_of_a_frozen_encoder_and_loses_them_with_the_audio(
    folders: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    pcm = {f"u{i}": rng.integers(-9000, 9000, 4000 + 500 * i).astype(np.int16) for i in range(4)}
    entries = [VaultEntry(name, "sad", 0, "train", len(samples)) for name, samples in pcm.items()]
    head, every = made(folders["wav2vec2", "group"]), made(folders["wav2vec2", "group"], "all")
    vault = Vault.build(tmp_path / "vault", [(e, pcm[e.id]) for e in entries], 4)
    vault.derive(every)
    assert vault.stored_names() == ()  # as quickly made as read
    vault.derive(head)
    assert vault.stored_names() == (head.feature_name,)
    for name, samples in pcm.items():
        assert vault.read_features(name, head).shape == (1, 3 * 16)
        assert torch.equal(vault.read_features(name, head), head.features_of(samples))
        assert vault.read_features(name, every).shape == (len(samples), 1)
    gone = vault.read_features("u1", head).numpy().tobytes()
    vault.purge(["u1"])
    files = b"".join(path.read_bytes() for path in (tmp_path / "vault").rglob("*") if path.is_file())
    assert gone not in files and vault.read_features("u2", head).numpy().tobytes() in files


# ---- whole runs ------------------------------------------------------------------------------------------


def test_a_run_on_a_frozen_encoder(folders: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    config = small_config(
        corpus__utterances=12,
        partition__clients=4,
        training__rounds=2,
        training__local__steps=1,
        model__name=str(folders["wav2vec2", "group"]),
        deletions__schedule=[{"client": 1, "what": "all", "after_learning": 0}],
    )
    (tmp_path / "run.toml").write_text(config.to_toml())
    command = ["run", "--config", str(tmp_path / "run.toml"), "--out", str(tmp_path / "run")]
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code == 0 and "Model: " in outcome.output
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "RANDOM WEIGHTS" not in outcome.output
    results["model"]["weights"] = "random"
    assert "RANDOM WEIGHTS" in str(closing_table(Results.model_validate(results)).caption)
    results["model"]["weights"] = "pre-trained"
    assert results["model"]["trains"] == "head" and results["model"]["weights"] == "pre-trained"
    assert results["config"]["model"]["encoder"]["sha256"] == results["model"]["sha256"]
    assert {r["state"] for r in results["requests"]} == {"verified"}
    learn = results["cost"]["learn"]
    whole = 4 * results["model"]["travels"] * 4 * learn["rounds"]  # float32 from four clients
    assert whole < learn["bytes_up"] < 1.5 * whole
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert "pre-trained" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model__encoder__trains": "top:3"}, "has 2 layers"),
        ({"model__encoder__sha256": "0" * 64}, "not the encoder that was used"),
        ({"training__local__crop_seconds": 1.0}, "crop_seconds"),
        ({"training__local__band_mask": 0.2}, "no mel bands"),
        ({"unlearning__l2ul__attack__domain": "log-mel"}, "log-mel"),
    ],
)
def test_what_does_not_fit_is_reported_before_any_audio_is_read(
    folders: dict[tuple[str, str], Path], tmp_path: Path, settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(BadInput) as caught:
        config = small_config(model__name=str(folders["wav2vec2", "layer"]), **settings)
        check(resolve(config), tmp_path / "run", tmp_path / "cache")
    assert len(caught.value.problems) == 1 and expected in caught.value.problems[0]
