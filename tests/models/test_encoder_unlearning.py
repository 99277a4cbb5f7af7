"""Every method on speech encoders: what is frozen stays, what trains moves, memory bounds change nothing."""

import copy
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_encoders import tiny_encoder
from torch import Tensor

from benchmarks.encoder_work import flops_of
from fedunlearn.audio import SAMPLE_RATE
from fedunlearn.config import LocalSettings, load
from fedunlearn.config.model import EncoderSettings, ModelSettings
from fedunlearn.config.unlearning import AttackSettings, UnlearningSettings
from fedunlearn.errors import BadInput
from fedunlearn.evaluation.relearning import relearn
from fedunlearn.evaluation.request_privacy import request_privacy
from fedunlearn.examples import Examples, ForgetSet, pad_features
from fedunlearn.models import build_model
from fedunlearn.models.encoders import checkpoint
from fedunlearn.models.encoders.model import EncoderModel
from fedunlearn.models.probes import Probes
from fedunlearn.training import calibrate, predict, set_calibration, train
from fedunlearn.unlearning import METHODS, PRIVILEGED
from fedunlearn.unlearning.contract import LogOdds, ServerScalars, UnlearnResult, snapshot
from fedunlearn.unlearning.copies import noisy_copies
from fedunlearn.unlearning.importance import importance
from fedunlearn.unlearning.low_rank import smoothed
from fedunlearn.unlearning.privileged.contract import HistoryCard, RoundsCard
from fedunlearn.unlearning.targeted_attack import targeted_pgd
from fedunlearn.unlearning.untargeted_attack import closest_adversarial, fgsm

CLASSES = 3
TRAINS = ("head", "lora", "top:1", "all")
FAST = ("head", "lora")
"""The others go the same ways through the code, and take longer."""
BY_TRAINS = [t if t in FAST else pytest.param(t, marks=pytest.mark.slow) for t in TRAINS]
SCALARS = ServerScalars(0.5, 0.5, LogOdds(2.0, 1.0), LogOdds(0.5, 1.5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "wav2vec2", layers=2)


def encoder(folder: Path, trains: str, seconds_at_once: float = 30.0) -> EncoderModel:
    """A recogniser, calibrated on what is to be forgotten; each call gives one of its own."""
    return copy.deepcopy(_made(folder, trains, seconds_at_once))


@lru_cache
def _made(folder: Path, trains: str, seconds_at_once: float) -> EncoderModel:
    chosen = EncoderSettings(trains=trains, projection=8, lora_rank=2, seconds_at_once=seconds_at_once)
    settings = ModelSettings(name=str(folder), dropout=0.1, encoder=chosen)
    model = build_model(settings, CLASSES, np.random.default_rng(3))
    assert isinstance(model, EncoderModel)
    moments = calibrate(model, speech(model).examples)
    set_calibration(model, moments.mean, moments.mean_square)
    generator = torch.Generator().manual_seed(0)
    for name, value in model.named_parameters():
        if "lora_B" in name:  # as after some training: where it is zero, the other factor has no gradient
            value.data = torch.randn(value.shape, generator=generator)
    return model


def speech(model: EncoderModel, count: int = 6, seed: int = 0) -> ForgetSet:
    """Tones of 60 to 120 ms in noise: labels differ in pitch."""
    rng = np.random.default_rng(seed)
    labels, waves = [i % CLASSES for i in range(count)], []
    for label in labels:
        time = np.arange(int(rng.uniform(0.06, 0.12) * SAMPLE_RATE)) / SAMPLE_RATE
        tone = 0.3 * np.sin(2 * np.pi * 200 * 2**label * time) + 0.05 * rng.standard_normal(len(time))
        waves.append(torch.from_numpy(tone.astype(np.float32)))
    samples = torch.tensor([len(wave) for wave in waves])
    waveform = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    with torch.no_grad():
        features = [model.derive(wave[None], n[None])[0][0] for wave, n in zip(waves, samples, strict=True)]
    tickets = 0.1 * torch.from_numpy(rng.standard_normal((count, CLASSES))).float()
    return ForgetSet(pad_features(features, labels), waveform, samples, tickets=tickets)


AT_ONCE = ("none", "destroy", "retract")
"""methods that take no steps"""


def quick(method: str, **more: Any) -> UnlearningSettings:
    """Two steps, whatever the accuracy, and as little of an attack as there can be."""
    steps: dict[str, Any] = {"max_steps": 2, "stop": "steps", "lr": 0.01}
    attack = {"per_utterance": 2, "steps": 1, "eps": 0.05, **more.pop("attack", {})}
    extra: dict[str, dict[str, Any]] = {
        "calm": {"attack": attack},
        "l2ul": {"attack": attack},
        "amun-forget": {"eps": 0.1, "doublings": 4, "steps": 2},
        "boundary-shrink": {"eps": 0.1},
    }
    if method in AT_ONCE:
        return UnlearningSettings(method=method)
    if method == "puf":
        steps = {"steps": 2, "lr": 0.01}
    chosen = {**steps, **extra.get(method, {}), **more}
    return UnlearningSettings.model_validate({"method": method, method.replace("-", "_"): chosen})


def unlearn(method: str, model: EncoderModel, data: ForgetSet, **more: Any) -> UnlearnResult:
    return METHODS[method].unlearn(model, data, quick(method, **more), np.random.default_rng(0), SCALARS)


def frozen_of(model: EncoderModel) -> dict[str, Tensor]:
    """The parameters that do not train, and the encoder that all models of the process share."""
    shared = checkpoint.load(model.checkpoint).state_dict()
    own = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    return {name: value.detach().clone() for name, value in {**shared, **own}.items()}


def trained_of(model: EncoderModel) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# ---- methods ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trains", BY_TRAINS)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_moves_what_trains_and_nothing_else(folder: Path, trains: str, method: str) -> None:
    model = encoder(folder, trains)
    data, before, frozen = speech(model), snapshot(model), frozen_of(model)
    trained = trained_of(model)
    result = unlearn(method, model, data)
    assert result.state.keys() == before.keys() == trained | {"norm.mean", "norm.std"}
    assert all(bool(value.isfinite().all()) for value in result.state.values())
    moved = {name for name, value in before.items() if not torch.equal(value, result.state[name])}
    assert moved <= (set() if method == "none" else trained)
    if method == "destroy":  # gains that are 1, and biases that are 0, stay so
        trained = {name for name in trained if before[name].dim() > 1}
    elif method == "salun":  # holds half of the weights
        trained = {"classifier.weight"}
    elif method == "jit":  # a last bias cancels in the difference of two outputs
        trained = {name for name in trained if not name.endswith(("classifier.bias", "projector.bias"))}
    assert moved >= (set() if method == "none" else trained)
    assert same(snapshot(model), before)
    assert same(frozen_of(model), frozen)
    assert result.steps == (0 if method in AT_ONCE else 2)


@pytest.mark.parametrize("trains", ["head", *(pytest.param(t, marks=pytest.mark.slow) for t in TRAINS[1:])])
def test_destroy_leaves_nothing_of_what_was_learned(folder: Path, trains: str) -> None:
    model = encoder(folder, trains)
    data = speech(model, 12)
    local = LocalSettings(steps=0, epochs=25, batch_size=4, lr=0.05)
    train(model, data.examples, local, local.lr, np.random.default_rng(0))
    before, after = unlearn("destroy", model, data).forget_accuracy
    assert before >= 0.9
    assert after <= 0.67
    assert unlearn("none", model, data).forget_accuracy[1] == before


@pytest.mark.parametrize("trains", BY_TRAINS)
@pytest.mark.parametrize("domain", ["feature", "waveform"])
def test_both_domains_hold_the_model_at_samples_of_their_own(folder: Path, trains: str, domain: str) -> None:
    model = encoder(folder, trains)
    data, frozen = speech(model), frozen_of(model)
    chosen = AttackSettings.model_validate(dict(domain=domain, eps=0.02, steps=2, per_utterance=2))
    made = targeted_pgd(model, data, chosen, np.random.default_rng(0))
    still = targeted_pgd(
        model, data, chosen.model_copy(update={"steps": 0}), np.random.default_rng(0)
    ).examples

    def losses(examples: Examples) -> Tensor:
        return torch.nn.functional.cross_entropy(
            predict(model, examples), made.examples.labels, reduction="none"
        )

    assert made.examples.features.shape[1:] == data.examples.features.shape[1:]
    assert (losses(made.examples) < losses(still)).all()
    result = unlearn("l2ul", model, data, attack={"domain": domain})
    assert result.adversarial == 12
    assert same(frozen_of(model), frozen)
    assert {n for n, v in snapshot(model).items() if not torch.equal(v, result.state[n])} == trained_of(model)


@pytest.mark.parametrize("trains", BY_TRAINS)
@pytest.mark.parametrize("kind", ["flipped-mas", "fisher"])
def test_importance_is_of_what_trains_alone(folder: Path, trains: str, kind: Any) -> None:
    model = encoder(folder, trains).eval()
    omega = importance(model, speech(model).examples, kind)
    assert omega.keys() == trained_of(model)
    assert all(bool(((value >= 0) & (value <= 1)).all()) for value in omega.values())
    assert omega["classifier.weight"].max() == 1
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("trains", FAST)
def test_a_linear_head_and_adapters_have_no_tail_to_smooth(folder: Path, trains: str) -> None:
    model = encoder(folder, trains)
    assert same(smoothed(model, 1).state_dict(), model.state_dict())


@pytest.mark.parametrize("trains", ["top:1", "all"])
def test_what_is_smoothed_is_the_difference_from_the_checkpoint(folder: Path, trains: str) -> None:
    """A change of rank 1 passes rank 1 as it is, one of rank 2 loses its shorter direction; an encoder that
    learned nothing stays what it was, although its own matrices have full rank."""
    model = encoder(folder, trains)
    assert all(
        torch.allclose(value, model.state_dict()[name], atol=1e-6)
        for name, value in smoothed(model, 1).state_dict().items()
    )
    weight, start = next(iter(model.smoothable()))
    assert isinstance(start, Tensor)
    long, short = torch.zeros_like(weight), torch.zeros_like(weight)
    long[0, 1], short[2, 3] = 2.0, 1.0
    with torch.no_grad():
        weight.copy_(start + long + short)
    (name,) = (name for name, value in model.named_parameters() if value is weight)
    torch.testing.assert_close(smoothed(model, 1).state_dict()[name], start + long, atol=1e-5, rtol=0.0)
    assert same(smoothed(model, 16).state_dict(), model.state_dict())


def test_noise_is_as_loud_as_the_speech_where_it_is_added(folder: Path) -> None:
    """A wave of amplitude a has power a^2 / 2; none is added to a pause, and company changes nothing."""
    model = encoder(folder, "all")
    time = torch.arange(3200) / SAMPLE_RATE
    wave = torch.sin(2 * math.pi * 400 * time) * (time < 0.1) * (1.0 + (time < 0.05))
    unit = model.unit_at(wave[None, :, None])[0, :, 0]
    torch.testing.assert_close(unit[300:500], torch.full((200,), 2 / 2**0.5), rtol=0.01, atol=0.0)
    torch.testing.assert_close(unit[1100:1300], torch.full((200,), 1 / 2**0.5), rtol=0.01, atol=0.0)
    assert (unit[1900:] == 0).all()
    padded = torch.nn.functional.pad(wave, (0, 500))[None, :, None]
    torch.testing.assert_close(model.unit_at(padded)[0, :3200, 0], unit)
    data = Examples(wave[None, :, None], torch.tensor([3200]), torch.tensor([0]))
    copies = noisy_copies(model, data, 0.5, 4, np.random.default_rng(0)).features[:, :, 0]
    assert (copies[:, 1900:] == 0).all()
    added = (copies - wave)[:, 300:500].square().mean().sqrt()
    assert float(added) == pytest.approx(0.5 * 2 / 2**0.5, rel=0.1)


# ---- memory ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("trains", TRAINS)
@pytest.mark.parametrize("domain", ["feature", "waveform"])
def test_an_attack_in_pieces_is_the_attack_in_one(folder: Path, trains: str, domain: str) -> None:
    """Nine utterances of up to .12 s: .13 s at once are one utterance at a time, 30 s all of them."""
    chosen = AttackSettings.model_validate(dict(domain=domain, eps=0.05, steps=3, per_utterance=2))
    made = []
    for seconds in (30.0, 0.13):
        model = encoder(folder, trains, seconds_at_once=seconds)
        made.append(targeted_pgd(model, speech(model, 9), chosen, np.random.default_rng(1)))
    whole, pieces = made
    torch.testing.assert_close(pieces.examples.features, whole.examples.features, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(pieces.outputs, whole.outputs, rtol=1e-3, atol=1e-4)
    assert torch.equal(pieces.examples.labels, whole.examples.labels)


def test_an_attack_computes_each_piece_once(folder: Path) -> None:
    """Only inputs get gradients, so that none has to wait for those of another piece."""
    chosen = AttackSettings(domain="waveform", eps=0.05, steps=3, per_utterance=2)

    def operations(seconds: float) -> int:
        model = encoder(folder, "lora", seconds_at_once=seconds)
        return flops_of(lambda: targeted_pgd(model, speech(model), chosen, np.random.default_rng(1)))

    assert operations(0.13) <= operations(30.0)  # less padding


def test_the_untargeted_attacks_are_the_same_in_pieces(folder: Path) -> None:
    made = []
    for seconds in (30.0, 0.13):
        model = encoder(folder, "lora", seconds_at_once=seconds)
        examples = speech(model).examples
        moved, predicted, distance = closest_adversarial(model, examples, 0.01, doublings=6, steps=3)
        made.append((moved, predicted, distance, fgsm(model, examples, 0.1)))
    for whole, piece in zip(*made, strict=True):
        # A sign may turn where a gradient is next to nothing.
        assert ((piece - whole).abs() < 1e-3).double().mean() > 0.999
    assert (made[0][1] != examples.labels).any()


@pytest.mark.parametrize("trains", BY_TRAINS)
def test_company_does_not_change_what_an_utterance_is_attacked_along(folder: Path, trains: str) -> None:
    """The gradient by the waveform, alone and in a batch with longer ones."""
    model = encoder(folder, trains).eval()
    data = speech(model)

    def gradient(index: list[int], width: int) -> Tensor:
        wave = data.waveform[index, :width].clone().requires_grad_()
        logits = model(wave, data.samples[index])
        loss = torch.nn.functional.cross_entropy(logits, data.examples.labels[index], reduction="sum")
        return torch.autograd.grad(loss, wave)[0]

    together = gradient(list(range(len(data))), data.waveform.shape[1])
    for i, length in enumerate(data.samples.tolist()):
        alone = gradient([i], length)[0]
        assert (together[i, :length] - alone).norm() < 1e-4 * alone.norm()


# ---- privileged baselines, and measures of the server's view ---------------------------------------------


@pytest.mark.parametrize("trains", BY_TRAINS)
@pytest.mark.parametrize("name", sorted(n for n, c in PRIVILEGED.items() if isinstance(c, RoundsCard)))
def test_both_halves_of_the_privileged_baselines_run(folder: Path, trains: str, name: str) -> None:
    card = PRIVILEGED[name]
    assert isinstance(card, RoundsCard)
    model = encoder(folder, trains)
    data, kept, before, frozen = speech(model), speech(model, 9, seed=1), snapshot(model), frozen_of(model)
    chosen, local = UnlearningSettings(), LocalSettings(batch_size=4)
    start = card.start(before, model)
    assert start.keys() == before.keys()
    changed = {n for n, value in start.items() if not torch.equal(value, before[n])}
    assert changed == ({model.first_layer} if name == "not" else set())
    model.load_state_dict(start)
    original = copy.deepcopy(model).eval() if card.teacher else None
    if card.forget is not None:
        held_out = kept.examples if card.held_out else None
        gone = card.forget(model, data, chosen, np.random.default_rng(0), SCALARS, original, held_out)
        assert gone.state.keys() == before.keys()
    loss = card.retain(model, kept.examples, chosen, local, np.random.default_rng(0), original)
    assert math.isfinite(loss)
    assert {n for n, v in snapshot(model).items() if not torch.equal(v, start[n])} == trained_of(model)
    assert same(frozen_of(model), frozen)


def test_fed_eraser_gives_what_travels_its_old_size(folder: Path) -> None:
    card = PRIVILEGED["fed-eraser"]
    assert isinstance(card, HistoryCard)
    model = encoder(folder, "lora")
    trained = trained_of(model)
    difference = {name: torch.ones_like(value) for name, value in snapshot(model).items()}
    calibrated = card.calibrate(difference, dict.fromkeys(trained, 2.0))
    assert calibrated.keys() == difference.keys()
    assert all(float(calibrated[name].norm()) == pytest.approx(2.0) for name in trained)


def test_the_first_model_of_a_process_is_as_every_other(tmp_path: Path) -> None:
    """Whether the checkpoint had to be loaded or not, the head is drawn from the same numbers."""
    settings = ModelSettings(name=str(tiny_encoder(tmp_path / "fresh", seed=5)))
    first, second = (build_model(settings, CLASSES, np.random.default_rng(3)) for _ in range(2))
    assert same(first.state_dict(), second.state_dict())


def test_an_encoders_first_layer_is_a_layer(tmp_path: Path) -> None:
    """WavLM's first trained tensor is a constant of its position bias, [1, heads, 1, 1]."""
    folder = tiny_encoder(tmp_path / "wavlm", kind="wavlm")
    for trains in TRAINS:
        model = encoder(folder, trains)
        assert model.state_dict()[model.first_layer].shape[0] > 1


@pytest.mark.parametrize("trains", BY_TRAINS)
def test_relearning_begins_with_the_weights_it_is_given(folder: Path, trains: str) -> None:
    model = encoder(folder, trains)
    examples, before, frozen = speech(model).examples, snapshot(model), frozen_of(model)
    knows = float((predict(model, examples).argmax(1) == examples.labels).double().mean())
    local, rngs = LocalSettings(batch_size=3, lr=0.01), [np.random.default_rng(0)]
    found = relearn(model, before, examples, knows, local, 2, rngs)
    assert found is not None and found.steps == 0 and found.reached
    still = LocalSettings(batch_size=3, lr=1e-12)  # too slow to get there in two steps
    assert knows < 1.0
    found = relearn(model, before, examples, 1.0, still, 2, rngs)
    assert found is not None and found.steps == 2 and not found.reached
    assert same(snapshot(model), before) and same(frozen_of(model), frozen)


@pytest.mark.parametrize("trains", BY_TRAINS)
def test_the_guards_probes_see_a_class_silenced(folder: Path, trains: str) -> None:
    model = encoder(folder, trains)
    with torch.no_grad():
        model.classifier.weight.mul_(10.0)  # every class is predicted somewhere
    before = snapshot(model)
    probes = Probes(model, before, seed=1)
    assert probes.silenced(before) == 0.0
    mute = {**before, "classifier.bias": before["classifier.bias"] - torch.tensor([0.0, 1e3, 0.0])}
    assert probes.silenced(mute) == 1.0
    assert 0.0 <= probes.silenced(unlearn("random-label", model, speech(model)).state) < 1.0


def test_noise_is_like_speech_to_the_head(folder: Path) -> None:
    """Standardised and equal in all layers, it is as the weighted sum of the layers has it: N(0, s^2), where
    s_d = sum_l w_l std_ld / (a_l b_d), whatever the layers weigh."""
    model = encoder(folder, "head")
    noise = model.noise(20_000, 5, torch.Generator().manual_seed(0))[:, 0]
    assert noise.shape == (20_000, model.dims)
    torch.testing.assert_close(noise.mean(0), model.norm.mean, atol=0.05, rtol=0.05)
    torch.testing.assert_close(noise.std(0), model.norm.std, atol=0.0, rtol=0.05)
    standard = ((noise - model.norm.mean) / model.norm.std).unflatten(1, (3, 16))
    torch.testing.assert_close(standard[:, 0], standard[:, 2], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("trains", BY_TRAINS)
def test_what_an_update_tells_the_server_can_be_measured(folder: Path, trains: str) -> None:
    model = encoder(folder, trains)
    before, data = snapshot(model), speech(model)
    after = unlearn("gradient-ascent", model, data).state
    update = {name: after[name] - value for name, value in before.items()}
    others = speech(model, 6, seed=2).examples
    corpus = np.array([0, 1, 2])
    privacy = request_privacy(
        model, before, update, data.examples, others, others, corpus, 20, np.random.default_rng(0)
    )
    assert privacy.label_mix and 0.0 <= privacy.label_mix.tv <= 1.0
    assert privacy.membership and 0.0 <= privacy.membership.auc <= 1.0
    nothing = {name: torch.zeros_like(value) for name, value in before.items()}
    blind = request_privacy(
        model, before, nothing, data.examples, others, others, corpus, 20, np.random.default_rng(0)
    )
    assert blind.membership and blind.membership.auc == 0.5


# ---- settings that do not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"unlearning.l2ul.attack.domain": "log-mel"}, "unlearning.l2ul.attack.domain"),
        ({"training.local.time_mask": 0.1}, "training.local"),
        ({"training.local.crop_seconds": 1.0}, "training.local"),
        ({"model.encoder.trains": "all", "training.local.band_mask": 0.1}, "training.local.band_mask"),
    ],
)
def test_what_an_encoder_does_not_have_is_refused_in_one_line(overrides: dict[str, Any], key: str) -> None:
    with pytest.raises(BadInput) as refused:
        load(None, {"model.name": "random:wav2vec2-base", **overrides})
    (line,) = refused.value.problems
    assert key in line and "encoder" in line
    load(None, {"model.name": "cnn", **{k: v for k, v in overrides.items() if "encoder" not in k}})


def test_frames_of_a_waveform_can_be_cut() -> None:
    fits = {"model.name": "x/y", "model.encoder.trains": "all", "training.local.crop_seconds": 1.0}
    assert load(None, fits).training.local.crop_seconds == 1.0
