"""The page on extending runs as it is printed; and what is wrong with a user's file is reported in one
line."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import fedunlearn as fu
from fedunlearn import config as configuration
from fedunlearn.audio import BadAudio
from fedunlearn.cli import app
from fedunlearn.config import Config
from fedunlearn.config import plugins as plugins_module
from fedunlearn.config.unlearning import AGGREGATIONS
from fedunlearn.corpora import load as load_corpus
from fedunlearn.experiment.reference_cache import reference_key
from fedunlearn.models import build_model, resolved
from fedunlearn.server import aggregation as aggregation_module
from fedunlearn.unlearning import METHODS
from fedunlearn.unlearning.methods.random_label import random_label

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)
FILES = {
    match[1]: text
    for language, text in BLOCKS
    if language == "python" and (match := re.match(r"# (\w+\.py)\n", text))
}
SETTINGS = {
    "partition.unseen_speakers": 1,
    "corpus.utterances": 12,
    "deletions.schedule": '[{client = 0, what = "some", count = 4, after_learning = 0}]',
    "evaluation.retrained_seeds": 1,
    "evaluation.bootstrap": 100,
    "evaluation.relearn_steps": 0,
    "recovery.rounds": 1,
    "training.rounds": 2,
}
SMALL = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def speech(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for speaker in ("anna", "ben", "cleo", "dan"):
        (folder / speaker).mkdir(parents=True)
        for emotion in ("neutral", "happy", "angry"):
            for number in range(6):
                sound = 0.1 * rng.standard_normal(4000 + 200 * number)
                soundfile.write(folder / speaker / f"{emotion}_{number:02}.wav", sound, 16_000)


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.output


def problems_of(**overrides: Any) -> tuple[str, ...]:
    with pytest.raises(fu.BadInput) as caught:
        fu.load_config(None, **overrides)
    return caught.value.problems


# ---- the page --------------------------------------------------------------------------------------------


def test_the_page_shows_all_four_in_full() -> None:
    assert FILES.keys() == {"my_method.py", "my_model.py", "my_corpus.py", "my_aggregation.py"}


def test_all_four_files_of_the_page_work_together_in_one_run(place: Path) -> None:
    speech(place / "my_speech")
    text = next(text for language, text in BLOCKS if language == "toml" and "[model.options]" in text)
    (place / "mine.toml").write_text(text, encoding="utf-8")
    corpus = ("--corpus", "my_corpus.py:speaker-folders", "--data", "my_speech")
    run = ("run", "--config", "mine.toml", *corpus, "--engine", "inline", "--out", "out", *SMALL)
    code, output = call(*run, "--clients", "3")
    assert code == 0, output
    results = fu.load_results(place / "out")
    assert results.unlearning.method == "uniform" and results.unlearning.source == "an example"
    assert results.unlearning.sees == "forget"
    assert results.corpus.name == "speaker-folders" and results.corpus.emotions == [
        "neutral",
        "happy",
        "angry",
    ]
    assert results.model.parameters == 20 * 64 + 64 + 64 * 3 + 3
    kept = configuration.load(place / "out" / "config.toml")
    assert kept.plugins is not None and set(kept.plugins) == {str(place / name) for name in FILES}
    assert kept.unlearning.method == f"{place / 'my_method.py'}:uniform"
    for receipt in (place / "out" / "vaults").rglob("receipts/*.json"):
        assert "my_method.py" not in receipt.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FILES))
def test_each_command_of_the_page_runs_on_ray(place: Path, name: str) -> None:
    speech(place / "my_speech")
    command = next(t for language, t in BLOCKS if language == "bash" and f" {name}:" in t)
    arguments = command.split()[1:]
    clients = () if "--clients" in arguments else ("--clients", "4")
    code, output = call(*arguments, *clients, *SMALL, "--out", "out", "--set", "federation.workers=2")
    assert code == 0, output
    assert fu.load_results(place / "out").status == "complete"


@pytest.mark.slow
def test_the_python_of_the_page_runs(place: Path) -> None:
    text = next(t for language, t in BLOCKS if language == "python" and not t.startswith("# "))
    text = text.replace("rounds=2,", 'rounds=2, engine="inline", evaluation={"bootstrap": 100},')
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("complete", "unfulfilled"))
    assert "forget_accuracy" in done.stdout


# ---- how things are found --------------------------------------------------------------------------------


def test_a_relative_path_becomes_absolute_and_the_digest_is_noted(place: Path) -> None:
    config = fu.load_config(method="my_method.py:uniform")
    assert config.unlearning.method == f"{place}/my_method.py:uniform"
    assert list(config.plugins or {}) == [f"{place}/my_method.py"]
    (place / "config.toml").write_text(config.to_toml())
    assert configuration.load(place / "config.toml") == config


def test_a_function_is_found_by_its_own_name_too(place: Path) -> None:
    assert METHODS[f"{place}/my_method.py:uniform"].name == "uniform"
    config = fu.load_config(corpus="my_corpus.py:speaker_folders")
    assert config.corpus.name.endswith(":speaker_folders")


def test_a_decorated_function_is_known_by_name_in_its_own_process(place: Path) -> None:
    """It is turned into a reference to its file, which every worker can load."""
    script = FILES["my_method.py"] + (
        "\nif __name__ == '__main__':\n    print(fu.load_config(method='uniform').unlearning.method)\n"
    )
    (place / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=place)
    assert done.stdout.strip() == f"{place}/script.py:uniform", done.stderr


def test_what_is_defined_in_no_file_is_refused_with_what_to_do(place: Path) -> None:
    script = FILES["my_method.py"] + "\nfu.load_config(method='uniform')\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=place)
    assert "was defined in __main__, which is no file" in done.stderr
    assert "put it into a file" in done.stderr


@pytest.fixture
def package(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package with entry points for the page's four files."""
    names = {
        "methods": "uniform = my_method:uniform",
        "models": "energy-mlp = my_model:EnergyMLP",
        "corpora": "speaker-folders = my_corpus:speaker_folders",
        "aggregations": "median = my_aggregation:median",
    }
    about = place / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    text = "\n".join(f"[fedunlearn.{group}]\n{point}" for group, point in names.items())
    (about / "entry_points.txt").write_text(text)
    monkeypatch.syspath_prepend(place)
    plugins_module._entry_points.cache_clear()
    yield place
    plugins_module._entry_points.cache_clear()
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_entry_points_are_known_by_their_names(package: Path) -> None:
    speech(package / "my_speech")
    config = fu.load_config(
        method="uniform",
        model="energy-mlp",
        corpus="speaker-folders",
        data=package / "my_speech",
        aggregation="median",
        **{"model.options.hidden": 5},
    )
    assert config.unlearning.method == "uniform" and len(config.plugins or {}) == 4
    assert METHODS["uniform"].source == "an example"
    assert not config.model.is_encoder
    model = build_model(config.model, 3, np.random.default_rng(0))
    assert sum(p.numel() for p in model.parameters()) == 20 * 5 + 5 + 5 * 3 + 3
    assert len(load_corpus(config.corpus, 1).utterances) == 72


# ---- what is wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("def f(:\n", r"line 1: is not valid Python"),
        ("x = 1\nimport nowhere\n", r"line 2: cannot be imported \(ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)\n", r"line 1: cannot be imported \(SystemExit: 3\)"),
        ("def mine(): ...\n", r"mine is not registered as a method; decorate it with @fedunlearn.method"),
        ("x = 1\n", r"has no method 'mine'; it registers no method"),
        (
            "import fedunlearn as fu\n@fu.method('mine')\ndef mine(model, data): ...\n",
            r"method mine: must take \(model, forget_set, settings, rng, scalars\), not \(model, data\)",
        ),
        (
            "import fedunlearn as fu\n@fu.method('mine')\n"
            "def mine(model, forget_set, settings, rng, scalars, retain_set=None): ...\n",
            r"method mine: must take \(model, forget_set, settings, rng, scalars\), not",
        ),
        (
            "import fedunlearn as fu\n@fu.method('mine')\ndef mine(*everything): ...\n",
            r"method mine: must take",
        ),
        (
            "import fedunlearn as fu\n@fu.aggregation('mine')\ndef mine(updates, context, settings): ...\n",
            r"mine is registered as an aggregation, not as a method",
        ),
        (
            "import fedunlearn as fu\n@fu.method('mine', settings=dict)\n"
            "def mine(model, forget_set, settings, rng, scalars): ...\n",
            r"method mine: its settings must be a class derived from fedunlearn.Settings",
        ),
    ],
)
def test_a_broken_file_is_one_line_that_names_it_and_the_cause(place: Path, text: str, cause: str) -> None:
    (place / "broken.py").write_text(text)
    (line,) = problems_of(method="broken.py:mine")
    assert line.startswith(f"options: unlearning.method: {place}/broken.py: ")
    assert re.search(cause, line) and "\n" not in line


def test_a_missing_file_ends_the_command_with_code_2_and_one_line(place: Path) -> None:
    code, output = call("run", "--method", "nowhere.py:mine", "--out", "out")
    assert code == 2 and len(output.strip().splitlines()) == 1
    assert f"{place}/nowhere.py: no such file" in output.replace("\n", "")
    assert not (place / "out").exists()


def test_a_file_without_a_name_says_what_is_in_it(place: Path) -> None:
    (line,) = problems_of(method="my_method.py")
    assert "say which method of the file is meant, as FILE.py:NAME; it has uniform" in line


def test_options_are_checked_like_settings_and_all_errors_are_reported_at_once(place: Path) -> None:
    output = problems_of(
        method="my_method.py:uniform",
        model="my_model.py:energy-mlp",
        aggregation="my_aggregation.py:nothing",
        **{
            "training.roundz": 3,
            "unlearning.options.smoothing": 2.0,
            "unlearning.options.lr": True,
            "unlearning.options.lrr": 0.1,
            "model.options.hidden": 0,
        },
    )
    keys = ("training.roundz", "unlearning.aggregation", "unlearning.options.smoothing")
    keys += ("unlearning.options.lr", "unlearning.options.lrr", "model.options.hidden")
    assert len(output) == len(keys)
    for key in keys:
        assert [line for line in output if line.startswith((f"options: {key} ", f"options: {key}: "))], key
    (unknown,) = (line for line in output if "lrr" in line)
    assert "misspelt? its settings are" in unknown and "smoothing" in unknown


def test_options_of_what_is_not_ones_own_are_refused(place: Path) -> None:
    (line,) = problems_of(method="l2ul", **{"unlearning.options.lr": 0.1})
    assert "unlearning.options is read by a method of your own; unlearning.method names none" in line


def test_an_aggregation_that_is_none_is_refused_as_before(place: Path) -> None:
    (line,) = problems_of(aggregation="sums")
    assert "unlearning.aggregation should be 'sum', 'mean'" in line and "(got 'sums')" in line


def test_a_file_that_has_changed_since_is_refused(place: Path) -> None:
    config = fu.load_config(method="my_method.py:uniform")
    (place / "config.toml").write_text(config.to_toml())
    (place / "my_method.py").write_text(FILES["my_method.py"] + "\n# changed\n")
    with pytest.raises(fu.BadInput, match="is not the file that the experiment was made with"):
        fu.load_config(place / "config.toml")


# ---- what runs -------------------------------------------------------------------------------------------


def test_a_plugin_equals_the_built_in_method_that_it_copies(place: Path) -> None:
    """Same settings, same generator: the same bits."""
    from tiny_model import speechless, tiny

    text = (
        "import fedunlearn as fu\n"
        "from fedunlearn.unlearning.targeted_attack import wrong_labels\n"
        "@fu.method('copy', settings=fu.DescentSettings)\n"
        "def copy(model, forget_set, settings, rng, scalars):\n"
        "    examples = forget_set.examples\n"
        "    labels = wrong_labels(examples.labels, model.classes, rng)\n"
        "    loss = fu.cross_entropy_to(examples, labels)\n"
        "    return fu.descend(model, examples, loss, settings, rng, scalars)\n"
    )
    (place / "copy_of.py").write_text(text)
    settings = fu.load_config(method="copy_of.py:copy").unlearning
    states = [
        card.unlearn(tiny(), speechless(8), settings, np.random.default_rng(3), fu.ServerScalars(0.2)).state
        for card in (METHODS[settings.method], random_label)
    ]
    assert all((states[0][key] == states[1][key]).all() for key in states[1])


def test_a_method_that_returns_something_else_fails_by_name(place: Path) -> None:
    from tiny_model import speechless, tiny

    text = (
        "import fedunlearn as fu\n@fu.method('lazy')\n"
        "def lazy(model, forget_set, settings, rng, scalars):\n    return model\n"
    )
    (place / "lazy.py").write_text(text)
    settings = fu.load_config(method="lazy.py:lazy").unlearning
    card = METHODS[settings.method]
    with pytest.raises(fu.UnlearnFailed, match=r"method lazy returned .*, not an UnlearnResult"):
        card.unlearn(tiny(), speechless(4), settings, np.random.default_rng(0), fu.ServerScalars())
    empty = card.unlearn(tiny(), speechless(0), settings, np.random.default_rng(0), fu.ServerScalars())
    assert empty.stopped == "empty forget set"


def test_the_built_in_aggregations_are_those_that_the_config_knows() -> None:
    assert aggregation_module._JOINS.keys() == AGGREGATIONS.keys()


def test_options_and_the_file_of_ones_own_model_decide_what_is_cached(place: Path) -> None:
    def key(model: str = "my_model.py:energy-mlp", **more: Any) -> str:
        return reference_key(fu.load_config(model=model, **more), 1, ("a", "b"))

    first = key()
    assert first == key() == key(method="my_method.py:uniform")
    wider = key(**{"model.options.hidden": 33})
    (place / "my_model.py").write_text(FILES["my_model.py"].replace("1e-6", "1e-5"))
    assert len({first, wider, key(), key("cnn")}) == 4


def test_a_config_made_in_python_is_completed_by_the_same_checks(place: Path) -> None:
    base = Config()
    unlearning = base.unlearning.model_copy(update={"method": "my_method.py:uniform"})
    whole = configuration.with_plugins(base.model_copy(update={"unlearning": unlearning}))
    assert whole == fu.load_config(method="my_method.py:uniform")


@pytest.mark.slow
def test_shadow_federations_use_ones_own_method_and_aggregation_exactly(place: Path) -> None:
    """Their processes load the files; the replay of the run itself gives the run's own bits."""
    config = fu.load_config(
        None,
        engine="inline",
        clients=4,
        method="my_method.py:uniform",
        aggregation="my_aggregation.py:median",
        **{
            **{key: value for key, value in SETTINGS.items() if key != "deletions.schedule"},
            "deletions.schedule": (
                {"client": 0, "what": "some", "count": 6, "after_learning": 0},
                {"client": 2, "what": "some", "count": 6, "after_learning": 0},
            ),
            "evaluation.shadows": 8,
            "evaluation.shadow_workers": 2,
        },
    )
    results = fu.run(config, out="out")
    assert results.status == "complete"
    replay = results.attacks.replay
    assert replay is not None and replay.exact, replay


HEAD = "import numpy as np\nimport torch\nimport fedunlearn as fu\n"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("def mine(classes, settings): return torch.nn.Linear(2, 2)", r"is Linear, not derived from"),
        (
            "def mine(classes, settings): return 1 / 0",
            r"cannot be built \(ZeroDivisionError: division by zero\)",
        ),
        (
            "class mine(fu.EmotionModel):\n    def __init__(self, classes, settings): super().__init__()",
            r"cannot be built \(TypeError: Can't instantiate abstract class",
        ),
        (
            "class mine(fu.EmotionModel):\n    dims = 2\n    feature_name = 'mine'\n"
            "    def __init__(self, classes, settings):\n"
            "        super().__init__()\n        self.classes = 7\n        self.norm = fu.Standardise(2)\n"
            "    def derive(self, waveform, samples): ...\n    def classify(self, features, frames): ...",
            r"classes is 7, and must be the 2 that were given",
        ),
        (
            "class mine(fu.EmotionModel):\n    dims = 2\n    feature_name = 'mine'\n"
            "    def __init__(self, classes, settings):\n"
            "        super().__init__()\n        self.classes = classes\n"
            "    def derive(self, waveform, samples): ...\n    def classify(self, features, frames): ...",
            r"norm must be set, of type Standardise",
        ),
    ],
)
def test_a_model_that_cannot_be_built_is_named_with_the_cause(place: Path, text: str, cause: str) -> None:
    (place / "broken.py").write_text(f"{HEAD}\n@fu.model('mine')\n{text}\n")
    config = fu.load_config(model="broken.py:mine")
    with pytest.raises(fu.BadInput, match=f"model mine: {cause}"):
        resolved(config.model)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("return []", "gives no utterance"),
        ("return ['a']", "must give utterances"),
        ("return 1 / 0", r"cannot be read \(ZeroDivisionError"),
        ("return [say('a', 'x'), say('a', 'y')]", "two utterances have the id 'a'"),
        ("return [say('a', 'x'), say('b', '')]", "emotion of .* must be a text that is not empty"),
        ("return [say('a', 'x'), say('b', 'y')]", r"'y' is none of its emotions \(w, x\)"),
    ],
)
def test_a_corpus_that_will_not_do_is_named_with_the_cause(place: Path, text: str, cause: str) -> None:
    say = "def say(name, emotion): return fu.Utterance(name, 'anna', emotion, lambda: np.zeros(9))\n"
    reader = f"@fu.corpus('mine', needs_path=False, emotions=('w', 'x'))\ndef mine(path, settings): {text}\n"
    (place / "broken.py").write_text(HEAD + say + reader)
    config = fu.load_config(corpus="broken.py:mine")
    with pytest.raises(fu.BadInput, match=f"corpus mine: {cause}"):
        load_corpus(config.corpus, 1)


def test_a_corpus_may_generate_its_speech_and_its_sound_is_checked(place: Path) -> None:
    text = HEAD + (
        "@fu.corpus('mine', needs_path=False)\n"
        "def mine(path, settings):\n"
        "    assert path is None\n"
        "    good = lambda: np.ones(9000, np.int16)\n"
        "    bad = lambda: np.ones(9000)\n"
        "    yield fu.Utterance('a', 'anna', 'sad', good)\n"
        "    yield fu.Utterance('b', 'anna', 'glad', bad)\n"
    )
    (place / "made.py").write_text(text)
    corpus = load_corpus(fu.load_config(corpus="made.py:mine").corpus, 1)
    assert (corpus.name, corpus.emotions) == ("mine", ("glad", "sad"))
    good, bad = corpus.utterances
    assert len(good.pcm()) == 9000
    with pytest.raises(BadAudio, match="must be a vector of int16 samples at 16 kHz"):
        bad.pcm()


def test_real_speech_of_ones_own_needs_its_folder(place: Path) -> None:
    config = fu.load_config(corpus="my_corpus.py:speaker-folders")
    with pytest.raises(fu.BadInput, match="say where it is with --data PATH"):
        load_corpus(config.corpus, 1)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("return {}", "must return a difference for each tensor"),
        ("return {'w': torch.zeros(3)}", "returned w in another shape"),
        ("return {'w': torch.full((2,), torch.nan)}", "returned values of w that are not finite"),
    ],
)
def test_an_aggregation_that_returns_no_step_fails_the_run(place: Path, text: str, cause: str) -> None:
    source = f"{HEAD}\n@fu.aggregation('mine')\ndef mine(updates, context, settings): {text}\n"
    (place / "broken.py").write_text(source)
    how = fu.load_config(aggregation="broken.py:mine").unlearning.aggregation
    with pytest.raises(fu.RunFailed, match=f"aggregation mine: {cause}"):
        aggregation_module.aggregate_unlearning([fu.Update(0, 1, {"w": torch.ones(2)})], how, 9)


def test_an_aggregation_gets_updates_in_client_order_its_context_and_its_settings(place: Path) -> None:
    text = (
        FILES["my_aggregation.py"]
        .replace('"median", settings=Scale', '"median", settings=Scale, reads_last_steps=True')
        .replace(
            "    names =",
            "    assert [u.client for u in updates] == [0, 1, 2]\n    assert context.total == 9\n    names =",
        )
    )
    (place / "own.py").write_text(text)
    unlearning = fu.load_config(
        aggregation="own.py:median", **{"unlearning.aggregation_options.times": 2.0}
    ).unlearning
    assert unlearning.reads_last_steps
    updates = [fu.Update(client, 1, {"w": torch.tensor([float(client)])}) for client in (2, 0, 1)]
    joint = aggregation_module.aggregate_unlearning(
        updates, unlearning.aggregation, 9, options=unlearning.aggregation_options
    )
    assert joint["w"].tolist() == [2.0] and joint["w"].dtype == torch.float64
