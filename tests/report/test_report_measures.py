"""The page's measures: what stands in results.json stands on it, with how sure it is, and nothing more."""

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from page_reading import Tags, bare, drawings, read, words
from results_example import example_results
from results_measures import add_measures

from fedunlearn.report import (
    attacks,
    collateral,
    costs,
    distances,
    fairness,
    gaps,
    request_table,
    side_by_side,
)
from fedunlearn.report.figures import export
from fedunlearn.report.figures.roc import LOWEST, roc_curves
from fedunlearn.report.finding import find
from fedunlearn.report.run_page import SECTIONS, render
from fedunlearn.report.tables import Column, Row, Table
from fedunlearn.report.tiles import tiles

TABLES: tuple[Callable[[Any], Table | None], ...] = (
    side_by_side.models_table,
    gaps.gap_table,
    attacks.attack_table,
    attacks.request_attacks,
    attacks.klom_table,
    collateral.shift_table,
    collateral.spread_table,
    collateral.following_table,
    fairness.change_table,
    distances.distance_table,
    distances.reversion_table,
    distances.gum_table,
    costs.cost_table,
)
STAGES = ("original", "unlearned", "recovered")


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return add_measures(example_results())


@pytest.fixture(scope="module")
def page(measured: dict[str, Any]) -> str:
    return render(read(measured))


def section(page: str, name: str) -> str:
    start = page.index(f'<section id="{name}">')
    return " ".join(Tags(page[start : page.index("</section>", start)] + "</section>").text.split())


def line(table: Table | None, head: str, after: str = "") -> list[str]:
    """The texts of the first line with this head (below the heading ``after``)."""
    assert table is not None
    heads = [row.head for row in table.rows]
    row = table.rows[heads.index(head, heads.index(after) if after else 0)]
    return [cell.text for cell in row.cells]


def notes(table: Table | None, head: str, after: str = "") -> list[str]:
    assert table is not None
    heads = [row.head for row in table.rows]
    row = table.rows[heads.index(head, heads.index(after) if after else 0)]
    return [cell.note for cell in row.cells]


# ---- the headline ----------------------------------------------------------------------------------------


def test_the_headline_says_how_sure_it_is(measured: dict[str, Any]) -> None:
    finding = find(read(measured | {"attacks": None}))
    assert finding.headline == (
        "After 4 deletion requests from 4 clients (92 utterances), the recovered model has a mean gap of "
        "0.017 (95% 0.003 to 0.031) to models retrained without them; doing nothing has 0.199, another "
        "retraining 0.007."
    )
    assert finding.tone == "good"
    assert tiles(read(measured))[0].notes[0] == "95% 0.003 to 0.031"


def test_a_difference_within_the_interval_is_no_finding(measured: dict[str, Any]) -> None:
    remark = find(read(measured)).remarks[0]
    assert "0.587 (95% 0.486 to 0.688) against 0.554, too few utterances to be sure" in remark
    sure = copy.deepcopy(measured)
    sure["models"]["recovered"]["forget"]["accuracy_interval"] = [0.57, 0.6]
    assert "too few" not in find(read(sure)).remarks[0]


def test_nothing_to_forget_is_reported_first_and_no_method_is_praised(measured: dict[str, Any]) -> None:
    results = copy.deepcopy(measured)
    results["gap"] |= {"rho": 1.12, "nothing_to_forget": True}
    finding = find(read(results))
    assert finding.headline == (
        "This run says nothing about l2ul: there is nothing to forget, as the original is hardly further "
        "from the retrained models than they are from each other (rho 1.12; 1.5 and less is nothing)."
    )
    assert finding.tone == "unknown"
    assert finding.remarks[0].startswith("After 4 deletion requests"), "the numbers follow"
    assert "nothing to forget" in gaps.rho_sentence(read(results))
    assert "27.4 times as far" in gaps.rho_sentence(read(measured))


@pytest.mark.parametrize(("kept", "praised"), [(0.54, True), (0.0, False), (0.3, False)])
def test_over_forgetting_is_not_praised(measured: dict[str, Any], kept: float, praised: bool) -> None:
    results = copy.deepcopy(measured) | {"attacks": None}
    results["models"]["recovered"]["forget"] = {
        "accuracy": kept,
        "n": 92,
        "accuracy_interval": [max(0.0, kept - 0.1), kept + 0.1],
    }
    finding = find(read(results))
    assert (finding.tone == "good") is praised
    assert ("forgets more than a retrained model" in finding.headline) is not praised


def test_overlapping_intervals_are_named(measured: dict[str, Any]) -> None:
    assert not any("overlap" in remark for remark in find(read(measured)).remarks)
    results = copy.deepcopy(measured)
    results["gap"]["recovered"]["high"] = 0.18
    overlap = "(95% 0.003 to 0.180) and of doing nothing (95% 0.178 to 0.220)"
    assert any(overlap in remark for remark in find(read(results)).remarks)


# ---- every number, and how sure it is --------------------------------------------------------------------


def test_models_have_intervals_and_the_retrained_its_range(measured: dict[str, Any]) -> None:
    table = side_by_side.models_table(read(measured))
    for name, path in (("Test UAR", ("test", "uar")), ("Forget accuracy", ("forget", "accuracy"))):
        for i, model in enumerate(("original", "unlearned", "recovered", "retrained")):
            record = measured["models"][model][path[0]]
            low, high = record[f"{path[1]}_interval"]
            assert line(table, name)[i] == f"{record[path[1]]:.3f}"
            assert f"[{low:.2f}, {high:.2f}]" in notes(table, name)[i]
    assert notes(table, "Forget accuracy")[3].endswith("0.543–0.554")
    assert line(table, "Membership AUC, same speaker")[0] == "0.754"
    assert notes(table, "Mean gap")[:3] == ["[0.178, 0.220]", "[0.053, 0.093]", "[0.003, 0.031]"]


def test_one_retrained_seed_has_no_range_and_no_floor(measured: dict[str, Any]) -> None:
    results = copy.deepcopy(measured)
    results["models"]["retrained"]["seeds"] = results["models"]["retrained"]["seeds"][:1]
    results |= {"noise_floor": None}
    results["gap"] |= {"rho": None, "nothing_to_forget": False}
    results["distances"]["retrained"] = dict.fromkeys(("tow", "ks", "wasserstein", "js"))
    assert " to " not in notes(side_by_side.models_table(read(results)), "Test UAR")[3]
    assert line(distances.distance_table(read(results)), "Tug of war")[-1] == "–"
    assert "to a model retrained without them; doing nothing has 0.199." in find(read(results)).headline
    assert "no noise floor" in find(read(results)).caveats
    drawing = side_by_side.model_dots(read(results))
    assert drawing is not None and not any("range" in text for _, _, text in drawing.key)


def test_gaps_with_intervals_and_to_each_seed(measured: dict[str, Any]) -> None:
    table = gaps.gap_table(read(measured))
    assert line(table, "recovered") == ["0.017", "0.033", "0.001", "0.008", "0.027"]
    assert notes(table, "recovered")[0] == "[0.003, 0.031]"
    assert line(table, "another retraining")[0] == "0.007"
    assert table is not None and table.rows[0].note == "to each seed: 0.015, 0.019"


def test_attacks_with_intervals_and_low_false_positive_rates(measured: dict[str, Any]) -> None:
    table = attacks.attack_table(read(measured))
    stage = measured["attacks"]["ulira"]["stages"]["recovered"]
    at_one = stage["tpr_at"]["0.01"]
    assert line(table, "recovered", after="U-LiRA") == [
        "0.618",
        f"{at_one['value']:.3f}",
        f"{stage['tpr_at']['0.001']['value']:.3f}",
        "2,944",
        "2,944",
    ]
    assert notes(table, "recovered", after="U-LiRA")[1] == f"[{at_one['low']:.2f}, {at_one['high']:.2f}]"
    assert notes(table, "recovered", after="U-LiRA")[3] == "3 utterances left out"
    assert notes(table, "original", after="Population attack")[1:3] == ["", "too few to say"], "of 240 others"
    assert line(attacks.request_attacks(read(measured)), "r-001-1") == [
        f"{measured['attacks']['informed']['stages'][s]['requests'][0]['auc']:.3f}" for s in STAGES
    ]


def test_the_page_says_whether_the_shadows_are_like_the_run(measured: dict[str, Any]) -> None:
    results = copy.deepcopy(measured)
    assert "64 shadow federations" in attacks.attack_notes(read(results))[0]
    assert "replay the run exactly" in attacks.attack_notes(read(results))[0]
    results["attacks"]["replay"] = {
        "exact": False,
        "difference": 0.0123,
        "departures": ["noise is drawn anew"],
    }
    assert "do not replay the run exactly" in attacks.attack_notes(read(results))[0]
    assert "0.0123 (noise is drawn anew)." in attacks.attack_notes(read(results))[0]
    results["attacks"]["informed"] = {"stages": {}, "why": "one request: none to leave out"}
    assert "Informed attack: one request: none to leave out." in attacks.attack_notes(read(results))
    results |= {"attacks": None}
    results["config"]["evaluation"]["shadows"] = 0
    assert attacks.attack_notes(read(results)) == [
        "Attacks on single utterances (U-LiRA, informed): not run (evaluation.shadows = 0)."
    ]


def test_fairness_by_speaker_sorted_by_what_they_lost(measured: dict[str, Any]) -> None:
    found = fairness.by_speaker(read(measured))
    assert found is not None and found.left_out == 0
    drawn = re.findall(r">(client [^<>]+)</text>", str(found.figure.svg()))
    people = sorted(measured["fairness"]["speakers"], key=lambda p: p["recovered"] - p["original"])
    assert [int(text.split()[1].rstrip(",")) for text in drawn] == [p["client"] for p in people]
    assert sum("client 5, speaker" in text for text in drawn) == 2
    change = measured["fairness"]["change"]["recovered"]
    shown = line(fairness.change_table(read(measured)), "recovered")
    assert shown[0] == f"−{abs(change['mean']):.3f}" and shown[2] == f"−{abs(change['worst']):.3f}"


def test_of_many_speakers_those_are_drawn_who_changed_most(measured: dict[str, Any]) -> None:
    results = copy.deepcopy(measured)
    person = results["fairness"]["speakers"][0]
    results["fairness"]["speakers"] = [
        person | {"client": i, "original": 0.5, "recovered": 0.5 + (i - 30) / 100} for i in range(61)
    ]
    found = fairness.by_speaker(read(results))
    assert found is not None and found.left_out == 61 - fairness.SHOWN
    drawn = re.findall(r">client (\d+)", str(found.figure.svg()))
    assert drawn[0] == "0" and drawn[-1] == "60" and "30" not in drawn


def test_collateral_shift_beside_what_retraining_moves(measured: dict[str, Any]) -> None:
    table = collateral.shift_table(read(measured))
    assert line(table, "requesters' held-out speech") == ["2.06", "1.42", "1.27", "1.02", "48"]
    assert notes(table, "others' held-out speech")[:2] == ["mean −0.37, slope 0.86", "mean −0.05, slope 0.94"]
    assert line(table, "candidates never heard") == ["2.21", "1.93", "–", "1.33", "2,944"]
    assert line(collateral.spread_table(read(measured)), "spread on D_f") == ["2.61", "0.77", "1.02", "1.93"]
    followed = collateral.following_table(read(measured))
    assert line(followed, "recovered") == ["0.78", "1.05", "+0.12", "2,944"]
    drawn = collateral.shift_bars(read(measured))
    assert drawn is not None and all(value in str(drawn.svg()) for value in ("2.06", "0.84", "1.93"))
    without = copy.deepcopy(measured) | {"collateral": None, "attacks": None}
    for make in (
        collateral.shift_table,
        collateral.spread_table,
        collateral.following_table,
        collateral.shift_bars,
    ):
        assert make(read(without)) is None


def test_klom_beside_its_value_by_chance(measured: dict[str, Any]) -> None:
    table = attacks.klom_table(read(measured))
    assert line(table, "recovered") == ["4.500", "4.700", "8.200", "0.410", "90", "15"]
    assert line(table, "never heard") == ["2.800", "2.900", "4.600", "0.120", "90", "15"]
    few = copy.deepcopy(measured)
    few["attacks"]["klom"] = {"why": "KLoM needs more shadows"}
    assert attacks.klom_table(read(few)) is None
    assert "KLoM: KLoM needs more shadows." in attacks.attack_notes(read(few))


def test_distances_relearning_reversion_and_gum(measured: dict[str, Any]) -> None:
    table = distances.distance_table(read(measured))
    assert line(table, "Jensen-Shannon") == ["0.187", "0.102", "0.061", "0.214", "0.021"]
    assert line(table, "Relearn time") == ["0", "31.5", "52", "–", "> 200"]
    assert notes(table, "Relearn time")[2] == "44 to 61"
    assert distances.reversion_summary(read(measured)) == (
        "forget accuracy +0.162, membership AUC +0.044, mean gap −0.056"
    )
    assert line(distances.reversion_table(read(measured)), "round 40") == [
        "0.580",
        "0.425",
        "0.587",
        "+0.162",
    ]
    assert line(distances.gum_table(read(measured)), "recovered") == [
        "0.688",
        "0.671",
        "0.981",
        "0.991",
        "0.461",
    ]


def test_costs_by_role_add_up_and_bytes_stored_are_there(measured: dict[str, Any]) -> None:
    table = costs.cost_table(read(measured))
    assert [column.text for column in table.columns][-1] == "stored"
    assert line(table, "Learn")[-1] == "1.92 MB"
    roles = [(row.note, row.cells[1].text) for row in table.rows if not row.head]
    assert roles == [
        ("requesters", "1.71 s"),
        ("others", "0.190 s"),
        ("requesters", "1.45 s"),
        ("others", "8.24 s"),
    ]


def test_update_norms_beside_the_usual_one(measured: dict[str, Any]) -> None:
    drawing = request_table.update_norms(read(measured))
    assert drawing is not None
    text = re.findall(r">([^<>]+)</text>", str(drawing.svg()))
    assert "4.94, 3.29 times the usual" in text and "#4  client 4" in text
    results = copy.deepcopy(measured)
    for request in results["requests"]:
        request |= {"update_norm": None}
    assert request_table.update_norms(read(results)) is None


# ---- ROC -------------------------------------------------------------------------------------------------


def test_roc_curves_pass_through_their_numbers(measured: dict[str, Any]) -> None:
    linear, logarithmic = roc_curves(read(measured))
    with export.figure_style():
        axes = linear.draw(880).axes
        assert [a.get_title(loc="left") for a in axes] == ["Population attack", "U-LiRA", "Informed attack"]
        drawn = np.asarray(axes[1].lines[1].get_xydata())
        roc = measured["attacks"]["ulira"]["stages"]["original"]["roc"]
        np.testing.assert_allclose(drawn, np.column_stack([roc["fpr"], roc["tpr"]]))
        log = logarithmic.draw(880).axes[1]
        assert log.get_xscale() == log.get_yscale() == "log"
        drawn = np.asarray(log.lines[1 + 2].get_xydata())  # after the marks of 1 % and 0.1 %
        assert drawn.min() >= LOWEST


def test_without_attacks_the_population_has_its_curve_alone(measured: dict[str, Any]) -> None:
    results = copy.deepcopy(measured) | {"attacks": None}
    with export.figure_style():
        assert len(roc_curves(read(results))[0].draw(400).axes) == 1


# ---- the page --------------------------------------------------------------------------------------------


def test_contents_lead_to_every_section_in_order(page: str) -> None:
    start = page.index('<nav class="contents"')
    listed = re.findall(r'href="#([\w-]+)"', page[start : page.index("</nav>")])
    assert listed == list(SECTIONS)
    places = [page.index(f'<section id="{name}">') for name in listed]
    assert places == sorted(places)


def test_every_measure_leads_to_its_definition(page: str, measured: dict[str, Any]) -> None:
    ids = {attributes["id"] for _, attributes in Tags(page).found if "id" in attributes}
    for make in TABLES:
        table = make(read(measured))
        assert table is not None
        parts: list[Column | Row] = [*table.columns, *table.rows]
        named = {part.word for part in parts if part.word}
        assert named
        assert {f"word-{word}" for word in named} <= ids
        assert all(f'href="#word-{word}"' in page for word in named)
    assert set(re.findall(r'href="#([^"]+)"', page)) <= ids | set(SECTIONS)


def test_tables_stand_on_the_page_as_they_are(page: str, measured: dict[str, Any]) -> None:
    text = words(page)
    for make in TABLES:
        table = make(read(measured))
        assert table is not None
        for row in table.rows:
            for cell in row.cells:
                assert cell.text in text and " ".join(cell.note.split()) in text


def test_the_full_page_loads_nothing_and_ids_are_unique(page: str) -> None:
    tags = Tags(page)
    assert tags.open == []
    assert not {tag for tag, _ in tags.found} & {"script", "link", "img", "iframe"}
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for svg in drawings(page):
        assert not re.findall(r"(?:fill|stroke): (#\w+)", svg)


def test_wide_tables_scroll_in_themselves(page: str) -> None:
    assert page.count("<table") == len(re.findall(r'<div class="scroll[^>]*>\s*<table', page))


def test_old_results_have_no_empty_new_sections() -> None:
    page = render(read(bare(example_results())))
    assert '<section id="fairness">' not in page and '<section id="distances">' not in page
    assert 'href="#fairness"' not in page
    assert "stored" not in section(page, "cost")
    assert "rho" not in section(page, "gaps")


# ---- holes -----------------------------------------------------------------------------------------------


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    if path:
        yield path
    for key, value in items:
        if key not in ("fpr", "tpr", "config", "timeline", "retrained_timeline", "losses", "confusion"):
            yield from leaves(value, (*path, key))


def without(results: dict[str, Any], path: tuple[Any, ...]) -> None:
    *parents, last = path
    for key in parents:
        results = results[key]
        if results is None:
            return
    results[last] = None


def test_any_single_null_is_survived_by_tables_and_words(measured: dict[str, Any]) -> None:
    results = copy.deepcopy(measured)
    for long in (results["requests"], results["fairness"]["speakers"], results["fairness"]["emotions"]):
        del long[1:]
    found = list(leaves(results))
    assert len(found) > 400
    for path in found:
        *parents, last = path
        target: Any = results
        for key in parents:
            target = target[key]
        kept, target[last] = target[last], None
        try:
            record = read(results)
            find(record), tiles(record), export.all_figures(record)
            attacks.attack_notes(record), gaps.rho_sentence(record), distances.reversion_summary(record)
            for make in TABLES:
                make(record)
        finally:
            target[last] = kept


@pytest.mark.parametrize(
    ("seed", "share"),
    [(0, 0.2), *(pytest.param(seed, seed / 12, marks=pytest.mark.slow) for seed in range(1, 10))],
)
def test_many_nulls_are_survived_by_the_page(measured: dict[str, Any], seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    results = copy.deepcopy(measured)
    for path in list(leaves(results)):
        if rng.random() < share:
            without(results, path)
    text = words(render(read(results)))
    assert "None" not in text and not re.search(r"\bnan\b", text)


def attacked(ulira: tuple[float, float], informed: tuple[float, float]) -> dict[str, Any]:
    """A run whose recovered model each attack gives this AUC and this lower end."""
    results = add_measures(example_results())
    for name, (auc, low) in {"ulira": ulira, "informed": informed}.items():
        results["attacks"][name]["stages"]["recovered"] |= {"auc": auc, "low": low, "high": auc + 0.04}
    return results


def test_a_small_gap_is_not_praised_where_single_utterances_are_still_detected() -> None:
    finding = find(read(attacked((0.74, 0.70), (0.58, 0.54))))
    assert finding.tone == "unknown"
    assert "But U-LiRA still tells deleted utterances from others: AUC 0.740 (95% 0.700 to 0.780" in (
        finding.headline
    )


def test_the_attack_that_does_best_is_the_one_that_is_named() -> None:
    headline = find(read(attacked((0.52, 0.47), (0.66, 0.61)))).headline
    assert "But the informed attack still tells" in headline and "U-LiRA" not in headline


def test_attacks_that_may_be_guessing_are_no_finding() -> None:
    finding = find(read(attacked((0.52, 0.47), (0.53, 0.5))))
    assert finding.tone == "good" and "But" not in finding.headline
    assert any("find nothing for certain (U-LiRA AUC 0.520)" in remark for remark in finding.remarks)


def test_the_ranking_says_how_much_each_forgot_and_kept(measured: dict[str, Any], page: str) -> None:
    shares = {row.name: (row.forgot, row.kept) for row in gaps.ranking_table(read(measured))}
    assert shares["recovered (l2ul)"] == ("93%", "99%")
    assert (shares["control: none"], shares["control: destroy"]) == (("0%", "100%"), ("206%", "0%"))
    assert "93%99%" in section(page, "gaps")
    assert {(row.forgot, row.kept) for row in gaps.ranking_table(read(example_results()))} == {("–", "–")}
