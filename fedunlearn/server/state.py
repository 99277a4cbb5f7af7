"""Where a run stands: all that a run which is taken up again needs, as plain data and tensors.

The server works on one ``Standing`` and changes nothing else that lasts. It is written down whole between
two steps (``checkpoints``), so a run that was killed goes on from there and ends as if nothing had been.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedunlearn.blockwise import StateDict
from fedunlearn.config import Config
from fedunlearn.evaluation.judge import Predictions
from fedunlearn.experiment.reference_cache import Learned
from fedunlearn.messages.update import Update
from fedunlearn.server.aggregation import ServerOptimizer
from fedunlearn.server.clients import Fault
from fedunlearn.server.cost import PhaseCost
from fedunlearn.server.history import History
from fedunlearn.server.requests import RequestKey, TrackedRequest

Contents = tuple[tuple[int, ...], tuple[int, ...]]
"""the training and the held-out utterances that a request names, as indexes into the corpus"""

COSTED = ("learn", "listen", "unlearn", "recover", "retrain", "counterfactual")
"""what costs are booked under; "counterfactual" trains the original on when somebody asks during learning"""


class ServerStep(StrEnum):
    """What comes next at a date: hear who wants what, serve it, remove it for good, then a round."""

    LISTEN = "listen"
    SERVE = "serve"
    PURGE = "purge"
    ROUND = "round"
    OVER = "over"


@dataclass
class GlobalModel:
    """The shared model in the middle of learning, with the server optimiser's memory."""

    weights: StateDict
    optimizer: ServerOptimizer
    ordinary_rounds: int = 0


@dataclass
class Log:
    """Rows of one stretch of rounds, and what the judge saw in each."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    curve: list[Predictions | None] = field(default_factory=list)

    def learned(self, state: StateDict, cost: PhaseCost, history: History | None = None) -> Learned:
        """As a reference is kept."""
        curve = {r["round"]: p for r, p in zip(self.rows, self.curve, strict=True) if p is not None}
        return Learned(state, self.rows, curve, cost.as_dict(), history)

    @classmethod
    def of(cls, learned: Learned) -> "Log":
        """The rows of a kept reference."""
        return cls([dict(r) for r in learned.rows], [learned.curve.get(r["round"]) for r in learned.rows])


_PLAIN = (
    "rounds_done",
    "timeline_round",
    "finished",
    "recovery_rounds_left",
    "idle_rounds",
    "waited",
    "metrics",
    "origins",
    "keys",
    "guarded",
)
_NUMBERED = ("last_report", "trained", "examples", "held_out", "rounds_done_at")


@dataclass
class Training:
    """A training beside the run's main line: of the original, had nobody asked, or of a retrained model.

    Attributes:
        name: "counterfactual" or "retrained-<number>".
        model: as far as it has come.
        log: its rounds.
        faults: how many there were when it began.
    """

    name: str
    model: GlobalModel
    log: Log
    faults: int


@dataclass
class Reply:
    """An unlearn reply on its way.

    Attributes:
        due: the date at which it reaches the server; it counts if the leases of its requests still run.
        requests: which, and the attempt that it answers.
    """

    due: int
    update: Update
    requests: tuple[tuple[RequestKey, int], ...]
    outcome: dict[str, Any]


@dataclass(frozen=True)
class StateSnapshot:
    """What listening and waiting change of a standing, as it was; ``faults``, ``requests``: how many."""

    rounds_done: int
    timeline_round: int
    rounds_done_at: Mapping[int, int]
    last_report: Mapping[int, int]
    examples: Mapping[int, int]
    silent_clients: frozenset[int]
    listening: PhaseCost
    faults: int
    requests: int


@dataclass
class Standing:
    """Where a run stands.

    Attributes:
        model: None before the first round.
        history: of the main line.
        rounds_done: rounds done, ordinary and after learning; what schedules count in.
        timeline_round: of the timeline; recovery in the middle of learning moves it and not the date.
        step: what comes next at this date. dates: round of the timeline -> the date it was played at.
        finished: whether it is over and results have been made of it.
        owed: recovery rounds due. idle: listenings so far after the last planned one.
        waited: rounds so far, after the last planned one, for what clients say (windows, other devices).
        requests: by id and client. unheard: clients that have not answered since everything that is planned
            has been raised: nobody knows what they want.
        heard: client -> the date of its last answer to a listening or a purge. What it has recorded since
            then the server does not know of, and does not ask it to train on.
        trained: client -> the date up to which its recordings have been trained on, in the main line.
        examples, held_out: client -> utterances it trains on and holds out, as far as the server knows.
        under_way: unlearn replies that take their time.
        unlearn_steps: what each moved the global model by; read where reversion is removed.
        guarded: what the guard did.
        original, unlearned: weights, once there are any.
        blur: noise along the requesters' updates, which the run folder's copy of the original gets.
        retrained: what was trained from scratch without the forgotten, seed by seed.
        log: of the main line.
        beside: the training under way beside it.
        origins, keys: of each reference, "cached" or "trained", and its key in the cache.
        metrics: lines of metrics.jsonl.
        contents: what each request names: the experimenter's, for when the devices' books are closed.
    """

    history: History
    model: GlobalModel | None = None
    rounds_done: int = 0
    timeline_round: int = 0
    step: ServerStep = ServerStep.LISTEN
    finished: bool = False
    rounds_done_at: dict[int, int] = field(default_factory=dict)
    recovery_rounds_left: int = 0
    idle_rounds: int = 0
    waited: int = 0
    requests: dict[RequestKey, TrackedRequest] = field(default_factory=dict)
    silent_clients: set[int] = field(default_factory=set)
    last_report: dict[int, int] = field(default_factory=dict)
    trained: dict[int, int] = field(default_factory=dict)
    examples: dict[int, int] = field(default_factory=dict)
    held_out: dict[int, int] = field(default_factory=dict)
    late_replies: list[Reply] = field(default_factory=list)
    unlearn_steps: list[StateDict] = field(default_factory=list)
    guarded: list[dict[str, Any]] = field(default_factory=list)
    costs: dict[str, PhaseCost] = field(default_factory=lambda: {name: PhaseCost() for name in COSTED})
    faults: list[Fault] = field(default_factory=list)
    original: StateDict | None = None
    unlearned: StateDict | None = None
    blur: StateDict | None = None
    retrained: list[Learned] = field(default_factory=list)
    log: Log = field(default_factory=Log)
    beside: Training | None = None
    origins: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    metrics: int = 0
    contents: dict[RequestKey, Contents] = field(default_factory=dict)

    def next_round(self) -> None:
        """The timeline goes on by one round, at this date."""
        self.timeline_round += 1
        self.rounds_done_at[self.timeline_round] = self.rounds_done

    def snapshot(self) -> StateSnapshot:
        """To come back to, if nobody asks for anything."""
        return StateSnapshot(
            self.rounds_done,
            self.timeline_round,
            dict(self.rounds_done_at),
            dict(self.last_report),
            dict(self.examples),
            frozenset(self.silent_clients),
            copy.deepcopy(self.costs["listen"]),
            len(self.faults),
            len(self.requests),
        )

    def restore(self, snapshot: StateSnapshot) -> None:
        """As if nobody had been listened to since."""
        self.rounds_done, self.timeline_round, self.silent_clients = (
            snapshot.rounds_done,
            snapshot.timeline_round,
            set(snapshot.silent_clients),
        )
        self.costs["listen"] = snapshot.listening
        for numbers, then in (
            (self.rounds_done_at, snapshot.rounds_done_at),
            (self.last_report, snapshot.last_report),
            (self.examples, snapshot.examples),
        ):
            numbers.clear()
            numbers.update(then)
        del self.faults[snapshot.faults :]

    @property
    def open(self) -> list[TrackedRequest]:
        """Requests that the server still has something to do for."""
        return [r for r in self.requests.values() if r.unfinished]

    def as_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, plain data) from which ``from_checkpoint`` makes it again."""
        tensors: dict[str, Tensor] = {}
        about = {name: getattr(self, name) for name in _PLAIN}
        about |= {name: _pairs(getattr(self, name)) for name in _NUMBERED}
        about |= {
            "step": str(self.step),
            "requests": [r.as_dict() for r in self.requests.values()],
            "silent_clients": sorted(self.silent_clients),
            "costs": {name: cost.as_dict() for name, cost in self.costs.items()},
            "faults": [vars(f) for f in self.faults],
            "log": _put_log(tensors, "log", self.log),
            "model": _put_model(tensors, "model", self.model),
            "history": list(self.history.trained) if self.history.initial else None,
            "states": {},
            "late_replies": [],
            "beside": None,
            "retrained": [],
            "contents": [[*key, *map(list, named)] for key, named in self.contents.items()],
        }
        if self.history.initial:
            _put(tensors, "history", self.history.as_tensors())
            about["order"] = list(self.history.initial)
        for name in ("original", "unlearned", "blur"):
            if (state := getattr(self, name)) is not None:
                about["states"][name] = _put(tensors, name, state)
        about["steps"] = [_put(tensors, f"step.{n}", s) for n, s in enumerate(self.unlearn_steps)]
        for n, reply in enumerate(self.late_replies):
            names = _put(tensors, f"reply.{n}", reply.update.difference)
            about["late_replies"].append(
                {
                    "due": reply.due,
                    "outcome": reply.outcome,
                    "order": names,
                    "requests": [[*key, attempt] for key, attempt in reply.requests],
                    "client": reply.update.client,
                    "examples": reply.update.examples,
                }
            )
        if self.beside is not None:
            about["beside"] = {
                "name": self.beside.name,
                "faults": self.beside.faults,
                "model": _put_model(tensors, "beside", self.beside.model),
                "log": _put_log(tensors, "beside.log", self.beside.log),
            }
        for n, learned in enumerate(self.retrained):
            order = _put(tensors, f"retrained.{n}", learned.state)
            rounds = [r["round"] for r in learned.rows]
            curve = [learned.curve.get(r) for r in rounds]
            log = _put_log(tensors, f"retrained.log.{n}", Log([dict(r) for r in learned.rows], curve))
            about["retrained"].append({"order": order, "log": log, "cost": dict(learned.cost)})
        about["same"] = _said_twice(tensors)
        return tensors, about

    @classmethod
    def from_checkpoint(
        cls, config: Config, trained: Sequence[str], tensors: Mapping[str, Tensor], about: Mapping[str, Any]
    ) -> "Standing":
        """What ``as_checkpoint`` gave.

        Args:
            config: the experiment.
            trained: names of the model's trained tensors.

        Raises:
            KeyError, ValueError: something is missing or does not fit.
        """
        tensors = {**tensors, **{name: tensors[first] for name, first in about["same"].items()}}
        history = History(trained)
        if about["history"]:
            history = History.from_tensors(about["history"], _strip(tensors, "history"), about["order"])
        history.keeps_last = config.unlearning.reads_last_steps
        requests = [TrackedRequest.of(r) for r in about["requests"]]
        standing = cls(
            history,
            model=_take_model(config, tensors, "model", about["model"]),
            step=ServerStep(about["step"]),
            requests={r.key: r for r in requests},
            silent_clients=set(about["silent_clients"]),
            unlearn_steps=[_take(tensors, f"step.{n}", names) for n, names in enumerate(about["steps"])],
            costs={name: PhaseCost.of(cost) for name, cost in about["costs"].items()},
            faults=[Fault(**f) for f in about["faults"]],
            log=_take_log(tensors, "log", about["log"]),
            # A standing of an earlier version has none: there the devices' books say it.
            contents={(i, c): (tuple(u), tuple(h)) for i, c, u, h in about.get("contents", ())},
            **{name: about[name] for name in _PLAIN},
        )
        for name in _NUMBERED:
            setattr(standing, name, dict(about[name]))
        for name, order in about["states"].items():
            setattr(standing, name, _take(tensors, name, order))
        for n, told in enumerate(about["late_replies"]):
            update = Update(told["client"], told["examples"], _take(tensors, f"reply.{n}", told["order"]))
            given = tuple(((name, client), attempt) for name, client, attempt in told["requests"])
            standing.late_replies.append(Reply(told["due"], update, given, told["outcome"]))
        if (told := about["beside"]) is not None:
            model = _take_model(config, tensors, "beside", told["model"])
            assert model is not None
            log = _take_log(tensors, "beside.log", told["log"])
            standing.beside = Training(told["name"], model, log, told["faults"])
        for n, told in enumerate(about["retrained"]):
            log = _take_log(tensors, f"retrained.log.{n}", told["log"])
            state = _take(tensors, f"retrained.{n}", told["order"])
            standing.retrained.append(log.learned(state, PhaseCost.of(told["cost"])))
        return standing


# ---- states, models and logs among the tensors of a file ------------------------------------------------


def _put(tensors: dict[str, Tensor], prefix: str, state: Mapping[str, Tensor]) -> list[str]:
    """Adds a state; returns its order, which a file does not keep and sums depend on."""
    tensors.update({f"{prefix}/{name}": value for name, value in state.items()})
    return list(state)


def _take(tensors: Mapping[str, Tensor], prefix: str, order: Iterable[str]) -> StateDict:
    return {name: tensors[f"{prefix}/{name}"] for name in order}


def _strip(tensors: Mapping[str, Tensor], prefix: str) -> StateDict:
    return {k.removeprefix(f"{prefix}/"): v for k, v in tensors.items() if k.startswith(f"{prefix}/")}


def _put_model(tensors: dict[str, Tensor], prefix: str, model: GlobalModel | None) -> dict[str, Any] | None:
    if model is None:
        return None
    moments = model.optimizer.moments.items()
    return {
        "order": _put(tensors, prefix, model.weights),
        "ordinary_rounds": model.ordinary_rounds,
        "moments": {name: _put(tensors, f"{prefix}.{name}", snapshot) for name, snapshot in moments},
    }


def _take_model(
    config: Config, tensors: Mapping[str, Tensor], prefix: str, told: Mapping[str, Any] | None
) -> GlobalModel | None:
    if told is None:
        return None
    moments = {n: _take(tensors, f"{prefix}.{n}", names) for n, names in told["moments"].items()}
    optimizer = ServerOptimizer(config.training, moments)
    return GlobalModel(_take(tensors, prefix, told["order"]), optimizer, told["ordinary_rounds"])


def _put_log(tensors: dict[str, Tensor], name: str, log: Log) -> dict[str, Any]:
    seen = [p for p in log.curve if p is not None]
    if seen:
        tensors[name] = torch.from_numpy(np.stack(seen))
    return {"rows": log.rows, "seen": [p is not None for p in log.curve]}


def _take_log(tensors: Mapping[str, Tensor], name: str, told: Mapping[str, Any]) -> Log:
    rows: Iterator[Predictions] = iter(tensors[name].numpy() if any(told["seen"]) else ())
    return Log(told["rows"], [next(rows) if seen else None for seen in told["seen"]])


def _said_twice(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Takes out what lies in the same memory as another, such as the original and the model right after it.

    Returns:
        name -> the name of the one that stays
    """
    first: dict[int, str] = {}
    same = {n: first.setdefault(id(t), n) for n, t in tensors.items() if first.setdefault(id(t), n) != n}
    for name in same:
        del tensors[name]
    return same


def _pairs(numbers: Mapping[int, int]) -> list[list[int]]:
    # JSON's keys are text; pairs stay numbers.
    return [[key, value] for key, value in numbers.items()]
