"""When a run says nothing, or little, about its method: each reason at its threshold, and none of them."""

import copy
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from results_example import eventful_results, example_results
from results_measures import add_measures

from fedunlearn.caveats import caveats_of, decisive_caveat, find_caveats
from fedunlearn.results_schema import Caveat, CaveatKind, Results


def changed(**places: Any) -> Results:
    """The example run with other values: dotted paths with ``__``."""
    record = add_measures(example_results())
    record["gap"]["noise_floor"] = record.pop("noise_floor")
    for path, value in places.items():
        *parents, last = path.split("__")
        node: Any = record
        for key in parents:
            node = node[key]
        node[last] = value
    return Results.model_validate(record)


def said(results: Results) -> dict[str | None, bool | None]:
    """Kind -> whether it is decisive."""
    return {caveat.kind: caveat.decisive for caveat in find_caveats(results)}


def sentence(results: Results) -> str:
    (caveat,) = find_caveats(results)
    return caveat.sentence or ""


def test_a_good_run_has_no_caveat() -> None:
    assert find_caveats(changed()) == [] and decisive_caveat(changed()) is None


def test_a_run_whose_models_were_not_compared_has_none() -> None:
    assert find_caveats(Results.model_validate(example_results() | {"models": None})) == []
    assert find_caveats(Results.model_validate({})) == []


def test_older_results_are_judged_when_they_are_read_and_newer_ones_keep_what_they_say() -> None:
    older = changed(gap__noise_floor=None)
    assert [caveat.kind for caveat in caveats_of(older)] == ["no noise floor"]
    stored = {"kind": "guard", "sentence": "As stored.", "decisive": False}
    assert [caveat.to_json() for caveat in caveats_of(changed(caveats=[stored]))] == [stored]
    assert caveats_of(changed(caveats=[], gap__noise_floor=None)) == []


# ---- the original ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "chance"), [(0.16, True), (1 / 6, True), (0.17, False)])
def test_an_original_at_chance_has_not_learned(low: float, chance: bool) -> None:
    results = changed(models__original__test={"uar": 0.2, "uar_interval": [low, 0.25], "n": 240})
    assert ("not learned" in said(results)) is chance
    if chance:
        assert sentence(results) == (
            f"The original has not learned (test UAR 0.200, 95 % interval {low:.3f} to 0.250, where chance "
            "is 0.167)."
        )


def test_without_an_interval_the_uar_itself_is_compared_with_chance_and_without_a_uar_the_accuracy() -> None:
    assert said(changed(models__original__test={"uar": 0.166, "n": 240})) == {"not learned": True}
    assert said(changed(models__original__test={"accuracy": 0.15, "n": 240})) == {"not learned": True}
    assert said(changed(models__original__test={"accuracy": 0.17, "n": 240})) == {}
    assert said(changed(models__original__test={"accuracy": 0.15, "n": 240}, corpus__emotions=[])) == {}


@pytest.mark.parametrize(
    ("retain", "decisive"), [(0.48, True), (0.499, True), (0.5, False), (0.799, False), (0.8, None)]
)
def test_an_original_that_does_not_know_its_own_speech(retain: float, decisive: bool | None) -> None:
    results = changed(models__original__retain__accuracy=retain)
    assert said(results).get("not learned") is decisive
    if retain == 0.48:
        assert sentence(results) == (
            "The original has not learned (it recognises 48 % of its own training speech, and 61 % of test "
            "speech)."
        )


@pytest.mark.parametrize(
    ("difference", "error", "floor", "retrained", "unfinished"),
    [
        (0.10, 0.02, 0.006, 0.575, True),
        (0.04, 0.02, 0.006, 0.575, False),  # two standard errors exactly
        (0.041, 0.02, 0.006, 0.575, True),
        (0.041, 0.02, 0.05, 0.575, False),  # within the noise floor
        (0.10, None, 0.006, 0.575, True),
        (-0.20, 0.02, 0.006, 0.575, False),
        (0.10, 0.02, 0.006, 0.700, False),  # the retrained models gain as much without D_f
    ],
)
def test_test_accuracy_that_rises_shows_that_learning_had_not_finished(
    difference: float, error: float | None, floor: float, retrained: float, unfinished: bool
) -> None:
    gain = {"difference": difference, "standard_error": error, "n": 240}
    results = changed(gain=gain, gap__noise_floor__test=floor)
    for model in results.models.retrained.seeds:
        model.test.accuracy = retrained
    assert said(results) == ({"training unfinished": True} if unfinished else {})
    if unfinished and difference == 0.1 and error:
        assert sentence(results).startswith(
            "Learning had not finished, as test accuracy rose from 0.612 to 0.712 with unlearning and "
            "recovery, where noise explains 0.040:"
        )


def test_nothing_to_forget_by_rho_or_by_forget_accuracy() -> None:
    by_rho = changed(gap__rho=1.12, gap__nothing_to_forget=True)
    assert said(by_rho) == {"nothing to forget": True} and "rho 1.12" in sentence(by_rho)
    unknown = {"gap__rho": None, "gap__nothing_to_forget": None, "gap__noise_floor__mean": 0.01}
    unknown |= {"gap__recovered__low": None}
    assert said(changed(**unknown, gap__none__mean=0.015)) == {"nothing to forget": True}
    assert said(changed(**unknown, gap__none__mean=0.0151)) == {}
    level = (0.554 + 0.543) / 2  # of the two retrained models
    assert said(changed(models__original__forget__accuracy=level + 0.001)) == {}
    known = changed(models__original__forget__accuracy=level)
    assert said(known) == {"nothing to forget": True}
    assert "(forget accuracy 0.548 and 0.548)" in sentence(known)


# ---- the measurement -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "lost"),
    [(0.0, 0.2, True), (0.0072, 0.199, True), (0.008, 0.2, False), (0.0, 0.198, False)],
)
def test_an_interval_that_holds_the_floor_and_doing_nothing(low: float, high: float, lost: bool) -> None:
    """The floor is 0.0072 and doing nothing has 0.199."""
    results = changed(gap__recovered__low=low, gap__recovered__high=high)
    assert said(results) == ({"indistinguishable": True} if lost else {})
    if lost:
        assert "holds both the noise floor (0.007) and doing nothing (0.199)" in sentence(results)


def test_a_control_is_not_said_to_be_like_doing_nothing() -> None:
    wide = {"gap__recovered__low": 0.0, "gap__recovered__high": 0.3}
    assert said(changed(**wide, unlearning={"method": "none", "control": "leaves it"})) == {}


@pytest.mark.parametrize(("n", "few"), [(1, True), (9, True), (10, False), (92, False)])
def test_few_utterances(n: int, few: bool) -> None:
    results = changed(models__original__forget__n=n)
    assert said(results) == ({"few utterances": False} if few else {})
    if n == 9:
        assert sentence(results) == "Only 9 utterances were deleted: one of them is 11 % of forget accuracy."


def test_one_retrained_model_gives_no_yardstick() -> None:
    results = changed(gap__noise_floor=None, gap__rho=None, gap__nothing_to_forget=None)
    assert said(results) == {"no noise floor": False}
    assert sentence(results).startswith("There is one retrained model and so no noise floor:")


def test_recordings_of_no_corpus_are_named_with_place_and_time() -> None:
    rows = [{"client": 1, "round": 3, "count": 2}, {"client": 4, "round": 0, "count": 1}]
    results = changed(added=rows)
    assert said(results) == {"recordings added": False}
    assert sentence(results).startswith(
        "Devices took in 3 recordings that are in no corpus (2 at client 1 after round 3, 1 at client 4 "
        "after round 0). The references were trained on those"
    )


# ---- guard and requests ----------------------------------------------------------------------------------


def act(client: int, factor: float, round_: int = 30) -> dict[str, Any]:
    return {"round": round_, "client": client, "what": "scaled back", "factor": factor, "requests": []}


def test_the_guard_on_honest_clients_is_named_with_what_it_left() -> None:
    """Of one update, clipped to 0.8 and scaled to a half, 0.4 is left."""
    results = changed(guard=[act(2, 0.8), act(2, 0.5), act(3, 0.0), act(3, 0.9, 31)])
    assert said(results) == {"guard": False}
    assert sentence(results) == (
        "The server's guard shortened or refused updates of honest clients (client 2 to 0.4 of its length, "
        "client 3 refused)."
    )


@pytest.mark.parametrize(("factor", "decisive"), [(0.49, True), (0.5, False)])
def test_a_guard_that_left_less_than_half_of_every_update_decided_the_result(
    factor: float, decisive: bool
) -> None:
    assert said(changed(guard=[act(c, factor) for c in (1, 2, 3, 4)])) == {"guard": decisive}
    assert said(changed(guard=[act(c, factor) for c in (1, 2, 3)])) == {"guard": False}


def test_the_guard_on_malicious_clients_is_no_caveat() -> None:
    attackers = {"clients": [2], "kind": "scaled", "factor": 10.0}
    assert said(changed(guard=[act(2, 0.1)], attackers=attackers)) == {}
    assert said(changed(guard=[act(2, 0.1), act(3, 0.6)], attackers=attackers)) == {"guard": False}


def test_requests_that_were_refused_or_not_fulfilled_are_counted_with_their_clients() -> None:
    results = changed()
    results.requests[0].state, results.requests[2].state = "refused", "accepted"
    results.requests[3].state = "withdrawn"
    assert sentence(results) == (
        "Of 4 requests, 1 was refused and 1 was not fulfilled (clients 1, 3); the measures are of the others."
    )
    assert said(Results.model_validate(eventful_results()))["requests"] is False


def test_where_nothing_was_unlearned_that_is_said_alone() -> None:
    idle = changed(requests=[], gap__noise_floor=None, models__original__retain__accuracy=0.1)
    assert said(idle) == {"nothing unlearned": True}


# ---- all of them -----------------------------------------------------------------------------------------


@given(
    retain=st.floats(0, 1),
    forget=st.floats(0, 1),
    uar=st.floats(0, 1),
    deleted=st.integers(0, 100),
    rho=st.none() | st.floats(0, 50),
    high=st.floats(0.02, 1),
    factors=st.lists(st.floats(0, 0.99), max_size=4),
    states=st.lists(st.sampled_from(["verified", "refused", "accepted"]), min_size=4, max_size=4),
)
def test_decisive_reasons_come_first_each_kind_once_and_each_is_a_sentence(
    retain: float,
    forget: float,
    uar: float,
    deleted: int,
    rho: float | None,
    high: float,
    factors: list[float],
    states: list[str],
) -> None:
    record = copy.deepcopy(add_measures(example_results()))
    original = record["models"]["original"]
    original["retain"]["accuracy"], original["forget"] = retain, {"accuracy": forget, "n": deleted}
    original["test"] = {"uar": uar, "n": 240}
    record["gap"] |= {"rho": rho, "nothing_to_forget": rho is not None and rho <= 1.5}
    record["gap"]["recovered"] |= {"low": 0.0, "high": high}
    record["guard"] = [act(client, factor) for client, factor in enumerate(factors, start=1)]
    for request, state in zip(record["requests"], states, strict=True):
        request["state"] = state
    found = find_caveats(Results.model_validate(record))
    weights = [not caveat.decisive for caveat in found]
    assert weights == sorted(weights)
    kinds = [caveat.kind for caveat in found]
    assert len(kinds) == len(set(kinds)) and set(kinds) <= set(get_args(CaveatKind))
    for caveat in found:
        text = caveat.sentence or ""
        assert text[0].isupper() and text.endswith(".") and "None" not in text
        assert Caveat.model_validate(caveat.to_json()) == caveat
