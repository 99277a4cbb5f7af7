"""The part of the build that pyproject.toml cannot say: configs/ is installed as fedunlearn/presets."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["fedunlearn*"]), "fedunlearn.presets"],
    package_dir={"fedunlearn.presets": "configs"},
)
