"""What the rows of a comparison say: intervals, which methods are indistinguishable from the best, tables,
figures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from comparison_rows import rows_of
from matplotlib.container import ErrorbarContainer
from scipy.stats import chi2

from fedunlearn.report.markup import latex, markdown
from fedunlearn.report.statistics import Spread, compared_to_best, pool, seed_means, spread
from fedunlearn.report.study.figures import gap_by_size, noise_ellipse, waiting_against_gap, write_figures
from fedunlearn.report.study.statistics import Setting, methods_of, select, settings_of, subtract_retrained
from fedunlearn.report.study.tables import details, recognition, side_effects, summaries
from fedunlearn.report.tables import Row, Table
from fedunlearn.study.rows import csv_of


def by_seed(rows: pd.DataFrame, column: str, method: str = "a", **where: Any) -> dict[int, float]:
    """Seed -> mean of a column over that seed's rows after recovery, of one method."""
    found = seed_means(select(rows, **where), column, "method")
    return found[method].to_dict() if method in found else {}


def compared(gaps: dict[str, dict[int, float]]) -> dict[str, bool]:
    return compared_to_best(pd.DataFrame(gaps))


def texts(row: Row) -> list[str]:
    return [row.head, *(cell.text for cell in row.cells)]


def heads(table: Table) -> list[str]:
    return [column.text for column in table.columns]


def groups(table: Table) -> list[tuple[str, list[list[str]]]]:
    """Title of each group, and its lines."""
    found: list[tuple[str, list[list[str]]]] = []
    for row in table.rows:
        if row.cells:
            found[-1][1].append(texts(row))
        else:
            found.append((row.head, []))
    return found


# ---- statistics ------------------------------------------------------------------------------------------


def test_spread_of_three_seeds() -> None:
    """Mean 2, standard deviation 1, t(0.975, 2) = 4.3027: half width 4.3027 / sqrt(3) = 2.4841."""
    found = spread([1.0, 2.0, 3.0, None])
    assert found.mean == 2.0 and found.half == pytest.approx(2.4841, abs=1e-4)
    assert str(Spread(0.1234, 0.05)) == "0.123 ± 0.050"
    assert str(spread([0.5])) == "0.500" and math.isnan(spread([]).mean)


def test_settings_do_not_count_as_seeds() -> None:
    """Two seeds in two settings are two numbers, each the mean of its seed."""
    rows = pd.concat([rows_of({"a": [0.1, 0.3]}), rows_of({"a": [0.2, 0.6]}, forget_size=20)])
    assert by_seed(rows, "gap") == {0: pytest.approx(0.15), 1: pytest.approx(0.45)}
    assert by_seed(rows, "gap", forget_size=20) == {0: 0.2, 1: 0.6}


def test_methods_indistinguishable_from_the_best_are_decided_on_the_same_seeds() -> None:
    """Differences to a: b 0.01, 0.01, 0.02 (mean 0.0133, half width 0.0143: covers 0); c 0.1 +- 0.001.

    Unpaired, b's seeds and a's would spread by 0.2 and anything would be a tie.
    """
    a = {0: 0.1, 1: 0.2, 2: 0.3}
    b = {0: 0.11, 1: 0.21, 2: 0.32}
    c = {0: 0.201, 1: 0.3, 2: 0.399}
    assert compared({"a": a, "b": b, "c": c, "empty": {}}) == {"a": True, "b": False}
    assert compared({"a": a, "b": {0: 0.11, 1: 0.21, 2: 0.311}}) == {"a": True}
    assert compared({"a": a, "twin": dict(a)}) == {"a": True, "twin": True}
    assert compared({"a": {0: 0.1}, "b": {0: 0.1000001}}) == {"a": True}, "one seed tells nothing"
    assert compared({}) == {}


def test_only_shared_seeds_are_compared() -> None:
    """b has lost seed 2, on which a is bad; on the two they share a is better by 0.1 and 0.101."""
    found = compared({"a": {0: 0.1, 1: 0.1, 2: 0.2}, "b": {0: 0.2, 1: 0.201}})
    assert found == {"a": True}
    hard = dict.fromkeys(range(1, 5), 0.05)
    assert compared({"a": {0: 0.01, **hard}, "b": {0: 0.03}}) == {"a": True}, "the easy seed alone"


def test_a_difference_to_the_retrained_model_is_that_of_the_same_run() -> None:
    rows = rows_of({"a": [0.1, -0.2]})
    rows.loc[(rows["seed"] == 1) & (rows["stage"] == "retrained"), "forget"] = 0.4
    assert by_seed(subtract_retrained(rows, "forget"), "forget") == {
        0: pytest.approx(0.1),
        1: pytest.approx(-0.1),
    }
    assert by_seed(subtract_retrained(rows, "membership"), "membership") == {}


def test_settings_come_in_the_requested_order() -> None:
    rows = pd.concat(
        rows_of(
            {"a": [0.1]}, aggregation=aggregation, recovery=recovery, requesters=requesters, forget_size=size
        )
        for aggregation, recovery, requesters, size in (
            ("sum", "ordinary", 4, 10),
            ("sum", "ordinary", 1, 48),
            ("mean", "none", 1, 10),
            ("sum", "ordinary", 1, 10),
        )
    )
    assert settings_of(rows) == [
        Setting("sum", "ordinary", 1, 10),
        Setting("sum", "ordinary", 1, 48),
        Setting("sum", "ordinary", 4, 10),
        Setting("mean", "none", 1, 10),
    ]
    assert [s.request for s in settings_of(rows)[1:3]] == ["48 utterances", "4 x 10"]


# ---- tables ----------------------------------------------------------------------------------------------

GAPS = {
    "a": [0.3, 0.31, 0.3],
    "b": [0.2, 0.21, 0.2],
    "near b": [0.2, 0.215, 0.2],
    "none": [0.1, 0.1, 0.1],
    "scrub": [0.05, 0.05, 0.05],
    "destroy": [0.5, 0.5, 0.5],
}


def test_groups_are_those_that_see_the_forget_set_then_more_then_controls() -> None:
    found = methods_of(rows_of(GAPS, {"scrub": "retain"}))
    assert found == {"forget": ["b", "near b", "a"], "more": ["scrub"], "control": ["none", "destroy"]}
    renamed = rows_of({"nothing": [0.1]}, algorithm="none", control=True)
    assert methods_of(renamed) == {"control": ["nothing"]}


def test_the_best_forget_only_method_is_bold_ties_are_marked_and_nobody_else() -> None:
    (table,) = summaries(rows_of(GAPS, {"scrub": "retain"}))
    cells = {line[0]: line[2] for _, body in groups(table) for line in body}
    assert cells["b"] == "**0.203 ± 0.014**"
    assert cells["near b"].endswith("†")
    assert not any(mark in cells[m] for m in ("a", "none", "scrub", "destroy") for mark in "*†")
    assert [title for title, _ in groups(table)][1:] == [
        "Privileged baselines: see more",
        "Controls",
        "References",
    ]
    assert groups(table)[-1][1] == [["retrained (noise floor)", "retain", "0.010 ± 0.000", "1.00"]]
    assert "paired difference covers 0" in table.caption


def test_a_setting_in_full() -> None:
    """a: gap 0.3 is 30 floors of 0.01; forget accuracy 0.3 over the retrained model's, 0.05 came back."""
    (table,) = details(rows_of({"a": [0.3], "none": [0.2]}))
    assert heads(table) == [
        "method",
        "sees",
        "gap",
        "x floor",
        "d forget",
        "d retain",
        "d test",
        "d membership",
        "reversion",
        "client-seconds",
    ]
    line = groups(table)[0][1][0]
    assert line == ["a", "forget", "**0.300**", "30.0", "+0.300", "+0.000", "+0.000", "–", "+0.050", "1.00"]
    assert groups(table)[-1][1][0][:4] == ["original (nothing done)", "all", "0.300", "30.0"]
    assert groups(table)[-1][1][1][:5] == ["retrained (noise floor)", "retain", "0.010", "1.0", "0.010"]
    assert table.caption.startswith("One seed: no intervals.")


def test_without_a_noise_floor_there_is_no_multiple_of_it() -> None:
    rows = rows_of({"a": [0.3]})
    rows.loc[rows["stage"] == "retrained", "gap"] = None
    (table,) = details(rows)
    assert groups(table)[0][1][0][3] == "–" and groups(table)[-1][1][1][2] == "–"


def test_one_summary_for_each_aggregation_and_recovery_and_one_section_for_each_setting() -> None:
    rows = pd.concat(
        rows_of({"a": [0.3], "b": [0.2]}, aggregation=aggregation, forget_size=size)
        for aggregation in ("sum", "mean")
        for size in (10, 20)
    )
    assert [heads(t) for t in summaries(rows)] == [
        ["method", "sees", "10 utterances", "20 utterances", "client-seconds"]
    ] * 2
    assert "sum" in summaries(rows)[0].title and "mean" in summaries(rows)[1].title
    assert len(details(rows)) == 4


def waiting_rows(methods: dict[str, list[list[float]]], **changed: Any) -> pd.DataFrame:
    """Method -> for each of the windows 0, 4, 8 its gap with each seed; a window of w is waited half."""
    return pd.concat(
        rows_of(
            {m: gaps[number] for m, gaps in methods.items()},
            window=window,
            rounds_waited_mean=window / 2,
            **changed,
        )
        for number, window in enumerate((0, 4, 8))
    )


WAITED = {"a": [[0.3, 0.32], [0.2, 0.22], [0.25, 0.25]], "b": [[0.1, 0.1]] * 3}


def test_windows_are_in_the_tables_only_where_there_is_more_than_one() -> None:
    rows = waiting_rows(WAITED)
    (summary,) = summaries(rows)
    assert heads(summary)[2:5] == [f"10 utterances, window {w}" for w in (0, 4, 8)]
    line = {cells[0]: cells for _, body in groups(summary) for cells in body}["a"]
    assert [cell.split(" ")[0] for cell in line[2:5]] == ["0.310", "0.210", "0.250"]
    tables = details(rows)
    assert [t.title.split(",")[1] for t in tables] == [" window 0", " window 4", " window 8"]
    assert [heads(t)[9] for t in tables] == ["rounds waited"] * 3
    assert [groups(t)[0][1][0][9] for t in tables] == ["0.0", "2.0", "4.0"]
    assert {len(cells) for t in tables for _, body in groups(t) for cells in body} == {11}
    alone = rows[rows["window"] == 4]
    assert "window" not in markdown([*summaries(alone), *details(alone)])


def test_a_gap_is_read_against_the_retrained_model_of_its_own_window() -> None:
    rows = waiting_rows({"a": [[0.1], [0.1], [0.1]]})
    rows.loc[(rows["window"] == 4) & (rows["stage"] == "retrained"), "forget"] = 0.4
    found = subtract_retrained(rows, "forget")
    assert [by_seed(found, "forget", window=w)[0] for w in (0, 4, 8)] == pytest.approx([0.1, 0.2, 0.1])


def test_markdown_and_latex_hold_every_line() -> None:
    tables = summaries(rows_of(GAPS | {"under_score": [0.4] * 3}, {"scrub": "retain"}))
    written = markdown(tables)
    rows = [line for line in written.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4 + 7 + 1  # head and rule, groups, methods, noise floor
    assert len({line.count("|") for line in rows}) == 1
    assert rows[2].startswith("| *Forget set alone* |")
    tex = latex(tables)
    assert r"\textbf{0.203 $\pm$ 0.014}" in tex and r"$^\dagger$" in tex and r"under\_score" in tex
    assert tex.count(r"\begin{tabular}{llrr}") == 1 and "†" not in tex and "±" not in tex
    assert tex.count(r"\midrule") == 4


# ---- figures ---------------------------------------------------------------------------------------------


def test_the_noise_ellipse_is_the_covariance_around_each_runs_own_mean() -> None:
    """Two runs whose seeds lie at +-(0.03, 0.04) around means of their own: variance 0.0025 x 2 x 2 / 4 along
    (3, 4) / 5 with 2 runs x 2 free seeds, none across.
    """
    rows = rows_of({"a": [0.1, 0.2]})
    centres = 0.2 + 0.5 * rows["seed"]
    rows["seeds"] = [[(centre + s * 0.03, s * 0.04) for s in (-1, 0, 1)] for centre in centres]
    ellipse = noise_ellipse(rows)
    assert ellipse is not None
    assert ellipse.width == pytest.approx(2 * math.sqrt(0.0025 * 4 / 4 * chi2.ppf(0.95, 2)))
    assert ellipse.height == pytest.approx(0.0, abs=1e-6)
    assert math.tan(math.radians(ellipse.angle)) == pytest.approx(4 / 3)
    rows["seeds"] = rows["seeds"].str[:1]
    assert noise_ellipse(rows) is None


@pytest.mark.parametrize(("methods", "seeds"), [(1, 1), pytest.param(18, 3, marks=pytest.mark.slow)])
def test_figures_are_drawn_of_few_and_of_many(tmp_path: Path, methods: int, seeds: int) -> None:
    gaps = {f"method {i}": [0.05 + 0.01 * i + 0.01 * s for s in range(seeds)] for i in range(methods)}
    gaps["destroy"] = [0.5] * seeds
    rows = pd.concat(
        rows_of(gaps, {"method 3": "retain"}, aggregation=aggregation, requesters=requesters)
        for aggregation in ("sum", "mean")[:methods]
        for requesters in (1, 4)
    )
    names = ["forget-retain", "gap-by-method", "gap-by-size", "aggregation-recovery"][: 3 + (methods > 1)]
    files = {f.name for f in write_figures(rows, tmp_path)}
    assert files == {f"{name}.{ending}" for name in names for ending in ("svg", "pdf", "png")}
    for file in tmp_path.glob("*.png"):
        assert np.ptp(matplotlib.image.imread(file)) > 0.5
    legend = (tmp_path / "gap-by-size.svg").read_text()
    assert all(f">{m}</text>" in legend for m in gaps)


def test_whole_clients_stand_last_in_tables_and_figures() -> None:
    parts = [rows_of({"a": [0.1]}, forget_size=size) for size in (0, 10, 30)]
    rows = pd.concat(parts, ignore_index=True)
    assert [s.request for s in settings_of(rows)] == ["10 utterances", "30 utterances", "whole client"]
    axes = gap_by_size(rows).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "30", "whole\nclient"]
    assert axes.get_xticks().tolist() == [10.0, 30.0, 50.0]
    (column,) = [label.get_text() for label in gap_by_size(parts[0]).axes[0].get_xticklabels()]
    assert column == "whole\nclient"
    sizes = [line.split(",")[4] for line in csv_of(rows).splitlines()]
    assert sizes == ["forget_size", *["all"] * 4, *["10"] * 4, *["30"] * 4]


def test_waiting_is_drawn_against_the_gap_a_line_a_method_and_never_mixed_into_the_rest(
    tmp_path: Path,
) -> None:
    rows = waiting_rows(WAITED)
    (axes,) = waiting_against_gap(rows).axes
    lines = {c.get_label(): c[0].get_xydata() for c in axes.containers if isinstance(c, ErrorbarContainer)}
    assert lines.keys() == {"a", "b"}
    assert np.allclose(lines["a"], [(0, 0.31), (2, 0.21), (4, 0.25)])
    assert np.allclose(lines["b"], [(0, 0.1), (2, 0.1), (4, 0.1)])
    assert len(waiting_against_gap(pd.concat([rows, waiting_rows(WAITED, requesters=4)])).axes) == 2
    files = {f.name for f in write_figures(rows, tmp_path)}
    assert "waiting-gap.svg" in files and "aggregation-recovery.svg" not in files
    alone = rows[rows["window"] == 0]
    (tmp_path / "alone").mkdir()
    write_figures(alone, tmp_path / "alone")
    for file in (tmp_path / "alone").iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), "others are of the first window"


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = rows_of({"a": [0.1, 0.2]})
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_figures(rows, tmp_path / folder)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def folded(gaps: Mapping[int, Sequence[float]]) -> pd.DataFrame:
    """Fold -> the gap of method a with each seed."""
    return pd.concat([rows_of({"a": own}, fold=fold) for fold, own in gaps.items()], ignore_index=True)


def test_each_fold_and_seed_is_one_observation() -> None:
    """2 folds x 2 seeds: 0.1, 0.2, 0.3, 0.6 have the mean 0.3 and the standard deviation sqrt(.14 / 3).

    Half the interval: t(0.975, 3) = 3.1824 times that over sqrt(4).
    """
    found = pool(select(folded({1: [0.1, 0.2], 2: [0.3, 0.6]})), "gap", "method")["a"]
    assert found.mean == pytest.approx(0.3)
    assert found.half == pytest.approx(3.1824 * math.sqrt(0.14 / 3) / 2, rel=1e-4)


def test_a_difference_to_the_retrained_model_is_that_of_the_same_fold() -> None:
    rows = folded({1: [0.1], 2: [0.1]})
    rows.loc[(rows["fold"] == 2) & (rows["stage"] == "retrained"), "forget"] = 0.4
    assert subtract_retrained(rows, "forget")["forget"].tolist() == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize(
    ("gaps", "caption"),
    [
        ({1: [0.1, 0.2], 2: [0.3, 0.6]}, "Mean over 2 folds x 2 seeds ±"),
        ({1: [0.1], 2: [0.3]}, "Mean over 2 folds ±"),
        ({1: [0.1, 0.2]}, "Mean over 2 seeds ±"),
        ({1: [0.1]}, "One seed: no intervals."),
    ],
)
def test_captions_say_what_means_are_over(gaps: dict[int, list[float]], caption: str) -> None:
    rows = folded(gaps)
    for table in (*summaries(rows), *details(rows), *recognition(rows)):
        assert table.caption.startswith(caption)


def test_recognition_has_uar_wa_and_f1_of_each_method_and_the_references() -> None:
    """Both of the made rows' sets are known only as test speech; unseen speakers are unknown."""
    (table,) = recognition(rows_of({"a": [0.1, 0.3]}))
    assert [row.head for row in table.rows] == [
        "Forget set alone",
        "a",
        "References",
        "original (nothing done)",
        "retrained",
    ]
    shown = [cell.text for cell in table.rows[1].cells]
    assert shown == ["forget", "0.550 ± 0.000", "0.600 ± 0.000", "0.500 ± 0.000", "–", "–", "–"]


def test_side_effects_have_the_columns_that_were_measured() -> None:
    """Shifts of 1 and 2 nats: mean 1.5; the retrained seeds are 0.4 apart; no shadow models, no attacks."""
    rows = rows_of({"a": [0.1, 0.3]})
    assert side_effects(rows) == []
    after = rows["stage"] == "recovered"
    rows.loc[after, "shift_others"] = [1.0, 2.0]
    rows.loc[rows["stage"] == "retrained", "shift_others"] = 0.4
    (table,) = side_effects(rows)
    assert heads(table) == ["method", "sees", "shift, others"]
    lines = dict((row.head, texts(row)) for row in table.rows if row.cells)
    assert lines["a"][2].startswith("1.500 ±") and lines["original (nothing done)"][2] == "–"
    assert lines["retrained"][2] == "0.400 ± 0.000"
    rows.loc[after, "ulira"] = 0.7
    assert heads(side_effects(rows)[0])[3:] == ["U-LiRA AUC"]


def test_runs_that_say_nothing_are_counted_in_the_cell_and_explained_below() -> None:
    """Of a's two runs one says nothing, of b's none."""
    rows = rows_of({"a": (0.02, 0.04), "b": (0.2, 0.3)})
    rows.loc[(rows["method"] == "a") & (rows["seed"] == 0), "says_nothing"] = "not learned"
    for table in (*summaries(rows), *details(rows)):
        cells = {row.head: " ".join(cell.text for cell in row.cells) for row in table.rows}
        assert "‡1/2" in cells["a"] and "‡" not in cells["b"]
        assert "‡k/n: k of the n runs say nothing about the method" in table.caption
        assert "(not learned in 1 of 4 runs)" in table.caption
    assert r"$^\ddagger$1/2" in latex(summaries(rows))
    rows["says_nothing"] = ""
    assert "‡" not in markdown([*summaries(rows), *details(rows)])
