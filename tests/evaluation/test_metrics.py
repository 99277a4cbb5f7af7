"""Recognition measures against scikit-learn and by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from fedunlearn.evaluation.metrics import accuracy, confusion, macro_f1, recognition, uar
from fedunlearn.results_schema import Recognition


def known(found: Recognition) -> dict[str, Any]:
    """Without the intervals."""
    return {name: value for name, value in found.to_json().items() if not name.endswith("_interval")}


PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


def arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels as the judge has them, predictions in the judge's narrow type."""
    return np.array([p[0] for p in pairs], np.int64), np.array([p[1] for p in pairs], np.uint8)


def test_uar_by_hand() -> None:
    """Recalls 2/3 and 0/1; emotion 2 is predicted but never occurs and does not count: (2/3 + 0) / 2."""
    labels, predictions = arrays([(0, 0), (0, 0), (0, 2), (1, 0)])
    assert uar(labels, predictions) == pytest.approx(1 / 3)
    assert accuracy(labels, predictions) == 0.5


def test_macro_f1_by_hand() -> None:
    """F1 = 2 TP / (2 TP + FP + FN). Emotion 2, which is recognised and never occurs, counts with 0.

    First: emotion 0 has 2 TP, 1 FN: 4/5; emotion 1 is always right. Then emotion 1 is taken for 0, which has
    2 TP, 1 FP, 1 FN: 4/6.
    """
    labels, predictions = arrays([(0, 0), (0, 0), (0, 2), (1, 1)])
    assert macro_f1(labels, predictions) == pytest.approx((4 / 5 + 1 + 0) / 3)
    labels, predictions = arrays([(0, 0), (0, 0), (0, 2), (1, 0)])
    assert macro_f1(labels, predictions) == pytest.approx((4 / 6 + 0 + 0) / 3)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@given(PAIRS)
def test_measures_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = arrays(pairs)
    assert uar(labels, predictions) == pytest.approx(balanced_accuracy_score(labels, predictions))
    assert accuracy(labels, predictions) == pytest.approx(accuracy_score(labels, predictions))
    expected_f1 = f1_score(labels, predictions, average="macro", zero_division=0.0)
    assert macro_f1(labels, predictions) == pytest.approx(expected_f1)
    expected = confusion_matrix(labels, predictions, labels=range(5)).tolist()
    assert confusion(labels, predictions, 5) == expected


def test_of_nothing_nothing_is_known() -> None:
    empty = np.zeros(0, np.int64)
    assert known(recognition(empty, empty)) == {"uar": None, "accuracy": None, "macro_f1": None, "n": 0}
    assert confusion(empty, empty, 2) == [[0, 0], [0, 0]]


def test_of_one_emotion_uar_is_accuracy() -> None:
    """F1 of emotion 3 is 6/7; emotion 0, which is recognised once, has 0."""
    labels, predictions = arrays([(3, 3), (3, 0), (3, 3), (3, 3)])
    half = pytest.approx(3 / 7)
    assert known(recognition(labels, predictions)) == {
        "uar": 0.75,
        "accuracy": 0.75,
        "macro_f1": half,
        "n": 4,
    }


@pytest.mark.parametrize(("shift", "value"), [(0, 1.0), (1, 0.0)])
def test_all_right_and_all_wrong(shift: int, value: float) -> None:
    labels, predictions = arrays([(c, (c + shift) % 3) for c in range(3)])
    assert known(recognition(labels, predictions)) == {
        "uar": value,
        "accuracy": value,
        "macro_f1": value,
        "n": 3,
    }


def test_confusion_reads_true_by_recognised() -> None:
    labels, predictions = arrays([(0, 1), (0, 1), (2, 0)])
    assert confusion(labels, predictions, 3) == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]
