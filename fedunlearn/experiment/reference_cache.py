"""Models trained from scratch, kept by content: the original and the retrained ones of earlier runs.

A learned model is a function of the training data of every client, the model's and the training's
settings and the seed. Its key is a digest of exactly these, so a second run that differs only in how it
unlearns finds the trained original and, where D_f is the same, the retrained model. With the original goes
the server's history, so that a run that finds it can do all that the run that trained it could.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedunlearn import __version__
from fedunlearn.checkpoints import BadCheckpoint, load_checkpoint, save_checkpoint
from fedunlearn.config import Config
from fedunlearn.evaluation.judge import Predictions
from fedunlearn.links import wipe_abandoned
from fedunlearn.server.history import History
from fedunlearn.unlearning.contract import UnknownSpeakers

_FORMAT = 9
_HISTORY = "history."
LEARNED_FOLDER = "learned-shadows"
"""what shadow federations have learned before they unlearn, in the cache's folder"""
_MANIFEST = {"curve_rounds", "rows", "cost", "order", "unknown"}
_HALF = re.compile(r"\.(sealed-)?[0-9a-f]{32}\.safetensors(\.json)?\.\d+\.tmp")
"""a temporary file of a kept model; the folder may hold other files, which are not ours"""


@dataclass(frozen=True)
class Learned:
    """The outcome of one federated training from scratch.

    Attributes:
        state: weights after the last ordinary round.
        rows: one a round: round, loss, refused.
        curve: round -> the judge's predictions at that round.
        cost: of the training that was really done, as PhaseCost.as_dict.
        history: the server's, at the end; None for a retrained model, from which nothing is unlearned.
        unknown: how much worse it recognised unknown speakers in learning, as of ``ServerState``.
        digests: (timeline round, digests) of each row that the ledger had of learning; of the original alone.
    """

    state: Mapping[str, Tensor]
    rows: Sequence[Mapping[str, Any]]
    curve: Mapping[int, Predictions]
    cost: Mapping[str, Any]
    history: History | None = None
    unknown: UnknownSpeakers | None = None
    digests: Sequence[tuple[int, str]] = ()


def reference_key(
    config: Config,
    stream: int,
    contents: Sequence[str],
    constants: str = "",
    absences: Sequence[Sequence[int]] = (),
) -> str:
    """Compute the digest of all that decides a learned model.

    Args:
        config: model and training settings count, and how often the judge looks.
        stream: seed of the training's random streams.
        contents: each client's training data as a digest, in client order ("" = has none).
        constants: digest of the normalisation constants, which are the whole run's.
        absences: clients that do not train in each round of learning; none at all = ().
    """
    decides = {
        "format": _FORMAT,
        "version": __version__,
        "torch": torch.__version__,
        "model": config.model.model_dump(mode="json", exclude={"encoder": {"gpu_share"}}, exclude_none=True),
        **({"plugin": config.digest_of("model")} if config.model.is_plugin else {}),
        "training": config.training.model_dump(mode="json"),
        "curve_every": config.evaluation.curve_every,
        "stream": stream,
        "contents": list(contents),
        "constants": constants,
        "absences": [list(away) for away in absences],
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


class ReferenceCache:
    """Learned models in a folder. Holds weights, differences and measures, no audio and no features.

    It is the experimenter's, like the original in it: what a server must drop after a purge stays here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, key: str) -> Learned | None:
        """Find a learned model; None if there is none or its file was damaged.

        Args:
            key: from ``reference_key``.
        """
        try:
            tensors, manifest = load_checkpoint(self._file(key))
        except BadCheckpoint:
            return None
        if not manifest.keys() >= _MANIFEST or "curve" not in tensors:
            return None  # a checkpoint, but of something else
        rounds, predictions = manifest["curve_rounds"], tensors.pop("curve")
        if len(rounds) != len(predictions):
            return None
        curve = {r: row.numpy() for r, row in zip(rounds, predictions, strict=True)}
        memory = {k.removeprefix(_HISTORY): tensors.pop(k) for k in list(tensors) if k.startswith(_HISTORY)}
        trained = manifest.get("trained")
        try:
            # A file's tensors come in any order, a trained model's in one; sums over them depend on it.
            state = {name: tensors[name] for name in manifest["order"]}
            history = History.from_tensors(trained, memory, state) if trained else None
            unknown = UnknownSpeakers(**manifest["unknown"]) if manifest["unknown"] else None
            digests = [(int(number), str(content)) for number, content in manifest.get("digests", ())]
        except (KeyError, ValueError, TypeError):
            return None
        return Learned(state, manifest["rows"], curve, manifest["cost"], history, unknown, digests)

    def clean(self) -> None:
        """Wipe weights that a killed process left half written here, and in the shadows' folders."""
        for folder in (self.folder, self.folder / "shadows", self.folder / LEARNED_FOLDER):
            if folder.is_dir():
                wipe_abandoned(path for path in list(folder.iterdir()) if _HALF.fullmatch(path.name))

    def keep(self, key: str, learned: Learned) -> None:
        """Store a learned model.

        Args:
            key: from ``reference_key``.
            learned: to be kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        curve = torch.from_numpy(np.stack(list(learned.curve.values())))
        about = {"rows": list(learned.rows), "curve_rounds": list(learned.curve), "cost": dict(learned.cost)}
        about["order"] = list(learned.state)
        about["unknown"] = asdict(learned.unknown) if learned.unknown else None
        about["digests"] = [list(row) for row in learned.digests]
        tensors = {**learned.state, "curve": curve}
        if learned.history is not None:
            about["trained"] = list(learned.history.trained)
            tensors |= {f"{_HISTORY}{key}": t for key, t in learned.history.as_tensors().items()}
        save_checkpoint(self._file(key), tensors, about)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
