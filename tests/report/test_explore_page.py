"""The page to explore runs in a browser: it is clicked, dragged and read back."""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explored_runs import AWAY, DELETED, chromium, explored_runs, many_runs
from results_example import eventful_results
from results_measures import add_measures

from fedunlearn.audio import SAMPLE_RATE, encode_mp3
from fedunlearn.report.explore.overview import ExploredRun
from fedunlearn.report.explore.page import HeldClip, HeldSpeech, render_exploration
from fedunlearn.report.statistics import spread
from fedunlearn.results_schema import Results

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra dev)")
pytestmark = pytest.mark.skipif(chromium() is None, reason="needs Chromium or Chrome, which is not installed")

OPENED = "html[data-run]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield found.new_context(viewport={"width": 1300, "height": 900})
        found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("explore") / "explore.html"
    file.write_text(render_exploration(explored_runs()), encoding="utf-8")
    return file.as_uri()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, opened from disk; at the end there was no error, and nothing else was loaded."""
    opened = browser.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.set_default_timeout(5000)
    opened.goto(address)
    opened.wait_for_selector(OPENED, state="attached")
    yield opened
    opened.close()
    assert complaints == []
    assert {url.split("#")[0] for url in asked if not url.startswith("data:")} == {address}


def methods(page: Any) -> list[str]:
    return [
        str(name)
        for name in page.locator("#table tr[data-method]").evaluate_all(
            "rows => rows.map(row => row.dataset.method)"
        )
    ]


def column(page: Any, method: str, label: str) -> str:
    """What the table shows of a method under the head of a column."""
    heads = [re.sub(" [↑↓]", "", text) for text in page.locator("#table thead th").all_inner_texts()]
    cells = page.locator(f'#table tr[data-method="{method}"] > *').all_inner_texts()
    return re.sub(r"\s+", " ", cells[heads.index(label)]).strip()


def test_the_table_has_means_with_the_intervals_of_the_other_tables(page: Any) -> None:
    """Forget accuracies of "near": .51, .52, .53. Mean .52, half width 4.303 * .01 / sqrt(3) = .0248."""
    assert methods(page) == ["near", "timid", "harsh"]
    assert column(page, "near", "forget acc.") == "0.520 ± 0.025"
    assert str(spread([0.51, 0.52, 0.53])) == "0.520 ± 0.025"
    assert column(page, "timid", "gap forget") == "0.200 ± 0.025"
    assert "noise floor 0.007" in page.locator("tr.setting").inner_text()


def test_a_click_on_a_head_sorts_and_a_second_one_turns_it_round(page: Any) -> None:
    head = page.locator('#table [data-sort="gap_forget"]')
    head.click()
    assert methods(page) == ["harsh", "near", "timid"]
    page.locator('#table [data-sort="gap_forget"]').press("Enter")  # the focus has stayed there
    assert methods(page) == ["timid", "near", "harsh"]
    assert page.locator('#table th[aria-sort="descending"]').inner_text().startswith("gap forget")


def test_a_newcomer_finds_the_method_that_forgets_best_at_equal_retention(page: Any) -> None:
    """Harsh forgets most exactly, but loses .2 of retain accuracy; one click leaves it out."""
    assert "near is nearest to them in forget accuracy: gap 0.020" in page.locator("#finding").inner_text()
    page.locator("#equal").check()
    assert methods(page) == ["near", "timid"]
    page.locator("#tolerance").fill("0.25")
    assert methods(page) == ["harsh", "near", "timid"]
    assert "harsh is nearest" in page.locator("#finding").inner_text()
    page.locator("#tolerance").fill("0")
    assert methods(page) == ["timid"]  # exactly as the retrained models


def test_filters_of_size_and_measures(page: Any) -> None:
    page.locator("#setting").select_option("all")
    assert len(methods(page)) == 2 * len(AWAY)
    page.locator("#topic-cost").check()
    assert column(page, "near", "client s") == "11.6 ± 0.000"
    page.locator("#topic-accuracy").uncheck()
    assert "forget acc." not in page.locator("#table thead").inner_text()


def test_two_methods_in_contrast_are_compared_seed_by_seed(page: Any) -> None:
    """Both vary over seeds in the same way: their forget accuracies differ by .18 exactly."""
    page.locator('[data-pick="near"]').first.check()
    assert "Tick a second method" in page.locator("#contrast").inner_text()
    page.locator('[data-pick="timid"]').first.check()
    rows = {
        cells[0]: cells[1:]
        for cells in (
            row.locator("th, td").all_inner_texts() for row in page.locator("#contrast-table tbody tr").all()
        )
    }
    assert rows["forget acc."][0] == "0.520 ± 0.025" and rows["forget acc."][2] == "0.500"
    assert rows["forget acc."][-2:] == ["−0.180 ± 0.000", "near"]
    assert rows["gap retain"][-1] == "timid"
    assert rows["membership AUC"][-1] == "equal"
    page.locator('[data-pick="harsh"]').first.check()  # takes the place of the first of the two
    assert "timid, 10 utterances against harsh, 10 utterances" in page.locator("#contrast").inner_text()


def test_points_of_the_planes_lead_to_their_runs(page: Any) -> None:
    assert page.locator("#noise-ellipse").count() == 1
    page.locator('#plane-chart a[data-mean="timid"]').click()
    page.wait_for_selector('html[data-run="6"]', state="attached")
    assert page.locator("#run-name").inner_text() == "timid, synthetic, functionals, seed 1"
    page.locator('#sizes-chart a[data-size-point="near"]').nth(1).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector('html[data-run="3"]', state="attached")
    assert page.locator("#run-setting option:checked").inner_text() == "20 utterances"
    page.locator("#run-seed").select_option("5")
    page.wait_for_selector('html[data-run="5"]', state="attached")
    page.go_back()
    page.wait_for_selector('html[data-run="3"]', state="attached")


def test_confusion_matrices_are_compared_cell_by_cell(page: Any) -> None:
    run = explored_runs()[0].results
    page.locator('[data-matrix="original"] [data-cell="1 2"]').hover()
    original, recovered = (run.models[name].confusion.test for name in ("original", "recovered"))
    words = page.locator("#matrix-cell").inner_text()
    assert f"disgust recognised as fear: original {original[1][2]} of {sum(original[1])}" in words
    assert f"recovered {recovered[1][2]} of {sum(recovered[1])}" in words
    first = page.locator('[data-matrix="retrained"] [data-cell="0 0"]')
    first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#matrix-cell").inner_text().startswith("anger recognised as disgust")
    assert page.locator("#matrices td.same").count() == 3


def test_recall_is_read_off_the_matrices(page: Any) -> None:
    matrix = explored_runs()[0].results.models.recovered.confusion.unseen
    page.locator("#emotions-set").select_option("unseen")
    label = page.locator('[data-recall="recovered anger"]').get_attribute("aria-label")
    assert label == f"anger, recovered: recall {matrix[0][0] / sum(matrix[0]):.2f}"


def rates(page: Any, model: str) -> tuple[float, float]:
    """TPR and FPR as they are shown, in per cent."""
    shown = [page.locator(f'[data-{kind}="{model}"]').inner_text() for kind in ("tpr", "fpr")]
    true, false = (float(text.removesuffix(" %")) for text in shown)
    return true, false


def counted(page: Any, model: str, subset: str) -> dict[int, int]:
    bars = page.locator(f'[data-bin^="{model} {subset} "]').evaluate_all(
        "bars => bars.map(bar => [bar.dataset.bin, bar.dataset.count])"
    )
    return {int(name.split()[-1]): int(count) for name, count in bars}


def test_the_threshold_is_dragged_and_the_rates_follow(page: Any) -> None:
    """Losses: what is below the threshold is taken for deleted. Bins are .2 nats wide."""
    page.locator("#statistic").select_option("losses")
    handle = page.locator("#threshold-handle")
    handle.scroll_into_view_if_needed()
    box = page.locator("#attack-histogram svg").last.bounding_box()
    start = handle.bounding_box()
    width = box["width"]
    goal = box["x"] + 44 + (width - 54) * 2.0 / 8.0  # the axis runs from 44 to width - 10, 0 to 8 nats
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + 40)
    page.mouse.down()
    page.mouse.move(goal - 30, start["y"] + 40)
    page.mouse.move(goal, start["y"] + 40)
    page.mouse.up()
    assert page.locator("#threshold-value").inner_text() == "< 2 nats"
    for model in ("recovered", "retrained"):
        forget, test = (counted(page, model, subset) for subset in ("forget", "test"))
        expected = [
            100 * sum(n for place, n in counts.items() if place < 10) / sum(counts.values())
            for counts in (forget, test)
        ]
        assert rates(page, model) == pytest.approx(expected, abs=0.051)
    before = rates(page, "recovered")
    page.locator("#threshold").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#threshold-value").inner_text() == "< 2.2 nats"
    assert rates(page, "recovered") >= before


def test_the_attack_by_log_odds_counts_every_deleted_utterance(page: Any) -> None:
    """Eleven of twelve deleted have 3 nats or more in the original, one has 2."""
    page.locator("#statistic").select_option("log_odds")
    assert sum(counted(page, "recovered", "forget").values()) == DELETED
    page.locator("#threshold").fill("36")  # edges from -15 on, half a nat each
    assert page.locator("#threshold-value").inner_text() == "≥ 3 nats"
    assert rates(page, "original")[0] == pytest.approx(100 * 11 / 12, abs=0.051)


def test_roc_curves_with_their_low_end_and_u_lira(page: Any) -> None:
    names = page.locator("[data-roc]").evaluate_all("lines => lines.map(line => line.dataset.roc)")
    assert {"recovered", "retrained", "original", "recovered U-LiRA"} <= set(names)
    page.locator("#roc-low").check()
    assert "0.01" in page.locator("#attack-roc svg").first.text_content()
    ulira = explored_runs()[0].results.attacks.ulira.stages.recovered.auc
    assert f"{ulira:.3f}" in page.locator("#attack-auc").inner_text()


def test_why_one_deleted_utterance_is_still_detected(page: Any) -> None:
    """Index 1: 2 nats before, 1.5 after, -6 retrained: .5 of 8 nats, 6 % of the way."""
    assert page.locator("#told-count").inner_text() == "1 of 12"
    page.locator('[data-told="2"]').click()
    assert "cannot be detected" in page.locator("#why").inner_text()
    page.locator('[data-told="1"]').click()
    why = page.locator("#why").inner_text()
    assert "better than by models that never heard it, by 7.5 nats" in why
    assert "Retraining changes its log-odds by −8.0 nats; unlearning moved it by −0.5, which is 6 %" in why
    panel = page.locator("#utterance").inner_text()
    assert "Deleted by request 1" in panel and "no name, no speaker, no emotion, no sound" in panel


def test_dots_are_filtered_chosen_and_walked_by_keyboard(page: Any) -> None:
    def shown() -> int:
        return int(page.evaluate("document.documentElement.dataset.dots"))

    assert shown() == DELETED + 60  # two of four speakers, and someone who asked
    page.locator("#set-forget").uncheck()
    assert shown() == 60
    page.locator("#dots-speaker").select_option("4 1")
    assert shown() == 20
    page.locator("#dots-emotion").select_option("fear")
    assert shown() == 3  # numbers 2, 8 and 14 of twenty, six emotions in turn
    page.locator("#dots-emotion").select_option("")
    page.locator("#dots-correct").select_option("1")
    right = shown()
    page.locator("#dots-correct").select_option("0")
    assert right + shown() == 20
    page.locator("#dots-correct").select_option("")
    page.locator('#utterances-chart [tabindex="0"]').focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert re.match(
        r"Utterance \d+ \(held-out, client 4, \w+\)", page.locator("#utterance-name").inner_text()
    )
    assert "carries no sound" in page.locator("#utterance").inner_text()


def test_held_speech_is_played_and_its_spectrogram_drawn(browser: Any, tmp_path: Path) -> None:
    """A tone of 2 kHz: a quarter of the height of 8 kHz, so row 192 of 256 from above."""
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = encode_mp3((8000 * np.sin(2 * np.pi * 2000 * times)).astype(np.int16))
    runs = explored_runs()[:1]
    clips = [HeldClip("0", place, tone) for place in range(20)]  # of the first of the speakers
    file = tmp_path / "sound.html"
    speech = HeldSpeech({runs[0].name: "0"}, clips, "audio/mpeg")
    file.write_text(render_exploration(runs, speech), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector(OPENED, state="attached")
    assert page.locator("audio").count() == 0  # what is chosen first was deleted
    for name in ("forget", "test"):
        page.locator(f"#set-{name}").uncheck()
    page.locator("#set-retain").check()
    page.locator("#dots-speaker").select_option("4 0")
    page.locator("#utterances-chart [tabindex='0']").press("Enter")
    page.wait_for_selector("canvas[data-drawn]")
    brightest = page.locator("canvas").evaluate(
        """canvas => {
          const { width, height } = canvas;
          const pixels = canvas.getContext("2d").getImageData(width / 2, 0, 1, height).data;
          const rows = [...Array(height).keys()];
          const light = row => pixels[4 * row] + pixels[4 * row + 1];
          return rows.reduce((a, b) => light(b) > light(a) ? b : a);
        }"""
    )
    assert brightest == pytest.approx(191, abs=2)
    seconds = page.locator("audio").evaluate(
        "a => a.readyState ? a.duration : new Promise(done => a.onloadedmetadata = () => done(a.duration))"
    )
    assert seconds == pytest.approx(1.0, abs=0.2)
    page.close()


def test_requests_show_their_states(page: Any) -> None:
    lane = page.locator('[data-request="0"]')
    request = explored_runs()[0].results.requests[0]
    assert lane.locator("[data-state]").count() == len(request.history)
    assert f"{request.history[0].state} in round {request.history[0].round}" in lane.get_attribute(
        "aria-label"
    )
    assert str(request.state) in page.locator("#requests-table").inner_text()


def test_waiting_and_absence_are_drawn(browser: Any, tmp_path: Path) -> None:
    """Client 3 was away twice while its request waited 8 rounds; four rounds had unreachable clients."""
    results = Results.model_validate(add_measures(eventful_results()))
    file = tmp_path / "eventful.html"
    file.write_text(render_exploration([ExploredRun("eventful", results)]), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector(OPENED, state="attached")
    assert page.locator('[data-absence="3"]').count() == 2
    label = page.locator('[data-request="3"]').get_attribute("aria-label")
    assert "request 3, client 3: 12 utterances; verified; waited 8 rounds." in label
    assert "raised in round 33" in label
    page.close()


def test_a_click_on_a_speaker_shows_their_utterances(page: Any) -> None:
    page.locator('a[data-speaker="4 0"]').click()
    assert page.locator("#dots-speaker option:checked").inner_text() == "client 4, speaker 0"
    assert page.evaluate("document.documentElement.dataset.dots") == "20"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_its_texts_can_be_read(browser: Any, address: str, scheme: str) -> None:
    """No sideways scrolling; contrast of texts of 4.5 at least (WCAG AA); controls have names."""
    page = browser.new_page()
    page.set_viewport_size({"width": 380, "height": 760})
    page.emulate_media(color_scheme=scheme)
    page.goto(address)
    page.wait_for_selector(OPENED, state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") == 380
    unnamed = page.evaluate(
        """[...document.querySelectorAll("select, input, button")]
        .filter(e => !(e.labels?.length || e.textContent.trim() || e.getAttribute("aria-label")))
        .map(e => e.outerHTML)"""
    )
    assert unnamed == []
    assert page.evaluate(CONTRAST) >= 4.5
    page.close()


CONTRAST = """(() => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const light = (colour) => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const card = light(getComputedStyle(document.querySelector(".card")).backgroundColor);
  const inks = [...document.querySelectorAll(".card p, .card .muted, .card a, .axis, .card th")].map((e) => {
    const style = getComputedStyle(e);
    return light(e.namespaceURI.endsWith("svg") && e.tagName === "text" ? style.fill : style.color);
  });
  return Math.min(...inks.map((ink) => (Math.max(ink, card) + 0.05) / (Math.min(ink, card) + 0.05)));
})()"""


@pytest.mark.slow
def test_a_page_of_360_runs_is_small_and_opens_at_once(browser: Any, tmp_path: Path) -> None:
    """Twelve methods, three sizes and ten seeds, 1,440 utterances each."""
    text = render_exploration(many_runs(12, (10, 20, 50), range(10), 1440))
    assert len(text.encode()) < 5_000_000
    file = tmp_path / "many.html"
    file.write_text(text, encoding="utf-8")
    page = browser.new_page()
    spent = []
    while not spent or (spent[-1] >= 2.0 and len(spent) < 3):  # a busy machine is no failure
        before = time.perf_counter()
        page.goto(file.as_uri())
        page.wait_for_selector(OPENED, state="attached")
        spent.append(time.perf_counter() - before)
    assert min(spent) < 2.0
    assert page.locator("#table tr[data-method]").count() == 12
    page.locator("#search").fill("method1")
    assert methods(page) == ["method1", "method10", "method11"]
    page.close()


def test_runs_of_which_little_is_known_open_all_the_same(browser: Any, tmp_path: Path) -> None:
    """A run that failed, one in which nobody asked, one of an earlier version; and an address of no run."""
    whole = explored_runs()[0].results.to_json()
    nobody = {**whole, "requests": [], "answers": {"groups": []}, "fairness": None}
    for model in nobody["models"].values():
        model["losses"] = {"edges": model["losses"]["edges"], "forget": [0] * 40, "test": [1] * 40}
        model["forget"] = {"accuracy": None, "n": 0}
    earlier = {name: whole[name] for name in ("config", "corpus", "models", "gap", "cost")}
    runs = [
        ExploredRun("failed", Results.model_validate({"schema": "fedunlearn/results/1", "status": "failed"})),
        ExploredRun("nobody", Results.model_validate(nobody)),
        ExploredRun("earlier", Results.model_validate(earlier)),
    ]
    file = tmp_path / "holes.html"
    file.write_text(render_exploration(runs), encoding="utf-8")
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{file.as_uri()}#run-99")
    page.wait_for_selector(OPENED, state="attached")
    for number, run in enumerate(runs):
        page.goto(f"{file.as_uri()}#run-{number}")
        page.wait_for_selector(f'html[data-run="{number}"]', state="attached")
        assert f"({run.name})" in page.locator("#run-about").inner_text()
    assert complaints == []
    page.close()


def test_nothing_leads_out_of_the_page() -> None:
    text = render_exploration(explored_runs())
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", text)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}
    overview = re.search(r'id="data-overview">(.*?)</script>', text, re.S)
    assert overview is not None and len(json.loads(overview[1])["runs"]) == 18
    assert sys.getsizeof(text) < 1_000_000
