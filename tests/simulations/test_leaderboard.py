"""The leaderboard: its pages are those made from its studies; its table by hand; what it refuses."""

from pathlib import Path

import pytest
from command_line import call_script
from made_studies import method, study, task

from fedunlearn.errors import BadInput
from fedunlearn.report.markup import markdown
from fedunlearn.study.study_file import StudyFile
from leaderboard import leaderboard
from result_tables.board import END, START, best_methods, full_tables, put_between_marks, read_boards

ROOT = Path(__file__).resolve().parents[2]
PAGE = f"Before.\n{START}previous\n{END}After.\n"


def write(folder: Path, name: str, made: StudyFile) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(made.to_text())


def test_the_pages_are_those_made_from_the_studies() -> None:
    """If this fails: python simulations/leaderboard.py. Every task is named, with its command."""
    boards = read_boards(ROOT / "leaderboard")
    about = (ROOT / "leaderboard" / "README.md").read_text(encoding="utf-8")
    assert boards and all(f"| `{board.title}` | `fedunlearn compare " in about for board in boards)
    parts = {"README.md": [best_methods(boards)], "leaderboard/README.md": full_tables(boards)}
    for name, tables in parts.items():
        page = (ROOT / name).read_text(encoding="utf-8")
        assert put_between_marks(page, markdown(tables), ROOT / name) == page, name


def test_the_short_table_by_hand(tmp_path: Path) -> None:
    """Gaps of forget accuracy .5, .9 and 1: .125, .275 and .375, a quarter of which is the gap."""
    write(tmp_path / "A", "ann.json", study("ann", {"near": {1: 0.5}, "far": {1: 0.9}}))
    write(tmp_path / "A", "ben.json", study("ben", {"near": {2: 0.5}}))
    controls = [method("ann", "nothing", control="leaves the model as it is")]
    only = study("ann", {"nothing": {1: 1.0}}, methods=controls, task=task(sizes=(20,), apart=1))
    write(tmp_path / "B", "ann.json", only)
    (tmp_path / "empty").mkdir()
    text = markdown([best_methods(read_boards(tmp_path))])
    assert "| corpus, utterances deleted | `near` | `far` | doing nothing | noise floor |" in text
    assert "| A, 20 | **0.031 ± 0.000** | 0.069 | 0.094 ± 0.000 | 0.062 |" in text
    assert "| B, 20 | – | – | 0.094 | 0.062 |" in text
    assert "Seeds: 2 of A, 1 of B." in text


def test_the_command_writes_between_the_marks_of_both_pages(tmp_path: Path) -> None:
    folder, page = tmp_path / "board", tmp_path / "README.md"
    write(folder / "A", "ann.json", study("ann", {"near": {1: 0.5}}))
    for place in (page, folder / "README.md"):
        place.write_text(PAGE)
    code, output = call_script(leaderboard, "--folder", folder, "--page", page)
    assert code == 0, output
    assert page.read_text().startswith(f"Before.\n{START}\n| corpus") and "`near`" in page.read_text()
    assert page.read_text().endswith(f"\n{END}After.\n") and "previous" not in page.read_text()
    assert "### A. Contributors" in (folder / "README.md").read_text()
    before = page.read_text()
    assert call_script(leaderboard, "--folder", folder, "--page", page)[0] == 0
    assert page.read_text() == before


def test_what_is_wrong_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    folder, page = tmp_path / "board", tmp_path / "README.md"
    for place in (page, folder / "README.md"):
        place.parent.mkdir(exist_ok=True)
        place.write_text(PAGE)
    code, output = call_script(leaderboard, "--folder", folder, "--page", page)
    assert code == 2 and "holds no folder with study.json files" in output
    write(folder / "A", "ann.json", study("ann", {"near": {1: 0.5}}))
    write(folder / "A", "ben.json", study("ben", {"near": {2: 0.5}}, task=task(apart=2)))
    code, output = call_script(leaderboard, "--folder", folder, "--page", page)
    assert code == 2 and "not the same task" in output and page.read_text() == PAGE
    (folder / "A" / "ben.json").unlink()
    page.write_text("no marks")
    code, output = call_script(leaderboard, "--folder", folder, "--page", page)
    assert code == 2 and "needs one line <!-- leaderboard -->" in output
    assert (folder / "README.md").read_text() == PAGE


@pytest.mark.parametrize("page", ["", START, f"{END}{START}", f"{START}{END}{START}{END}"])
def test_marks_come_once_and_in_order(page: str) -> None:
    with pytest.raises(BadInput):
        put_between_marks(page, "text", Path("README.md"))
