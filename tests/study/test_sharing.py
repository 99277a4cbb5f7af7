"""What study.json says of finished cells: methods and models of one's own, recognisers in folders."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from results_example import example_results

from fedunlearn.config import load
from fedunlearn.results_schema import Results
from fedunlearn.study.grid import Axes, cells_of, loader_of, variant_of
from fedunlearn.study.sharing import FinishedCell, study_of_cells
from fedunlearn.study.speech import SpeechDigest
from fedunlearn.study.study_file import StudyFile

SHAPE = {"partition.clients": 20, "partition.unseen_speakers": 6}
OWN = '''
import fedunlearn as fu


class Settings(fu.DescentSettings):
    """Settings of the method."""


@fu.method("mine", source="somebody", settings=Settings, needs_waveform=False)
def mine(model, forget_set, settings, rng, scalars):
    """Do nothing."""


@fu.aggregation("joined")
def joined(updates, context, settings):
    """Take the first."""
    return updates[0].difference
'''


def shared(methods: list[str], overrides: dict[str, Any] | None = None, **axes: Any) -> StudyFile:
    """A study of cells that found what the example found; its numbers are not those of the methods."""
    crossed = Axes([variant_of(name) for name in methods], [10, 0], [1, 2], [1, 4], apart=3, **axes)
    cells = cells_of(loader_of(load(None, {**SHAPE, **(overrides or {})})), crossed)
    speech = SpeechDigest("a" * 64, 500.0, "b" * 64)

    def found(experiment: Any) -> Results:
        return Results.model_validate(
            {**example_results(), "config": experiment.model_dump(mode="json"), "attacks": None}
        )

    return study_of_cells(
        [FinishedCell(cell, found(cell.experiment), speech) for cell in cells], "Ann (University of X)"
    )


def test_a_task_is_what_methods_and_seeds_share() -> None:
    study = shared(["l2ul", "scrub", "none"], recoveries=["none", "gentle"])
    task = study.task
    assert (task.sizes, task.requesters, task.apart, task.windows) == ((0, 10), (1, 2), 3, (0,))
    assert [each.name for each in task.recoveries] == ["gentle", "none"]
    assert [each.settings["rounds"] for each in task.recoveries] == [4, 0]
    assert task == shared(["none"], recoveries=["gentle", "none"]).task
    assert (task.corpus.name, task.corpus.generated, task.corpus.clients) == ("synthetic", True, 20)
    entries = {entry.name: entry for entry in study.methods}
    assert {name: entry.sees for name, entry in entries.items()} == {
        **{"l2ul": "forget", "scrub": "retain", "none": "forget"}
    }
    assert entries["none"].control and not entries["scrub"].control
    assert entries["l2ul"].settings["attack.eps"] == 0.25 and entries["l2ul"].version == "0.1.0"
    assert len(study.runs) == 3 * 2 * 2 * 2 * 2 and {run.contributor for run in study.runs} == {
        "Ann (University of X)"
    }


def test_what_is_ones_own_is_known_by_a_digest_and_without_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    digest = hashlib.sha256(OWN.encode()).hexdigest()
    study = shared([f"{file}:mine", "none"], aggregations=["sum", f"{file}:joined"])
    entry = next(entry for entry in study.methods if entry.name == "mine")
    assert (entry.method, entry.version, entry.source) == ("mine", f"sha256:{digest}", "somebody")
    assert "lr" in entry.settings
    assert study.task.aggregations == ("joined", "sum")
    assert study.task.settings["plugins.aggregation.joined"] == digest
    assert str(tmp_path) not in study.to_text() and tmp_path.name not in study.to_text()


@pytest.mark.parametrize("name", ["/home/ann/hubert-base", "facebook/hubert-base"])
def test_an_encoder_is_named_without_its_folder(name: str) -> None:
    study = shared(["none"], {"model.name": name})
    assert study.task.settings["model.name"] == "hubert-base" and "ann" not in study.to_text()
