import pickle
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from fedunlearn.audio import SAMPLE_RATE
from fedunlearn.config import CorpusSettings
from fedunlearn.corpora import READERS, load
from fedunlearn.corpora.inspection import recordings
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.errors import BadInput

Sound = npt.NDArray[Any]

ANGRY = "03-01-05-02-01-01-12"  # RAVDESS: speech, angry, strong, first sentence, first time, actor 12
HAPPY = "03-01-03-01-02-01-07"


def put(root: Path, *names: str, seconds: float = 0.2) -> None:
    """Small files, each with its own noise: the same name is never the same sound."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(list(name.encode())).integers(-9000, 9000, round(seconds * SAMPLE_RATE))
        form = {".flac": "FLAC", ".mp3": "MP3"}.get(path.suffix.lower(), "WAV")
        soundfile.write(path, noise.astype(np.int16), SAMPLE_RATE, format=form)


def read(name: str, path: Path) -> Corpus:
    return load(CorpusSettings(name=name, path=str(path)), seed=1)


def problem(name: str, path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        read(name, path)
    return "\n".join(caught.value.problems)


def decoded(utterances: list[Utterance]) -> Corpus:
    emotions = tuple(dict.fromkeys(u.emotion for u in utterances))
    ordered = tuple(sorted(utterances, key=lambda u: u.id))
    return recordings(Corpus("made", ordered, emotions), skip_bad=False)[0]


def saying(id: str, pcm: Sound, speaker: str = "A", emotion: str = "sad") -> Utterance:
    return Utterance(id, speaker, emotion, lambda: pcm.astype(np.int16))


# What the names mean. Each line is derived by hand from the corpus's own description.
@pytest.mark.parametrize(
    ("corpus", "name", "speaker", "emotion", "gender", "text"),
    [
        ("ravdess", ANGRY, "12", "angry", "female", "Kids are talking by the door."),
        ("ravdess", HAPPY, "07", "happy", "male", "Dogs are sitting by the door."),
        ("crema-d", "1001_DFA_ANG_XX", "1001", "angry", "male", "Don't forget a jacket."),
        ("crema-d", "1091_IEO_NEU_LO", "1091", "neutral", "female", "It's eleven o'clock."),
        ("crema-d", "1040_ITH_SAD_X", "1040", "sad", "male", "I think I have a doctor's appointment."),
        ("emodb", "03a01Wa", "03", "anger", "male", "Der Lappen liegt auf dem Eisschrank."),
        (
            "emodb",
            "16b10Lb",
            "16",
            "boredom",
            "female",
            "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
        ),
        ("nemo", "WR0_surprised_64", "WR0", "surprised", "male", "64"),
        ("nemo", "EB0_anger_1", "EB0", "anger", "female", "1"),
        ("tess", "OAF_back_angry", "OAF", "angry", "female", "Say the word back."),
        ("tess", "YAF_merge_ps", "YAF", "pleasant surprise", "female", "Say the word merge."),
        ("tess", "OA_bite_neutral", "OAF", "neutral", "female", "Say the word bite."),
        ("savee", "DC_a01", "DC", "anger", "male", ""),
        ("savee", "KL_su15", "KL", "surprise", "male", ""),
        ("savee", "AudioData/JK/sa03", "JK", "sadness", "male", ""),
        ("shemo", "F01A01", "F01", "anger", "female", ""),
        ("shemo", "M01F12", "M01", "fear", "male", ""),
        ("shemo", "M33W104", "M33", "surprise", "male", ""),
    ],
)
def test_names(
    tmp_path: Path, corpus: str, name: str, speaker: str, emotion: str, gender: str, text: str
) -> None:
    second_emotion = {
        "ravdess": "03-01-01-01-01-01-01",
        "crema-d": "1002_TIE_DIS_HI",
        "emodb": "08a02Ac",
        "nemo": "KD0_fear_2",
        "tess": "OAF_bar_disgust",
        "savee": "JE_d09",
        "shemo": "F02S01",
    }[corpus]
    put(tmp_path, f"{name}.wav", f"{second_emotion}.wav")
    found = {u.id: u for u in read(corpus, tmp_path).utterances}
    assert len(found) == 2
    utterance = found[name]
    assert (utterance.speaker, utterance.emotion) == (speaker, emotion)
    assert (utterance.gender, utterance.text) == (gender, text)
    assert len(utterance.pcm()) == 3200


@pytest.mark.parametrize(
    ("corpus", "names"),
    [
        (
            "ravdess",
            ["03-01-09-01-01-01-01", "03-01-05-02-01-01-25", "03-01-05-02-01-01", "03_01_05_02_01_01_12"],
        ),
        ("crema-d", ["1000_DFA_ANG_XX", "1092_DFA_ANG_XX", "1001_DFA_BOR_XX", "1001_DFA_ANG"]),
        ("emodb", ["01a01Wa", "03a03Wa", "03a01Xa", "neutral"]),
        ("nemo", ["XX0_anger_1", "WR0_boredom_1", "WR0_anger"]),
        ("tess", ["OAF_back_bored", "back_angry", "MAF_back_angry"]),
        ("savee", ["a01", "XX_a01", "DC_x01", "DC/b01"]),
        ("shemo", ["X01A01", "F01B01", "F1A01"]),
    ],
)
def test_names_of_no_such_recording_are_strays(tmp_path: Path, corpus: str, names: list[str]) -> None:
    put(tmp_path, *(f"{name}.wav" for name in names))
    message = problem(corpus, tmp_path)
    assert f"no recording of {corpus}: expected names such as" in message
    assert all(f"{name}.wav" in message for name in names)


def test_classes_are_those_that_occur_in_the_corpus_s_order(tmp_path: Path) -> None:
    put(tmp_path, "03-01-08-01-01-01-01.wav", "03-01-02-01-01-01-01.wav", "03-01-05-01-01-01-01.wav")
    corpus = read("ravdess", tmp_path)
    assert corpus.emotions == ("calm", "angry", "surprised")
    assert [u.emotion for u in corpus.utterances] == ["calm", "angry", "surprised"]


def test_speakers_can_be_left_out(tmp_path: Path) -> None:
    put(tmp_path, f"{ANGRY}.wav", f"{HAPPY}.wav", "03-01-04-01-01-01-07.wav", "03-01-04-01-01-01-09.wav")

    def without(*speakers: str) -> Corpus:
        return load(CorpusSettings(name="ravdess", path=str(tmp_path), leave_out=speakers), seed=1)

    everybody = read("ravdess", tmp_path)
    twelve, seven, nine = (
        next(u.speaker for u in everybody.utterances if u.id.endswith(n)) for n in ("12", "07", "09")
    )
    kept = without(twelve)
    assert kept.speakers == (seven, nine) and kept.emotions == ("happy", "sad")  # nobody is angry any more
    assert [u.id for u in kept.utterances] == [u.id for u in everybody.utterances if u.speaker != twelve]
    for speakers, expected in (
        ((seven, nine, twelve), "everybody"),
        (("33",), "'33'"),
        ((seven, twelve), "all recordings"),
    ):
        with pytest.raises(BadInput, match=expected):
            without(*speakers)


def test_nested_flat_upper_case_and_compressed_all_are_read_in_order_of_id(tmp_path: Path) -> None:
    put(tmp_path, f"b/Actor_12/{ANGRY}.WAV", f"{HAPPY}.wav", "a/03-01-04-01-01-01-02.Flac")
    corpus = read("ravdess", tmp_path)
    assert [u.id for u in corpus.utterances] == [HAPPY, "a/03-01-04-01-01-01-02", f"b/Actor_12/{ANGRY}"]
    assert corpus.warnings == ()


def test_folders_by_emotion_do_not_matter(tmp_path: Path) -> None:
    put(tmp_path, "Anger/03a01Wa.wav", "sadness/08A02TB.WAV")
    assert [(u.speaker, u.emotion) for u in read("emodb", tmp_path).utterances] == [
        ("03", "anger"),
        ("08", "sadness"),
    ]


def test_names_are_read_without_decoding(tmp_path: Path) -> None:
    for name in (ANGRY, HAPPY):
        (tmp_path / f"{name}.wav").write_text("no sound at all")
    assert len(read("ravdess", tmp_path).utterances) == 2


def test_recordings_are_found_again_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "speech", f"{ANGRY}.wav", f"{HAPPY}.wav")
    monkeypatch.chdir(tmp_path)
    utterance = pickle.loads(pickle.dumps(read("ravdess", Path("speech")).utterances[0]))
    monkeypatch.chdir(tmp_path / "speech")
    assert len(utterance.pcm()) == 3200


def test_song_and_video_are_counted_out(tmp_path: Path) -> None:
    put(tmp_path, f"{ANGRY}.wav", f"{HAPPY}.wav", "03-02-05-02-01-01-12.wav", "03-02-05-02-01-02-12.wav")
    (tmp_path / "01-01-05-02-01-01-12.mp4").touch()
    corpus = read("ravdess", tmp_path)
    assert len(corpus.utterances) == 2
    assert corpus.warnings == ("2 song recordings left out", "1 video recordings left out")


def test_strays_are_named_and_leftovers_of_archives_are_not(tmp_path: Path) -> None:
    put(tmp_path, f"{ANGRY}.wav", f"{HAPPY}.wav", *(f"take {i}.wav" for i in range(7)))
    put(tmp_path, f"._{ANGRY}.wav", f"__MACOSX/{ANGRY}.wav", ".cache/noise.wav", ".hidden.wav")
    (tmp_path / "readme.txt").touch()
    assert read("ravdess", tmp_path).warnings == (
        "left out, not named as ravdess names its files: "
        "7 files (take 0.wav, take 1.wav, take 2.wav, take 3.wav, take 4.wav and 2 more)",
    )


def test_the_copy_nearest_to_the_folder_is_read(tmp_path: Path) -> None:
    """The RAVDESS archive of a well-known site holds everything twice."""
    for actor in ("12", "07"):
        stem = ANGRY if actor == "12" else HAPPY
        put(tmp_path, f"audio_speech_actors_01-24/Actor_{actor}/{stem}.wav", f"Actor_{actor}/{stem}.wav")
    corpus = read("ravdess", tmp_path)
    assert [u.id for u in corpus.utterances] == [f"Actor_07/{HAPPY}", f"Actor_12/{ANGRY}"]
    assert len(corpus.warnings) == 1
    assert "second copies of the same name: 2 files (audio_speech_actors_01-24/" in corpus.warnings[0]


def test_uncompressed_copies_go_first(tmp_path: Path) -> None:
    put(
        tmp_path,
        "AudioMP3/1001_DFA_ANG_XX.mp3",
        "AudioWAV/1001_DFA_ANG_XX.wav",
        "AudioWAV/1001_DFA_SAD_XX.wav",
    )
    ids = [u.id for u in read("crema-d", tmp_path).utterances]
    assert ids == ["AudioWAV/1001_DFA_ANG_XX", "AudioWAV/1001_DFA_SAD_XX"]


def test_both_ways_to_name_savee_are_one_recording(tmp_path: Path) -> None:
    put(tmp_path, "ALL/DC_a01.wav", "AudioData/DC/a01.wav", "AudioData/JE/a01.wav", "AudioData/JE/sa01.wav")
    corpus = read("savee", tmp_path)
    assert [u.id for u in corpus.utterances] == ["ALL/DC_a01", "AudioData/JE/a01", "AudioData/JE/sa01"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    put(tmp_path, f"elsewhere/{ANGRY}.wav", f"corpus/Actor_07/{HAPPY}.wav")
    (tmp_path / "corpus" / "Actor_12").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus" / "Actor_07" / "up").symlink_to(tmp_path / "corpus")
    (tmp_path / "corpus" / "self").symlink_to(tmp_path / "corpus" / "self")
    corpus = read("ravdess", tmp_path / "corpus")
    assert [u.id for u in corpus.utterances] == [f"Actor_07/{HAPPY}", f"Actor_12/{ANGRY}"]
    assert corpus.warnings == ()


def test_unicode_folders_have_one_spelling(tmp_path: Path) -> None:
    """macOS stores é as e and an accent; the same download must give the same ids everywhere."""
    decomposed = unicodedata.normalize("NFD", "émotions")
    put(tmp_path, f"{decomposed}/{ANGRY}.wav", f"{decomposed}/{HAPPY}.wav")
    corpus = read("ravdess", tmp_path)
    assert [u.id for u in corpus.utterances] == [f"émotions/{HAPPY}", f"émotions/{ANGRY}"]
    assert len(corpus.utterances[0].pcm()) == 3200


# IEMOCAP: labels and words stand beside the sound.
def iemocap(root: Path) -> Path:
    turns = {
        "Ses01F_impro01_F000": "neu",
        "Ses01F_impro01_M000": "ang",
        "Ses01F_impro01_F001": "exc",
        "Ses01F_impro01_F002": "fru",
        "Ses01F_impro01_F003": "xxx",
        "Ses01F_impro01_MXX0": "hap",
    }
    session = root / "IEMOCAP_full_release" / "Session1"
    put(session / "sentences" / "wav" / "Ses01F_impro01", *(f"{turn}.wav" for turn in turns))
    put(session / "sentences" / "wav" / "Ses01M_script01_1b", "Ses01M_script01_1b_M004.wav")
    put(session / "dialog" / "wav", "Ses01F_impro01.wav", "Ses01M_script01_1b.wav")
    evaluation = session / "dialog" / "EmoEvaluation"
    (evaluation / "Categorical").mkdir(parents=True)
    lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    for i, (turn, label) in enumerate(turns.items()):
        lines += [f"[{6 + i}.2901 - {8 + i}.2357]\t{turn}\t{label}\t[2.5000, 2.5000, 2.5000]"]
        lines += ["C-E2:\tNeutral;\t()", "A-E3:\tval 3; act 2; dom  2;\t()", ""]
    (evaluation / "Ses01F_impro01.txt").write_text("\n".join(lines))
    (evaluation / "._Ses01F_impro01.txt").write_bytes(b"\x00\x05\x16\x07[1 - 2]\tSes01F_impro01_F000\tsad\t")
    (evaluation / "Categorical" / "Ses01F_impro01_e2_cat.txt").write_text(
        "Ses01F_impro01_F000 :Sadness; ()\n"
    )
    words = session / "dialog" / "transcriptions"
    words.mkdir()
    (words / "Ses01F_impro01.txt").write_text("Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\n")
    return root


def test_iemocap(tmp_path: Path) -> None:
    """Four of seven turns: two have other labels, one has none. The dialogues themselves are no strays."""
    corpus = read("iemocap", iemocap(tmp_path))
    folder = "IEMOCAP_full_release/Session1/sentences/wav/Ses01F_impro01/"
    assert [(u.id.removeprefix(folder), u.speaker, u.emotion, u.gender) for u in corpus.utterances] == [
        ("Ses01F_impro01_F000", "Ses01F", "neutral", "female"),
        ("Ses01F_impro01_F001", "Ses01F", "happy", "female"),
        ("Ses01F_impro01_M000", "Ses01M", "angry", "male"),
        ("Ses01F_impro01_MXX0", "Ses01M", "happy", "male"),
    ]
    assert corpus.utterances[0].text == "Excuse me."
    assert corpus.emotions == ("neutral", "happy", "angry")
    assert corpus.warnings == (
        "2 recordings of other emotions, or on which the listeners disagreed, left out",
        "1 recordings without a label in dialog/EmoEvaluation left out",
    )


def test_iemocap_without_its_labels(tmp_path: Path) -> None:
    put(tmp_path, "Ses01F_impro01_F000.wav")
    assert "no labels of iemocap: expected text files in Session1/dialog/EmoEvaluation" in problem(
        "iemocap", tmp_path
    )


# Manifests
def manifest(root: Path, text: str, encoding: str = "utf-8") -> Path:
    put(root, "a.wav", "sub/b.wav", "c, d.wav")
    (root / "my.csv").write_text(text, encoding=encoding)
    return root / "my.csv"


GOOD = """path,speaker,emotion,gender,text,mood
a.wav,Ann,sad,f,"Well, yes.",1
"c, d.wav",Bob, happy ,Male,,2

sub/b.wav,Ann,happy,,"He said ""no"".",3
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_manifest(tmp_path: Path, encoding: str) -> None:
    corpus = read("manifest", manifest(tmp_path, GOOD, encoding))
    assert [(u.id, u.speaker, u.emotion, u.gender, u.text) for u in corpus.utterances] == [
        ("a", "Ann", "sad", "female", "Well, yes."),
        ("c, d", "Bob", "happy", "male", ""),
        ("sub/b", "Ann", "happy", "", 'He said "no".'),
    ]
    assert corpus.emotions == ("happy", "sad")
    assert [len(u.pcm()) for u in corpus.utterances] == [3200, 3200, 3200]


def test_manifest_in_a_folder_with_absolute_paths_and_windows_line_ends(tmp_path: Path) -> None:
    put(tmp_path / "speech", "a.wav", "a.flac")
    rows = (
        f"emotion,path,speaker\r\nsad,{tmp_path}/speech/a.wav,Ann\r\nhappy,{tmp_path}/speech/a.flac,Ann\r\n"
    )
    (tmp_path / "manifest.csv").write_bytes(rows.encode())
    ids = [u.id for u in read("manifest", tmp_path).utterances]
    assert ids == [f"{tmp_path}/speech/a.flac", f"{tmp_path}/speech/a.wav"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ["my.csv: has no column path, speaker, emotion", "found: nothing"]),
        ("path,emotion\na.wav,sad\n", ["my.csv: has no column speaker", "found: path, emotion"]),
        ("path;speaker;emotion\na.wav;Ann;sad\n", ["has no column path, speaker, emotion", "with commas"]),
        ("path,speaker,emotion\n", ["my.csv: lists no recording"]),
        ("path,speaker,emotion\na.wav,Ann,\n", ["my.csv:2: emotion must not be empty"]),
        ("path,speaker,emotion\na.wav\n", ["my.csv:2: speaker, emotion must not be empty"]),
        ("path,speaker,emotion\na.wav,Ann,sad\nz.wav,Bob,sad\n", ["my.csv:3: no such file: ", "z.wav"]),
        ("path,speaker,emotion\na.wav,A,sad\na.wav,B,sad\n", ["my.csv:3: a.wav is listed already in line 2"]),
        (
            "path,speaker,emotion\na.wav,A,sad\nsub/b.wav,A,Sad\n",
            ["my.csv:3: emotion 'Sad' is written 'sad'"],
        ),
        ('path,speaker,emotion\n"a.wav,A,sad\n', ["my.csv: is not valid CSV"]),
    ],
)
def test_manifest_says_what_is_wrong_and_where(tmp_path: Path, text: str, lines: list[str]) -> None:
    message = problem("manifest", manifest(tmp_path, text))
    assert all(line in message for line in lines), message


def test_manifest_tells_of_every_error_up_to_a_limit(tmp_path: Path) -> None:
    rows = "".join(f"gone{i}.wav,A,sad\n" for i in range(25))
    lines = problem("manifest", manifest(tmp_path, f"path,speaker,emotion\n{rows}")).splitlines()
    assert len(lines) == 21
    assert lines[-1].endswith("my.csv: and 5 more errors")


def test_manifest_that_is_not_utf_8(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,speaker,emotion\na.wav,Jürgen,sad\n", "latin-1")
    assert "my.csv: is not UTF-8" in problem("manifest", path)
    path.unlink()
    assert "my.csv: no such file or folder" in problem("manifest", path)
    assert "manifest.csv: cannot be read (No such file or directory)" in problem("manifest", tmp_path)


# Choosing a corpus
def test_every_reader_is_documented() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "corpora.md").read_text(encoding="utf-8")
    assert [name for name in READERS if f'"{name}"' not in page] == []


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    message = problem("radvess", tmp_path)
    assert "corpus.name = 'radvess' is not known" in message
    assert ", ".join(READERS) in message


@pytest.mark.parametrize("name", [n for n in READERS if n != "synthetic"])
def test_real_speech_needs_a_place(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="say where it is with --data PATH"):
        load(CorpusSettings(name=name), seed=1)
    assert "no such file or folder" in problem(name, tmp_path / "gone")


def test_generated_speech_takes_no_place(tmp_path: Path) -> None:
    message = problem("synthetic", tmp_path)
    assert "generated speech reads no data" in message
    assert "ravdess" in message


def test_a_folder_without_recordings_says_what_was_expected(tmp_path: Path) -> None:
    message = problem("ravdess", tmp_path)
    assert message.startswith(f"{tmp_path}: no recording of ravdess: expected names such as Actor_12/")
    (tmp_path / "a.wav").touch()
    assert "is not a folder" in problem("ravdess", tmp_path / "a.wav")


def test_one_emotion_is_not_enough(tmp_path: Path) -> None:
    put(tmp_path, f"{ANGRY}.wav")
    assert "all recordings are 'angry'" in problem("ravdess", tmp_path)


# Listening to it
def noise(seconds: float, seed: int, level: int = 9000) -> Sound:
    return np.random.default_rng(seed).integers(-level, level + 1, round(seconds * SAMPLE_RATE))


def test_every_recording_is_decoded_once(tmp_path: Path) -> None:
    calls: Counter[str] = Counter()
    done: list[int] = []

    def counting(id: str) -> Utterance:
        def pcm() -> Sound:
            calls[id] += 1
            return noise(1, len(calls)).astype(np.int16)

        return Utterance(id, "A", "sad", pcm)

    corpus = Corpus("made", tuple(counting(id) for id in "abc"), ("sad",))
    same, sound = recordings(corpus, skip_bad=False, progress=done.append)
    assert same == corpus
    assert calls == {"a": 1, "b": 1, "c": 1}
    assert done == [1, 2, 3]
    assert sorted(sound) == ["a", "b", "c"]


def test_every_unreadable_file_is_named(tmp_path: Path) -> None:
    put(tmp_path, *(f"03-01-0{e}-01-01-01-01.wav" for e in (1, 2, 3, 4)))
    (tmp_path / "03-01-02-01-01-01-01.wav").write_text("no sound")
    cut = tmp_path / "03-01-03-01-01-01-01.wav"
    cut.write_bytes(cut.read_bytes()[:1000])
    (tmp_path / "03-01-05-01-01-01-01.wav").symlink_to(tmp_path / "gone.wav")
    corpus = read("ravdess", tmp_path)
    with pytest.raises(BadInput) as caught:
        recordings(corpus, skip_bad=False)
    unreadable, truncated, dangling, advice = caught.value.problems
    assert "03-01-02-01-01-01-01.wav: cannot be read" in unreadable
    assert "03-01-03-01-01-01-01.wav: is truncated" in truncated
    assert "03-01-05-01-01-01-01.wav: no such file" in dangling
    assert advice.startswith("3 of 5 recordings cannot be used") and "--skip-bad" in advice

    rest, sound = recordings(corpus, skip_bad=True)
    assert [u.id for u in rest.utterances] == ["03-01-01-01-01-01-01", "03-01-04-01-01-01-01"]
    assert sorted(sound) == ["03-01-01-01-01-01-01", "03-01-04-01-01-01-01"]
    assert rest.emotions == ("neutral", "sad")
    (warning,) = rest.warnings
    assert warning.startswith("cannot be read, left out (3): ")


def test_nothing_readable_is_an_error_all_the_same(tmp_path: Path) -> None:
    for name in (ANGRY, HAPPY):
        (tmp_path / f"{name}.wav").touch()
    with pytest.raises(BadInput, match="not one recording can be read"):
        recordings(read("ravdess", tmp_path), skip_bad=True)


def test_the_same_sound_twice_is_named(tmp_path: Path) -> None:
    sound = noise(1, 0)
    others = [saying(id, noise(1, 1 + i)) for i, id in enumerate("xyz")]
    assert decoded([saying("a", sound), saying("b", sound), *others]).warnings == (
        "the same recording, sample for sample (may lie in training and test) (1): a = b",
    )
    (warning,) = decoded(
        [saying("a", sound), saying("b", sound, "A", "sad"), saying("c", sound, "B")]
    ).warnings
    assert warning.endswith("a = b = c (different speakers)")


def test_a_duplicate_with_two_labels_is_named_as_such() -> None:
    sound = noise(1, 0)
    corpus = decoded([saying("a", sound, emotion="sad"), saying("b", sound, emotion="angry")])
    assert corpus.warnings[0].endswith("a = b (different emotions)")


def test_silent_short_and_long_clips_are_named_and_used() -> None:
    """-60 dB of full scale is a peak of 32.768. Zeros of one length are silence, not duplicates."""
    corpus = decoded(
        [
            saying("loud", noise(1, 0)),
            saying("most negative", np.full(SAMPLE_RATE, -32_768)),
            saying("zeros", np.zeros(SAMPLE_RATE)),
            saying("zeros again", np.zeros(SAMPLE_RATE)),
            saying("peak 32", np.full(SAMPLE_RATE, 32)),
            saying("peak 33", np.full(SAMPLE_RATE, 33)),
            saying("0.1 s", noise(0.1, 1)),
            saying("short", noise(0.05, 2)),
            saying("60 s", noise(60, 3)),
            saying("long", noise(61, 4)),
        ]
    )
    assert len(corpus.utterances) == 10
    assert corpus.warnings == (
        "silent (3): peak 32; zeros; zeros again",
        "shorter than 0.1 s (1): short (0.050 s)",
        "longer than 60 s (1): long (61 s)",
    )


def test_a_speaker_lacking_an_emotion_is_named() -> None:
    given = [("A", "sad"), ("A", "happy"), ("B", "sad"), ("C", "happy")]
    corpus = decoded([saying(f"{s}{e}", noise(1, i), s, e) for i, (s, e) in enumerate(given)])
    assert corpus.warnings == ("speakers without a recording of an emotion (2): B (happy); C (sad)",)


def test_many_findings_take_one_line() -> None:
    corpus = decoded([saying(f"{i:02}", np.zeros(SAMPLE_RATE)) for i in range(40)])
    assert corpus.warnings == ("silent (40): 00; 01; 02; 03; 04; and 35 more",)


# Real speech
@pytest.mark.corpus
def test_ravdess_itself(ravdess: Path) -> None:
    corpus = read("ravdess", ravdess)
    assert len(corpus.utterances) == 1440
    assert corpus.speakers == tuple(f"{i:02}" for i in range(1, 25))
    assert corpus.emotions == ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
    per_speaker = Counter((u.speaker, u.emotion) for u in corpus.utterances)
    assert {n for (_, emotion), n in per_speaker.items() if emotion == "neutral"} == {4}
    assert {n for (_, emotion), n in per_speaker.items() if emotion != "neutral"} == {8}
    assert Counter(u.gender for u in corpus.utterances) == {"male": 720, "female": 720}

    same, sound = recordings(corpus, skip_bad=False)
    assert len(same.utterances) == len(sound) == 1440
    hours = sum(map(len, sound.values())) / SAMPLE_RATE / 3600
    assert hours == pytest.approx(1.48, abs=0.005)
    (duplicate,) = same.warnings
    assert duplicate.endswith("(1): Actor_07/03-01-03-01-02-01-07 = Actor_07/03-01-03-01-02-02-07")


@pytest.mark.corpus
def test_ravdess_by_its_manifest_is_the_same_corpus(ravdess: Path) -> None:
    named = {u.id: (u.speaker, u.gender, u.emotion) for u in read("ravdess", ravdess).utterances}
    listed = {
        u.id: (f"{int(u.speaker):02}", u.gender, u.emotion) for u in read("manifest", ravdess).utterances
    }
    assert listed == named


@pytest.mark.corpus
def test_ravdess_as_downloaded(ravdess: Path) -> None:
    native = ravdess.parent / "ravdess-native"
    if not native.is_dir():
        pytest.skip(f"no real speech: {native} is missing")
    corpus, sound = recordings(read("ravdess", native), skip_bad=False)
    assert [(u.speaker, u.emotion) for u in corpus.utterances] == [
        ("01", "calm"),
        ("01", "angry"),
        ("02", "sad"),
        ("07", "happy"),
        ("20", "happy"),
    ]
    assert all(1 < len(pcm) / SAMPLE_RATE < 6 for pcm in sound.values())
