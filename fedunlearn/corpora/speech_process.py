"""A second process that generates speech, so that a large generated corpus takes half as long on two CPUs.

This process generates utterances from the first on, the other one from the last, until they meet. The samples
are the same bits as those of one process: each utterance has random streams of its own. If the other process
dies, this one generates everything.
"""

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import parent_process

import numpy as np

from fedunlearn.audio import PCM
from fedunlearn.corpora.utterance import Utterance
from fedunlearn.cpus import usable_cpus

FEWEST = 500
"""Utterances from which on a second process is worth its start (about 0.4 s)."""

_COMMAND = "from fedunlearn.corpora.speech_process import generate; generate()"
_HEAD = struct.Struct("<ii")
"""Position of the utterance, and its length in samples."""


@contextmanager
def generated_ahead(utterances: Sequence[Utterance]) -> Iterator[Callable[[Utterance], PCM]]:
    """Read utterances with the help of a second process, which ends with the block.

    Without a second CPU, for few utterances, for speech that is not generated here, and in a process that is
    itself one of several, every utterance is read in this process.

    Args:
        utterances: of a corpus, to be read in this order.

    Returns:
        A function that reads one of them: int16 [S], 16 kHz.
    """
    usable = usable_cpus() > 1 and len(utterances) >= FEWEST and parent_process() is None
    arguments = _arguments_of(utterances) if usable else None
    process = _start() if arguments else None
    if process is None or arguments is None:
        yield lambda utterance: utterance.pcm()
        return
    ready: dict[str, PCM] = {}
    with process:
        thread = threading.Thread(target=_receive, args=(process, arguments, utterances, ready), daemon=True)
        thread.start()
        try:
            yield lambda utterance: ready.pop(utterance.id) if utterance.id in ready else utterance.pcm()
        finally:
            process.kill()
            thread.join()


def generate() -> None:
    """Generate the utterances that standard input lists, last first, and write them to standard output."""
    from fedunlearn.corpora.synthetic import speak

    arguments = json.load(sys.stdin)
    for position in reversed(range(len(arguments))):
        pcm = speak(*arguments[position])
        sys.stdout.buffer.write(_HEAD.pack(position, len(pcm)) + pcm.astype("<i2").tobytes())
        sys.stdout.buffer.flush()


def _arguments_of(utterances: Sequence[Utterance]) -> list[tuple[int, ...]] | None:
    """List the arguments of ``speak`` for each utterance; None where there is other speech."""
    generators = [utterance.pcm for utterance in utterances if isinstance(utterance.pcm, partial)]
    if len(generators) < len(utterances):
        return None
    # Imported on use: the generator is heavy, and a run on real speech does not need it.
    from fedunlearn.corpora.synthetic import speak

    return [g.args for g in generators] if all(g.func is speak for g in generators) else None


def _start() -> "subprocess.Popen[bytes] | None":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _COMMAND],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None


def _receive(
    process: "subprocess.Popen[bytes]",
    arguments: Sequence[tuple[int, ...]],
    utterances: Sequence[Utterance],
    ready: dict[str, PCM],
) -> None:
    """Send the other process its work, and take what it generates until it ends."""
    work, source = process.stdin, process.stdout
    if work is None or source is None:
        return
    with suppress(OSError):  # it has died: what is missing is generated here
        work.write(json.dumps(arguments).encode())
        work.close()
        while len(head := source.read(_HEAD.size)) == _HEAD.size:
            position, samples = _HEAD.unpack(head)
            content = source.read(2 * samples)
            if len(content) == 2 * samples:
                ready[utterances[position].id] = np.frombuffer(content, "<i2").astype(np.int16)
