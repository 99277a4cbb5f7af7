"""Presets: complete experiments by name, from anywhere, in every command that takes one."""

import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import setuptools
from command_line import call

from fedunlearn import config as configuration
from fedunlearn.config.presets import find_config, preset, preset_names
from fedunlearn.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]


def test_every_file_of_configs_is_a_preset() -> None:
    assert preset_names() == sorted(file.stem for file in (ROOT / "configs").glob("*.toml"))
    for name in preset_names():
        assert preset(name).read_bytes() == (ROOT / "configs" / f"{name}.toml").read_bytes()
        assert find_config(name) == preset(name)


def test_a_preset_is_found_from_anywhere_and_a_file_of_its_name_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert configuration.load(find_config("synthetic")) == configuration.load(None)
    (tmp_path / "synthetic").write_text("seed = 77")
    assert configuration.load(find_config("synthetic")).seed == 77
    assert find_config("./synthetic").resolve() == tmp_path / "synthetic"


@pytest.mark.parametrize("place", ["ravdess.toml", "folder/ravdess", "./ravdess", "..", "/", "ravdess/"])
def test_whatever_reads_as_a_path_is_one(place: str) -> None:
    if place == "ravdess/":  # pathlib drops what is written there; a shell completes folders so
        assert find_config(place).name == "ravdess"
    else:
        assert find_config(place) == Path(place)


@pytest.mark.parametrize("command", ["run", "compare", "guard"])
def test_an_unknown_name_is_one_line_that_lists_the_presets(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = call(command, "--config", "ravdes")
    assert code == 2 and len(output.strip().splitlines()) == 1
    assert output.startswith(
        "error: ravdes: is neither a file nor a preset (presets: audformat, audiofolder, crema-d, emodb,"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "compare", "guard"])
def test_every_command_reads_a_preset_by_name(command: str, tmp_path: Path) -> None:
    """The mistake in the corpus is found only after the preset was read."""
    code, output = call(
        command, "--config", "ravdess", "--data", "/nowhere/at/all", "--out", tmp_path / "out"
    )
    assert code == 2 and "/nowhere/at/all: no such" in output


@pytest.mark.parametrize("command", ["run", "compare", "guard"])
def test_every_command_puts_one_preset_over_another(command: str, tmp_path: Path) -> None:
    """Of the second the corpus is read, of the first the key that the second does not have."""
    spoiled = tmp_path / "spoiled.toml"
    spoiled.write_text('[corpus]\nname = "nemo"\n[training]\nrounds = 0')
    code, output = call(command, "--config", spoiled, "--config", "ravdess", "--out", tmp_path / "out")
    assert code == 2 and "training.rounds" in output and "nemo" not in output


def test_a_preset_that_vanishes_between_look_and_use_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="nothing: is neither a file nor a preset"):
        preset("nothing")
    with pytest.raises(BadInput, match="is neither a file nor a preset"):
        preset("../configs/ravdess")


def test_the_build_carries_every_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    """configs/ is built as a package of its own, TOML files included; ``.ci/run`` installs a wheel."""
    passed: dict[str, Any] = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **options: passed.update(options))
    runpy.run_path("setup.py")
    packages = {str(f.parent.relative_to(ROOT)).replace("/", ".") for f in ROOT.glob("fedunlearn/**/*.py")}
    assert set(passed["packages"]) == packages | {"fedunlearn.presets"}
    assert passed["package_dir"] == {"fedunlearn.presets": "configs"}
    data = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert data["fedunlearn.presets"] == ["*.toml"]
    inside = {file for pattern in data["fedunlearn"] for file in (ROOT / "fedunlearn").glob(pattern)}
    assert inside >= set((ROOT / "fedunlearn").glob("**/*.toml"))
