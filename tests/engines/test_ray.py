"""Ray: the same bits as in process, whatever the workers, even when one dies."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from small_run import run_small, small_config, weights_of, without_times

from fedunlearn.client import steps as local_work


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ray_agrees_with_one_process_bit_for_bit(
    inline_run: tuple[Path, dict[str, Any]], tmp_path: Path, workers: int
) -> None:
    config = small_config(federation__engine="ray", federation__workers=workers)
    results = run_small(tmp_path / "run", config)
    assert weights_of(tmp_path / "run") == weights_of(inline_run[0])
    assert without_times(results) == without_times(inline_run[1])


@pytest.mark.slow
def test_so_does_flowers_own_simulation(inline_run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """With weights in plain records, as in a deployment: the apps are nothing but Flower apps."""
    results = run_small(tmp_path / "run", small_config(federation__engine="flower", federation__workers=2))
    assert weights_of(tmp_path / "run") == weights_of(inline_run[0])
    assert without_times(results) == without_times(inline_run[1])


@pytest.mark.slow
def test_a_privileged_baseline_agrees_too(tmp_path: Path) -> None:
    """SCRUB: requesters and all clients in turn, a teacher beside the weights, speech that is left out."""
    both = {}
    for engine in ("inline", "ray"):
        config = small_config(
            federation__engine=engine, unlearning__method="scrub", unlearning__scrub__forget__max_steps=20
        )
        both[engine] = without_times(run_small(tmp_path / engine, config))
    assert both["ray"] == both["inline"]
    assert weights_of(tmp_path / "ray") == weights_of(tmp_path / "inline")


@pytest.mark.slow
def test_projections_noise_and_attackers_agree_too(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "unlearning__aggregation": "projected",
        "recovery__reversion": "removed",
        "privacy__clip": 0.5,
        "privacy__noise": 0.01,
        "attackers__clients": (3,),
        "attackers__kind": "random",
    }
    for engine in ("inline", "ray"):
        run_small(
            tmp_path / engine, small_config(**settings, federation__engine=engine, federation__workers=2)
        )
    assert weights_of(tmp_path / "ray") == weights_of(tmp_path / "inline")


class KillOnce:
    """A Flower mod that kills the worker process in the middle of one client's local training, once."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
        mine = message.metadata.message_type == "train" and context.node_config["partition-id"] == 3
        if mine and message.content.config_records["settings"]["round"] == 2 and not self.flag.exists():
            self.flag.touch()
            local_work.train = lambda *_, **__: os._exit(1)  # type: ignore[assignment]
        return call_next(message, context)


def test_a_killed_worker_is_started_again_and_nothing_is_lost(
    inline_run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """The message whose worker died is done again and counted; the outcome is that of an unharmed run in one
    process, bit for bit.
    """
    flag = tmp_path / "killed"
    config = small_config(federation__engine="ray", federation__workers=2)
    results = run_small(tmp_path / "run", config, [KillOnce(flag)])
    assert flag.exists()
    assert results["status"] == "complete"
    assert [(f["round"], f["client"]) for f in results["faults"]] == [(2, 3)]
    assert "died" in results["faults"][0]["reason"]
    for part in ("models", "gap", "attacks", "rehearsals", "retrained_timeline"):
        assert json.dumps(results[part]) == json.dumps(inline_run[1][part]), part
    assert weights_of(tmp_path / "run") == weights_of(inline_run[0])
