"""A small encoder trained from scratch: its objective, its input, the folder it leaves."""

from dataclasses import replace
from pathlib import Path

import command_line
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import write_wav

from fedunlearn.audio import PCM
from fedunlearn.corpora import synthetic, unlabelled
from fedunlearn.corpora.unlabelled import Choice
from fedunlearn.errors import BadInput, RunFailed
from fedunlearn.models.encoders import pretrained_folder, pretraining
from fedunlearn.models.encoders.checkpoint import load, locate
from fedunlearn.models.encoders.pretraining import (
    PretrainingObjective,
    Recipe,
    crops,
    distance,
    filterbank,
    latent_frames,
)
from fedunlearn.seeding import rng_for

ROOT = Path(__file__).resolve().parents[2]
TINY = Recipe(
    convolutions=(8, 8), hidden=8, layers=1, heads=2, steps=3, batch=2, seconds=0.5, gain=6.0, tempo=0.1
)


@pytest.fixture(scope="module")
def speech() -> list[PCM]:
    return [u.pcm() for u in synthetic.read(2, 6, 5).utterances]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three speakers with two recordings each, and a manifest of them."""
    folder = tmp_path_factory.mktemp("recordings")
    rows = ["path,speaker,emotion"]
    for utterance in synthetic.read(3, 2, 7).utterances:
        write_wav(utterance, folder / f"{utterance.id}.wav")
        rows.append(f"{utterance.id}.wav,{utterance.speaker},{utterance.emotion}")
    (folder / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


def call(out: Path, *arguments: str) -> tuple[int, str]:
    smallest = ["--steps", "2", "--batch", "1", "--hidden", "8", "--layers", "1", "--generated", "1"]
    return command_line.call("pretrain", "--out", out, *smallest, *arguments)


# ---- its objective ---------------------------------------------------------------------------------------


def test_only_frames_that_count_count() -> None:
    """Frames 0 and 2 of 4: mean of |1 - 0| and |3 - 0| over both bands alike = 2."""
    predicted = torch.tensor([[[1.0, 1.0], [1e9, 1e9], [3.0, 3.0], [1e9, 1e9]]])
    counted = torch.tensor([[True, False, True, False]])
    assert float(distance(predicted, torch.zeros_like(predicted), counted)) == 2.0


def test_where_no_frame_counts_the_distance_is_nothing() -> None:
    predicted = torch.ones(1, 3, 2, requires_grad=True)
    loss = distance(predicted, torch.zeros(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0 and predicted.grad is not None and not predicted.grad.any()


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_target_frame_is_made_of_the_samples_that_the_latent_frame_sees(place: int) -> None:
    """Changing samples 320 t ... 320 t + 399 alone changes frame t; what lies around them does not."""
    rng = np.random.default_rng(0)
    waveform = torch.from_numpy(0.1 * rng.standard_normal((1, 320 * 4 + 400))).float()
    samples = torch.tensor([waveform.shape[1]])
    objective = PretrainingObjective(TINY)
    before, _ = objective.targets(waveform, samples)
    start = 320 * place
    inside, outside = waveform.clone(), waveform.flip(1)
    inside[:, start + 150 : start + 250] *= 3
    outside[:, start : start + 400] = waveform[:, start : start + 400]
    assert before.shape[1] == int(latent_frames(samples)) == 5
    assert not torch.allclose(objective.targets(inside, samples)[0][:, place], before[:, place])
    torch.testing.assert_close(objective.targets(outside, samples)[0][:, place], before[:, place])


def test_the_latent_frames_are_as_many_as_the_convolutions_make(speech: list[PCM]) -> None:
    encoder = pretraining.build(TINY, 1)
    for samples in (400, 719, 720, 5000):
        made = encoder.feature_extractor(torch.zeros(1, samples)).shape[2]
        assert int(latent_frames(torch.tensor([samples]))) == made


def test_a_filterbank_hears_a_tone_at_its_frequency_whatever_the_phase() -> None:
    """Centre frequencies are equally spaced in mel. A filter is a Hann window times a cosine, so the phases
    together hear half the window's sum times |cos| + |sin|, from 1 to sqrt(2), of a tone of its frequency.
    """
    filters = filterbank(32, 240)
    torch.testing.assert_close(filters.norm(dim=1), torch.ones(128))
    torch.testing.assert_close(filters[:64], -filters[64:])
    peaks = torch.fft.rfft(filters[8:32], 16_000).abs().argmax(1)
    steps = (2595 * torch.log10(1 + peaks / 700)).diff()
    assert int(peaks[-1]) == pytest.approx(7600, abs=10)
    torch.testing.assert_close(steps, torch.full_like(steps, float(steps.mean())), rtol=0.05, atol=0)
    window = float(filters[9].square().sum().sqrt() / (3 / 16 * 240) ** 0.5) * 240 / 2
    for turn in (0.0, 0.1, 0.37):
        tone = torch.cos(2 * torch.pi * (int(peaks[1]) * torch.arange(240) / 16_000 + turn))
        heard = (filters @ tone).relu().view(4, 32).sum(0)
        assert int(heard.argmax()) == 9
        assert 0.98 * window / 2 < float(heard[9]) < 1.02 * 2**0.5 * window / 2


@pytest.mark.parametrize("kind", pretraining.KINDS)
def test_what_lies_beyond_the_end_of_a_crop_changes_no_loss(kind: str) -> None:
    recipe = replace(TINY, kind=kind)
    encoder, objective = pretraining.build(recipe, 1), PretrainingObjective(recipe)
    rng = np.random.default_rng(0)
    waveform = torch.from_numpy(0.1 * rng.standard_normal((2, 8000))).float()
    samples = torch.tensor([8000, 4000])
    hidden = torch.zeros(2, 24, dtype=torch.bool)
    hidden[:, 3:6] = True
    losses = []
    for beyond in (0.0, 0.5):
        waveform[1, 4000:] = beyond
        hidden[1, 15:] = bool(beyond)
        losses.append(objective(encoder, waveform, samples, hidden.clone()))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)


def test_what_is_hidden_is_not_seen(speech: list[PCM]) -> None:
    """With every frame hidden, the transformer predicts the same whatever its input."""
    encoder = pretraining.build(TINY, 1)
    hidden = torch.ones(1, 4, dtype=torch.bool)
    predicted = [
        encoder(torch.full((1, 1360), level), mask_time_indices=hidden).last_hidden_state
        for level in (0.1, 0.9)
    ]
    torch.testing.assert_close(predicted[0], predicted[1])


# ---- its input -------------------------------------------------------------------------------------------


def test_crops_are_pieces_of_the_recordings(speech: list[PCM]) -> None:
    recipe = replace(TINY, gain=0.0, tempo=0.0, batch=3)
    waveform, samples, hidden = crops(speech, recipe, rng_for(1, "crops"))
    assert waveform.shape == (3, 8000) and samples.tolist() == [8000] * 3
    assert hidden.any(1).all() and not hidden.all()
    joined = [(r.astype(np.float32) / 32768).tobytes() for r in speech]
    assert all(any(row.numpy().tobytes() in whole for whole in joined) for row in waveform)


def test_crops_of_short_recordings_hide_nothing_beyond_their_end() -> None:
    short = [np.ones(3300, np.int16), np.ones(8000, np.int16)]
    recipe = replace(TINY, batch=16, tempo=0.0)
    _, samples, hidden = crops(short, recipe, rng_for(3, "crops"))
    assert set(samples.tolist()) == {3300, 8000}
    for length, row in zip(samples.tolist(), hidden, strict=True):
        assert row.any() and not row[(length - 400) // 320 + 1 :].any()


def test_speakers_are_chosen_by_name_and_by_a_seeded_draw(recordings: Path) -> None:
    everyone = Choice("manifest", str(recordings))

    def chosen(choice: Choice, seed: int = 1) -> str:
        (source,) = unlabelled.choose(choice, seed)
        return source.text

    assert "6 recordings" in chosen(everyone)
    assert chosen(replace(everyone, only=("s002",))) == "2 recordings of manifest (speakers s002)"
    assert chosen(replace(everyone, leave_out=("s001",))).endswith("(speakers s000, s002)")
    one = {chosen(replace(everyone, speakers=1), seed) for seed in range(12)}
    two = chosen(replace(everyone, speakers=2))
    assert len(one) == 3 and chosen(replace(everyone, speakers=1)).split()[-1][:-1] in two


def test_labels_are_not_looked_at(recordings: Path, tmp_path: Path) -> None:
    """The same files all called "x", which no emotion recogniser could be trained on: the same speech."""
    rows = (recordings / "manifest.csv").read_text(encoding="utf-8").splitlines()
    other = [rows[0], *(f"{recordings}/{row.rsplit(',', 1)[0]},x" for row in rows[1:])]
    (tmp_path / "manifest.csv").write_text("\n".join(other), encoding="utf-8")
    outputs = [
        unlabelled.decode(unlabelled.choose(Choice("manifest", str(folder)), 1))
        for folder in (recordings, tmp_path)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(*outputs, strict=True))


def test_any_folder_of_sound_files_will_do(recordings: Path) -> None:
    (source,) = unlabelled.choose(Choice(data=str(recordings)), 1)
    assert source.text == f"6 sound files of the folder {recordings.name}"
    assert len(unlabelled.decode([source])) == 6


def test_generated_voices_are_not_those_of_a_run_with_that_seed() -> None:
    (source,) = unlabelled.choose(Choice(generated=1), 1)
    run = {u.pcm().tobytes() for u in synthetic.read(1, len(source.readers), 1).utterances}
    assert run.isdisjoint(pcm.tobytes() for pcm in unlabelled.decode([source]))


# ---- what it leaves --------------------------------------------------------------------------------------


def test_the_loss_falls_on_generated_speech(speech: list[PCM]) -> None:
    recipe = replace(TINY, convolutions=(16, 16), hidden=16, steps=60, batch=4, lr=5e-3, gain=0.0, tempo=0.0)
    curve = pretraining.pretrain(speech, recipe, 1).curve
    assert curve[-1][0] == 60
    assert np.mean([loss for _, loss in curve[-5:]]) < 0.9 * np.mean([loss for _, loss in curve[:5]])


@pytest.mark.parametrize("kind", pretraining.KINDS)
def test_the_folder_is_an_encoder_with_the_weights_that_were_trained(
    kind: str, speech: list[PCM], tmp_path: Path
) -> None:
    from transformers import AutoFeatureExtractor, AutoModel

    recipe = replace(TINY, kind=kind)
    trained = pretraining.pretrain(speech, recipe, 1)
    fresh = pretraining.build(recipe, 1).state_dict()
    pretrained_folder.write(tmp_path / "encoder", trained, recipe, ["a little speech"], 1)
    weights = load_file(tmp_path / "encoder" / "model.safetensors")
    found = AutoModel.from_pretrained(tmp_path / "encoder").eval()
    for name, value in trained.encoder.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    assert len(weights) == len(fresh) and any(not torch.equal(weights[name], fresh[name]) for name in weights)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "encoder")
    assert (extractor.sampling_rate, extractor.do_normalize, extractor.return_attention_mask) == (
        16_000,
        False,
        True,
    )
    checkpoint = locate(str(tmp_path / "encoder"))
    assert (checkpoint.kind, checkpoint.layers, checkpoint.hidden) == (kind, 1, 8)
    sound = torch.from_numpy(speech[0][:4000].astype(np.float32) / 32768)[None]
    with torch.no_grad():
        outputs = [model(sound).last_hidden_state for model in (trained.encoder, load(checkpoint))]
    assert torch.equal(*outputs)


def test_half_precision_is_exact_in_float32(speech: list[PCM], tmp_path: Path) -> None:
    """The file has 16 bits a weight, and the float32 encoder that is loaded has exactly these values."""
    trained = pretraining.pretrain(speech, TINY, 1)
    kept = {name: value.clone() for name, value in trained.encoder.state_dict().items()}
    pretrained_folder.write(tmp_path / "half", trained, TINY, ["a little speech"], 1, half=True)
    saved = load_file(tmp_path / "half" / "model.safetensors")
    found = load(locate(str(tmp_path / "half"))).state_dict()
    for name, value in kept.items():
        assert torch.equal(trained.encoder.state_dict()[name], value)
        assert saved[name].dtype == torch.float16 and torch.equal(saved[name], value.half())
        assert found[name].dtype == torch.float32 and torch.equal(found[name], value.half().float())
    assert "float16" in (tmp_path / "half" / "README.md").read_text(encoding="utf-8")


def test_the_readme_says_what_the_encoder_was_trained_on_and_how(speech: list[PCM], tmp_path: Path) -> None:
    trained = pretraining.pretrain(speech, TINY, 4)
    pretrained_folder.write(tmp_path / "encoder", trained, TINY, ["twelve utterances"], 4)
    text = (tmp_path / "encoder" / "README.md").read_text(encoding="utf-8")
    for expected in (
        "twelve utterances",
        "Seed 4",
        "No label",
        "| lr | 0.002 |",
        f"| 3 | {trained.curve[-1][1]:.4f} |",
    ):
        assert expected in text


def test_the_same_command_twice_leaves_the_same_bytes(tmp_path: Path) -> None:
    generator = torch.get_rng_state()
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert call(tmp_path / name, "--seed", seed)[0] == 0
    assert torch.equal(torch.get_rng_state(), generator)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    assert (tmp_path / "a" / "README.md").read_bytes() == (tmp_path / "b" / "README.md").read_bytes()


# ---- what cannot be --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--kind", "whisper"], "--kind whisper: is not known; known are wav2vec2, hubert, wavlm"),
        (["--hidden", "10"], "--hidden 10: must be a multiple of 4"),
        (["--lr", "0"], "--lr 0.0: must be a number > 0"),
        (["--generated", "0"], "nothing to learn from: give --data PATH"),
        (["--only", "03"], "say with --data where"),
        (["--data", "nowhere"], "--data nowhere: no such file or folder"),
        (["--data", "{empty}"], "no sound file in it"),
        (["--data", "{recordings}", "--only", "s001"], "name the reader"),
        (["--data", "{recordings}", "--corpus", "tapes"], "--corpus tapes: is not known"),
        (
            ["--data", "{recordings}", "--corpus", "manifest", "--only", "x"],
            "has no speaker x; its speakers are",
        ),
        (["--data", "{recordings}", "--corpus", "manifest", "--speakers", "4"], "3 are there to choose from"),
        (
            ["--data", "{recordings}", "--corpus", "manifest", "--leave-out", "s000,s001,s002"],
            "leaves no speaker",
        ),
    ],
)
def test_bad_input_is_one_line_before_any_audio_is_read(
    recordings: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"empty": str(tmp_path / "empty"), "recordings": str(recordings)}
    code, output = call(tmp_path / "out", *(a.format(**places) for a in arguments))
    assert code == 2 and expected in output and output.count("error:") == 1 and len(output.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("", encoding="utf-8")
    code, output = call(tmp_path, "--kind", "whisper", "--generated", "0")
    assert code == 2 and output.count("error:") == 3 and "is not an empty folder" in output


def test_nothing_is_written_among_the_recordings(recordings: Path) -> None:
    code, output = call(recordings / "encoder", "--data", str(recordings))
    assert code == 2 and "which is never written" in output and not (recordings / "encoder").exists()


def test_recordings_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "noise.wav").write_bytes(b"RIFF")
    code, output = call(tmp_path / "out", "--data", str(tmp_path / "data"))
    assert code == 2 and "noise.wav" in output and "1 recordings cannot be read" in output


def test_recordings_too_short_to_learn_from() -> None:
    with pytest.raises(BadInput, match=r"not one recording is 0\.2 s long"):
        pretraining.pretrain([np.ones(3199, np.int16)], TINY, 1)


def test_a_loss_that_is_not_finite_ends_it(speech: list[PCM], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "distance", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(RunFailed, match="step 1 is not finite"):
        pretraining.pretrain(speech, TINY, 1)


@pytest.mark.parametrize("where", ["pretrain", "write"])
def test_interrupted_it_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if where == "pretrain":
        monkeypatch.setattr(pretraining, "crops", interrupt)
    else:
        monkeypatch.setattr(pretrained_folder, "write_atomically", interrupt)
    code, output = call(tmp_path / "out")
    assert code == 3 and "interrupted" in output and list(tmp_path.iterdir()) == []
