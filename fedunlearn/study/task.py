"""Which settings of an experiment are a study's task: all that decide results, but method, axes and seed."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from fedunlearn.config import Config
from fedunlearn.dotted import dotted_values
from fedunlearn.study.study_file import SettingValues

NOT_OF_THE_TASK = (
    *("seed", "plugins", "federation", "study", "recovery", "deletions.schedule", "deletions.window"),
    *("corpus.path", "corpus.leave_out", "corpus.skip_bad", "partition.fold"),
    *("unlearning.method", "unlearning.options", "unlearning.aggregation"),
    *("model.encoder.device", "model.encoder.gpu_share", "model.encoder.seconds_at_once"),
    *("evaluation.curve_every", "evaluation.bootstrap", "evaluation.relearn_steps", "evaluation.search"),
    "evaluation.shadow_workers",
)
"""Sections and keys that are axes or the method's, that digests of the speech stand for, or that change no
measure in study.json. So are the sections of methods below ``unlearning``."""


def task_settings(config: Mapping[str, Any]) -> SettingValues:
    """Select the settings that are a study's task.

    Args:
        config: of a run, as plain data.

    Returns:
        dotted keys and values; no value is a path or names a recording or a speaker.
    """
    found = dotted_values({key: value for key, value in config.items() if key != "plugins"})
    return shareable(dict(sorted((key, value) for key, value in found if not _left_out(key))))


@cache
def default_settings() -> SettingValues:
    """Return the task settings of the default experiment, which a study of an older version may lack."""
    return task_settings(Config().model_dump(mode="json"))


def shareable(settings: Mapping[str, Any]) -> SettingValues:
    """Write settings so that they can be given to others: of a path only the last part is left.

    Args:
        settings: dotted keys and values.
    """
    return {key: _without_folders(value) for key, value in settings.items()}


def setting_differences(one: SettingValues, other: SettingValues) -> Iterator[str]:
    """List the keys whose values differ; a key that one side lacks has the default there.

    Args:
        one: as ``task_settings``.
        other: as ``task_settings``.
    """
    defaults = default_settings()
    for key in sorted(one.keys() | other.keys()):
        if one.get(key, defaults.get(key)) != other.get(key, defaults.get(key)):
            yield key


def _left_out(key: str) -> bool:
    section, _, rest = key.partition(".")
    if section == "unlearning" and "." in rest:
        return not rest.startswith("aggregation_options.")
    return any(key == name or key.startswith(f"{name}.") for name in NOT_OF_THE_TASK)


def _without_folders(value: Any) -> bool | int | float | str | None:
    if isinstance(value, list | tuple | Mapping):
        return re.sub(r"[\\/]", "", json.dumps(_parts_without_folders(value), ensure_ascii=False))
    if isinstance(value, str):
        return value.replace("\\", "/").rstrip("/").rpartition("/")[2]
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def _parts_without_folders(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _parts_without_folders(part) for key, part in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_parts_without_folders(part) for part in value]
    return _without_folders(value)
