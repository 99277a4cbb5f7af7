"""Recognition measures against scikit-learn and by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix

from fedunlearn.evaluation.metrics import accuracy, confusion, recognition, uar
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


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@given(PAIRS)
def test_measures_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = arrays(pairs)
    assert uar(labels, predictions) == pytest.approx(balanced_accuracy_score(labels, predictions))
    assert accuracy(labels, predictions) == pytest.approx(accuracy_score(labels, predictions))
    expected = confusion_matrix(labels, predictions, labels=range(5)).tolist()
    assert confusion(labels, predictions, 5) == expected


def test_of_nothing_nothing_is_known() -> None:
    empty = np.zeros(0, np.int64)
    assert known(recognition(empty, empty)) == {"uar": None, "accuracy": None, "n": 0}
    assert confusion(empty, empty, 2) == [[0, 0], [0, 0]]


def test_of_one_emotion_uar_is_accuracy() -> None:
    labels, predictions = arrays([(3, 3), (3, 0), (3, 3), (3, 3)])
    assert known(recognition(labels, predictions)) == {"uar": 0.75, "accuracy": 0.75, "n": 4}


@pytest.mark.parametrize(("shift", "value"), [(0, 1.0), (1, 0.0)])
def test_all_right_and_all_wrong(shift: int, value: float) -> None:
    labels, predictions = arrays([(c, (c + shift) % 3) for c in range(3)])
    assert known(recognition(labels, predictions)) == {"uar": value, "accuracy": value, "n": 3}


def test_confusion_reads_true_by_recognised() -> None:
    labels, predictions = arrays([(0, 1), (0, 1), (2, 0)])
    assert confusion(labels, predictions, 3) == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]
