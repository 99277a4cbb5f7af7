"""The frozen part of an encoder computed once: the same model, the same updates, and gone with the audio."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from killed_runs import Death, assert_same
from small_run import resumed, run_small, small_config, weights_of, without_times
from tiny_encoders import KINDS, NORMS, tiny_encoder
from torch import Tensor

from benchmarks.encoder_work import flops_of
from fedunlearn.config import Config, LocalSettings, load
from fedunlearn.config.model import EncoderSettings, ModelSettings
from fedunlearn.config.unlearning import AttackSettings
from fedunlearn.errors import BadInput
from fedunlearn.examples import Examples, ForgetSet, pad_features
from fedunlearn.models import build_model
from fedunlearn.models.encoders.checkpoint import check_trains, locate
from fedunlearn.models.encoders.model import EncoderModel
from fedunlearn.seeding import rng_for
from fedunlearn.server.clients import Clients
from fedunlearn.training import calibrate, crop, mask_spans, predict, set_calibration, train
from fedunlearn.unlearning.targeted_attack import targeted_pgd
from fedunlearn.vault.index import VaultEntry
from fedunlearn.vault.traces import Fingerprints, find_traces
from fedunlearn.vault.vault import Vault

LAYERS, HIDDEN, CLASSES = 3, 16, 4
LENGTHS = (8000, 3000, 1200, 5000)
STILL = {
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
}
"""Frozen layers have no dropout; without any, what trained through all of them can be compared."""
PREFIXES = ("top:1", "top:2", "top:3", "lora:1", "lora")

Folders = Mapping[tuple[str, str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("encoders")
    return {
        (k, n): tiny_encoder(root / f"{k}-{n}", kind=k, norm=n, layers=LAYERS, hidden=HIDDEN, **STILL)
        for k in KINDS
        for n in NORMS
    }


def made(folder: Path, trains: str, **settings: Any) -> EncoderModel:
    encoder = EncoderSettings(trains=trains, projection=8, device="cpu", **settings)
    model = build_model(ModelSettings(name=str(folder), encoder=encoder), CLASSES, rng_for(0, "test model"))
    assert isinstance(model, EncoderModel)
    return model.eval()


def calibrated(model: EncoderModel) -> EncoderModel:
    moments = calibrate(model, examples_of(model))
    set_calibration(model, moments.mean, moments.mean_square)
    return model


def recordings() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(3000 * rng.standard_normal(n)).astype(np.int16) for n in LENGTHS]


def examples_of(model: EncoderModel) -> Examples:
    features = [model.features_of(pcm) for pcm in recordings()]
    return pad_features(features, [i % CLASSES for i in range(len(features))])


def waveform_of(pcm: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(pcm.astype(np.float32) / 32_768)[None], torch.tensor([len(pcm)])


def whole(folder: Path, model: EncoderModel) -> EncoderModel:
    """The same model as it was before the frozen part was kept: every waveform passes the whole encoder."""
    other = made(folder, "all")
    other.encoder = copy.deepcopy(model.encoder)
    for part in ("norm", "layer_weights", "projector", "classifier"):
        setattr(other, part, copy.deepcopy(getattr(model, part)))
    return other


# ---- the same model --------------------------------------------------------------------------------------


@pytest.mark.parametrize("trains", PREFIXES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_kept_states_predict_what_the_whole_encoder_does(
    folders: Folders, kind: str, norm: str, trains: str
) -> None:
    model = calibrated(made(folders[kind, norm], trains, state_precision="float32"))
    reference, examples = whole(folders[kind, norm], model), examples_of(model)
    assert examples.features.shape[2] == HIDDEN
    with torch.no_grad():
        expected = torch.cat([reference(*waveform_of(pcm)) for pcm in recordings()])
        torch.testing.assert_close(predict(model, examples), expected, atol=1e-5, rtol=1e-5)
        rows = model.calibration_rows(examples.features, examples.frames)
        for row, pcm in zip(rows, recordings(), strict=True):
            wave, samples = reference.derive(*waveform_of(pcm))
            other = reference.calibration_rows(wave, samples)[0]
            torch.testing.assert_close(row, other, atol=1e-5, rtol=1e-5)
    assert expected.std(0).max() > 1e-3


@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("trains", PREFIXES)
def test_a_waveform_gives_the_bits_that_kept_states_give(
    folders: Folders, trains: str, precision: str
) -> None:
    """What a vault keeps is all that the model needs, and it is rounded before it is used anywhere."""
    model = calibrated(made(folders["wavlm", "layer"], trains, state_precision=precision))
    for pcm in recordings():
        features = model.features_of(pcm)
        assert features.dtype == getattr(torch, precision)
        with torch.no_grad():
            kept = model.classify(features.float()[None], torch.tensor([len(features)]))
            assert torch.equal(kept, model(*waveform_of(pcm)))


def test_rounding_to_float16_moves_logits_by_less_than_a_hundredth(folders: Folders) -> None:
    """Half a unit in the last of 11 bits of each value: a relative error of at most 2^-11."""
    for kind in KINDS:
        exact = calibrated(made(folders[kind, "layer"], "top:1", state_precision="float32"))
        rounded = made(folders[kind, "layer"], "top:1")
        rounded.load_state_dict(exact.state_dict())
        logits, others = predict(exact, examples_of(exact)), predict(rounded, examples_of(rounded))
        assert 0 < (logits - others).abs().max() < 0.01
        a, b = examples_of(exact).features, examples_of(rounded).features
        assert ((a - b).abs() <= a.abs() * 2.0**-11 + 2.0**-25).all()


def test_states_too_large_for_float16_stay_finite(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "large", norm="layer", layers=2)
    model = made(folder, "top:1")
    with torch.no_grad():
        model.pretrained.feature_projection.projection.bias.fill_(1e6)
    features = model.features_of(recordings()[0])
    assert float(features.max()) == torch.finfo(torch.float16).max and features.isfinite().all()


def test_an_utterance_alone_and_in_a_padded_batch(folders: Folders) -> None:
    for kind, norm in folders:
        model = calibrated(made(folders[kind, norm], "top:2", state_precision="float32"))
        examples = examples_of(model)
        together = predict(model, examples)
        for i, frames in enumerate(examples.frames.tolist()):
            with torch.no_grad():
                alone = model.classify(examples.features[i : i + 1, :frames], examples.frames[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, atol=2e-5, rtol=1e-4)


# ---- the same updates ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "trains"),
    [("wav2vec2", "top:1"), ("hubert", "top:2"), ("wavlm", "top:1"), ("wavlm", "lora:2"), ("hubert", "lora")],
)
def test_updates_are_those_of_training_through_the_whole_encoder(
    folders: Folders, kind: str, trains: str
) -> None:
    folder = folders[kind, "layer"]
    model = calibrated(made(folder, trains, state_precision="float32"))
    reference = whole(folder, model)
    start = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    waves = [reference.features_of(pcm) for pcm in recordings()]
    local = LocalSettings(steps=0, epochs=3, batch_size=2, lr=0.01)
    losses = [
        train(m, examples, local, local.lr, rng_for(1, "training"))
        for m, examples in (
            (model, examples_of(model)),
            (reference, pad_features(waves, [i % CLASSES for i in range(len(waves))])),
        )
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    others = dict(reference.named_parameters())
    assert start.keys() == {name for name, value in others.items() if value.requires_grad}
    for name, value in model.named_parameters():
        if value.requires_grad and not name.endswith("k_proj.bias"):  # of which a softmax is independent
            update, other = (p.detach() - start[name] for p in (value, others[name]))
            assert float((update - other).norm()) <= 1e-3 * float(other.norm()) + 1e-7, name


def test_training_touches_only_the_layers_above(tmp_path: Path) -> None:
    """In the default shape of ``pretrain`` a step takes less than half of the operations.

    It takes a seventh of the time: the first convolutions have few operations for what they read and write.
    """
    sizes = {"conv_dim": (16, 32, 48, 64, 96, 128, 128), "intermediate_size": 256, **STILL}
    folder = tiny_encoder(tmp_path / "default", norm="layer", layers=3, hidden=128, **sizes)
    model = made(folder, "top:1")
    reference, pcm = whole(folder, model), recordings()[:1]
    local = LocalSettings(steps=1, batch_size=1)

    def operations(trained: EncoderModel) -> int:
        examples = pad_features([trained.features_of(one) for one in pcm], [0])
        return flops_of(lambda: train(trained, examples, local, 1e-3, rng_for(0, "training")))

    assert operations(model) * 2 < operations(reference)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert any(".layers.1." in name for name in frozen)
    assert not any(".layers.2." in name for name in frozen)


def test_adapters_are_in_the_uppermost_layers_alone(folders: Folders) -> None:
    """Rank 8 on queries and values of two layers of 16: 2 * 2 * (8 * 16 + 16 * 8) values."""
    upper, head = made(folders["hubert", "group"], "lora:2"), made(folders["hubert", "group"], "head")
    adapters = [name for name in upper.state_dict() if "lora" in name]
    assert {name.split(".")[3] for name in adapters} == {"1", "2"}
    counts = [sum(value.numel() for value in m.state_dict().values()) for m in (upper, head)]
    assert counts[0] - counts[1] == 2 * 2 * (8 * 16 + 16 * 8)
    every = made(folders["hubert", "group"], "lora").state_dict()
    assert every.keys() == made(folders["hubert", "group"], "lora:3").state_dict().keys()


def test_more_layers_than_there_are_is_one_line(folders: Folders) -> None:
    found = locate(str(folders["wavlm", "group"]))
    for trains in ("top:4", "lora:4"):
        with pytest.raises(BadInput, match="has 3 layers"):
            check_trains(found, trains)
    check_trains(found, "lora:3")


# ---- augmentation ----------------------------------------------------------------------------------------


@given(
    frames=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    summary=st.integers(0, 3),
    length=st.integers(1, 6),
    seed=st.integers(0, 9),
)
def test_a_crop_keeps_what_describes_the_whole_utterance(
    frames: list[int], summary: int, length: int, seed: int
) -> None:
    features = [1.0 + torch.arange(summary + n, dtype=torch.float32)[:, None] for n in frames]
    examples = pad_features(features, [0] * len(frames))
    index = torch.arange(len(frames))
    found = crop(examples, index, length, np.random.default_rng(seed), summary)
    assert found.frames.tolist() == [summary + min(n, length) for n in frames]
    assert torch.equal(found.features[:, :summary], examples.features[:, :summary])
    for row, count in zip(found.features[:, :, 0], found.frames.tolist(), strict=True):
        span = row[summary:count]
        assert torch.equal(span, span[0] + torch.arange(len(span))) and not row[count:].any()
        assert span[0] > summary


def test_a_time_mask_leaves_the_frozen_layers_means(folders: Folders) -> None:
    model = calibrated(made(folders["wav2vec2", "layer"], "top:1"))
    examples = examples_of(model)
    masked = mask_spans(examples, 0.9, 0.0, model.feature_mean, np.random.default_rng(0), 2)
    changed = (masked.features != examples.features).any(2)
    assert not changed[:, :2].any() and changed[:, 2:].any()
    assert torch.equal(masked.features[changed], model.feature_mean.expand(int(changed.sum()), -1))
    local = LocalSettings(
        steps=3, batch_size=2, crop_seconds=0.1, time_mask=0.3, mixup=0.2, feature_noise=0.1
    )
    assert np.isfinite(train(model, examples, local, 0.01, rng_for(0, "training")))


# ---- attacks ---------------------------------------------------------------------------------------------


def forget_set_of(model: EncoderModel) -> ForgetSet:
    waves = [waveform_of(pcm)[0][0] for pcm in recordings()]
    waveform = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    return ForgetSet(examples_of(model), waveform, torch.tensor(LENGTHS))


def test_the_unit_of_a_frame_by_hand(folders: Folders) -> None:
    """Frames 1 and 5 in one dimension have mean 3 and standard deviation 2; padding does not count."""
    model = made(folders["wav2vec2", "layer"], "top:1")
    model.norm.std.copy_(torch.arange(1.0, 1 + 4 * HIDDEN))
    features = torch.zeros(1, 2 + 3, HIDDEN)
    features[0, 2], features[0, 3] = 1.0, 5.0
    unit = model.unit_at(features)
    assert unit.shape == features.shape
    torch.testing.assert_close(unit[0, :2].flatten(), model.norm.std[: 2 * HIDDEN])
    torch.testing.assert_close(unit[0, 2:], torch.full((3, HIDDEN), 2.0))


@pytest.mark.parametrize("trains", ["head", "top:1", "lora:2"])
def test_hidden_states_and_embeddings_are_the_features(folders: Folders, trains: str) -> None:
    model = calibrated(made(folders["wavlm", "group"], trains))
    data = forget_set_of(model)
    own = "embedding" if trains == "head" else "hidden"
    attacks = [
        targeted_pgd(model, data, AttackSettings(domain=name, per_utterance=2), np.random.default_rng(0))
        for name in ("feature", own)
    ]
    assert torch.equal(attacks[0].examples.features, attacks[1].examples.features)
    assert not torch.equal(attacks[0].examples.features[::2], data.examples.features)


@pytest.mark.parametrize("kind", KINDS)
def test_an_attack_on_the_waveform_passes_the_frozen_part(folders: Folders, kind: str) -> None:
    """Its gradient is that of the whole encoder; rounding to float16 moves it little."""
    folder = folders[kind, "layer"]
    exact = calibrated(made(folder, "top:1", state_precision="float32"))
    rounded = made(folder, "top:1")
    rounded.load_state_dict(exact.state_dict())

    def gradient(model: EncoderModel) -> Tensor:
        wave, samples = waveform_of(recordings()[1])
        wave.requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(wave, samples), torch.tensor([1]))
        return torch.autograd.grad(loss, wave)[0]

    expected = gradient(whole(folder, exact))
    assert float(expected.norm()) > 0
    assert float((gradient(exact) - expected).norm()) < 1e-3 * float(expected.norm())
    assert float((gradient(rounded) - expected).norm()) < 0.05 * float(expected.norm())


@pytest.mark.parametrize(
    ("model", "trains", "domain", "instead"),
    [
        ("random:wav2vec2-tiny", "head", "hidden", '"feature" or "embedding" or "waveform"'),
        ("random:wav2vec2-tiny", "top:1", "embedding", '"feature" or "hidden" or "waveform"'),
        ("random:wav2vec2-tiny", "lora", "embedding", '"feature" or "hidden" or "waveform"'),
        ("random:wav2vec2-tiny", "all", "hidden", '"feature" or "waveform"'),
        ("functionals", "head", "hidden", "speech encoders"),
        ("cnn", "head", "embedding", "speech encoders"),
    ],
)
def test_a_domain_that_the_model_lacks_is_refused_in_one_line(
    model: str, trains: str, domain: str, instead: str
) -> None:
    chosen = {"model.name": model, "model.encoder.trains": trains}
    with pytest.raises(BadInput) as refused:
        load(None, {**chosen, "unlearning.l2ul.attack.domain": domain})
    (line,) = refused.value.problems
    assert "unlearning.l2ul.attack.domain" in line and instead in line
    load(None, {**chosen, "unlearning.l2ul.attack.domain": "feature"})


# ---- on a device -----------------------------------------------------------------------------------------


def test_damaged_hidden_states_are_computed_again(folders: Folders, tmp_path: Path) -> None:
    model = made(folders["wav2vec2", "group"], "top:1")
    entry, pcm = VaultEntry("u0", "sad", 0, "train", LENGTHS[0]), recordings()[0]
    Vault.build(tmp_path / "vault", [(entry, pcm)], CLASSES).derive(model)
    (stored,) = (tmp_path / "vault").glob("states-*.f16")
    whole_file = stored.read_bytes()
    stored.write_bytes(bytes(len(whole_file)))
    vault = Vault(tmp_path / "vault")
    assert not vault.features_are_whole and vault.stored_names() == ()
    assert torch.equal(vault.read_features("u0", model), model.features_of(pcm))
    vault.drop_features(model)
    assert not stored.exists()
    vault.derive(model)
    assert vault.features_are_whole and stored.read_bytes() == whole_file


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_hidden_states_go_with_the_audio(folders: Folders, tmp_path: Path, precision: str) -> None:
    model = made(folders["wav2vec2", "group"], "top:1", state_precision=precision)
    entries = [VaultEntry(f"u{i}", "sad", 0, "train", len(pcm)) for i, pcm in enumerate(recordings())]
    vault = Vault.build(tmp_path / "vault", list(zip(entries, recordings(), strict=True)), CLASSES)
    vault.derive(model)
    assert vault.stored_names() == (model.feature_name,)
    for entry, pcm in zip(entries, recordings(), strict=True):
        assert torch.equal(vault.read_features(entry.id, model), model.features_of(pcm))
    size = sum(path.stat().st_size for path in vault.folder.glob("states-*.f??"))
    rows = sum(len(model.features_of(pcm)) for pcm in recordings())
    assert size == rows * HIDDEN * (2 if precision == "float16" else 4)
    gone, prints = vault.read_features("u1", model), vault.fingerprints(["u1"], model)
    states = Fingerprints.of([gone.numpy()])
    assert find_traces([tmp_path], states).found
    vault.purge(["u1"])
    assert vault.features_are_whole and vault.stored_names() == (model.feature_name,)
    assert not find_traces([tmp_path], prints | states).found
    kept = model.features_of(recordings()[2])
    assert torch.equal(Vault(tmp_path / "vault").read_features("u2", model), kept)
    assert find_traces([tmp_path], Fingerprints.of([kept.numpy()])).found


def test_the_search_finds_states_in_both_precisions(folders: Folders, tmp_path: Path) -> None:
    """As they lie in a vault, and as they are in memory, wherever a piece of them is left."""
    model = made(folders["hubert", "layer"], "top:1")
    entries = [VaultEntry(f"u{i}", "sad", 0, "train", len(pcm)) for i, pcm in enumerate(recordings())]
    vault = Vault.build(tmp_path / "vault", list(zip(entries, recordings(), strict=True)), CLASSES)
    vault.derive(model)
    prints, gone = vault.fingerprints(["u0"], model), vault.read_features("u0", model)
    for number, values in enumerate((gone.numpy(), gone.float().numpy())):
        left = tmp_path / f"left-{number}"
        left.mkdir()
        (left / "x").write_bytes(b"abc" + values[2:9].tobytes())
        assert find_traces([left], prints).found


# ---- whole runs ------------------------------------------------------------------------------------------


def tiny_run(**overrides: Any) -> Config:
    settings = {
        "corpus__utterances": 8,
        "partition__clients": 4,
        "partition__unseen_speakers": 1,
        "training__rounds": 2,
        "model__name": "random:wav2vec2-tiny",
        "model__encoder__trains": "top:1",
        "model__encoder__device": "cpu",
        "deletions__schedule": [{"client": 1, "what": "some", "count": 3, "after_learning": 0}],
        "federation__checkpoint_every": 1,
    }
    return small_config(**settings | overrides)


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("inline") / "run"
    return out, run_small(out, tiny_run())


def test_a_whole_run_keeps_hidden_states_and_forgets_them(inline: tuple[Path, dict[str, Any]]) -> None:
    out, found = inline
    assert [request["state"] for request in found["requests"]] == ["verified"]
    assert found["model"]["trains"] == "top:1"
    assert found["traces"]["windows"] > 0 and not found["traces"]["found"]
    stored = {path.parent.name: path.stat().st_size for path in out.glob("vaults/*/states-1-*.f16")}
    assert len(stored) == 4 and stored["client-0001"] < 0.8 * stored["client-0000"]


@pytest.mark.slow
def test_ray_agrees_with_one_process_bit_for_bit(inline: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    config = tiny_run(federation__engine="ray", federation__workers=2)
    results = run_small(tmp_path / "run", config)
    assert weights_of(tmp_path / "run") == weights_of(inline[0])
    assert without_times(results) == without_times(inline[1])


def test_a_resumed_run_ends_as_one_that_was_never_stopped(
    inline: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server dies in its fourth exchange."""
    out, ask, seen = tmp_path / "run", Clients.ask, list[str]()

    def ask_counted(self: Clients, kind: str, *rest: Any, **more: Any) -> Any:
        seen.append(kind)
        if len(seen) == 4:
            raise Death
        return ask(self, kind, *rest, **more)

    with monkeypatch.context() as patched, pytest.raises(Death):
        patched.setattr(Clients, "ask", ask_counted)
        run_small(out, tiny_run(), cache=tmp_path / "cache")
    assert_same(out, resumed(out, tiny_run(), tmp_path / "cache"), (inline[1], weights_of(inline[0])))
