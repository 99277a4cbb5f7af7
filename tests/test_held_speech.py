"""Sound in the page to explore: of people who asked for nothing, from the corpus of the runs alone."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import write_corpus
from listed_answers import CONFIG, CORPUS, PARTITION, listed

from fedunlearn import held_speech as module
from fedunlearn.audio import SAMPLE_RATE, encode_mp3
from fedunlearn.errors import BadInput
from fedunlearn.held_speech import held_speech
from fedunlearn.results_schema import Results


def run_of(asking: set[int]) -> Results:
    """A run in which these clients asked for the deletion of two utterances each."""
    deleted = {u.id: f"r{client}" for client in asking for u in PARTITION.clients[client].train[:2]}
    return Results.model_validate(
        {
            "schema": "fedunlearn/results/1",
            "seed": CONFIG.seed,
            "config": CONFIG.model_dump(mode="json"),
            "corpus": {
                "name": CORPUS.name,
                "utterances": len(CORPUS.utterances),
                "emotions": list(CORPUS.emotions),
            },
            "requests": [{"id": f"r{client}", "client": client} for client in sorted(asking)],
            "answers": listed(deleted, asking).to_json(),
        }
    )


def test_only_those_who_asked_for_nothing_in_any_run_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CLIPS", 500)
    monkeypatch.setattr(module, "encode_mp3", lambda pcm: b"sound")
    runs = {"a": run_of({0, 1}), "b": run_of({2})}
    speech = held_speech(runs, None)
    heard = {CORPUS.utterances[clip.place].speaker for clip in speech.clips}
    private = {u.speaker for client in (0, 1, 2) for u in PARTITION.clients[client].train}
    assert heard == set(CORPUS.speakers) - private
    assert set(speech.corpora) == {"a", "b"} and {clip.corpus for clip in speech.clips} == {
        speech.corpora["a"]
    }


def test_recordings_are_few_and_can_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CLIPS", 3)
    speech = held_speech({"a": run_of({0})}, None)
    assert len(speech.clips) == 3
    for clip in speech.clips:
        waveform, rate = soundfile.read(BytesIO(clip.sound))
        pcm = CORPUS.utterances[clip.place].pcm()
        assert rate == SAMPLE_RATE and len(waveform) >= len(pcm)
        assert len(clip.sound) < len(pcm)  # a byte for 16 bits would be half of the size


def test_an_encoded_tone_is_still_that_tone() -> None:
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    waveform, _ = soundfile.read(
        BytesIO(encode_mp3((8000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16)))
    )
    power = np.abs(np.fft.rfft(waveform[2000:14000])) ** 2
    assert np.argmax(power) * SAMPLE_RATE / 12000 == pytest.approx(440, abs=2)


def test_another_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run that lists utterances of a corpus"):
        held_speech({"a": run_of({0})}, tmp_path)
    other = run_of({0}).model_copy(update={"seed": CONFIG.seed})
    other.corpus.utterances = 7
    assert held_speech({"a": other}, None).clips == []  # generated in another way than today
    real = run_of({0})
    real.corpus.name = "manifest"
    real.config["corpus"] = {"name": "manifest", "path": "/where/it/was"}
    with pytest.raises(BadInput, match=r"holds \d+ utterances, other ones than the runs"):
        held_speech({"a": real}, write_corpus(tmp_path / "small"))
