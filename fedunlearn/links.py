"""Searching, writing, wiping and removing files, with one rule for links.

Searching follows every link: a folder or file behind one is searched as if it were there, each once. What
cannot be searched is reported. Writing, wiping and removing follow none: a link in the way is unlinked
itself, and its target stays as it was. The folders of a run's layout (the run folder, the cache, a vault,
checkpoints/standing) may be links themselves: they stand for their targets.

Hard links: what this program wrote itself is overwritten under all its names (``wipe``). What it finds and
has other names may belong to somebody else, and is not overwritten (``discard``).
"""

import os
import shutil
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""flags of os.open: follow no link, and do not wait for the other end of a pipe; Windows has neither"""

_Place = tuple[int, int]


class FileSearch:
    """Iterates over the plain files in some files and folders as (path, whether it was reached by a link).

    Each folder is searched once. Sockets, pipes and devices are left out, and so is what does not exist or
    vanishes in the meantime. Paths begin with the places as they were given.

    Args:
        places: files and folders, or links to them.
        spared: folders that are not searched inside a place: they belong to somebody else.

    Attributes:
        unsearched: path that could not be searched -> why.
        met: links that lead into spared folders, and spared folders themselves.
    """

    def __init__(self, places: Iterable[Path], spared: Iterable[Path] = ()) -> None:
        self.unsearched: dict[Path, str] = {}
        self.met: list[Path] = []
        self._places = list(places)
        self._spared = [folder.resolve() for folder in spared]
        self._spared_places = {_place(folder.stat()) for folder in self._spared if folder.exists()}
        self._above = {
            _place(parent.stat()) for p in self._places if p.exists() for parent in p.resolve().parents
        }
        self._seen: set[_Place] = set()
        self._links: deque[Path] = deque()

    def __iter__(self) -> Iterator[tuple[Path, bool]]:
        for place in self._places:
            yield from self._look(place, linked=False, given=True)
        while self._links:
            yield from self._look(self._links.popleft(), linked=True)

    def _look(self, path: Path, linked: bool, given: bool = False) -> Iterator[tuple[Path, bool]]:
        try:
            status = path.stat()
        except FileNotFoundError:
            if path.is_symlink():
                self.unsearched[path] = "is a link that leads nowhere"
            return
        except OSError as error:
            self.unsearched[path] = f"cannot be read ({error.strerror})"
            return
        here = _place(status)
        if here in self._seen:
            return
        if not given and any(path.resolve().is_relative_to(folder) for folder in self._spared):
            self.met.append(path)
        elif stat.S_ISREG(status.st_mode):
            self._seen.add(here)
            yield path, linked
        elif stat.S_ISDIR(status.st_mode) and linked and here in self._above:
            self.unsearched[path] = "is a link to a folder that all of this lies in"
        elif stat.S_ISDIR(status.st_mode):
            yield from self._walk(path, linked)

    def _walk(self, top: Path, linked: bool) -> Iterator[tuple[Path, bool]]:
        folders = [top]
        while folders:
            folder = folders.pop()
            try:
                status = folder.stat()
                if folder != top and _place(status) in self._spared_places:
                    self.met.append(folder)
                    continue
                if _place(status) in self._seen:  # also if it is mounted a second time
                    continue
                self._seen.add(_place(status))
                inside = _children(folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                self.unsearched[folder] = f"cannot be read ({error.strerror})"
                continue
            deeper = []
            for path in inside:
                try:
                    status = path.lstat()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self.unsearched[path] = f"cannot be read ({error.strerror})"
                    continue
                if stat.S_ISLNK(status.st_mode):
                    self._links.append(path)
                elif stat.S_ISDIR(status.st_mode):
                    deeper.append(path)
                elif stat.S_ISREG(status.st_mode):
                    self._seen.add(_place(status))
                    yield path, linked
            folders += reversed(deeper)


def _place(status: os.stat_result) -> _Place:
    return status.st_dev, status.st_ino


def _children(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries)


def open_to_read(path: Path) -> int:
    """Open a file for reading; never waits for the other end of a pipe that is in its place.

    Returns:
        file descriptor
    """
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))


def is_plain(path: Path) -> bool:
    """Tell whether this is a regular file: no link, folder, pipe, socket or device."""
    with suppress(OSError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


def has_other_names(path: Path) -> bool:
    """Tell whether a file has other names (hard links) anywhere."""
    with suppress(OSError):
        status = path.lstat()
        return stat.S_ISREG(status.st_mode) and status.st_nlink > 1
    return False


def plain_files(folder: Path) -> Iterator[Path]:
    """List all regular files below a folder in order, hidden ones included; follows no link inside."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (path for name in sorted(names) if is_plain(path := Path(parent) / name))


def wipe(path: Path) -> None:
    """Overwrite a file with zeros, flush it and unlink it.

    It is for files that this program wrote: other names of the file (hard links) then hold zeros, too. A
    symbolic link is unlinked itself; its target stays as it was. On a copy-on-write disk old blocks may
    remain.

    Raises:
        OSError: it does not exist, is a folder, or cannot be written.
    """
    if is_plain(path):
        with os.fdopen(os.open(path, os.O_RDWR | _NO_FOLLOW), "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            for start in range(0, size, 1 << 20):
                file.write(b"\0" * min(1 << 20, size - start))
            file.flush()
            os.fsync(file.fileno())
    path.unlink()


def discard(path: Path) -> None:
    """Wipe a file that this program found; if it has other names, it is unlinked and not overwritten."""
    with suppress(FileNotFoundError):
        path.unlink() if has_other_names(path) else wipe(path)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with everything in it; links in it are unlinked, not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def open_to_append(path: Path) -> TextIO:
    """Open a text file for appending; it is created if it does not exist.

    A link, a pipe or a device in its place is removed first.
    """
    with suppress(FileNotFoundError):
        if not is_plain(path):
            path.unlink()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_FOLLOW, 0o666)
    return os.fdopen(handle, "a", encoding="utf-8")


def make_own_folder(path: Path) -> None:
    """Make a folder if it does not exist; a link in its place is unlinked, so that writes stay here."""
    if path.is_symlink():
        path.unlink()
    path.mkdir(exist_ok=True)


def create_new(path: Path, mode: int = 0o666) -> int:
    """Create a file for writing; whatever had its name is unlinked first, and not written to.

    Returns:
        file descriptor
    """
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, mode)


# ---- temporary files ---------------------------------------------------------------------------------------


def is_abandoned(temporary: Path) -> bool:
    """Tell whether no process writes this temporary file any more; its name is .<name>.<process>.tmp."""
    process = temporary.stem.rpartition(".")[2]
    if not process.isdecimal() or int(process) == os.getpid():
        return True
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


def wipe_abandoned(files: Iterable[Path]) -> None:
    """Wipe those of these files and folders that are temporary and whose process has died."""
    for path in files:
        if path.suffix != ".tmp" or not path.name.startswith(".") or not is_abandoned(path):
            continue
        if path.is_dir() and not path.is_symlink():
            for file in plain_files(path):
                discard(file)
            shutil.rmtree(path)
        else:
            discard(path)
