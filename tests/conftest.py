"""Where tests find real speech (none of it is part of the repository), and what holds for all tests."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # as on a device; and tests share their cores
settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _same_weights_each_time() -> None:
    """Models that a test makes without a generator draw from torch's own: a test passes always or never."""
    torch.manual_seed(0)


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
