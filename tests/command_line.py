"""The command line as tests use it: a call, a small experiment in a file, a small corpus on disk."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile
import typer
from small_run import SMALL
from tiny import tiny_corpus
from typer.testing import CliRunner

from fedunlearn.audio import SAMPLE_RATE
from fedunlearn.cli import app


def small_file(tmp_path: Path, **changes: Any) -> Path:
    import tomli_w

    tree: dict[str, Any] = {}
    for key, value in (SMALL | {k.replace("__", "."): v for k, v in changes.items()}).items():
        node = tree
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    file = tmp_path / "small.toml"
    file.write_text(tomli_w.dumps(tree))
    return file


def call(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def call_wide(*arguments: str | Path) -> tuple[int, str]:
    """On a terminal of 160 columns, on which no table is folded."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "160"})
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def call_script(command: Callable[..., None], *arguments: str | Path) -> tuple[int, str]:
    """The command of a script in simulations/, in this process; on a terminal of 160 columns."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "160"})
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def write_corpus(folder: Path) -> Path:
    folder.mkdir()
    lines = ["path,speaker,emotion"]
    for utterance in tiny_corpus(speakers=8, takes=4).utterances:
        soundfile.write(folder / f"{utterance.id}.wav", utterance.pcm(), SAMPLE_RATE)
        lines.append(f"{utterance.id}.wav,{utterance.speaker},{utterance.emotion}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder
