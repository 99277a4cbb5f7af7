"""Checkpoints of a run: server state and experiment record, written between two steps, to resume from.

The newest two files are kept. What is purged from the vaults can't be unlearned from an older checkpoint, so
before and after every purge the same one is written twice: whichever of the two newest files is damaged, the
other one is beyond that purge, too.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedunlearn.blockwise import StateDict
from fedunlearn.checkpoints import BadCheckpoint, load_checkpoint, manifest_of, save_checkpoint
from fedunlearn.config import Config
from fedunlearn.dotted import dotted_values
from fedunlearn.errors import BadInput
from fedunlearn.evaluation.judge import Predictions
from fedunlearn.experiment.record import ExperimentRecord, Log, SavedRun, SideTraining
from fedunlearn.links import discard
from fedunlearn.messages.phase import Phase
from fedunlearn.messages.update import Update
from fedunlearn.server.aggregation import ServerOptimizer
from fedunlearn.server.cost import PhaseCost
from fedunlearn.server.history import History
from fedunlearn.server.request_tracker import weights_digest
from fedunlearn.server.requests import TrackedRequest
from fedunlearn.server.state import Fault, GlobalModel, LateReply, ServerState, ServerStep
from fedunlearn.unlearning.contract import UnknownSpeakers

_KEPT = 2
_OWN = re.compile(r"\.?\d{8}\.safetensors(\.json)?(\.\d+\.tmp)?")
"""names of checkpoints, their manifests, and either half written; any other file in there is not ours"""
_FORMAT = 8
_SEALED = {"original", "blur", "step"}
"""parts of a checkpoint that know what was deleted, once the run is over"""
_LEFT_OUT = "history/left_out."
"""so do the models without one client each: the mean of all updates is in them"""
_OF_NO_CONSEQUENCE = ("federation.", "corpus.path", "corpus.columns")
"""settings that may change when a run is resumed: none of them changes a number"""


class RunCheckpoints:
    """The checkpoints of one run.

    Args:
        folder: theirs alone; made when the first is written.
        config: of the experiment.
        corpus: digest of all speech that the judge knows.
        sealed: folder of the reference cache. When a run is over that deleted something, the weights that
            know it leave the run folder for this one.
    """

    def __init__(self, folder: Path, config: Config, corpus: str, sealed: Path) -> None:
        self._folder, self._config, self._corpus, self._sealed = folder, config, corpus, sealed
        self.ledger_head: str | None = None
        """what the ledger's head was when the checkpoint that ``latest`` found was written"""

    def put(self, saved: SavedRun, ledger_head: str) -> None:
        """Write a checkpoint; the newest two stay.

        Args:
            saved: state and record.
            ledger_head: of the ledger now; a ledger that lacks it has lost rows.
        """
        self._folder.mkdir(exist_ok=True)
        files = self._files()
        taken = (path.name.lstrip(".")[:8] for path in self._folder.iterdir() if _OWN.fullmatch(path.name))
        number = 1 + max(map(int, taken), default=0)
        tensors, about = to_checkpoint(saved)
        origin = {"format": _FORMAT, "config": self._config.model_dump(mode="json"), "corpus": self._corpus}
        path = self._folder / f"{number:08d}.safetensors"
        gone = [request.id for request in saved.state.requests.values() if request.gone]
        if saved.record.finished and gone:
            origin["sealed"] = self._seal(tensors, gone)
        save_checkpoint(path, tensors, {**about, "ledger_head": ledger_head, **origin})
        # No run is resumed from files whose writing or wiping was interrupted.
        kept = [old for old in [*files, path] if manifest_of(old).exists()][-_KEPT:]
        names = {part.name for file in kept for part in (file, manifest_of(file))}
        for part in sorted(self._folder.iterdir()):
            if part.name not in names and _OWN.fullmatch(part.name) and not part.is_dir():
                discard(part)

    def _seal(self, tensors: dict[str, Tensor], gone: Sequence[str]) -> str:
        """Move the weights that know what was deleted to the reference cache; returns the file's name."""
        parts = {
            k: v
            for k, v in tensors.items()
            if k.partition("/")[0].partition(".")[0] in _SEALED or k.startswith(_LEFT_OUT)
        }
        for name in parts:
            del tensors[name]
        file = self._sealed / f"sealed-{weights_digest(parts)[:32]}.safetensors"
        if not manifest_of(file).exists():
            self._sealed.mkdir(parents=True, exist_ok=True)
            save_checkpoint(file, parts, {"requests": sorted(gone)})
        return file.name

    def _unseal(self, path: Path, name: str) -> dict[str, Tensor]:
        try:
            return load_checkpoint(self._sealed / name)[0]
        except BadCheckpoint as error:
            raise BadInput(
                f"{path}: the original model of this run is not in {self._sealed} ({error}); a finished run "
                "goes on with the --cache that it was made with, as long as nobody has deleted it there"
            ) from error

    def latest(self, trained: Sequence[str]) -> tuple[SavedRun | None, tuple[str, ...]]:
        """Read the newest checkpoint that is whole.

        Args:
            trained: names of the model's trained tensors.

        Returns:
            (state and record, or None where there never was a checkpoint; a line for each damaged file that
            was passed over)

        Raises:
            BadInput: it belongs to another experiment; or there are files and none of them is whole.
        """
        damaged: list[str] = []
        for path in reversed(self._files()):
            if not manifest_of(path).exists():
                continue  # its writing or its wiping was cut off
            try:
                tensors, manifest = load_checkpoint(path)
            except BadCheckpoint as error:
                damaged.append(f"{error}; the one before it is used")
                continue
            self._check_origin(path, manifest)
            if manifest.get("sealed"):
                tensors |= self._unseal(path, str(manifest["sealed"]))
            try:
                saved = from_checkpoint(self._config, trained, tensors, manifest)
                self.ledger_head = str(manifest["ledger_head"])
                return saved, tuple(damaged)
            except (KeyError, ValueError, TypeError) as error:
                damaged.append(f"{path}: is not a checkpoint of a run ({error}); the one before it is used")
        if damaged:
            lines = [d.removesuffix("; the one before it is used") for d in damaged]
            raise BadInput([*lines, f"{self._folder}: no checkpoint is whole; the run must be made anew"])
        return None, ()

    def _files(self) -> list[Path]:
        found = sorted(self._folder.glob("*.safetensors")) if self._folder.is_dir() else []
        return [path for path in found if _OWN.fullmatch(path.name) and path.is_file()]

    def _check_origin(self, path: Path, manifest: Mapping[str, Any]) -> None:
        if manifest.get("format") != _FORMAT:
            raise BadInput(
                f"{path}: has format {manifest.get('format')}, this version reads {_FORMAT}: make a new run"
            )
        differ = differences(manifest["config"], self._config.model_dump(mode="json"))
        if differ:
            raise BadInput(
                [f"{path}: was made with {k} = {then!r}, this run has {now!r}" for k, then, now in differ]
            )
        if manifest["corpus"] != self._corpus:
            raise BadInput(
                f"{path}: was made on other speech (digest {manifest['corpus'][:12]}, now "
                f"{self._corpus[:12]}); give the folder as it was"
            )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List settings in which two experiments differ, less those that change no number.

    Args:
        then: settings of the one, as plain data.
        now: settings of the other.

    Returns:
        (key, then, now) of each
    """
    flat_then, flat_now = dict(dotted_values(then)), dict(dotted_values(now))
    keys = [k for k in {**flat_then, **flat_now} if not k.startswith(_OF_NO_CONSEQUENCE)]
    return [(k, flat_then.get(k), flat_now.get(k)) for k in keys if flat_then.get(k) != flat_now.get(k)]


# ---- state and record as tensors and plain data ----------------------------------------------------------


_PLAIN_STATE = (
    "rounds_done",
    "timeline_round",
    "recovery_rounds_left",
    "idle_rounds",
    "waiting_rounds",
    "guarded",
    "rehearsals",
    "deletion_requested",
    "additions",
)
_PLAIN_RECORD = ("finished", "metrics", "origins", "keys")
_NUMBERED = ("last_report", "last_trained", "examples", "held_out", "added", "rounds_done_at")
_NOT_IN_ALL = {"additions": (), "added": ()}
"""parts that checkpoints of earlier versions lack -> what they stand for there"""


def to_checkpoint(saved: SavedRun) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Convert state and record to tensors and plain data.

    Args:
        saved: state and record.

    Returns:
        (tensors, plain data) from which ``from_checkpoint`` makes them again
    """
    tensors: dict[str, Tensor] = {}
    state, record = _put_state(tensors, saved.state), _put_record(tensors, saved.record)
    return tensors, {"state": state, "record": record, "same": _drop_duplicates(tensors)}


def from_checkpoint(
    config: Config, trained: Sequence[str], tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> SavedRun:
    """Restore state and record.

    Args:
        config: the experiment.
        trained: names of the model's trained tensors.
        tensors: from ``to_checkpoint``.
        about: from ``to_checkpoint``.

    Raises:
        KeyError: something is missing.
        ValueError: something does not fit.
    """
    tensors = {**tensors, **{name: tensors[first] for name, first in about["same"].items()}}
    state = _take_state(config, trained, tensors, about["state"])
    return SavedRun(state, _take_record(config, tensors, about["record"]))


def _put_state(tensors: dict[str, Tensor], state: ServerState) -> dict[str, Any]:
    about = {name: getattr(state, name) for name in _PLAIN_STATE}
    about |= {name: _pairs(getattr(state, name)) for name in _NUMBERED}
    about |= {
        "step": str(state.step),
        "requests": [r.as_dict() for r in state.requests.values()],
        "silent_clients": sorted(state.silent_clients),
        "costs": {str(phase): cost.as_dict() for phase, cost in state.costs.items()},
        "faults": [{**vars(f), "phase": str(f.phase)} for f in state.faults],
        "model": _put_model(tensors, "model", state.model),
        "history": list(state.history.trained) if state.history.initial else None,
        "late_replies": [],
        "unknown": asdict(state.unknown) if state.unknown else None,
    }
    if state.history.initial:
        _put(tensors, "history", state.history.as_tensors())
        about["order"] = list(state.history.initial)
    about["steps"] = [_put(tensors, f"step.{n}", s) for n, s in enumerate(state.unlearn_steps)]
    for n, reply in enumerate(state.late_replies):
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
    return about


def _take_state(
    config: Config, trained: Sequence[str], tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> ServerState:
    history = History(trained)
    if about["history"]:
        history = History.from_tensors(about["history"], _strip(tensors, "history"), about["order"])
    history.keeps_last = config.unlearning.reads_last_steps
    about = {**{name: list(value) for name, value in _NOT_IN_ALL.items()}, **about}
    requests = [TrackedRequest.of(r) for r in about["requests"]]
    return ServerState(
        history,
        model=_take_model(config, tensors, "model", about["model"]),
        step=ServerStep(about["step"]),
        requests={r.key: r for r in requests},
        silent_clients=set(about["silent_clients"]),
        late_replies=[
            _take_reply(tensors, f"reply.{n}", saved) for n, saved in enumerate(about["late_replies"])
        ],
        unlearn_steps=[_take(tensors, f"step.{n}", names) for n, names in enumerate(about["steps"])],
        costs={Phase(name): PhaseCost.of(cost) for name, cost in about["costs"].items()},
        faults=[Fault(**{**f, "phase": Phase(f["phase"])}) for f in about["faults"]],
        unknown=UnknownSpeakers(**about["unknown"]) if about["unknown"] else None,
        **{name: about[name] for name in _PLAIN_STATE},
        **{name: _numbers(about[name]) for name in _NUMBERED},
    )


def _take_reply(tensors: Mapping[str, Tensor], prefix: str, saved: Mapping[str, Any]) -> LateReply:
    update = Update(saved["client"], saved["examples"], _take(tensors, prefix, saved["order"]))
    requests = tuple(((name, client), attempt) for name, client, attempt in saved["requests"])
    return LateReply(saved["due"], update, requests, saved["outcome"])


def _put_record(tensors: dict[str, Tensor], record: ExperimentRecord) -> dict[str, Any]:
    about = {name: getattr(record, name) for name in _PLAIN_RECORD}
    about |= {
        "log": _put_log(tensors, "log", record.log),
        "states": {},
        "side_training": None,
        "retrained": [],
        "contents": [[*key, *map(list, named)] for key, named in record.contents.items()],
    }
    for name in ("original", "unlearned", "blur"):
        if (weights := getattr(record, name)) is not None:
            about["states"][name] = _put(tensors, name, weights)
    if (training := record.side_training) is not None:
        about["side_training"] = {
            "name": training.name,
            "faults": training.faults,
            "model": _put_model(tensors, "side_training", training.model),
            "log": _put_log(tensors, "side_training.log", training.log),
        }
    for n, learned in enumerate(record.retrained):
        order = _put(tensors, f"retrained.{n}", learned.state)
        rounds = [r["round"] for r in learned.rows]
        curve = [learned.curve.get(r) for r in rounds]
        log = _put_log(tensors, f"retrained.log.{n}", Log([dict(r) for r in learned.rows], curve))
        about["retrained"].append({"order": order, "log": log, "cost": dict(learned.cost)})
    return about


def _take_record(config: Config, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> ExperimentRecord:
    record = ExperimentRecord(
        log=_take_log(tensors, "log", about["log"]),
        contents={(i, c): (tuple(u), tuple(h)) for i, c, u, h in about["contents"]},
        **{name: about[name] for name in _PLAIN_RECORD},
    )
    for name, order in about["states"].items():
        setattr(record, name, _take(tensors, name, order))
    if (saved := about["side_training"]) is not None:
        model = _take_model(config, tensors, "side_training", saved["model"])
        assert model is not None
        log = _take_log(tensors, "side_training.log", saved["log"])
        record.side_training = SideTraining(saved["name"], model, log, saved["faults"])
    for n, saved in enumerate(about["retrained"]):
        log = _take_log(tensors, f"retrained.log.{n}", saved["log"])
        weights = _take(tensors, f"retrained.{n}", saved["order"])
        record.retrained.append(log.learned(weights, PhaseCost.of(saved["cost"])))
    return record


def _put(tensors: dict[str, Tensor], prefix: str, state: Mapping[str, Tensor]) -> list[str]:
    """Add a state; returns its order, which a file does not keep and sums depend on."""
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
        "learning_rounds": model.learning_rounds,
        "moments": {name: _put(tensors, f"{prefix}.{name}", moment) for name, moment in moments},
    }


def _take_model(
    config: Config, tensors: Mapping[str, Tensor], prefix: str, saved: Mapping[str, Any] | None
) -> GlobalModel | None:
    if saved is None:
        return None
    moments = {n: _take(tensors, f"{prefix}.{n}", names) for n, names in saved["moments"].items()}
    optimizer = ServerOptimizer(config.training, moments)
    return GlobalModel(_take(tensors, prefix, saved["order"]), optimizer, saved["learning_rounds"])


def _put_log(tensors: dict[str, Tensor], name: str, log: Log) -> dict[str, Any]:
    seen = [p for p in log.curve if p is not None]
    if seen:
        tensors[name] = torch.from_numpy(np.stack(seen))
    return {"rows": log.rows, "seen": [p is not None for p in log.curve]}


def _take_log(tensors: Mapping[str, Tensor], name: str, saved: Mapping[str, Any]) -> Log:
    rows: Iterator[Predictions] = iter(tensors[name].numpy() if any(saved["seen"]) else ())
    return Log(saved["rows"], [next(rows) if seen else None for seen in saved["seen"]])


def _drop_duplicates(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Take out tensors that are the same as another, such as of the original and the model right after it.

    Returns:
        name -> the name of the one that stays
    """
    first: dict[int, str] = {}
    same = {n: first.setdefault(id(t), n) for n, t in tensors.items() if first.setdefault(id(t), n) != n}
    for name in same:
        del tensors[name]
    return same


def _numbers(pairs: Any) -> Any:
    return {key: value for key, value in pairs}


def _pairs(numbers: Mapping[int, int]) -> list[list[int]]:
    # JSON's keys are text; pairs stay numbers.
    return [[key, value] for key, value in numbers.items()]
