"""The recipe's grid: trained as a run trains, judged by hand-made numbers, its command end to end."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import call_script
from made_corpora import make_corpus
from recipe import recipe
from small_run import small_config

from fedunlearn.config import Config
from fedunlearn.report.markup import markdown
from result_tables.recipe_tables import RecipeRow, recipe_tables, summary_table, verdict_of
from result_tables.recipes import Recipe, RecipeRunner, RecipeScores, recipes_for

ROOT = Path(__file__).resolve().parents[2]
OWN, OTHER = Recipe("own", is_default=True), Recipe("other", {"lr": 0.1})
CENTRAL = Recipe("central", {"lr": 0.01}, passes=30)


def rows_of(uars: dict[Recipe | str, Any], recipes: dict[str, Recipe]) -> list[RecipeRow]:
    return [
        RecipeRow(
            corpus="made",
            recipe=recipes[str(name)],
            seed=seed,
            scores=RecipeScores(test_uar=uar, unseen_uar=0.25, retain=1.0),
        )
        for name, values in uars.items()
        for seed, uar in enumerate(values)
    ]


RECIPES = {"own": OWN, "other": OTHER, "central": CENTRAL}


def test_the_verdict_is_on_means_over_seeds() -> None:
    """Means .60, .62 and .63: within .02 of the best, and within .03 of central training."""
    rows = rows_of({"own": [0.5, 0.7], "other": [0.6, 0.64], "central": [0.63, 0.63]}, RECIPES)
    found = verdict_of(rows)
    assert (found.default, found.best, found.best_name) == (pytest.approx(0.6), pytest.approx(0.62), "other")
    assert found.central == pytest.approx(0.63) and found.is_near_best and found.is_near_central


def test_central_training_is_never_the_best_recipe_and_the_limits_hold() -> None:
    found = verdict_of(rows_of({"own": [0.6], "other": [0.621], "central": [0.631]}, RECIPES))
    assert found.best_name == "other" and not found.is_near_best and not found.is_near_central


def test_a_recipe_that_diverged_with_one_seed_is_not_the_best() -> None:
    rows = rows_of({"own": [0.5, 0.5], "other": [0.9, None], "central": [0.5, 0.5]}, RECIPES)
    assert verdict_of(rows).best_name == "own"
    text = markdown(recipe_tables(rows))
    assert "| other | diverged | – | – |  |" in text
    assert "| own | 0.500 ± 0.000 | 0.250 ± 0.000 | 1.000 ± 0.000 | default, best |" in text
    assert "| made | 0.500 | 0.500 | own | 0.500 | yes | yes |" in markdown([summary_table(rows)])


def test_the_grid_marks_the_default_once_and_holds_it_always() -> None:
    recipes = recipes_for(Config())
    assert len(recipes) == 24 + 1 + 4
    assert [r.name for r in recipes if r.is_default] == ["15 steps, lr 0.05, constant"]
    other = recipes_for(small_config())
    assert len(other) == len(recipes) + 1 and [r.name for r in other if r.is_default] == [other[0].name]
    assert other[0].experiment(small_config()) == small_config()
    old = recipes[24].experiment(Config()).training.local
    assert (old.steps, old.epochs, old.gradient_clip) == (0, 5, 0.0)


def test_a_recipe_trains_the_original_of_a_run(
    tmp_path: Path, inline_run: tuple[Path, dict[str, Any]]
) -> None:
    """The run's original has learned from all speech, as its deletions come after learning."""
    config = small_config()
    found = RecipeRunner(tmp_path).scores(config, Recipe("own", is_default=True), config.seed)
    original = inline_run[1]["models"]["original"]
    assert (found.test_uar, found.unseen_uar) == (original["test"]["uar"], original["unseen"]["uar"])


def test_central_training_is_another_and_what_is_finished_is_kept(tmp_path: Path) -> None:
    config, runner = small_config(), RecipeRunner(tmp_path)
    local = {"steps": 0, "epochs": 1, "lr": 0.03, "lr_schedule": "cosine"}
    found = runner.scores(config, Recipe("central", local, passes=40), 3)
    assert found.retain is not None and found.retain > 0.9
    (file,) = (tmp_path / "cells").glob("*.json")
    assert json.loads(file.read_text())["retain"] == found.retain
    file.write_text(json.dumps({"test_uar": 0.125, "unseen_uar": None, "retain": 0.5}))
    again = RecipeRunner(tmp_path).scores(config, Recipe("central", local, passes=40), 3)
    assert again == RecipeScores(test_uar=0.125, unseen_uar=None, retain=0.5)
    runner.scores(config, Recipe("central", local, passes=1), 3)
    assert len(list((tmp_path / "cells").glob("*.json"))) == 2


def test_training_that_diverges_is_a_result(tmp_path: Path) -> None:
    config = small_config(training__local__gradient_clip=0.0, training__local__momentum=0.99)
    found = RecipeRunner(tmp_path).scores(config, Recipe("wild", {"lr": 1e15}), 3)
    assert found == RecipeScores(test_uar=None, unseen_uar=None, retain=None)


@pytest.mark.slow
def test_the_command_writes_every_recipe_on_every_corpus(tmp_path: Path) -> None:
    nemo, out = make_corpus(tmp_path / "nemo", "nemo", sound=True), tmp_path / "out"
    tiny = ("corpus.utterances=12", "partition.clients=4", "model.hidden=4", "training.rounds=1")
    settings = [part for setting in tiny for part in ("--set", setting)]
    code, output = call_script(recipe, *settings, "--out", out, "--corpus", f"nemo={nemo}", "--seeds", "1")
    assert code == 0, output
    with (out / "recipe.csv").open() as file:
        rows = list(csv.DictReader(file))
    corpora = ["synthetic", "nemo", "synthetic, 12 utterances a client"]
    assert list(dict.fromkeys(row["corpus"] for row in rows)) == corpora
    assert len(rows) == 3 * 29 and {row["seed"] for row in rows} == {"1"}
    assert (out / "recipe.md").read_text().count("### ") == 1 + 3
    assert output.count("| nemo |") == 1


@pytest.mark.slow
def test_bad_input_is_one_line_before_any_work(tmp_path: Path) -> None:
    nemo = make_corpus(tmp_path / "nemo", "nemo")
    script = [sys.executable, str(ROOT / "simulations" / "recipe.py"), "--out", str(tmp_path / "out")]
    arguments = ("--corpus", f"nemo={nemo}", "--set", "partition.clients=30")
    done = subprocess.run([*script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: nemo: ")
    assert "partition.clients is 30" in done.stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()
