"""A run and its shadow federations, and the same once more from what they have learned, told the truth."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from fedunlearn.config import Config
from fedunlearn.engines.engine import play as play_run
from fedunlearn.errors import RunFailed
from fedunlearn.evaluation.collateral import LogOddsVector
from fedunlearn.evaluation.gap import gap
from fedunlearn.evaluation.lira import confidence
from fedunlearn.experiment.analyses import run_attacks
from fedunlearn.experiment.experiment import Experiment
from fedunlearn.experiment.learned_shadows import LearnedShadows
from fedunlearn.experiment.preparation import prepare
from fedunlearn.experiment.process_pool import make_all
from fedunlearn.experiment.progress import Progress
from fedunlearn.experiment.reference_cache import LEARNED_FOLDER
from fedunlearn.experiment.replay import STAGES
from fedunlearn.experiment.replayed_clients import ReplayData
from fedunlearn.experiment.shadows import (
    Arrays,
    Shadows,
    ShadowTask,
    contents_of,
    play,
    replay_data,
    run_task,
    shadow_federations,
    shadow_tasks,
)
from fedunlearn.experiment.timeline import Timeline, build_timeline
from fedunlearn.training import TrainingDiverged
from oracle_targets.measures import OracleMeasures, OracleRow, spread_over_models
from oracle_targets.truth import Oracle, TargetsFrom, Truth, targets_from, truth_of

_ORACLES: tuple[TargetsFrom, ...] = ("mean", "drawn")


@dataclass(frozen=True)
class PlayedRun:
    """A run that is over, its shadow federations, and the truth that they show.

    Attributes:
        experiment: the run.
        references: its reference cache.
        timeline: what it did.
        shadows: of the run, with its own method.
        truth: of the candidates.
    """

    experiment: Experiment
    references: Path
    timeline: Timeline
    shadows: Shadows
    truth: Truth

    @property
    def data(self) -> ReplayData:
        """What replays of the run are made of."""
        run = self.experiment
        return replay_data(run.config, run.judge, run.partition, self.timeline)


@dataclass(frozen=True)
class ToldFederations:
    """What all federations that are told the truth share, as plain data for other processes.

    Attributes:
        data: of the run.
        truth: of the candidates.
        how: how targets are made of it.
    """

    data: ReplayData
    truth: Truth
    how: TargetsFrom

    def targets(self, federation: int) -> LogOddsVector:
        """Make the targets of one federation: log-odds [K], nats.

        Args:
            federation: its number.
        """
        return targets_from(self.truth, self.how, self.data.config.seed, federation)


def play_told(told: ToldFederations, task: ShadowTask) -> Arrays:
    """Play one federation whose requesters train towards targets made of the truth.

    Args:
        told: what all share.
        task: which federation.

    Returns:
        as ``fedunlearn.experiment.shadows.play``
    """
    named = zip(told.data.timeline.candidates, told.targets(task.number).tolist(), strict=True)
    return play(replace(told.data, method_instead=Oracle(dict(named)).method_for), task)


def play_with_shadows(
    config: Config, out: Path, count: int, advance: Callable[[], None] = lambda: None
) -> PlayedRun:
    """Play a run and its shadow federations, or find what of them has been played.

    Args:
        config: of the run; its own shadow federations are switched off.
        out: folder of the run, which has the method's name there, and of the references.
        count: shadow federations, S.
        advance: called once for each.

    Raises:
        BadInput: the experiment cannot be run as it is set.
        RunFailed: the run failed, nothing was unlearned, or the truth of an utterance is unknown.
    """
    place, references = out / config.unlearning.method, out / "references"
    experiment = prepare(config, place, references, Progress(Console(quiet=True)), resume=place.exists())
    play_run(experiment)
    rows, deletions = experiment.record.log.rows, experiment.recorder.read_deletions()
    partition, judge = experiment.partition, experiment.judge
    timeline = build_timeline(experiment.state, rows, deletions, partition, experiment.config)
    shadows = shadow_federations(
        experiment.config,
        judge,
        partition,
        timeline,
        _states(experiment),
        references,
        count,
        experiment.config.evaluation.shadow_workers,
        advance,
    )
    if shadows.why:
        raise RunFailed(f"no shadow federations: {shadows.why}")
    truth = truth_of(confidence(shadows.logits["original"], shadows.labels), shadows.inside)
    return PlayedRun(experiment, references, timeline, shadows, truth)


def tell(
    run: PlayedRun, how: TargetsFrom, advance: Callable[[], None] = lambda: None
) -> tuple[Shadows, Mapping[str, Tensor]]:
    """Let the run and its shadows unlearn once more, from what they have learned, towards the truth.

    Args:
        run: with its shadows.
        how: how targets are made of the truth.
        advance: called once for each shadow.

    Returns:
        the shadows, and the recovered weights of the run itself

    Raises:
        RunFailed: a training diverged, or a process died.
    """
    data, config = run.data, run.experiment.config
    candidates, count = run.timeline.candidates, len(run.shadows.inside)
    contents = contents_of(run.experiment.judge, run.experiment.partition)
    learned = LearnedShadows(run.references / LEARNED_FOLDER, config, run.timeline, contents)
    own = run_task(config, candidates)
    tasks = [own, *shadow_tasks(config, candidates, learned, count)]
    told, found = ToldFederations(data, run.truth, how), dict[int, Arrays]()
    try:
        with closing(
            make_all(play_told, told, tasks, config.evaluation.shadow_workers, lambda: None)
        ) as finished:
            for task, made in finished:
                found[task.number] = made
                if task is not own:
                    advance()
    except TrainingDiverged as error:
        raise RunFailed(f"a federation that was told the truth: {error}") from error
    recovered = {
        name.removeprefix("recovered/"): torch.from_numpy(value)
        for name, value in found[own.number].items()
        if name.startswith("recovered/")
    }
    shadows = replace(
        run.shadows,
        logits={stage: np.stack([found[n][stage] for n in range(count)]) for stage in STAGES},
        targets=np.stack([found[n]["targets"] for n in range(count)]),
    )
    return shadows, recovered


def oracle_rows(run: PlayedRun, advance: Callable[[], None] = lambda: None) -> list[OracleRow]:
    """Measure the oracles in the federations of a run.

    Args:
        run: with its shadows.
        advance: called once for each shadow of each oracle.

    Returns:
        one row for each oracle
    """
    rows = []
    for how in _ORACLES:
        shadows, recovered = tell(run, how, advance)
        rows.append(OracleRow(f"oracle, {how}", True, _measure(run, shadows, recovered)))
    return rows


def own_row(run: PlayedRun) -> OracleRow:
    """Measure the method that a run has unlearned with.

    Args:
        run: with its shadows.
    """
    recovered = _states(run.experiment)["recovered"]
    return OracleRow(run.experiment.config.unlearning.method, False, _measure(run, run.shadows, recovered))


def _measure(run: PlayedRun, shadows: Shadows, recovered: Mapping[str, Tensor]) -> OracleMeasures:
    experiment, judge = run.experiment, run.experiment.judge
    attacks = run_attacks(shadows, {r.id: r.client for r in run.timeline.requests}, experiment.config)
    forget = experiment.forget_set(experiment.recorder.read_deletions())
    references = [judge.measure(judge.view(r.state), forget) for r in experiment.record.retrained]
    phi = confidence(shadows.logits["recovered"], shadows.labels)
    return OracleMeasures(
        attack=attacks.ulira.stages.recovered,
        gap=gap(judge.measure(judge.view(recovered), forget), references).mean,
        shift=attacks.collateral.unlearned,
        shift_recovered=attacks.collateral.recovered,
        following=attacks.following.recovered,
        spread=spread_over_models(phi, shadows.inside),
        spread_never_heard=spread_over_models(phi, ~shadows.inside),
    )


def _states(experiment: Experiment) -> dict[str, Mapping[str, Tensor]]:
    record, model = experiment.record, experiment.state.model
    if record.original is None or model is None:
        raise RunFailed("the run has no models")
    unlearned = model.weights if record.unlearned is None else record.unlearned
    return {"original": record.original, "unlearned": unlearned, "recovered": model.weights}
