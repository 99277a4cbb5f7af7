"""Membership inference by hand, against scikit-learn, and in repeated trials."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fedunlearn.evaluation.membership import (
    label_mix_weights,
    membership,
    same_speaker,
)
from fedunlearn.results_schema import MembershipAttack
from fedunlearn.seeding import rng_for

FEW = 100
UTTERANCES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=25)


def attack(
    forget: list[tuple[float, int]], test: list[tuple[float, int]], resamples: int = FEW, seed: int = 1
) -> MembershipAttack:
    """From (loss, label) pairs."""
    columns: list[npt.NDArray[np.generic]] = []
    for pairs in (forget, test):
        columns += [np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], int)]
    return membership(*columns, resamples, rng_for(seed, "bootstrap"))


def interval(found: MembershipAttack) -> dict[str, float | None]:
    return {"auc": found.auc, "low": found.low, "high": found.high}


def test_ties_count_half() -> None:
    """Forget 1 and 3 against test 2 and 3: wins 1, 1, 0 and one tie: (1 + 1 + 0 + .5) / 4."""
    assert attack([(1, 0), (3, 0)], [(2, 0), (3, 0)]).auc == 0.625


def test_the_test_set_is_weighted_to_the_forget_sets_labels() -> None:
    """Three forget utterances of emotion 0, one of 1: test utterance a (0) weighs 3/4, b and c (1) 1/8 each.

    Losses: forget 1, 1, 1 (0) and 5 (1); test a = 2, b = 4, c = 6. P(forget < a) = 3/4, < b = 3/4, < c = 1:
    3/4 * 3/4 + 1/8 * 3/4 + 1/8 * 1 = 25/32.
    """
    forget = [(1.0, 0), (1.0, 0), (1.0, 0), (5.0, 1)]
    test = [(2.0, 0), (4.0, 1), (6.0, 1)]
    labels = [np.array([p[1] for p in pairs]) for pairs in (forget, test)]
    assert label_mix_weights(*labels).tolist() == [3 / 4, 1 / 8, 1 / 8]
    assert attack(forget, test).auc == 25 / 32


def test_the_roc_is_weighted_too() -> None:
    """The same: at loss 1, 3 of 4 are caught; at 2 and 4, 3/4 and 1/8 are accused; at 5, all are caught."""
    found = attack([(1.0, 0), (1.0, 0), (1.0, 0), (5.0, 1)], [(2.0, 0), (4.0, 1), (6.0, 1)])
    roc = found.roc
    assert roc and found.n == 4
    assert roc.fpr == pytest.approx([0.0, 0.0, 7 / 8, 7 / 8, 1.0])
    assert roc.tpr == pytest.approx([0.0, 3 / 4, 3 / 4, 1.0, 1.0])
    assert np.trapezoid(roc.tpr, roc.fpr) == pytest.approx(25 / 32)
    assert found.tpr_at == {"0.01": 0.75, "0.001": 0.75}


def test_a_rare_emotion_is_not_taken_for_membership() -> None:
    """Emotion 2 is hard for everyone and missing in the test set: those forget utterances are left out."""
    forget, test = [(1.0, 0), (3.0, 0)], [(2.0, 0), (0.1, 1)]
    assert attack([*forget, (9.0, 2), (9.0, 2)], test) == attack(forget, test)
    assert attack([*forget, (9.0, 2), (9.0, 2)], test).n == 2
    assert attack(forget, test).auc == 0.5  # the utterance of emotion 1 weighs nothing


@pytest.mark.parametrize(
    ("forget", "test"),
    [([], [(1.0, 0)]), ([(1.0, 0)], []), ([], []), ([(1.0, 0)], [(1.0, 1)])],
)
def test_without_anything_to_compare_nothing_is_known(
    forget: list[tuple[float, int]], test: list[tuple[float, int]]
) -> None:
    found = attack(forget, test)
    assert interval(found) == {"auc": None, "low": None, "high": None}
    assert (found.n, found.tpr_at, found.to_json()["roc"]) == (0, {"0.01": None, "0.001": None}, None)


def test_perfect_separation_is_one_or_zero_and_certain() -> None:
    low, high = [(0.1 * i, i % 2) for i in range(10)], [(5.0 + i, i % 2) for i in range(10)]
    assert interval(attack(low, high)) == pytest.approx({"auc": 1.0, "low": 1.0, "high": 1.0})
    assert interval(attack(high, low)) == {"auc": 0.0, "low": 0.0, "high": 0.0}
    assert attack(low, high).tpr_at == {"0.01": 1.0, "0.001": 1.0}
    assert attack(high, low).tpr_at == {"0.01": 0.0, "0.001": 0.0}


def test_constant_losses_tell_nothing() -> None:
    for loss in (0.0, 2.5, float("inf")):
        same = [(loss, i % 3) for i in range(9)]
        found = attack(same, same[:5])
        assert interval(found) == pytest.approx({"auc": 0.5, "low": 0.5, "high": 0.5})
        assert found.roc.to_json() == {"fpr": [0.0, 1.0], "tpr": [0.0, 1.0]}
        assert found.tpr_at == {"0.01": 0.0, "0.001": 0.0}  # no threshold accuses few


def test_one_utterance_is_enough_for_a_value() -> None:
    assert interval(attack([(1.0, 0)], [(2.0, 0)])) == {"auc": 1.0, "low": 1.0, "high": 1.0}
    one = attack([(1.0, 0)], [(0.0, 0), (2.0, 0), (2.0, 0), (2.0, 0)], 1000)
    assert one.auc == 0.75
    assert one.low is not None and one.high is not None
    assert one.low < 0.75 < one.high == 1.0


@pytest.mark.parametrize("place", ["forget", "test"])
def test_a_loss_that_is_not_a_number_is_an_error(place: str) -> None:
    good, bad = [(1.0, 0)], [(float("nan"), 0)]
    with pytest.raises(ValueError, match="NaN"):
        attack(bad if place == "forget" else good, bad if place == "test" else good)


@given(UTTERANCES, UTTERANCES)
def test_the_auc_is_scikit_learns_with_sample_weights(
    forget: list[tuple[int, int]], test: list[tuple[int, int]]
) -> None:
    """Positive = forget, score = -loss; losses are small whole numbers, so that ties abound."""
    known = {label for _, label in test}
    comparable = [p for p in forget if p[1] in known]
    result = attack(forget, test)
    if not comparable:
        assert result.auc is None
        return
    assert result.auc is not None and 0.0 <= result.auc <= 1.0
    weights = label_mix_weights(np.array([p[1] for p in comparable]), np.array([p[1] for p in test]))
    expected = roc_auc_score(
        [1] * len(comparable) + [0] * len(test),
        [-loss for loss, _ in [*comparable, *test]],
        sample_weight=[1.0] * len(comparable) + weights.tolist(),
    )
    assert result.auc == pytest.approx(expected)
    assert weights.sum() == pytest.approx(1.0)


@given(UTTERANCES, UTTERANCES, st.integers(0, 9))
def test_the_interval_lies_between_zero_and_one_and_is_the_same_again(
    forget: list[tuple[int, int]], test: list[tuple[int, int]], seed: int
) -> None:
    result = attack(forget, test, seed=seed)
    assert result == attack(forget, test, seed=seed)
    if result.low is not None and result.high is not None:
        assert 0.0 <= result.low <= result.high <= 1.0


def test_indistinguishable_members_are_within_the_interval_in_about_95_of_100_trials() -> None:
    """Both sets from one distribution, 3 emotions of different difficulty: the truth is .5.

    The number of intervals out of 100 that hold it has a standard deviation of 2.2 at 95 %; a percentile
    bootstrap of some 50 utterances falls short of 95 % by a little.
    """
    covered = 0
    for trial in range(100):
        rng = rng_for(trial, "trial")
        sets = []
        for n in (48, 60):
            labels = rng.integers(3, size=n)
            sets.append(list(zip(rng.exponential(1.0 + labels), labels.tolist(), strict=True)))
        result = attack(sets[0], sets[1], 200, trial)
        assert result.low is not None and result.high is not None
        covered += result.low <= 0.5 <= result.high
    assert 88 <= covered <= 98


def test_more_utterances_make_the_interval_narrower() -> None:
    """Width goes with 1 / sqrt(n): 16 times as many, a quarter of it."""

    def width(n: int) -> float:
        rng = rng_for(1, "n", n)
        result = attack([(x, 0) for x in rng.random(n)], [(x, 0) for x in rng.random(n)], 1000)
        assert result.low is not None and result.high is not None
        return result.high - result.low

    assert width(25) / width(400) == pytest.approx(4.0, rel=0.3)


# ---- the same speaker only -------------------------------------------------------------------------------

Spoken = list[tuple[float, int, str]]


def within(forget: Spoken, test: Spoken, resamples: int = FEW) -> MembershipAttack:
    """From (loss, label, speaker)."""
    columns: list[npt.NDArray[np.generic]] = []
    for rows in (forget, test):
        columns += [np.array([r[0] for r in rows], float), np.array([r[1] for r in rows], int)]
        columns.append(np.array([r[2] for r in rows], str))
    return same_speaker(*columns, resamples, rng_for(1, "bootstrap"))


def test_only_utterances_of_one_speaker_are_compared() -> None:
    """a: 1 < 2, 3 > 2: 1/2. b: 9 < 10: 1. Three forget utterances: (1 + 0 + 1) / 3; c does not count."""
    forget = [(1.0, 0, "a"), (3.0, 0, "a"), (9.0, 0, "b")]
    test = [(2.0, 0, "a"), (10.0, 0, "b"), (0.0, 0, "c")]
    found = within(forget, test)
    assert (found.auc, found.n) == (pytest.approx(2 / 3), 3)


def test_a_voice_that_is_easy_is_not_taken_for_membership() -> None:
    """Speaker a is easy, b hard; neither was trained on. Across speakers a looks like a member."""
    rng = rng_for(1, "voices")
    easy, hard = (
        [(loss, 0, speaker) for loss in level + rng.random(60)] for level, speaker in ((0.0, "a"), (1.0, "b"))
    )
    found = within(easy[:30], easy[30:] + hard)
    across = attack([r[:2] for r in easy[:30]], [r[:2] for r in easy[30:] + hard])
    assert across.low is not None and across.low > 0.5
    assert found.low is not None and found.high is not None and found.low < 0.5 < found.high


def test_each_speakers_test_speech_is_weighted_to_its_own_forget_labels() -> None:
    """a forgets emotions 0, 0, 0, 1 as above: 25/32 from its own; its emotion 2 has no test utterance."""
    forget = [(1.0, 0, "a"), (1.0, 0, "a"), (1.0, 0, "a"), (5.0, 1, "a"), (0.0, 2, "a")]
    test = [(2.0, 0, "a"), (4.0, 1, "a"), (6.0, 1, "a"), (9.0, 2, "b")]
    found = within(forget, test)
    assert (found.auc, found.n) == (25 / 32, 4)


def test_of_one_speaker_both_forms_are_the_same() -> None:
    rng = rng_for(1, "one")
    forget, test = ([(float(x), int(8 * x) % 3, "a") for x in rng.random(n)] for n in (20, 30))
    both = within(forget, test), attack([r[:2] for r in forget], [r[:2] for r in test])
    assert interval(both[0]) == pytest.approx(interval(both[1])) and both[0].tpr_at == both[1].tpr_at


def test_the_same_speaker_rate_has_a_threshold_for_each_speaker() -> None:
    """a: 1 < 2, 2 ties with 2 and is a false alarm; b: 9 < 10, although a's test speech has lower losses."""
    forget = [(1.0, 0, "a"), (2.0, 0, "a"), (9.0, 0, "b")]
    found = within(forget, [(2.0, 0, "a"), (10.0, 0, "b")])
    assert found.tpr_at == {"0.01": pytest.approx(2 / 3), "0.001": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("forget", "test"),
    [
        ([], []),
        ([], [(1.0, 0, "a")]),
        ([(1.0, 0, "a")], []),
        ([(1.0, 0, "a")], [(2.0, 0, "b")]),
        ([(1.0, 0, "a")], [(2.0, 1, "a")]),
    ],
)
def test_without_a_pair_of_one_speaker_nothing_is_known(forget: Spoken, test: Spoken) -> None:
    nothing = {"auc": None, "low": None, "high": None, "n": 0, "tpr_at": {"0.01": None, "0.001": None}}
    assert within(forget, test).to_json() == nothing


def test_one_pair_or_constant_losses_have_a_value() -> None:
    found = within([(1.0, 0, "a")], [(2.0, 0, "a")]).to_json()
    every = {"0.01": 1.0, "0.001": 1.0}
    assert found == {"auc": 1.0, "low": 1.0, "high": 1.0, "n": 1, "tpr_at": every}
    same = [(float("inf"), 0, "a")] * 4
    assert interval(within(same, same)) == pytest.approx({"auc": 0.5, "low": 0.5, "high": 0.5})
    with pytest.raises(ValueError, match="NaN"):
        within([(float("nan"), 0, "a")], same)


def test_the_same_speaker_interval_covers_in_about_95_of_100_trials() -> None:
    """3 speakers and 4 emotions of different difficulty, 16 forget and 8 test utterances each: truth .5."""
    covered = 0
    for trial in range(100):
        rng = rng_for(trial, "trial")
        sides: list[Spoken] = [
            [
                (float(rng.exponential(1.0 + label + 3 * s)), label, "abc"[s])
                for s in range(3)
                for label in range(4)
                for _ in range(each)
            ]
            for each in (4, 2)
        ]
        found = within(sides[0], sides[1], 200)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.5 <= found.high
    assert 88 <= covered <= 99


def test_the_interval_of_few_utterances_is_as_wide_as_it_must_be() -> None:
    """Twelve against twelve of one distribution: 95 % hold .5; with plain percentiles 91 % did."""
    held, labels = 0, np.zeros(12, np.int64)
    for trial in range(400):
        rng = rng_for(trial, "few")
        found = membership(rng.normal(size=12), labels, rng.normal(size=12), labels, 400, rng)
        assert found.low is not None and found.high is not None
        held += found.low <= 0.5 <= found.high
    assert held / 400 >= 0.93


def test_one_utterance_has_the_whole_range_of_the_resamples() -> None:
    labels = np.zeros(5, np.int64)
    found = membership(np.array([0.5]), labels[:1], np.arange(5.0), labels, 400, rng_for(1, "one"))
    assert found.auc == 0.8 and found.low is not None and found.low <= 0.2
    assert found.high == 1.0
