"""Sound files that a person adds to a device, checked before any of them is filed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedunlearn.audio import FULL_SCALE, PCM, SAMPLE_RATE, BadAudio, examine
from fedunlearn.corpora.inspection import LONG, SHORT, SILENT
from fedunlearn.errors import BadInput
from fedunlearn.vault.additions import Addition, digest_of, file_recording, labels_of, waiting_recordings
from fedunlearn.vault.arrays import DamagedVault
from fedunlearn.vault.relocation import is_elsewhere
from fedunlearn.vault.vault import Vault


def add_files(
    vault_folder: Path, files: Sequence[Path], label: str, speaker: str
) -> tuple[list[Addition], list[str]]:
    """Leave the recordings of sound files in a device's inbox: all of them, or none.

    Args:
        vault_folder: of the device.
        files: of any format, rate and number of channels that ``audio`` reads.
        label: the emotion of all of them.
        speaker: who speaks; empty = the device's only speaker.

    Returns:
        (what was filed, in order; what is odd about a recording that can be used all the same, one line each)

    Raises:
        BadInput: one line for each mistake: an unknown label, no or an unclear speaker, a file that cannot be
            read, a recording that is too short, too long, silent, or held or given already; or the device's
            files are damaged or on another node of a cluster.
    """
    if is_elsewhere(vault_folder):
        raise BadInput(f"{vault_folder}: the arrays of this device are on another node; nothing was added")
    try:
        held = Vault(vault_folder)
    except (DamagedVault, OSError, ValueError) as error:
        raise BadInput(f"{error}; nothing was added") from error
    problems, notes = list[str](), list[str]()
    labels = labels_of(vault_folder)
    if label not in labels:
        problems.append(f"--label {label}: the emotions of this device are {', '.join(labels)}")
    speakers = sorted({entry.speaker for entry in held.entries.values()})
    if not speaker and len(speakers) == 1:
        speaker = speakers[0]
    elif not speaker and len(speakers) > 1:
        problems.append(f"--speaker is missing: this device holds speech of {', '.join(speakers)}")
    known = {held.digest(utterance): f"the device holds it as {utterance}" for utterance in held.entries}
    known |= {
        w.about.sha256: f"it waits as {w.about.id}" for w in waiting_recordings(vault_folder) if w.about
    }
    found: list[tuple[Addition, PCM]] = []
    for file in files:
        try:
            recording = examine(file)
        except BadAudio as error:
            problems.append(str(error))
            continue
        if problem := _problem(recording.pcm) or known.get(digest_of(recording.pcm), ""):
            problems.append(f"{file}: {problem}")
        notes += [f"{file}: {what} ({how})" for what, how in recording.oddities.items()]
        found.append((Addition.of(recording.pcm, label, speaker), recording.pcm))
        known[found[-1][0].sha256] = f"it is the same audio as {file}"
    if problems:
        raise BadInput([*problems, "nothing was added"] if len(files) > 1 else problems)
    for addition, pcm in found:
        file_recording(vault_folder, addition, pcm)
    return [addition for addition, _ in found], notes


def _problem(pcm: PCM) -> str:
    """Why a recording cannot be trained on; empty if it can."""
    seconds, peak = len(pcm) / SAMPLE_RATE, int(np.abs(pcm.astype(np.int32)).max(initial=0))
    if seconds < SHORT:
        return f"is {seconds:.3f} s long; at least {SHORT:g} s are needed"
    if seconds > LONG:
        return f"is {seconds:.0f} s long; at most {LONG:g} s can be used"
    if peak < FULL_SCALE * 10 ** (SILENT / 20):
        return f"is silent (its peak is below {SILENT:g} dB of full scale)"
    return ""
