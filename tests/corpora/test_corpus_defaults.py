"""What depends on the corpus is worked out from it: clients, unseen speakers, the default schedule."""

import json
from pathlib import Path

import pytest
from command_line import call
from hypothesis import given
from hypothesis import strategies as st
from made_corpora import make_corpus
from rich.console import Console
from tiny import tiny_corpus, tiny_partition

from fedunlearn.config import Config, load
from fedunlearn.config.deletion import DeletionSettings, ScheduledDeletion
from fedunlearn.config.partition import PartitionSettings
from fedunlearn.config.presets import preset
from fedunlearn.corpora import READERS
from fedunlearn.deletion.default_schedule import fit_default_schedule
from fedunlearn.deletion.schedule_check import check_schedule
from fedunlearn.errors import BadInput
from fedunlearn.experiment.preparation import prepare, read_speech, resolve
from fedunlearn.experiment.progress import Progress
from fedunlearn.partition import partition_corpus, with_counts

REAL = [name for name in READERS if name != "synthetic"]
QUICK = ("--engine", "inline", "--rounds", "2", "--set", "evaluation.bootstrap=100")
NO_CURVES = ("--set", "evaluation.retrained_seeds=1", "--set", "evaluation.relearn_steps=0")


def counts(clients: int | None, unseen: int | None, speakers: int | None) -> tuple[int, int]:
    found = with_counts(PartitionSettings(clients=clients, unseen_speakers=unseen), speakers)
    return found.client_count, found.unseen_count


# ---- numbers of clients and unseen speakers --------------------------------------------------------------


@pytest.mark.parametrize(
    ("speakers", "expected"),
    [
        (1, (1, 0)),
        (2, (2, 0)),  # TESS
        (3, (2, 1)),
        (4, (3, 1)),  # SAVEE
        (5, (4, 1)),
        (6, (4, 2)),
        (9, (7, 2)),  # nEMO: a sixth of 9 is 1.5
        (10, (8, 2)),  # EmoDB, IEMOCAP: 1.67
        (14, (12, 2)),
        (15, (12, 3)),  # 2.5
        (24, (20, 4)),  # RAVDESS
        (26, (20, 4)),
        (87, (20, 15)),  # ShEMO: 14.5
        (91, (20, 15)),  # CREMA-D: 15.2
    ],
)
def test_a_sixth_of_the_speakers_is_unseen_and_each_other_one_is_a_client(
    speakers: int, expected: tuple[int, int]
) -> None:
    assert counts(None, None, speakers) == expected


def test_generated_speech_has_twenty_clients_and_six_unseen_speakers() -> None:
    assert counts(None, None, None) == (20, 6)
    assert counts(4, None, None) == (4, 6) and counts(None, 2, None) == (20, 2)
    resolved = resolve(Config())
    assert (resolved.partition.clients, resolved.partition.unseen_speakers) == (20, 6)
    assert resolved.corpus.speakers == 26
    assert resolved.deletions == DeletionSettings()


def test_given_numbers_are_kept_and_the_other_one_makes_room_for_them() -> None:
    """Of 10 speakers."""
    assert counts(8, None, 10) == (8, 2)
    assert counts(9, None, 10) == (9, 1)
    assert counts(10, None, 10) == (10, 0)
    assert counts(11, None, 10) == (11, 0)  # an error of the partition, not of this rule
    assert counts(3, None, 10) == (3, 2)
    assert counts(None, 0, 10) == (10, 0)
    assert counts(None, 9, 10) == (1, 9)
    assert counts(8, 5, 10) == (8, 5)


@given(speakers=st.integers(1, 300), clients=st.none() | st.integers(1, 300))
def test_every_client_has_a_speaker_and_no_more_are_unseen_than_the_rule_says(
    speakers: int, clients: int | None
) -> None:
    found, unseen = counts(clients, None, speakers)
    assert 1 <= found <= (clients or 20) and (clients is None or found == clients)
    if clients is None or clients <= speakers:
        assert found + unseen <= speakers
    else:
        assert unseen == 0
    assert unseen == 0 or unseen <= max(2, speakers / 6 + 0.5)
    if clients is None:
        assert unseen >= (2 if speakers >= 6 else 1 if speakers >= 3 else 0)
        assert found == min(20, speakers - unseen)  # nobody is left out while there is room
        assert counts(found, None, speakers) == (found, unseen)


@given(speakers=st.integers(1, 300), clients=st.integers(1, 300))
def test_more_clients_never_leave_more_unseen_speakers(speakers: int, clients: int) -> None:
    assert counts(clients + 1, None, speakers)[1] <= counts(clients, None, speakers)[1]
    assert counts(clients, None, speakers)[1] <= counts(clients, None, speakers + 1)[1]


# ---- the default schedule --------------------------------------------------------------------------------


def events(clients: int, takes: int) -> list[tuple[int, str, int]]:
    """Of clients with 3 emotions x ``takes`` utterances, of which a third are held out."""
    partition = tiny_partition(tiny_corpus(clients, takes), clients=clients, unseen_speakers=0)
    settings = fit_default_schedule(DeletionSettings(), partition)
    check_schedule(settings, partition, learning_rounds=3)
    return [(event.client, event.what, event.count) for event in settings.schedule]


def test_the_default_schedule_is_kept_where_it_fits() -> None:
    """20 is half of 40 training utterances: 60 less a third."""
    assert events(4, takes=20) == [(0, "all", 0), (1, "some", 20), (2, "some", 12), (3, "some", 12)]


def test_a_client_deletes_at_most_half_of_what_it_trains_on_unless_it_deletes_everything() -> None:
    """27 utterances, of which 18 are trained on; 9 and 6."""
    assert events(4, takes=9) == [(0, "all", 0), (1, "some", 9), (2, "some", 9), (3, "some", 9)]
    assert events(4, takes=3) == [(0, "all", 0), (1, "some", 3), (2, "some", 3), (3, "some", 3)]


def test_everything_is_deleted_only_where_two_clients_are_left() -> None:
    assert events(3, takes=9) == [(0, "all", 0), (1, "some", 9), (2, "some", 9)]
    assert events(2, takes=9) == [(0, "some", 9), (1, "some", 9)]
    assert events(1, takes=9) == [(0, "some", 9)]


def test_any_other_schedule_is_left_as_it_is_and_checked() -> None:
    partition = tiny_partition(clients=4)
    given = DeletionSettings(schedule=(ScheduledDeletion(client=1, what="some", count=99, round=1),))
    assert fit_default_schedule(given, partition) == given
    with pytest.raises(BadInput, match="count is 99, but client 1 trains on 6"):
        check_schedule(given, partition, learning_rounds=3)


@given(clients=st.integers(1, 8), takes=st.integers(1, 12), later=st.integers(0, 9))
def test_the_fitted_schedule_is_possible_with_any_partition(clients: int, takes: int, later: int) -> None:
    corpus = tiny_corpus(clients, takes)
    partition = partition_corpus(corpus, PartitionSettings(clients=clients, unseen_speakers=0), seed=later)
    settings = fit_default_schedule(DeletionSettings(deadline=later), partition)
    check_schedule(settings, partition, learning_rounds=1)
    assert settings.deadline == later and settings.schedule
    assert fit_default_schedule(settings, partition).schedule == settings.schedule


# ---- every reader ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reader", "clients", "unseen"),
    [
        ("ravdess", 20, 4),
        ("crema-d", 20, 15),
        ("emodb", 8, 2),
        ("nemo", 7, 2),
        ("iemocap", 8, 2),
        ("tess", 2, 0),
        ("savee", 3, 1),
        ("shemo", 20, 15),
        ("manifest", 10, 2),
    ],
)
def test_the_preset_of_every_reader_fits_its_corpus(
    tmp_path: Path, reader: str, clients: int, unseen: int
) -> None:
    folder = make_corpus(tmp_path / "corpus", reader)
    config = resolve(load(preset(reader), {"corpus.path": str(folder)}))
    assert (config.partition.clients, config.partition.unseen_speakers) == (clients, unseen)
    corpus, partition = read_speech(config)
    assert len(partition.clients) == clients
    assert len({u.speaker for u in partition.unseen}) == unseen
    assert {u.speaker for u in partition.train} | {u.speaker for u in partition.unseen} == set(
        corpus.speakers
    )
    assert resolve(config) == config  # and so a run can be resumed with its own settings


def test_every_real_reader_has_a_preset_here() -> None:
    for reader in REAL:
        assert load(preset(reader)).corpus.name == reader


def test_malicious_clients_are_checked_once_the_number_of_clients_is_known(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus", "emodb")
    overrides = {"corpus.name": "emodb", "corpus.path": str(folder), "attackers.clients": [8]}
    with pytest.raises(BadInput, match=r"attackers.clients: there is no client 8 \(0 to 7 are there\)"):
        read_speech(resolve(load(None, overrides)))


# ---- the command line ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_emodb_runs_with_nothing_but_its_name_and_folder(tmp_path: Path) -> None:
    """21 utterances a speaker, of which 17 are trained on: half of them is 8."""
    folder, out = make_corpus(tmp_path / "emodb", "emodb", sound=True), tmp_path / "run"
    code, shown = call("run", "--corpus", "emodb", "--data", folder, "--out", out, *QUICK, *NO_CURVES)
    assert code == 0, shown
    line = (
        "Corpus: emodb, 10 speakers, 7 emotions, 210 utterances; 8 clients, 2 unseen speakers "
        "(worked out: clients, unseen speakers)"
    )
    assert line in " ".join(shown.split())
    written = load(out / "config.toml")
    assert (written.partition.clients, written.partition.unseen_speakers) == (8, 2)
    assert [(e.client, e.what, e.count) for e in written.deletions.schedule] == [
        (0, "all", 0),
        (1, "some", 8),
        (2, "some", 8),
        (3, "some", 8),
    ]
    again = ("run", "--corpus", "emodb", "--data", folder, "--out", out, "--resume", *QUICK, *NO_CURVES)
    code, shown = call(*again)
    assert code == 0, shown
    folder.rename(tmp_path / "elsewhere")
    code, shown = call(*again)
    assert code == 2 and len(shown.strip().splitlines()) == 1 and f"{folder}: no such" in shown


@pytest.mark.parametrize(("clients", "unseen"), [(8, 2), (9, 1), (10, 0)])
def test_emodb_with_a_number_of_clients_leaves_what_it_can_unseen(
    tmp_path: Path, clients: int, unseen: int
) -> None:
    folder = make_corpus(tmp_path / "emodb", "emodb", sound=True)
    overrides = {"corpus.name": "emodb", "corpus.path": str(folder), "partition.clients": clients}
    quiet = Progress(Console(quiet=True))
    experiment = prepare(load(None, overrides), tmp_path / "run", tmp_path / "cache", quiet)
    assert len({u.speaker for u in experiment.partition.unseen}) == unseen
    warned = [line for line in experiment.corpus.warnings if line.startswith("no unseen speakers")]
    assert len(warned) == (unseen == 0)
    experiment.close()


def test_more_clients_than_emodb_has_speakers_is_one_line(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "emodb", "emodb")
    code, shown = call(
        "run", "--corpus", "emodb", "--data", folder, "--clients", "11", "--out", tmp_path / "o"
    )
    assert code == 2 and len(shown.strip().splitlines()) == 1
    assert "partition.clients is 11, but emodb leaves 10 client speakers (10 less 0 unseen)" in shown


@pytest.mark.usefixtures("undrawn")
def test_a_comparison_draws_its_requesters_from_the_clients_that_the_corpus_has(tmp_path: Path) -> None:
    """Of 12 speakers 2 are unseen: there are 10 clients, and an eleventh cannot ask."""
    folder, out = make_corpus(tmp_path / "corpus", "manifest", sound=True), tmp_path / "out"
    named = ("compare", "--config", "manifest", "--data", folder, "--methods", "none", "--sizes", "2")
    quick = ("--seeds", "1", "--set", "training.rounds=2", "--set", "evaluation.bootstrap=100", *NO_CURVES)
    named = (*named, "--engine", "inline", *quick, "--out", out)
    code, shown = call(*named, "--requesters", "11")
    assert code == 2 and "--requesters 11: there are 10 clients" in shown
    code, shown = call(*named, "--requesters", "2")
    assert code == 0, shown
    (cell,) = (out / "cells").glob("*.json")
    assert json.loads(cell.read_text())["corpus"]["clients"] == 10
