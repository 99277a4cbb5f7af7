"""What is printed: strings from outside as they are, whatever the stream takes, whoever has left."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import small_file
from hypothesis import example, given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from fedunlearn import console
from fedunlearn.cli.exit_codes import run_command
from fedunlearn.console import Screen, plain, visible
from fedunlearn.errors import BadInput, RunFailed
from fedunlearn.experiment.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
ENCODINGS = ("utf-8", "latin-1", "ascii", "cp1252", "cp932")
HOSTILE = st.one_of(
    st.text(st.characters(), max_size=40),
    st.text(st.sampled_from("[]/\\\x1b\x07\r\n\x9b\u202e\udcff試é:b red"), max_size=60),
)


def shown(screen: Screen, buffer: io.BytesIO) -> str:
    screen.file.flush()
    return buffer.getvalue().decode(screen.file.encoding)


def screen_of(encoding: str, **options: Any) -> tuple[Screen, io.BytesIO]:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding, newline="")
    return Screen(file=stream, **options), buffer


def tabled(screen: Screen, text: str) -> None:
    table = Table(title=text, caption=text)
    table.add_column(text)
    table.add_row(text)
    table.add_row(Text(text))
    screen.table(table)


WAYS: dict[str, Callable[[Screen, str], None]] = {
    "line": lambda screen, text: screen.tell(text),
    "label": lambda screen, text: screen.labelled("error:", "red", text),
    "print": lambda screen, text: screen.print(text),
    "text": lambda screen, text: screen.print(Text(text)),
    "table": tabled,
    "progress": lambda screen, text: Progress(screen).warn(text),
}


@pytest.mark.parametrize("way", WAYS)
@given(text=HOSTILE, encoding=st.sampled_from(ENCODINGS), terminal=st.booleans())
@example(text="exp[lr=0.1]", encoding="utf-8", terminal=True)
@example(text="b[/x]", encoding="utf-8", terminal=True)
@example(text="[link=http://x]y[/link]\x1b]0;title\x07\x1b[2J", encoding="latin-1", terminal=True)
@example(text="\udce8\udca9", encoding="utf-8", terminal=False)
@example(text="x" * 20_000, encoding="ascii", terminal=True)
def test_no_string_is_markup_or_moves_the_cursor(way: str, text: str, encoding: str, terminal: bool) -> None:
    screen, buffer = screen_of(encoding, force_terminal=terminal, width=80, _environ={"TERM": "xterm"})
    WAYS[way](screen, text)
    output = shown(screen, buffer)
    ours = re.sub(r"\x1b\[[0-9;]*m", "", output) if terminal else output  # colours of rich's own
    assert all(c == "\n" or visible(c) == c for c in ours), repr(ours)
    if way in ("line", "label", "progress"):
        assert ours.count("\n") == 1
    if way == "line":
        assert ours == visible(text).encode(encoding, "backslashreplace").decode(encoding) + "\n"


@given(text=HOSTILE)
def test_what_is_made_visible_stays_so_and_ordinary_words_are_left_alone(text: str) -> None:
    assert visible(visible(text)) == visible(text) and "\n" not in plain(text)
    if text.isprintable():
        assert visible(text) == text


@pytest.mark.parametrize("word", ["試験", "naïve café", "می\u200cخواهم", "👩\u200d🔬", "a\\b", "[x]"])
def test_words_of_other_scripts_are_shown(word: str) -> None:
    assert visible(word) == word


@pytest.mark.parametrize("kind", [BadInput, RunFailed, OSError, KeyboardInterrupt])
def test_every_way_out_of_a_command_is_one_line_whatever_the_error_says(
    kind: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> int:
        error = kind("a[/x]\n\x1b[31mb\udcff")
        error.add_note("and [bold]this\x07")
        raise error

    assert run_command(fails) in (2, 3)
    output = capsys.readouterr().err
    assert "\x1b" not in output and "\x07" not in output
    if kind is not KeyboardInterrupt:
        assert output.splitlines()[0].endswith("a[/x] \\x1b[31mb\\udcff")
        assert output.splitlines()[1] == "and [bold]this\\x07" and len(output.splitlines()) == 2


@pytest.mark.parametrize(
    ("code", "exit_code", "hint"),
    [
        (28, 3, "is the disk full?"),
        (122, 3, "is the disk full?"),
        (13, 3, "is it yours to read and write?"),
        (30, 3, "is it yours to read and write?"),
        (36, 2, ""),
        (40, 2, ""),
        (5, 3, ""),
    ],
)
def test_a_hint_is_given_only_where_it_can_help(
    code: int, exit_code: int, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> int:
        raise OSError(code, os.strerror(code), "somewhere")

    assert run_command(fails) == exit_code
    output = capsys.readouterr().err
    assert ("?)" in output) == bool(hint) and hint in output


class Broken(io.StringIO):
    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise self._error


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "I/O"), OSError(28, "full")]
)
def test_a_stream_that_fails_raises_nothing(
    error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(error))
    console.say("something")
    table = Table("a")
    Screen().table(table)
    output = capsys.readouterr().err
    assert ("what was to be shown there is lost" in output) == (error.errno == 28)


SCRIPTS: dict[str, tuple[str, int]] = {
    "a pipe that nobody reads": ("{run} requests --run {folder} 2>err | true; exit ${{PIPESTATUS[0]}}", 0),
    "help in such a pipe": ("{run} --help 2>err | true; exit ${{PIPESTATUS[0]}}", 0),
    "closed output": ("{run} requests --run {folder} >&- 2>err", 0),
    "closed errors": ("{run} requests --run nowhere >out 2>&-", 2),
    "both closed": ("{run} requests --run nowhere >&- 2>&-", 2),
    "all three closed": ("{run} requests --run {folder} <&- >&- 2>&-", 0),
    "a full disk": ("{run} requests --run {folder} >/dev/full 2>err", 0),
    "errors on a full disk": ("{run} requests --run nowhere 2>/dev/full", 2),
    "help on a full disk": ("{run} --help >/dev/full 2>err", 3),
}

QUICK = ("a pipe that nobody reads", "both closed", "a full disk")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SCRIPTS]
)
def test_streams_that_are_closed_or_full_change_no_exit_code(tmp_path: Path, name: str) -> None:
    (tmp_path / "run" / "vaults" / "client-0000").mkdir(parents=True)
    script, expected = SCRIPTS[name]
    command = script.format(run=f"{sys.executable} -m fedunlearn", folder=tmp_path / "run")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=False, timeout=60)
    output = (tmp_path / "err").read_text() if (tmp_path / "err").exists() else ""
    assert done.returncode == expected and "Traceback" not in output and "Exception ignored" not in output, (
        output
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["exp[lr=0.1]", "b[/x]", "試験", "a\x1b[31mb", "two\nlines", b"no-\xff-utf8"]
)
def test_a_whole_run_in_a_folder_of_any_name(tmp_path: Path, name: str | bytes) -> None:
    out = os.fsencode(tmp_path) + b"/" + os.fsencode(name)
    arguments = ["-m", "fedunlearn", "run", "--config", str(small_file(tmp_path)), "--out", out]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, env=environment, check=False, cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert b"\x1b" not in done.stdout
    assert Path(os.fsdecode(out), "report.html").exists()
    requests = [sys.executable, "-m", "fedunlearn", "requests", "--run", out]
    listed = subprocess.run(requests, capture_output=True, env=environment, check=False, cwd=tmp_path)
    assert listed.returncode == 0 and b"verified" in listed.stdout, listed.stderr
    again = subprocess.run(
        [*command, "--resume"], capture_output=True, env=environment, check=False, cwd=tmp_path
    )
    assert again.returncode == 0, again.stderr
