"""What shadow federations have learned before they unlearn, kept for other ways to unlearn the same.

Up to its first unlearn step a shadow federation depends on the data, the model, the training and the deletion
requests alone. Methods that are compared on the same requests therefore share their shadows up to there, and
only unlearning and recovery are played again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedunlearn import __version__
from fedunlearn.blockwise import StateDict
from fedunlearn.checkpoints import BadCheckpoint, load_checkpoint, save_checkpoint
from fedunlearn.config import Config
from fedunlearn.experiment.replay import LearnedFederation
from fedunlearn.experiment.timeline import Timeline
from fedunlearn.server.aggregation import ServerOptimizer
from fedunlearn.server.history import History
from fedunlearn.server.rewind import rewind_round
from fedunlearn.server.state import GlobalModel
from fedunlearn.unlearning import notes_tickets
from fedunlearn.unlearning.contract import UnknownSpeakers

_FORMAT = 2  # raised with that of the reference cache: what is learned is computed alike
_WEIGHTS, _ORIGINAL, _MOMENTS, _HISTORY = "weights/", "original/", "moments/", "history/"
_TICKETS = "tickets/"


class LearnedShadows:
    """Shadow federations as they are when their first unlearn step begins, in a folder.

    It holds weights, differences and tickets, no audio and no features. Like the reference cache it is the
    experimenter's: what a server drops after a purge stays here.

    Args:
        folder: theirs; made when the first is kept.
        config: the experiment.
        timeline: of the run.
        contents: digests of what is trained on and held out, client by client, and each id's number.
    """

    def __init__(
        self, folder: Path, config: Config, timeline: Timeline, contents: tuple[list[str], Mapping[str, int]]
    ) -> None:
        self._folder = folder
        digests, self._place = contents
        self._decides = {
            "format": _FORMAT,
            "version": __version__,
            "torch": torch.__version__,
            "seed": config.seed,
            "model": config.model.model_dump(mode="json", exclude={"encoder": {"gpu_share"}}),
            **({"plugin": config.digest_of("model")} if config.model.is_plugin else {}),
            "training": config.training.model_dump(mode="json"),
            "history": [config.unlearning.reads_last_steps, config.unlearning.left_out_models],
            **({"rewinds_to": rewind_round(config)} if rewind_round(config) else {}),
            "tickets": config.unlearning.tickets.fading if notes_tickets(config) else None,
            "contents": digests,
            "timeline": timeline.before_unlearning(config.training.rounds).as_dict(self._place),
        }

    def file(self, stream: int, outside: Sequence[str]) -> Path:
        """Return the file of a shadow, named by a digest of all that decides it.

        Args:
            stream: seed of its randomness.
            outside: utterances that it never sees.
        """
        decides = {**self._decides, "stream": stream, "outside": sorted(self._place[u] for u in outside)}
        key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
        return self._folder / f"{key}.safetensors"


def find_or_learn(file: Path, config: Config, learn: Callable[[], LearnedFederation]) -> LearnedFederation:
    """Read what a federation has learned, or let it learn and keep that.

    Args:
        file: from ``LearnedShadows.file``.
        config: the experiment.
        learn: plays the timeline up to the first unlearn step; called where the file is missing or damaged.
    """
    learned = _read(file, config)
    if learned is None:
        learned = learn()
        _write(file, learned)
    return learned


def _write(file: Path, learned: LearnedFederation) -> None:
    model, history = learned.model, learned.history
    tensors = _named(_WEIGHTS, model.weights) | _named(_HISTORY, history.as_tensors())
    tensors |= _named(_ORIGINAL, learned.original or {})
    for name, moment in model.optimizer.moments.items():
        tensors |= _named(f"{_MOMENTS}{name}/", moment)
    tensors |= {f"{_TICKETS}{client}": noted for client, (_, noted) in learned.tickets.items()}
    about = {
        "tickets": {str(client): round_ for client, (round_, _) in learned.tickets.items()},
        "order": list(model.weights),
        "trained": list(history.trained),
        "moments": list(model.optimizer.moments),
        "learning_rounds": model.learning_rounds,
        "has_original": learned.original is not None,
        "unknown": asdict(learned.unknown) if learned.unknown else None,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(file, tensors, about)


def _read(file: Path, config: Config) -> LearnedFederation | None:
    try:
        tensors, about = load_checkpoint(file)
        return _federation(tensors, about, config)
    except (BadCheckpoint, KeyError, ValueError, TypeError):
        return None


def _federation(tensors: Mapping[str, Tensor], about: Mapping[str, Any], config: Config) -> LearnedFederation:
    order, trained = about["order"], about["trained"]
    history = History.from_tensors(trained, _with_prefix(_HISTORY, tensors), order)
    history.keeps_last = config.unlearning.reads_last_steps
    kept = {name: _with_prefix(f"{_MOMENTS}{name}/", tensors) for name in about["moments"]}
    moments = {name: {k: moment[k] for k in order if k in moment} for name, moment in kept.items()}
    weights, original = _with_prefix(_WEIGHTS, tensors), _with_prefix(_ORIGINAL, tensors)
    return LearnedFederation(
        GlobalModel(
            {name: weights[name] for name in order},
            ServerOptimizer(config.training, moments),
            about["learning_rounds"],
        ),
        history,
        UnknownSpeakers(**about["unknown"]) if about["unknown"] else None,
        {name: original[name] for name in order} if about["has_original"] else None,
        {
            int(client): (round_, tensors[f"{_TICKETS}{client}"])
            for client, round_ in about["tickets"].items()
        },
    )


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> StateDict:
    # Copies: a file holds no tensor twice, and the constants of several models are one.
    return {f"{prefix}{name}": tensor.clone() for name, tensor in tensors.items()}


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> StateDict:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
