"""What a device of an experiment shows its experimenter: the metadata files of its vault, with each reply.

Real devices do not: these files say which utterances a person deletes. A device shows them only if its own
node config has ``experimenter=true``, so that the experiment's judge knows what each request names.
"""

from pathlib import Path, PurePosixPath

from flwr.app import ConfigRecord, RecordDict

from fedunlearn.messages.records import Refused
from fedunlearn.vault.relocation import Files, read_metadata_files

METADATA = "metadata"
"""name of the record in a reply"""
_CLIENT = "client"
_FILE = "file:"


def metadata_record(client: int, vault_folder: Path) -> ConfigRecord:
    """Make the record that shows a vault's metadata files.

    Args:
        client: number of the device.
        vault_folder: of the device.
    """
    files = read_metadata_files(vault_folder)
    return ConfigRecord({_CLIENT: client, **{f"{_FILE}{name}": content for name, content in files.items()}})


def take_metadata(content: RecordDict) -> tuple[int, Files] | None:
    """Take the record out of a reply, which is then as it would be without it.

    Args:
        content: of the reply; it loses the record.

    Returns:
        client number and files, or None where the device shows nothing

    Raises:
        Refused: the record names files outside a vault, or is otherwise not what a device sends.
    """
    record = content.config_records.get(METADATA)
    if record is None:
        return None
    del content[METADATA]
    client, files = record.get(_CLIENT), Files()
    for name, value in record.items():
        path = PurePosixPath(name.removeprefix(_FILE))
        if name == _CLIENT:
            continue
        inside = path.parts and not path.is_absolute() and not any(p.startswith(".") for p in path.parts)
        if not name.startswith(_FILE) or not inside or "\\" in name or not isinstance(value, bytes):
            raise Refused("it shows the experimenter something that is no file of a vault")
        files[path.as_posix()] = value
    if not isinstance(client, int):
        raise Refused("it shows the experimenter files, but not whose")
    return client, files
