"""Claims of a study: intervals and verdicts by hand, premises, seeds that lack a size, and their files."""

import csv
import io
import math
from typing import Any

import pandas as pd
import pytest
from comparison_rows import rows_of
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.config.study import ClaimPart, StudyClaim
from fedunlearn.report.markup import markdown
from fedunlearn.report.study.claims import ClaimResult, claims_csv, claims_table
from fedunlearn.study.claims import decide


def part(**given_: Any) -> ClaimPart:
    return ClaimPart(**{"measure": "gap", "of": "a", "relation": "below", **given_})


def decided(rows: pd.DataFrame, *parts: ClaimPart, recovery: str = "gentle") -> ClaimResult:
    (found,) = decide([StudyClaim(text="It works", parts=parts)], rows, recovery)
    return found


def test_the_interval_of_a_paired_difference_decides() -> None:
    """Differences a - b: -0.1, -0.2, -0.3. Mean -0.2, standard error 0.1 / sqrt(3) = 0.057735, and
    t(0.975, 2) = 4.302653, so that half the interval is 0.248414: -0.448 to 0.048.
    """
    rows = rows_of({"a": [0.1, 0.2, 0.3], "b": [0.2, 0.4, 0.6]})
    found = decided(rows, part(less="b"))
    (condition,) = found.conditions
    assert condition.mean == pytest.approx(-0.2) and condition.seeds == 3
    assert (condition.low, condition.high) == pytest.approx((-0.448414, 0.048414), abs=1e-6)
    assert condition.outcome == "not decided" and found.verdict == "not decided"
    assert decided(rows, part(less="b", bound=0.05)).verdict == "reproduced"
    assert decided(rows, part(less="b", bound=-0.45)).verdict == "refuted"
    assert decided(rows, part(less="b", relation="above", bound=-0.45)).verdict == "reproduced"
    assert decided(rows, part(less="b", relation="above", bound=0.05)).verdict == "refuted"
    assert condition.rule == "gap of a less that of b at N = 10 < 0"


def test_all_conditions_must_hold_and_one_that_fails_refutes() -> None:
    rows = rows_of({"a": [0.1, 0.1], "b": [0.2, 0.2]})
    holds, fails, open_ = part(less="b"), part(of="b", less="a"), part(less="c")
    assert decided(rows, holds, holds).verdict == "reproduced"
    assert decided(rows, holds, open_).verdict == "not decided"
    assert decided(rows, holds, open_, fails).verdict == "refuted"


def test_without_its_premise_nothing_is_decided() -> None:
    """The original's forget accuracy is 1.0, the retrained model's 0.5."""
    rows = rows_of({"a": [0.1, 0.1]})
    premise: dict[str, Any] = {"measure": "forget", "of": "original", "relation": "above"}
    premise |= {"less": "retrained", "premise": True}
    claim = part(bound=0.2)
    assert decided(rows, part(**premise, bound=0.4), claim).verdict == "reproduced"
    for verdict, bound in (("reproduced", 0.2), ("refuted", 0.05)):
        found = decided(rows, part(**premise, bound=0.6), part(bound=bound))
        assert found.verdict == "not decided" and "premise" in found.why, verdict


def test_original_and_retrained_are_compared_after_no_unlearning() -> None:
    rows = rows_of({"a": [0.1, 0.1], "b": [0.1, 0.1]})
    found = decided(rows, part(of="original"), part(of="retrained"), part(measure="forget", of="retrained"))
    assert [c.mean for c in found.conditions] == [pytest.approx(v) for v in (0.3, 0.01, 0.5)]
    assert all(c.seeds == 2 for c in found.conditions)


def test_a_seed_without_one_of_the_sizes_does_not_count() -> None:
    """Sizes 10 and 20 of seeds 0 and 1, and size 10 alone of seed 2: means 0.15 and 0.25."""
    rows = pd.concat([rows_of({"a": [0.1, 0.2, 0.9]}), rows_of({"a": [0.2, 0.3]}, forget_size=20)])
    (condition,) = decided(rows, part()).conditions
    assert condition.seeds == 2 and condition.mean == pytest.approx(0.2)
    (condition,) = decided(rows, part(sizes=(10,))).conditions
    assert condition.seeds == 3 and condition.mean == pytest.approx(0.4)


def test_one_variant_at_several_sizes_is_compared_with_itself() -> None:
    rows = pd.concat([rows_of({"a": [0.1, 0.1]}), rows_of({"a": [0.3, 0.3]}, forget_size=100, floor=0.05)])
    whole = part(sizes=(100,), less="a", less_sizes=(10,), relation="above")
    (condition,) = decided(rows, whole).conditions
    assert condition.mean == pytest.approx(0.2)
    assert condition.rule == "gap of a at N = 100 less that of a at N = 10 > 0"
    (condition,) = decided(rows, whole.model_copy(update={"measure": "gap-over-floor"})).conditions
    assert condition.mean == pytest.approx(0.25 - 0.09)


def test_what_is_not_measured_is_not_decided() -> None:
    rows = rows_of({"a": [0.1]})
    one, none = decided(rows, part(bound=1.0), part(sizes=(5,))).conditions
    assert (one.outcome, one.seeds) == ("not decided", 1) and math.isnan(one.low)
    assert (none.outcome, none.seeds) == ("not measured", 0) and math.isnan(none.mean)
    assert decided(rows, part(), recovery="none").conditions[0].outcome == "not measured"
    assert decided(rows, part(recovery="gentle"), recovery="none").conditions[0].seeds == 1


@given(
    gaps=st.lists(st.floats(0, 1), min_size=2, max_size=6),
    bound=st.floats(-1, 1),
)
def test_below_and_above_are_opposites(gaps: list[float], bound: float) -> None:
    rows = rows_of({"a": gaps})
    opposite = {"reproduced": "refuted", "refuted": "reproduced", "not decided": "not decided"}
    below, above = (decided(rows, part(bound=bound, relation=r)) for r in ("below", "above"))
    (condition,) = below.conditions
    if condition.low not in (bound, condition.high) and condition.high != bound:
        assert above.verdict == opposite[below.verdict]
    assert condition.low <= condition.mean <= condition.high


def test_claims_as_a_table_and_as_a_file() -> None:
    rows = rows_of({"a": [0.1, 0.2, 0.3], "b": [0.2, 0.4, 0.6]})
    premise = part(of="original", relation="above", premise=True)
    found = [decided(rows, premise, part(less="b", bound=0.05)), decided(rows, part(bound=0.01))]
    text = markdown([claims_table(found)])
    assert "| It works | premise: gap of original at N = 10 > 0 |" in text and "**reproduced**" in text
    assert "[-0.448, 0.048]" in text.replace("−", "-") and "−0.200" in text
    lines = list(csv.DictReader(io.StringIO(claims_csv(found))))
    assert [(line["verdict"], line["condition"], line["premise"]) for line in lines] == [
        ("reproduced", "holds", "true"),
        ("reproduced", "holds", "false"),
        ("not decided", "not decided", "false"),
    ]
    assert float(lines[1]["low"]) == pytest.approx(-0.448414, abs=1e-5) and lines[1]["seeds"] == "3"
