"""Parts of results.json that are put together from the timeline."""

from fedunlearn.experiment.results import reversion_steps
from fedunlearn.results_schema import TimelineEntry
from fedunlearn.server.requests import TrackedRequest


def entry(round_: int, phase: str, forget: float | None, *requests: str) -> TimelineEntry:
    known = {"round": round_, "phase": phase, "forget_accuracy": forget, "requests": list(requests)}
    return TimelineEntry.model_validate(known)


def request(name: str, client: int) -> TrackedRequest:
    return TrackedRequest(name, client, 4, 1)


def test_each_step_is_followed_through_its_recovery() -> None:
    timeline = [
        entry(1, "learn", 0.8),
        entry(1, "unlearn", 0.5, "a"),
        entry(2, "recover", 0.55),
        entry(3, "recover", 0.6),
        entry(4, "unlearn", 0.3, "b", "c"),
        entry(5, "recover", 0.4),
        entry(6, "learn", 0.9),
        entry(6, "unlearn", 0.2, "c"),
    ]
    steps = reversion_steps(timeline, 0.8, [request("a", 2), request("b", 5), request("c", 1)])
    assert [step.to_json() for step in steps] == [
        {"round": 1, "clients": [2], "before": 0.8, "unlearned": 0.5, "recovered": 0.6},
        {"round": 4, "clients": [1, 5], "before": 0.6, "unlearned": 0.3, "recovered": 0.4},
        {"round": 6, "clients": [1], "before": 0.9, "unlearned": 0.2, "recovered": None},
    ]


def test_a_step_before_anything_else_starts_from_the_original() -> None:
    (step,) = reversion_steps([entry(0, "unlearn", 0.1, "a")], 0.7, [request("a", 0)])
    assert step.to_json() == {"round": 0, "clients": [0], "before": 0.7, "unlearned": 0.1, "recovered": None}


def test_a_person_with_several_devices_is_one_step_of_several_clients() -> None:
    (step,) = reversion_steps([entry(3, "unlearn", 0.1, "a")], 0.7, [request("a", 4), request("a", 1)])
    assert step.clients == [1, 4]


def test_the_rounds_of_a_privileged_baseline_are_one_step() -> None:
    timeline = [
        entry(1, "learn", 0.8),
        entry(2, "unlearn", 0.5),
        entry(3, "unlearn", 0.4),
        entry(3, "unlearn", 0.4, "a"),
        entry(4, "recover", 0.45),
        entry(5, "unlearn", 0.3),
        entry(5, "unlearn", 0.3, "b"),
    ]
    steps = reversion_steps(timeline, 0.8, [request("a", 2), request("b", 1)])
    assert [step.to_json() for step in steps] == [
        {"round": 3, "clients": [2], "before": 0.8, "unlearned": 0.4, "recovered": 0.45},
        {"round": 5, "clients": [1], "before": 0.45, "unlearned": 0.3, "recovered": None},
    ]


def test_rounds_that_the_judge_did_not_look_at_leave_holes() -> None:
    timeline = [entry(1, "unlearn", None, "a"), entry(2, "recover", None)]
    (step,) = reversion_steps(timeline, 0.7, [request("a", 0)])
    assert (step.before, step.unlearned, step.recovered) == (0.7, None, None)


def test_ordinary_rounds_are_no_recovery() -> None:
    timeline = [entry(1, "unlearn", 0.2, "a"), entry(2, "learn", 0.9), entry(3, "recover", 0.95)]
    (step,) = reversion_steps(timeline, 0.7, [request("a", 0)])
    assert step.recovered is None
