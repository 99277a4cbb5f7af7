"""A device's life outside corpora: recordings are added, trained on, listed, deleted and searched for."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from command_line import call_wide as call
from flwr.app import Context, Message
from rich.console import Console
from small_run import decoded_once, prepared, resumed, small_config, weights_of
from tiny import tone

from fedunlearn import config as configuration
from fedunlearn.audit.replay import ReplayVerdict, replay_run
from fedunlearn.deletion.inbox import Inbox
from fedunlearn.engines.engine import play
from fedunlearn.errors import BadInput
from fedunlearn.experiment.experiment import write_completed
from fedunlearn.experiment.preparation import prepare
from fedunlearn.experiment.progress import Progress
from fedunlearn.ledger import COMMITTED, LedgerReader
from fedunlearn.messages.records import MessageConfig, number
from fedunlearn.models import build_model
from fedunlearn.results_schema import Results
from fedunlearn.run_folder import RunFolder
from fedunlearn.seeding import rng_for
from fedunlearn.vault.additions import note_labels, waiting_recordings
from fedunlearn.vault.index import VaultEntry
from fedunlearn.vault.vault import Vault, add_recordings

NOBODY_ASKS = {"deletions__schedule": [], "training__rounds": 4, "evaluation__relearn_steps": 0}


def wav(path: Path, take: int = 0, rate: int = 16_000, channels: int = 1, seconds: float = 0.5) -> Path:
    samples = np.repeat(tone(3, 1, take, seconds)[:, None], channels, axis=1)
    soundfile.write(path, samples, rate)
    return path


class Meanwhile:
    """Does something once, right after client 0 has answered a kind of message; counts what is trained on."""

    def __init__(self, kind: str, rounds_done: int, action: Any) -> None:
        self.at, self.action, self.counts = (kind, rounds_done), action, dict[tuple[int, int], set[int]]()

    def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
        reply: Message = call_next(message, context)
        client, kind = int(context.node_config["partition-id"]), message.metadata.message_type
        done = MessageConfig(message.content).integer("rounds_done") if kind != "query.population" else -1
        if kind == "train":
            self.counts.setdefault((client, done), set()).add(int(number(reply.content, "examples")))
        if self.action and client == 0 and (kind, done) == self.at:
            action, self.action = self.action, None
            action()
        return reply


def add(out: Path, file: Path, client: int = 2, label: str = "happy") -> str:
    code, output = call("vault", "add", file, "--label", label, "--run", out, "--client", client)
    assert code == 0, output
    return output.partition(":")[0]


def test_a_recording_that_is_added_meanwhile_joins_at_the_next_round(tmp_path: Path) -> None:
    out, config = tmp_path / "run", small_config(**NOBODY_ASKS)
    experiment = prepared(out, config)
    whole = len(experiment.partition.clients[2].train)
    emotion = experiment.corpus.emotions[1]
    meanwhile = Meanwhile("train", 1, lambda: add(out, wav(tmp_path / "a.wav"), label=emotion))
    results = play(experiment, [meanwhile]).to_json()
    assert results["status"] == "complete", results["failure"]
    counts = [meanwhile.counts[2, done] for done in range(4)]
    assert counts == [{whole}, {whole}, {whole + 1}, {whole + 1}]
    assert results["added"] == [{"client": 2, "round": 2, "count": 1}]
    (caveat,) = (c for c in results["caveats"] if c["kind"] == "recordings added")
    assert not caveat["decisive"] and "1 at client 2 after round 2" in caveat["sentence"]
    entry = list(Vault(out / "vaults" / "client-0002").entries.values())[-1]
    assert entry.added and entry.recorded == 2 and entry.split == "train"
    assert not waiting_recordings(out / "vaults" / "client-0002")
    assert Results.model_validate(results).to_json() == results


def test_a_replay_cannot_decide_where_recordings_were_added_and_the_device_commits_anew(
    tmp_path: Path,
) -> None:
    run, config = RunFolder(tmp_path / "run"), small_config(**NOBODY_ASKS)
    experiment = prepared(run.path, config)
    meanwhile = Meanwhile("train", 1, lambda: add(run.path, wav(tmp_path / "a.wav")))
    write_completed(experiment, play(experiment, [meanwhile]))
    found = replay_run(run, None, Progress(Console(quiet=True)))
    assert found.verdict is ReplayVerdict.UNDECIDED and "recordings that are in no corpus" in found.reason
    with LedgerReader(run.ledger) as ledger:
        committed = [e.round for e in ledger.entries() if e.state == COMMITTED]
        own = [e.round for e in ledger.entries() if e.subject == ledger.subject(2)]
    assert committed == [0] * 6 + [2] and own == [0, 2]


def delete(out: Path, utterance: str, client: int = 2) -> None:
    vault = RunFolder(out).vault(client)
    code, output = call("vault", "delete", "--vault", vault, "--utterances", utterance)
    assert code == 0 and "deletes 1 utterance." in output


def test_an_added_recording_is_deleted_like_any_other(tmp_path: Path) -> None:
    """Added after round 1, deleted after round 3: unlearned, purged, searched for, and in a receipt."""
    out, made = tmp_path / "run", list[str]()
    config = small_config(**NOBODY_ASKS, unlearning__method="retract")
    experiment = prepared(out, config)
    emotion, vault = experiment.corpus.emotions[0], RunFolder(out).vault(2)
    file = wav(tmp_path / "a.wav", rate=22_050, channels=2)
    third = Meanwhile("train", 2, lambda: delete(out, made[0]))
    first = Meanwhile("train", 0, lambda: made.append(add(out, file, label=emotion)))
    results = play(experiment, [first, third]).to_json()
    assert results["status"] == "complete", results["failure"]
    (request,) = results["requests"]
    assert (request["state"], request["utterances"], request["learned"]) == ("verified", 1, 1)
    assert made[0] not in Vault(vault).entries and not any(e.added for e in Vault(vault).entries.values())
    code, output = call("vault", "verify", "--vault", vault, "--deleted", file)
    assert code == 0 and "1 receipts agree" in output and "none found" in output
    assert results["models"]["original"]["forget"]["n"] == 0
    assert results["references"].keys() == {"original", "retrained-0"}
    assert results["gap"]["none"]["test"] is not None and results["gap"]["none"]["forget"] is None
    assert experiment.state.added == {} and len(results["added"]) == 1
    assert not list((tmp_path / "run-references").glob("[0-9a-f]*.safetensors"))


class Killed(BaseException):
    """As if the process had been killed."""


def kill() -> None:
    raise Killed


def test_a_killed_run_goes_on_with_added_recordings_and_still_finds_damage(tmp_path: Path) -> None:
    """Killed in round 2 and resumed from its beginning, before the recording was there: the same end."""
    config = small_config(**NOBODY_ASKS, federation__checkpoint_every=9)
    whole, killed, made = tmp_path / "whole", tmp_path / "killed", list[str]()
    emotion = "happy"

    def adding(out: Path) -> Meanwhile:
        file = wav(tmp_path / f"{out.name}.wav")
        return Meanwhile("train", 0, lambda: made.append(add(out, file, label=emotion)))

    deleting = Meanwhile("train", 2, lambda: delete(whole, made[0]))
    results = play(prepared(whole, config), [adding(whole), deleting]).to_json()
    made.clear()
    experiment = prepared(killed, config)
    with pytest.raises(Killed):
        play(experiment, [adding(killed), Meanwhile("train", 1, kill)])
    experiment.close()
    cache = tmp_path / "killed-references"
    audio = next(RunFolder(killed).vault(2).glob("audio-*.i16"))
    content = audio.read_bytes()
    audio.write_bytes(content[:-2] + b"xx")
    with pytest.raises(BadInput, match="do not match the checksum"):
        resumed(killed, config, cache)
    audio.write_bytes(content)
    deleting = Meanwhile("train", 2, lambda: delete(killed, made[0]))
    again = resumed(killed, config, cache, [deleting])
    assert again["status"] == results["status"] == "complete"
    assert weights_of(killed) == weights_of(whole)
    assert again["added"] == results["added"] == [{"client": 2, "round": 1, "count": 1}]


# ---- commands, on a vault of its own ---------------------------------------------------------------------


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device folder outside of any run: two utterances of ann, one of them held out."""
    folder = tmp_path / "phone"
    kinds = (("mine/1", "train"), ("mine/2", "test"))
    recordings = [
        (VaultEntry(name, "calm", 1, split, 4000, "ann"), tone(0, 1, take, 0.25))
        for take, (name, split) in enumerate(kinds)
    ]
    Vault.build(folder, recordings, 3)
    note_labels(folder, ("angry", "calm", "sad"))
    return folder


def add_here(device: Path, *more: object) -> tuple[int, str]:
    return call("vault", "add", "--vault", device, *more)


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 1), (22_050, 2), (96_000, 3)])
def test_any_rate_and_number_of_channels(device: Path, tmp_path: Path, rate: int, channels: int) -> None:
    """16000 samples are as many seconds as the rate says, and 16000 samples a second in the vault."""
    code, output = add_here(device, wav(tmp_path / "a.wav", 5, rate, channels, 1.0), "--label", "sad")
    assert code == 0, output
    ((waiting,),) = (waiting_recordings(device),)
    assert waiting.about is not None and waiting.about.speaker == "ann"
    assert waiting.about.samples == len(waiting.pcm()) == math.ceil(16_000 * 16_000 / rate)


def test_what_waits_is_listed_can_be_deleted_and_changes_nothing_else(device: Path, tmp_path: Path) -> None:
    index = (device / "index.json").read_bytes()
    code, output = add_here(device, wav(tmp_path / "a.wav", 5), "--label", "sad")
    name = output.partition(":")[0]
    assert code == 0 and (device / "index.json").read_bytes() == index
    code, output = call("vault", "list", "--vault", device)
    (row,) = (line for line in output.splitlines() if name in line)
    assert code == 0 and "waits to be taken in" in row and "0.50" in row and "sad" in row
    assert "1 training utterances (0 added), 1 held out, 1 waiting." in output
    code, output = call("delete", "--vault", device, "--utterances", name)
    assert code == 0 and f"{device} deletes 1 utterance." in output
    (filed,) = Inbox(device).waiting()
    assert filed.request is not None and filed.request.utterances == (name,)
    code, output = call("requests", "--vault", device)
    assert code == 0 and filed.id in output and f"{device}/receipts/ID.json" in output
    code, output = call("withdraw", "--vault", device, "--request", filed.id[:6])
    assert code == 0 and f"Request {filed.id}: to be withdrawn at {device}." in output
    assert [one.withdraws for one in Inbox(device).waiting()] == ["", filed.id]


def test_mistakes_are_one_line_each_and_nothing_is_added(device: Path, tmp_path: Path) -> None:
    good, twin = wav(tmp_path / "good.wav", 5), wav(tmp_path / "twin.wav", 5)
    short, silent, held = (tmp_path / f"{name}.wav" for name in ("short", "silent", "held"))
    wav(short, 6, seconds=0.05)
    soundfile.write(silent, np.zeros(8000), 16_000)
    soundfile.write(held, tone(0, 1, 0, 0.25), 16_000)
    (tmp_path / "text.wav").write_text("no sound")
    files = [good, twin, short, silent, held, tmp_path / "text.wav", tmp_path / "none.wav"]
    code, output = add_here(device, *files, "--label", "glad")
    lines = [line.removeprefix("error: ") for line in output.splitlines() if line.startswith("error: ")]
    assert code == 2 and not waiting_recordings(device)
    assert lines[0] == "--label glad: the emotions of this device are angry, calm, sad"
    assert lines[1] == f"{twin}: it is the same audio as {good}"
    assert lines[2] == f"{short}: is 0.050 s long; at least 0.1 s are needed"
    assert lines[3] == f"{silent}: is silent (its peak is below -60 dB of full scale)"
    assert lines[4] == f"{held}: the device holds it as mine/1"
    assert lines[5].startswith(f"{tmp_path / 'text.wav'}: cannot be read")
    assert lines[6] == f"{tmp_path / 'none.wav'}: no such file"
    assert lines[7:] == ["nothing was added"]


def test_the_same_recording_is_not_added_twice(device: Path, tmp_path: Path) -> None:
    file = wav(tmp_path / "a.wav", 5)
    assert add_here(device, file, "--label", "sad")[0] == 0
    code, output = add_here(device, file, "--label", "sad")
    assert code == 2 and "it waits as added-" in output and len(waiting_recordings(device)) == 1


def test_labels_that_are_not_known_are_one_line(device: Path, tmp_path: Path) -> None:
    """Without the list, a device that holds speech of one emotion of three does not know the others."""
    (device / "labels.json").unlink()
    code, output = add_here(device, wav(tmp_path / "a.wav", 5), "--label", "calm")
    assert code == 2 and "labels.json: does not say which labels there are (1 of 3" in output
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "say which device: --run RUN --client N, or --vault DIR"),
        (("--vault", "{tmp}", "--client", 1), "give either --vault DIR, or --run RUN and --client N"),
        (("--vault", "{tmp}"), "is no vault (index.json is missing)"),
        (("--run", "{tmp}", "--client", 0), "is no run folder"),
    ],
)
@pytest.mark.parametrize("command", [("vault", "list"), ("vault", "verify"), ("delete", "--all")])
def test_which_device_is_asked_for_in_one_line(
    tmp_path: Path, command: tuple[str, ...], options: tuple[object, ...], line: str
) -> None:
    given = [str(option).replace("{tmp}", str(tmp_path)) for option in options]
    code, output = call(*command, *given)
    assert code == 2 and line in output and len(output.splitlines()) == 1


def test_verify_names_what_is_damaged_or_left(device: Path, tmp_path: Path) -> None:
    code, output = call("vault", "verify", "--vault", device)
    assert code == 0 and "1 arrays match their checksums" in output
    held = tmp_path / "held.wav"
    soundfile.write(held, tone(0, 1, 0, 0.25), 16_000)
    code, output = call("vault", "verify", "--vault", device, "--deleted", held)
    assert code == 3 and f"{device / 'audio-1.i16'}: holds a deleted recording" in output
    (device / "audio-9.i16").write_bytes(b"left behind")
    audio = device / "audio-1.i16"
    audio.write_bytes(audio.read_bytes()[:-2] + b"xx")
    code, output = call("vault", "verify", "--vault", device)
    assert code == 3 and "audio-9.i16: is an array that the index does not name" in output
    assert "audio-1.i16: does not match its checksum" in output


def test_a_file_that_was_cut_in_the_inbox_is_left_and_named(device: Path, tmp_path: Path) -> None:
    assert add_here(device, wav(tmp_path / "a.wav", 5), "--label", "sad")[0] == 0
    (waiting,) = waiting_recordings(device)
    waiting.file.write_bytes(waiting.file.read_bytes()[:-10])
    code, output = call("vault", "verify", "--vault", device)
    assert code == 3 and "do not match its checksum" in output


# ---- the vault itself ------------------------------------------------------------------------------------


def test_adding_is_repeated_without_effect_and_keeps_features_and_tickets(device: Path) -> None:
    model = build_model(configuration.load(None, {"model.hidden": 8}).model, 3, rng_for(0, "template"))
    vault = Vault(device)
    vault.derive(model)
    before = vault.read_features("mine/1", model)
    vault.tickets.note(["mine/1"], torch.tensor([[1.0, 2.0]]), 1, 0.0, 4)
    vault.tickets.note(["mine/1"], torch.tensor([[1.0, 2.0]]), 2, 0.0, 4)
    pcm = tone(1, 2, 7, 0.5)
    entry = VaultEntry("added-1", "sad", 2, "train", len(pcm), "ann", 3, True)
    for _ in range(2):
        add_recordings(vault, [(entry, pcm)], model)
        assert vault.generation == 2 and list(vault.entries) == ["mine/1", "mine/2", "added-1"]
    assert model.feature_name in vault.stored_names()
    assert torch.equal(vault.read_features("mine/1", model), before)
    assert torch.equal(vault.read_features("added-1", model), model.features_of(pcm))
    rows = vault.tickets.of(["mine/1", "added-1"], 2)
    assert rows is not None and rows.tolist() == [[2.0, 4.0], [0.0, 0.0]]
    # The round before it is there, too: a run may be resumed from it.
    vault.tickets.note(["mine/1"], torch.tensor([[5.0, 5.0]]), 2, 0.0, 4)
    rows = vault.tickets.of(["mine/1", "added-1"], 2)
    assert rows is not None and rows.tolist() == [[6.0, 7.0], [0.0, 0.0]]
    assert vault.ids("train", by=2) == ("mine/1",) and vault.ids("train", by=3) == ("mine/1", "added-1")
    assert not list(device.glob("*-1.*"))


def test_what_waits_outlives_a_run_that_begins_anew(tmp_path: Path) -> None:
    """Nothing was saved of the run yet, so that --resume makes its folder again."""
    out, config = tmp_path / "run", small_config(**NOBODY_ASKS)
    experiment = prepared(out, config)
    experiment.close()
    name = add(out, wav(tmp_path / "a.wav"))
    again = prepare(
        config, out, tmp_path / "cache", Progress(Console(quiet=True)), decoded_once(config), resume=True
    )
    again.close()
    assert [w.about.id for w in waiting_recordings(RunFolder(out).vault(2)) if w.about] == [name]
