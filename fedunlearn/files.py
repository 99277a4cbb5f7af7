"""Files that are written whole or not at all, read with care, and changed by one process at a time."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedunlearn.links import create_new, wipe

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS = fcntl is not None
"""whether this operating system has file locks"""

_LARGEST_JSON = 1 << 28
"""bytes"""


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it.

    A reader sees the old file or the new one. When this returns, the new file survives a power failure. Two
    processes may write the same file at a time. If it fails (the disk is full), no part of the new file is
    left. A link at ``path`` is replaced, not followed.

    Args:
        path: file to write.
        content: bytes, or text to be encoded as UTF-8.

    Raises:
        OSError: it cannot be written.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(create_new(temporary), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            wipe(temporary)
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    # A rename must be on disk before anything relies on it, such as the wiping of the old file.
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file whose writer is unknown.

    Args:
        path: file to read.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it holds no JSON object; the message says why and does not name the file.
    """
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError("is no file")
    if size > _LARGEST_JSON:
        raise ValueError(f"is larger than {_LARGEST_JSON >> 20} MiB")
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError("is not JSON") from error
    if not isinstance(content, dict):
        raise ValueError("holds no JSON object")
    return content


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder; a process that dies releases it.

    Not to be entered twice by one process. Windows has no such lock: nothing is locked there.

    Args:
        folder: it exists.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def lock_file(handle: int) -> None:
    """Take an exclusive lock on an open file without waiting; closing the file releases it.

    Args:
        handle: of the file. ``HAS_LOCKS`` is true.

    Raises:
        OSError: another process holds the lock, or the file system has no locks.
    """
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_unlocked(folder: Path) -> None:
    """Remove a folder unless a process that is alive has locked it. Without locks nothing is removed.

    Args:
        folder: locked by its user with :func:`lock_file`.
    """
    if not HAS_LOCKS:
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            lock_file(handle)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)
