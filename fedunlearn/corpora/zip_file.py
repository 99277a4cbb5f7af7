"""Recordings in a zip file, as corpora are downloaded; nothing is unpacked."""

import os
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fedunlearn.audio import BadAudio
from fedunlearn.errors import BadInput
from fedunlearn.inputs import looked_up

LARGEST = 1 << 30
"""Bytes; a larger member is no recording, and unpacking it would fill the memory."""


@dataclass(frozen=True)
class ZipMember:
    """A file in a zip file.

    Attributes:
        archive: the zip file.
        name: of the member, as the zip file has it.
    """

    archive: Path
    name: str

    @property
    def path(self) -> Path:
        """The zip file, and the name inside."""
        return self.archive / self.name

    def read(self) -> bytes:
        """Return the member's content.

        Raises:
            BadAudio: it is damaged, encrypted, or larger than 1 GiB.
            OSError: the zip file cannot be read.
        """
        try:
            archive = _open(self.archive)
            size = archive.getinfo(self.name).file_size
            if size > LARGEST:
                raise BadAudio(self.path, f"has {size} bytes, which is no recording")
            return archive.read(self.name)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            KeyError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise BadAudio(self.path, f"cannot be unpacked ({error})") from error


def is_zip(path: Path) -> bool:
    """Tell whether a path is a file that is named as a zip file."""
    return path.suffix.lower() == ".zip" and path.is_file()


def members(archive: Path) -> list[ZipMember]:
    """List the files in a zip file.

    Args:
        archive: the zip file.

    Raises:
        BadInput: it is damaged or encrypted.
    """
    try:
        entries = looked_up(archive, lambda: _open(archive)).infolist()
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise BadInput(f"{archive}: is not a whole zip file ({error}); download it again") from error
    if any(entry.flag_bits & 1 for entry in entries):
        raise BadInput(f"{archive}: is encrypted; unpack it, and give the folder")
    return [ZipMember(archive, entry.filename) for entry in entries if not entry.is_dir()]


def _open(archive: Path) -> zipfile.ZipFile:
    status = archive.stat()
    # A process that was forked must not share the position in the file.
    return _opened(archive, status.st_mtime_ns, status.st_size, os.getpid())


@lru_cache(maxsize=2)
def _opened(archive: Path, changed: int, size: int, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)
