"""Any file of a run folder damaged, then --resume: the same end, or a line that says which file it is."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_run import prepared, resumed, run_small, small_config, weights_of

from fedunlearn import config as configuration
from fedunlearn.client.device import DEVICES
from fedunlearn.engines.engine import play
from fedunlearn.errors import BadInput, RunFailed
from fedunlearn.experiment.reference_cache import ReferenceCache
from fedunlearn.run_folder import RunFolder
from fedunlearn.server.clients import Clients
from fedunlearn.vault.arrays import DamagedVault, write_vault
from fedunlearn.vault.vault import Vault

CONFIG = small_config(
    training__rounds=2,
    training__local__steps=1,
    partition__shared_speakers=1,
    deletions__schedule=[
        {"client": 2, "what": "some", "count": 4, "round": 1},
        {"client": 1, "what": "all", "after_learning": 0},
    ],
    federation__checkpoint_every=1,
)


class Death(BaseException):
    """Nothing in the program may catch it."""


def leave_when(out: Path, cache: Path, when: Callable[[list[str]], bool]) -> None:
    """A run whose server dies when the clients have answered a message and ``when`` says so of all kinds."""
    ask, kinds = Clients.ask, list[str]()

    def ask_once(self: Clients, kind: str, *rest: Any, **more: Any) -> Any:
        answers = ask(self, kind, *rest, **more)
        kinds.append("retrain" if rest[2].phase == "retrain" else kind)
        if when(kinds):
            raise Death
        return answers

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Clients, "ask", ask_once)
        with pytest.raises(Death):
            resumed(out, CONFIG, cache)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was left while its retrained model was trained: both requests are verified."""
    folder = tmp_path_factory.mktemp("left")
    leave_when(folder / "run", folder / "cache", lambda kinds: kinds[-1] == "retrain")
    # Of an earlier end of the same run, and what a device has noted.
    ended = ("results.json", "report.html", "log.txt", "vaults/client-0003/log.txt")
    for name in (*ended, "checkpoints/original.safetensors", "checkpoints/original.safetensors.json"):
        (folder / "run" / name).write_text("{}")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("whole")
    assert run_small(folder / "run", CONFIG, cache=folder / "cache")["status"] == "complete"
    return weights_of(folder / "run")


def copied(left: Path, to: Path) -> Path:
    shutil.copytree(left, to)
    return to


def end_of(folder: Path, whole: dict[str, str]) -> str:
    """How a resumption ends: the line of a refusal, or "same"; anything else fails the test."""
    try:
        resumed(folder / "run", CONFIG, folder / "cache")
    except (BadInput, RunFailed) as error:
        return str(error)
    finally:
        DEVICES.clear()
    assert weights_of(folder / "run") == whole
    return "same"


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def scramble(path: Path) -> None:
    path.write_bytes(np.random.default_rng(5).bytes(max(path.stat().st_size, 100)))


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "emptied": empty,
    "truncated": truncate,
    "scrambled": scramble,
    "a folder": put_folder,
    "removed": Path.unlink,
}


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGE)
def test_every_file_damaged_in_turn(left: Path, whole: dict[str, str], tmp_path: Path, how: str) -> None:
    files = [p.relative_to(left) for p in sorted(left.rglob("*")) if p.is_file() and p.name != ".lock"]
    assert len(files) > 40
    ends: dict[str, str] = {}
    for number, file in enumerate(files):
        folder = copied(left, tmp_path / str(number))
        DAMAGE[how](folder / file)
        try:
            ends[str(file)] = end_of(folder, whole)
        except Exception as error:
            ends[str(file)] = f"WRONG {error!r}"
        shutil.rmtree(folder)
    assert not {file: end for file, end in ends.items() if end.startswith("WRONG")}
    named = {file: end for file, end in ends.items() if end != "same"}
    assert all(Path(file).name in end or file == "run/config.toml" for file, end in named.items())


REFUSED = [
    ("run/config.toml", "scrambled", "config.toml: is not valid TOML"),
    ("run/config.toml", "emptied", "was made with"),
    ("run/metrics.jsonl", "scrambled", "metrics.jsonl: cannot be read as JSON"),
    ("run/log.txt", "a folder", "log.txt: is no file of its own but a folder"),
    ("run/results.json", "a folder", "results.json: is no file of its own but a folder"),
    ("run/ledger.sqlite", "emptied", "ledger.sqlite"),
    ("run/ledger.sqlite", "a folder", "ledger.sqlite: is no file of its own but a folder"),
    ("run/ledger.salt", "scrambled", "ledger.salt"),
    ("run/vaults/client-0003/index.json", "truncated", "index.json: is no index"),
    ("run/vaults/client-0003/index.json", "removed", "index.json"),
    ("run/vaults/client-0003/audio-1.i16", "scrambled", "audio-1.i16: its bytes do not match the checksum"),
    ("run/vaults/client-0003/audio-1.i16", "removed", "audio-1.i16: is missing"),
    ("run/vaults/client-0002/requests.json", "scrambled", "requests.json: is not a request store"),
    ("run/vaults/client-0002/requests.json", "removed", "requests.json: lacks request"),
]


@pytest.mark.parametrize(("file", "how", "line"), REFUSED)
def test_a_file_that_cannot_be_made_again_is_named(
    left: Path, whole: dict[str, str], tmp_path: Path, file: str, how: str, line: str
) -> None:
    folder = copied(left, tmp_path / "copy")
    if (folder / file).exists():
        DAMAGE[how](folder / file)
    else:
        (folder / file).mkdir()
    with pytest.raises(BadInput, match=line):
        resumed(folder / "run", CONFIG, folder / "cache")


def test_what_can_be_made_again_is(left: Path, whole: dict[str, str], tmp_path: Path) -> None:
    """All at once: features changed or gone, cut metrics, notes of other devices, marks, references."""
    folder = copied(left, tmp_path / "copy")
    vaults = folder / "run" / "vaults"
    features = {n: next(vaults.glob(f"client-000{n}/*.f32")) for n in (0, 3, 4, 5)}
    values = np.fromfile(features[4], "<f4")
    values[100:110] *= -3
    values.tofile(features[4])
    features[3].unlink()
    empty(features[5].with_suffix(".frames"))
    put_folder(features[0])
    for file in (next(vaults.glob("*/devices.json")), folder / "run" / "liveness"):
        scramble(file)
    truncate(folder / "run" / "metrics.jsonl")
    for file in (folder / "cache").glob("*.safetensors"):
        scramble(file)
    assert end_of(folder, whole) == "same"
    for line in (folder / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


# ---- nothing begins anew on what was used ----------------------------------------------------------------


def without_manifests(run: RunFolder) -> None:
    for file in run.standings.glob("*.json"):
        file.unlink()


def damaged_twice(run: RunFolder) -> None:
    for file in run.standings.glob("*.safetensors"):
        truncate(file)


def alone(run: RunFolder) -> None:
    shutil.rmtree(run.standings)


def with_vaults_alone(run: RunFolder) -> None:
    """Stores, ledger and receipts are gone, too: the second generation of a vault is the only sign."""
    shutil.rmtree(run.checkpoints)
    run.ledger.unlink()
    run.purges.unlink()
    for file in [*run.vaults.glob("*/requests.json"), *run.vaults.glob("*/receipts/*")]:
        file.unlink()


def with_ledger_alone(run: RunFolder) -> None:
    with_ledger = run.ledger.read_bytes()
    with_vaults_alone(run)
    run.ledger.write_bytes(with_ledger)
    shutil.rmtree(run.vaults)


@pytest.mark.parametrize(
    ("lose", "line"),
    [
        (without_manifests, r"standing/\d+\.safetensors: its manifest \(.*\) is missing"),
        (damaged_twice, "no checkpoint is whole"),
        (alone, "standing: holds no checkpoint"),
        (with_vaults_alone, "was purged"),
        (with_ledger_alone, "ledger.sqlite has rows"),
    ],
)
def test_a_used_run_without_its_state_is_refused(
    left: Path, tmp_path: Path, lose: Callable[[RunFolder], None], line: str
) -> None:
    folder = copied(left, tmp_path / "copy")
    run = RunFolder(folder / "run")
    lose(run)
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*") if p.is_file()}
    with pytest.raises(BadInput, match=line):
        resumed(run.path, CONFIG, folder / "cache")
    assert {p: p.stat().st_mtime_ns for p in before if p.exists()} == before, "nothing was touched"


def test_settings_that_were_cut_off_do_not_begin_a_run_with_defaults(tmp_path: Path) -> None:
    prepared(tmp_path / "run", CONFIG).close()
    file = tmp_path / "run" / "config.toml"
    text = file.read_text()
    file.write_text(text[: text.index("[training.local]")])
    with pytest.raises(BadInput, match=r"config\.toml: lacks settings"):
        resumed(tmp_path / "run", configuration.load(file), tmp_path / "cache")


def test_after_a_purge_both_newest_states_are_beyond_it(tmp_path: Path) -> None:
    """Written once, the older of the two would be of before the purge, and damage to the newer lead there."""
    out = tmp_path / "run"
    leave_when(out, tmp_path / "cache", lambda kinds: "query.purge" in kinds and kinds[-1] != "query.purge")
    manifests = sorted((out / "checkpoints" / "standing").glob("*.json"))
    assert len(manifests) == 2
    for file in manifests:
        saved = json.loads(file.read_text())["state"]
        assert saved["step"] != "purge"
        assert [r["state"] for r in saved["requests"]] == ["verified"]


# ---- what is trained on is what the corpus says -----------------------------------------------------------


def changed(file: Path) -> None:
    values = np.fromfile(file, np.uint8)
    values[20:60] ^= 0x55
    values.tofile(file)


def test_changed_features_are_derived_again_and_changed_audio_is_named(tmp_path: Path) -> None:
    """By the device, when it opens its vault: not only at a resumption."""
    experiment = prepared(tmp_path / "run", CONFIG)
    model, folder = experiment.template, experiment.run.vault(4)
    experiment.close()
    vault = Vault(folder)
    utterance = next(iter(vault.entries))
    right = vault.read_features(utterance, model)
    for suffix in ("f32", "frames"):
        changed(next(folder.glob(f"*.{suffix}")))
        again = Vault(folder)
        assert not again.features_are_whole and again.stored_names() == ()
        assert (again.read_features(utterance, model) == right).all()
        again.derive(model)
        assert Vault(folder).features_are_whole and Vault(folder).stored_names()
    changed(folder / "audio-1.i16")
    with pytest.raises(DamagedVault, match="do not match the checksum"):
        Vault(folder)


def test_a_vault_of_an_earlier_version_has_no_checksums_and_is_read(tmp_path: Path) -> None:
    experiment = prepared(tmp_path / "run", CONFIG)
    folder = experiment.run.vault(0)
    experiment.close()
    index = json.loads((folder / "index.json").read_text())
    assert set(index.pop("sha256")) == {p.name for p in folder.iterdir() if p.suffix != ".json"}
    (folder / "index.json").write_text(json.dumps(index))
    assert Vault(folder).features_are_whole
    # A purge writes everything anew, with checksums.
    Vault(folder).purge([next(iter(Vault(folder).entries))])
    assert "sha256" in json.loads((folder / "index.json").read_text())


def test_a_reference_is_kept_only_where_clients_hold_what_its_key_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Client 4's vault is another one, with checksums of its own: what it teaches is not the clean corpus."""
    kept: list[str] = []
    monkeypatch.setattr(ReferenceCache, "keep", lambda self, key, learned: kept.append(key))
    schedule = small_config(training__rounds=1, deletions__schedule=[])
    play(prepared(tmp_path / "clean", schedule))
    assert len(kept) == 1
    experiment = prepared(tmp_path / "other", schedule)
    folder = experiment.run.vault(4)
    vault = Vault(folder)
    recordings = [(e, vault.read_audio(i)[::-1].copy()) for i, e in vault.entries.items()]
    shutil.rmtree(folder)
    write_vault(folder, recordings, vault.classes)
    play(experiment)
    assert len(kept) == 1


def test_a_pipe_in_a_files_place_is_not_waited_for(left: Path, tmp_path: Path) -> None:
    folder = copied(left, tmp_path / "copy")
    metrics = folder / "run" / "metrics.jsonl"
    metrics.unlink()
    os.mkfifo(metrics)
    with pytest.raises(BadInput, match=r"metrics\.jsonl: is no file of its own but a pipe"):
        resumed(folder / "run", CONFIG, folder / "cache")
