"""Where tests find real speech. None of it is part of the repository."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def speech() -> Path:
    """The folder that holds ravdess/ (1,440 files, 16 kHz FLAC) and ravdess-native/ (5 files, 48 kHz WAV)."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("FEDUNLEARN_DATA") or beside)


@pytest.fixture(scope="session")
def ravdess(speech: Path) -> Path:
    folder = speech / "ravdess"
    if not folder.is_dir():
        pytest.skip(
            f"no real speech: {folder} is missing (set FEDUNLEARN_DATA to the folder that holds ravdess/)"
        )
    return folder
