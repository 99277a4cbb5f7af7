"""Generated speech: always the same bytes, measurably speech, and as hard as emotional speech should be."""

import pickle
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.linalg import solve_toeplitz
from sklearn.metrics import recall_score, roc_auc_score
from tiny import write_wav
from torch import nn

from fedunlearn.audio import PCM, SAMPLE_RATE, decode, pad, to_float
from fedunlearn.corpora import synthetic
from fedunlearn.corpora.phones import VOWELS
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.corpora.vocal_tract import COLOUR_KNOTS, Score, render, upper_formants
from fedunlearn.models.functionals import FunctionalsModel

SEED = 5


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return synthetic.read(8, 36, SEED)


@pytest.fixture(scope="module")
def speech(corpus: Corpus) -> dict[str, PCM]:
    return {u.id: u.pcm() for u in corpus.utterances}


def f0(pcm: PCM) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """F0 in Hz and periodicity in [0, 1] of loud 40 ms frames, by normalised autocorrelation."""
    x = pcm.astype(np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(x, 640)[::320]
    power = (frames**2).mean(axis=1)
    frames = frames[power > 0.1 * power.max()] * np.hanning(640)
    spectrum = np.abs(np.fft.rfft(frames, 2048)) ** 2
    # Cut the band to 1 kHz: the fundamental and its first harmonics.
    spectrum[:, 128:] = 0
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(640), 2048)) ** 2)
    correlation = np.fft.irfft(spectrum)[:, :267] / window[:267]
    correlation /= correlation[:, :1]
    shortest = SAMPLE_RATE // 500
    # The first peak nearly as high as the highest: its multiples are as high in a periodic sound.
    inner = correlation[:, shortest:]
    good = inner > 0.9 * inner.max(axis=1, keepdims=True)
    good[:, 1:-1] &= (inner[:, 1:-1] >= inner[:, :-2]) & (inner[:, 1:-1] >= inner[:, 2:])
    lag = good.argmax(axis=1) + shortest
    return SAMPLE_RATE / lag, inner.max(axis=1)


def semitones(corpus: Corpus, speech: dict[str, PCM], emotion: str) -> float:
    """Median F0 over the speaker's resting pitch, averaged over the corpus."""
    differences = [
        12 * np.log2(np.median(f0(speech[u.id])[0]) / synthetic._voice(SEED, int(u.speaker[1:])).pitch)
        for u in corpus.utterances
        if u.emotion == emotion
    ]
    return float(np.mean(differences))


def level(corpus: Corpus, speech: dict[str, PCM], emotion: str) -> float:
    """Mean root-mean-square level in dB."""
    chosen = [speech[u.id] for u in corpus.utterances if u.emotion == emotion]
    return float(np.mean([10 * np.log10(np.mean(to_float(pcm) ** 2)) for pcm in chosen]))


def brightness(corpus: Corpus, speech: dict[str, PCM], emotion: str) -> float:
    """Mean energy at 1 to 3.5 kHz over that below 1 kHz, dB."""
    ratios = []
    for u in corpus.utterances:
        if u.emotion == emotion:
            power = np.abs(np.fft.rfft(to_float(speech[u.id]))) ** 2
            hz = np.fft.rfftfreq(len(speech[u.id]), 1 / SAMPLE_RATE)
            ratios.append(10 * np.log10(power[(hz > 1000) & (hz < 3500)].sum() / power[hz < 1000].sum()))
    return float(np.mean(ratios))


def sustained(vowel: str, scale: float = 1.0, pitch: float = 110.0) -> Score:
    """A steady vowel of 0.5 s."""
    return Score(
        seconds=np.array([0.5]),
        voicing=np.ones(1),
        aspiration=np.zeros(1),
        frication=np.zeros(1),
        place=np.zeros(1, np.int64),
        formants=scale * np.array([VOWELS[vowel]], dtype=np.float64),
        glide=np.zeros(1),
        upper=upper_formants(scale),
        scale=scale,
        pitch_times=np.array([0.0]),
        pitch=np.array([pitch]),
        tilt=3000.0,
        breath=0.005,
        jitter=0.002,
        shimmer=0.01,
        tremor=0.0,
        onset=0.02,
        colour=np.zeros(len(COLOUR_KNOTS)),
    )


def formants(score: Score) -> npt.NDArray[np.float64]:
    """Formants in Hz below 5 kHz: narrow poles of a linear prediction of order 18."""
    x = np.diff(render(score, np.random.default_rng(0)).astype(np.float64))[1600:6400] * np.hanning(4800)
    r = np.correlate(x, x, "full")[len(x) - 1 : len(x) + 18]
    poles = np.roots(np.r_[1.0, -solve_toeplitz(r[:-1], r[1:])])
    poles = poles[(poles.imag > 0) & (np.abs(poles) > 0.9)]
    hz = np.sort(np.angle(poles)) * SAMPLE_RATE / (2 * np.pi)
    return hz[(hz > 150) & (hz < 5000)]


def test_every_utterance_is_the_same_bytes_in_any_order_and_after_pickling(
    corpus: Corpus, speech: dict[str, PCM]
) -> None:
    synthetic._voice.cache_clear()
    for u in reversed(corpus.utterances[::17]):
        again = pickle.loads(pickle.dumps(u.pcm))()
        assert again.dtype == np.int16
        assert again.tobytes() == speech[u.id].tobytes()


def test_more_speakers_and_utterances_leave_the_others_alone(corpus: Corpus, speech: dict[str, PCM]) -> None:
    few = synthetic.read(2, 7, SEED)
    known = {u.id: u for u in corpus.utterances}
    for u in few.utterances:
        assert u == known[u.id]
    assert few.utterances[9].pcm().tobytes() == speech[few.utterances[9].id].tobytes()


def test_seeds_speakers_and_indices_all_differ(corpus: Corpus, speech: dict[str, PCM]) -> None:
    other = synthetic.read(1, 1, SEED + 1).utterances[0]
    assert other.pcm().tobytes() != speech[other.id].tobytes()
    assert len({pcm.tobytes() for pcm in speech.values()}) == len(corpus.utterances)


def test_corpus_is_complete_and_balanced(corpus: Corpus) -> None:
    assert corpus.name == "synthetic"
    assert corpus.emotions == ("angry", "disgust", "fearful", "happy", "neutral", "sad")
    assert [u.id for u in corpus.utterances] == sorted({u.id for u in corpus.utterances})
    assert corpus.utterances[0].id == "s000-000"
    assert len(corpus.speakers) == 8
    assert set(Counter((u.speaker, u.emotion) for u in corpus.utterances).values()) == {6}
    genders = {u.speaker: u.gender for u in corpus.utterances}
    assert Counter(genders.values()) == {"female": 4, "male": 4}
    assert all(7 <= len(u.text.split()) <= 9 for u in corpus.utterances)


def test_recordings_are_audible_unclipped_and_of_the_promised_length(speech: dict[str, PCM]) -> None:
    for pcm in speech.values():
        assert synthetic.SHORTEST - 0.001 <= len(pcm) / SAMPLE_RATE <= synthetic.LONGEST + 0.001
        peak = np.abs(pcm.astype(np.int32)).max()
        assert 500 < peak < 32_000


def test_wav_round_trip(corpus: Corpus, speech: dict[str, PCM], tmp_path: Path) -> None:
    u = corpus.utterances[3]
    write_wav(u, tmp_path / "one.wav")
    np.testing.assert_array_equal(decode(tmp_path / "one.wav"), speech[u.id])


def test_speech_is_periodic_near_the_speakers_pitch(corpus: Corpus, speech: dict[str, PCM]) -> None:
    neutral = [u for u in corpus.utterances if u.emotion == "neutral"]
    periodicity = np.concatenate([f0(speech[u.id])[1] for u in neutral])
    assert np.median(periodicity) > 0.8  # white noise: about 0.3
    assert abs(semitones(corpus, speech, "neutral")) < 2.0
    by_gender = {
        g: np.median(np.concatenate([f0(speech[u.id])[0] for u in neutral if u.gender == g]))
        for g in ("female", "male")
    }
    assert 85 < by_gender["male"] < 155 < 165 < by_gender["female"] < 260


def test_pitch_of_a_sustained_vowel_is_exact() -> None:
    for pitch in (100.0, 160.0, 250.0):
        sound = render(sustained("a", pitch=pitch), np.random.default_rng(1))
        measured, _ = f0((sound / np.abs(sound).max() * 20_000).astype(np.int16))
        assert np.median(measured) == pytest.approx(pitch, rel=0.02)


def test_emotions_change_pitch_level_and_timbre_as_the_literature_says(
    corpus: Corpus, speech: dict[str, PCM]
) -> None:
    """Juslin & Laukka 2003: anger, fear and joy raise F0, sadness lowers it; anger is loud and bright."""
    pitch = {e: semitones(corpus, speech, e) for e in corpus.emotions}
    for raised in ("angry", "happy", "fearful"):
        assert pitch[raised] > pitch["neutral"] + 2
        assert pitch[raised] > pitch["sad"] + 3
    assert level(corpus, speech, "angry") > level(corpus, speech, "sad") + 10
    assert brightness(corpus, speech, "angry") > brightness(corpus, speech, "sad") + 5
    seconds = {
        e: np.mean([len(speech[u.id]) for u in corpus.utterances if u.emotion == e]) for e in corpus.emotions
    }
    assert seconds["sad"] > 1.2 * seconds["fearful"]


@pytest.mark.parametrize("vowel", ["a", "ae", "e", "i"])
def test_vowels_have_their_formants(vowel: str) -> None:
    found = formants(sustained(vowel))
    for wanted in VOWELS[vowel]:
        assert np.abs(found - wanted).min() < 0.09 * wanted + 25


def test_a_shorter_tract_moves_every_formant_up() -> None:
    long, short = formants(sustained("ae")), formants(sustained("ae", scale=1.18))
    np.testing.assert_allclose(short[:4] / long[:4], 1.18, atol=0.06)


def test_breath_adds_noise_between_the_harmonics() -> None:
    def periodicity(breath: float) -> float:
        sound = render(replace(sustained("a"), breath=breath), np.random.default_rng(2))
        return float(np.median(f0((sound / np.abs(sound).max() * 20_000).astype(np.int16))[1]))

    assert periodicity(0.001) > 0.95 > periodicity(0.5) + 0.05


def test_generation_is_fast(corpus: Corpus) -> None:
    start = time.process_time()
    for u in corpus.utterances[:40]:
        u.pcm()
    assert (time.process_time() - start) / 40 < 0.05  # about 0.003 s on one idle core


# -- as emotion data ---------------------------------------------------------------------------------------


def derived(corpus: Corpus) -> tuple[torch.Tensor, torch.Tensor, npt.NDArray[np.str_]]:
    """Functionals [N, 720], labels [N], speakers [N]."""
    model = FunctionalsModel(len(corpus.emotions))
    rows = []
    with torch.no_grad():
        for start in range(0, len(corpus.utterances), 20):
            batch = pad([to_float(u.pcm()) for u in corpus.utterances[start : start + 20]])
            rows.append(model.derive(*batch)[0][:, 0])
    labels = torch.tensor([corpus.emotions.index(u.emotion) for u in corpus.utterances])
    return torch.cat(rows), labels, np.array([u.speaker for u in corpus.utterances])


def train(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, lr: float, rng: np.random.Generator
) -> None:
    optimiser = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(len(x)), len(x) // 16):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()


def test_emotion_carries_over_to_unseen_speakers_but_not_perfectly() -> None:
    """A small stand-in for the federated measurement below: 10 speakers to learn from, 4 to meet."""
    x, y, speaker = derived(synthetic.read(14, 24, SEED))
    known = np.flatnonzero(speaker < "s010")
    unseen = np.flatnonzero(speaker >= "s010")
    x = (x - x[known].mean(0)) / (x[known].std(0) + 1e-6)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(720, 128), nn.ReLU(), nn.Linear(128, 6))
    train(net, x[known], y[known], epochs=25, lr=0.02, rng=np.random.default_rng(0))
    with torch.no_grad():
        guess = net(x).argmax(1)
    assert (guess[known] == y[known]).float().mean() > 0.97
    assert 0.35 < recall_score(y[unseen], guess[unseen], average="macro") < 0.85


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_federated_learning_generalises_and_memorises(seed: int) -> None:
    """FedAvg on 20 client speakers x 48 utterances, 30 rounds x 5 local epochs; 6 speakers never met."""
    x, y, speaker = derived(synthetic.read(26, 60, seed))
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.unique(speaker))
    unseen = np.flatnonzero(np.isin(speaker, names[:6]))
    clients, tests = [], []
    for name in names[6:]:
        by_emotion = [rng.permutation(np.flatnonzero((speaker == name) & (y.numpy() == e))) for e in range(6)]
        tests.append(np.concatenate([rows[:2] for rows in by_emotion]))
        clients.append(np.concatenate([rows[2:] for rows in by_emotion]))
    trained, test = np.concatenate(clients), np.concatenate(tests)
    x = (x - x[trained].mean(0)) / (x[trained].std(0) + 1e-6)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(720, 128), nn.ReLU(), nn.Linear(128, 6))
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    for _ in range(30):
        total = {k: torch.zeros_like(v) for k, v in weights.items()}
        for rows in clients:
            net.load_state_dict(weights)
            train(net, x[rows], y[rows], epochs=5, lr=0.05, rng=rng)
            for k, v in net.state_dict().items():
                total[k] += v / len(clients)
        weights = total
    net.load_state_dict(weights)
    with torch.no_grad():
        logits = net(x)
    guess = logits.argmax(1)
    loss = nn.functional.cross_entropy(logits, y, reduction="none")

    def recall(rows: npt.NDArray[np.intp]) -> float:
        return float(recall_score(y[rows], guess[rows], average="macro"))

    membership = [
        roc_auc_score(np.r_[np.ones(len(rows)), np.zeros(len(test))], -torch.cat([loss[rows], loss[test]]))
        for rows in clients
    ]
    assert 0.50 < recall(unseen) < 0.85
    assert 0.50 < recall(test) < 0.85
    assert (guess[trained] == y[trained]).float().mean() > 0.98
    assert np.mean(membership) > 0.65
