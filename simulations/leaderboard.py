"""The table of README.md from the studies in leaderboard/: ``python simulations/leaderboard.py``.

Each folder of leaderboard/ is one task and holds the study.json files of those who contributed to it.
"""

from pathlib import Path
from typing import Annotated

import typer

from fedunlearn.__main__ import start
from fedunlearn.cli.exit_codes import run_command
from fedunlearn.console import say, warn
from fedunlearn.errors import EXIT_OK, BadInput
from fedunlearn.files import write_atomically
from fedunlearn.inputs import read_text

ROOT = Path(__file__).resolve().parents[1]


def leaderboard(
    folder: Annotated[Path, typer.Option(help="Folder with a folder for each task.")] = ROOT / "leaderboard",
    page: Annotated[Path, typer.Option(help="Page with the short table.")] = ROOT / "README.md",
) -> None:
    """Check the studies, merge those of each task, and write the tables of both README.md files.

    Exit codes: 0 written; 2 a study is damaged, of another task than its folder, or a page has no marks.
    """

    def command() -> int:
        # Heavy imports wait until the input is known to be good.
        from fedunlearn.report.markup import markdown
        from result_tables.board import best_methods, full_tables, put_between_marks, read_boards

        boards = read_boards(folder)
        if not boards:
            raise BadInput(f"--folder {folder}: holds no folder with study.json files; add one for each task")
        written = {
            page: markdown([best_methods(boards)]),
            folder / "README.md": markdown(full_tables(boards)),
        }
        pages = {place: put_between_marks(read_text(place), text, place) for place, text in written.items()}
        for place, text in pages.items():
            write_atomically(place, text)
            say(f"Written: {place}")
        for board in boards:
            for note in board.notes:
                warn(f"{board.title}: {note}")
        return EXIT_OK

    raise SystemExit(run_command(command))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(leaderboard)
    start(app)
