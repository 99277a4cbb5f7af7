"""Links: searches follow them; writing, wiping and removing leave alone what they lead to."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_run import prepared, resumed, run_small, small_config
from tiny import tiny_vault

from fedunlearn.deletion.inbox import FiledRequest, Inbox
from fedunlearn.engines.engine import play
from fedunlearn.errors import BadInput
from fedunlearn.experiment import final_search
from fedunlearn.files import write_atomically
from fedunlearn.links import discard, open_to_append, remove, wipe, wipe_abandoned
from fedunlearn.run_folder import RunFolder
from fedunlearn.vault.arrays import DamagedVault
from fedunlearn.vault.relocation import read_all_files, read_metadata_files
from fedunlearn.vault.vault import Vault

PRECIOUS = b"precious " * 100
ONE: dict[str, Any] = {
    "training__rounds": 1,
    "training__local__steps": 1,
    "deletions__schedule": [{"client": 2, "what": "some", "count": 4, "after_learning": 0}],
    "recovery__rounds": 0,
}
"""one round, one deletion"""
REQUEST = FiledRequest("ab" * 8, "all", "person-1")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file of somebody's, outside of any run."""
    file = tmp_path / "mine.txt"
    file.write_bytes(PRECIOUS)
    return file


# ---- one file --------------------------------------------------------------------------------------------


def append(path: Path) -> None:
    with open_to_append(path) as file:
        file.write("x")


WRITERS: dict[str, tuple[Callable[[Path], Any], bytes | None]] = {
    "wipe": (wipe, None),
    "discard": (discard, None),
    "remove": (remove, None),
    "write": (lambda path: write_atomically(path, "x"), b"x"),
    "append": (append, b"x"),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("to", ["file", "folder", "nowhere"])
def test_what_a_link_leads_to_stays_as_it_was(tmp_path: Path, mine: Path, name: str, to: str) -> None:
    writer, left = WRITERS[name]
    target = {"file": mine, "folder": tmp_path / "folder", "nowhere": tmp_path / "nowhere"}[to]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_bytes(PRECIOUS)
    link = tmp_path / "link"
    link.symlink_to(target)
    writer(link)
    assert mine.read_bytes() == (tmp_path / "folder" / "inside").read_bytes() == PRECIOUS
    assert not (tmp_path / "nowhere").exists() and not link.is_symlink()
    assert (link.read_bytes() if link.exists() else None) == left


def test_a_folder_is_removed_and_not_what_its_links_lead_to(tmp_path: Path, mine: Path) -> None:
    (tmp_path / "going" / "deep").mkdir(parents=True)
    (tmp_path / "going" / "deep" / "link").symlink_to(mine)
    remove(tmp_path / "going")
    assert not (tmp_path / "going").exists() and mine.read_bytes() == PRECIOUS


def test_a_temporary_name_that_is_a_link_is_not_written_through(tmp_path: Path, mine: Path) -> None:
    (tmp_path / f".f.{os.getpid()}.tmp").symlink_to(mine)
    write_atomically(tmp_path / "f", "new")
    assert mine.read_bytes() == PRECIOUS and (tmp_path / "f").read_text() == "new"


def test_appending_does_not_wait_for_the_other_end_of_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.txt")
    append(tmp_path / "log.txt")
    assert (tmp_path / "log.txt").read_text() == "x"


def test_what_lies_about_and_has_another_name_is_not_overwritten(tmp_path: Path, mine: Path) -> None:
    os.link(mine, tmp_path / "stray")
    discard(tmp_path / "stray")
    assert not (tmp_path / "stray").exists() and mine.read_bytes() == PRECIOUS


def test_temporary_files_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path, mine: Path) -> None:
    dead = os.fork()
    if not dead:
        os._exit(0)
    os.waitpid(dead, 0)
    going = [tmp_path / f".{name}.{dead}.tmp" for name in ("model", "folder", "link", "hard")]
    going[0].write_bytes(b"weights")
    going[1].mkdir()
    (going[1] / "model.safetensors").write_bytes(b"weights")
    going[2].symlink_to(mine)
    os.link(mine, going[3])
    staying = [tmp_path / f".model.{os.getppid()}.tmp", tmp_path / f"model.{dead}.tmp", tmp_path / ".model"]
    for path in staying:
        path.write_bytes(b"weights")
    wipe_abandoned(list(tmp_path.iterdir()))
    assert {*tmp_path.iterdir()} == {mine, *staying} and mine.read_bytes() == PRECIOUS


# ---- a vault ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [os.symlink, os.link], ids=["symbolic", "hard"])
@pytest.mark.parametrize(
    "name",
    ["audio-7.i16", "functionals-2.f32", "functionals-2.frames", ".audio-1.i16.1.tmp", ".x.99999999.tmp"],
)
def test_a_stray_link_in_a_vault_costs_nobody_a_file(
    tmp_path: Path, mine: Path, make: Callable[[Path, Path], None], name: str
) -> None:
    vault = tiny_vault(tmp_path / "vault")
    make(mine, vault.folder / name)
    Vault(vault.folder).purge([next(iter(vault.entries))])
    assert mine.read_bytes() == PRECIOUS
    assert not (vault.folder / name).is_symlink()


def test_a_vault_may_be_a_link(tmp_path: Path, mine: Path) -> None:
    """Its own files are wiped where they are; files beside them are not."""
    vault = tiny_vault(tmp_path / "disk" / "vault")
    before = (vault.folder / "audio-1.i16").read_bytes()
    os.link(vault.folder / "audio-1.i16", tmp_path / "same-blocks")
    (tmp_path / "link").symlink_to(vault.folder)
    (vault.folder / "beside").symlink_to(mine)
    gone = next(iter(vault.entries))
    assert Vault(tmp_path / "link").purge([gone]) == 1
    assert gone not in Vault(vault.folder).entries and mine.read_bytes() == PRECIOUS
    assert (tmp_path / "same-blocks").read_bytes() == bytes(len(before))


def test_audio_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """Unlinked, it would be hidden and not be gone."""
    vault = tiny_vault(tmp_path / "vault")
    audio = vault.folder / "audio-1.i16"
    audio.rename(tmp_path / "elsewhere")
    audio.symlink_to(tmp_path / "elsewhere")
    for attempt in (lambda: Vault(vault.folder), lambda: vault.purge(list(vault.entries)[:1])):
        with pytest.raises(DamagedVault, match=r"audio-1\.i16: is a link"):
            attempt()


def test_a_stray_array_with_another_name_is_left_for_the_search_until_it_has_none(tmp_path: Path) -> None:
    vault = tiny_vault(tmp_path / "vault")
    stray, other = vault.folder / "audio-7.i16", tmp_path / "other"
    other.write_bytes(b"speech" * 50)
    os.link(other, stray)
    Vault(vault.folder)
    assert stray.read_bytes() == b"speech" * 50
    other.unlink()
    Vault(vault.folder)
    assert not stray.exists()


def test_what_links_lead_to_does_not_travel_with_a_vault(tmp_path: Path, mine: Path) -> None:
    vault = tiny_vault(tmp_path / "vault")
    (vault.folder / "notes.txt").symlink_to(mine)
    (vault.folder / "audio-9.f32").symlink_to(mine)
    assert PRECIOUS not in {**read_metadata_files(vault.folder), **read_all_files(vault.folder)}.values()


def test_an_inbox_that_is_a_link_is_neither_read_nor_filed_into(tmp_path: Path) -> None:
    vault = tiny_vault(tmp_path / "vault")
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "own.json").write_text("{}")
    (vault.folder / "inbox").symlink_to(tmp_path / "documents")
    assert Inbox(vault.folder).waiting() == ()
    with pytest.raises(BadInput, match="inbox: is no folder of its own"):
        Inbox(vault.folder).file(REQUEST)
    assert [path.name for path in (tmp_path / "documents").iterdir()] == ["own.json"]


def test_what_is_no_file_in_an_inbox_is_not_waited_for(tmp_path: Path, mine: Path) -> None:
    vault = tiny_vault(tmp_path / "vault")
    inbox = Inbox(vault.folder)
    inbox.file(REQUEST)
    os.mkfifo(inbox.folder / "pipe.json")
    (inbox.folder / "folder.json").mkdir()
    (inbox.folder / "link.json").symlink_to(mine)
    assert [waiting.request for waiting in inbox.waiting()] == [REQUEST]


# ---- a run -----------------------------------------------------------------------------------------------


def test_recordings_left_behind_links_are_found_and_named_from_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left just before the search: run folder, cache, a vault and a folder of the layout are links."""
    places = {name: tmp_path / "disk" / name for name in ("run", "cache", "vault", "standing", "notes")}
    for folder in (places["run"], places["cache"], places["standing"], places["notes"]):
        folder.mkdir(parents=True)
    for name in ("run", "cache"):
        (tmp_path / name).symlink_to(places[name])
    experiment = prepared(tmp_path / "run", small_config(**ONE), tmp_path / "cache")
    run = experiment.run
    run.vault(2).rename(places["vault"])
    run.vault(2).symlink_to(places["vault"])
    run.standings.symlink_to(places["standing"])
    (run.path / "notes").symlink_to(places["notes"])
    search = final_search.search_run

    def leaving(prepared: Any, gone: Any, *rest: Any) -> None:
        deleted = next(u for request in gone.values() for u in request.utterances)
        pcm = next(u.pcm() for u in experiment.corpus.utterances if u.id == deleted)
        for place in places.values():
            (place / "left.bin").write_bytes(pcm.tobytes())
        search(prepared, gone, *rest)

    monkeypatch.setattr(final_search, "search_run", leaving)
    results = play(experiment).to_json()
    names = ["run", "cache", "run/vaults/client-0002", "run/checkpoints/standing", "run/notes"]
    assert results["traces"]["found"] == sorted(f"{name}/left.bin" for name in names)
    assert results["status"] == "partial" and "cache/left.bin" in results["failure"]
    assert results["requests"][0]["state"] == "verified", "the device found nothing: it was left later"


def test_a_run_with_links_of_all_kinds_costs_nobody_a_file(tmp_path: Path, mine: Path) -> None:
    """Planted once a run is prepared, wherever it writes, wipes, moves or appends."""
    config = small_config(**ONE, federation__checkpoint_every=1)
    experiment = prepared(tmp_path / "run", config)
    run, theirs = experiment.run, tmp_path / "theirs"
    theirs.mkdir()
    kept = {"00000001.safetensors.json.bak", "notes.safetensors", "own.json"}
    for name in kept:
        (theirs / name).write_bytes(PRECIOUS)
    for file in (run.metrics, run.log, run.purges, run.results, run.report):
        file.symlink_to(mine)
    run.standings.symlink_to(theirs)
    vault = run.vault(2)
    for name in ("audio-7.i16", "requests.json.1.tmp", ".requests.json.99999999.tmp", "log.txt"):
        (vault / name).symlink_to(mine)
    for name in ("receipts", "evidence"):
        (vault / name).symlink_to(theirs)
    (run.vault(4) / "inbox").symlink_to(theirs)
    (run.checkpoints / "original.safetensors").symlink_to(mine)
    play(experiment)
    assert mine.read_bytes() == PRECIOUS
    left = {path.name: path.read_bytes() for path in theirs.iterdir() if path.name in kept}
    assert left == dict.fromkeys(kept, PRECIOUS)
    assert {p.suffix for p in theirs.iterdir() if p.name not in kept} == {".safetensors", ".json"}
    assert len(run.metrics.read_text().splitlines()) == 3 and not run.metrics.is_symlink()


def test_what_cannot_be_searched_makes_a_run_with_deletions_partial(tmp_path: Path) -> None:
    experiment = prepared(tmp_path / "run", small_config(**ONE))
    (tmp_path / "run" / "unmounted").symlink_to(tmp_path / "nowhere")
    results = play(experiment).to_json()
    assert results["traces"]["found"] == []
    assert results["traces"]["unsearched"] == ["run/unmounted is a link that leads nowhere"]
    assert results["status"] == "partial" and "run/unmounted" in results["failure"]
    # The devices do not call it verified, either.
    assert {r["state"] for r in results["requests"]} == {"purged"}
    assert json.dumps(results, allow_nan=False)


def test_temporary_files_with_weights_go_when_a_run_begins_or_is_resumed(tmp_path: Path) -> None:
    run, cache = RunFolder(tmp_path / "run"), tmp_path / "cache"
    config = small_config(**ONE, federation__checkpoint_every=1)
    key = "0123456789abcdef" * 2
    (cache / "shadows").mkdir(parents=True)
    theirs = cache / ".notes.txt.99999999.tmp"
    theirs.write_bytes(PRECIOUS)
    in_cache = [
        cache / f".{key}.safetensors.99999999.tmp",
        cache / "shadows" / f".{key}.safetensors.json.1.tmp",
    ]
    in_cache[1] = in_cache[1].with_name(f".{key}.safetensors.json.99999999.tmp")
    in_run = [
        run.checkpoints / ".original.safetensors.99999999.tmp",
        run.standings / ".00000099.safetensors.99999999.tmp",
        run.vault(3) / ".audio-1.i16.99999999.tmp",
        run.path / ".ledger.salt.99999999.tmp",
    ]
    for path in in_cache:
        path.write_bytes(b"weights")
    run_small(run.path, config, cache=cache)
    assert not any(path.exists() for path in in_cache)
    for path in [*in_cache, *in_run]:
        path.write_bytes(b"weights")
    resumed(run.path, config, cache)
    assert not any(path.exists() for path in [*in_cache, *in_run]) and theirs.read_bytes() == PRECIOUS
