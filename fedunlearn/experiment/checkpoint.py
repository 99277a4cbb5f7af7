"""A run's standing on disk: written between two steps, found again by whoever takes the run up.

The newest two files are kept. What is removed for good from the vaults can't be unlearned from an older
standing, so before and after every purge the same standing is written twice: whichever of the two newest
files is damaged, the other one is beyond that purge, too.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fedunlearn.checkpoints import BadCheckpoint, load_checkpoint, manifest_of, save_checkpoint
from fedunlearn.config import Config
from fedunlearn.errors import BadInput
from fedunlearn.links import discard
from fedunlearn.server.request_tracker import weights_digest
from fedunlearn.server.state import Standing

_KEPT = 2
_OWN = re.compile(r"\.?\d{8}\.safetensors(\.json)?(\.\d+\.tmp)?")
"""names of standings, their manifests, and either half written; any other file in there is somebody's"""
_FORMAT = 4
_SEALED = {"original", "blur", "step"}
"""parts of a standing that know what was deleted, once the run is over"""
_OF_NO_CONSEQUENCE = ("federation.", "corpus.path")
"""settings that may change when a run is taken up: none of them changes a number"""


class RunCheckpoints:
    """The standings of one run.

    Args:
        folder: theirs alone; made when the first is put there.
        config: of the experiment.
        corpus: digest of all speech that the judge knows.
        sealed: folder of the reference cache. When a run is over that deleted something, the weights that
            know it leave the run folder for this one.
    """

    def __init__(self, folder: Path, config: Config, corpus: str, sealed: Path) -> None:
        self._folder, self._config, self._corpus, self._sealed = folder, config, corpus, sealed
        self.ledger_head: str | None = None
        """what the ledger's head was when the standing that ``latest`` found was put there"""

    def put(self, standing: Standing, ledger_head: str) -> None:
        """Write a standing; the newest two stay.

        Args:
            ledger_head: of the ledger now; a ledger that lacks it has lost rows.
        """
        self._folder.mkdir(exist_ok=True)
        files = self._files()
        taken = (path.name.lstrip(".")[:8] for path in self._folder.iterdir() if _OWN.fullmatch(path.name))
        number = 1 + max(map(int, taken), default=0)
        tensors, about = standing.as_checkpoint()
        origin = {"format": _FORMAT, "config": self._config.model_dump(mode="json"), "corpus": self._corpus}
        path = self._folder / f"{number:08d}.safetensors"
        gone = [request.id for request in standing.requests.values() if request.gone]
        if standing.finished and gone:
            origin["sealed"] = self._seal(tensors, gone)
        save_checkpoint(path, tensors, {"standing": about, "ledger_head": ledger_head, **origin})
        # Files of which the writing or the wiping was cut off are nobody's to come back to.
        kept = [old for old in [*files, path] if manifest_of(old).exists()][-_KEPT:]
        names = {part.name for file in kept for part in (file, manifest_of(file))}
        for part in sorted(self._folder.iterdir()):
            if part.name not in names and _OWN.fullmatch(part.name) and not part.is_dir():
                discard(part)

    def _seal(self, tensors: dict[str, Tensor], gone: Sequence[str]) -> str:
        """Move the weights that know what was deleted to the reference cache; returns the file's name."""
        parts = {k: v for k, v in tensors.items() if k.partition("/")[0].partition(".")[0] in _SEALED}
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

    def latest(self, trained: Sequence[str]) -> tuple[Standing | None, tuple[str, ...]]:
        """The newest standing that is whole.

        Args:
            trained: names of the model's trained tensors.

        Returns:
            (the standing, or None where none was ever put; a line for each damaged file that was passed over)

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
                standing = Standing.from_checkpoint(self._config, trained, tensors, manifest["standing"])
                self.ledger_head = str(manifest["ledger_head"])
                return standing, tuple(damaged)
            except (KeyError, ValueError, TypeError) as error:
                damaged.append(f"{path}: is not a standing of a run ({error}); the one before it is used")
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
    """Settings in which two experiments differ, less those that change no number: (key, then, now) each."""
    flat_then, flat_now = dict(_flat(then)), dict(_flat(now))
    keys = [k for k in {**flat_then, **flat_now} if not k.startswith(_OF_NO_CONSEQUENCE)]
    return [(k, flat_then.get(k), flat_now.get(k)) for k in keys if flat_then.get(k) != flat_now.get(k)]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
