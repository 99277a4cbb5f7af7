"""``fedunlearn export``: from a run folder to a folder that transformers loads, and its card."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import call
from encoder_results import encoder_results
from saved_encoders import logits_of, trained, utterance
from tiny_encoders import tiny_encoder

from fedunlearn.checkpoints import save_checkpoint
from fedunlearn.config import load
from fedunlearn.deletion.inbox import FiledRequest, Inbox
from fedunlearn.final_model import leave_model
from fedunlearn.models.encoders.model import EncoderModel
from fedunlearn.run_folder import RunFolder
from fedunlearn.vault.index import VaultEntry
from fedunlearn.vault.vault import Vault

Made = tuple[RunFolder, EncoderModel]


def made(tmp_path: Path, trains: str = "head", **results: Any) -> Made:
    """The folder of a run of a tiny encoder that has ended, and its final model."""
    run = RunFolder(tmp_path / "run")
    run.create()
    run.unlock()
    content = encoder_results(str(tiny_encoder(tmp_path / "start")), trains) | results
    model = trained(tmp_path / "start", trains, classes=len(content["corpus"]["emotions"]))
    content["config"]["model"]["encoder"]["sha256"] = model.checkpoint.sha256
    content["model"]["sha256"] = model.checkpoint.sha256
    run.write_results(content)
    encoder = {"trains": trains, "projection": 5, "sha256": model.checkpoint.sha256, "device": "cuda"}
    settings = {f"model.encoder.{name}": value for name, value in encoder.items()}
    run.config.write_text(load(None, {"model.name": str(tmp_path / "start"), **settings}).to_toml())
    save_checkpoint(run.checkpoints / "recovered.safetensors", model.state_dict(), {"model": "recovered"})
    return run, model


def code_of(card: Path) -> str:
    found = re.search(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("trains", ["head", "all"])
def test_the_code_on_the_card_gives_the_logits_of_the_run(
    tmp_path: Path, trains: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a run that was made on a GPU that is not here."""
    run, model = made(tmp_path, trains)
    code, output = call("export", run.path, "--out", tmp_path / "saved")
    assert code == 0 and output == f"Model: {tmp_path / 'saved'}\n"
    monkeypatch.chdir(tmp_path / "saved")
    waveform = utterance(5000)
    names: dict[str, Any] = {"waveform": waveform.numpy()}
    exec(code_of(Path("README.md")), names)
    wanted = logits_of(model, waveform)
    torch.testing.assert_close(names["logits"][0].detach(), wanted, rtol=0, atol=1e-5)
    emotions = json.loads(run.results.read_text())["corpus"]["emotions"]
    assert names["emotion"] == emotions[int(wanted.argmax())]
    shown = Path("README.md").read_text(encoding="utf-8")
    assert model.checkpoint.sha256 in shown and str(tmp_path) not in shown
    assert "r-004-1" in shown


def test_a_run_folder_gets_its_model_and_a_newer_one_takes_its_place(tmp_path: Path) -> None:
    run, _ = made(tmp_path)
    results = json.loads(run.results.read_text())
    assert leave_model(run, results) == run.model
    before = (run.model / "README.md").read_text()
    (run.model / "stale").touch()
    results["requests"] = results["requests"][:2]
    assert leave_model(run, results) == run.model
    assert not (run.model / "stale").exists() and (run.model / "README.md").read_text() != before
    assert leave_model(run, {**results, "models": None}) is None, "what ended early has no final model"


def test_a_small_model_is_not_exported(tmp_path: Path) -> None:
    run, _ = made(tmp_path)
    run.config.write_text(load(None, {}).to_toml())
    code, output = call("export", run.path, "--out", tmp_path / "saved")
    assert code == 2 and output.count("error:") == 1 and "its model is functionals" in output
    assert "recovered.safetensors" in output and not (tmp_path / "saved").exists()
    assert leave_model(run, json.loads(run.results.read_text())) is None


def test_mistakes_are_reported_in_one_line_each(tmp_path: Path) -> None:
    run, _ = made(tmp_path)
    results = json.loads(run.results.read_text())

    def refused(*wanted: str, out: Path = tmp_path / "saved") -> None:
        before = sorted(tmp_path.rglob("*"))
        code, output = call("export", run.path, "--out", out)
        assert code == 2 and output.count("error:") == len(wanted) and "Traceback" not in output
        assert all(words in " ".join(output.split()) for words in wanted), output
        assert sorted(tmp_path.rglob("*")) == before

    refused("is not an empty folder", out=tmp_path / "start")
    speech = tmp_path / "speech"
    speech.mkdir()
    run.write_results(results | {"config": {"corpus": {"path": str(speech)}}})
    refused("lies inside the corpus", out=speech / "saved")
    refused("lies inside the corpus", out=speech)
    stopped = {k: v for k, v in results.items() if k != "models"} | {"status": "partial"}
    run.write_results(stopped)
    refused("the run is partial and has no final model yet; go on with it")
    refused("no final model yet", "is not an empty folder", out=tmp_path / "start")
    run.write_results(results)
    weights = run.checkpoints / "recovered.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    refused("do not match the checksum")
    weights.unlink()
    refused("recovered.safetensors: cannot be read")
    save_checkpoint(weights, {"norm.mean": torch.zeros(2)}, {})
    refused("does not fit the run's encoder")
    weights.write_bytes(whole)
    tiny_encoder(tmp_path / "start", seed=9)
    refused("is not the encoder that was used")
    shutil.rmtree(tmp_path / "start")
    refused("no such folder")
    code, output = call("export", tmp_path / "nowhere", "--out", tmp_path / "saved")
    assert code == 2 and "give a folder that a run made" in output


def test_a_run_that_somebody_plays_is_left_alone(tmp_path: Path) -> None:
    run, _ = made(tmp_path)
    other = RunFolder(run.path)
    other.lock()
    code, output = call("export", run.path, "--out", tmp_path / "saved")
    assert code == 2 and "another process plays this run" in output
    other.unlock()
    assert call("export", run.path, "--out", tmp_path / "saved")[0] == 0
    other.lock()


def test_who_waits_to_be_forgotten_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    run, _ = made(tmp_path, status="partial")
    Vault.build(run.vault(3), [(VaultEntry("u", "anger", 0, "train", 1, "s"), np.zeros(1, np.int16))], 6)
    Inbox(run.vault(3)).file(FiledRequest("ab" * 8, "all", "person"))
    code, output = call("export", run.path, "--out", tmp_path / "saved")
    assert code == 0 and "1 deletion request waits" in output and "still knows that speech" in output
    assert "the run is partial" in output
    assert "**Not complete.**" in (tmp_path / "saved" / "README.md").read_text()
