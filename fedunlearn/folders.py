"""New folders: made whole or not at all, and removed again without touching what was there before."""

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedunlearn.errors import BadInput


def make_folders(path: Path) -> list[Path]:
    """Make a folder and the missing ones above it; what exists, links to folders included, is left as it is.

    Returns:
        folders that were made, the innermost first

    Raises:
        OSError: one cannot be made.
    """
    made: list[Path] = []
    missing = itertools.takewhile(lambda folder: not folder.exists(), (path, *path.absolute().parents))
    try:
        for folder in reversed(list(missing)):
            with suppress(FileExistsError):  # another process has just made it
                folder.mkdir()
                made.insert(0, folder)
        path.mkdir(exist_ok=True)
    except BaseException:
        remove_folders(made)
        raise
    return made


def make_new_folder(wanted: Path) -> tuple[Path, list[Path]]:
    """Make a folder that did not exist: as wanted, or with -2, -3, ... if the name is taken.

    Returns:
        (the folder, all folders that were made, the innermost first)

    Raises:
        BadInput: it cannot be made.
    """
    try:
        made = make_folders(wanted.parent)
        for number in itertools.count(1):
            folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
            with suppress(FileExistsError):
                folder.mkdir()
                return folder, [folder, *made]
    except OSError as error:
        raise BadInput(f"--out {wanted}: cannot be made ({error.strerror}); name another place") from error
    raise AssertionError("numbers do not end")


def remove_folders(made: Iterable[Path]) -> None:
    """Remove those of the folders that ``make_folders`` made which are empty."""
    for folder in made:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder so that it appears whole or not at all.

    If filling fails, the first error is raised and nothing is left of it.

    Args:
        folder: new; or empty, which may be a link to a folder or a file system of its own, and stays.

    Yields:
        a temporary folder to be filled
    """
    made = make_folders(folder.parent)
    there = folder.is_dir()
    # An existing folder may be another file system, into which nothing can be renamed from outside.
    unfinished = (folder if there else folder.parent) / f".{folder.name}.{os.getpid()}.tmp"
    moved: list[Path] = []
    try:
        unfinished.mkdir()
        yield unfinished
        if there:
            for part in sorted(unfinished.iterdir()):
                moved.append(part.rename(folder / part.name))
            unfinished.rmdir()
        else:
            unfinished.rename(folder)
    except BaseException:
        for part in (unfinished, *moved):
            remove_all(part)
        remove_folders(made)
        raise


def remove_all(path: Path) -> str:
    """Remove a file, a link or a folder with everything in it.

    Returns:
        one line that says why it could not be removed; empty if it was removed
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        return f"{error.filename or path}: could not be removed ({error.strerror}); remove it by hand"
    return ""
