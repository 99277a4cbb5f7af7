"""The report is one self-contained page that tells the truth about its results, whatever they hold."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from page_reading import Tags, bare, drawings, read, words
from results_example import EMOTIONS, example_results

from fedunlearn.report.costs import cost_table
from fedunlearn.report.figures.histograms import confusions
from fedunlearn.report.figures.style import PALETTE
from fedunlearn.report.figures.timeline import events, label, place_entries
from fedunlearn.report.finding import find, judge_method
from fedunlearn.report.gaps import gap_bars, ranking_table
from fedunlearn.report.request_table import batches, request_table, unreachable
from fedunlearn.report.run_page import render, write_report
from fedunlearn.report.side_by_side import models_table
from fedunlearn.report.tiles import tiles
from fedunlearn.report.values import bracketed, duration, fraction, interval_words, signed, significant, size
from fedunlearn.results_schema import Results


def example_run() -> Results:
    method = {"method": "l2ul", "sees": "forget", "title": "L2UL-style, after Ren et al. 2025"}
    return read(example_results() | {"unlearning": method})


@pytest.fixture(scope="module")
def page() -> str:
    return render(example_run())


def nulled(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: nulled(value) for key, value in node.items()}
    return [nulled(value) for value in node] if isinstance(node, list) else None


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    tags = Tags(page)
    names = {tag for tag, _ in tags.found}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "image"}
    for _, attributes in tags.found:
        assert not [name for name in attributes if name.startswith("on")]
        assert all((attributes.get(name) or "#").startswith("#") for name in ("href", "src", "xlink:href"))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "@import" not in page
    assert re.findall(r"https?://\S*", page) == ['http://www.w3.org/2000/svg"'] * len(drawings(page))


def test_the_page_is_well_formed(page: str) -> None:
    tags = Tags(page)
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    targets = {a["href"][1:] for _, a in tags.found if (a.get("href") or "").startswith("#")}  # type: ignore[index]
    targets |= set(re.findall(r"url\(#([^)]*)\)", page))
    assert tags.open == []
    assert len(ids) == len(set(ids))
    assert targets <= set(ids)


def test_every_figure_is_there_and_valid_svg(page: str) -> None:
    found = drawings(page)
    # Wide and narrow: models, timeline, norms, cost; once: gaps, losses, confusion.
    assert len(found) == 2 * 4 + 1 + 4 + 3
    for svg in found:
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("aria-label")
        assert len(list(root.iter())) > 10


def test_every_figure_is_laid_out_and_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to itself, ``savefig`` draws a figure twice: the first time only to lay it out."""
    drawn: list[Figure] = []
    draw = Figure.draw

    def noted(figure: Figure, renderer: RendererBase) -> None:
        drawn.append(figure)
        draw(figure, renderer)

    spec = gap_bars(example_run())
    assert spec is not None
    twice = spec.svg()
    monkeypatch.setattr(Figure, "draw", noted)
    assert spec.svg() == twice
    assert len(drawn) == 1


def test_figures_take_their_colours_from_the_page(page: str) -> None:
    style = page[: page.index("</style>")]
    for name, value in PALETTE.items():
        assert f"--{name}: {value};" in style
    for svg in drawings(page):
        colours = set(re.findall(r"(?:fill|stroke): (#\w+)", svg))
        assert not colours, f"{colours} would not follow the page into the dark"


def test_same_results_same_bytes_in_place_of_the_old_file(tmp_path: Path, page: str) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        write_report(example_run(), path)
    assert path.read_bytes() == page.encode()
    assert list(tmp_path.iterdir()) == [path]


def test_the_models_table_shows_every_number(page: str) -> None:
    results = example_results()
    table = page[page.index('<table class="numbers models">') :]
    table = table[: table.index("</table>")]
    for name in ("original", "unlearned", "recovered", "retrained"):
        model = results["models"][name]
        for part, measure in (
            ("test", "uar"),
            ("test", "accuracy"),
            ("test", "macro_f1"),
            ("unseen", "uar"),
            ("unseen", "accuracy"),
            ("unseen", "macro_f1"),
            ("membership", "auc"),
        ):
            assert f">{model[part][measure]:.3f}<" in table
        for part in ("retain", "forget"):
            assert f">{model[part]['accuracy']:.3f}<" in table
        low, high = model["membership"]["low"], model["membership"]["high"]
        assert f"[{low:.2f}, {high:.2f}]" in table
    for gap in (results["gap"]["none"], results["gap"]["unlearned"], results["gap"]["recovered"]):
        assert f">{gap['mean']:.3f}<" in table
    assert f">{results['noise_floor']['mean']:.3f}<" in table


def test_measures_have_the_fields_own_names_and_a_fold_is_named() -> None:
    results = example_results()
    assert "macro F1" in words(render(read(results))) and ": fold" not in words(render(read(results)))
    results["config"].setdefault("partition", {})["fold"] = 3
    text = words(render(read(results)))
    assert "unseen: fold 3)" in text
    for name in ("Test UAR", "Test accuracy (WA)", "Test macro F1", "Unseen-speaker macro F1"):
        assert name in text


def test_differences_are_signed_and_against_the_retrained_model() -> None:
    forget = next(row for row in models_table(read(example_results())).rows if row.head == "Forget accuracy")
    assert [cell.note for cell in forget.cells] == ["+0.446", "−0.129", "+0.033", "0.543–0.554"]


def test_requests_ranking_costs_and_settings_are_on_the_page(page: str) -> None:
    text = words(page)
    wanted = (
        *("r-003-1", "1.000 → 0.450", "97% hit", "control: destroy", "299 MB", "2.9 min", "torchaudio"),
        *("reply holds NaN", "s03_017: shorter than 0.5 s", 'aggregation = "sum"'),
        *("L2UL-style, after Ren et al. 2025", "not the lowest forget accuracy"),
    )
    for expected in wanted:
        assert expected in text
    assert "reproduction" not in text.lower()


def test_headline_of_a_method_that_works() -> None:
    finding = find(read(example_results()))
    assert finding.headline == (
        "After 4 deletion requests from 4 clients (92 utterances), the recovered model has a mean gap of "
        "0.017 to models retrained without them; doing nothing has 0.199, another retraining 0.007."
    )
    assert (finding.tone, finding.alarm) == ("good", "")
    assert "It still knows more of the deleted utterances" in finding.remarks[0]
    assert "15 times less" in finding.remarks[2]


def test_headline_within_the_noise_floor() -> None:
    results = example_results()
    results["noise_floor"]["mean"] = 0.02
    assert find(read(results)).headline.endswith(
        "doing nothing has 0.199, another retraining no less, 0.020."
    )


def test_the_noise_floor_may_stand_among_the_gaps() -> None:
    beside = example_results()
    among = example_results()
    among["gap"]["noise_floor"] = among.pop("noise_floor")
    assert find(read(among)) == find(read(beside))
    assert models_table(read(among)) == models_table(read(beside))


def test_headline_counts_one_as_one() -> None:
    results = example_results()
    results["requests"] = [results["requests"][0] | {"utterances": 1}]
    assert "After 1 deletion request from 1 client (1 utterance)," in find(read(results)).headline


@pytest.mark.parametrize(
    ("method", "words_for_it"),
    [("none", "“none” is a control, it leaves the model as it is"), ("destroy", "puts random weights")],
)
def test_a_control_run_as_the_method_is_useless(method: str, words_for_it: str) -> None:
    results = example_results()
    results["config"]["unlearning"]["method"] = method
    results["gap"]["recovered"]["mean"] = 0.001  # even where recovery makes it look good
    finding = find(read(results))
    assert finding.tone == "useless"
    assert finding.headline.startswith("This method is useless here: ")
    assert words_for_it in finding.headline


def test_no_better_than_a_control_is_useless_whatever_the_ranking_says() -> None:
    results = example_results()
    results["gap"]["recovered"]["mean"] = 0.25
    assert results["ranking"][0]["useful"] is True
    assert judge_method(read(results)) == (False, "it ranks no better than doing nothing (0.199)")
    assert find(read(results)).headline.startswith(
        "This method is useless here: it ranks no better than doing"
    )


def test_useless_by_the_ranking_is_useless_and_says_why() -> None:
    results = bare(example_results())
    results["ranking"][0] |= {"useful": False, "why": "forgot too little"}
    text = words(render(read(results)))
    assert "This method is useless here: it forgot too little. After 4 deletion" in text
    assert "This one does not: it forgot too little." in text
    assert [rank.useful for rank in ranking_table(read(results))] == [False, True, False, False]


def test_failed_and_partial_are_reported_first() -> None:
    failed = bare(example_results()) | {"status": "failed", "failure": "round 31: quorum lost"}
    page = render(read(failed))
    assert re.search(
        r"<body>\s*<header>\s*<p class=\"alarm\"[^>]*>This run failed: round 31: quorum lost\.", page
    )
    partial = example_results() | {"status": "partial"}
    partial["requests"][3]["state"] = "accepted"
    alarm = find(read(partial)).alarm
    assert alarm.startswith("This run is partial.") and "r-004-1: accepted." in alarm
    assert tiles(read(partial))[-1].value == "3 of 4"
    partial["failure"] = "request r-004-1 of client 3 is accepted, not verified"
    assert find(read(partial)).alarm.count("r-004-1") == 1, "reported once, and not again in other words"
    partial["failure"] = "; ".join(f"request x-{i} is accepted, not verified" for i in range(30))
    assert "; and 22 more." in find(read(partial)).alarm
    assert find(read(example_results() | {"status": None})).alarm


def test_over_forgetting_reversion_and_nothing_to_forget_are_named() -> None:
    results = example_results()
    results["models"]["recovered"]["forget"]["accuracy"] = 0.2
    assert find(read(results)).remarks[0].startswith("Over-forgetting")
    results = example_results()
    results["models"]["recovered"]["forget"]["accuracy"] = 0.938
    results["gap"]["recovered"]["mean"] = 0.12
    assert any("(reversion)" in remark for remark in find(read(results)).remarks)
    results = example_results()
    results["gap"]["none"]["mean"] = 0.0105
    assert "there is nothing to forget" in find(read(results)).headline
    results = example_results() | {"noise_floor": None}
    assert "no noise floor" in find(read(results)).caveats


def test_where_nothing_was_unlearned_nothing_is_judged_nor_remarked_on() -> None:
    results = bare(example_results()) | {"requests": []}
    assert find(read(results)).remarks == () and judge_method(read(results)) == (None, "")
    page = render(read(results))
    assert 'id="gaps"' not in page and 'href="#gaps"' not in page


def test_where_nobody_is_left_random_weights_are_right_and_no_method_is_called_useless() -> None:
    results = bare(example_results())
    results["models"]["retrained"]["retain"] = {"accuracy": None, "n": 0}
    results["gap"]["destroy"]["mean"] = 0.0
    finding = find(read(results))
    assert finding.tone == "unknown" and finding.headline.startswith("Nobody is left after 4 deletion")
    assert "useless" not in finding.headline and judge_method(read(results)) == (None, "")


def test_what_few_utterances_cannot_tell_is_not_asserted() -> None:
    results = example_results()
    model = results["models"]["recovered"]["forget"]
    model["accuracy"], model["accuracy_interval"] = 0.3, [0.1, 0.6]
    assert any(line.startswith("It may over-forget and know less") for line in find(read(results)).remarks)
    model["accuracy_interval"] = [0.25, 0.35]
    assert any(line.startswith("Over-forgetting: it knows less") for line in find(read(results)).remarks)


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (0.0312, 0.0308, "left the mean gap where it was: 0.031."),
        (0.034, 0.031, "less than the noise floor: mean gap 0.034 before them, 0.031 after."),
        (0.090, 0.031, "led towards the retrained model: mean gap 0.090 before them"),
        (0.031, 0.090, "led away from the retrained model"),
    ],
)
def test_recovery_is_given_a_direction_only_beyond_the_noise_floor(
    before: float, after: float, line: str
) -> None:
    results = example_results()
    results["gap"]["unlearned"]["mean"], results["gap"]["recovered"]["mean"] = before, after
    assert sum(line in remark for remark in find(read(results)).remarks) == 1


def test_an_interval_without_width_is_not_shown() -> None:
    assert bracketed((1.0, 1.0)) == interval_words((0.0, 0.0)) == ""
    assert bracketed((0.9, 1.0)) == "[0.90, 1.00]"


def test_with_one_retrained_model_no_noise_floor_is_mentioned() -> None:
    results = bare(example_results())
    results["noise_floor"] = results["gap"]["noise_floor"] = None
    assert "The upright tick is" not in words(render(read(results)))
    assert "another retraining" not in words(render(read(results)))
    drawn = gap_bars(read(results))
    assert drawn is not None and "noise floor" not in [text for _, _, text in drawn.key]


def test_no_request() -> None:
    results = bare(example_results()) | {"requests": []}
    text = words(render(read(results)))
    assert "No deletion was requested" in text
    assert "No client raised a deletion request." in text


@pytest.mark.parametrize(
    "empty",
    [lambda r: {}, nulled, lambda r: dict.fromkeys(r), lambda r: {key: {} for key in r}],
    ids=["nothing", "null leaves", "null sections", "empty sections"],
)
def test_holes_become_dashes(empty: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    text = words(render(read(empty(example_results()))))
    assert "None" not in text and "nan" not in text
    assert "– – – –" in text


def test_any_single_null_is_survived() -> None:
    def paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        return [path, *(p for key, value in items for p in paths(value, (*path, key)))]

    def small() -> dict[str, Any]:
        results = bare(example_results()) | {"retrained_timeline": [], "config": {}}
        results["requests"] = results["requests"][:1]
        return results

    for path in paths(small())[1:]:
        results = small()
        *parents, last = path
        target: Any = results
        for key in parents:
            target = target[key]
        target[last] = None
        record = read(results)
        find(record), models_table(record), ranking_table(record), cost_table(record), tiles(record)
        request_table(record), batches(record), unreachable(record)


def test_hostile_text_stays_text() -> None:
    hostile = '<script>alert("x")</script> $x_{ & \x00\x1b "quoted" #0072b2 {{ 7 * 7 }}'
    results = example_results() | {"failure": hostile, "status": "failed"}
    results["corpus"] |= {
        "name": hostile,
        "warnings": [hostile],
        "emotions": [f"{hostile}{i}" for i in range(6)],
    }
    results["requests"][0] |= {"id": hostile, "what": hostile, "state": hostile}
    results["ranking"][0]["name"] = hostile
    results["faults"][0]["reason"] = hostile + "\ud800"
    results["config"][hostile] = hostile
    page = render(read(results))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    for svg in drawings(page):
        ElementTree.fromstring(svg)
    Tags(page)


@pytest.mark.parametrize("many", [1, 13])
def test_any_number_of_emotions(many: int) -> None:
    results = example_results()
    results["corpus"]["emotions"] = [f"an emotion of long name {i}" for i in range(many)]
    for model in results["models"].values():
        model["confusion"]["test"] = [[0] * many for _ in range(many)]
    drawn = confusions(read(results))
    assert [drawing.title for drawing in drawn] == ["original", "recovered", "retrained"]
    assert all(drawing.svg().count("an emotion") == 2 * many for drawing in drawn)


def test_confusion_names_every_emotion(page: str) -> None:
    for svg in drawings(page):
        if "Confusion" in svg and "unseen" not in svg:
            assert all(svg.count(f">{emotion}<") == 2 for emotion in EMOTIONS)


def test_an_unlearn_step_stands_between_the_rounds() -> None:
    timeline = [
        {"round": 30, "phase": "learn"},
        {"round": 30, "phase": "unlearn"},
        {"round": 31, "phase": "recover"},
    ]
    steps = place_entries(read({"timeline": timeline}).timeline)
    assert [x for x, _ in steps] == [30.0, 30.5, 31.0]


def test_events_are_marked_where_they_were_applied_or_else_raised() -> None:
    results = example_results()
    results["requests"].append({"id": "late", "round_raised": 12, "round_applied": None, "state": "refused"})
    found = events(read(results), place_entries(read(results).timeline))
    assert [(e.numbers, e.applied) for e in found] == [
        ((5,), False),
        ((1,), True),
        ((2,), True),
        ((3, 4), True),
    ]
    assert [e.x for e in found] == [12.0, pytest.approx(30.5), pytest.approx(35.5), pytest.approx(40.5)]


def test_event_labels_are_short() -> None:
    assert label([1]) == "#1"
    assert label([4, 2, 3]) == "#2–4"
    assert label([1, 3]) == "#1, 3"
    assert label([1, 3, 5, 7, 9, 11]) == "6 requests"


def test_how_numbers_are_written() -> None:
    assert [fraction(v) for v in (0.5, None, float("nan"), True, "x")] == ["0.500", "–", "–", "–", "–"]
    assert [signed(v) for v in (0.1, -0.1, 0.0001, None)] == ["+0.100", "−0.100", "±0.000", "–"]
    assert [duration(v) for v in (0, 0.42, 90, 600, 9000)] == [
        "0 s",
        "0.420 s",
        "90.0 s",
        "10.0 min",
        "2.5 h",
    ]
    assert [size(v) for v in (0, 12, 1500, 2.5e7)] == ["0 B", "12 B", "1.50 kB", "25.0 MB"]
    assert [significant(v) for v in (1234.5, 0.00001, -2.5)] == ["1,234", "1.00e-05", "-2.50"]
