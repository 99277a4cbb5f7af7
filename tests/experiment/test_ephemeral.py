"""Which files know what was deleted, file by file; and runs after which no such back-up is left."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call_wide as call
from flwr.app import Context, Message
from rich.console import Console
from safetensors.torch import load_file
from small_run import decoded_once, prepared, resumed, small_config

from fedunlearn.audit.influence import files_with_influence, outcomes_with_influence
from fedunlearn.checkpoints import manifest_of
from fedunlearn.config import Config
from fedunlearn.deletion.receipts import every_receipt, read_receipt
from fedunlearn.engines.engine import play
from fedunlearn.errors import BadInput
from fedunlearn.evaluation.recordings import RecordingCache
from fedunlearn.experiment.experiment import Experiment, write_completed
from fedunlearn.experiment.preparation import DecodedCorpus, prepare
from fedunlearn.experiment.progress import Progress
from fedunlearn.report.privacy import describe_leaks
from fedunlearn.results_schema import Results
from fedunlearn.run_folder import RunFolder

ONE = [{"client": 2, "what": "some", "count": 1, "after_learning": 0}]


def config_of(**overrides: Any) -> Config:
    quick = {
        "evaluation__relearn_steps": 0,
        "evaluation__shadow_workers": 1,
        "recovery__rounds": 0,
        "training__rounds": 2,
        "training__local__steps": 1,
    }
    return small_config(deletions__schedule=ONE, **{**quick, **overrides})


def whole_run(experiment: Experiment) -> Results:
    """Play a run to its end, as the command does, all but the page."""
    results = play(experiment)
    write_completed(experiment, results)
    return results


def with_other_speech(config: Config, utterance: str) -> DecodedCorpus:
    """The corpus of the run, but that somebody said something else in one utterance."""
    known = decoded_once(config)
    assert known is not None
    corpus, speech = known
    noise = np.random.default_rng(1).integers(-9000, 9000, len(speech.pcm[utterance])).astype(np.int16)
    utterances = tuple(
        replace(u, pcm=partial(np.copy, noise)) if u.id == utterance else u for u in corpus.utterances
    )
    return replace(corpus, utterances=utterances), RecordingCache({**speech.pcm, utterance: noise})


def files_of(*roots: Path) -> Iterator[tuple[str, Path]]:
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                yield f"{root.name}/{path.relative_to(root)}", path


@pytest.mark.parametrize("shadows", [0, pytest.param(8, marks=pytest.mark.slow)])
def test_every_file_is_listed_or_does_not_depend_on_what_was_deleted(tmp_path: Path, shadows: int) -> None:
    """Two runs that differ in the samples of one deleted utterance: files that are not listed are equal."""
    config = config_of(evaluation__shadows=shadows, unlearning__aggregation="projected")
    quiet = Progress(Console(quiet=True))
    first = prepared(tmp_path / "a" / "run", config, tmp_path / "a" / "references")
    whole_run(first)
    ((_, receipt),) = every_receipt(first.run)
    (deleted,) = read_receipt(receipt).removed
    other = with_other_speech(config, deleted)
    whole_run(prepare(config, tmp_path / "b" / "run", tmp_path / "b" / "references", quiet, other))
    content: list[dict[str, bytes]] = []
    listed: set[str] = set()
    for place in (tmp_path / "a", tmp_path / "b"):
        run, cache = RunFolder(place / "run"), place / "references"
        backups, outcomes = files_with_influence(run, cache), outcomes_with_influence(run)
        known = {one.file for one in (*backups, *outcomes)}
        known |= {manifest_of(one.file) for one in backups}
        assert not {one.file for one in backups} & {one.file for one in outcomes}
        found = dict(files_of(run.path, cache))
        listed |= {name for name, path in found.items() if path in known}
        content.append({name: path.read_bytes() for name, path in found.items()})
    a, b = content
    differ = {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)}
    assert differ - listed == set()
    kinds = {name.split("/")[1].partition("-")[0] for name in differ if name.startswith("references/")}
    expected = {"sealed", "shadows", "learned"} if shadows else {"sealed"}
    assert expected <= kinds and len(kinds) > len(expected), "it sees models that know the utterance"
    assert "run/vaults/client-0002/index.json" not in differ
    state = load_file(sorted(first.run.standings.glob("*.safetensors"))[-1])
    gone = ("original/", "blur/", "step.", "history/left_out.", "history/last.2.")
    assert not [name for name in state if name.startswith(gone)], "it left the run folder, or was forgotten"
    assert [name for name in state if name.startswith("history/last.3.")]


# ---- ephemeral runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ephemeral(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    place = tmp_path_factory.mktemp("ephemeral")
    config = config_of(evaluation__ephemeral=True)
    return place / "run", whole_run(prepared(place / "run", config, place / "references"))


def test_nothing_that_knows_the_deleted_outlives_an_ephemeral_run(ephemeral: tuple[Path, Results]) -> None:
    out, results = ephemeral
    run = RunFolder(out)
    assert results.status == "complete"
    assert not (out.parent / "references").exists()
    assert not run.own_references.exists() and not run.standings.exists()
    assert not (run.checkpoints / "original.safetensors").exists()
    assert (run.checkpoints / "recovered.safetensors").exists()
    assert files_with_influence(run, out.parent / "references") == []
    ((_, receipt),) = every_receipt(run)
    assert json.loads(receipt.read_text())["kept"] == []
    assert "The run was ephemeral" in describe_leaks(results)
    code, output = call("influence", out)
    assert code == 0 and "no file is left" in output and "stays: " in output


def test_an_ephemeral_run_that_is_over_cannot_be_resumed(ephemeral: tuple[Path, Results]) -> None:
    config = config_of(evaluation__ephemeral=True)
    with pytest.raises(BadInput, match="has kept nothing to go on from"):
        resumed(ephemeral[0], config, ephemeral[0].parent / "references")


def test_what_a_killed_ephemeral_run_leaves_is_named_and_goes_when_it_is_over(tmp_path: Path) -> None:
    out, config = tmp_path / "run", config_of(evaluation__ephemeral=True)
    experiment = prepared(out, config)

    def stop(message: Message, context: Context, call_next: Any) -> Message:
        reply: Message = call_next(message, context)
        if message.metadata.message_type == "query.purge":
            experiment.stop.set()
        return reply

    with pytest.raises(Exception, match="interrupted"):
        play(experiment, [stop])
    experiment.close()
    code, output = call("influence", out)
    assert code == 0 and f"{out / 'checkpoints' / 'standing'}" in output and "resuming this run" in output
    assert f"{out / 'references'}" in output
    code, output = call("influence", out, "--delete")
    assert code == 2 and "has not come to its end" in output
    quiet = Progress(Console(quiet=True))
    again = prepare(config, out, tmp_path / "cache", quiet, decoded_once(config), resume=True)
    assert whole_run(again).status == "complete"
    assert not (out / "references").exists() and not (out / "checkpoints" / "standing").exists()


def test_a_cache_of_an_ephemeral_run_is_refused(tmp_path: Path) -> None:
    code, output = call("run", "--ephemeral", "--cache", tmp_path / "cache", "--out", tmp_path / "run")
    assert code == 2 and "--cache: an ephemeral run keeps no references" in output
    assert not (tmp_path / "run").exists()
