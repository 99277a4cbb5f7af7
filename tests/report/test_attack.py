"""The sentence that says what the attack of a run made."""

import pytest
from results_example import example_results

from fedunlearn.report.attack import describe_attack
from fedunlearn.results_schema import Results


def made(*rows: tuple[int, int | None, int | None, float | None]) -> Results:
    """A run whose requests have (client, round_applied, adversarial, attack_success)."""
    requests = [
        {"id": f"{i:016x}", "client": c, "round_applied": r, "adversarial": n, "attack_success": s}
        for i, (c, r, n, s) in enumerate(rows)
    ]
    return Results.model_validate({**example_results(), "requests": requests})


def test_samples_are_added_up_and_successes_weighted_by_them() -> None:
    """100 * 1.0 + 300 * .8 = 340 of 400."""
    said = describe_attack(made((0, 31, 100, 1.0), (3, 31, 300, 0.8)))
    assert said.startswith("2 clients ran the adversarial fine-tune (")
    assert said.endswith("400 adversarial samples, 85% of them classified as the attack wanted")


def test_a_client_that_served_two_requests_in_one_step_attacked_once() -> None:
    said = describe_attack(made((0, 31, 100, 1.0), (0, 31, 100, 1.0), (0, 36, 50, 0.4)))
    assert said.startswith("1 client ran") and "150 adversarial samples, 80%" in said


@pytest.mark.parametrize("row", [(0, 31, 0, None), (0, 31, None, None), (0, None, 100, 1.0)])
def test_without_an_attack_that_joined_nothing_is_said(
    row: tuple[int, int | None, int | None, float | None],
) -> None:
    assert describe_attack(made(row)) == ""
