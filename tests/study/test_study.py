"""The cells of a study: which there are, what decides each, and what their names say."""

from collections.abc import Mapping
from typing import Any

import pytest

from fedunlearn import config as configuration
from fedunlearn.config import Config
from fedunlearn.errors import BadInput
from fedunlearn.results_schema import Results
from fedunlearn.study.grid import (
    RECOVERIES,
    WHOLE_CLIENT,
    Axes,
    Variant,
    cells_of,
    parse_sizes,
    parse_variant,
    recovery_name,
    recovery_overrides,
)
from fedunlearn.study.rows import COLUMNS, csv_of, frame_of, rows_of


def load(overrides: Mapping[str, Any]) -> Config:
    small = {"partition.clients": 20, "training.local.steps": 7, "training.local.lr": 0.3}
    return configuration.load(None, {**small, **overrides})


def axes(**changed: Any) -> Axes:
    given: dict[str, Any] = dict(variants=[Variant("l2ul", "l2ul")], sizes=[10], requesters=[1], seeds=[0])
    return Axes(**given | changed)


def test_a_variant_is_a_method_with_settings_of_its_own() -> None:
    variant = parse_variant("tau 0.1 =l2ul:attack.eps=0.1, objective=masked,attack.norm=linf")
    assert variant == Variant(
        "tau 0.1", "l2ul", (("attack.eps", 0.1), ("objective", "masked"), ("attack.norm", "linf"))
    )
    assert variant.written == "attack.eps=0.1, objective=masked, attack.norm=linf"
    (cell,) = cells_of(load, axes(variants=[variant]))
    chosen = cell.experiment.unlearning
    assert (chosen.method, chosen.l2ul.attack.eps, chosen.l2ul.objective) == ("l2ul", 0.1, "masked")
    assert (chosen.l2ul.attack.norm, chosen.l2ul.lr) == ("linf", load({}).unlearning.l2ul.lr)
    (cell,) = cells_of(load, axes(variants=[parse_variant("slow=boundary-shrink:lr=1e-4")]))
    assert cell.experiment.unlearning.boundary_shrink.lr == 1e-4
    (cell,) = cells_of(load, axes(variants=[parse_variant("short=not:rounds=2")]))
    assert cell.experiment.unlearning.not_.rounds == 2
    assert parse_variant("plain=delete") == Variant("plain", "delete")


def test_a_variant_is_a_control_where_its_method_is_and_what_its_results_lack_is_unknown() -> None:
    variants = [Variant("nothing", "none"), Variant("none", "l2ul"), Variant("all seen", "scrub")]
    for cell, control in zip(cells_of(load, axes(variants=variants)), (True, False, False), strict=True):
        rows = list(rows_of(cell, Results.model_validate({})))
        assert [row.stage for row in rows] == ["original", "unlearned", "recovered", "retrained"]
        assert {(row.method, row.control) for row in rows} == {(cell.variant.name, control)}
        found = frame_of(rows)
        assert found["gap"].isna().all() and found["gap"].dtype == float
        assert csv_of(found).splitlines()[0] == ",".join(COLUMNS)


def test_the_papers_ablations_are_four_variants() -> None:
    written = {
        "relabel": "attack.per_utterance=0,elasticity=0",
        "+Adv": "elasticity=0",
        "+Ela": "attack.per_utterance=0",
        "+Adv+Ela": "",
    }
    variants = [parse_variant(f"{name}=l2ul:{settings}") for name, settings in written.items()]
    cells = cells_of(load, axes(variants=variants))
    chosen = [cell.experiment.unlearning.l2ul for cell in cells]
    assert [(c.attack.per_utterance > 0, c.elasticity > 0) for c in chosen] == [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ]


def test_every_combination_is_there_once_seed_by_seed() -> None:
    given = axes(
        variants=[Variant("l2ul", "l2ul"), Variant("none", "none")],
        sizes=[10, 20],
        requesters=[1, 4],
        seeds=[5, 6],
        aggregations=["sum", "mean"],
        recoveries=["none", "ordinary"],
    )
    cells = cells_of(load, given)
    assert len(cells) == len(set(cells)) == len({c.name for c in cells}) == 2**6
    assert [c.seed for c in cells] == [5] * 32 + [6] * 32
    for cell in cells:
        made = cell.experiment
        assert (made.seed, made.unlearning.method) == (cell.seed, cell.variant.algorithm)
        assert (made.unlearning.aggregation, recovery_name(made)) == (cell.aggregation, cell.recovery)
        schedule = made.deletions.schedule
        assert [(e.what, e.count, e.after_learning) for e in schedule] == [
            ("some", cell.size, 0)
        ] * cell.requesters
    requests = {(c.seed, c.size, c.requesters, c.experiment.deletions) for c in cells}
    assert len(requests) == 8, "who asks depends on the seed, the size and how many ask, and on nothing else"


def test_a_whole_client_is_a_size_of_its_own() -> None:
    assert parse_sizes("--sizes", "20, all,10,020,all") == [20, WHOLE_CLIENT, 10]
    assert parse_sizes("--sizes", "all") == [WHOLE_CLIENT]
    cells = cells_of(load, axes(sizes=[10, WHOLE_CLIENT], requesters=[2]))
    assert [cell.name for cell in cells] == ["l2ul-2x10-sum-gentle-seed0", "l2ul-2xall-sum-gentle-seed0"]
    schedule = cells[1].experiment.deletions.schedule
    assert [(event.what, event.count) for event in schedule] == [("all", 0)] * 2


@pytest.mark.parametrize("text", ["", "ten", "0", "all,", "all,0", "every", "10,-1", "10,,20"])
def test_a_size_that_is_none_is_reported_with_what_may_be_written(text: str) -> None:
    with pytest.raises(BadInput, match=r"--sizes .*or all: everything that a client holds"):
        parse_sizes("--sizes", text)


def test_without_axes_of_their_own_aggregation_and_recovery_are_the_experiments() -> None:
    (cell,) = cells_of(load, axes())
    assert (cell.aggregation, cell.recovery) == ("sum", "gentle")
    assert cell.experiment.recovery == load({}).recovery


def test_windows_are_crossed_with_requests_one_after_the_other() -> None:
    cells = cells_of(load, axes(requesters=[3], windows=[0, 5], apart=2))
    assert [(c.window, c.experiment.deletions.window) for c in cells] == [(0, 0), (5, 5)]
    assert cells[0].name == "l2ul-3x10-sum-gentle-seed0" and cells[1].name.endswith("gentle-window5-seed0")
    schedules = [c.experiment.deletions.schedule for c in cells]
    assert schedules[0] == schedules[1] and [e.after_learning for e in schedules[0]] == [0, 2, 4]
    (cell,) = cells_of(lambda o: load({"deletions.window": 3, **o}), axes())
    assert cell.window == 3, "the experiment's own"


def test_windows_without_room_for_another_request_are_refused() -> None:
    with pytest.raises(BadInput, match="--windows: all ask at once"):
        cells_of(load, axes(requesters=[1, 4], windows=[0, 5]))
    assert len(cells_of(load, axes(requesters=[4], windows=[5]))) == 1


@pytest.mark.parametrize("name", RECOVERIES)
def test_a_named_recovery_is_called_by_its_name(name: str) -> None:
    base = load({})
    made = load(recovery_overrides(name, base))
    assert recovery_name(made) == name
    assert made.model_copy(update={"recovery": base.recovery}) == base
    rounds, steps, lr = made.recovery.rounds, made.recovery.steps, made.recovery.lr
    if name == "none":
        assert rounds == 0
    else:
        gentle = base.recovery.rounds, base.recovery.steps, base.recovery.lr
        assert (rounds, steps, lr) == ((4, 7, 0.3) if name.startswith("ordinary") else gentle)
        assert made.recovery.reversion == ("removed" if name.endswith("removed") else "kept")


def test_gentle_is_without_removal_even_where_the_experiment_removes() -> None:
    base = load({"recovery.reversion": "removed"})
    assert recovery_name(base) == "gentle-removed"
    assert load(recovery_overrides("gentle", base)).recovery.reversion == "kept"


def test_what_the_settings_refuse_is_reported_all_at_once_by_the_option_that_named_it() -> None:
    given = axes(
        variants=[parse_variant("x=l2ul:lr=0"), parse_variant("y=pga:radios=1")], aggregations=["pile"]
    )
    with pytest.raises(BadInput) as raised:
        cells_of(load, given)
    problems = raised.value.problems
    assert [line.split(":")[0] for line in problems] == ["--variant x", "--variant y", "--aggregations pile"]
    assert "unlearning.l2ul.lr" in problems[0] and "radios is not a setting" in problems[1]
