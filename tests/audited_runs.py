"""Trials of the audit bench, small enough for tests: six devices, two requesters of four utterances."""

from pathlib import Path

from rich.console import Console
from small_run import decoded_once, small_config

from fedunlearn.config import Config
from fedunlearn.experiment.progress import Progress
from fedunlearn.study.audit_bench.audit_file import Observation
from fedunlearn.study.audit_bench.cheats import CHEATS
from fedunlearn.study.audit_bench.trial import (
    AuditTrial,
    Recomputed,
    forge_trial,
    observe,
    play_trial,
    recompute,
)

FIRST, SECOND = 1, 3
"""the requesters; the second is the victim"""


def audited_config() -> Config:
    return small_config(
        deletions__schedule=[
            {"client": client, "what": "some", "count": 4, "after_learning": 0} for client in (FIRST, SECOND)
        ],
        recovery__rounds=2,
        evaluation__retrained_seeds=2,
        evaluation__search=False,
        evaluation__relearn_steps=0,
        federation__checkpoint_every=0,
    )


class AuditedRuns:
    """The trials of one small federation, each played when a test first asks for it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._trials = folder, dict[str, AuditTrial]()
        self.honest = self.trial("honest")
        self.recomputed: Recomputed = recompute(self.honest)

    def trial(self, name: str) -> AuditTrial:
        if name not in self._trials:
            cheat, out = CHEATS[name], self._folder / name
            if name != "honest" and cheat.server is CHEATS["honest"].server:
                self._trials[name] = forge_trial(cheat, self.honest, out)
            else:
                config = audited_config()
                decoded = decoded_once(config)
                assert decoded is not None
                progress = Progress(Console(quiet=True))
                references = self._folder / "references"
                self._trials[name] = play_trial(cheat, config, out, references, decoded, progress)
        return self._trials[name]

    def seen(self, name: str) -> Observation:
        return observe(CHEATS[name], self.trial(name), self.recomputed)
