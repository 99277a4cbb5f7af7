"""Shadow federations: what the run did, done again without a random half of what was to be unlearned.

Each is trained from scratch on everything but the candidates that are outside, then unlearns those inside as
the run did: same method, aggregation, server scalars, joint steps and recovery. From the logits of all
candidates in many of them, attacks learn how an utterance looks that was trained on and unlearned, and how
one that was never there (U-LiRA: Hayes et al. 2024, arXiv 2403.01218).

A fair coin for each candidate and shadow says who is inside. Halves of exactly one size would bias the
attack: where each shadow is attacked with what the others say, who is inside it follows from their count
(without any signal, 16 shadows in complementary pairs give an AUC of .48, coins .50).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel
from torch import Tensor

from fedunlearn import __version__
from fedunlearn.checkpoints import BadCheckpoint, load_checkpoint, save_checkpoint
from fedunlearn.config import Config
from fedunlearn.config.unlearning import section_of
from fedunlearn.errors import Interrupted, RunFailed
from fedunlearn.evaluation.judge import Judge
from fedunlearn.experiment.learned_shadows import LearnedShadows, find_or_learn
from fedunlearn.experiment.process_pool import make_all
from fedunlearn.experiment.reference_cache import LEARNED_FOLDER
from fedunlearn.experiment.replay import STAGES, Replay
from fedunlearn.experiment.replayed_clients import ReplayData
from fedunlearn.experiment.timeline import Timeline
from fedunlearn.partition import Partition
from fedunlearn.results_schema import ReplayCheck
from fedunlearn.seeding import rng_for, stream_key
from fedunlearn.training import TrainingDiverged, predict
from fedunlearn.unlearning import METHODS

_FORMAT = 4
_REPLAY = -1
_TARGETS = "targets"

Arrays = dict[str, npt.NDArray[np.float32]]
States = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Shadows:
    """What the attacks are made of.

    Attributes:
        candidates: the K utterances of all unlearn steps, sorted.
        labels: [K].
        request: [K] places in
        requests: ids of the requests that name the candidates, in the order of asking.
        inside: [S, K] which were trained on and unlearned in which shadow; about half.
        logits: "original" (before any unlearn step), "unlearned" (after the last), "recovered" -> [S, K, C].
        targets: [S, K] log-odds towards which the requesters trained the candidates; NaN outside a shadow,
            and of methods without such targets.
        replay: exact: whether the same loop, with the run's seed and nothing outside, gave the run's weights
            bit for bit; difference: largest |weight difference|; stages: the same for each; departures: what
            the run met that the loop leaves out.
        why: one line, why there are none; empty = there are.
    """

    candidates: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    request: npt.NDArray[np.int64]
    requests: tuple[str, ...]
    inside: npt.NDArray[np.bool_]
    logits: Mapping[str, npt.NDArray[np.float32]]
    targets: npt.NDArray[np.float32]
    replay: ReplayCheck | None
    why: str = ""


@dataclass(frozen=True)
class ShadowTask:
    """One federation to be played: of a shadow, or (``_REPLAY``) the run's own.

    Attributes:
        number: of the shadow.
        stream: seed of its randomness.
        inside: [K] candidates that it is trained on.
        learned: file of what it has learned before its first unlearn step; None = not to be kept.
    """

    number: int
    stream: int
    inside: npt.NDArray[np.bool_]
    learned: Path | None = None


def shadow_federations(
    config: Config,
    judge: Judge,
    partition: Partition,
    timeline: Timeline,
    states: States,
    folder: Path,
    shadows: int,
    workers: int = 0,
    advance: Callable[[], None] = lambda: None,
    stop: Event | None = None,
) -> Shadows:
    """Train shadow federations, or find them in the cache, and replay the run itself.

    Args:
        config: the experiment.
        judge: who has all features.
        partition: of the run.
        timeline: ``build_timeline`` the run.
        states: the run's own "original", "unlearned" and "recovered", for the replay.
        folder: of the reference cache; shadows are kept in its folder "shadows", each when it is finished,
            and in ``LEARNED_FOLDER`` what each has learned, for runs that unlearn in another way.
        shadows: how many, S >= 0.
        workers: processes, 0 = one a core; the result does not depend on them.
        advance: called once for each shadow, found or finished.
        stop: set from outside to end all.

    Raises:
        RunFailed: a training diverged, a process died; Interrupted where ``stop`` was set.
    """
    candidates = timeline.candidates
    requests = tuple(dict.fromkeys(r.id for r in timeline.requests if r.applied is not None))
    where = {request: number for number, request in enumerate(requests)}
    request = np.array([where[timeline.request_of[u]] for u in candidates], np.int64)
    labels = judge.examples(candidates).labels.numpy()
    inside = halves(config.seed, shadows, len(candidates))
    unknown = np.full(inside.shape, np.nan, np.float32)
    why = timeline.why or ("" if shadows else "none were requested")
    if why:
        return Shadows(candidates, labels, request, requests, inside, {}, unknown, None, why)
    contents = contents_of(judge, partition)
    cache = ShadowCache(folder / "shadows", config, timeline, contents, judge.classes)
    learned = LearnedShadows(folder / LEARNED_FOLDER, config, timeline, contents)
    found: dict[int, Arrays] = {}
    tasks = [run_task(config, candidates)]
    for task in shadow_tasks(config, candidates, learned, shadows):
        known = cache.find(task)
        if known is None:
            tasks.append(task)
        else:
            found[task.number] = known
            advance()
    replay: ReplayCheck | None = None
    alive = partial(_check, stop)
    data = replay_data(config, judge, partition, timeline)
    try:
        with closing(make_all(play, data, tasks, workers, alive)) as finished:
            for task, made in finished:
                if task.number == _REPLAY:
                    replay = _compare(made, states, timeline)
                    continue
                cache.keep(task, made)
                found[task.number] = made
                advance()
    except TrainingDiverged as error:
        raise RunFailed(f"a shadow federation: {error}") from error
    logits = {stage: np.stack([found[n][stage] for n in range(shadows)]) for stage in STAGES}
    targets = np.stack([found[n][_TARGETS] for n in range(shadows)])
    return Shadows(candidates, labels, request, requests, inside, logits, targets, replay)


def run_task(config: Config, candidates: Sequence[str]) -> ShadowTask:
    """Return the task of the run's own federation, which hears all candidates.

    Args:
        config: the experiment.
        candidates: of the run.
    """
    return ShadowTask(_REPLAY, config.seed, np.ones(len(candidates), bool))


def shadow_tasks(
    config: Config, candidates: Sequence[str], learned: LearnedShadows, shadows: int
) -> list[ShadowTask]:
    """Return the tasks of a run's shadows.

    Args:
        config: the experiment.
        candidates: of the run, sorted.
        learned: where what they have learned is kept.
        shadows: S.
    """
    tasks = []
    for number, inside in enumerate(halves(config.seed, shadows, len(candidates))):
        stream = stream_key(config.seed, "shadow", number) % 2**31
        outside = [u for u, there in zip(candidates, inside, strict=True) if not there]
        tasks.append(ShadowTask(number, stream, inside, learned.file(stream, outside)))
    return tasks


def halves(seed: int, shadows: int, candidates: int) -> npt.NDArray[np.bool_]:
    """Draw which candidates are inside, a fair coin for each.

    Args:
        seed: of the experiment.
        shadows: S.
        candidates: K.

    Returns:
        [S, K]; shadow s has the same ones however many shadows there are
    """
    drawn = [rng_for(seed, "shadow", s, "inside").random(candidates) < 0.5 for s in range(shadows)]
    return np.array(drawn, bool).reshape(shadows, candidates)


def play(data: ReplayData, task: ShadowTask) -> Arrays:
    """Play one federation.

    Args:
        data: of the run.
        task: which federation.

    Returns:
        the candidates' logits [K, C] at each stage, and their targets [K]; of the replay the weights

    Raises:
        TrainingDiverged: a loss is not finite.
    """
    candidates = data.timeline.candidates
    outside = [u for u, there in zip(candidates, task.inside, strict=True) if not there]
    federation = Replay(data, task.stream, outside)
    learned = (
        federation.learn()
        if task.learned is None
        else find_or_learn(task.learned, data.config, federation.learn)
    )
    stages = federation.finish(learned)
    if task.number == _REPLAY:
        return {f"{stage}/{k}": v.numpy() for stage, state in stages.items() for k, v in state.items()}
    logits = {}
    for stage, state in stages.items():
        federation.model.load_state_dict(state)
        logits[stage] = predict(federation.model, federation.clients.examples(candidates)).numpy()
    targets = federation.clients.targets
    return {**logits, _TARGETS: np.array([targets.get(u, np.nan) for u in candidates], np.float32)}


class ShadowCache:
    """Finished shadows in a folder: logits and who was inside, no audio, no features, no weights.

    Args:
        folder: theirs; made when the first is kept.
        config: the experiment.
        timeline: of the run.
        classes: emotions.
        contents: digests of what is trained on and held out, client by client, and each id's number.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        timeline: Timeline,
        contents: tuple[list[str], Mapping[str, int]],
        classes: int,
    ) -> None:
        self._folder, self._shape = folder, (len(timeline.candidates), classes)
        digests, place = contents
        unlearning = config.unlearning
        settings = getattr(unlearning, section_of(unlearning.method), None) or unlearning.options
        joint = unlearning.aggregation_options
        parts = ("model", "training", "privacy", "guard", "attackers", "recovery")
        self._decides = {
            "format": _FORMAT,
            "version": __version__,
            "torch": torch.__version__,
            "seed": config.seed,
            **{part: getattr(config, part).model_dump(mode="json") for part in parts},
            "unlearning": [unlearning.method, unlearning.aggregation, unlearning.clip],
            "method": _as_json(settings),
            **({"plugins": config.plugins, "joint": _as_json(joint)} if config.plugins else {}),
            "contents": digests,
            "timeline": timeline.as_dict(place),
            "candidates": [place[u] for u in timeline.candidates],
        }

    def find(self, task: ShadowTask) -> Arrays | None:
        """Find a finished shadow; None if there is none, or its file was damaged.

        Args:
            task: of the shadow.
        """
        try:
            tensors, _ = load_checkpoint(self._file(task))
        except BadCheckpoint:
            return None
        if not {*STAGES, _TARGETS, "inside"} <= tensors.keys():
            return None
        made = {name: tensors[name].numpy() for name in (*STAGES, _TARGETS)}
        same = np.array_equal(tensors["inside"].numpy().astype(bool), task.inside)
        shapes = {made[stage].shape for stage in STAGES} == {self._shape}
        return made if same and shapes and made[_TARGETS].shape == self._shape[:1] else None

    def keep(self, task: ShadowTask, made: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Store a finished shadow.

        Args:
            task: of the shadow.
            made: as ``play`` returns it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: torch.from_numpy(made[name]) for name in (*STAGES, _TARGETS)}
        tensors["inside"] = torch.from_numpy(task.inside.astype(np.uint8))
        save_checkpoint(self._file(task), tensors, {"shadow": task.number})

    def _file(self, task: ShadowTask) -> Path:
        decides = {**self._decides, "stream": task.stream, "inside": task.inside.tolist()}
        key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
        return self._folder / f"{key}.safetensors"


def _as_json(settings: BaseModel | None) -> dict[str, Any] | None:
    return None if settings is None else settings.model_dump(mode="json")


def _check(stop: Event | None) -> None:
    if stop is not None and stop.is_set():
        raise Interrupted("the run was interrupted")


def _ids(partition: Partition) -> list[tuple[str, ...]]:
    """What each client trains on, followed by what each holds out."""
    splits = [[share.train for share in partition.clients], [share.test for share in partition.clients]]
    return [tuple(u.id for u in utterances) for split in splits for utterances in split]


def contents_of(judge: Judge, partition: Partition) -> tuple[list[str], Mapping[str, int]]:
    """List what the clients of a federation hold.

    Args:
        judge: who knows all speech.
        partition: of the run.

    Returns:
        (digests of what is trained on and held out, client by client; each id's number)
    """
    ids = _ids(partition)
    return [judge.content_of(of) for of in ids], {u: n for n, u in enumerate(u for of in ids for u in of)}


def replay_data(config: Config, judge: Judge, partition: Partition, timeline: Timeline) -> ReplayData:
    """Collect what replays of a run are made of.

    Args:
        config: the experiment.
        judge: who has all features.
        partition: of the run.
        timeline: ``build_timeline`` the run.
    """
    ids, clients = _ids(partition), len(partition.clients)
    everything = [u for of in ids for u in of]
    examples = judge.examples(everything)
    audio = {}
    card = METHODS.get(config.unlearning.method)
    if card is not None and card.needs_waveform(config.unlearning):
        wanted = {u.id for u in partition.train} if config.guard.rehearses else set(timeline.candidates)
        audio = {u.id: u.pcm() for u in partition.train if u.id in wanted}
    return ReplayData(
        config,
        timeline,
        judge.classes,
        tuple(ids[:clients]),
        tuple(ids[clients:]),
        {u: n for n, u in enumerate(everything)},
        examples.features.numpy(),
        examples.frames.numpy(),
        examples.labels.numpy(),
        audio,
    )


def _compare(made: Arrays, states: States, timeline: Timeline) -> ReplayCheck:
    stages = dict[str, float]()
    for stage in STAGES:
        far = [np.abs(made[f"{stage}/{k}"].astype(float) - v.numpy()).max() for k, v in states[stage].items()]
        stages[stage] = float(max(far))
    largest = max(stages.values())
    return ReplayCheck(
        exact=largest == 0.0,
        difference=largest,
        stages={**stages},
        departures=list(timeline.departures),
    )
