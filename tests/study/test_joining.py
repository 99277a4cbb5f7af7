"""Studies by several people: what is joined, what is refused, what is told apart, and what a check finds."""

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_studies import measures, method, run, speech, study, task

from fedunlearn.config import Config
from fedunlearn.corpora.utterance import Corpus, Utterance
from fedunlearn.errors import BadInput
from fedunlearn.partition import ClientShare, Partition
from fedunlearn.report.statistics import pool
from fedunlearn.report.study.statistics import select
from fedunlearn.study.joining import check_study_file, join_rows, merge_studies
from fedunlearn.study.merge import merge
from fedunlearn.study.speech import digest_partition, digest_recordings
from fedunlearn.study.study_file import (
    SCHEMA_FILE,
    StudyFile,
    StudyRecovery,
    StudyTask,
    json_schema,
    read_study,
    write_study,
)
from fedunlearn.study.task import shareable, task_settings

ALICE = study("alice", {"calm": {1: 0.5, 2: 0.6}, "own": {1: 0.9}})
BOB = study("bob", {"calm": {3: 1.0}})
SEEDS_DIFFER = "methods do not have the same seeds: the best is marked by the seeds that all have (1)"


def joined(*studies: StudyFile) -> StudyFile:
    return merge_studies({f"{number}.json": each for number, each in enumerate(studies)})


def refusal(*studies: StudyFile) -> tuple[str, ...]:
    with pytest.raises(BadInput) as caught:
        joined(*studies)
    return caught.value.problems


# ---- joining -----------------------------------------------------------------------------------------------


def test_seeds_and_methods_of_several_people_are_one_table() -> None:
    """calm: gaps of forget accuracy .125, .125 and .375, a quarter of which is the gap; own: .275 / 4."""
    found = join_rows(joined(ALICE, BOB))
    gaps = pool(select(found.rows), "gap", "method")
    assert gaps["calm"].mean == pytest.approx((0.125 + 0.125 + 0.375) / 3 / 4)
    assert gaps["own"].mean == pytest.approx(0.275 / 4)
    assert found.notes == (SEEDS_DIFFER,)
    made_by = {(row.method, row.seed): row.contributor for row in select(found.rows).itertuples()}
    assert made_by == {
        ("calm", 1): "alice",
        ("calm", 2): "alice",
        ("calm", 3): "bob",
        ("own", 1): "alice",
    }


def test_a_run_that_two_people_made_with_equal_results_counts_once_whatever_it_took() -> None:
    again = study("carol", {"calm": {1: 0.5}}, seconds=7.0)
    found = join_rows(joined(ALICE, again))
    rows = select(found.rows, method="calm", seed=1)
    assert list(rows["contributor"]) == ["alice, carol"] and found.notes == (SEEDS_DIFFER,)


def test_where_results_differ_each_has_a_row_and_a_line_says_so() -> None:
    other = study("carol", {"calm": {1: 0.75}})
    found = join_rows(joined(ALICE, other))
    assert found.notes == (
        "calm, 20 utterances, sum, gentle, seed 1: alice and carol have different results (gap 0.0312 and "
        "0.0312); each has a row of their own",
        SEEDS_DIFFER,
    )
    assert set(found.rows["method"]) == {"calm (alice)", "calm (carol)", "own"}
    assert set(select(found.rows, method="calm (alice)")["seed"]) == {1, 2}


def test_one_name_for_two_settings_is_two_rows() -> None:
    entry = method("bob", "calm", settings={"lr": 0.02, "attack.eps": 0.1})
    found = join_rows(joined(ALICE, study("bob", {"calm": {3: 1.0}}, methods=[entry])))
    assert found.notes == (
        "calm: alice and bob differ in settings.lr; each has a row of their own",
        "methods do not have the same seeds: no seed is common to all, and the best is marked by means over "
        "different seeds",
    )
    assert {"calm (alice)", "calm (bob)"} < set(found.rows["method"])


def test_methods_with_the_same_seeds_need_no_note() -> None:
    assert not join_rows(study("alice", {"calm": {1: 0.5, 2: 0.6}, "own": {2: 0.9, 1: 1.0}})).notes


def test_a_study_that_is_merged_again_changes_nothing() -> None:
    both = joined(ALICE, BOB)
    assert joined(both, ALICE) == both and joined(ALICE) == ALICE


OUTCOMES = st.dictionaries(
    st.sampled_from(["calm", "own", "third"]),
    st.dictionaries(st.integers(1, 4), st.sampled_from([0.5, 0.6, 1.0]), min_size=1, max_size=3),
    min_size=1,
    max_size=3,
)


@settings(max_examples=15, deadline=None)
@given(st.lists(OUTCOMES, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_merging_does_not_matter(outcomes: list[Any], rng: Any) -> None:
    studies = [study(f"person {number}", found) for number, found in enumerate(outcomes)]
    whole = joined(*studies)
    rng.shuffle(studies)
    assert joined(*studies) == whole
    one_by_one = studies[0]
    for each in studies[1:]:
        one_by_one = joined(one_by_one, each)
    assert one_by_one == whole
    assert not check_study_file(whole, "whole")
    assert join_rows(whole).rows.equals(join_rows(one_by_one).rows)
    runs = {(run.contributor, run.key) for each in studies for run in each.runs}
    assert len(whole.runs) == len(runs)


# ---- refusing ----------------------------------------------------------------------------------------------


def changed_task(change: Callable[[StudyTask], dict[str, Any]]) -> StudyTask:
    return task(**change(task()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: {"corpus": t.corpus.model_copy(update={"clients": 5})},
            "corpus.clients is 4 and 5",
        ),
        (
            lambda t: {"corpus": t.corpus.model_copy(update={"emotions": ("sad",)})},
            "corpus.emotions is calm, sad and sad",
        ),
        (lambda t: {"sizes": (10, 20)}, "sizes is 20 and 10, 20"),
        (lambda t: {"requesters": (1, 4)}, "requesters is 1 and 1, 4"),
        (
            lambda t: {"settings": {**t.settings, "training.rounds": 10}},
            "training.rounds is 30 and 10",
        ),
        (
            lambda t: {"settings": {**t.settings, "model.name": "cnn"}},
            "model.name is functionals and cnn",
        ),
        (
            lambda t: {"recoveries": (StudyRecovery(name="none", settings={"rounds": 0}),)},
            "recoveries is gentle and none",
        ),
        (
            lambda t: {
                "recoveries": (
                    StudyRecovery(name="gentle", settings={**t.recoveries[0].settings, "lr": 0.05}),
                )
            },
            "recovery.lr of gentle is 0.02 and 0.05",
        ),
    ],
)
def test_another_task_is_refused_in_one_line_that_says_what_differs(
    change: Callable[[StudyTask], dict[str, Any]], words: str
) -> None:
    (line,) = refusal(ALICE, study("bob", {"calm": {3: 1.0}}, task=changed_task(change)))
    assert line == f"0.json and 1.json: not the same task: {words}; merge studies of one task only"


def test_several_differences_are_one_line() -> None:
    other = task(sizes=(48,), settings={**task().settings, "training.rounds": 3, "model.name": "cnn"})
    (line,) = refusal(ALICE, study("bob", {"calm": {3: 1.0}}, task=other))
    assert "sizes is 20 and 48 (and 2 more)" in line


def test_other_recordings_are_refused_also_with_other_seeds() -> None:
    other = study("bob", {"calm": {3: 1.0}}, speech=speech([3], corpus="b"))
    (line,) = refusal(ALICE, other)
    assert "the corpus digest is aaaaaaaaaaaa and bbbbbbbbbbbb" in line
    louder = study("bob", {"calm": {3: 1.0}}, speech=speech([3], level=501.0))
    (line,) = refusal(ALICE, louder)
    assert "the level of the recordings is 500.0 and 501.0" in line
    joined(ALICE, study("bob", {"calm": {3: 1.0}}, speech=speech([3], level=500.4)))


def test_generated_speech_is_compared_seed_by_seed() -> None:
    generated = task(corpus=task().corpus.model_copy(update={"generated": True}))
    one = study("alice", {"calm": {1: 0.5}}, task=generated)
    joined(one, study("bob", {"calm": {2: 0.5}}, task=generated, speech=speech([2], corpus="b")))
    (line,) = refusal(one, study("bob", {"calm": {1: 0.5}}, task=generated, speech=speech([1], corpus="b")))
    assert "the corpus digest of seed 1 is" in line


def test_another_partition_of_a_seed_is_refused() -> None:
    moved = [speech([1])[0].model_copy(update={"partition": "f" * 64})]
    (line,) = refusal(ALICE, study("bob", {"calm": {1: 0.5}}, speech=moved))
    assert "the partition of seed 1 is 000000000000 and ffffffffffff" in line


def test_a_setting_that_an_older_version_did_not_have_has_its_default() -> None:
    newer = task(settings={**task().settings, "training.local.gradient_clip": 5.0})
    assert Config().training.local.gradient_clip == 5.0
    both = joined(ALICE, study("bob", {"calm": {3: 1.0}}, task=newer))
    assert both.task.settings["training.local.gradient_clip"] == 5.0
    assert not check_study_file(both, "both")
    other = task(settings={**task().settings, "training.local.gradient_clip": 1.0})
    (line,) = refusal(ALICE, study("bob", {"calm": {3: 1.0}}, task=other))
    assert "training.local.gradient_clip is missing and 1.0" in line


def test_one_person_has_one_result_of_a_run_and_one_method_of_a_name() -> None:
    (line,) = refusal(ALICE, study("alice", {"calm": {1: 1.0}}))
    assert "alice has two different results of calm, 20 utterances, sum, gentle, seed 1 (gap 0.03" in line
    assert "--contributor" in line
    other = study("alice", {"calm": {3: 1.0}}, methods=[method("alice", "calm", version="0.2.0")])
    assert "alice has two different methods called calm" in refusal(ALICE, other)[0]


# ---- checking ----------------------------------------------------------------------------------------------


def test_a_whole_study_passes() -> None:
    assert check_study_file(ALICE, "a.json") == []


def with_run(**changed: Any) -> StudyFile:
    return study("alice", {"calm": {1: 0.5}}, runs=[run("alice", "calm", 1, 0.5).model_copy(update=changed)])


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (
            with_run(recovered=measures(0.5, gap=0.01)),
            "recovered.gap is 0.01, but the accuracies give 0.03125",
        ),
        (
            with_run(retrained=measures(0.5)),
            "retrained.gap is 0.03125, but the accuracies give 0.0625",
        ),
        (
            with_run(recovered=measures(0.51, gap_forget=0.125, gap=0.03125)),
            "recovered.forget is 0.51, not a share of 20 utterances",
        ),
        (with_run(seed=9), "its speech has no digest"),
        (with_run(size=48), "its size is not among the task's"),
        (with_run(method="other"), "is of no method of alice"),
        (with_run(contributor="bob"), "bob is not among the contributors"),
        (
            study(
                "alice",
                {"calm": {1: 0.5}},
                task=task().model_copy(update={"settings": {"model.name": "cnn"}}),
            ),
            "task.digest is not that of the task",
        ),
        (
            study("alice", {"calm": {1: 0.5}}, runs=[run("alice", "calm", 1, 0.5)] * 2),
            "alice has it twice",
        ),
        (study("alice", {"calm": {1: 0.5}}, runs=[]), "has no runs"),
    ],
)
def test_a_check_finds_what_does_not_follow_from_the_rest(damaged: StudyFile, words: str) -> None:
    found = check_study_file(damaged, "a.json")
    assert any(line.startswith("a.json: ") and words in line for line in found), found


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    file = write_study(ALICE, tmp_path)
    assert read_study(file) == read_study(tmp_path) == ALICE
    assert json.loads(file.read_text())["schema"] == "fedunlearn/study/1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no JSON", "is not JSON"),
        ("[]", "is not a study.json of fedunlearn"),
        ('{"schema": "fedunlearn/results/1"}', "is not a study.json of fedunlearn"),
        ('{"schema": "fedunlearn/study/2"}', "this version of fedunlearn reads fedunlearn/study/1"),
        ('{"schema": "fedunlearn/study/1"}', "contributors: Field required"),
    ],
)
def test_what_is_no_study_is_refused_in_one_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadInput) as caught:
        read_study(tmp_path / "a.json")
    (line,) = caught.value.problems
    assert words in line and line.startswith(str(tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("runs", "file", "03-01.wav"),
        ("runs", "contributor", "/home/alice"),
        ("methods", "name", "C:\\mine"),
        ("runs", "size", -1),
    ],
)
def test_paths_and_fields_of_other_kinds_are_refused(
    part: str, field: str, value: Any, tmp_path: Path
) -> None:
    content = json.loads(ALICE.to_text())
    content[part][0][field] = value
    (tmp_path / "study.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=rf"study\.json: {part}\.0\.{field}"):
        read_study(tmp_path)


def test_the_schema_in_the_package_is_the_one_made_from_the_types() -> None:
    """If this fails: python -m fedunlearn.study.study_file"""
    assert json.loads(SCHEMA_FILE.read_text(encoding="utf-8")) == json_schema()


# ---- what a study says of the speech and of the settings ---------------------------------------------------


def utterance(name: str, speaker: str, emotion: str, samples: int, value: int = 3) -> Utterance:
    return Utterance(name, speaker, emotion, lambda: np.full(samples, value, np.int16))


def corpus_of(*utterances: Utterance) -> tuple[Corpus, dict[str, Any]]:
    corpus = Corpus("folder", utterances, ("sad", "calm"))
    return corpus, {u.id: u.pcm() for u in utterances}


def test_a_corpus_digest_is_of_speakers_emotions_and_lengths_not_of_names() -> None:
    first = corpus_of(utterance("a", "Ann", "sad", 5), utterance("b", "Ben", "calm", 7, -5))
    digest, level = digest_recordings(*first)
    assert digest == hashlib.sha256(b"0\tsad\t5\n1\tcalm\t7").hexdigest()
    assert level == pytest.approx((5 * 3 + 7 * 5) / 12)
    renamed = corpus_of(utterance("x1", "s1", "sad", 5), utterance("x2", "s2", "calm", 7, -5))
    assert digest_recordings(*renamed) == (digest, level)
    for other in (
        corpus_of(utterance("a", "Ann", "sad", 5), utterance("b", "Ann", "calm", 7)),
        corpus_of(utterance("a", "Ann", "calm", 5), utterance("b", "Ben", "calm", 7)),
        corpus_of(utterance("a", "Ann", "sad", 6), utterance("b", "Ben", "calm", 7)),
    ):
        assert digest_recordings(*other)[0] != digest
    assert digest_recordings(*corpus_of()) == (hashlib.sha256(b"").hexdigest(), 0.0)


def test_a_partition_digest_is_of_who_has_which_utterances() -> None:
    one, two, three = (utterance(name, "Ann", "sad", 5) for name in "abc")
    corpus, _ = corpus_of(one, two, three)
    partition = Partition((ClientShare(0, (one,), (two,)), ClientShare(1, (), ())), (three,))
    assert digest_partition(corpus, partition) == hashlib.sha256(b"0\n1\n\n\n2").hexdigest()


def test_settings_are_shared_without_paths_recordings_and_speakers() -> None:
    config = Config().model_dump(mode="json")
    config["corpus"] |= {"path": "/home/ann/RAVDESS", "leave_out": ["Actor_01/03-01"]}
    config["model"]["name"] = "/home/ann/models/wav2vec2-base"
    config["availability"]["trace"] = "C:\\Users\\ann\\trace.csv"
    config["deletions"]["schedule"] = [{"client": 0, "speaker": "Ann", "utterances": ["Actor_01/03-01"]}]
    config["plugins"] = {"method /home/ann/mine.py": "0" * 64}
    found = task_settings(config)
    written = json.dumps(found)
    for secret in ("ann", "Ann", "Actor_01", "/", "\\\\"):
        assert secret not in written
    assert found["model.name"] == "wav2vec2-base" and found["availability.trace"] == "trace.csv"
    assert shareable({"a": ["/x/y", 'say "no"', {"k": "C:\\z"}], "b": 1.5, "c": None, "d": True}) == {
        **{"a": '["y", "say "no"", {"k": "z"}]', "b": 1.5, "c": None, "d": True},
    }
    default = Config().model_dump(mode="json")
    default["unlearning"]["calm"]["lr"] = 7.0
    default["seed"] = 9
    assert task_settings(default) == task_settings(Config().model_dump(mode="json"))
    for key in ("training.rounds", "guard.drop", "unlearning.clip", "evaluation.retrained_seeds"):
        assert key in found


# ---- the commands ------------------------------------------------------------------------------------------


def write(folder: Path, made: StudyFile) -> Path:
    folder.mkdir()
    return write_study(made, folder)


def test_the_commands_check_and_merge_and_leave_a_table_and_a_page(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a", ALICE), write(tmp_path / "b", BOB)
    code, output = command_line.call_wide("study", "check", one, two)
    assert code == 0 and "seeds 1, 2; by alice" in output and "seeds 3; by bob" in output
    out = tmp_path / "both"
    code, output = command_line.call_wide("study", "merge", one, two.parent, "--out", out)
    assert code == 0, output
    assert read_study(out) == joined(ALICE, BOB)
    with (out / "compare.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 4 * 4 and {row["contributor"] for row in rows} == {"alice", "bob"}
    assert "### Contributors" in (out / "compare.md").read_text()
    page = (out / "compare.html").read_text()
    assert "Contributors" in page and '<td class="left">1, 2</td>' in page and "<script" not in page
    again = merge([out, one], tmp_path / "again")
    assert again.study == joined(ALICE, BOB)


def test_a_refusal_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    one = write(tmp_path / "a", ALICE)
    other = write(tmp_path / "b", study("bob", {"calm": {3: 1.0}}, task=task(sizes=(48,)), runs=[]))
    code, output = command_line.call_wide("study", "merge", one, other, "--out", tmp_path / "out")
    assert code == 2 and "has no runs" in output
    two = study("bob", {"calm": {3: 1.0}}, task=task(settings={"training.rounds": 3}))
    other = write(tmp_path / "c", two)
    code, output = command_line.call_wide("study", "merge", one, other, "--out", tmp_path / "out")
    assert code == 2 and "not the same task" in output and not (tmp_path / "out").exists()
    (tmp_path / "a" / "cells").mkdir()
    code, output = command_line.call_wide("study", "merge", one, "--out", tmp_path / "a")
    assert code == 2 and "holds a comparison" in output
    code, output = command_line.call_wide("study", "check", tmp_path / "nothing.json")
    assert code == 2 and "nothing.json" in output
