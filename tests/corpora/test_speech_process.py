"""A second process that generates speech: the same samples, whatever becomes of it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny import tone, write_wav

from fedunlearn.audio import PCM, decode
from fedunlearn.corpora import recordings, speech_process, synthetic
from fedunlearn.corpora.speech_process import generated_ahead
from fedunlearn.corpora.utterance import Corpus, Utterance


@pytest.fixture
def corpus(monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Large enough for a second process, on a machine of two CPUs."""
    monkeypatch.setattr(speech_process, "FEWEST", 10)
    monkeypatch.setattr(speech_process, "usable_cpus", lambda: 2)
    return synthetic.read(speakers=2, utterances=12, seed=5)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """The processes that are started; all have ended when the test has."""
    processes: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def watched(*arguments: object, **options: object) -> "subprocess.Popen[bytes]":
        processes.append(start(*arguments, **options))  # type: ignore[call-overload]
        return processes[-1]

    monkeypatch.setattr(speech_process.subprocess, "Popen", watched)
    yield processes
    assert all(process.returncode is not None for process in processes)


def test_two_processes_generate_what_one_does(
    corpus: Corpus, started: list["subprocess.Popen[bytes]"]
) -> None:
    counted: list[int] = []
    found, sound = recordings(corpus, skip_bad=False, progress=counted.append)
    assert len(started) == 1
    assert counted == list(range(1, 25)), "each utterance is counted once, in order"
    assert list(sound) == [u.id for u in corpus.utterances] and found.warnings == corpus.warnings
    for utterance in corpus.utterances:
        assert sound[utterance.id].dtype == np.int16
        np.testing.assert_array_equal(sound[utterance.id], utterance.pcm())


def test_the_other_process_generates_from_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    here: list[tuple[int, ...]] = []
    speak = synthetic.speak

    def noted(*arguments: int) -> PCM:
        here.append(arguments)
        return speak(*arguments)

    monkeypatch.setattr(speech_process, "FEWEST", 10)
    monkeypatch.setattr(speech_process, "usable_cpus", lambda: 2)
    monkeypatch.setattr(synthetic, "speak", noted)
    utterances = synthetic.read(speakers=1, utterances=12, seed=5).utterances
    with generated_ahead(utterances) as read:
        deadline, count = time.monotonic() + 60, -1
        while len(here) != count and time.monotonic() < deadline:
            count = len(here)
            last = read(utterances[-1])
    assert len(here) == count, "the last utterance never came from the other process"
    np.testing.assert_array_equal(last, speak(5, 0, 11))


@pytest.mark.parametrize("command", ["raise SystemExit", "import sys; sys.stdin.read(); print(end='1234')"])
def test_a_process_that_dies_changes_nothing(
    corpus: Corpus, command: str, monkeypatch: pytest.MonkeyPatch, started: list["subprocess.Popen[bytes]"]
) -> None:
    monkeypatch.setattr(speech_process, "_COMMAND", command)
    _, sound = recordings(corpus, skip_bad=False)
    assert len(started) == 1
    for utterance in corpus.utterances:
        np.testing.assert_array_equal(sound[utterance.id], utterance.pcm())


def test_without_an_interpreter_everything_is_generated_here(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    _, sound = recordings(corpus, skip_bad=False)
    assert len(sound) == 24


def test_an_interrupted_reader_leaves_no_process_behind(
    corpus: Corpus, started: list["subprocess.Popen[bytes]"]
) -> None:
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recordings(corpus, skip_bad=False, progress=interrupt)
    assert len(started) == 1


def test_no_second_process_for_other_speech_few_utterances_or_one_cpu(
    corpus: Corpus,
    started: list["subprocess.Popen[bytes]"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = Utterance("z", "z", "angry", lambda: tone(0, 0, 0, seconds=0.5))
    write_wav(own, tmp_path / "z.wav")
    real = Utterance("z", "z", "angry", partial(decode, tmp_path / "z.wav"))
    for other in (real, own):
        with generated_ahead([*corpus.utterances, other]) as read:
            assert len(read(other)) == 8_000
    with generated_ahead(corpus.utterances[:9]) as read:
        read(corpus.utterances[0])
    monkeypatch.setattr(speech_process, "usable_cpus", lambda: 1)
    with generated_ahead(corpus.utterances) as read:
        read(corpus.utterances[0])
    assert started == []
