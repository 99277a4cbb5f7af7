"""Looking for deleted speech: any remnant of any recording, anywhere in any file; and no false alarm."""

import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny import tiny_partition, tone
from tiny_model import tiny

import fedunlearn.vault.traces
from fedunlearn.audio import PCM, to_float
from fedunlearn.corpora.utterance import Utterance
from fedunlearn.partition import ClientShare, Partition
from fedunlearn.seeding import rng_for
from fedunlearn.vault.traces import PIECE, Fingerprints, find_traces, scan_run

MODEL = tiny()
VOICE = tone(0, 0, 0)
VOICE = VOICE[: len(VOICE) // 5 * 5]  # whole frames of the tiny model


def fingerprints_of(*recordings: PCM) -> Fingerprints:
    return Fingerprints.of_recordings((pcm, MODEL.features_of(pcm)) for pcm in recordings)


def found(folder: Path, fingerprints: Fingerprints) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in find_traces([folder], fingerprints).found)


def noise(size: int, *stream: int) -> bytes:
    return rng_for(5, "noise", *stream).integers(0, 256, size, np.uint8).tobytes()


# ---- what is found ---------------------------------------------------------------------------------------


def test_any_64_samples_of_a_recording_are_found_at_any_byte(tmp_path: Path) -> None:
    """Each stretch of 64 samples (4 ms), wherever it was cut out, at an even or odd place of a file."""
    fingerprints = fingerprints_of(VOICE)
    file = tmp_path / "remnant"
    for start in chain(range(0, 70), range(70, len(VOICE) - 64, 61), [len(VOICE) - 64]):
        file.write_bytes(noise(start % 17, start) + VOICE[start : start + 64].tobytes() + noise(7, start))
        assert found(tmp_path, fingerprints) == ["remnant"], start
        # As float32, half as many samples are as many bytes.
        file.write_bytes(noise(start % 17, start) + to_float(VOICE[start : start + 32]).tobytes())
        assert found(tmp_path, fingerprints) == ["remnant"], start


def test_any_32_values_of_the_features_are_found(tmp_path: Path) -> None:
    values = MODEL.features_of(VOICE).numpy().ravel()
    fingerprints = fingerprints_of(VOICE)
    for start in range(0, 200):
        (tmp_path / "x").write_bytes(b"." * start + values[start : start + 32].tobytes())
        assert found(tmp_path, fingerprints) == ["x"]


def test_less_than_a_piece_is_no_trace_and_63_samples_always_hold_one(tmp_path: Path) -> None:
    fingerprints = fingerprints_of(VOICE)
    for start in range(32, 64):
        (tmp_path / "x").write_bytes(VOICE[start : start + 63].tobytes())
        assert found(tmp_path, fingerprints) == ["x"]
    (tmp_path / "x").write_bytes(VOICE[:31].tobytes())
    assert found(tmp_path, fingerprints) == []
    (tmp_path / "x").write_bytes(VOICE[1:63].tobytes())  # 62: the last of one piece and most of another
    assert found(tmp_path, fingerprints) == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(0, 3000),
    place=st.integers(0, 2999),
    piece=st.integers(0, 20),
    read=st.sampled_from([64, 65, 100, 127, 128, 1000]),
    block=st.sampled_from([1, 63, 64, 65, 333]),
    spoil=st.integers(-1, PIECE - 1),
)
@example(size=0, place=0, piece=0, read=64, block=1, spoil=-1)
@example(size=2000, place=1, piece=3, read=64, block=333, spoil=-1)
@example(size=2000, place=63, piece=3, read=64, block=333, spoil=-1)
@example(size=2936, place=2936, piece=20, read=64, block=64, spoil=-1)
def test_it_finds_what_a_plain_search_finds(
    tmp_path: Path, size: int, place: int, piece: int, read: int, block: int, spoil: int
) -> None:
    """Against ``bytes in bytes``: across the ends of blocks, and with one byte of the piece changed."""
    planted = bytearray(VOICE.tobytes()[piece * PIECE :][:PIECE])
    if spoil >= 0:
        planted[spoil] ^= 0x80
    content = bytearray(noise(size, size))
    content[min(place, size) : min(place, size)] = planted
    (tmp_path / "file").write_bytes(content)
    pieces = [VOICE.tobytes()[i : i + PIECE] for i in range(0, VOICE.nbytes, PIECE)]
    expected = [p for p in pieces if p in content]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fedunlearn.vault.traces, "_READ", read)
        patch.setattr(fedunlearn.vault.traces, "_BLOCK", block)
        findings = find_traces([tmp_path / "file"], Fingerprints.of([VOICE]))
    assert findings.bytes == len(content) and findings.files == 1
    hits = next(iter(findings.found.values()), Fingerprints.of([]))
    assert len(hits) == len(expected) == (spoil < 0)


def test_hashes_of_pieces_that_hardly_differ_are_different() -> None:
    """One bit, one word, two words that change by the same amount, words in another order."""
    pieces = [bytes(64)]
    pieces += [(1 << bit).to_bytes(64, "little") for bit in range(512)]
    words = np.arange(8, dtype="<u8")
    for high in (0, 8, 32, 56):
        for one in range(8):
            for other in range(8):
                changed = words.copy()
                changed[one : one + 1] += np.uint64(1 << high)
                changed[other : other + 1] -= np.uint64(1 << high)
                pieces.append(changed.tobytes())
                changed[[one, other]] = changed[[other, one]]
                pieces.append(changed.tobytes())
    distinct = sorted(set(pieces))
    hashes = fedunlearn.vault.traces._hashes(b"".join(distinct))[::PIECE]
    assert len(distinct) > 800 and len(set(hashes.tolist())) == len(distinct)


# ---- what is no trace ------------------------------------------------------------------------------------


def test_silence_and_clipping_are_no_fingerprints() -> None:
    flat = np.zeros(640, np.int16)
    clipped = np.full(640, 32767, np.int16)
    dither = np.tile(np.array([-1, 0, 1, 0], np.int16), 160)
    assert len(Fingerprints.of([flat, clipped, dither, np.zeros(320, np.float32)])) == 0
    assert len(Fingerprints.of([np.arange(640).astype(np.int16)])) == 20


@pytest.mark.parametrize("samples", [0, 1, 31])
def test_a_recording_shorter_than_a_piece_leaves_none(samples: int) -> None:
    assert len(Fingerprints.of([VOICE[:samples]])) == 0


def test_what_kept_speech_shares_proves_nothing(tmp_path: Path) -> None:
    """A copy of half of it, at an odd sample, inside a kept recording."""
    kept = np.concatenate([tone(1, 1, 1)[:777], VOICE[:2000], tone(1, 1, 1)[777:780]])
    kept = kept[: len(kept) // 5 * 5]
    all_of_it = Fingerprints.of([VOICE])
    rest = all_of_it.without(all_of_it.shared_by([(kept, MODEL.features_of(kept))]))
    assert len(all_of_it) == len(VOICE) // 32
    assert len(rest) == len(all_of_it) - 2000 // 32
    (tmp_path / "kept").write_bytes(kept.tobytes())
    assert found(tmp_path, rest) == []
    (tmp_path / "left").write_bytes(VOICE[2000:2100].tobytes())
    assert found(tmp_path, rest) == ["left"]


def test_fingerprints_hold_no_speech_and_survive_their_file(tmp_path: Path) -> None:
    fingerprints = fingerprints_of(VOICE)
    again = Fingerprints.from_bytes(fingerprints.to_bytes())
    assert np.array_equal(again.hashes, fingerprints.hashes)
    (tmp_path / "evidence").write_bytes(fingerprints.to_bytes())
    assert found(tmp_path, fingerprints) == []


# ---- files -----------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """Remnants in many places; beside them what cannot or must not be read."""
    folder = tmp_path / "tree"
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "empty").touch()
    (folder / "short").write_bytes(b"x" * 63)
    (folder / ".hidden.tmp").write_bytes(VOICE.tobytes())
    (folder / "deep" / "deeper" / "remnant").write_bytes(b"x" + VOICE[5:69].tobytes())
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "speech").write_bytes(VOICE.tobytes())
    (folder / "link").symlink_to(outside)
    (folder / "deep" / "link").symlink_to(outside / "speech")
    (folder / "nowhere").symlink_to(folder / "missing")
    os.mkfifo(folder / "pipe")
    with closing(socket.socket(socket.AF_UNIX)) as plug:
        before = Path.cwd()
        os.chdir(folder)  # a socket's path must be short
        try:
            plug.bind("socket")
        finally:
            os.chdir(before)
        yield folder


def test_every_plain_file_is_read_once_whichever_links_lead_to_it(tree: Path) -> None:
    findings = find_traces([tree, tree.parent / "not there"], fingerprints_of(VOICE))
    here = [".hidden.tmp", "deep/deeper/remnant", "link/speech"]
    assert sorted(str(p.relative_to(tree)) for p in findings.found) in (here, [*here[:2], "deep/link"])
    assert (findings.files, findings.bytes) == (5, 63 + 2 * VOICE.nbytes + 1 + 128)
    assert findings.unsearched == {tree / "nowhere": "is a link that leads nowhere"}
    assert find_traces([tree / "link"], fingerprints_of(VOICE)).found.keys() == {tree / "link" / "speech"}
    assert find_traces([tree / ".hidden.tmp"], fingerprints_of(VOICE)).files == 1


def test_files_may_vanish_while_they_are_looked_at(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lstat = Path.lstat

    def vanishing(path: Path) -> os.stat_result:
        seen = lstat(path)
        (tree / "short").unlink(missing_ok=True)
        return seen

    monkeypatch.setattr(Path, "lstat", vanishing)
    assert find_traces([tree], fingerprints_of(VOICE)).files == 4


@pytest.mark.parametrize("what", ["file", "folder", "linked folder"])
def test_what_cannot_be_read_is_reported_and_the_rest_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder = tmp_path / "places"
    (folder / "secret").mkdir(parents=True)
    (folder / "secret" / "speech").write_bytes(VOICE.tobytes())
    (folder / "open").write_bytes(VOICE.tobytes())
    refused = folder / "secret" / ("speech" if what == "file" else "")
    place = folder
    if what == "linked folder":
        (folder / "secret").rename(tmp_path / "elsewhere")
        (folder / "secret").symlink_to(tmp_path / "elsewhere")
    opened, scandir = os.open, os.scandir

    def refuse(path: object, *rest: object) -> int:
        if path == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *rest)  # type: ignore[call-overload, no-any-return]

    def refuse_folder(path: object) -> object:
        if path == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "scandir", refuse_folder)
    findings = find_traces([place], fingerprints_of(VOICE))
    assert findings.unsearched == {refused: "cannot be read (Permission denied)"}
    assert findings.found.keys() == {folder / "open"}


def test_links_end_and_lead_neither_upwards_nor_into_what_is_spared(tmp_path: Path) -> None:
    """Loops, a folder around the place, the user's corpus (linked and plain), and one file by two ways."""
    run, corpus = tmp_path / "run", tmp_path / "corpus"
    for folder in (run / "deep", corpus / "speaker", run / "mine", tmp_path / "beside"):
        folder.mkdir(parents=True)
    for folder in (run / "deep", corpus / "speaker", run / "mine", tmp_path / "beside"):
        (folder / "speech").write_bytes(VOICE.tobytes())
    (run / "deep" / "loop").symlink_to(run)
    (run / "deep" / "itself").symlink_to(run / "deep" / "itself")
    (run / "up").symlink_to(tmp_path)
    (run / "corpus").symlink_to(corpus)
    (run / "recording").symlink_to(corpus / "speaker" / "speech")
    (run / "again").symlink_to(run / "deep" / "speech")
    (run / "beside").symlink_to(tmp_path / "beside")
    (run / "second").symlink_to(tmp_path / "beside")
    findings = find_traces([run], fingerprints_of(VOICE), spared=[corpus, run / "mine"])
    assert findings.found.keys() == {run / "deep" / "speech", run / "beside" / "speech"}
    assert findings.unsearched.keys() == {run / "up", run / "deep" / "itself"}
    assert set(findings.spared) == {run / "corpus", run / "recording", run / "mine"}
    assert findings.files == 2


def test_a_database_behind_a_link_is_read_and_not_written(tmp_path: Path) -> None:
    """Somebody's database in WAL mode: opened by SQLite, it would be changed."""
    (tmp_path / "theirs").mkdir()
    path = tmp_path / "theirs" / "own.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as theirs:
        theirs.execute("PRAGMA journal_mode=WAL")
        theirs.execute("CREATE TABLE t (x BLOB)")
        theirs.execute("INSERT INTO t VALUES (?)", (VOICE[100:200].tobytes(),))
        copy = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    for name, content in copy.items():
        (path.parent / name).write_bytes(content)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(path.parent)
    assert find_traces([tmp_path / "run"], fingerprints_of(VOICE)).found
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == copy


def test_a_database_is_searched_without_letting_go_of_its_locks(tmp_path: Path) -> None:
    """Also what its log holds; and while we are inside a transaction, nobody else gets in."""
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as ours:
        ours.execute("PRAGMA journal_mode=WAL")
        ours.execute("CREATE TABLE t (x BLOB)")
        assert found(tmp_path, fingerprints_of(VOICE)) == []
        ours.execute("INSERT INTO t VALUES (?)", (VOICE[100:200].tobytes(),))
        assert (tmp_path / "ledger.sqlite-wal").stat().st_size > 0
        ours.execute("BEGIN IMMEDIATE")
        assert found(tmp_path, fingerprints_of(VOICE)) == ["ledger.sqlite"]
        # A lock belongs to a process: only another one can tell whether we still hold ours.
        child = os.fork()
        if not child:
            try:
                with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as theirs:
                    theirs.execute("BEGIN IMMEDIATE")
                os._exit(1)
            except sqlite3.OperationalError:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        ours.execute("ROLLBACK")


def test_what_only_calls_itself_a_database_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "odd.sqlite").write_bytes(b"?" + VOICE.tobytes())
    (tmp_path / "lone.sqlite-wal").write_bytes(b"?" + VOICE.tobytes())
    assert found(tmp_path, fingerprints_of(VOICE)) == ["lone.sqlite-wal", "odd.sqlite"]


# ---- the experimenter's scan -----------------------------------------------------------------------------


def test_the_run_is_scanned_with_what_the_experimenter_knows(tmp_path: Path) -> None:
    partition = _whole_frames(tiny_partition())
    gone, kept = partition.clients[0].train[:2], partition.clients[1].train[0]
    run, cache = tmp_path / "run", tmp_path / "cache"
    (run / "vaults" / "client-0001").mkdir(parents=True)
    cache.mkdir()
    (run / "vaults" / "client-0001" / "audio-1.i16").write_bytes(kept.pcm().tobytes())
    ids = [u.id for u in gone]
    clean = scan_run([run, cache, tmp_path / "none"], partition, ids, MODEL)
    assert clean == {
        "scanned_files": 1,
        "scanned_bytes": kept.pcm().nbytes,
        # int16 and float32 samples, and the features, which are float32 samples here
        "windows": len(fingerprints_of(*(u.pcm() for u in gone))),
        "found": [],
        "unsearched": [],
        "spared": [],
    }
    assert clean["windows"] >= 2 * 3 * len(gone[0].pcm()) // 32 - 8
    (cache / "x.safetensors").write_bytes(b"head" + MODEL.features_of(gone[1].pcm()).numpy().tobytes())
    (run / "vaults" / "client-0001" / "copy").write_bytes(gone[0].pcm()[200:264].tobytes())
    assert scan_run([run, cache], partition, ids, MODEL)["found"] == [
        "cache/x.safetensors",
        "run/vaults/client-0001/copy",
    ]


def test_a_copy_under_another_name_that_is_kept_is_no_trace(tmp_path: Path) -> None:
    share = _whole_frames(tiny_partition()).clients[0]
    first, second, *rest = share.train
    twin = Utterance("twin", second.speaker, second.emotion, first.pcm)
    partition = Partition((ClientShare(0, (first, second, twin, *rest), share.test),), ())
    (tmp_path / "vault").write_bytes(twin.pcm().tobytes())
    told_of = scan_run([tmp_path], partition, [first.id, second.id], MODEL)
    assert told_of["found"] == []
    (tmp_path / "left").write_bytes(second.pcm()[10:100].tobytes())
    told_of = scan_run([tmp_path], partition, [first.id, second.id], MODEL)
    assert told_of["found"] == [f"{tmp_path.name}/left"]


def _whole_frames(partition: Partition) -> Partition:
    """The partition itself: 4,000 samples are 800 frames of the tiny model."""
    assert all(len(u.pcm()) % MODEL.dims == 0 for u in partition.train)
    return partition


def test_a_search_that_searched_nothing_says_so(tmp_path: Path) -> None:
    partition = _whole_frames(tiny_partition())
    gone = [partition.clients[0].train[0].id]
    nothing = scan_run([tmp_path / "none"], partition, gone, MODEL)
    assert nothing["found"] == [] and nothing["unsearched"] == ["no file was there to be searched"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("{}")
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "unmounted")
    partly = scan_run([tmp_path / "run"], partition, gone, MODEL)
    assert partly["unsearched"] == ["run/checkpoints is a link that leads nowhere"]


# ---- speed -----------------------------------------------------------------------------------------------


def test_a_large_file_is_searched_for_many_pieces_in_little_time(tmp_path: Path) -> None:
    """32 MB for 30,000 pieces; a plain search would go through it 30,000 times."""
    file = tmp_path / "large"
    content = noise(1 << 20, 1) * 32
    file.write_bytes(content)
    speech = rng_for(6, "speech").integers(-9000, 9000, 30_000 * 32).astype(np.int16)
    fingerprints = Fingerprints.of([speech])
    assert len(fingerprints) == 30_000
    start = time.process_time()
    assert not find_traces([file], fingerprints).found
    many = time.process_time() - start
    start = time.process_time()
    assert all(speech[i * 32 : i * 32 + 32].tobytes() not in content for i in range(20))
    plain = (time.process_time() - start) * 30_000 / 20
    assert many < plain / 20
    with file.open("ab") as end:
        end.write(speech[-70:-6].tobytes())
    assert find_traces([file], fingerprints).found
