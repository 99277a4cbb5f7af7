"""Labels and audio that would be silently wrong: each way to damage them is refused or named."""

import math
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.audio import SAMPLE_RATE, BadAudio, decode
from fedunlearn.config import CorpusSettings
from fedunlearn.corpora import load
from fedunlearn.corpora.inspection import recordings
from fedunlearn.corpora.unlabelled import Choice, choose
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.errors import BadInput

Sound = npt.NDArray[Any]
Files = dict[str, bytes]


def speech(seed: int, seconds: float = 0.2, peak: float = 0.5) -> Sound:
    """Noise below ``peak``."""
    return np.random.default_rng(seed).uniform(-peak, peak, round(seconds * SAMPLE_RATE))


def put(path: Path, sound: Sound, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path, sound, **{"samplerate": SAMPLE_RATE, "subtype": "PCM_16", "format": "WAV"} | options
    )


def warnings_of(root: Path, name: str = "manifest") -> tuple[bool, str]:
    """(whether it is refused, all lines that the user gets), reading and decoding as a run does."""
    try:
        corpus = load(CorpusSettings(name=name, path=str(root)), seed=1)
        return False, "\n".join(recordings(corpus, skip_bad=False)[0].warnings)
    except BadInput as error:
        return True, "\n".join(error.problems)


# ---- manifests -------------------------------------------------------------------------------------------

HEADER = "path,text,speaker,emotion,gender"
ROWS = [
    f'{speaker}-{emotion}-{take}.wav,"Well, yes.",{speaker},{emotion},'
    for speaker in ("ann", "bob")
    for emotion in ("angry", "sad")
    for take in (1, 2, 3)
]
"""12 recordings; row 0 stands in line 2."""


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("listed")
    for i, row in enumerate(ROWS):
        put(root / row.partition(",")[0], speech(i))
    return root


def written(listed: Path, folder: Path, content: str | bytes) -> Path:
    """A folder of links to the recordings, with this manifest."""
    shutil.copytree(listed, folder, dirs_exist_ok=True)
    content = content.encode() if isinstance(content, str) else content
    (folder / "manifest.csv").write_bytes(content)
    return folder


def text(*rows: str, header: str = HEADER) -> str:
    return "\n".join([header, *rows]) + "\n"


def changed(row: int, old: str, new: str) -> str:
    assert old in ROWS[row]
    return text(*ROWS[:row], ROWS[row].replace(old, new), *ROWS[row + 1 :])


def test_the_manifest_that_is_damaged_below_is_right(listed: Path, tmp_path: Path) -> None:
    assert warnings_of(written(listed, tmp_path, text(*ROWS))) == (False, "")


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "a comma without quotes": (
        changed(4, '"Well, yes."', "Well, yes."),
        "csv:6: has 6 fields, but the header",
    ),
    "a comma too many at the end": (
        changed(4, "sad,", "sad,,"),
        "csv:6: has 6 fields, but the header names 5",
    ),
    "a field too few, others moved up": (
        text("ann-angry-1.wav,ann,angry,female", *ROWS[1:]),
        "csv:2: has 4 fields, but the header names 5",
    ),
    "a column named twice": (
        text(*ROWS, header="path,emotion,speaker,emotion,gender"),
        "2 columns named emotion",
    ),
    "twice but for case": (
        text(*ROWS, header="path,Emotion,speaker,emotion,gender"),
        "2 columns named emotion",
    ),
    **{
        f"emotion {word}": (changed(2, ",angry,", f",{word},"), f"csv:4: emotion is '{word}'")
        for word in ("nan", "NaN", "None", "null", "NULL", "N/A", "<NA>", "-", "?")
    },
    "speaker nan": (
        changed(2, ",ann,", ",nan,"),
        "csv:4: speaker is 'nan', which stands for a missing value",
    ),
    "an emotion in capitals": (changed(2, ",angry,", ",Angry,"), "csv:4: emotion 'Angry' is written 'angry'"),
    "an invisible character": (
        changed(2, ",angry,", ",angry\u200b,"),
        "csv:4: emotion 'angry\\u200b' is written",
    ),
    "a control character": (changed(2, ",angry,", ",an\agry,"), "csv:4: emotion is 'an\\x07gry'"),
    "a file listed twice": (
        changed(1, "ann-angry-2", "ann-angry-1"),
        "csv:3: ann-angry-1.wav is listed already",
    ),
    "twice, by another way": (
        changed(1, "ann-angry-2", "../listed/ann-angry-1"),
        "csv:3: ../listed/ann-angry-1.wav is listed already in line 2",
    ),
    "twice, with two emotions": (
        changed(3, "ann-sad-1", "ann-angry-1"),
        "is listed already in line 2, with another emotion",
    ),
    "a name that is too long": (
        changed(1, "ann-angry-2", 300 * "a"),
        "csv:3: cannot be read (File name too long)",
    ),
    "a quote left open": (changed(11, '"Well, yes."', '"Well'), "(the row that begins in line 13: "),
    "a quote inside": (changed(5, '"Well, yes."', '"Well" yes'), "(the row that begins in line 7: "),
    "tabs": (text(*ROWS).replace(",", "\t"), "look separated by '\\t'"),
    "semicolons": (text(*ROWS).replace(",", ";"), "look separated by ';'"),
    "no header": ("\n".join(ROWS), "has no column path, speaker, emotion"),
    "UTF-16": (text(*ROWS).encode("utf-16"), "is UTF-16; save it as UTF-8"),
    "UTF-16 without a mark": (text(*ROWS).encode("utf-16-le"), "csv:1: holds a NUL character"),
    "Latin 1": (changed(2, ",ann,", ",Zoé,").encode("latin-1"), "line 4); save it as UTF-8"),
    "a NUL": (changed(2, ",ann,", ",a\0nn,"), "csv:4: holds a NUL character"),
    "file names as emotions": (
        text(*(row.replace(f",{row.split(',')[-2]},", f",e{i},") for i, row in enumerate(ROWS))),
        "12 of its 12 emotions have a single recording",
    ),
    "scores as emotions": (
        text(*(row.replace(",angry,", ",2.5,").replace(",sad,", ",3.0,") for row in ROWS)),
        "its emotions are scores such as 2.5",
    ),
    "one emotion": (text(*(row.replace(",sad,", ",angry,") for row in ROWS)), "all recordings are 'angry'"),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_a_damaged_manifest_is_refused(listed: Path, tmp_path: Path, damage: str) -> None:
    content, words = REFUSED[damage]
    refused, lines = warnings_of(written(listed, tmp_path / "listed", content))
    assert refused and words in lines and str(tmp_path) in lines, lines


NAMED: dict[str, tuple[str | bytes, str]] = {
    "a row swallowed by two quotes": (
        text(*ROWS[:3], 'ann-sad-1.wav,"Well,ann,sad,', 'x.wav,y",ann,sad,', *ROWS[4:]),
        "rows over several lines (a quote left open?) (1): ",
    ),
    "a speaker in two spellings": (
        changed(2, ",ann,", ",Ann,"),
        "speakers that differ only in spelling, taken for different people (1): 'Ann' / 'ann'",
    ),
    "a speaker of two genders": (
        text(*(f"{row}{'f' if i else 'male'}" for i, row in enumerate(ROWS))),
        "speakers of more than one gender (1): ann (female, male)",
    ),
    "an emotion of one recording": (
        changed(0, ",angry,", ",calm,"),
        "emotions of a single recording, not both trained on and tested (1): calm",
    ),
}


@pytest.mark.parametrize("damage", NAMED)
def test_an_odd_manifest_is_used_and_named(listed: Path, tmp_path: Path, damage: str) -> None:
    content, words = NAMED[damage]
    refused, lines = warnings_of(written(listed, tmp_path, content))
    assert not refused and words in lines, lines


RIGHT: dict[str, str | bytes] = {
    "a byte-order mark": text(*ROWS).encode("utf-8-sig"),
    "line ends of old Macs": text(*ROWS).replace("\n", "\r"),
    "line ends of Windows": text(*ROWS).replace("\n", "\r\n"),
    "blank lines": text("", *ROWS[:3], ",,,,", " ", *ROWS[3:], ""),
    "spaces around": changed(2, ",angry,", " ,  angry  ,"),
    "an unused column named twice": text(*(f"{row},1,2" for row in ROWS), header=f"{HEADER},note,note"),
    "gender nan": text(*(f"{row}nan" for row in ROWS)),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_what_is_only_unusual_is_read_without_a_word(listed: Path, tmp_path: Path, kind: str) -> None:
    assert warnings_of(written(listed, tmp_path, RIGHT[kind])) == (False, "")


@settings(max_examples=40)
@given(
    row=st.integers(0, len(ROWS) - 1),
    field=st.text(st.characters(codec="utf-8", exclude_characters='\0"\r\n'), min_size=1),
)
def test_a_field_with_a_comma_is_kept_whole_or_refused(
    row: int, field: str, tmp_path_factory: pytest.TempPathFactory, listed: Path
) -> None:
    """Whatever is written without quotes, no other column of that row takes other values."""
    content = text(*ROWS[:row], ROWS[row].replace('"Well, yes."', field), *ROWS[row + 1 :])
    file = listed / "any.csv"
    file.write_text(content, encoding="utf-8", newline="")
    try:
        corpus = load(CorpusSettings(name="manifest", path=str(file)), seed=1)
    except BadInput as error:
        assert f"any.csv:{row + 2}: " in error.problems[0]
    else:
        assert corpus.emotions == ("angry", "sad") and corpus.speakers == ("ann", "bob")


def some(emotions: Sequence[str]) -> Corpus:
    made = tuple(
        Utterance(f"{i:05}", "ann", e, lambda i=i: (speech(i, 0.2) * 32_767).astype(np.int16))  # type: ignore[misc]
        for i, e in enumerate(emotions)
    )
    return Corpus("made", made, tuple(sorted(set(emotions))))


@pytest.mark.parametrize(("classes", "words"), [(256, ""), (257, "has 257 emotions in 771 recordings")])
def test_no_more_classes_than_predictions_can_say(
    classes: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions are 8-bit numbers: class 256 would come back as class 0."""
    monkeypatch.setitem(
        load.__globals__["READERS"],
        "savee",
        lambda settings, seed: some([f"e{i % classes:03}" for i in range(3 * classes)]),
    )
    if words:
        with pytest.raises(BadInput, match=words):
            load(CorpusSettings(name="savee"), seed=1)
    else:
        corpus = load(CorpusSettings(name="savee"), seed=1)
        assert "256 emotions in 768 recordings" in recordings(corpus, skip_bad=False)[0].warnings


def test_when_only_one_emotion_can_be_read_nothing_is_trained(tmp_path: Path) -> None:
    put(tmp_path / "03-01-03-01-01-01-01.wav", speech(0))
    (tmp_path / "03-01-04-01-01-01-01.wav").touch()
    corpus = load(CorpusSettings(name="ravdess", path=str(tmp_path)), seed=1)
    with pytest.raises(BadInput, match="all recordings are 'happy'"):
        recordings(corpus, skip_bad=True)
    put(tmp_path / "03-01-05-01-01-01-01.wav", speech(1))
    corpus = load(CorpusSettings(name="ravdess", path=str(tmp_path)), seed=1)
    assert recordings(corpus, skip_bad=True)[0].warnings[0].endswith("; no recording is left of sad")


# ---- sound -----------------------------------------------------------------------------------------------

ODD = "03-01-05-01-01-01-01"


def two_channels(second: Callable[[Sound], Sound]) -> Sound:
    first = speech(1)
    return np.stack([first, second(first)], axis=1)


AUDIO: dict[str, tuple[Sound, dict[str, Any], bool, str]] = {
    **{
        f"float of {bits}-bit scale": (
            speech(1) * 2.0 ** (bits - 1),
            {"subtype": "FLOAT"},
            True,
            f"where full scale is 1 (float samples of integer scale?): divide them by {2 ** (bits - 1)}",
        )
        for bits in (8, 16, 24, 32)
    },
    "double of 16-bit scale": (speech(1) * 32_768, {"subtype": "DOUBLE"}, True, "divide them by 32768"),
    "a little too loud": (
        np.concatenate([speech(1), np.full(7, 1.25)]),
        {"subtype": "FLOAT"},
        False,
        f"clipped at full scale (1): {ODD} (7 of 3207 samples, 0.218 %, peak 1.25)",
    ),
    "a square wave": (
        np.sign(speech(1)),
        {},
        False,
        f"clipped at full scale (1): {ODD} (3200 of 3200 samples, 100 %)",
    ),
    "at full scale once": (np.concatenate([speech(1), [1.0], speech(2)]), {}, False, ""),
    "opposed channels": (two_channels(np.negative), {}, True, "channels that cancel each other"),
    "nearly opposed, with an offset": (
        two_channels(lambda x: 0.1 - 0.9 * x),
        {},
        True,
        "channels that cancel",
    ),
    "two equal channels": (two_channels(np.array), {}, False, ""),
    "two other channels": (two_channels(lambda x: speech(7)), {}, False, ""),
    "a silent channel": (
        two_channels(np.zeros_like),
        {},
        False,
        f"with silent channels, averaged in (1): {ODD} (1 of 2)",
    ),
    "a low rate": (speech(1), {"samplerate": 4_000}, False, f"(1): {ODD} (4000 Hz)"),
    "8 bits": (speech(1), {"subtype": "PCM_U8"}, False, f"of 8-bit samples (1): {ODD} (8 bits)"),
    "24 bits": (speech(1), {"subtype": "PCM_24"}, False, ""),
    "all zero": (np.zeros(3200), {}, False, f"silent (1): {ODD}"),
    "not a number": (np.array([0.1, math.nan]), {"subtype": "FLOAT"}, True, "not finite"),
    "endless": (np.array([0.1, 1e300, -math.inf]), {"subtype": "DOUBLE"}, True, "not finite"),
}


@pytest.mark.parametrize("damage", AUDIO)
def test_sound_that_is_not_what_was_recorded(tmp_path: Path, damage: str) -> None:
    sound, options, refuse, words = AUDIO[damage]
    put(tmp_path / "03-01-03-01-01-01-01.wav", speech(0))
    put(tmp_path / f"{ODD}.wav", sound, **options)
    refused, lines = warnings_of(tmp_path, "ravdess")
    assert refused == refuse and (words in lines if words else lines == ""), lines
    assert not refused or f"{ODD}.wav: " in lines


def test_a_whole_corpus_of_integer_scale_takes_few_lines(tmp_path: Path) -> None:
    for i in range(60):
        put(
            tmp_path
            / f"03-01-0{1 + i % 2}-01-01-01-{1 + i % 24:02}"
            / f"03-01-0{1 + i % 8}-01-01-0{1 + i % 2}-{1 + i % 24:02}.wav",
            9999 * speech(i),
            subtype="FLOAT",
        )
    refused, lines = warnings_of(tmp_path, "ravdess")
    assert refused and len(lines.splitlines()) == 22
    assert "recordings cannot be used" in lines.splitlines()[-1]


def test_a_recording_with_two_labels_is_named_before_other_copies(tmp_path: Path) -> None:
    for take in range(1, 9):
        for statement in "12":
            put(tmp_path / f"03-01-03-01-0{statement}-01-{take:02}.wav", speech(take))
    put(tmp_path / "03-01-04-01-01-01-24.wav", speech(8))
    refused, lines = warnings_of(tmp_path, "ravdess")
    assert not refused and "(different speakers and emotions); 03-01-03-01-01-01-01 = " in lines


@pytest.mark.parametrize("name", ["ravdess", "crema-d", "emodb", "nemo", "tess", "savee", "shemo"])
def test_formats_that_are_not_read_are_counted(tmp_path: Path, name: str) -> None:
    a, b, c = {
        "ravdess": ("03-01-03-01-01-01-01", "03-01-04-01-01-01-01", "03-01-05-01-01-01-01"),
        "crema-d": ("1001_DFA_ANG_XX", "1001_DFA_SAD_XX", "1001_DFA_HAP_XX"),
        "emodb": ("03a01Wa", "03a01Ta", "03a01Fa"),
        "nemo": ("WR0_anger_1", "WR0_fear_1", "WR0_sadness_1"),
        "tess": ("OAF_back_angry", "OAF_back_sad", "OAF_back_happy"),
        "savee": ("DC_a01", "DC_sa01", "DC_h01"),
        "shemo": ("F01A01", "F01S01", "F01H01"),
    }[name]
    put(tmp_path / f"{a}.WAV", speech(0))
    put(tmp_path / f"{b}.wav", speech(1))
    for stray in (f"{c}.m4a", f"{c}.webm", "other.M4A", c, "half.zip", f"{c}.wav.part"):
        (tmp_path / stray).write_bytes(b"of a format that is not read")
    (tmp_path / "README").touch()
    refused, lines = warnings_of(tmp_path, name)
    assert not refused
    assert "left out, of formats that are not read (.m4a 2, " in lines and ".zip 1" in lines, lines
    assert "no ending 1" in lines and ".webm 1" in lines and ".part 1" in lines and "6 files" in lines, lines


def test_only_formats_that_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "03-01-03-01-01-01-01.m4a").touch()
    assert warnings_of(tmp_path, "ravdess")[1].count(".m4a") == 2
    (tmp_path / "b.m4a").touch()
    with pytest.raises(BadInput, match=r"no sound file in it .*formats that are not read \(\.m4a 2"):
        choose(Choice(data=str(tmp_path)), seed=1)
    put(tmp_path / "c.wav", speech(0))
    (source,) = choose(Choice(data=str(tmp_path)), seed=1)
    assert len(source.readers) == 1 and "(.m4a 2" in source.warnings[0]


@pytest.mark.parametrize("name", ["a.raw", "a.m4a", "a.pcm"])
def test_a_listed_file_of_a_format_that_is_not_read(listed: Path, tmp_path: Path, name: str) -> None:
    written(listed, tmp_path, changed(0, "ann-angry-1.wav", name))
    (tmp_path / name).write_bytes(bytes(5000))
    refused, lines = warnings_of(tmp_path)
    assert refused and f"{name}: cannot be read" in lines and "convert it to WAV or FLAC" in lines


def test_two_labels_of_one_turn(tmp_path: Path) -> None:
    evaluation = tmp_path / "Session1" / "dialog" / "EmoEvaluation"
    evaluation.mkdir(parents=True)
    for file, label in (("a", "neu"), ("b", "ang")):
        (evaluation / f"{file}.txt").write_text(
            f"[6.29 - 8.23]\tSes01F_impro01_F000\t{label}\t[2.5, 2.5, 2.5]\n"
        )
    refused, lines = warnings_of(tmp_path, "iemocap")
    assert refused and "b.txt: Ses01F_impro01_F000 is 'ang' here and 'neu' further up" in lines


# ---- lengths that were never filled in -------------------------------------------------------------------

PLACEHOLDERS = (0, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFDB, 0xFFFF_FFFF)
COMMENT = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf60.16.100\0"


def streamed(
    riff: int,
    data: int,
    sound: bytes,
    before: bytes = b"",
    after: bytes = b"",
    width: int = 2,
    form: bytes = b"RIFF",
) -> bytes:
    shape = struct.pack("<HHIIHH", 1, 1, SAMPLE_RATE, SAMPLE_RATE * width, width, 8 * width)
    return (
        form
        + struct.pack("<I", riff)
        + b"WAVE"
        + before
        + b"fmt "
        + struct.pack("<I", 16)
        + shape
        + b"data"
        + struct.pack("<I", data)
        + sound
        + after
    )


PCM = (speech(3, 1) * 32_767).astype("<i2")


@pytest.mark.parametrize("before", [b"", COMMENT])
@pytest.mark.parametrize("data", PLACEHOLDERS)
@pytest.mark.parametrize("riff", [*PLACEHOLDERS, 36, 32_036])
def test_a_wav_file_written_to_a_pipe_is_read_to_its_end(
    tmp_path: Path, riff: int, data: int, before: bytes
) -> None:
    (tmp_path / "a.wav").write_bytes(streamed(riff, data, PCM.tobytes(), before))
    assert np.array_equal(decode(tmp_path / "a.wav"), PCM)


@pytest.mark.parametrize("size", [0, 0xFFFF_FFFF_FFFF_FFFF, 32_000])
def test_a_long_wav_file_written_to_a_pipe(tmp_path: Path, size: int) -> None:
    sizes = b"ds64" + struct.pack("<IQQQI", 28, size, size, size, 0)
    (tmp_path / "a.wav").write_bytes(streamed(0xFFFF_FFFF, 0xFFFF_FFFF, PCM.tobytes(), sizes, form=b"RF64"))
    assert np.array_equal(decode(tmp_path / "a.wav"), PCM)


@settings(max_examples=40)
@given(claimed=st.integers(1, 32_000 - 100), riff=st.sampled_from(PLACEHOLDERS))
def test_a_length_that_was_never_completed_is_refused_not_believed(
    claimed: int, riff: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "claimed.wav"
    file.write_bytes(streamed(riff, claimed, PCM.tobytes()))
    with pytest.raises(BadAudio, match=f"more than its header tells: {claimed} bytes of sound"):
        decode(file)


def test_two_files_in_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(2 * streamed(32_036, 32_000, PCM.tobytes()))
    with pytest.raises(BadAudio, match="two files in one"):
        decode(tmp_path / "a.wav")


@pytest.mark.parametrize(
    "after", [COMMENT, 3 * COMMENT, bytes(4000), COMMENT + bytes(500), b"ID3\3" + bytes(99)]
)
def test_what_follows_the_sound_by_right_is_passed_over(tmp_path: Path, after: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(streamed(0, 32_000, PCM.tobytes(), after=after))
    assert np.array_equal(decode(tmp_path / "a.wav"), PCM)
