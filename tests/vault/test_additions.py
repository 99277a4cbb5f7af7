"""A device's life outside corpora: recordings are added, trained on, listed, deleted and searched for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from command_line import call_wide as call
from flwr.app import Context, Message
from small_run import prepared, resumed, run_small, small_config, weights_of, without_times
from tiny import tone

from fedunlearn.engines.engine import play
from fedunlearn.errors import BadInput
from fedunlearn.messages.records import MessageConfig, number
from fedunlearn.results_schema import Results
from fedunlearn.run_folder import RunFolder
from fedunlearn.vault.additions import waiting_recordings
from fedunlearn.vault.vault import Vault

NOBODY_ASKS = {"deletions__schedule": [], "training__rounds": 4}


def wav(path: Path, take: int = 0, rate: int = 16_000, channels: int = 1, seconds: float = 0.5) -> Path:
    samples = np.repeat(tone(3, 1, take, seconds)[:, None], channels, axis=1)
    soundfile.write(path, samples, rate)
    return path


class Meanwhile:
    """Does something once, right after client 0 has answered a kind of message; counts what is trained on."""

    def __init__(self, kind: str, rounds_done: int, action: Any) -> None:
        self.at, self.action, self.counts = (kind, rounds_done), action, dict[tuple[int, int], set[int]]()

    def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
        reply: Message = call_next(message, context)
        client, kind = int(context.node_config["partition-id"]), message.metadata.message_type
        done = MessageConfig(message.content).integer("rounds_done") if kind != "query.population" else -1
        if kind == "train":
            self.counts.setdefault((client, done), set()).add(int(number(reply.content, "examples")))
        if self.action and client == 0 and (kind, done) == self.at:
            action, self.action = self.action, None
            action()
        return reply


def add(out: Path, file: Path, client: int = 2, label: str = "happy") -> str:
    code, output = call("vault", "add", file, "--label", label, "--run", out, "--client", client)
    assert code == 0, output
    return output.partition(":")[0]


@pytest.fixture(scope="module")
def label() -> str:
    return "happy"


def test_a_recording_that_is_added_meanwhile_joins_at_the_next_round(tmp_path: Path) -> None:
    out, config = tmp_path / "run", small_config(**NOBODY_ASKS)
    experiment = prepared(out, config)
    whole = len(experiment.partition.clients[2].train)
    emotion = experiment.corpus.emotions[1]
    meanwhile = Meanwhile("train", 1, lambda: add(out, wav(tmp_path / "a.wav"), label=emotion))
    results = play(experiment, [meanwhile]).to_json()
    assert results["status"] == "complete", results["failure"]
    counts = [meanwhile.counts[2, done] for done in range(4)]
    assert counts == [{whole}, {whole}, {whole + 1}, {whole + 1}]
    assert results["added"] == [{"client": 2, "round": 2, "count": 1}]
    (caveat,) = (c for c in results["caveats"] if c["kind"] == "recordings added")
    assert not caveat["decisive"] and "1 at client 2 after round 2" in caveat["sentence"]
    entry = list(Vault(out / "vaults" / "client-0002").entries.values())[-1]
    assert entry.added and entry.recorded == 2 and entry.split == "train"
    assert not waiting_recordings(out / "vaults" / "client-0002")
    assert Results.model_validate(results).to_json() == results
