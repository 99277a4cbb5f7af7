"""What the page says of requests: states, waiting, deadlines, several devices, and what went wrong."""

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from page_reading import Tags, bare, drawings, read, words
from results_example import eventful_results, example_results

from fedunlearn.report.faults import fault_table
from fedunlearn.report.figures.requests import SHOWN, describe_end, request_lifetimes
from fedunlearn.report.figures.timeline import events, place_entries
from fedunlearn.report.finding import count_closed, count_requests, find, list_unfulfilled
from fedunlearn.report.request_table import batches, request_table, unreachable
from fedunlearn.report.request_view import view_requests
from fedunlearn.report.run_page import render
from fedunlearn.report.tables import Row
from fedunlearn.report.tiles import tiles


def column(results: dict[str, Any], name: str) -> list[tuple[str, str]]:
    table = request_table(read(results))
    place = table.columns.index(name)
    return [(line.cells[place].text, line.cells[place].note) for line in table.rows]


# ---- one person, several devices -------------------------------------------------------------------------


def test_rows_of_one_id_are_one_request_of_a_person_with_several_devices() -> None:
    results = eventful_results()
    found = view_requests(read(results))
    assert [(w.id, w.clients) for w in found][:2] == [("r-001-1", ["1", "9"]), ("r-002-1", ["2"])]
    person = found[0]
    assert (person.utterances, person.raised, person.applied, person.waited) == (60, 30, 34, 4)
    assert person.history == dict(raised=30, accepted=31, unlearned=34, applied=34, purged=34, verified=34)
    assert count_requests(read(results)) == "5 deletion requests from 6 clients (116 utterances)"
    assert column(results, "client")[0] == ("1, 9", "2 devices, one person")
    assert column(results, "client")[1] == ("2", "")


def test_a_request_is_as_far_as_its_slowest_device() -> None:
    results = eventful_results()
    results["requests"][1] |= {"state": "accepted", "round_applied": None, "history": []}
    person = view_requests(read(results))[0]
    assert (person.state, person.applied, person.waited) == ("accepted", None, None)
    assert person.history == {"raised": 30}
    assert request_table(read(results)).rows[0].note == "client 1: verified, client 9: accepted"
    assert "r-001-1: accepted" in list_unfulfilled(read(results))[0]


def test_requests_without_an_id_are_not_one() -> None:
    results = example_results()
    for entry in results["requests"]:
        entry["id"] = None
    assert len(view_requests(read(results))) == 4


def test_both_devices_are_one_number_in_the_learning_curve() -> None:
    results = eventful_results()
    found = events(read(results), place_entries(read(results).timeline))
    assert [e.numbers for e in found if e.applied] == [(1, 2), (1,), (3,)]
    assert [e.numbers for e in found if not e.applied] == [(4,), (5,), (6,)], "#7 had nothing to apply"


# ---- the table -------------------------------------------------------------------------------------------


def test_states_waiting_and_deadlines_stand_in_the_table() -> None:
    results = eventful_results()
    lines = request_table(read(results)).rows
    assert [(line.state, line.tone) for line in lines] == [
        ("verified", "good"),
        ("verified", "good"),
        ("verified", "good"),
        ("withdrawn", "open"),
        ("refused", "bad"),
        ("accepted", "open"),
        ("verified", "good"),
    ]
    assert lines[3].note == "its person withdrew it" and "not its own" in lines[4].note
    assert column(results, "applied")[:4] == [
        ("34", "waited 4 rounds\nattempted 3 times"),
        ("32", "waited 1 round"),
        ("41", "waited 8 rounds\nattempted 2 times"),
        ("–", ""),
    ]
    assert column(results, "deadline") == [
        ("–", ""),
        ("within 5", "met, 4 to spare"),
        ("within 5", "overdue by 4 rounds"),
        ("–", ""),
        ("–", ""),
        ("within 11", ""),
        ("–", ""),
    ]
    assert column(results, "utterances")[0] == ("60", "42 trained on")
    assert column(results, "utterances")[6] == ("12", "never trained on")


def test_an_open_request_is_overdue_by_the_rounds_up_to_the_end() -> None:
    results = eventful_results()
    results["requests"][6] |= {"deadline": 3, "overdue": True}
    assert max(row["round"] for row in results["timeline"]) == 44
    assert column(results, "deadline")[5] == ("within 3", "overdue by 2 rounds")
    assert describe_end(view_requests(read(results))[5]) == "accepted, overdue by 2"


def test_recovery_rounds_in_the_middle_of_learning_do_not_count_against_a_deadline() -> None:
    """On the timeline verified 9 rounds after it was raised, 4 of them recovery rounds: 5 of 5."""
    results = eventful_results()
    late = results["requests"][3]
    for step, rounds_done in zip(late["history"], (33, 34, 36, 37, 37, 38), strict=True):
        step["date"] = rounds_done
    late["overdue"] = False
    assert column(results, "deadline")[2] == ("within 5", "met")
    late["history"], late["state"] = late["history"][:4], "applied"
    late["overdue"] = True
    late_by = view_requests(read(results))[2].late_by
    assert late_by == 44 - 33 - 4 - 5, "of the rounds up to the end, 4 did not count"


def test_what_a_run_does_not_have_is_not_shown() -> None:
    results = example_results()
    assert "deadline" not in request_table(read(results)).columns
    assert batches(read(results)) == [] and unreachable(read(results)) == ""
    assert request_lifetimes(read(results)) is None
    for entry in results["requests"]:
        for new in ("deadline", "overdue", "devices", "learned", "history", "attempts", "reason_open"):
            del entry[new]
    text = words(render(read(bare(results))))
    assert "Served together" not in text and "could not be reached" not in text
    assert [cell for cell, _ in column(results, "steps")] == ["19", "20", "21", "22"]


# ---- the figure ------------------------------------------------------------------------------------------


def figure_of(results: dict[str, Any]) -> str:
    lives = request_lifetimes(read(results))
    assert lives is not None
    ElementTree.fromstring(lives.figure.svg(880)), ElementTree.fromstring(lives.figure.svg(360))
    return lives.figure.svg()


def test_each_request_has_a_row_that_says_in_words_how_it_ended() -> None:
    drawn = re.findall(r">([^<>]+)</text>", figure_of(eventful_results()))
    assert [text for text in drawn if text.startswith("#")] == [
        "#1  client 1, 9",
        "#2  client 2",
        "#3  client 3",
        "#4  client 5",
        "#5  client 6",
        "#6  client 4",
        "#7  client 7",
    ]
    ends = ["verified", "verified", "verified, overdue by 4", "withdrawn", "refused", "accepted, open"]
    assert [text for text in drawn if text in ends] == [*ends, "verified"]


def test_absences_of_requesters_are_hatched_and_in_the_key() -> None:
    results = eventful_results()
    lives = request_lifetimes(read(results))
    assert lives is not None and lives.deadline
    text = words(render(read(bare(results) | {"timeline": []})))
    assert "its client was offline" in text and "past its deadline" in text
    results["availability"] = None
    results["requests"] = results["requests"][4:6]
    without = request_lifetimes(read(results))
    assert without is not None and not without.deadline
    assert len(without.figure.key) == len(lives.figure.key) - 3
    assert "<pattern" in lives.figure.svg() and "<pattern" not in without.figure.svg()


def test_figures_of_requests_follow_the_page_into_the_dark_and_are_the_same_twice() -> None:
    page = render(read(eventful_results()))
    assert page == render(read(eventful_results()))
    for svg in drawings(page):
        ElementTree.fromstring(svg)
        assert not re.findall(r"(?:fill|stroke): (#\w+)", svg)
    ids = [attributes["id"] for _, attributes in Tags(page).found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_of_many_requests_those_are_drawn_that_say_most() -> None:
    results = eventful_results()
    first = results["requests"][2]
    quick = [first | {"id": f"quick-{i}", "rounds_waited": 1} for i in range(SHOWN + 5)]
    results["requests"] = [*quick, *results["requests"][3:5]]
    lives = request_lifetimes(read(results))
    assert lives is not None and lives.left_out == 7
    drawn = lives.figure.svg()
    assert "overdue by 4" in drawn and ">withdrawn<" in drawn
    assert "Left out: 7; those drawn are open or overdue" in words(render(read(bare(results))))


# ---- served together -------------------------------------------------------------------------------------


def test_served_batches_tell_who_waited_how_long_and_what_the_step_did() -> None:
    results = eventful_results()
    found = batches(read(results))
    assert [(b.round, b.requests, b.utterances, b.waited, b.longest) for b in found] == [
        ("32", "2", "68", "1.5", "2"),
        ("34", "1", "12", "4.0", "4"),
        ("41", "1", "12", "8.0", "8"),
    ]
    assert all(b.forget.endswith(" → 0.430") and b.test.endswith(" → 0.510") for b in found)
    assert tiles(read(results))[-1].notes[:2] == ("1 withdrawn, 1 refused", "waited 4.3 rounds")
    assert "Served together, within 2 rounds" in words(render(read(bare(results))))


def test_a_window_in_which_nobody_waited_still_shows_its_batches() -> None:
    results = example_results()
    results["config"]["deletions"]["window"] = 3
    assert [(b.round, b.requests, b.waited) for b in batches(read(results))] == [
        ("30", "1", "0.0"),
        ("35", "1", "0.0"),
        ("40", "2", "0.0"),
    ]


# ---- the head, and what went wrong -----------------------------------------------------------------------


def test_withdrawn_and_refused_requests_are_counted_neither_as_requested_nor_as_unfulfilled() -> None:
    results = eventful_results()
    assert count_closed(read(results)) == "1 withdrawn, 1 refused"
    assert list_unfulfilled(read(results)) == ["r-004-1: accepted (client 4 dropped twice)"]
    assert "(116 utterances), and 1 withdrawn, 1 refused." in words(render(read(bare(results))))
    results["requests"] = results["requests"][4:6]
    assert find(read(results)).headline == (
        "There was nothing to forget: 2 deletion requests, 1 withdrawn, 1 refused."
    )


def test_speech_that_no_model_had_been_trained_on_needs_no_unlearning() -> None:
    results = eventful_results()
    results["requests"] = results["requests"][7:]
    assert find(read(results)).headline.endswith("nothing was unlearned: no model had been trained on it.")


def test_an_interrupted_run_says_so_and_how_to_go_on() -> None:
    results = bare(eventful_results())
    for missing in ("models", "gap", "ranking", "noise_floor"):
        results[missing] = None
    results |= {"status": "partial", "failure": "stopped by Ctrl-C; continue with --resume"}
    for requested in (results["requests"], []):
        page = words(render(read(results | {"requests": requested})))
        assert "This run is partial: stopped by Ctrl-C; continue with --resume." in page
        assert "No finding yet: the run was stopped before its models could be compared." in page


def test_faults_are_counted_by_kind_where_it_is_known() -> None:
    results = eventful_results()
    table = fault_table(read(results))
    assert table is not None
    assert table.caption == "2 dropped, 1 late" and table.columns[3].text == "kind"
    assert texts(table.rows[0]) == ["32", "unlearn", "9", "late", "3 rounds late"]
    for fault in results["faults"]:
        del fault["kind"]
    old = fault_table(read(results))
    assert old is not None and old.caption == ""
    assert [column.text for column in old.columns] == ["round", "phase", "client", "reason"]


def texts(row: Row) -> list[str]:
    return [row.head, *(cell.text for cell in row.cells)]


@pytest.mark.parametrize(
    "broken",
    [
        None,
        "x",
        [["a", 1, 2], [3], [3, None, 5], {}],
        {"a": 1},
        *(pytest.param(broken, marks=pytest.mark.slow) for broken in (7, [None])),
    ],
)
def test_anything_in_place_of_the_new_fields_is_survived(broken: Any) -> None:
    results = bare(eventful_results())
    results["availability"] = {"unreachable": broken, "requesters": broken}
    for entry in results["requests"]:
        entry |= dict.fromkeys(("history", "deadline", "overdue", "devices", "learned", "attempts"), broken)
    render(read(results))
    render(read(results | {"availability": broken}))
