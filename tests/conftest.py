"""Where tests find real speech (none of it is part of the repository), and what holds for all tests."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from markupsafe import Markup

sys.path.append(str(Path(__file__).resolve().parents[1] / "simulations"))  # as Python does for its scripts
# A small run waits for the disk 237 times. That guards against a power failure, which no test can have; what
# is left when a process is killed does not depend on it.
os.fsync = lambda _: None
torch.set_num_threads(1)  # as on a device; and tests share their cores
# A busy machine is no failure, and the same commit passes always or never. To look for new examples:
# HYPOTHESIS_PROFILE=exploring pytest ...
settings.register_profile("patient", deadline=None, derandomize=True)
settings.register_profile("exploring", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "patient"))


@pytest.fixture(autouse=True)
def _same_weights_each_time() -> None:
    """Models that a test makes without a generator draw from torch's own: a test passes always or never."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def inline_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The small experiment as it is, run once in this process: folder and results, only to be read."""
    from small_run import run_small

    out = tmp_path_factory.mktemp("inline") / "run"
    return out, run_small(out)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of runs without their drawings, which take longer than a small run; tests/report draws them."""
    monkeypatch.setattr("fedunlearn.report.figures.style.FigureSpec.svg", lambda *_: Markup("<svg></svg>"))


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
