"""Settings: every error at once, overrides, there and back, and the experiments that ship."""

import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.config import Config, load, parse_override
from fedunlearn.config.fields import Settings
from fedunlearn.corpora import READERS
from fedunlearn.errors import BadInput

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*.toml"))


def problems_of(overrides: dict[str, Any], file: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(BadInput) as caught:
        load(file, overrides)
    return caught.value.problems


def keys_of(settings: type[Settings], prefix: str = "") -> set[str]:
    """Dotted names of every setting that has a default, sections resolved, list items not.

    Those of a user's own method, model, corpus or aggregation (``options``, ``plugins``) have none.
    """
    names: set[str] = set()
    for name, field in settings.model_fields.items():
        kind = field.annotation
        section = isinstance(kind, type) and issubclass(kind, Settings)
        if field.default is not None:
            names |= keys_of(kind, f"{prefix}{name}.") if section else {f"{prefix}{name}"}
    return names


def values_in(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from values_in(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def keys_in(tree: dict[str, Any], prefix: str = "") -> set[str]:
    names: set[str] = set()
    for name, value in tree.items():
        names |= keys_in(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"}
    return names


# ---- errors ----------------------------------------------------------------------------------------------


def test_every_error_is_reported_at_once_with_its_key() -> None:
    problems = problems_of(
        {
            "training.rounds": 0,
            "training.local.lr": -1.0,
            "model.encoder.trains": "some",
            "partition.clients": "many",
            "unlearning.l2ul.attack.epss": 0.1,
            "seed.a": 1,
        }
    )
    named = (
        "training.rounds",
        "training.local.lr",
        "encoder.trains",
        "partition.clients",
        "attack.epss",
        "seed",
    )
    assert len(problems) == len(named)
    for key in named:
        assert sum(f"{key} " in line or f"{key}:" in line for line in problems) == 1, key


def test_an_error_names_the_file_the_key_what_is_right_and_what_was_given(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[unlearning.l2ul.attack]\neps = -1\n")
    assert problems_of({}, file) == (f"{file}: unlearning.l2ul.attack.eps should be greater than 0 (got -1)",)


def test_an_unknown_key_is_an_error_in_any_section() -> None:
    for key in ("sede", "training.round", "training.local.learning_rate", "federation.engine.name"):
        (line,) = problems_of({key: 1})
        assert key.split(".")[0] in line
    assert "is not a setting" in problems_of({"training.round": 1})[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", True),
        ("seed", "1"),
        ("training.rounds", 3.0),
        ("training.local.lr", "0.1"),
        ("training.local.lr", True),
        ("corpus.skip_bad", 1),
        ("corpus.name", 5),
        ("deletions.schedule", 3),
        ("training", 3),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(key: str, value: Any) -> None:
    assert key in problems_of({key: value})[0]


def test_a_whole_number_will_do_for_a_fraction() -> None:
    assert load(None, {"training.local.lr": 1}).training.local.lr == 1.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("partition.clients", 0),
        ("partition.test_fraction", 0.0),
        ("partition.test_fraction", 1.0),
        ("corpus.utterances", 5),
        ("model.dropout", 1.0),
        ("training.rounds", 0),
        ("training.local.lr", 0.0),
        ("training.server_momentum", 1.0),
        ("deletions.rate", 1.1),
        ("deletions.rate_count", 0),
        ("unlearning.l2ul.elasticity", -0.1),
        ("evaluation.bootstrap", 99),
        ("federation.quorum", 0.0),
        ("federation.quorum", 1.01),
        ("federation.timeout", 0.0),
    ],
)
def test_a_value_out_of_range_is_refused(key: str, value: float) -> None:
    (line,) = problems_of({key: value})
    assert key in line and f"got {value!r}" in line


def floats_of(settings: type[Settings], prefix: str = "") -> list[str]:
    names = []
    for name, field in settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            names += floats_of(field.annotation, f"{prefix}{name}.")
        elif field.annotation is float:
            names.append(f"{prefix}{name}")
    return names


def test_no_setting_takes_nan_or_infinity() -> None:
    keys = floats_of(Config)
    assert "training.local.lr" in keys and "federation.quorum" in keys
    for value in (math.nan, math.inf, -math.inf):
        problems = problems_of(dict.fromkeys(keys, value))
        assert len(problems) == len(keys)


@pytest.mark.parametrize(
    ("event", "why"),
    [
        ({"client": 0}, "exactly one of round and after_learning"),
        ({"client": 0, "round": 1, "after_learning": 1}, "exactly one of round and after_learning"),
        ({"client": 0, "round": 1, "what": "some"}, "needs count"),
        ({"client": 0, "round": 1, "what": "emotion"}, "needs emotion"),
        ({"client": 0, "round": 1, "what": "named"}, "needs utterances"),
        ({"client": 0, "round": 1, "what": "all", "count": 3}, "does not read it"),
        ({"client": -1, "round": 1}, "client should be greater than or equal to 0"),
        ({"round": 1}, "client"),
    ],
)
def test_a_deletion_that_contradicts_itself_is_refused(event: dict[str, Any], why: str) -> None:
    (line,) = problems_of({"deletions.schedule": [{"client": 1, "round": 2}, event]})
    assert "deletions.schedule.1" in line and why in line


def test_a_missing_or_broken_file_is_one_line(tmp_path: Path) -> None:
    assert "cannot be read" in problems_of({}, tmp_path / "none.toml")[0]
    assert "cannot be read" in problems_of({}, tmp_path)[0]
    broken = tmp_path / "broken.toml"
    broken.write_text("seed = = 1")
    assert "is not valid TOML" in problems_of({}, broken)[0]
    broken.write_bytes(b'[corpus]\npath = "\xff"')
    assert "is not valid TOML" in problems_of({}, broken)[0]


def test_settings_cannot_be_changed_after_loading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().seed = 2


# ---- overrides -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training.rounds=10", ("training.rounds", 10)),
        ("training.local.lr=1e-3", ("training.local.lr", 0.001)),
        ("corpus.skip_bad=true", ("corpus.skip_bad", True)),
        ("corpus.name=ravdess", ("corpus.name", "ravdess")),
        ('corpus.name="ravdess"', ("corpus.name", "ravdess")),
        ("corpus.path=/speech/a=b", ("corpus.path", "/speech/a=b")),
        ("corpus.path=", ("corpus.path", "")),
        (" seed = 3 ", ("seed", 3)),
        ("deletions.schedule=[]", ("deletions.schedule", [])),
        (
            'deletions.schedule=[{client=1, what="all", round=2}]',
            ("deletions.schedule", [{"client": 1, "what": "all", "round": 2}]),
        ),
    ],
)
def test_an_override_is_read_as_toml_or_else_as_text(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["training.rounds", "=3", "  =3", ""])
def test_an_override_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"write it as key\.sub=value"):
        parse_override(text)


def test_overrides_win_over_the_file_and_leave_the_rest_alone(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("seed = 4\n[training]\nrounds = 7\n[training.local]\nepochs = 2\n")
    config = load(file, {"training.local.lr": 0.2, "partition.clients": 3, "training.rounds": 9})
    assert (config.seed, config.training.rounds, config.training.local.epochs) == (4, 9, 2)
    assert (config.training.local.lr, config.partition.clients) == (0.2, 3)
    assert config.model == Config().model


def test_a_later_file_replaces_the_keys_it_has_in_common_with_earlier_ones(tmp_path: Path) -> None:
    """Section by section; a list is one value. The overrides come last."""
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text("seed = 3\n[training]\nrounds = 7\n[training.local]\nlr = 0.5\n[study]\nsizes = [5, 9]")
    second.write_text("[training.local]\nlr = 0.25\nsteps = 2\n[study]\nsizes = [8]")
    config = load([first, second], {"training.local.steps": 4})
    local = config.training.local
    assert (config.seed, config.training.rounds, local.lr, local.steps) == (3, 7, 0.25, 4)
    assert config.study.sizes == (8,)
    assert load([second, first]).training.local.lr == 0.5
    assert load([first]) == load(first) and load([]) == load(None) == Config()


def test_an_error_in_one_of_two_files_names_both_and_the_key(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text("seed = 3")
    second.write_text("[training]\nround = 2")
    with pytest.raises(BadInput) as error:
        load([first, second])
    (line,) = error.value.problems
    assert line.startswith(f"{first} + {second}: training.round") and "misspelt" in line


def test_an_override_inside_a_value_is_refused_beside_all_other_errors(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("seed = 4\n")
    problems = problems_of({"seed.deep": 1, "training.rounds": 0}, file)
    assert problems[0] == "--set seed.deep: seed is a value, not a section"
    assert len(problems) == 2 and "training.rounds" in problems[1]


# ---- there and back --------------------------------------------------------------------------------------

EVENTS = st.builds(
    lambda client, when, number: {"client": client, "what": "some", "count": number, when: 3},
    st.integers(0, 50),
    st.sampled_from(["round", "after_learning"]),
    st.integers(1, 99),
)
POSITIVE = st.floats(1e-12, 1e12)
SHARE = st.floats(0.0, 1.0, exclude_max=True)
OVERRIDES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**63 - 1),
        "corpus.path": st.text(st.characters(codec="utf-8"), max_size=20),
        "corpus.skip_bad": st.booleans(),
        "model.name": st.sampled_from(["functionals", "cnn"]),
        "training.rounds": st.integers(1, 500),
        "training.local.lr": POSITIVE,
        "training.local.momentum": SHARE,
        "deletions.rate": SHARE,
        "deletions.schedule": st.lists(EVENTS, max_size=3),
        "unlearning.method": st.text(st.characters(codec="utf-8"), max_size=9),
        "unlearning.l2ul.attack.eps": POSITIVE,
        "federation.timeout": POSITIVE,
    },
)


def back_and_forth(config: Config, folder: Path) -> Config:
    file = folder / "config.toml"
    file.write_bytes(config.to_toml().encode())
    return load(file)


def test_the_defaults_survive_being_written(tmp_path: Path) -> None:
    assert back_and_forth(Config(), tmp_path) == load() == Config()


@given(overrides=OVERRIDES)
def test_any_experiment_survives_being_written(
    overrides: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = load(None, overrides)
    assert back_and_forth(config, tmp_path_factory.getbasetemp()) == config


def test_what_is_written_holds_every_setting() -> None:
    assert keys_in(tomllib.loads(Config().to_toml())) == keys_of(Config)


# ---- the experiments that ship ---------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_a_shipped_experiment_loads_and_lists_what_differs_from_the_defaults(file: Path) -> None:
    """And the name of its corpus, the default of one; "retract" is put over those of any corpus."""
    loaded, defaults = (dict(values_in(c.model_dump(mode="json"))) for c in (load(file), Config()))
    differing = {key for key, value in loaded.items() if value != defaults[key]}
    named = set() if file.stem == "retract" else {"corpus.name"}
    assert keys_in(tomllib.loads(file.read_text(encoding="utf-8"))) == differing | named


def test_there_is_a_shipped_experiment_of_every_reader() -> None:
    assert {load(file).corpus.name for file in FILES} == set(READERS)
    assert {file.stem for file in FILES} >= set(READERS)


def test_the_numbers_that_follow_from_the_corpus_can_be_given_as_auto() -> None:
    keys = ("partition.clients", "partition.unseen_speakers")
    assert load(None, dict.fromkeys(keys, "auto")) == Config()
    for key in keys:
        (line,) = problems_of({key: "automatic"})
        assert key in line and "got 'automatic'" in line
    with pytest.raises(ValueError, match=r'partition\.clients is "auto"'):
        _ = Config().partition.client_count
    with pytest.raises(ValueError, match=r'partition\.unseen_speakers is "auto"'):
        _ = Config().partition.unseen_count


def test_there_are_shipped_experiments() -> None:
    assert FILES


def test_the_built_in_defaults_are_the_shipped_synthetic_experiment() -> None:
    assert load(CONFIGS / "synthetic.toml") == Config()


def test_frame_wise_augmentation_is_refused_for_a_model_without_frames() -> None:
    with pytest.raises(BadInput) as caught:
        load(None, {"training.local.crop_seconds": 2.0})
    assert caught.value.problems[0].startswith(
        "options: training.local: crop_seconds, time_mask and band_mask"
    )
    assert (
        load(None, {"training.local.crop_seconds": 2.0, "model.name": "cnn"}).training.local.crop_seconds
        == 2.0
    )
