"""The guard: bounds worked out by hand, on updates of one tensor and on a model of two weights."""

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import TinyModel
from torch import Tensor

from fedunlearn.config.guard import GuardSettings
from fedunlearn.messages.rehearsals import Rehearsal
from fedunlearn.messages.update import Update
from fedunlearn.models.probes import Probes
from fedunlearn.server.aggregation import aggregate_unlearning
from fedunlearn.server.guard import Guard, Intervention, Limits

BEFORE = {"w": torch.zeros(2)}
OFF = GuardSettings(norm=0, together=0, drop=0, silenced=0)
Scores = Callable[[Mapping[str, Tensor]], float]


def update(client: int, *values: float) -> Update:
    return Update(client, 10, {"w": torch.tensor(values, dtype=torch.float32)})


def total(updates: Sequence[Update]) -> dict[str, Tensor]:
    return aggregate_unlearning(updates, "sum", 100)


def rehearsal(norm: float, silenced: float = 0.0, lost: int = 0) -> Rehearsal:
    """Of a client that holds out 20 utterances, of which it loses some."""
    return Rehearsal(norm, silenced, 15, 15 - lost, 20)


def examine(
    settings: GuardSettings,
    *updates: Update,
    longest: float = math.inf,
    together: float = math.inf,
    accuracy: Callable[[Mapping[str, Tensor]], float | None] = lambda _: 0.5,
    silenced: Scores = lambda _: 0.0,
) -> tuple[dict[int, list[float]], list[Intervention]]:
    """What is left of each client's update, and what was done.

    The settings' drop and silenced are the limits as they are: nobody rehearsed.
    """
    limits = Limits(longest, together, math.inf, settings.drop or math.inf, settings.silenced)
    guard = Guard(settings, BEFORE, total, limits, accuracy, silenced)
    passed, done = guard.examine(updates, {u.client: [f"r{u.client}"] for u in updates}, 7)
    return {u.client: u.difference["w"].tolist() for u in passed}, done


def loses(per_unit: float) -> Scores:
    """Accuracy 0.8, less so much per unit of the first weight."""
    return lambda state: 0.8 - per_unit * float(state["w"][0])


# ---- limits ----------------------------------------------------------------------------------------------

SETTINGS = GuardSettings(norm=2.0, together=2.0, drop=0.15, silenced=0.5)


def test_the_limits_follow_from_the_rehearsals() -> None:
    """Longest 1.5: one may be 3 long, four together 2 x 2 x 1.5 = 6; .4 + .5; median drop 4/20, and .15."""
    rehearsals = [rehearsal(1.0, 0.1, 4), rehearsal(1.5, 0.4, 6), rehearsal(0.5, 0.2, 0)]
    limits = Limits.of(SETTINGS, rehearsals, distance=4.0)
    assert limits.longest == 3.0
    assert limits.longest_together(4) == 6.0
    assert limits.silenced == pytest.approx(0.9)
    assert limits.drop == pytest.approx(0.35)


def test_a_quarter_of_the_distance_counts_as_rehearsed() -> None:
    """8 away from the first weights: as if somebody had rehearsed 2; .15 of accuracy; .3 + .5."""
    limits = Limits.of(SETTINGS, [rehearsal(0.1), rehearsal(0.2)], distance=8.0)
    assert (limits.longest, limits.longest_together(4), limits.drop) == (4.0, 8.0, 0.15)
    assert limits.silenced == 0.8


@pytest.mark.parametrize("rehearsals", [[], [rehearsal(0.0), rehearsal(0.0)]])
def test_without_rehearsals_half_the_distance_may_be_gone(rehearsals: list[Rehearsal]) -> None:
    """Also where the method changed nothing on any of the clients."""
    limits = Limits.of(SETTINGS, rehearsals, distance=8.0)
    assert (limits.longest, limits.drop, limits.silenced) == (4.0, 0.15, 0.95)
    assert limits.longest_together(9) == 3 * 4.0


def test_one_liar_loosens_the_limits_no_further_than_the_distance() -> None:
    """Its 1e6 and 1.0 would be 2e6 and 1.5; four honest clients rehearse 1 and .1, the model has gone 8."""
    honest = [rehearsal(1.0, 0.1) for _ in range(4)]
    limits = Limits.of(SETTINGS, [*honest, rehearsal(1e6, 1.0, 15)], distance=8.0)
    assert (limits.longest, limits.silenced, limits.drop) == (8.0, 0.95, 0.15)
    assert limits.longest_together(4) == 4 * 8.0


def test_more_than_half_of_the_rehearsals_extend_the_limits_past_the_distance() -> None:
    """Early in learning: the model has gone .4; honest updates are 1 long and take nine tenths of a class."""
    limits = Limits.of(SETTINGS, [rehearsal(r, 0.9) for r in (0.9, 1.0, 1.1)], distance=0.4)
    assert (limits.longest, limits.silenced) == (2.0, pytest.approx(1.4))
    assert limits.longest_together(4) == pytest.approx(4.4)


NORMS = st.floats(0.01, 100)


@given(st.lists(NORMS, min_size=1, max_size=5), st.floats(0, 1e9), st.floats(0.1, 100))
def test_a_liar_cannot_tighten_the_limits_and_loosens_them_so_far(
    honest: list[float], lie: float, distance: float
) -> None:
    """Not below those of the honest alone without the medians; not past all caps."""
    true = [rehearsal(norm, 0.2) for norm in honest]
    alone, with_lie = (
        Limits.of(SETTINGS, given_, distance) for given_ in (true, [*true, rehearsal(lie, 1.0, 15)])
    )
    assert with_lie.longest >= min(alone.longest, distance)
    assert with_lie.silenced >= alone.silenced
    if len(honest) > 1:
        assert with_lie.longest <= max(distance, 2 * max(honest))
        assert with_lie.silenced <= 0.95


def test_noise_that_all_clients_add_is_allowed_for() -> None:
    """2 x (a quarter of 8 and noise 10 long) would be 24; the distance and the noise are 18, the cap."""
    assert Limits.of(SETTINGS, [rehearsal(8.9)], distance=8.0, noise=10.0).longest == 18.0


def test_bounds_that_are_off_stay_off() -> None:
    limits = Limits.of(OFF, [rehearsal(1.0)], distance=1.0)
    assert limits.longest == limits.longest_together(3) == limits.drop == math.inf


def test_where_nothing_has_been_learned_any_length_passes() -> None:
    assert Limits.of(SETTINGS, [], math.inf).longest == math.inf


# ---- length ----------------------------------------------------------------------------------------------


def test_a_long_update_is_clipped_to_the_limit() -> None:
    """(3, 4) is 5 long; 2.5 are allowed: half of it is left."""
    left, (done,) = examine(OFF, update(3, 3, 4), longest=2.5)
    assert left == {3: [1.5, 2.0]}
    assert done == Intervention(7, 3, ("r3",), "clipped", 5.0, 2.5, None, None, 0.5)


def test_a_long_update_is_refused_where_settings_say_so() -> None:
    settings = OFF.model_copy(update={"too_long": "refuse"})
    left, (done,) = examine(settings, update(3, 3, 4), update(5, 1, 0), longest=2.0)
    assert left == {5: [1.0, 0.0]}
    assert (done.client, done.what, done.factor) == (3, "refused", 0.0)
    assert done.reason == "guard: refused, 5 long where 2 are allowed"


def test_exactly_the_limit_is_not_too_long() -> None:
    assert examine(OFF, update(3, 3, 4), longest=5.0) == ({3: [3.0, 4.0]}, [])


def test_several_are_bounded_together() -> None:
    """Each is 5 long, which 6 allow; together 10, and sqrt(2) x 2.828 = 4: four tenths of each are left."""
    left, done = examine(OFF, update(5, 3, 4), update(3, 3, 4), longest=6.0, together=math.sqrt(8))
    assert {c: pytest.approx([1.2, 1.6]) for c in (3, 5)} == left
    assert [(d.client, d.what, d.factor, d.limit) for d in done] == [
        (client, "clipped", pytest.approx(0.4), pytest.approx(4.0)) for client in (3, 5)
    ]


def test_one_alone_is_not_bounded_by_what_several_may_do() -> None:
    assert examine(OFF, update(3, 3, 4), together=1.0) == ({3: [3.0, 4.0]}, [])


def test_an_update_of_zeros_passes_everything() -> None:
    settings = GuardSettings(drop=1e-9, silenced=1e-9)
    left, done = examine(settings, update(3, 0, 0), longest=1e-9)
    assert left == {3: [0.0, 0.0]} and done == []


NUMBERS = st.floats(-1e3, 1e3, width=32)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=5), st.floats(0.1, 10), st.floats(0.1, 10))
def test_nothing_longer_than_the_bounds_ever_joins(
    vectors: list[tuple[float, float]], norm: float, together: float
) -> None:
    updates = [update(c, *v) for c, v in enumerate(vectors)]
    limits = Limits(norm, together, math.inf, math.inf, 1.0)
    guard = Guard(OFF, BEFORE, total, limits, lambda _: None, lambda _: 0.0)
    passed, done = guard.examine(updates, {u.client: [] for u in updates}, 1)
    assert all(u.norm <= norm * (1 + 1e-5) for u in passed)
    if len(passed) > 1:
        assert Update(0, 1, total(passed)).norm <= math.sqrt(len(passed)) * together * (1 + 1e-5)
    # Whatever was changed is written down, and nothing else.
    changed = {
        u.client for u in passed if not torch.equal(u.difference["w"], updates[u.client].difference["w"])
    }
    assert changed <= {d.client for d in done}
    if not done:
        assert passed == updates


# ---- harm ------------------------------------------------------------------------------------------------


def test_a_harmful_update_is_scaled_back_until_it_is_not() -> None:
    """4 units cost .4 each way down: .4, .2, .1; the first that costs at most .15 is a quarter."""
    settings = OFF.model_copy(update={"drop": 0.15})
    left, (done,) = examine(settings, update(3, 4, 0), accuracy=loses(0.1))
    assert left == {3: [1.0, 0.0]}
    assert (done.what, done.factor, done.limit) == ("scaled back", 0.25, None)
    assert done.drop == pytest.approx(0.4)
    assert done.reason == "guard: scaled back, costs others 40.0 points of accuracy"


def test_what_does_harm_even_at_an_eighth_is_refused() -> None:
    """.8 down to .1 at an eighth, where .05 is allowed."""
    settings = OFF.model_copy(update={"drop": 0.05})
    left, (done,) = examine(settings, update(3, 8, 0), accuracy=loses(0.1))
    assert left == {} and (done.what, done.factor) == ("refused", 0.0)


def test_harm_is_refused_at_once_where_settings_say_so() -> None:
    evaluated: list[float] = []

    def accuracy(state: Mapping[str, Tensor]) -> float:
        evaluated.append(float(state["w"][0]))
        return loses(0.1)(state)

    settings = OFF.model_copy(update={"drop": 0.15, "harmful": "refuse"})
    left, (done,) = examine(settings, update(3, 4, 0), accuracy=accuracy)
    assert left == {} and done.what == "refused"
    assert evaluated == [4.0, 0.0] or evaluated == [0.0, 4.0]  # no smaller one was tried


def test_each_of_several_is_looked_at_alone_then_all_together() -> None:
    """Client 3's costs .3 and is halved to .15; 4's .1 passes. Together .25 <= 2 x .2."""
    settings = OFF.model_copy(update={"drop": 0.2})
    left, (done,) = examine(settings, update(3, 3, 0), update(4, 1, 0), accuracy=loses(0.1))
    assert left == {3: [1.5, 0.0], 4: [1.0, 0.0]} and done.client == 3


def test_harm_that_is_done_only_together_is_scaled_back_for_all() -> None:
    """The square of the sum: .1 each, .4 together; .3 are allowed to two, so half of both is left (.1)."""

    def together(state: Mapping[str, Tensor]) -> float:
        return 0.8 - 0.1 * float(state["w"][0]) ** 2

    settings = OFF.model_copy(update={"drop": 0.15})
    left, done = examine(settings, update(3, 1, 0), update(4, 1, 0), accuracy=together)
    assert left == {3: [0.5, 0.0], 4: [0.5, 0.0]}
    assert [(d.client, d.what) for d in done] == [(3, "scaled back"), (4, "scaled back")]


def test_without_a_report_the_update_passes() -> None:
    settings = OFF.model_copy(update={"drop": 0.01})
    assert examine(settings, update(3, 4, 0), accuracy=lambda _: None) == ({3: [4.0, 0.0]}, [])


def test_a_silenced_class_is_harm_too() -> None:
    """All of a class's probes are lost at 4, half at 2: .6 are allowed."""
    settings = OFF.model_copy(update={"silenced": 0.6})
    left, (done,) = examine(settings, update(3, 4, 0), silenced=lambda s: float(s["w"][0]) / 4)
    assert left == {3: [2.0, 0.0]}
    assert (done.silenced, done.drop) == (1.0, None)
    assert done.reason == "guard: scaled back, a class loses 100% of its probes"


def test_a_clipped_update_is_still_looked_at() -> None:
    settings = OFF.model_copy(update={"drop": 0.15})
    left, done = examine(settings, update(3, 4, 0), longest=2.0, accuracy=loses(0.1))
    assert left == {3: [1.0, 0.0]}
    assert [d.what for d in done] == ["clipped", "scaled back"]


def test_a_guard_that_is_off_sends_no_message_and_changes_no_bit() -> None:
    def never(_: Mapping[str, Tensor]) -> float:
        raise AssertionError("asked")

    given_ = update(3, 1e30, -1e-30)
    guard = Guard(OFF, BEFORE, total, Limits.of(OFF, [rehearsal(1e-9)], 1e-9), never, never)
    passed, done = guard.examine([given_], {3: ["r"]}, 1)
    assert passed == [given_] and passed[0] is given_ and done == []


# ---- probes ----------------------------------------------------------------------------------------------


def two_classes(bias: float) -> TinyModel:
    """Calls a probe x by the sign of x - 1, the mean of its features; ``bias`` for the second class."""
    model = TinyModel(torch.tensor([[1.0], [-1.0]]), torch.tensor([0.0, bias]))
    model.norm.mean.fill_(1.0)
    model.norm.std.fill_(2.0)
    return model


def test_probes_see_a_class_silenced() -> None:
    before, after = two_classes(0.0).state_dict(), two_classes(-50.0).state_dict()
    probes = Probes(two_classes(0.0), before, seed=1)
    assert probes.silenced(before) == 0.0
    assert probes.silenced(after) == 1.0


def test_probes_count_as_the_normal_distribution_says() -> None:
    """The second class has z < 0, half; with bias -2 (logits z and -z - 2) z < -1: .1587 / .5 are left."""
    probes = Probes(two_classes(0.0), two_classes(0.0).state_dict(), seed=1)
    assert probes.silenced(two_classes(-2.0).state_dict()) == pytest.approx(1 - 0.1587 / 0.5, abs=0.05)


def test_a_class_that_had_next_to_no_probes_is_not_judged() -> None:
    """z < -3.5 for a probe of the second class: two in ten thousand."""
    probes = Probes(two_classes(0.0), two_classes(-7.0).state_dict(), seed=1)
    assert probes.silenced(two_classes(-50.0).state_dict()) == 0.0
