"""GUM against the benchmark's published rows, CGUM against its definition, and what of a run goes in."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from fedunlearn.evaluation.gum import cgum, efficacy, gum, gum_of, macro_f1, speed
from fedunlearn.evaluation.metrics import confusion
from fedunlearn.results_schema import Models, PhaseCostRow

# UnSLU-BENCH (arXiv 2505.15700 and koudounasalkis/UnSLU-BENCH, README), per corpus and model:
# F1 of the gold model, MIA of the original and of the gold model, then method: F1, MIA, GUM, speed-up.
# The time that t_gold stands for is published for none of the tables but SLURP's wav2vec 2.0, about 69,500 s;
# of the others it is the one number that is fitted, to seven or eight rows each.
PUBLISHED: dict[str, Any] = {
    "SLURP, wav2vec 2.0": (
        0.707,
        0.628,
        0.506,
        69_500,
        {
            "FT": (0.638, 0.648, 0.000, 83.78),
            "NG": (0.695, 0.604, 0.563, 1748.0),
            "NG+": (0.701, 0.603, 0.446, 41.63),
            "CF-k": (0.709, 0.626, 0.089, 291.9),
            "UNSIR": (0.673, 0.637, 0.000, 64.07),
            "BT": (0.710, 0.619, 0.275, 50.35),
            "BT-L": (0.680, 0.637, 0.000, 61.74),
            "SCRUB": (0.697, 0.608, 0.429, 64.82),
        },
    ),
    "SLURP, HuBERT": (
        0.704,
        0.613,
        0.492,
        62_500,
        {
            "FT": (0.734, 0.611, 0.088, 79.00),
            "NG": (0.718, 0.587, 0.587, 1654.0),
            "NG+": (0.630, 0.453, 0.578, 39.30),
            "CF-k": (0.715, 0.608, 0.196, 274.2),
            "UNSIR": (0.722, 0.613, 0.000, 60.44),
            "BT": (0.711, 0.613, 0.000, 47.42),
            "BT-L": (0.685, 0.558, 0.578, 58.11),
            "SCRUB": (0.704, 0.600, 0.350, 65.40),
        },
    ),
    "FSC, wav2vec 2.0": (
        0.993,
        0.508,
        0.503,
        2_000,
        {
            "FT": (0.993, 0.504, 0.517, 7.96),
            "NG": (0.987, 0.501, 0.816, 206.9),
            "NG+": (0.994, 0.493, 0.000, 4.03),
            "CF-k": (0.994, 0.501, 0.606, 16.97),
            "UNSIR": (0.991, 0.506, 0.447, 6.55),
            "BT": (0.993, 0.508, 0.000, 4.78),
            "BT-L": (0.994, 0.506, 0.431, 5.87),
            "SCRUB": (0.994, 0.506, 0.439, 6.21),
        },
    ),
    "SpeechMASSIVE German, XLS-R 128": (
        0.566,
        0.621,
        0.513,
        32_000,
        {
            "FT": (0.498, 0.543, 0.588, 34.34),
            "NG": (0.550, 0.562, 0.797, 1078.0),
            "NG+": (0.540, 0.487, 0.522, 16.89),
            "CF-k": (0.587, 0.622, 0.000, 109.9),
            "UNSIR": (0.565, 0.616, 0.197, 27.46),
            "BT": (0.584, 0.582, 0.489, 20.02),
            "BT-L": (0.584, 0.576, 0.523, 24.87),
            "SCRUB": (0.584, 0.600, 0.429, 26.86),
        },
    ),
    "SpeechMASSIVE German, XLS-R 53": (
        0.745,
        0.622,
        0.493,
        14_500,
        {
            "FT": (0.661, 0.585, 0.464, 17.79),
            "NG": (0.764, 0.587, 0.643, 558.7),
            "NG+": (0.759, 0.568, 0.431, 8.770),
            "CF-k": (0.777, 0.616, 0.208, 56.93),
            "UNSIR": (0.785, 0.619, 0.114, 14.23),
            "BT": (0.726, 0.585, 0.418, 10.41),
            "BT-L": (0.729, 0.587, 0.434, 12.94),
            "SCRUB": (0.781, 0.615, 0.211, 13.43),
        },
    ),
    "SpeechMASSIVE French, XLS-R 128": (
        0.469,
        0.629,
        0.509,
        17_500,
        {
            "FT": (0.400, 0.539, 0.545, 18.12),
            "NG": (0.317, 0.564, 0.749, 597.3),
            "NG+": (0.382, 0.882, 0.000, 8.900),
            "CF-k": (0.436, 0.612, 0.414, 58.23),
            "UNSIR": (0.420, 0.620, 0.259, 14.67),
            "BT": (0.411, 0.597, 0.409, 10.60),
            "BT-L": (0.412, 0.591, 0.447, 13.18),
            "SCRUB": (0.409, 0.611, 0.358, 13.68),
        },
    ),
}


@pytest.mark.parametrize("table", PUBLISHED)
def test_published_rows_come_out_within_what_their_rounding_allows(table: str) -> None:
    """Three decimals of F1 and MIA leave an interval of GUM; the published value has to lie in it."""
    f1_gold, mia_original, mia_gold, seconds, rows = PUBLISHED[table]
    for name, (f1, mia, published, speedup) in rows.items():
        values = [
            gum(f1 + a, f1_gold, mia + b, mia_original + c, mia_gold + d, seconds / speedup, seconds)
            for a, b, c, d in product((-0.0005, 0.0, 0.0005), repeat=4)
        ]
        assert min(values) - 0.002 <= published <= max(values) + 0.002, name


@pytest.mark.parametrize(
    ("method", "value"), [("NG", 0.563), ("NG+", 0.447), ("BT", 0.276), ("SCRUB", 0.428)]
)
def test_the_slurp_rows_at_the_published_time(method: str, value: float) -> None:
    f1_gold, mia_original, mia_gold, seconds, rows = PUBLISHED["SLURP, wav2vec 2.0"]
    f1, mia, _, speedup = rows[method]
    assert gum(f1, f1_gold, mia, mia_original, mia_gold, seconds / speedup, seconds) == pytest.approx(
        value, abs=6e-4
    )


# ---- parts, by hand --------------------------------------------------------------------------------------


def test_efficacy_by_hand() -> None:
    """Original 0.8, gold 0.5. At 0.65, half the way: 1 - 0.25. Below gold at 0.4: 1 - (0.1 / 0.3)^2."""
    assert efficacy(0.5, 0.8, 0.5) == 1.0
    assert efficacy(0.65, 0.8, 0.5) == pytest.approx(0.75)
    assert efficacy(0.4, 0.8, 0.5) == pytest.approx(1 - 1 / 9)
    assert efficacy(0.8, 0.8, 0.5) == efficacy(0.95, 0.8, 0.5) == 0.0
    # Where the retrained model's is no lower than the original's there is nothing to divide by.
    assert efficacy(0.8, 0.8, 0.9) == efficacy(0.9, 0.8, 0.8) == 0.0


def test_speed_by_hand_and_slower_than_retraining_is_nought() -> None:
    """ln(10) / ln(100) = 1/2. What takes longer than retraining does not turn the number around."""
    assert speed(9.0, 99.0) == pytest.approx(0.5)
    assert speed(0.0, 99.0) == 1.0
    assert speed(99.0, 99.0) == speed(500.0, 99.0) == 0.0


def test_gum_and_cgum_of_the_same_run_by_hand() -> None:
    """E = U = T = 1/2 makes 1/2: F1 0.3 against 0.8; halfway squared 1 - 0.5; ln 10 of ln 100.

    CGUM: U = (0.3 - 0.2) / (0.8 - 0.2) = 1/6; E = 1 - 0.5^(1/2); T = 1/2.
    """
    halfway = 0.5 + 0.3 * 0.5**0.5
    run = (0.3, 0.8, halfway, 0.8, 0.5, 9.0, 99.0)
    assert gum(*run) == pytest.approx(0.5, abs=1e-5)
    u, e, t = 1 / 6, 1 - 0.5**0.5, 0.5
    assert cgum(*run, classes=5) == pytest.approx(3 / (1 / u + 1 / e + 1 / t), abs=1e-4)


def test_cgum_of_the_example_in_its_notebook() -> None:
    """Membership 0.06 below gold where the original is 0.02 above: forgotten too much, 0."""
    assert cgum(0.82, 0.90, 0.54, 0.62, 0.60, 120.0, 150.0, classes=10) == pytest.approx(0.0, abs=1e-9)


def test_cgum_praises_no_model_at_chance_and_no_over_forgetting_where_gum_does() -> None:
    chance = (0.125, 0.6, 0.5, 0.8, 0.5, 1.0, 100.0)
    assert cgum(*chance, classes=8) == 0.0 < 0.5 < gum(*chance)
    below = (0.6, 0.6, 0.2, 0.8, 0.5, 1.0, 100.0)
    assert cgum(*below, classes=8) == pytest.approx(0.0, abs=1e-4)
    # Less than it wants: with g at the gold value, all of the way below costs everything too.
    assert gum(*below) == pytest.approx(0.0, abs=1e-4)
    assert cgum(0.6, 0.6, 0.35, 0.8, 0.5, 1.0, 100.0, classes=8) < gum(0.6, 0.6, 0.35, 0.8, 0.5, 1.0, 100.0)


SHARE = st.floats(0, 1)


@given(SHARE, SHARE, SHARE, SHARE, SHARE, st.floats(0, 1e6), st.floats(1e-3, 1e6), st.integers(2, 20))
def test_both_lie_between_nought_and_one(
    f1: float, f1_gold: float, mia: float, original: float, gold: float, t: float, t_gold: float, classes: int
) -> None:
    run = (f1, f1_gold, mia, original, gold, t, t_gold)
    assert 0.0 <= gum(*run) <= 1.0
    assert 0.0 <= cgum(*run, classes=classes) <= 1.0
    # Who does nothing, and is as easy to tell as the original, has forgotten nothing.
    assert gum(f1, f1_gold, original, original, gold, t, t_gold) == 0.0


# ---- macro F1 and what of a run goes in ------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_macro_f1_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = np.array(pairs).T
    assert macro_f1(confusion(labels, predictions, 5)) == pytest.approx(
        f1_score(labels, predictions, average="macro")
    )


def test_no_utterances_have_no_f1() -> None:
    assert macro_f1([[0, 0], [0, 0]]) is None


def model(right: int, auc: float | None) -> dict[str, Any]:
    """Two emotions of 10 test utterances each; of both, ``right`` are recognised: F1 = right / 10."""
    return {
        "confusion": {"test": [[right, 10 - right], [10 - right, right]]},
        "membership": {"auc": auc, "low": auc, "high": auc},
    }


def run(**changed: Any) -> Models:
    models = {"original": model(8, 0.8), "unlearned": model(6, 0.5), "recovered": model(8, 0.65)}
    models["retrained"] = {**model(8, 0.4), "seeds": [model(9, 0.4), model(7, 0.6)]}
    return Models.model_validate({**models, **changed})


COST = {
    name: PhaseCostRow.model_validate({"client_seconds": s})
    for name, s in {"unlearn": 1.0, "recover": 8.0, "retrain": 99.0}.items()
}


def test_a_runs_models_are_scored_against_the_mean_of_the_retrained_seeds() -> None:
    """Gold: F1 0.8, AUC 0.5. Recovered: same F1, half the way, 9 s of 99."""
    scores = gum_of(run(), COST)
    assert scores is not None and set(scores.to_json()) == {"unlearned", "recovered"}
    assert scores.unlearned.utility == pytest.approx(0.8)
    assert scores.unlearned.efficacy == pytest.approx(1.0)
    recovered = scores.recovered
    assert (recovered.efficacy, recovered.time) == (pytest.approx(0.75), pytest.approx(0.5))
    assert recovered.gum == pytest.approx(gum(0.8, 0.8, 0.65, 0.8, 0.5, 9.0, 99.0))
    assert recovered.cgum == pytest.approx(cgum(0.8, 0.8, 0.65, 0.8, 0.5, 9.0, 99.0, classes=2))


def test_where_something_is_unknown_there_is_no_score() -> None:
    assert gum_of(run(original=model(8, None)), COST) is None
    assert gum_of(run(recovered=model(8, None)), COST) is None
    empty = {**model(8, 0.5), "confusion": {"test": [[0, 0], [0, 0]]}}
    assert gum_of(run(unlearned=empty), COST) is None
    assert gum_of(run(), {**COST, "retrain": PhaseCostRow.model_validate({"client_seconds": 0.0})}) is None
