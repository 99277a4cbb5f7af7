"""Which device a command is for: a client of a run, or a vault folder on its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fedunlearn.errors import BadInput
from fedunlearn.run_folder import RunFolder
from fedunlearn.vault.index import INDEX, Index

RunOption = Annotated[
    Path | None, typer.Option("--run", help="The run folder, with --client; a run may be going on in it.")
]
ClientOption = Annotated[int | None, typer.Option("--client", help="Whose device, 0 ...")]
VaultOption = Annotated[
    Path | None,
    typer.Option(
        "--vault", metavar="DIR", help="The device's own vault folder, in place of --run and --client."
    ),
]


@dataclass(frozen=True)
class NamedDevice:
    """The device that a command is for.

    Attributes:
        vault: its folder.
        client: its number; of a vault on its own, what its name says (client-NNNN), else 0.
        run: the run folder; None = the vault was named on its own.
    """

    vault: Path
    client: int
    run: RunFolder | None

    @property
    def name(self) -> str:
        """How messages name it."""
        return str(self.vault) if self.run is None else f"client {self.client}"


def find_device(run: Path | None, client: int | None, vault: Path | None) -> NamedDevice:
    """Find the device that the options name.

    Args:
        run: value of ``--run``.
        client: value of ``--client``.
        vault: value of ``--vault``.

    Raises:
        BadInput: they name none, or two; or there is no such device.
    """
    if vault is not None:
        if run is not None or client is not None:
            raise BadInput("give either --vault DIR, or --run RUN and --client N")
        if not (vault / INDEX).is_file():
            raise BadInput(f"--vault {vault}: is no vault ({INDEX} is missing); give a device's own folder")
        return NamedDevice(vault, _number(vault), None)
    if run is None or client is None:
        raise BadInput("say which device: --run RUN --client N, or --vault DIR")
    folder = RunFolder(run)
    list_clients(folder, client)
    return NamedDevice(folder.vault(client), client, folder)


def list_clients(run: RunFolder, client: int | None = None) -> list[int]:
    """List the clients of a run folder, in order.

    Args:
        run: the folder.
        client: must be one of them; None = no matter.

    Raises:
        BadInput: there are none, or not this one.
    """
    found = run.clients()
    if not found:
        raise BadInput(f"--run {run.path}: is no run folder (no vaults in it); give the --out of a run")
    if client is not None and client not in found:
        raise BadInput(f"--client {client}: the clients of {run.path} are {found[0]} to {found[-1]}")
    return found


def read_index(vault: Path) -> Index:
    """Read the index of a vault.

    Args:
        vault: its folder.

    Raises:
        BadInput: it cannot be read.
    """
    try:
        return Index.read(vault)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{vault}: its index cannot be read ({error})") from error


def _number(vault: Path) -> int:
    name = vault.absolute().name.removeprefix("client-")
    return int(name) if name.isdecimal() else 0
