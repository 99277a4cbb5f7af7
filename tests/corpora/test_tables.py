"""Recordings where people have them: zip files, Hugging Face folders, parquet, audformat, any columns."""

import json
import sys
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from command_line import call
from hypothesis import given
from hypothesis import strategies as st
from made_corpora import make_corpus

from fedunlearn.audio import PCM, SAMPLE_RATE, BadAudio, decode
from fedunlearn.config import ColumnNames, CorpusSettings
from fedunlearn.corpora import load, recordings
from fedunlearn.corpora.rows import find_columns
from fedunlearn.corpora.utterance import Corpus
from fedunlearn.errors import BadInput

EMOTIONS = ("sad", "angry")


def noise(seed: int, seconds: float = 0.2, rate: int = SAMPLE_RATE) -> PCM:
    return np.random.default_rng(seed).integers(-9000, 9000, round(seconds * rate)).astype(np.int16)


def wav(samples: PCM, rate: int = SAMPLE_RATE, form: str = "WAV") -> bytes:
    file = BytesIO()
    soundfile.write(file, samples, rate, format=form)
    return file.getvalue()


def read(name: str, place: Path, /, **columns: str) -> Corpus:
    return load(CorpusSettings(name=name, path=str(place), columns=ColumnNames(**columns)), seed=1)


def problem(name: str, place: Path, /, **columns: str) -> str:
    with pytest.raises(BadInput) as caught:
        read(name, place, **columns)
    return "\n".join(caught.value.problems)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- zip files -------------------------------------------------------------------------------------------


def zipped(folder: Path, archive: Path, *prefixes: str) -> Path:
    """All files of a folder, once below each prefix."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for prefix in prefixes or ("",):
            for path in sorted(folder.rglob("*")):
                file.write(path, prefix + path.relative_to(folder).as_posix())
    return archive


@pytest.mark.parametrize("reader", ["ravdess", "crema-d", "emodb", "tess", "savee"])
def test_a_zip_file_is_the_folder_that_it_was_made_of(tmp_path: Path, reader: str) -> None:
    """All ids, labels and warnings, though some copies have everything twice, as on Kaggle."""
    folder = make_corpus(tmp_path / "there", reader)
    one = read(reader, folder)
    assert read(reader, zipped(folder, tmp_path / "a.zip")) == one
    twice = read(reader, zipped(folder, tmp_path / "b.ZIP", "", "copy of it/"))
    assert twice.utterances == one.utterances
    assert any("second copies" in line for line in twice.warnings)


def test_zipped_recordings_are_decoded_without_being_unpacked(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "there", "savee", sound=True)
    (tmp_path / "only").mkdir()
    archive = zipped(folder, tmp_path / "only" / "a.zip")
    before = content(archive.parent)
    plain, packed = (recordings(read("savee", path), False) for path in (folder, archive))
    assert plain[0] == packed[0] and plain[1].keys() == packed[1].keys()
    assert all(np.array_equal(plain[1][name], packed[1][name]) for name in plain[1])
    assert content(archive.parent) == before


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_every_format_is_read_inside_a_zip_file_as_it_is_outside(tmp_path: Path, form: str) -> None:
    sound = wav(noise(1), form=form)
    ending = form.lower()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(f"DC_a01.{ending}", sound)
        file.writestr(f"DC_h01.{ending}", wav(noise(2), form=form))
    (tmp_path / f"plain.{ending}").write_bytes(sound)
    (angry,) = [u for u in read("savee", tmp_path / "a.zip").utterances if u.emotion == "anger"]
    assert np.array_equal(angry.pcm(), decode(tmp_path / f"plain.{ending}"))


def test_what_is_wrong_inside_a_zip_file_is_named(tmp_path: Path) -> None:
    whole = wav(noise(1))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("__MACOSX/._DC_a01.wav", b"x")
        file.writestr(".hidden/DC_a03.wav", whole)
        file.writestr("notes.wav", whole)
        file.writestr("DC_a01.wav", whole)
        file.writestr("DC_h01.wav", whole[:-2000])
        file.writestr("DC_n01.wav", b"")
    corpus = read("savee", tmp_path / "a.zip")
    assert [u.id for u in corpus.utterances] == ["DC_a01", "DC_h01", "DC_n01"]
    assert any("1 file (notes.wav)" in line for line in corpus.warnings)
    with pytest.raises(BadInput) as caught:
        recordings(corpus, skip_bad=False)
    truncated, empty, total = caught.value.problems
    assert truncated.startswith(f"{tmp_path}/a.zip/DC_h01.wav: is truncated")
    assert empty.startswith(f"{tmp_path}/a.zip/DC_n01.wav: cannot be read") and "0x" not in empty
    assert total.startswith("2 of 3 recordings")


def test_a_damaged_zip_file_is_one_line(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("DC_a01.wav", wav(noise(1)))
        file.writestr("DC_h01.wav", wav(noise(2)))
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert problem("savee", archive).startswith(f"{archive}: is not a whole zip file")
    archive.write_bytes(whole[:200] + bytes(20) + whole[220:])  # in the first recording
    bad = next(u for u in read("savee", archive).utterances if u.emotion == "anger")
    with pytest.raises(BadAudio, match=r"a\.zip/DC_a01\.wav: cannot be unpacked \(Bad CRC-32"):
        bad.pcm()
    flags = bytearray(whole)
    flags[whole.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(flags)
    assert problem("savee", archive) == f"{archive}: is encrypted; unpack it, and give the folder"


def test_a_run_may_be_written_beside_a_zip_file_and_nowhere_in_a_folder(tmp_path: Path) -> None:
    archive = zipped(make_corpus(tmp_path / "there", "savee", sound=True), tmp_path / "a.zip")
    quick = ("--engine", "inline", "--set", "partition.clients=9")
    inside, there = tmp_path / "there", ("run", "--corpus", "savee", "--data")
    code, said = call(*there, inside, "--out", inside / "run", *quick)
    assert code == 2 and "lies inside the corpus" in said
    code, said = call(*there, archive, "--out", tmp_path / "run", *quick)
    assert "lies inside the corpus" not in said


# ---- names of columns ------------------------------------------------------------------------------------


def listed(folder: Path, header: str = "path,speaker,emotion") -> Path:
    lines = [header]
    for number, (speaker, emotion) in enumerate((s, e) for s in ("ann", "bob") for e in EMOTIONS):
        soundfile.write(folder / f"{number}.wav", noise(number), SAMPLE_RATE)
        lines.append(f"{number}.wav,{speaker},{emotion}")
    (folder / "my.csv").write_text("\n".join(lines))
    return folder / "my.csv"


def test_columns_have_the_names_that_people_gave_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    usual = read("manifest", listed(tmp_path / "a"))
    other = read(
        "manifest", listed(tmp_path / "b", "File,spk,Label"), path="file", speaker="SPK", emotion="label"
    )
    assert other == usual


def test_a_column_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    file = listed(tmp_path, "file,spk,label")
    assert "has no column path, speaker, emotion" in problem("manifest", file)
    line = problem("manifest", file, path="file", speaker="who", emotion="label", text="said")
    assert line.startswith(f"{file}: has no column who, said (") and "found: file, spk, label" in line
    assert "\n" not in line and "--columns" in line
    assert problem("ravdess", tmp_path, path="file").startswith(
        "corpus.columns (--columns): ravdess is no table"
    )


@given(
    names=st.lists(st.text("abc", min_size=1, max_size=3), min_size=3, max_size=6, unique=True),
    data=st.data(),
)
def test_any_three_columns_are_found_by_their_names(names: list[str], data: st.DataObject) -> None:
    path, speaker, emotion = data.draw(st.permutations(names))[:3]
    given_names = ColumnNames(path=path, speaker=speaker, emotion=emotion)
    usual = {name: ("unused",) for name in ColumnNames.model_fields}
    assert find_columns("t", names, given_names, usual, "") == {
        "path": path,
        "speaker": speaker,
        "emotion": emotion,
    }


@pytest.mark.parametrize(
    "words",
    [
        ["--columns", "path=file", "speaker=spk", "emotion=label"],
        ["--columns", "path=file", "--columns", "speaker=spk", "emotion=label"],
        ["--columns=path=file", "speaker=spk", "emotion=label"],
        ["--set", "corpus.columns.path=file", "--columns", "speaker=spk", "emotion=label"],
    ],
)
def test_the_command_line_takes_names_of_columns(tmp_path: Path, words: Sequence[str]) -> None:
    """Read far enough to say that there are not enough speakers: the columns were found."""
    (tmp_path / "data").mkdir()
    file = listed(tmp_path / "data", "file,spk,label")
    for command in ("run", "compare"):
        code, said = call(
            *(command, "--data", file, *words, "--set", "corpus.name=manifest", "--engine", "inline"),
            *("--set", "partition.clients=9", "--out", tmp_path / "out"),
        )
        assert code == 2 and "column" not in said and "speakers" in said, said


@pytest.mark.parametrize("word", ["file", "file=path", "path=", "=file"])
def test_what_names_no_column_is_one_line(tmp_path: Path, word: str) -> None:
    code, said = call("run", "--corpus", "manifest", "--data", tmp_path, "--columns", word)
    assert code == 2 and f"error: --columns {word}: write COLUMN=NAME" in " ".join(said.split())


# ---- Hugging Face audio folders --------------------------------------------------------------------------


def audiofolder(root: Path, kind: str) -> Path:
    for split in ("train", "test"):
        folder = root / split
        folder.mkdir(parents=True)
        rows = [
            {"file_name": f"{i}.wav", "speaker_id": i // 2, "label": EMOTIONS[i % 2], "extra": [1]}
            for i in range(4)
        ]
        for i in range(4):
            soundfile.write(folder / f"{i}.wav", noise(i + 10 * (split == "test")), SAMPLE_RATE)
        if kind == "jsonl":
            (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
        else:
            lines = [f"{r['file_name']},{r['speaker_id']},{r['label']}" for r in rows]
            (folder / "metadata.csv").write_text("\n".join(["file_name,speaker_id,label", *lines]))
    return root


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_audio_folder(tmp_path: Path, kind: str) -> None:
    root = audiofolder(tmp_path / "data", kind)
    before = content(root)
    corpus = read("audiofolder", root)
    assert [(u.id, u.speaker, u.emotion) for u in corpus.utterances[:3]] == [
        ("test/0", "0", "sad"),
        ("test/1", "0", "angry"),
        ("test/2", "1", "sad"),
    ]
    assert len(corpus.utterances) == 8 and corpus.emotions == ("angry", "sad")
    _, sound = recordings(corpus, skip_bad=False)
    assert np.array_equal(sound["train/3"], noise(3)) and np.array_equal(sound["test/3"], noise(13))
    assert content(root) == before


def test_a_damaged_audio_folder_says_where(tmp_path: Path) -> None:
    assert problem("audiofolder", tmp_path).startswith(
        f"{tmp_path}: no audio folder: expected a metadata.csv"
    )
    file = tmp_path / "metadata.jsonl"
    soundfile.write(tmp_path / "a.wav", noise(1), SAMPLE_RATE)
    good = '{"file_name": "a.wav", "speaker": "x", "emotion": "sad"}'
    for text, expected in (
        (f"{good}\nnot json\n", f"{file}:2: is no JSON object; write one in each line"),
        ('{"file_name": "a.wav"}', f"{file}: has no column speaker, emotion ("),
        (good.replace('"sad"', '["sad", "x"]'), f"{file}:1: emotion holds several values; write one"),
        (good.replace('"sad"', "null"), f"{file}:1: emotion must not be empty"),
        (f"{good}\n{good}", f"{file}:2: a.wav is listed already in line 1"),
        (good.replace("a.wav", "b.wav"), f"{file}:1: no such file: {tmp_path}/b.wav"),
    ):
        file.write_text(text)
        assert problem("audiofolder", tmp_path).startswith(expected)


# ---- parquet ---------------------------------------------------------------------------------------------


def parquet(file: Path, rows: int = 6, group: int = 4, named: bool = True, **changed: Any) -> Path:
    """As ``datasets`` writes it: audio as bytes and a path, labels as numbers, features in the metadata."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    columns: dict[str, Any] = {
        "audio": [{"bytes": wav(noise(i), form="FLAC"), "path": f"{i}.flac"} for i in range(rows)],
        "speaker_id": [f"s{i % 3}" for i in range(rows)],
        "emotion": [i % 2 for i in range(rows)],
    } | changed
    table = arrow.table(columns)
    if named:
        about = {
            "audio": {"sampling_rate": 16000, "_type": "Audio"},
            "speaker_id": {"dtype": "string", "_type": "Value"},
            "emotion": {"names": list(EMOTIONS), "_type": "ClassLabel"},
        }
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": about}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_table(table, file, row_group_size=group)
    return file


def test_parquet_with_audio_and_class_labels(tmp_path: Path) -> None:
    for split in ("train", "test"):
        parquet(tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet")
    before = content(tmp_path)
    corpus = read("parquet", tmp_path / "set")
    assert [(u.id, u.speaker, u.emotion) for u in corpus.utterances[:2]] == [
        ("data/test-00000-of-00001/000000", "s0", "sad"),
        ("data/test-00000-of-00001/000001", "s1", "angry"),
    ]
    assert len(corpus.utterances) == 12 and corpus.emotions == EMOTIONS  # in the order of the ClassLabel
    _, sound = recordings(corpus, skip_bad=False)
    assert all(np.array_equal(sound[f"data/train-00000-of-00001/{i:06d}"], noise(i)) for i in range(6))
    assert content(tmp_path) == before


def test_parquet_of_bytes_or_of_paths_and_other_names(tmp_path: Path) -> None:
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", noise(i), SAMPLE_RATE)
    sounds: dict[str, list[Any]] = {
        "bytes": [wav(noise(i)) for i in range(6)],
        "paths": [f"{i}.wav" for i in range(6)],
        "struct": [{"bytes": None, "path": f"{i}.wav"} for i in range(6)],
    }
    for name, sound in sounds.items():
        file = parquet(tmp_path / f"{name}.parquet", named=False, audio=[{"bytes": b""}] * 6, clip=sound)
        corpus = read("parquet", file, path="clip")
        assert corpus.emotions == ("0", "1")
        assert [np.array_equal(u.pcm(), noise(i)) for i, u in enumerate(corpus.utterances)] == [True] * 6


def test_damaged_parquet_says_where(tmp_path: Path) -> None:
    file = parquet(
        tmp_path / "a.parquet", speaker_id=["x", None, "y", "y", "x", "x"], emotion=[0, 1, -1, 0, 1, 0]
    )
    assert problem("parquet", file).splitlines() == [
        f"{file}: row 1: speaker must not be empty",
        f"{file}: row 2: emotion must not be empty",
    ]
    parquet(file, named=False, audio=[[0.1]] * 6)
    assert problem("parquet", file).startswith(f"{file}: column audio holds list<")
    parquet(file, audio=[{"bytes": None, "path": "gone.wav"}] * 6)
    with pytest.raises(BadAudio, match=r"a\.parquet/row 0: names .*gone\.wav, which is no file"):
        read("parquet", file).utterances[0].pcm()
    file.write_bytes(file.read_bytes()[:500])
    line = problem("parquet", file)
    assert line.startswith(f"{file}: is no parquet file that can be read (") and "\n" not in line
    (tmp_path / "empty").mkdir()
    assert problem("parquet", tmp_path / "empty") == f"{tmp_path}/empty: no parquet file in it (.parquet)"


@pytest.mark.parametrize(("name", "library"), [("parquet", "pyarrow"), ("audformat", "audformat")])
def test_without_the_extra_the_command_that_brings_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    (tmp_path / "db.yaml").touch()
    monkeypatch.setitem(sys.modules, library, None)
    install = f'pip install -e ".[{name}]"   (or: pip install {library})'
    assert problem(name, tmp_path) == f"corpus.name = '{name}' needs {library}; run: {install}"


# ---- audformat -------------------------------------------------------------------------------------------


def database(root: Path, segmented: bool = False) -> Path:
    """One table of emotions, one of speakers with their genders below the scheme's labels."""
    audformat = pytest.importorskip("audformat")
    db = audformat.Database("made")
    db.schemes["emotion"] = audformat.Scheme("str", labels=["sad", "happy", "angry"])
    db.schemes["speaker"] = audformat.Scheme("int", labels={3: {"gender": "male"}, 8: {"gender": "female"}})
    paths = [f"wav/{i}.wav" for i in range(4)]
    for i, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / path, noise(i, seconds=1.0), SAMPLE_RATE)
    index = audformat.filewise_index(paths)
    if segmented:
        index = audformat.segmented_index([paths[0], *paths[:3]], [0, 0.25, 0, 0.5], [0.25, 0.75, 1, None])
    db["emotion"] = audformat.Table(index)
    db["emotion"]["emotion"] = audformat.Column(scheme_id="emotion")
    db["emotion"]["emotion"].set(["sad", "angry", "angry", "sad" if segmented else None])
    db["files"] = audformat.Table(index)
    db["files"]["speaker"] = audformat.Column(scheme_id="speaker")
    db["files"]["speaker"].set([3, 3, 8, 8])
    db.save(root)
    return root


def test_an_audformat_database(tmp_path: Path) -> None:
    root = database(tmp_path / "db")
    (root / "db.emotion.pkl").write_bytes(b"never opened")
    before = content(root)
    corpus = read("audformat", root)
    assert [(u.id, u.speaker, u.emotion, u.gender) for u in corpus.utterances] == [
        ("wav/0", "3", "sad", "male"),
        ("wav/1", "3", "angry", "male"),
        ("wav/2", "8", "angry", "female"),
    ]
    assert corpus.emotions == ("sad", "angry")  # in the order of the scheme
    assert corpus.warnings == ("left out, without an emotion or speaker (1): wav/3.wav",)
    assert content(root) == before


def test_segments_are_cut_out_of_their_recordings(tmp_path: Path) -> None:
    corpus = read("audformat", database(tmp_path / "db", segmented=True))
    found = {u.id: u.pcm() for u in corpus.utterances}
    expected = {
        "wav/0/00000000-00000250": noise(0, 1.0)[:4000],
        "wav/0/00000250-00000750": noise(0, 1.0)[4000:12000],
        "wav/1/00000000-00001000": noise(1, 1.0),
        "wav/2/00000500-end": noise(2, 1.0)[8000:],
    }
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)


def test_a_database_without_the_schemes_says_which(tmp_path: Path) -> None:
    root = database(tmp_path / "db")
    assert "has no labels of the scheme mood (other names" in problem("audformat", root, emotion="mood")
    assert "has no labels of the scheme who (" in problem("audformat", root, speaker="who")
    (root / "wav/1.wav").unlink()
    assert problem("audformat", root) == f"{root}/db.yaml: wav/1.wav: no such file: {root}/wav/1.wav"
    (root / "db.yaml").write_text("[")
    line = problem("audformat", root)
    assert line.startswith(f"{root}/db.yaml: cannot be read (") and "\n" not in line
    assert "expected a db.yaml" in problem("audformat", tmp_path)
