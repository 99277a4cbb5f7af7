"""Fills the folders of deployed devices: each has the experiment's settings and the vault of its client.

A device's folder has the layout of a run folder with one vault in it. Nothing of it lies in the
experimenter's folder, and no device has anything of another one.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedunlearn.client.liveness import reset_liveness
from fedunlearn.config import Config
from fedunlearn.deletion.admission import note_devices
from fedunlearn.deletion.receipts import every_receipt
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.experiment.preparation import decode_corpus, read_speech, recordings_of
from fedunlearn.experiment.progress import Progress
from fedunlearn.files import write_atomically
from fedunlearn.partition import recorded_later
from fedunlearn.run_folder import RunFolder
from fedunlearn.vault.additions import note_labels
from fedunlearn.vault.arrays import write_vault

_PRIVATE = 0o700


@dataclass(frozen=True)
class DeviceFolder:
    """Folder of one deployed device.

    Attributes:
        client: number of the client.
        run: the folder; its one vault is the client's.
    """

    client: int
    run: RunFolder

    @property
    def vault(self) -> Path:
        """The folder of the vault."""
        return self.run.vault(self.client)


def device_folder(parent: Path, client: int) -> DeviceFolder:
    """Name a device's folder.

    Args:
        parent: folder of all devices on this machine.
        client: number of the client.
    """
    return DeviceFolder(client, RunFolder(parent / f"device-{client:04d}"))


def fill_device_folders(config: Config, parent: Path, progress: Progress) -> list[DeviceFolder]:
    """Make a folder for each client of an experiment, readable for its owner alone, and put its speech there.

    Args:
        config: resolved.
        parent: new or empty; to be made.
        progress: shown meanwhile.

    Returns:
        the folders, in client order

    Raises:
        BadInput: the corpus, or a recording that cannot be read.
    """
    corpus, speech = decode_corpus(config, progress)
    corpus, partition = read_speech(config, corpus)
    later = recorded_later(partition, config.partition, config.seed)
    folders = [device_folder(parent, share.client) for share in partition.clients]
    parent.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    for folder, share in zip(folders, partition.clients, strict=True):
        folder.run.path.mkdir(mode=_PRIVATE)
        folder.run.vaults.mkdir()
        write_atomically(folder.run.config, config.to_toml())
        # Features are left to the device, which derives them before the first round.
        write_vault(folder.vault, recordings_of(share, corpus, speech, later), len(corpus.emotions), {})
        note_labels(folder.vault, corpus.emotions)
        note_devices(folder.vault, partition.devices_of(share.client))
        reset_liveness(folder.run, share.client + 1)
    return folders


def hand_back_receipts(run: RunFolder, devices: Mapping[int, DeviceFolder]) -> None:
    """Give each device the completed receipts of its requests, and close the requests that they answer.

    On one machine, at the end of an experiment: the experimenter has added to the receipts what the ledger
    says and what was measured.

    Args:
        run: the experimenter's folder of the run, which has ended.
        devices: client -> its folder.
    """
    for client, path in every_receipt(run):
        if client in devices:
            target = devices[client].vault / path.relative_to(run.vault(client))
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
    for client, device in devices.items():
        shown = RequestStore(run.vault(client)).all()
        closed = [r.id for r in shown if not r.is_open and not (r.utterances or r.held_out or r.reason)]
        RequestStore(device.vault).close(closed)
