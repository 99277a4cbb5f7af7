"""Who can be reached when: frequencies, absences, traces, and that nothing depends on the order of asking."""

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.config import load
from fedunlearn.config.federation import AvailabilitySettings
from fedunlearn.errors import BadInput
from fedunlearn.server.availability import Availability

CLIENTS, ROUNDS = 20, 300


def availability(seed: int = 7, clients: int = CLIENTS, **settings: Any) -> Availability:
    return Availability(AvailabilitySettings(**settings), seed, clients)


def test_by_default_everybody_is_always_there_and_prompt() -> None:
    found = availability()
    assert found.certain
    for client in range(CLIENTS):
        for round in range(ROUNDS):
            assert found.reachable(client, round)
            assert found.delay(client, round, 0) == 0 and not found.drops(client, round, 0)
    assert found.in_results({r: r for r in range(ROUNDS)}, [0]) == {"unreachable": [], "requesters": []}


@pytest.mark.parametrize("setting", [{"offline": 0.1}, {"slow": 0.1}, {"drop": 0.1}])
def test_any_chance_makes_it_uncertain(setting: dict[str, float]) -> None:
    assert not availability(**setting).certain


# ---- chances ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lasting", [1, 2, 5, 20])
@pytest.mark.parametrize("chance", [0.05, 0.3, 0.8])
def test_a_client_is_offline_as_often_as_configured_however_long_absences_last(
    chance: float, lasting: int
) -> None:
    """Of n client-rounds, at most L are one draw where absences last L rounds: 4.5 standard errors."""
    found = availability(offline=chance, offline_rounds=lasting)
    away = [not found.reachable(c, r) for c in range(CLIENTS) for r in range(ROUNDS)]
    error = (chance * (1 - chance) * lasting / len(away)) ** 0.5
    assert sum(away) / len(away) == pytest.approx(chance, abs=4.5 * error)
    at_start = [
        not availability(s, offline=chance, offline_rounds=lasting).reachable(0, 0) for s in range(900)
    ]
    assert sum(at_start) / 900 == pytest.approx(chance, abs=4.5 * (chance * (1 - chance) / 900) ** 0.5)


@given(st.integers(0, 2**40), st.integers(1, 9), st.floats(0.01, 0.9))
def test_no_absence_is_shorter_than_it_lasts(seed: int, lasting: int, chance: float) -> None:
    found = availability(seed, 3, offline=chance, offline_rounds=lasting)
    for client in range(3):
        stretches = [
            (away, len(list(own))) for away, own in groupby(not found.reachable(client, r) for r in range(60))
        ]
        assert all(length >= lasting for away, length in stretches[1:-1] if away)


def test_rare_absences_last_exactly_as_long_as_configured() -> None:
    """With a chance of 0.004 and 4 rounds each, two of them in 300 rounds seldom touch."""
    found = availability(offline=0.004, offline_rounds=4, clients=100)
    lengths = [
        len(list(own))
        for client in range(100)
        for away, own in groupby(not found.reachable(client, r) for r in range(1, ROUNDS))
        if away
    ]
    assert len(lengths) > 10 and sum(n == 4 for n in lengths) >= 0.85 * len(lengths)


@pytest.mark.parametrize("chance", [0.1, 0.6])
def test_slow_replies_and_drops_are_as_frequent_as_configured_and_independent(chance: float) -> None:
    found = availability(slow=chance, slow_rounds=3, drop=chance)
    attempts = [(c, r, a) for c in range(CLIENTS) for r in range(100) for a in range(3)]
    late, dropped = [found.delay(*each) for each in attempts], [found.drops(*each) for each in attempts]
    assert set(late) == {0, 3}
    near = 4.5 * (chance * (1 - chance) / len(attempts)) ** 0.5
    assert sum(d > 0 for d in late) / len(attempts) == pytest.approx(chance, abs=near)
    assert sum(dropped) / len(attempts) == pytest.approx(chance, abs=near)
    both = sum(d > 0 and gone for d, gone in zip(late, dropped, strict=True)) / len(attempts)
    assert both == pytest.approx(chance**2, abs=near)
    assert all(found.reachable(c, r) for c, r, _ in attempts)


def test_another_attempt_in_the_same_round_has_luck_of_its_own() -> None:
    found = availability(drop=0.5)
    assert {found.drops(0, 0, attempt) for attempt in range(30)} == {True, False}


def test_another_seed_is_another_story_and_the_same_seed_the_same() -> None:
    days = [(c, r) for c in range(CLIENTS) for r in range(50)]
    stories = [[availability(s, offline=0.3).reachable(*day) for day in days] for s in (1, 1, 2)]
    assert stories[0] == stories[1] != stories[2]


@given(st.permutations(range(12)), st.integers(0, 2**40))
def test_the_order_of_asking_changes_nothing(order: list[int], seed: int) -> None:
    settings: dict[str, Any] = {"offline": 0.4, "offline_rounds": 3, "slow": 0.4, "drop": 0.4}

    def answer(found: Availability, round: int) -> tuple[bool, int, bool]:
        return found.reachable(1, round), found.delay(1, round, 0), found.drops(1, round, 0)

    long_used = availability(seed, **settings)
    attempts = {round: answer(long_used, round) for round in order}
    for round, expected in attempts.items():
        assert answer(availability(seed, **settings), round) == expected


def test_more_clients_change_no_clients_availability() -> None:
    few, many = availability(clients=2, offline=0.3), availability(clients=30, offline=0.3)
    assert [few.reachable(1, r) for r in range(99)] == [many.reachable(1, r) for r in range(99)]


# ---- traces ----------------------------------------------------------------------------------------------


def trace(folder: Path, text: str, **settings: Any) -> Availability:
    file = folder / "trace.csv"
    file.write_text(text, encoding="utf-8")
    return availability(trace=str(file), **settings)


def test_a_trace_is_from_and_until_but_not_including(tmp_path: Path) -> None:
    found = trace(tmp_path, "\ufeffclient, from,until,why\n3,5,7,flight\n\n3,7,8,\n0,0,1,\n")
    assert not found.certain
    assert [r for r in range(12) if not found.reachable(3, r)] == [5, 6, 7]
    assert [r for r in range(12) if not found.reachable(0, r)] == [0]
    assert all(found.reachable(c, r) for c in range(CLIENTS) for r in range(12) if c not in {0, 3})
    assert [found.unreachable(r) for r in (0, 1, 5)] == [(0,), (), (3,)]


def test_a_trace_adds_to_the_chances(tmp_path: Path) -> None:
    alone = availability(offline=0.3)
    both = trace(tmp_path, "client,from,until\n1,10,20\n", offline=0.3)
    for round in range(40):
        expected = alone.reachable(1, round) and not 10 <= round < 20
        assert both.reachable(1, round) == expected and both.reachable(2, round) == alone.reachable(2, round)


def test_a_trace_without_rows_means_no_absences(tmp_path: Path) -> None:
    assert trace(tmp_path, "until,from,client\n").certain


def problems_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(BadInput) as caught:
        trace(folder, text)
    place = f"availability.trace: {folder / 'trace.csv'}"
    assert all(line.startswith(place) for line in caught.value.problems)
    return [line.removeprefix(place).removeprefix(": ") for line in caught.value.problems]


def test_every_bad_row_of_a_trace_is_one_line(tmp_path: Path) -> None:
    rows = [
        "client,from,until",
        "20,0,1",
        "-1,0,1",
        "0,x,2",
        "0,1",
        "1,4,4",
        "1,-1,3",
        "2,0,9",
        "2,3,4",
        "2,8,10",
    ]
    assert problems_of(tmp_path, "\n".join(rows)) == [
        "row 2: there is no client 20, they are 0 to 19",
        "row 3: there is no client -1, they are 0 to 19",
        "row 4: client, from and until must be whole numbers (got 0,x,2)",
        "row 5: client, from and until must be whole numbers (got 0,1)",
        "row 6: must be 0 <= from < until (got 4, 4)",
        "row 7: must be 0 <= from < until (got -1, 3)",
        "row 9: overlaps row 8, both of client 2; join them",
        "row 10: overlaps row 8, both of client 2; join them",
    ]


@pytest.mark.parametrize("text", ["", "client,from\n1,2\n", "1,2,3\n"])
def test_a_trace_without_its_columns_says_which_it_needs(tmp_path: Path, text: str) -> None:
    assert problems_of(tmp_path, text) == ["the columns client, from, until are needed, in a first row"]


def test_a_trace_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        availability(trace=str(tmp_path))
    with pytest.raises(BadInput, match="cannot be read"):
        availability(trace=str(tmp_path / "none.csv"))
    (tmp_path / "trace.csv").write_bytes(b"client,from,until\n\xff,1,2\n")
    with pytest.raises(BadInput, match="is not CSV"):
        availability(trace=str(tmp_path / "trace.csv"))
    assert problems_of(tmp_path, 'client,from,until\n"1,2,3\n')[0].startswith("is not CSV")


# ---- for the results -------------------------------------------------------------------------------------


def test_absences_follow_the_runs_timeline(tmp_path: Path) -> None:
    """Timeline rounds 0-3 are rounds 0-3; two recovery rounds, 4 and 5, belong to round 3; then 4, 5."""
    found = trace(tmp_path, "client,from,until\n1,0,1\n1,3,4\n2,3,5\n4,5,9\n")
    timeline_round = {0: 0, 1: 1, 2: 2, 3: 3, 4: 3, 5: 3, 6: 4, 7: 5}
    assert found.in_results(timeline_round, [2, 1, 1, 3]) == {
        "unreachable": [[0, 1], [3, 2], [4, 2], [5, 2], [6, 1], [7, 1]],
        "requesters": [[1, 0, 1], [1, 3, 6], [2, 3, 7]],
    }


# ---- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("offline", 1.0),
        ("offline", -0.1),
        ("offline_rounds", 0),
        ("slow", 1.0),
        ("slow_rounds", 0),
        ("drop", 1.0),
        ("lease", 0),
    ],
)
def test_a_setting_out_of_range_is_refused(key: str, value: float) -> None:
    with pytest.raises(BadInput, match=f"availability.{key}"):
        load(None, {f"availability.{key}": value})
