"""The section [study] as questions, variants and cells; which cells may run beside each other."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_run import small_config

from fedunlearn.config import Config, load
from fedunlearn.config.presets import preset
from fedunlearn.errors import BadInput
from fedunlearn.study.cell_pool import SharedWork
from fedunlearn.study.grid import Axes, StudyCell, Variant, cells_of, loader_of
from fedunlearn.study.plan import Study, study_of
from fedunlearn.study.runner import StudyRunner, digest_of, group_speakers

STUDY: dict[str, Any] = {
    "study.sizes": [3, 6],
    "study.variants": [
        {"name": "plain", "method": "l2ul", "settings": {"elasticity": 0.0, "attack": {"steps": 1}}}
    ],
    "study.sweeps": [{"name": "tau", "variant": "plain", "key": "attack.eps", "values": [0.1, 0.25]}],
    "study.questions": [
        {"title": "One", "variants": ["plain", "none"]},
        {"title": "Two", "sweep": "tau", "sizes": [6], "recoveries": ["none"]},
    ],
}
AXES = Axes(variants=[], sizes=[], requesters=[1], seeds=[0], recoveries=["gentle"])


def study(only: list[int] | None = None, **changed: Any) -> Study:
    return study_of(
        load(None, STUDY | {k.replace("__", "."): v for k, v in changed.items()}).study, AXES, only
    )


def test_a_question_has_its_own_variants_sizes_and_recoveries() -> None:
    one, two = study().questions
    assert one.axes.variants == [
        Variant("plain", "l2ul", (("elasticity", 0.0), ("attack.steps", 1))),
        Variant("none", "none"),
    ]
    assert (one.axes.sizes, one.axes.recoveries, one.sweep) == ([3, 6], ["gentle"], None)
    assert two.sweep is not None and two.sweep.values == {"tau 0.1": 0.1, "tau 0.25": 0.25}
    assert (two.axes.sizes, two.axes.recoveries) == ([6], ("none",))
    assert dict(two.axes.variants[0].settings) == {"elasticity": 0.0, "attack.steps": 1, "attack.eps": 0.1}


def test_sizes_on_the_command_line_are_those_of_each_question_that_are_run() -> None:
    assert [(q.title, q.axes.sizes) for q in study([3]).questions] == [("One", [3])]
    with pytest.raises(BadInput, match=r"--sizes 4: no question of the study has any of these sizes"):
        study([4])


def test_without_questions_the_axes_are_the_study() -> None:
    axes = Axes([Variant("none", "none")], [4], [1], [0])
    (question,) = study_of(Config().study, axes).questions
    assert question.axes is axes and question.title == ""


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"questions": [{"title": "One"}]}, "name variants or a sweep"),
        ({"questions": [{"title": "One", "sweep": "sigma"}]}, "there is no sweep 'sigma'"),
        (
            {"sweeps": [{"name": "tau", "variant": "x", "key": "lr", "values": [1.0]}], "questions": []},
            "there is no variant 'x'",
        ),
        (
            {"variants": [{"name": "a", "method": "calm"}, {"name": "a", "method": "l2ul"}], "sweeps": []},
            "a comes twice",
        ),
        ({"questions": [{"title": "One", "variants": ["plain"]}] * 2}, "questions: One comes twice"),
        ({"variants": [{"name": "a/b", "method": "calm"}]}, "study.variants.0.name"),
        ({"claims": [{"text": "x", "parts": []}]}, "study.claims.0.parts"),
    ],
)
def test_a_mistake_in_the_section_is_one_line(changed: dict[str, Any], line: str) -> None:
    with pytest.raises(BadInput) as caught:
        load(None, STUDY | {f"study.{key}": value for key, value in changed.items()})
    assert any(line in problem for problem in caught.value.problems)


def test_a_claim_about_what_no_question_runs_is_refused() -> None:
    parts = [{"measure": "gap", "of": "plane", "less": "retrained", "relation": "below"}]
    with pytest.raises(BadInput, match="It works: no question runs a variant 'plane'"):
        study(study__claims=[{"text": "It works", "parts": parts}])


def test_a_study_does_not_decide_a_run(tmp_path: Path) -> None:
    """And a cell of another name with the same settings is the same run."""
    axes = Axes([Variant("a", "l2ul"), Variant("b", "l2ul", (("elasticity", 0.1),))], [4], [1], [0])
    plain, _ = cells_of(loader_of(small_config()), axes)
    one, two = cells_of(loader_of(small_config(study__seeds=[7])), axes)
    assert digest_of(plain) == digest_of(one) == digest_of(two)
    runner = StudyRunner(tmp_path)
    assert runner.file(one) != runner.file(two)
    runner.file(one).parent.mkdir()
    runner.file(one).write_text("{}")
    assert runner.file(two) == runner.file(one)


def test_the_preset_of_the_paper_is_a_study_whose_claims_can_be_decided() -> None:
    config = load(preset("paper"))
    own = config.study
    axes = Axes([], own.sizes, own.requesters, own.seeds, recoveries=own.recoveries)
    paper = study_of(own, axes)
    assert {size for q in paper.questions for size in q.axes.sizes} == {5, 10, 20, 50, 100}
    assert len(own.seeds) >= 3 and len(paper.claims) >= 4
    first = [question for question in paper.questions if question.axes.recoveries == own.recoveries]
    run = {variant.name: question.axes.sizes for question in first for variant in question.axes.variants}
    for claim in paper.claims:
        for part in claim.parts:
            assert set(part.sizes) <= set(run.get(part.of, own.sizes)), claim.text
            assert set(part.less_sizes) <= set(run.get(part.less, own.sizes)), claim.text
    assert any("not public" in note for note in paper.notes)


# ---- several speakers on a client --------------------------------------------------------------------------


def test_speakers_are_grouped_until_every_client_holds_enough() -> None:
    """8 speakers of 14 training utterances, 2 of them unseen: with 3 clients each holds 28."""
    config = small_config(corpus__speakers=8)
    for size, clients in ((14, 6), (15, 3), (28, 3), (29, 2), (42, 2), (43, 6)):
        found = group_speakers(config, study_of(config.study, Axes([], [size], [1], [0, 1])))
        assert found.partition.clients == clients, size
    part = study([3], study__sizes=[3, 15])
    assert part.largest == 15, "a part of a study is run on the clients of the whole"
    assert group_speakers(config, part).partition.clients == 3
    four = study_of(config.study, Axes([], [15], [4], [0]))
    assert group_speakers(config, four).partition.clients == 6, "3 clients cannot be 4 requesters"


# ---- which cells run beside each other -------------------------------------------------------------------


def cells(seeds: int, sizes: list[int]) -> list[StudyCell]:
    axes = Axes([Variant("a", "l2ul"), Variant("b", "none")], sizes, [1], list(range(seeds)))
    return cells_of(loader_of(small_config()), axes)


def test_one_cell_trains_what_others_share() -> None:
    """Two seeds, sizes 3 and 4, methods a and b; the first cell trains the original of seed 0."""
    todo = cells(2, [3, 4])
    work = SharedWork([])
    assert work.choose(todo, []) == 0
    assert work.choose(todo[1:], todo[:1]) == 3, "the next seed"
    assert work.choose(todo[1:4], todo[:1]) is None
    work.note_end(todo[0])
    assert work.choose(todo[1:], []) == 0
    assert work.choose(todo[2:4], [todo[2]]) is None, "its retrained models are being trained"
    assert work.choose(todo[1:4], [todo[2]]) == 0


def test_one_cell_trains_the_shadow_federations_that_others_share() -> None:
    """A privileged baseline has none, so that of two methods after it one has to begin alone."""
    variants = [Variant(name, name) for name in ("scrub", "l2ul", "none")]
    loader = loader_of(small_config())
    scrub, l2ul, none = cells_of(loader, Axes(variants, [3], [1], [0], shadows=8))
    work = SharedWork([scrub])
    assert work.choose([none], [l2ul]) is None
    work.note_end(l2ul)
    assert work.choose([none], [l2ul]) == 0
    without = SharedWork([scrub])
    plain = cells_of(loader, Axes(variants, [3], [1], [0]))
    assert without.choose(plain[2:], plain[1:2]) == 0


@given(seeds=st.integers(1, 3), workers=st.integers(2, 4), data=st.data())
def test_all_cells_are_run_and_nothing_is_trained_twice(
    seeds: int, workers: int, data: st.DataObject
) -> None:
    waiting, running, trained, done = cells(seeds, [3, 4]), list[StudyCell](), set[Any](), 0
    total, work = len(waiting), SharedWork([])
    while waiting or running:
        while waiting and len(running) < workers:
            place = work.choose(waiting, running)
            if place is None:
                break
            running.append(waiting.pop(place))
        assert running
        needs = [{cell.seed, (cell.seed, cell.size)} - trained for cell in running]
        assert sum(map(len, needs)) == len(set().union(*needs))
        ended = running.pop(data.draw(st.integers(0, len(running) - 1)))
        trained |= {ended.seed, (ended.seed, ended.size)}
        work.note_end(ended)
        done += 1
    assert done == total
