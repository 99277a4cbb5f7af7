"""The table of all corpora: its numbers by hand, its command from one tiny corpus to the files."""

import csv
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from command_line import call_script
from comparison_rows import rows_of
from made_corpora import make_corpus
from results import results

from fedunlearn.errors import BadInput
from fedunlearn.report.markup import markdown
from fedunlearn.report.tables import Row, Table
from result_tables.ablations import ABLATIONS
from result_tables.experiments import parse_speech, table_experiments
from result_tables.figure import gaps_over_floor
from result_tables.gaps import ablation_table, gap_rows, gap_table, recognition_table, short_table

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "corpus.utterances": 12,
    "partition.clients": 5,
    "partition.unseen_speakers": 2,
    "model.hidden": 8,
    "training.rounds": 2,
    "training.local.steps": 2,
    "recovery.rounds": 1,
    "evaluation.bootstrap": 100,
    "evaluation.retrained_seeds": 2,
    "unlearning.calm.max_steps": 10,
}


def two_corpora() -> pd.DataFrame:
    """Half the 95 % interval of 0.02 and 0.04 is 12.706 * 0.01 = 0.127; the noise floor is 0.01 and 0.02."""
    small = rows_of({"calm": [0.02, 0.04], "none": [0.3, 0.3]}, corpus="synthetic", model="functionals")
    whole = rows_of(
        {"calm": [0.04, 0.04], "none": [0.2, 0.2]},
        floor=0.02,
        corpus="nemo",
        model="functionals",
        forget_size=0,
        says_nothing="guard",
        guarded=1,
        unseen=0.25,
    )
    return pd.concat([small, whole], ignore_index=True)


def texts(table: Table) -> list[list[str]]:
    def cells(row: Row) -> list[str]:
        return [row.head, *(cell.text for cell in row.cells)]

    return [[column.text for column in table.columns], *map(cells, table.rows)]


def test_gaps_are_means_over_seeds_and_multiples_of_the_floor() -> None:
    found = {(r.corpus, r.method): r for r in gap_rows(two_corpora())}
    own = found["synthetic", "calm"]
    assert own.cells == 2 and own.gap == pytest.approx(0.03) and own.gap_half == pytest.approx(0.1270620)
    assert own.floor == pytest.approx(0.01) and own.times_floor == pytest.approx(3.0)
    assert own.says_nothing == own.guarded == 0
    other = found["nemo", "none"]
    assert other.times_floor == pytest.approx(10.0) and (other.says_nothing, other.guarded) == (2, 2)


def test_without_a_noise_floor_there_is_no_multiple() -> None:
    rows = rows_of({"calm": [0.02]}, floor=math.nan, corpus="a", model="b")
    assert math.isnan(gap_rows(rows)[0].times_floor)
    assert texts(gap_table(rows))[1][4:7] == ["–", "0.020", "–"]


def test_the_table_has_a_row_for_each_corpus_and_size_and_two_columns_for_each_method() -> None:
    heads, generated, real = texts(gap_table(two_corpora()))
    methods = ["calm", "x floor", "none", "x floor"]
    assert heads == [
        "corpus",
        "model",
        "deletes",
        "n",
        "noise floor",
        *methods,
        "says nothing",
        "guarded",
    ]
    assert generated[:3] == ["synthetic", "functionals", "10"] and real[:3] == [
        "nemo",
        "functionals",
        "whole client",
    ]
    assert generated[3:] == [
        "2",
        "0.010 ± 0.000",
        "0.030 ± 0.127",
        "3.0",
        "0.300 ± 0.000",
        "30.0",
        "0/4",
        "0",
    ]
    assert real[-2:] == ["4/4", "4"]


def test_recognition_is_that_of_the_original() -> None:
    heads, _, real = texts(recognition_table(two_corpora()))
    assert heads[2:9] == ["test UAR", "test WA", "test F1", "unseen UAR", "unseen WA", "unseen F1", "retain"]
    assert real[2:6] == ["0.550 ± 0.000", "0.600 ± 0.000", "0.500 ± 0.000", "0.250 ± 0.000"]
    assert real[6] == "–" and real[8] == "1.000 ± 0.000"


def test_the_short_form_is_one_line_a_corpus() -> None:
    lines = texts(short_table(two_corpora()))
    assert lines[1] == ["synthetic", "functionals", "0.55", "–", "0.010", "0.030 (3.0 x)", "0.300 (30.0 x)"]
    assert len(lines) == 3
    assert "Means over 2 seeds." in markdown([short_table(two_corpora())])


def test_ablations_are_rows_and_corpora_columns() -> None:
    gaps = {ablation.name: [0.02, 0.02] for ablation in ABLATIONS}
    rows = rows_of(gaps, corpus="synthetic", model="functionals", control=False)
    lines = texts(ablation_table(rows))
    assert lines[0][-1] == "synthetic, 10" and len(lines) == len(ABLATIONS) + 2
    assert lines[1] == ["A", "calibrated", "adversarial", "off", "0.020 ± 0.000"]
    assert lines[10] == ["J", "relabel", "adversarial", "0.1 flipped-mas", "0.020 ± 0.000"]
    assert lines[-1][-1] == "0.010 ± 0.000"


def test_ablations_differ_and_the_first_is_the_product() -> None:
    settings = [dict(ablation.variant.settings) for ablation in ABLATIONS]
    assert len({tuple(s.items()) for s in settings}) == len(ABLATIONS) == len({a.name for a in ABLATIONS})
    (one,) = table_experiments(parse_speech([]), ["functionals"], {})
    product = one.config.unlearning.calm
    assert {key: getattr(product, key) for key in settings[0]} == settings[0]


def test_the_figure_has_a_colour_for_each_method_and_a_group_for_each_corpus() -> None:
    axes = gaps_over_floor(two_corpora()).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["synthetic", "nemo"]
    assert axes.get_yscale() == "log"
    heights = [bars.lines[0].get_ydata().tolist() for bars in axes.containers]
    assert heights == [pytest.approx([3.0, 2.0]), pytest.approx([30.0, 10.0])]


def test_recipes_of_models_are_the_presets(tmp_path: Path) -> None:
    corpora = parse_speech([f"nemo={make_corpus(tmp_path, 'nemo')}"])
    found = table_experiments(corpora, ["functionals", "cnn", "encoder:/x/w2v"], {"training.rounds": 4})
    names = [experiment.name for experiment in found]
    models = ("functionals", "cnn", "w2v")
    assert names == [f"{corpus}-{model}" for corpus in ("synthetic", "nemo") for model in models]
    cnn, encoder = found[4].config, found[5].config
    assert (cnn.corpus.name, cnn.model.name, cnn.training.server_optimizer) == ("nemo", "cnn", "momentum")
    assert encoder.model.name == "/x/w2v" and encoder.training.rounds == 4
    assert all(each.config.evaluation.retrained_seeds >= 2 for each in found)


def test_generated_speech_can_be_left_out(tmp_path: Path) -> None:
    found = parse_speech([f"nemo={make_corpus(tmp_path, 'nemo')}"], generated=False)
    assert [speech.name for speech in found] == ["nemo"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["ravdess"], "--corpus ravdess: write it as NAME=PATH"),
        (["nothing=."], "there is no preset of 'nothing' (there are ravdess"),
        (["synthetic=."], "there is no preset of 'synthetic'"),
        (["ravdess=/no/such/place"], "--corpus ravdess=/no/such/place: no such folder"),
        (["nemo=.", "nemo=.."], "nemo comes twice"),
    ],
)
def test_a_corpus_that_is_none_is_reported_in_one_line(values: list[str], said: str) -> None:
    with pytest.raises(BadInput) as raised:
        parse_speech(values)
    assert len(raised.value.problems) == 1 and said in raised.value.problems[0]


@pytest.mark.parametrize("model", ["mlp", "cnn:x", "encoder", "encoder:"])
def test_a_model_that_is_none_is_reported(model: str) -> None:
    with pytest.raises(BadInput, match="write functionals, cnn or encoder:FOLDER"):
        table_experiments(parse_speech([]), [model], {})


def options(out: Path) -> list[str]:
    settings = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    return [*settings, "--out", str(out)]


@pytest.mark.slow
def test_the_command_writes_all_files_and_continues(tmp_path: Path) -> None:
    out = tmp_path / "out"
    nemo = make_corpus(tmp_path / "nemo", "nemo", sound=True)
    common = (*options(out), "--corpus", f"nemo={nemo}", "--sizes", "all", "--seeds", "1")
    code, output = call_script(results, *common, "--methods", "none")
    assert code == 0, output
    assert {f.name for f in out.iterdir() if f.is_file()} == {
        "results.md",
        "results.csv",
        "results-short.md",
        "results.svg",
        "results.png",
    }
    cells = {f: f.stat().st_mtime_ns for f in out.glob("*/cells/*.json")}
    assert len(cells) == 2 and all(f.name.startswith("none-1xall-") for f in cells)
    code, again = call_script(results, *common, "--methods", "default,none")
    assert code == 0, again
    assert {f: f.stat().st_mtime_ns for f in cells} == cells
    assert len(list(out.glob("*/cells/*.json"))) == 4
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["corpus"], r["forget_size"], r["method"], r["cells"]) for r in rows] == [
        (corpus, "all", method, "1") for corpus in ("synthetic", "nemo") for method in ("calm", "none")
    ]
    assert again.count("| nemo | functionals | whole client | 1 |") == 1


@pytest.mark.slow
def test_every_corpus_is_checked_before_any_is_run(tmp_path: Path) -> None:
    nemo = make_corpus(tmp_path / "nemo", "nemo")
    script = [sys.executable, str(ROOT / "simulations" / "results.py"), *options(tmp_path / "out")]
    arguments = ("--corpus", f"nemo={nemo}", "--sizes", "9,15", "--seeds", "1")
    done = subprocess.run([*script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "synthetic-functionals: --sizes 15: client" in done.stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()
