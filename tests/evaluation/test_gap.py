"""The gap to the retrained model, its noise floor, and a ranking that no control ever wins."""

import pytest

from fedunlearn.evaluation.gap import LEAST_PROGRESS, forgetting, gap, noise_floor, rank, rho
from fedunlearn.results_schema import ModelScores, RankedModel


def record(
    forget: float | None, retain: float | None, test: float | None, membership: float | None
) -> ModelScores:
    known = {
        "forget": {"accuracy": forget, "n": 9},
        "retain": {"accuracy": retain, "n": 9},
        "test": {"uar": 0.0, "accuracy": test, "n": 9},
        "unseen": {"uar": 0.0, "accuracy": 0.0, "n": 9},
        "membership": {"auc": membership, "low": None, "high": None},
    }
    return ModelScores.model_validate(known)


# Measured: METHODS, section 3 (8 emotions).
RETRAINED = record(0.375, 0.997, 0.587, 0.347)
NONE = record(1.000, 0.998, 0.608, 0.780)
DESTROY = record(0.125, 0.125, 0.125, 0.500)
CONTROLS = {"none": NONE, "destroy": DESTROY}
GOOD = record(0.396, 0.979, 0.583, 0.444)


def verdict(
    model: ModelScores, method: str = "l2ul", controls: dict[str, ModelScores] = CONTROLS
) -> RankedModel:
    rows = rank({"judged": model}, controls, [RETRAINED], classes=8, method=method)
    return next(row for row in rows if row.name == "judged")


# ---- gap -------------------------------------------------------------------------------------------------


def test_a_model_stands_at_no_distance_from_itself() -> None:
    assert gap(NONE, [NONE]).to_json() == {"forget": 0, "retain": 0, "test": 0, "membership": 0, "mean": 0}


def test_gaps_by_hand() -> None:
    """|.5 - .25|, |.75 - 1|, |.5 - .5|, |.25 - .75|, and their mean (.25 + .25 + 0 + .5) / 4."""
    result = gap(record(0.5, 0.75, 0.5, 0.25), [record(0.25, 1.0, 0.5, 0.75)])
    assert result.to_json() == {"forget": 0.25, "retain": 0.25, "test": 0.0, "membership": 0.5, "mean": 0.25}


def test_the_gap_has_no_direction() -> None:
    assert gap(NONE, [RETRAINED]) == gap(RETRAINED, [NONE])


def test_forgetting_more_than_the_retrained_model_is_a_gap_too() -> None:
    assert gap(record(0.0, 0.997, 0.587, 0.347), [RETRAINED]).forget == 0.375


def test_what_is_not_known_is_left_out_of_the_mean() -> None:
    partly = gap(record(None, 0.75, 0.5, None), [record(0.25, 1.0, 0.25, 0.75)])
    assert partly.to_json() == {
        "forget": None,
        "retain": 0.25,
        "test": 0.25,
        "membership": None,
        "mean": 0.25,
    }
    assert gap(record(None, None, None, None), [RETRAINED]).mean is None


def test_the_gap_to_several_seeds_is_the_mean_of_the_distances() -> None:
    """Forget accuracy .5 against 0 and 1 stands .5 from both, though their mean is .5."""
    seeds = [record(0.0, 1.0, 0.5, 0.5), record(1.0, 1.0, 0.5, 0.5)]
    assert gap(record(0.5, 1.0, 0.5, 0.5), seeds).forget == 0.5
    assert gap(RETRAINED, []).mean is None


def test_another_retrained_model_stands_at_the_noise_floor() -> None:
    """A fourth seed's gap, in the mean over which of four is the fourth: the floor of the four."""
    seeds = [record(f, 1.0, t, 0.5) for f, t in ((0.3, 0.5), (0.4, 0.6), (0.6, 0.55), (0.35, 0.5))]
    left_out = [gap(seeds[i], seeds[:i] + seeds[i + 1 :]).mean for i in range(4)]
    floor = noise_floor(seeds)
    assert floor is not None and sum(g or 0.0 for g in left_out) / 4 == pytest.approx(floor.mean)


# ---- rho -------------------------------------------------------------------------------------------------


def test_rho_counts_noise_floors() -> None:
    floor = gap(record(0.4, 1.0, 0.5, 0.5), [record(0.5, 1.0, 0.5, 0.5)])
    assert rho(gap(record(1.0, 1.0, 0.5, 0.5), [record(0.5, 1.0, 0.5, 0.5)]), floor) == pytest.approx(5.0)
    assert rho(floor, floor) == 1.0


def test_rho_without_a_floor() -> None:
    still = gap(RETRAINED, [RETRAINED])
    assert rho(gap(NONE, [RETRAINED]), None) is None
    assert rho(gap(NONE, [RETRAINED]), still) is None, "infinitely far: no number"
    assert rho(still, still) == 1.0


# ---- noise floor -----------------------------------------------------------------------------------------


def test_one_retrained_model_has_no_noise_floor() -> None:
    assert noise_floor([]) is None and noise_floor([RETRAINED]) is None


def test_the_noise_floor_is_the_mean_over_pairs() -> None:
    """Forget accuracies 0, .5 and 1 stand .5, 1 and .5 apart: 2/3; the other measures are equal."""
    seeds = [record(f, 1.0, 0.5, 0.5) for f in (0.0, 0.5, 1.0)]
    floor = noise_floor(seeds)
    assert floor is not None
    assert floor.forget == pytest.approx(2 / 3)
    assert (floor.retain, floor.test, floor.membership) == (0, 0, 0)
    assert floor.mean == pytest.approx(2 / 3 / 4)


def test_two_seeds_that_agree_make_no_noise() -> None:
    floor = noise_floor([RETRAINED, RETRAINED])
    assert floor is not None and floor.to_json() == {
        "forget": 0,
        "retain": 0,
        "test": 0,
        "membership": 0,
        "mean": 0,
    }


# ---- ranking ---------------------------------------------------------------------------------------------


def test_a_good_method_is_useful_and_ranks_first() -> None:
    rows = rank({"unlearned": GOOD}, CONTROLS, [RETRAINED], 8, "l2ul")
    assert rows[0].to_json() == {
        "name": "unlearned",
        "mean_gap": pytest.approx((0.021 + 0.018 + 0.004 + 0.097) / 4),
        "forgetting": pytest.approx((1 - 0.396) / (1 - 0.375)),
        "retention": pytest.approx(
            (((0.979 - 0.125) / (0.997 - 0.125)) + (0.583 - 0.125) / (0.587 - 0.125)) / 2
        ),
        "useful": True,
        "why": "beats both controls",
    }


def test_the_ranking_is_by_mean_gap_with_unknowns_last() -> None:
    unknown = record(None, None, None, None)
    rows = rank({"a": unknown, "b": GOOD, "c": RETRAINED}, CONTROLS, [RETRAINED], 8)
    names = [row.name for row in rows]
    assert names == ["c", "b", "control: none", "control: destroy", "a"]
    assert rows[-1].useful is False and rows[-1].why == "nothing to compare"


def test_controls_are_never_useful() -> None:
    rows = rank({}, {"none": RETRAINED, "destroy": RETRAINED}, [RETRAINED], 8)
    assert [(row.useful, row.why) for row in rows] == [
        (False, "a control: does nothing"),
        (False, "a control: random weights"),
    ]


@pytest.mark.parametrize("control", ["none", "destroy"])
def test_a_method_that_does_what_a_control_does_is_useless(control: str) -> None:
    row = verdict(CONTROLS[control], controls={control: CONTROLS[control]})
    assert row.why == f"stands no nearer to the retrained model than the control {control}"
    assert not row.useful and not verdict(CONTROLS[control]).useful


def test_doing_nothing_and_then_recovering_is_useless() -> None:
    """A few gentle rounds on the retained data move forget accuracy and membership a little."""
    row = verdict(record(0.95, 0.998, 0.605, 0.740))
    assert not row.useful and row.why.startswith("forgot too little")


def test_forgetting_too_much_is_called_by_its_name() -> None:
    """As far below the retrained model's forget accuracy (.9) as doing nothing (1) is above it."""
    high = record(0.9, 0.997, 0.587, 0.347)
    (row,) = (r for r in rank({"m": record(0.8, 0.997, 0.587, 0.347)}, CONTROLS, [high], 8) if r.name == "m")
    assert not row.useful and row.why.startswith("forgot too much")


def test_random_weights_and_then_recovering_are_useless() -> None:
    """Some rounds after random weights: the forget accuracy is right, the retained data are not learned."""
    row = verdict(record(0.37, 0.45, 0.40, 0.40))
    assert row.mean_gap is not None and row.mean_gap < 0.2
    assert not row.useful and "wrecked" in row.why and "retain" in row.why


@pytest.mark.parametrize("method", ["none", "destroy"])
def test_a_control_as_the_method_is_useless_even_if_recovery_made_it_perfect(method: str) -> None:
    row = verdict(RETRAINED, method)
    assert not row.useful and "itself a control" in row.why


def test_a_method_that_wrecks_the_recogniser_is_useless() -> None:
    """Gradient ascent past all bounds: less than half of .587 - .125 is left of the test accuracy."""
    row = verdict(record(0.3, 0.85, 0.34, 0.347))
    assert not row.useful and "wrecked" in row.why and "test" in row.why


def test_a_method_whose_forgetting_was_averaged_away_is_useless() -> None:
    """FedAvg of the requesters' updates (METHODS, section 3): D_f is still known by heart."""
    row = verdict(record(1.000, 0.993, 0.583, 0.705))
    assert not row.useful and row.why.startswith("forgot too little")


@pytest.mark.parametrize(("share", "useful"), [(LEAST_PROGRESS - 0.01, False), (LEAST_PROGRESS + 0.01, True)])
def test_a_quarter_of_the_way_is_the_least(share: float, useful: bool) -> None:
    """Every measure goes the same share of the way from doing nothing to the retrained model."""
    way = [(1.000, 0.375), (0.998, 0.997), (0.608, 0.587), (0.780, 0.347)]
    assert verdict(record(*(a + share * (b - a) for a, b in way))).useful is useful


def test_where_there_is_nothing_to_forget_doing_nothing_is_as_good() -> None:
    """D_f is recognised as by the retrained model: forgetting cannot be required, nearness can."""
    nothing = record(0.375, 0.998, 0.608, 0.780)
    controls = {"none": nothing, "destroy": DESTROY}
    assert not verdict(nothing, controls=controls).useful
    assert verdict(GOOD, controls=controls).useful


def test_without_controls_a_method_is_judged_by_what_is_left_of_it() -> None:
    assert verdict(GOOD, controls={}).useful
    assert not verdict(DESTROY, controls={}).useful


# ---- how much was forgotten, and how much kept -----------------------------------------------------------


def reached(row: RankedModel) -> float:
    """By forgetting: all the way counts as all the way, however far beyond it went."""
    return min(1.0, row.forgetting or 0.0)


def test_where_rounding_alone_tells_the_original_from_the_retrained_models_there_is_no_way_to_go() -> None:
    """5/21 three times, summed and divided by 3, is a little less than 5/21."""
    others = [record(5 / 21, 1.0, 0.5, 0.5)] * 3
    assert 0 < 5 / 21 - (5 / 21 + 5 / 21 + 5 / 21) / 3 < 1e-15
    assert forgetting(record(0.0, 1.0, 0.5, 0.5), record(5 / 21, 1.0, 0.5, 0.5), others) is None


def test_a_floor_of_rounding_is_none() -> None:
    floor = gap(record(0.4, 1.0, 0.5, 0.5), [record(0.4 + 1e-16, 1.0, 0.5, 0.5)])
    assert floor.mean and rho(gap(NONE, [DESTROY]), floor) is None
    assert rho(floor, floor) == 1.0


def test_doing_nothing_forgets_nothing_and_is_last_in_forgetting() -> None:
    models = {"good": GOOD, "half": record(0.7, 0.99, 0.58, 0.5), "zero": record(0.0, 0.9, 0.5, 0.1)}
    rows = {row.name: row for row in rank(models, CONTROLS, [RETRAINED], 8)}
    assert rows["control: none"].forgetting == 0.0
    assert min(rows.values(), key=reached).name == "control: none"
    assert sum(reached(row) == 0.0 for row in rows.values()) == 1


def test_random_weights_keep_nothing_and_are_last_in_retention() -> None:
    models = {"good": GOOD, "ascent": record(0.354, 0.565, 0.400, 0.392)}
    rows = {row.name: row for row in rank(models, CONTROLS, [RETRAINED], 8)}
    assert rows["control: destroy"].retention == 0.0
    assert all((row.retention or 0.0) > 0.1 for name, row in rows.items() if name != "control: destroy")
    assert rows["control: none"].retention == 1.0, "more than retrained is not more than all"


def test_forgetting_everything_is_not_praised() -> None:
    """Forget accuracy 0 where retrained models have .375, and all else as theirs."""
    row = verdict(record(0.0, 0.997, 0.587, 0.347))
    assert row.forgetting == pytest.approx(1.6)
    assert not row.useful and row.why.startswith("forgot too much")


def test_the_luck_of_a_few_utterances_is_not_called_forgetting_too_much() -> None:
    """One of nine recognised where retrained models recognise .375: two standard errors are .32."""
    assert verdict(record(1 / 9, 0.997, 0.587, 0.347)).useful


def test_forgetting_where_there_is_no_way_to_go_has_no_number() -> None:
    known = record(1.0, 0.997, 0.587, 0.347)
    assert {r.forgetting for r in rank({"m": GOOD}, CONTROLS, [known], 8)} == {None}
