"""The linear probe: fitted to the clients' training speech, tested on held-out speech and other speakers."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.probe import linear_probe, mean_interval, utterance_features
from fedunlearn.config.model import ModelSettings
from fedunlearn.config.partition import PartitionSettings
from fedunlearn.corpora import synthetic
from fedunlearn.models import build_model
from fedunlearn.partition import partition_corpus
from fedunlearn.seeding import rng_for


def test_features_that_name_the_emotion_are_read_and_noise_is_not() -> None:
    """One-hot emotions give a UAR of 1 everywhere, whatever else varies; noise gives about 1 / 6."""
    corpus = synthetic.read(8, 24, 1)
    partition = partition_corpus(corpus, PartitionSettings(clients=6, unseen_speakers=2), 1)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((len(corpus.utterances), 20)).astype(np.float32)
    emotions = np.array([corpus.emotions.index(u.emotion) for u in corpus.utterances])
    named = np.concatenate([noise, 5 * np.eye(6, dtype=np.float32)[emotions]], 1)
    assert linear_probe(corpus, named, partition) == (1.0, 1.0)
    assert all(abs(score - 1 / 6) < 0.15 for score in linear_probe(corpus, noise, partition))


@pytest.mark.parametrize("name", ["functionals", "random:wav2vec2-tiny"])
def test_features_do_not_depend_on_what_else_is_in_the_batch(name: str) -> None:
    sound = [u.pcm() for u in synthetic.read(1, 3, 1).utterances]
    model = build_model(ModelSettings(name=name), 6, rng_for(0, "template")).eval()
    together = utterance_features(model, sound)
    alone = np.concatenate([utterance_features(model, [pcm]) for pcm in sound])
    torch.testing.assert_close(torch.from_numpy(together), torch.from_numpy(alone), rtol=1e-4, atol=1e-4)


def test_the_interval_of_a_mean() -> None:
    """Of .4, .5 and .6: the mean .5, the standard error .1 / sqrt(3), and t(2 degrees; .975) = 4.303."""
    mean, half = mean_interval([0.4, 0.5, 0.6])
    assert mean == pytest.approx(0.5) and half == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    assert mean_interval([0.7]) == (0.7, 0.0)


def probe_command(*arguments: str) -> tuple[int, str]:
    import typer

    from benchmarks.probe import probe

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(probe)
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", done.output)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--corpus", "ravdess"], "NAME=PATH"),
        (["--corpus", "ravdess=/nowhere"], "no such folder"),
        (["--corpus", "ravdess=.", "--models", "/nowhere"], "no such folder"),
        (["--corpus", "ravdess=.", "--models", " , "], "--models"),
    ],
)
def test_bad_input_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = probe_command(*arguments)
    assert code == 2 and named in output, output
    assert not list(tmp_path.iterdir())
