"""What a process keeps of the devices that it answers for, from message to message."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from fedunlearn import config as configuration
from fedunlearn.blockwise import LARGE, StateDict
from fedunlearn.config import Config
from fedunlearn.config.model import ModelSettings
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.links import wipe
from fedunlearn.messages.records import MessageConfig, borrow
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Split
from fedunlearn.run_folder import RunFolder
from fedunlearn.seeding import rng_for
from fedunlearn.unlearning import notes_tickets
from fedunlearn.vault.additions import count_added, labels_of, waiting_recordings
from fedunlearn.vault.commitment import commit, read_secret
from fedunlearn.vault.index import Index
from fedunlearn.vault.vault import Vault, add_recordings


class Device:
    """One client as a process keeps it between messages: its opened vault and a model to load weights into.

    Attributes:
        client: its number.
        run: folder of the run.
        config: the experiment.
        vault: its opened vault.
        model: shared by all devices of the process; a handler loads the message's weights first.
        requests: its deletion requests.
    """

    def __init__(self, run: RunFolder, client: int) -> None:
        self.client = client
        self.run, self._config_stamp = run, _config_stamp(run)
        self.config = _load_config(run.config, self._config_stamp)
        self.vault = Vault(run.vault(client))
        self.model = _shared_model(self.config.model, self.vault.classes)
        self.requests = RequestStore(self.vault.folder)
        self._examples: dict[Split, Examples] = {}

    @property
    def is_current(self) -> bool:
        """Whether the run and the vault are still those that this object was made from."""
        return self._config_stamp == _config_stamp(self.run) and self.vault.is_current

    @property
    def update_buffer(self) -> StateDict | None:
        """Tensors to write the update of a large model into; None for a small model.

        What is sent from here is valid until the process answers its next message.
        """
        return _update_buffer(self.model)

    def commitment(self) -> ConfigRecord:
        """Commit to the recordings in the vault as they are now."""
        folder = self.vault.folder
        return ConfigRecord({"sha256": commit(folder, read_secret(folder, self.config.seed, self.client))})

    def examples(self, split: Split) -> Examples:
        """Return all examples of one split; they are kept in memory until a purge."""
        if split not in self._examples:
            self.vault.derive(self.model)
            self._examples[split] = self.vault.examples(self.vault.ids(split), self.model)
        return self._examples[split]

    def kept(self, content: RecordDict) -> Examples:
        """Return the training examples recorded so far, less those of withheld requests."""
        examples, ids, kept = self.examples("train"), self.vault.ids("train"), set(self.kept_ids(content))
        if len(kept) == len(ids):
            return examples
        rows = [i for i, utterance in enumerate(ids) if utterance in kept]
        return examples.take(torch.tensor(rows, dtype=torch.int64))

    def kept_ids(self, content: RecordDict) -> tuple[str, ...]:
        """Return the ids of ``kept``, in vault order."""
        recorded = self.vault.ids("train", by=MessageConfig(content).integer("rounds_done"))
        withheld: set[str] = set()
        if "withheld" in content.config_records:
            withheld = set(self.utterances_of(MessageConfig(content, "withheld").texts("requests")))
        return tuple(utterance for utterance in recorded if utterance not in withheld)

    def note_tickets(self, content: RecordDict, part: Tensor) -> None:
        """Note what an ordinary round has taught of each utterance that the device trained on.

        Args:
            content: of the message.
            part: [n, K] of ``kept``, weighted.
        """
        settings, every = MessageConfig(content), self.config.federation.checkpoint_every
        ids, fading = self.kept_ids(content), settings.real("fading")
        # A run is resumed from one of its two newest checkpoints.
        self.vault.tickets.note(ids, part, settings.integer("round"), fading, 2 * every + 2)

    def forget_set(self, ids: tuple[str, ...]) -> ForgetSet:
        """Return these utterances as D_f, with their tickets if the method reads them and there are any."""
        forget_set = self.vault.forget_set(ids, self.model)
        if not notes_tickets(self.config):
            return forget_set
        return replace(forget_set, tickets=self.vault.tickets.of(ids, self.model.ticket_size))

    def utterances_of(self, requests: Iterable[str]) -> tuple[str, ...]:
        """Return the ids of the training utterances that these requests of the device name."""
        wanted = set(requests)
        return tuple(u for r in self.requests.all() if r.id in wanted for u in r.utterances)

    def load(self, content: RecordDict) -> None:
        """Load the message's weights into the model."""
        self.model.load_state_dict(borrow(content.array_records["weights"]))

    def teacher(self, content: RecordDict) -> EmotionModel | None:
        """Return a second model with the message's ``teacher`` weights; None if the message has none."""
        weights = content.array_records.get("teacher")
        if weights is None:
            return None
        model = copy.deepcopy(self.model)
        model.load_state_dict(borrow(weights))
        return model

    def left_out(self, content: RecordDict) -> StateDict | None:
        """Return what the model without this client has more than the global one; None if it was not sent."""
        weights = content.array_records.get("left_out")
        return None if weights is None else borrow(weights)

    def take_in_recordings(self, rounds_done: int) -> None:
        """Move recordings that a person has added from the inbox into the vault.

        Args:
            rounds_done: rounds done; they are trained on from the next round on.
        """
        waiting = [(found, found.about) for found in waiting_recordings(self.vault.folder)]
        if not any(about for _, about in waiting):
            return
        labels = labels_of(self.vault.folder)
        taken = [(found, about) for found, about in waiting if about and about.emotion in labels]
        new = [(about.entry(labels, rounds_done), found.pcm()) for found, about in taken]
        add_recordings(self.vault, new, self.model)
        self.forget_caches()
        for found, _ in taken:
            wipe(found.file)

    def count_added(self, rounds_done: int) -> dict[str, int]:
        """Return how many added recordings the vault holds, as a metric of a reply; none where it is 0.

        Args:
            rounds_done: rounds done; what was taken in later does not count.
        """
        added = count_added(self.vault.entries.values(), rounds_done)
        return {"added": added} if added else {}

    def forget_caches(self) -> None:
        """Drop everything in memory that was derived from audio."""
        self._examples.clear()


class DeviceCache:
    """The devices of one run that this process has open."""

    def __init__(self) -> None:
        self._devices: dict[tuple[Path, int], Device] = {}
        self._checked_at: tuple[object, ...] = ()

    def get(self, run: RunFolder, client: int) -> Device:
        """Return a device, opened anew if its run or its vault has changed since the last message."""
        self._drop_stale(run)
        key = run.path, client
        device = self._devices.get(key)
        if device is None or not device.is_current:
            torch.set_num_threads(1)
            device = self._devices[key] = Device(run, client)
        return device

    def drop(self, device: Device) -> None:
        """Drop a device together with everything in memory that was derived from its audio."""
        device.forget_caches()
        self._devices.pop((device.run.path, device.client), None)

    def clear(self) -> None:
        """Drop all devices."""
        self._devices.clear()

    def _drop_stale(self, run: RunFolder) -> None:
        """Drop every device that another process has purged since, and those of other runs.

        Another run may have had the same place before. The devices are looked through only if this run is
        another one than the last time, or if there was a purge since.
        """
        purges = run.purges.stat().st_size if run.purges.exists() else 0
        state = (run.path, _config_stamp(run), purges)
        if state != self._checked_at:
            stale = [key for key, d in self._devices.items() if key[0] != run.path or not d.is_current]
            for key in stale:
                del self._devices[key]
            self._checked_at = state


DEVICES = DeviceCache()
"""of this process; a ClientApp could not keep them, since Flower's simulation pickles it for each message"""


def build_shared_model(run: RunFolder, client: int) -> None:
    """Build the model that all devices of this process share, with what it imports; nothing else is opened.

    Args:
        run: folder of the run, or of the device.
        client: whose index says how many emotions there are.
    """
    config = _load_config(run.config, _config_stamp(run))
    _shared_model(config.model, Index.read(run.vault(client)).classes)


@lru_cache(maxsize=4)
def _load_config(file: Path, stamp: tuple[int, int]) -> Config:
    return configuration.load(file)


@lru_cache(maxsize=4)
def _shared_model(settings: ModelSettings, classes: int) -> EmotionModel:
    return build_model(settings, classes, rng_for(0, "template"))


@lru_cache(maxsize=1)
def _update_buffer(model: EmotionModel) -> StateDict | None:
    # Allocating the update of a large model anew for each message would take longer than filling it.
    state = model.state_dict()
    large = sum(value.nbytes for value in state.values()) >= LARGE
    return {name: torch.empty_like(value) for name, value in state.items()} if large else None


def _config_stamp(run: RunFolder) -> tuple[int, int]:
    # Every run writes its config file anew.
    status = run.config.stat()
    return status.st_ino, status.st_mtime_ns
