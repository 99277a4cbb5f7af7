"""Thresholds and rates of the audit bench, worked out by hand; the command and its files."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.errors import BadInput
from fedunlearn.study.audit_bench.audit_file import (
    AuditFile,
    Contradictions,
    Observation,
    Statistics,
    Threshold,
)
from fedunlearn.study.audit_bench.verdicts import (
    detection_rates,
    exceeded,
    least_references,
    raises_alarm,
    set_threshold,
    upper_quantile,
)


def seen(cheat: str = "honest", exact: bool = False, **values: float) -> Observation:
    lines = ("a contradiction",) if exact else ()
    return Observation(
        seed=1,
        cheat=cheat,
        statistics=Statistics(**values),
        contradictions=Contradictions(requester=lines, committee=lines),
    )


@pytest.mark.parametrize(("rate", "least"), [(0.05, 19), (0.1, 9), (0.5, 1), (0.025, 39)])
def test_a_rate_needs_so_many_references(rate: float, least: int) -> None:
    """One of n + 1 exchangeable values is the largest with probability 1/(n + 1)."""
    assert least_references(rate) == least
    with pytest.raises(ValueError, match="too few"):
        upper_quantile([0.0] * (least - 1), rate)
    assert upper_quantile([float(n) for n in range(least)], rate) == least - 1


def test_of_39_values_two_in_forty_may_be_above() -> None:
    """k = 0.95 * 40 = 38: the 38th smallest, which a further value exceeds with probability 2/40."""
    assert upper_quantile([float(n) for n in range(1, 40)], 0.05) == 38


@given(st.lists(st.floats(-1e3, 1e3), min_size=19, max_size=80), st.sampled_from([0.05, 0.1, 0.3]))
def test_no_more_references_are_above_than_the_rate_allows(values: list[float], rate: float) -> None:
    above = sum(v > upper_quantile(values, rate) for v in values)
    assert above + 1 <= (len(values) + 1) * rate + 1e-9


def test_any_statistic_above_its_limit_is_an_alarm() -> None:
    threshold = Threshold(
        verifier="requester-who-tests", statistics=("forgets", "returns"), limits=(-1.0, 0.5), references=39
    )
    assert exceeded(threshold, Statistics(forgets=0.0, returns=0.75)) == ("forgets", "returns")
    assert exceeded(threshold, Statistics(forgets=-1.0, returns=0.75)) == ("returns",)  # -1 is not above -1
    assert exceeded(threshold, Statistics()) == ()
    assert raises_alarm(threshold, seen(forgets=-0.9, returns=0.0))
    assert raises_alarm(threshold, seen(exact=True, forgets=-4.0))
    assert not raises_alarm(threshold, seen(forgets=-4.0)) and not raises_alarm(threshold, seen())


def test_a_limit_is_the_higher_of_those_of_honest_runs_and_of_retrained_models() -> None:
    references = [
        seen(remains=float(n)).model_copy(update={"retrained": Statistics(remains=30.0)}) for n in range(19)
    ]
    assert set_threshold("auditor", references, 0.05).limits == (30.0,)
    without = [o.model_copy(update={"retrained": Statistics()}) for o in references]
    assert set_threshold("auditor", without, 0.05).limits == (18.0,)
    assert set_threshold("replay", [], 0.05).limits == ()
    with pytest.raises(BadInput, match=r"--choosing 18: thresholds at 0\.05 false alarms need at least 19"):
        set_threshold("auditor", references[:18], 0.05)


def test_two_statistics_have_half_of_the_rate_each() -> None:
    """Of 39 honest runs the largest of each is exceeded with probability 1/40, so either with 5 % at most."""
    references = [seen(forgets=float(n), returns=-float(n)) for n in range(39)]
    assert set_threshold("requester-who-tests", references, 0.05).limits == (38.0, 0.0)
    with pytest.raises(BadInput, match=r"--choosing 38: thresholds at 0\.05 false alarms need at least 39"):
        set_threshold("requester-who-tests", references[:38], 0.05)


@given(st.integers(0, 2**32 - 1))
def test_together_they_keep_to_the_rate(seed: int) -> None:
    """On the references themselves, however the two statistics depend on each other: 1 of 40 each at most."""
    drawn = np.random.default_rng(seed).normal(size=(79, 2))
    references = [seen(forgets=float(a), returns=float(b)) for a, b in drawn]
    threshold = set_threshold("requester-who-tests", references, 0.05)
    assert sum(raises_alarm(threshold, o) for o in references) <= 2


def test_rates_count_alarms_and_those_of_exact_checks() -> None:
    threshold = Threshold(verifier="requester", statistics=("returns",), limits=(0.5,))
    observations = [seen("x", exact=True), seen("x", returns=1.0), seen("x", returns=0.1), seen(returns=0.0)]
    first, second = detection_rates([threshold], observations)
    assert (first.cheat, first.found, first.exact, first.runs) == ("x", 2, 1, 3)
    assert 0.0 < first.low < 2 / 3 < first.high
    assert (second.cheat, second.found, second.runs) == ("honest", 0, 1)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--choosing", "3"], "--choosing 3: thresholds at 0.05 false alarms need at least 39 seeds"),
        (["--seeds", "7,101"], "--seeds 101: thresholds are set on this seed"),
        (["--cheats", "lies"], "--cheats lies: known are ignore, "),
        (["--set", "recovery.rounds=0"], "recovery.rounds = 0: servers cheat in recovery, too"),
        (["--set", "partition.clients=2"], "partition.clients = 2: the bench needs at least 3"),
        (["--set", "unlearning.method=scrub"], "unlearning.method = scrub: is a privileged baseline"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_played(tmp_path: Path, words: list[str], line: str) -> None:
    code, said = call("audit", "bench", "--out", tmp_path / "x", *words)
    assert code == 2 and line in " ".join(said.split())
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_the_bench_leaves_typed_results_and_a_page_and_plays_nothing_twice(tmp_path: Path) -> None:
    out = tmp_path / "audit"
    words = ["audit", "bench", "--out", str(out), "--seeds", "1", "--choosing", "4", "--size", "4"]
    words += ["--false-alarms", "0.4", "--cheats", "ignore,edited-row", "--set", "training.rounds=3"]
    words += ["--set", "corpus.utterances=18", "--set", "model.hidden=16"]
    code, said = call(*words)
    assert code == 0 and "2 cheating servers: 2 found in every run by somebody" in said
    found = AuditFile.model_validate_json((out / "audit.json").read_bytes())
    assert {rate.cheat for rate in found.rates} == {"honest", "sham", "ignore", "edited-row"}
    assert found.choosing == (101, 102, 103, 104) and found.seeds == (1,)
    assert "<svg" in (out / "audit.html").read_text() and "| ignore |" in (out / "audit.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in (out / "seeds").iterdir()}
    assert call(*words)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "seeds").iterdir()} == before
    assert not (out / "running").exists()
    assert json.loads((out / "audit.json").read_text())["format"] == "fedunlearn/audit/1"
