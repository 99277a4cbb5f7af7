"""Plays the bench seed by seed: thresholds on the choosing seeds, detection on the others."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from fedunlearn import __version__
from fedunlearn.config import Config
from fedunlearn.errors import BadInput
from fedunlearn.experiment.preparation import DecodedCorpus, decode_corpus, resolve
from fedunlearn.experiment.progress import Progress
from fedunlearn.files import write_atomically
from fedunlearn.report.audit import AuditedServer, AuditRate, AuditSummary, AuditVerifier
from fedunlearn.study.audit_bench.audit_file import AuditFile, Observation, VerifierName
from fedunlearn.study.audit_bench.cheats import CHEATS, Cheat
from fedunlearn.study.audit_bench.trial import forge_trial, observe, play_trial, recompute
from fedunlearn.study.audit_bench.verdicts import (
    MOST_READ,
    VERIFIERS,
    detection_rates,
    least_references,
    set_threshold,
)
from fedunlearn.study.grid import Axes, ConfigLoader, StudyCell, Variant, cells_of
from fedunlearn.unlearning import METHODS

HONEST = "honest"
REQUESTERS = 2
FIRST_CHOOSING = 101
MEASURED: dict[str, Any] = {
    "evaluation.retrained_seeds": 2,
    "evaluation.bootstrap": 100,
    "evaluation.curve_every": 0,
    "federation.engine": "inline",
}
"""settings of every run: two retrained models, and nothing that verifiers do not read"""
WHO: dict[VerifierName, tuple[str, str]] = {
    "requester": (
        "requester",
        "the client whose deletion it is: its receipts, digests of the models that it is sent, and a "
        "comparison of the final model with those around the unlearn step",
    ),
    "requester-who-tests": (
        "requester who tests",
        "the same client, which keeps its speech until it has tested the next model on it",
    ),
    "committee": (
        "committee",
        "all clients together: digests and receipts compared, the final model tested on their own speech",
    ),
    "auditor": (
        "auditor, folder",
        "the run folder alone: ledger, receipts, checkpoints, and the numbers that results.json states",
    ),
    "auditor-with-records": (
        "auditor, records",
        "the run folder, and the digests and copies of receipts that clients kept",
    ),
    "replay": ("replay", "the run computed again from config, seeds and speech, compared with all of that"),
}
"""verifier -> its name in tables, and what it has to go by"""
_OBSERVATIONS = TypeAdapter(tuple[Observation, ...])


@dataclass(frozen=True)
class BenchPlan:
    """What a bench plays.

    Attributes:
        cells: seed by seed, first the choosing seeds.
        choosing: seeds that thresholds are set on.
        seeds: seeds that detection is measured on.
        cheats: servers, the honest one first.
        size: utterances that each requester deletes.
        false_alarms: rate that thresholds are set for.
    """

    cells: tuple[StudyCell, ...]
    choosing: tuple[int, ...]
    seeds: tuple[int, ...]
    cheats: tuple[Cheat, ...]
    size: int
    false_alarms: float

    @property
    def config(self) -> Config:
        """The experiment of the first seed."""
        return self.cells[0].experiment

    def cheats_of(self, cell: StudyCell) -> tuple[Cheat, ...]:
        """List the servers that a seed is played with.

        Args:
            cell: of the seed.
        """
        return self.cheats if cell.seed in self.seeds else self.cheats[:1]


def plan_bench(
    load: ConfigLoader, cheats: str, seeds: Sequence[int], choosing: int, size: int, false_alarms: float
) -> BenchPlan:
    """Plan a bench.

    Args:
        load: overrides -> the experiment with them.
        cheats: names, by commas; "all" = all of them. The controls are always played.
        seeds: that detection is measured on.
        choosing: number of seeds that thresholds are set on.
        size: utterances that each of two requesters deletes.
        false_alarms: rate, in (0, 1).

    Raises:
        BadInput: a cheat is not known, there are too few choosing seeds, or the experiment does not suit.
    """
    problems = []
    names = list(CHEATS) if cheats == "all" else [name.strip() for name in cheats.split(",")]
    known = [name for name, cheat in CHEATS.items() if not cheat.control]
    unknown = [name for name in names if name not in CHEATS]
    if unknown:
        problems.append(f"--cheats {','.join(unknown)}: known are {', '.join(known)}; or write all")
    least = least_references(false_alarms / MOST_READ)
    if choosing < least:
        problems.append(
            f"--choosing {choosing}: thresholds at {false_alarms:g} false alarms need at least {least} seeds"
        )
    config = load(MEASURED)
    if config.unlearning.method not in METHODS:
        problems.append(
            f"unlearning.method = {config.unlearning.method}: is a privileged baseline; choose a method that "
            "sees the forget set alone"
        )
    if not config.recovery.rounds:
        problems.append("recovery.rounds = 0: servers cheat in recovery, too; set it to 1 or more")
    if config.partition.client_count < REQUESTERS + 1:
        problems.append(
            f"partition.clients = {config.partition.client_count}: the bench needs at least {REQUESTERS + 1}"
        )
    if problems:
        raise BadInput(problems)
    choosing_seeds = tuple(range(FIRST_CHOOSING, FIRST_CHOOSING + choosing))
    if both := sorted({*choosing_seeds} & {*seeds}):
        raise BadInput(f"--seeds {both[0]}: thresholds are set on this seed")
    detection = tuple(seeds)
    method = config.unlearning.method
    axes = Axes([Variant(method, method)], [size], [REQUESTERS], [*choosing_seeds, *detection])
    cells = cells_of(lambda more: load({**MEASURED, **more}), axes)
    chosen = tuple(c for name, c in CHEATS.items() if c.control or name in names)
    return BenchPlan(tuple(cells), choosing_seeds, detection, chosen, size, false_alarms)


class AuditBench:
    """Plays the seeds of a bench in a folder; a seed that was played is never played again.

    Args:
        out: the folder.
        tell: called with a line for each run that was played.
    """

    def __init__(self, out: Path, tell: Callable[[str], None] = lambda line: None) -> None:
        self._out, self._tell = out, tell
        self._running = out / "running"
        self._decoded: tuple[str, DecodedCorpus] | None = None
        self._progress = Progress(Console(quiet=True))

    def play(self, plan: BenchPlan) -> AuditFile:
        """Play what has not been played yet, set thresholds, and decide.

        Args:
            plan: of the bench.

        Raises:
            RunFailed: a run could not be completed.
        """
        found = {cell.seed: self._play_seed(cell, plan.cheats_of(cell)) for cell in plan.cells}
        references = tuple(o for seed in plan.choosing for o in found[seed])
        observations = tuple(o for seed in plan.seeds for o in found[seed])
        thresholds = tuple(set_threshold(name, references, plan.false_alarms) for name in VERIFIERS)
        config = plan.config
        return AuditFile(
            corpus=config.corpus.name,
            clients=config.partition.client_count,
            requesters=REQUESTERS,
            size=plan.size,
            method=config.unlearning.method,
            false_alarms=plan.false_alarms,
            choosing=plan.choosing,
            seeds=plan.seeds,
            thresholds=thresholds,
            rates=tuple(detection_rates(thresholds, observations)),
            observations=observations,
            references=references,
        )

    def _play_seed(self, cell: StudyCell, cheats: Sequence[Cheat]) -> tuple[Observation, ...]:
        file = self._out / "seeds" / f"{cell.seed}-{_digest(cell, cheats)}.json"
        try:
            return _OBSERVATIONS.validate_json(file.read_bytes())
        except (FileNotFoundError, ValidationError):
            pass
        shutil.rmtree(self._running, ignore_errors=True)
        try:
            observations = tuple(self._observe(cell, cheats))
        finally:
            shutil.rmtree(self._running, ignore_errors=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, _OBSERVATIONS.dump_json(observations, indent=1))
        return observations

    def _observe(self, cell: StudyCell, cheats: Sequence[Cheat]) -> list[Observation]:
        config = resolve(cell.experiment)
        decoded, cache, folder = self._decode(config), self._running / "references", self._running
        first, *others = cheats
        honest = play_trial(first, config, folder / first.name, cache, decoded, self._progress)
        expected = recompute(honest) if others else None
        found = [observe(first, honest, expected)]
        self._tell(f"seed {cell.seed}: {first.name}")
        server, untouched = first.server, None
        for cheat in others:
            out = folder / cheat.name
            if cheat.server is server:
                trial = forge_trial(cheat, honest, out)
            else:
                trial = play_trial(cheat, config, out, cache, decoded, self._progress, untouched)
                untouched = trial.scene.run.vaults
            found.append(observe(cheat, trial, expected))
            self._tell(f"seed {cell.seed}: {cheat.name}")
        return found

    def _decode(self, config: Config) -> DecodedCorpus:
        """Decode a corpus once; generated speech is another for every seed."""
        seed = config.seed if config.corpus.name == "synthetic" else ""
        key = f"{config.corpus.model_dump_json()}{seed}"
        if self._decoded is None or self._decoded[0] != key:
            self._decoded = key, decode_corpus(config, self._progress)
        return self._decoded[1]


def summary_of(found: AuditFile) -> AuditSummary:
    """Make what tables and the page show.

    Args:
        found: by a bench.
    """
    names = list(dict.fromkeys(rate.cheat for rate in found.rates))
    servers = []
    for name in names:
        cheat = CHEATS[name]
        own = {rate.verifier: rate for rate in found.rates if rate.cheat == name}
        rates = tuple(AuditRate(r.found, r.exact, r.runs, (r.low, r.high)) for r in own.values())
        servers.append(AuditedServer(name, cheat.what, rates, cheat.control, cheat.why_not))
    return AuditSummary(
        tuple(AuditVerifier(*WHO[name]) for name in VERIFIERS),
        tuple(servers),
        (
            found.corpus,
            f"{found.clients} clients, {found.requesters} requesters of {found.size} utterances each",
            f"method {found.method}",
            f"{len(found.seeds)} seeds; thresholds at {found.false_alarms:.0%} false alarms, set on "
            f"{len(found.choosing)} others",
        ),
        found.false_alarms,
    )


def _digest(cell: StudyCell, cheats: Sequence[Cheat]) -> str:
    decides = [__version__, cell.experiment.model_dump(mode="json"), [cheat.name for cheat in cheats]]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
