"""Flower's own Grid in a deployment, with three things added on the way.

It asks the SuperLink for replies a few times a second instead of two hundred times. It takes out of the
replies what devices of an experiment show the experimenter: the metadata files of their vaults, which are
written into the run folder, where the judge reads them (``client.shown_metadata``). And it holds back for a
while what the SuperLink answers in place of a device that is away, so that the device has time to come back
before it is asked again.
"""

import time
from collections.abc import Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedunlearn.client.shown_metadata import take_metadata
from fedunlearn.messages.flower_internals import is_from_superlink, set_sender
from fedunlearn.messages.records import Refused, serialised
from fedunlearn.run_folder import RunFolder
from fedunlearn.vault.relocation import replace_metadata_files

_POLL_SECONDS = 0.25
_AWAY_SECONDS = 10.0


class DeploymentGrid(Grid):
    """A grid over the SuperNodes of a deployment.

    Args:
        grid: Flower's.
        run: the experimenter's folder of the run.
        clients: how many there are.
        away_seconds: how long the server is not told that a device is away.
    """

    def __init__(self, grid: Grid, run: RunFolder, clients: int, away_seconds: float = _AWAY_SECONDS) -> None:
        self._away = away_seconds
        self._grid, self._folder, self._count = grid, run, clients
        self._client_of: dict[int, int] = {}
        self._asked_at = 0.0
        self._asked: dict[str, int] = {}
        self._held: dict[str, tuple[float, Message]] = {}

    def set_run(self, run: Any) -> None:
        """Set the run, as Flower does."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """The run, as Flower knows it."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Refuse: deprecated by Flower in favour of the constructor of ``Message``."""
        raise RuntimeError("make messages with flwr.app.Message")

    def get_node_ids(self) -> Iterable[int]:
        """List the ids of the SuperNodes that are connected."""
        self._wait()
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages with their weights serialised; returns their ids."""
        serial = [_serialised(message) for message in messages]
        names = list(self._grid.push_messages(serial))
        self._asked |= {n: m.metadata.dst_node_id for n, m in zip(names, serial, strict=False)}
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies, a few times a second at most; what they show the experimenter is taken out."""
        self._wait()
        arrived = []
        for reply in self._grid.pull_messages(message_ids):
            if is_from_superlink(reply):
                self._hold(reply)
            else:
                arrived.append(self._without_metadata(reply))
                self._held.pop(reply.metadata.reply_to_message_id, None)  # it is back
        now = time.monotonic()
        due = [name for name, (when, _) in self._held.items() if when <= now]
        return arrived + [self._held.pop(name)[1] for name in due]

    def _hold(self, reply: Message) -> None:
        """Keep what the SuperLink answers for a device that is away; it does so at every question."""
        name = reply.metadata.reply_to_message_id
        node = self._asked.pop(name, None)
        if node is not None:
            set_sender(reply, node)
            self._held[name] = time.monotonic() + self._away, reply

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and wait for the replies, as Flower does."""
        sent = [_serialised(message) for message in messages]
        replies = self._grid.send_and_receive(sent, timeout=timeout)
        return [self._without_metadata(reply) for reply in replies]

    def _wait(self) -> None:
        time.sleep(max(0.0, self._asked_at + _POLL_SECONDS - time.monotonic()))
        self._asked_at = time.monotonic()

    def _without_metadata(self, reply: Message) -> Message:
        if reply.has_error():
            return reply
        try:
            shown = take_metadata(reply.content)
            if shown is not None:
                client, files = shown
                node = reply.metadata.src_node_id
                whose = self._client_of.setdefault(node, client)
                others = {c for n, c in self._client_of.items() if n != node}
                if client != whose or client in others or not 0 <= client < self._count:
                    raise Refused(f"it says that it is client {client}")
                replace_metadata_files(self._folder.vault(client), files)
        except Refused:
            reply.content = RecordDict()  # which no reader accepts
        return reply


def _serialised(message: Message) -> Message:
    message.content = serialised(message.content)
    return message
