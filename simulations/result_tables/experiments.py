"""Which experiments a table is of: each corpus with each recogniser, from the presets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedunlearn.config import Config
from fedunlearn.config.presets import preset, preset_names
from fedunlearn.corpora import READERS
from fedunlearn.errors import BadInput
from fedunlearn.study.grid import comparison_config

GENERATED = "synthetic"
_ENCODER = "encoder"
_RECIPES = {"cnn": "ravdess-cnn", _ENCODER: "ravdess-encoder"}
"""Recogniser -> the preset that has its training recipe, whatever the corpus."""


@dataclass(frozen=True)
class Speech:
    """A corpus on this machine.

    Attributes:
        name: of the reader.
        path: folder; empty for generated speech.
    """

    name: str
    path: str = ""


@dataclass(frozen=True)
class TableExperiment:
    """One corpus with one recogniser, which has rows of its own in the tables.

    Attributes:
        corpus: name of the corpus.
        model: "functionals", "cnn", or the name of an encoder's folder.
        config: the experiment.
    """

    corpus: str
    model: str
    config: Config

    @property
    def name(self) -> str:
        """Both, as folders are named."""
        return f"{self.corpus}-{self.model}"


def parse_speech(values: Sequence[str], generated: bool = True) -> list[Speech]:
    """Read the values of ``--corpus``; generated speech comes first.

    Args:
        values: each NAME=PATH.
        generated: whether generated speech is among them.

    Raises:
        BadInput: one is not of this form, names no preset or no folder or file, or comes twice.
    """
    found, problems = [Speech(GENERATED)] if generated else [], list[str]()
    known = [name for name in READERS if name in preset_names() and name != GENERATED]
    for value in values:
        name, _, path = (part.strip() for part in value.partition("="))
        if not name or not path:
            problems.append(f"--corpus {value}: write it as NAME=PATH, such as ravdess=data/ravdess")
        elif name not in known:
            problems.append(
                f"--corpus {value}: there is no preset of {name!r} (there are {', '.join(known)})"
            )
        elif not Path(path).exists():
            problems.append(f"--corpus {value}: no such folder")
        elif name in [speech.name for speech in found]:
            problems.append(f"--corpus {value}: {name} comes twice")
        else:
            found.append(Speech(name, path))
    if problems:
        raise BadInput(problems)
    return found


def table_experiments(
    speech: Sequence[Speech], models: Sequence[str], overrides: Mapping[str, Any]
) -> list[TableExperiment]:
    """List the experiments, corpus by corpus.

    The functionals take the corpus's preset. The CNN and encoders take the training recipe that the presets
    of RAVDESS have for them, with every corpus.

    Args:
        speech: the corpora.
        models: each "functionals", "cnn" or "encoder:FOLDER".
        overrides: dotted keys to values, for all experiments.

    Raises:
        BadInput: a model of another form, or anything that the settings refuse.
    """
    found = []
    for one in speech:
        for model in models:
            kind, _, folder = model.partition(":")
            name = {"functionals": "functionals", "cnn": "cnn", _ENCODER: folder}.get(kind, "")
            if not name or (folder and kind != _ENCODER):
                raise BadInput(f"--models {model}: write functionals, cnn or encoder:FOLDER")
            settings: dict[str, Any] = {"corpus.name": one.name, "model.name": name}
            if one.path:
                settings["corpus.path"] = one.path
            file = preset(_RECIPES.get(kind, one.name))
            label = Path(folder).name if folder else name
            config = comparison_config(file, {**settings, **overrides})
            found.append(TableExperiment(one.name, label, config))
    names = [experiment.name for experiment in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"--models: {', '.join(twice)} comes twice; rename one of the folders")
    return found
