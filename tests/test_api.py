"""The public interface, as a program uses it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fedunlearn as fu
from fedunlearn.api import SHORT_KEYS
from fedunlearn.config import Config, load
from fedunlearn.errors import Interrupted
from fedunlearn.results_schema import Results

METHOD = """
import fedunlearn as fu

@fu.method("mine", settings=fu.DescentSettings)
def mine(model, forget_set, settings, rng, scalars):
    examples = forget_set.examples
    loss = fu.cross_entropy_to(examples, (examples.labels + 1) % model.classes)
    return fu.descend(model, examples, loss, settings, rng, scalars)
"""


def small(**more: object) -> dict[str, object]:
    """Overrides of a run that takes a few seconds."""
    return {
        "clients": 3,
        "rounds": 2,
        "engine": "inline",
        "corpus.utterances": 12,
        "partition.unseen_speakers": 1,
        "deletions.schedule": ({"client": 0, "what": "some", "count": 4, "after_learning": 0},),
        "evaluation": {"retrained_seeds": 1, "bootstrap": 100, "relearn_steps": 0},
        "recovery": {"rounds": 1},
        **more,
    }


def loaded(*modules: str, then: str = "") -> set[str]:
    """Heavy libraries that are loaded once these modules are."""
    heavy = (
        "torch",
        "flwr",
        "ray",
        "transformers",
        "matplotlib",
        "pandas",
        "scipy",
        "scipy.stats",
        "sklearn",
    )
    script = f"import sys, {', '.join(modules)}\n{then}\nprint(*(m for m in {heavy!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


# ---- names -----------------------------------------------------------------------------------------------


def test_every_public_name_is_there_documented_and_typed() -> None:
    assert sorted(fu.__all__) == sorted(name for names in fu._HOMES.values() for name in names)
    assert set(fu.__all__) <= set(dir(fu))
    for name in fu.__all__:
        value = getattr(fu, name)
        assert value.__doc__, name
    tree = ast.parse(Path(str(fu.__file__)).read_text(encoding="utf-8"))
    typed = {
        f"{node.module}.{alias.name}"
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == {f"fedunlearn.{home}.{name}" for home, names in fu._HOMES.items() for name in names}


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = fu.nothing


def test_the_package_and_its_configs_load_nothing_heavy() -> None:
    """Not the names of the methods, either, which the command line's help shows."""
    assert loaded("fedunlearn", "fedunlearn.config", "fedunlearn.unlearning") == set()
    then = "import fedunlearn as fu; fu.load_config('ravdess', clients=3); fu.Results"
    assert "torch" not in loaded("fedunlearn", then=then)


def test_a_run_begins_without_what_only_its_end_needs() -> None:
    """Figures, tables and ``scipy.stats`` take seconds to import; the first round needs none of them."""
    run = loaded("fedunlearn.cli.run", "fedunlearn.experiment.preparation", "fedunlearn.whole_run")
    assert run == {"torch", "flwr", "scipy"}
    assert loaded("fedunlearn.engines.ray_grid", "fedunlearn.client.app") == {"torch", "flwr", "ray"}
    assert loaded("fedunlearn.corpora.speech_process", "fedunlearn.corpora.synthetic") == {"scipy"}


# ---- configs ---------------------------------------------------------------------------------------------


def test_overrides_are_short_names_dotted_keys_or_sections() -> None:
    config = fu.load_config(
        "ravdess",
        clients=4,
        seed=2,
        data=Path("/speech"),
        recovery={"rounds": 1},
        unlearning={"l2ul": {"attack": {"eps": 0.5}}, "clip": 2.0},
        **{"training.rounds": 3},
    )
    assert (config.partition.clients, config.seed, config.training.rounds) == (4, 2, 3)
    assert config.corpus.path == "/speech" and config.corpus.name == "ravdess"
    assert config.recovery == load(None).recovery.model_copy(update={"rounds": 1})
    assert (config.unlearning.l2ul.attack.eps, config.unlearning.clip) == (0.5, 2.0)


def test_every_short_name_is_a_setting() -> None:
    for key in SHORT_KEYS.values():
        section, name = key.split(".")
        assert name in type(getattr(Config(), section)).model_fields


def test_without_a_source_it_is_the_built_in_experiment() -> None:
    assert fu.load_config() == Config() == fu.load_config("synthetic")


def test_every_error_is_reported_at_once() -> None:
    with pytest.raises(fu.BadInput) as caught:
        fu.load_config(None, clients=0, nothing=3, training={"roundz": 3})
    wrong = [line.split()[1] for line in caught.value.problems]
    assert sorted(wrong) == ["nothing", "partition.clients", "training.roundz"]
    with pytest.raises(fu.BadInput, match="presets: "):
        fu.load_config("ravdes")


# ---- runs ------------------------------------------------------------------------------------------------


def test_a_run_is_quiet_and_gives_its_results(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(METHOD)
    config = fu.load_config(None, **small(method="mine.py:mine"))
    results = fu.run(config, out="run")
    assert isinstance(results, Results) and results.status == "complete"
    assert results == fu.load_results(tmp_path / "run")
    assert results.unlearning.method == "mine"
    frame = results.to_frame()
    assert set(frame["method"]) == {"mine"} and "forget_accuracy" in set(frame["measure"])
    assert {"results.json", "report.html", "config.toml", "vaults"} <= {p.name for p in Path("run").iterdir()}
    assert capfd.readouterr() == ("", "")

    with pytest.raises(fu.BadInput, match="run"):
        fu.run(config, out="run")
    # The file is changed: the run is not resumed with another method.
    Path("mine.py").write_text(METHOD.replace("+ 1", "+ 2"))
    with pytest.raises(fu.BadInput, match="is not the file that the experiment was made with"):
        fu.run(config, out="run", resume=True)
    with pytest.raises(fu.BadInput, match="is not the file that"):
        fu.run(fu.load_config(None, **small(method="mine.py:mine")), out="run", resume=True)
    Path("mine.py").write_text(METHOD)
    assert fu.run(config, out="run", resume=True).models == results.models


def test_a_run_whose_method_fails_gives_results_that_say_so(tmp_path: Path) -> None:
    broken = METHOD.replace("    examples", "    raise fu.UnlearnFailed('no')\n    examples", 1)
    (tmp_path / "mine.py").write_text(broken)
    config = fu.load_config(None, **small(method=tmp_path / "mine.py:mine"))
    try:
        results = fu.run(config, out=tmp_path / "run")
    except fu.RunFailed:
        results = fu.load_results(tmp_path / "run")
    assert results.status != "complete" and results.failure


def test_a_run_that_is_interrupted_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedunlearn import whole_run

    def stop(experiment: object) -> None:
        raise Interrupted("the run was interrupted")

    monkeypatch.setattr(whole_run, "play", stop)
    with pytest.raises(fu.RunFailed, match="interrupted"):
        fu.run(fu.load_config(None, **small()), out=tmp_path / "run")
    assert fu.load_results(tmp_path / "run").status == "partial"


def test_a_comparison_takes_ones_own_method_too(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
    overrides = {key: value for key, value in small().items() if key != "deletions.schedule"}
    own = f"{tmp_path}/mine.py:mine"
    found = fu.compare(
        methods=[own, "none", fu.Variant("slow", own, (("lr", 0.001),))],
        out=tmp_path / "out",
        sizes=[4],
        **overrides,
    )
    assert not found.failures
    assert set(found.rows["method"]) == {"mine", "none", "slow"}
    assert set(found.rows["sees"]) == {"forget"}
    assert "mine" in found.summary and (tmp_path / "out" / "compare.csv").exists()
    again = fu.compare(methods=[own, "none"], out=tmp_path / "out", sizes=[4], **overrides)
    assert len(again.rows) == 8
