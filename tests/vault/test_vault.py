"""A device's store: bit for bit in and out, and nothing left of what was purged, whatever went wrong."""

import errno
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tiny import EMOTIONS, recordings_of, tiny_partition, tone

import fedunlearn.vault.arrays
import fedunlearn.vault.index
from fedunlearn.audio import PCM
from fedunlearn.config.model import ModelSettings
from fedunlearn.links import wipe
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.seeding import rng_for
from fedunlearn.vault.arrays import DamagedVault
from fedunlearn.vault.index import VaultEntry
from fedunlearn.vault.traces import Fingerprints, find_traces
from fedunlearn.vault.vault import Vault, is_untouched

RECORDINGS = recordings_of(tiny_partition(), 0)
SPEECH = {entry.id: pcm for entry, pcm in RECORDINGS}


@pytest.fixture(scope="module")
def model() -> EmotionModel:
    return build_model(ModelSettings(hidden=4), len(EMOTIONS), rng_for(1, "model"))


@cache
def features_of(model: EmotionModel, utterance: str) -> torch.Tensor:
    return model.features_of(SPEECH[utterance])


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault.build(tmp_path / "vault", RECORDINGS, len(EMOTIONS))


def vault_of(folder: Path, *recordings: PCM) -> Vault:
    """Utterances u0, u1, ... of these recordings, all for training."""
    entries = [(VaultEntry(f"u{i}", "calm", 1, "train", len(pcm)), pcm) for i, pcm in enumerate(recordings)]
    return Vault.build(folder, entries, len(EMOTIONS))


def pieces(values: npt.NDArray[np.generic], size: int) -> list[bytes]:
    """All stretches of ``size`` values that are not constant; any remnant twice as long holds one."""
    stretches = [values[i : i + size] for i in range(0, len(values) - size + 1, size)]
    return [s.tobytes() for s in stretches if len(np.unique(s)) > 1]


def remnants(folder: Path, gone: Iterable[str], model: EmotionModel) -> list[str]:
    """Files in which any piece of the deleted audio or its features is still to be found."""
    betraying = [p for i in gone for p in pieces(SPEECH[i], 32)]
    betraying += [p for i in gone for p in pieces(features_of(model, i).numpy().ravel(), 16)]
    shared = b"".join(features_of(model, i).numpy().tobytes() for i in SPEECH if i not in gone)
    betraying = [p for p in betraying if p not in shared]
    assert len(betraying) > 50
    contents = {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return [name for name, content in contents.items() if any(p in content for p in betraying)]


def holds_any(vault: Vault, windows: Fingerprints) -> bool:
    return bool(find_traces([vault.folder], windows).found)


def assert_holds(vault: Vault, ids: Iterable[str]) -> None:
    """Exactly these utterances, bit for bit, in the order they came in."""
    assert list(vault.entries) == [i for i in SPEECH if i in set(ids)]
    for i in vault.entries:
        assert np.array_equal(vault.read_audio(i), SPEECH[i])


# ---- what goes in comes out ------------------------------------------------------------------------------


def test_audio_comes_back_bit_for_bit(vault: Vault) -> None:
    assert_holds(vault, SPEECH)
    assert_holds(Vault(vault.folder), SPEECH)
    assert vault.classes == len(EMOTIONS)
    assert all(vault.read_audio(i).dtype == np.int16 for i in SPEECH)


def test_all_values_of_16_bits_survive(tmp_path: Path) -> None:
    every = np.arange(-32768, 32768).astype(np.int16)
    assert np.array_equal(vault_of(tmp_path / "v", every, every[::-1].copy()).read_audio("u1"), every[::-1])


def test_splits_and_their_order_are_kept(vault: Vault) -> None:
    share = tiny_partition().clients[0]
    assert vault.ids("train") == tuple(u.id for u in share.train)
    assert vault.ids("test") == tuple(u.id for u in share.test)


def test_audio_and_features_are_memory_mapped(vault: Vault, model: EmotionModel) -> None:
    vault.derive(model)
    vault.examples(vault.ids("train"), model)
    assert isinstance(vault._audio.array, np.memmap)
    assert isinstance(vault._features[model.feature_name].array.base, np.memmap)


def test_a_reader_cannot_change_the_vault(vault: Vault, model: EmotionModel) -> None:
    vault.derive(model)
    first = next(iter(SPEECH))
    vault.read_audio(first)[:] = 0
    vault.read_features(first, model)[:] = 0
    assert np.array_equal(vault.read_audio(first), SPEECH[first])
    assert torch.equal(vault.read_features(first, model), features_of(model, first))


@pytest.mark.parametrize("name", ["functionals", "cnn"])
def test_stored_features_are_the_models_own(vault: Vault, name: str) -> None:
    model = build_model(ModelSettings(name=name), len(EMOTIONS), rng_for(1, "model"))
    fresh = {i: vault.read_features(i, model) for i in SPEECH}
    vault.derive(model)
    for opened in (vault, Vault(vault.folder)):
        for i, pcm in SPEECH.items():
            assert torch.equal(opened.read_features(i, model), model.features_of(pcm))
            assert torch.equal(fresh[i], model.features_of(pcm))


def test_features_are_derived_once(
    vault: Vault, model: EmotionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.derive(model)
    monkeypatch.setattr(model, "features_of", lambda pcm: pytest.fail("derived again"))
    for opened in (vault, Vault(vault.folder)):
        opened.derive(model)
        assert len(opened.examples(opened.ids("train"), model)) == 6


def test_a_vault_is_untouched_until_something_is_added_or_purged(vault: Vault, model: EmotionModel) -> None:
    entries = [entry for entry, _ in RECORDINGS]
    assert is_untouched(vault, entries, len(EMOTIONS))
    assert not is_untouched(vault, entries[1:], len(EMOTIONS))
    assert not is_untouched(vault, entries, len(EMOTIONS) + 1)
    vault.derive(model)
    assert is_untouched(Vault(vault.folder), entries, len(EMOTIONS))
    for name in ("requests.json", "log.txt"):
        (vault.folder / name).touch()
        assert not is_untouched(vault, entries, len(EMOTIONS))
        (vault.folder / name).unlink()
    vault.purge([entries[0].id])
    assert not is_untouched(vault, entries[1:], len(EMOTIONS))


@pytest.mark.parametrize("name", ["functionals", "cnn"])
def test_features_that_are_known_are_kept_and_purged_with_their_utterances(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(ModelSettings(name=name), len(EMOTIONS), rng_for(1, "model"))
    fresh = {i: model.features_of(pcm) for i, pcm in SPEECH.items()}
    vault = Vault.build(tmp_path / "v", RECORDINGS, len(EMOTIONS), {model.feature_name: fresh})
    windows = vault.fingerprints([RECORDINGS[0][0].id], model)
    assert holds_any(vault, windows)
    monkeypatch.setattr(model, "features_of", lambda pcm: pytest.fail("derived again"))
    vault.purge([RECORDINGS[0][0].id, RECORDINGS[5][0].id])
    vault.derive(model)
    assert not holds_any(vault, windows)
    for opened in (vault, Vault(vault.folder)):
        assert len(opened.entries) == len(SPEECH) - 2
        for i in opened.entries:
            assert torch.equal(opened.read_features(i, model), fresh[i])


def test_features_of_recordings_of_different_lengths_do_not_mix(tmp_path: Path) -> None:
    cnn = build_model(ModelSettings(name="cnn"), len(EMOTIONS), rng_for(1, "model"))
    recordings = [tone(0, 0, 0, seconds) for seconds in (0.5, 0.2, 0.35)]
    vault = vault_of(tmp_path / "v", *recordings)
    vault.derive(cnn)
    examples = vault.examples(("u2", "u0"), cnn)
    for row, recording in enumerate((recordings[2], recordings[0])):
        expected = cnn.features_of(recording)
        assert int(examples.frames[row]) == len(expected)
        assert torch.equal(examples.features[row, : len(expected)], expected)


def test_examples_come_in_the_requested_order_with_their_labels(vault: Vault, model: EmotionModel) -> None:
    chosen = list(reversed(SPEECH))[:4]
    examples = vault.examples(chosen, model)
    assert examples.labels.tolist() == [EMOTIONS.index(vault.entries[i].emotion) for i in chosen]
    for row, i in enumerate(chosen):
        assert torch.equal(examples.features[row], features_of(model, i))


class Reluctant(Vault):
    """Gives out these utterances and fails on any other."""

    allowed: frozenset[str] = frozenset()

    def read_audio(self, utterance: str) -> PCM:
        assert utterance in self.allowed, f"{utterance} was read"
        return super().read_audio(utterance)

    def read_features(self, utterance: str, model: EmotionModel) -> torch.Tensor:
        assert utterance in self.allowed, f"features of {utterance} were read"
        return super().read_features(utterance, model)


@pytest.mark.parametrize("derived", [False, True])
def test_a_forget_set_is_read_from_its_own_utterances_alone(
    vault: Vault, model: EmotionModel, derived: bool
) -> None:
    if derived:
        vault.derive(model)
    guarded = Reluctant(vault.folder)
    guarded.allowed = frozenset(list(SPEECH)[2:4])
    forget_set = guarded.forget_set(sorted(guarded.allowed), model)
    assert len(forget_set) == 2
    for row, i in enumerate(sorted(guarded.allowed)):
        samples = int(forget_set.samples[row])
        assert np.array_equal(forget_set.waveform[row, :samples].numpy() * 32768, SPEECH[i])
        assert torch.equal(forget_set.examples.features[row], features_of(model, i))
    with pytest.raises(AssertionError, match="was read"):
        guarded.forget_set(SPEECH, model)


@pytest.mark.parametrize("derived", [False, True])
def test_what_a_vault_does_not_hold_is_a_key_error(vault: Vault, model: EmotionModel, derived: bool) -> None:
    if derived:
        vault.derive(model)
    with pytest.raises(KeyError):
        vault.read_audio("nobody")
    with pytest.raises(KeyError):
        vault.read_features("nobody", model)


def test_recordings_that_do_not_fit_their_entries_are_refused(tmp_path: Path) -> None:
    pcm = np.zeros(8, np.int16)
    for recordings in (
        [(VaultEntry("a", "calm", 1, "train", 8), pcm), (VaultEntry("a", "sad", 2, "train", 8), pcm)],
        [(VaultEntry("a", "calm", 1, "train", 9), pcm)],
        [(VaultEntry("a", "calm", 1, "train", 8), pcm.astype(np.int32))],
    ):
        with pytest.raises(ValueError, match="vault: a "):
            Vault.build(tmp_path / "v", recordings, 3)
        assert not (tmp_path / "v").exists()


def test_a_vault_is_not_built_over_another(vault: Vault) -> None:
    with pytest.raises(FileExistsError):
        Vault.build(vault.folder, RECORDINGS, len(EMOTIONS))


def test_audio_that_was_cut_off_or_lost_is_noticed_on_opening(vault: Vault) -> None:
    audio = vault.folder / "audio-1.i16"
    os.truncate(audio, audio.stat().st_size - 2)
    with pytest.raises(DamagedVault, match=r"audio-1\.i16: holds \d+ bytes"):
        Vault(vault.folder)
    audio.unlink()
    with pytest.raises(DamagedVault, match=r"audio-1\.i16: is missing"):
        Vault(vault.folder)


# ---- purge -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("derived", [False, True])
@pytest.mark.parametrize("count", [1, 4, 8])
def test_nothing_of_what_was_purged_is_left(
    vault: Vault, model: EmotionModel, derived: bool, count: int
) -> None:
    if derived:
        vault.derive(model)
    gone = list(SPEECH)[1 : 1 + count]
    assert remnants(vault.folder, gone, model)
    assert vault.purge(gone) == count
    assert remnants(vault.folder, gone, model) == []
    kept = [i for i in SPEECH if i not in gone]
    assert_holds(vault, kept)
    vault.derive(model)
    assert remnants(vault.folder, gone, model) == []
    assert_holds(Vault(vault.folder), kept)
    for i in kept:
        assert torch.equal(vault.read_features(i, model), features_of(model, i))
    for i in gone:
        with pytest.raises(KeyError):
            vault.read_audio(i)
        with pytest.raises(KeyError):
            vault.read_features(i, model)


def test_old_files_are_overwritten_before_they_are_unlinked(vault: Vault, model: EmotionModel) -> None:
    """A second hard link to the same blocks shows what a disk would show: zeros."""
    vault.derive(model)
    links = {}
    for name in ("audio-1.i16", "functionals-1.f32"):
        links[name] = vault.folder.parent / f"link-{name}"
        os.link(vault.folder / name, links[name])
    sizes = {name: link.stat().st_size for name, link in links.items()}
    vault.purge(list(SPEECH)[:1])
    for name, link in links.items():
        assert link.read_bytes() == bytes(sizes[name])


def test_purging_again_or_what_is_not_there_changes_nothing(vault: Vault) -> None:
    gone = list(SPEECH)[:2]
    assert vault.purge(gone) == 2
    before = {f.name: f.read_bytes() for f in vault.folder.iterdir()}
    assert vault.purge(gone) == 0
    assert vault.purge(["nobody"]) == 0
    assert vault.purge([]) == 0
    assert {f.name: f.read_bytes() for f in vault.folder.iterdir()} == before
    assert vault.purge([*gone, list(SPEECH)[2]]) == 1
    assert_holds(vault, list(SPEECH)[3:])


def test_every_purge_makes_a_generation_that_others_can_see(vault: Vault) -> None:
    other = Vault(vault.folder)
    assert other.is_current
    for generation, i in enumerate(list(SPEECH)[:3], start=2):
        vault.purge([i])
        assert vault.is_current and vault.generation == Vault(vault.folder).generation == generation
    assert other.generation == 1 and not other.is_current


def test_one_who_opened_the_vault_before_anothers_purge_purges_correctly(
    vault: Vault, model: EmotionModel
) -> None:
    other = Vault(vault.folder)
    other.derive(model)
    first, second, *kept = SPEECH
    vault.purge([first])
    assert other.purge([second]) == 1
    assert_holds(other, kept)
    assert remnants(vault.folder, [first, second], model) == []


def test_a_vault_can_be_emptied(vault: Vault, model: EmotionModel) -> None:
    vault.derive(model)
    assert vault.purge(SPEECH) == len(SPEECH)
    for empty in (vault, Vault(vault.folder)):
        assert empty.ids("train") == empty.ids("test") == ()
        empty.derive(model)
        assert len(empty.examples((), model)) == len(empty.forget_set((), model)) == 0
        assert empty.purge(SPEECH) == 0
        with pytest.raises(KeyError):
            empty.read_features(next(iter(SPEECH)), model)
    assert remnants(vault.folder, SPEECH, model) == []
    assert sum(f.stat().st_size for f in vault.folder.glob("*.i16")) == 0


# ---- purge, interrupted ----------------------------------------------------------------------------------


class PowerCutError(Exception):
    pass


def half_wiped(path: Path) -> None:
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.write(bytes(len(content) // 2))


def half_written(path: Path, content: bytes | str) -> None:
    data = content.encode() if isinstance(content, str) else content
    path.with_name(f".{path.name}.77.tmp").write_bytes(data[: len(data) // 2])


def cut_power(
    monkeypatch: pytest.MonkeyPatch, step: str, call: int, halfway: Callable[..., None] | None, after: bool
) -> None:
    """Make the ``call``-th use of a function fail: before it, halfway through it, or just after it."""
    real = getattr(fedunlearn.vault.arrays, step)
    calls = 0

    def failing(*args: object) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            if halfway:
                halfway(*args)
            elif after:
                real(*args)
            raise PowerCutError
        real(*args)

    monkeypatch.setattr(fedunlearn.vault.arrays, step, failing)
    if hasattr(fedunlearn.vault.index, step):
        monkeypatch.setattr(fedunlearn.vault.index, step, failing)


CUTS = [
    (step, call, moment)
    for step, calls in (("write_atomically", 4), ("wipe", 3))
    for call in range(1, calls + 1)
    for moment in ("before", "halfway", "after")
]


@pytest.mark.parametrize("retry", ["same process", "new process"])
@pytest.mark.parametrize(("step", "call", "moment"), CUTS)
def test_a_purge_that_was_interrupted_is_whole_or_undone_and_can_be_completed(
    vault: Vault,
    model: EmotionModel,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    call: int,
    moment: str,
    retry: str,
) -> None:
    """A purge writes audio, frames and features, then the index (the switch), then wipes three old files: 7
    steps, 3 moments.
    """
    vault.derive(model)
    gone, kept = list(SPEECH)[:3], list(SPEECH)[3:]
    with monkeypatch.context() as patch:
        halfway = {"write_atomically": half_written, "wipe": half_wiped}[step]
        cut_power(patch, step, call, halfway if moment == "halfway" else None, moment == "after")
        with pytest.raises(PowerCutError):
            vault.purge(gone)
    switched = step == "wipe" or (call == 4 and moment == "after")
    index = json.loads((vault.folder / "index.json").read_text())
    assert index["utterances"][0]["id"] == (kept[0] if switched else gone[0])
    opened = vault if retry == "same process" else Vault(vault.folder)
    if retry == "new process":
        assert_holds(opened, kept if switched else SPEECH)
        assert (remnants(vault.folder, gone, model) == []) == switched
    opened.purge(gone)
    assert_holds(opened, kept)
    assert_holds(Vault(vault.folder), kept)
    assert remnants(vault.folder, gone, model) == []
    stray = [f.name for f in vault.folder.iterdir() if "-1." in f.name or f.name.endswith(".tmp")]
    assert stray == []


def test_a_wipe_that_fails_is_an_error_and_not_forgotten(
    vault: Vault, model: EmotionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the old file cannot be wiped, no purge of this vault says that it is done."""
    gone = list(SPEECH)[:2]
    with monkeypatch.context() as patch:
        patch.setattr(
            fedunlearn.vault.arrays, "wipe", lambda path: (_ for _ in ()).throw(OSError("read-only"))
        )
        for _ in range(2):
            with pytest.raises(OSError, match="read-only"):
                vault.purge(gone)
    assert vault.purge(gone) == 0
    assert remnants(vault.folder, gone, model) == []


def test_stray_files_are_wiped_on_opening_and_others_left(vault: Vault) -> None:
    for name in ("audio-7.i16", "functionals-2.f32", "functionals-2.frames", ".audio-2.i16.55.tmp"):
        (vault.folder / name).write_bytes(b"speech")
    (vault.folder / "requests.json").write_text("[]")
    before = {"index.json", "audio-1.i16", "requests.json"}
    Vault(vault.folder)
    assert {f.name for f in vault.folder.iterdir()} == before


def test_what_another_process_is_writing_is_left_alone(vault: Vault) -> None:
    """A person files a request, through another process, at the moment when the device opens its vault."""
    parent = os.getppid()
    living, dead = f".requests.json.{parent}.tmp", ".requests.json.4194305.tmp"  # beyond any process id
    arrays = f".audio-2.i16.{parent}.tmp"  # nobody writes these without holding the vault
    for name in (living, dead, arrays):
        (vault.folder / name).write_text("[]")
    Vault(vault.folder)
    assert {f.name for f in vault.folder.iterdir()} == {"index.json", "audio-1.i16", living}


def test_opening_waits_for_a_purge_that_is_under_way(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the new arrays and the new index, another process must not take the new arrays for strays."""
    order: list[str] = []
    real = fedunlearn.vault.arrays.write_atomically
    started = threading.Event()

    def slowly(path: Path, content: bytes | str) -> None:
        started.set()
        time.sleep(0.05)
        real(path, content)
        order.append(path.name)

    for room in (fedunlearn.vault.arrays, fedunlearn.vault.index):
        monkeypatch.setattr(room, "write_atomically", slowly)
    purging = threading.Thread(target=vault.purge, args=[list(SPEECH)[:2]])
    purging.start()
    started.wait()
    opened = Vault(vault.folder)
    order.append("opened")
    purging.join()
    assert order == ["audio-2.i16", "index.json", "opened"]
    assert_holds(opened, list(SPEECH)[2:])


def test_features_are_not_derived_of_what_another_process_has_purged(
    vault: Vault, model: EmotionModel
) -> None:
    gone = list(SPEECH)[:2]
    windows = vault.fingerprints(gone, model)
    late = Vault(vault.folder)
    vault.purge(gone)
    late.derive(model)
    assert not holds_any(vault, windows)
    assert_holds(late, list(SPEECH)[2:])


def test_a_full_disk_leaves_the_old_generation_and_nothing_else(
    vault: Vault, model: EmotionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.derive(model)
    before = {f.name: f.read_bytes() for f in vault.folder.iterdir()}
    real = os.fsync
    for call in range(1, 5):  # audio, frames, features, index: each is flushed before it is renamed
        calls = iter(range(1, 100))

        def full(handle: int, calls: Iterator[int] = calls, call: int = call) -> None:
            if stat.S_ISREG(os.fstat(handle).st_mode) and next(calls) == call:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space"):
                vault.purge(list(SPEECH)[:2])
        assert not list(vault.folder.glob(".*"))
        assert_holds(Vault(vault.folder), SPEECH)
        assert {f.name: f.read_bytes() for f in vault.folder.iterdir()} == before
    assert vault.purge(list(SPEECH)[:2]) == 2


def test_speech_that_is_recorded_later_is_not_there_yet(tmp_path: Path) -> None:
    entries = [
        VaultEntry(f"u{i}", "calm", 1, "train", 64, "anna", recorded) for i, recorded in enumerate([0, 4, 2])
    ]
    pcm = np.arange(64).astype(np.int16)
    vault = Vault.build(tmp_path / "v", [(e, pcm) for e in entries], 3)
    for opened in (vault, Vault(vault.folder)):
        assert tuple(opened.entries.values()) == tuple(entries)
        assert opened.ids("train") == ("u0", "u1", "u2")
        assert [opened.ids("train", by) for by in (0, 1, 2, 3, 4)] == [
            ("u0",),
            ("u0",),
            ("u0", "u2"),
            ("u0", "u2"),
            ("u0", "u1", "u2"),
        ]


def test_wiping_overwrites_every_byte(tmp_path: Path) -> None:
    for size in (0, 1, (1 << 20) + 3):
        file, link = tmp_path / "secret", tmp_path / f"link-{size}"
        file.write_bytes(b"\xff" * size)
        os.link(file, link)
        wipe(file)
        assert not file.exists() and link.read_bytes() == bytes(size)


# ---- verification ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("derived", [False, True])
def test_fingerprints_are_found_before_a_purge_and_not_after(
    vault: Vault, model: EmotionModel, derived: bool
) -> None:
    if derived:
        vault.derive(model)
    gone = list(SPEECH)[:3]
    windows = vault.fingerprints(gone, model)
    assert len(windows) > 3 * (len(SPEECH[gone[0]]) // 32)  # all of it, and once more as float32
    assert holds_any(vault, windows)
    vault.purge(gone)
    assert not holds_any(vault, windows)


def test_a_copy_that_was_left_anywhere_in_the_vault_is_found(vault: Vault, model: EmotionModel) -> None:
    first = next(iter(SPEECH))
    windows = vault.fingerprints([first], model)
    vault.purge([first])
    deep = vault.folder / "cache" / "deep"
    deep.mkdir(parents=True)
    for copied in (SPEECH[first].tobytes(), features_of(model, first).numpy().tobytes()):
        (deep / "adversarial.bin").write_bytes(b"odd" + copied)
        assert holds_any(vault, windows)
    (deep / "adversarial.bin").unlink()
    assert not holds_any(vault, windows)


def test_a_kept_twin_of_what_was_purged_does_not_fail_verification(
    tmp_path: Path, model: EmotionModel
) -> None:
    twin, other = tone(0, 0, 0), tone(1, 1, 1)
    vault = vault_of(tmp_path / "v", twin, other, twin)
    vault.derive(model)
    windows = vault.fingerprints(["u0"], model)
    assert vault.purge(["u0"]) == 1
    assert not holds_any(vault, windows)
    assert np.array_equal(vault.read_audio("u2"), twin)
    assert vault.fingerprints(["u2"], model)


def test_silence_can_be_kept_purged_and_verified(tmp_path: Path, model: EmotionModel) -> None:
    silence = np.zeros(4000, np.int16)
    vault = vault_of(tmp_path / "v", silence, tone(1, 1, 1), silence)
    vault.derive(model)
    windows = vault.fingerprints(["u0"], model)
    assert vault.purge(["u0"]) == 1
    assert not holds_any(vault, windows)
    assert np.array_equal(vault.read_audio("u2"), silence)


def test_a_recording_that_is_clipped_at_its_loudest_still_leaves_a_fingerprint(
    tmp_path: Path, model: EmotionModel
) -> None:
    clipped = tone(0, 0, 0)
    clipped[1000:3000] = 32767
    vault = vault_of(tmp_path / "v", clipped, tone(1, 1, 1))
    windows = vault.fingerprints(["u0"], model)
    # Of the 125 pieces of 32 samples, 31 lie before 1000 and 31 after 3000; two more hold 8 samples of it.
    fingerprints = Fingerprints.of([clipped])
    assert len(fingerprints) == 64 and len(fingerprints.without(windows)) == 0


@pytest.mark.parametrize("samples", [1, 40, 64, 65])
def test_the_shortest_recordings_are_stored_and_purged(
    tmp_path: Path, model: EmotionModel, samples: int
) -> None:
    short = tone(0, 0, 0)[:samples]
    vault = vault_of(tmp_path / "v", short, tone(1, 1, 1))
    vault.derive(model)
    assert np.array_equal(vault.read_audio("u0"), short)
    windows = vault.fingerprints(["u0"], model)
    vault.purge(["u0"])
    assert not holds_any(vault, windows)
