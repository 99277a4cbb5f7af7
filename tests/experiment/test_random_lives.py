"""Runs of drawn settings and requests, killed at drawn points until they end, end as if nothing had been, and
a replay gives them again."""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from killed_runs import Death, assert_same, lines
from rich.console import Console
from small_run import resumed, small_config, weights_of, without_times

from fedunlearn.audit.replay import ReplayVerdict, replay_run
from fedunlearn.config import Config
from fedunlearn.deletion.inbox import FiledRequest, Inbox
from fedunlearn.deletion.request import RequestState
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.engines.engine import play
from fedunlearn.experiment.checkpoint import RunCheckpoints
from fedunlearn.experiment.experiment import Experiment
from fedunlearn.experiment.preparation import decode_corpus, prepare, resolve
from fedunlearn.experiment.progress import Progress
from fedunlearn.experiment.record import SavedRun
from fedunlearn.experiment.request_contents import close_requests
from fedunlearn.ledger import Ledger
from fedunlearn.messages.records import MessageConfig
from fedunlearn.partition import Partition
from fedunlearn.run_folder import RunFolder
from fedunlearn.server.clients import Clients
from fedunlearn.study.soak_invariants import broken

RISKS = (0.02, 0.05, 0.1, 0.2)
"""probability of dying at each point; drawn once a run"""
MOST_DEATHS = 30
"""afterwards the server lives: long runs of high risk would never end"""
SETTINGS: dict[str, Sequence[Any]] = {
    "seed": range(1, 8),
    "corpus__utterances": (14, 18),
    "training__rounds": (2, 3, 4, 6),
    "training__local__steps": (1,),
    "partition__clients": (3, 4, 5, 6),
    "partition__shared_speakers": (0, 0, 2),
    "partition__devices": (2, 3),
    "deletions__window": (0, 0, 1, 2, 3),
    "deletions__deadline": (0, 0, 2),
    "deletions__patience": (1, 3, 6),
    "deletions__rate": (0, 0, 0.05, 0.15),
    "deletions__rate_count": (2,),
    "deletions__leave_rate": (0, 0, 0, 0.05),
    "deletions__arrive_for": (0, 0, 3),
    "recovery__rounds": (0, 1, 2),
    "recovery__reversion": ("removed", "kept"),
    "unlearning__method": ("calm", "calm", "calm", "pga", "retrained", "fed-eraser", "scrub"),
    "unlearning__aggregation": ("projected", "sequential", "mean"),
    "availability__offline": (0, 0, 0.15, 0.3),
    "availability__offline_rounds": (1, 3),
    "availability__slow": (0, 0, 0.5),
    "availability__slow_rounds": (1, 2, 4),
    "availability__drop": (0, 0, 0.4),
    "availability__lease": (1, 2, 3),
    "guard__drop": (0, 0.05),
    "guard__harmful": ("scale", "refuse"),
    "guard__too_long": ("clip", "refuse"),
    "guard__norm": (12.0, 12.0, 12.0, 1.0),
    "federation__checkpoint_every": (1, 2, 5, 5),
    "evaluation__retrained_seeds": (1, 2),
}
"""what each setting is drawn from"""


# ---- what is drawn ---------------------------------------------------------------------------------------


def drawn_config(dice: random.Random) -> Config:
    drawn = {key: dice.choice(values) for key, values in SETTINGS.items()}
    clients, rounds = drawn["partition__clients"], drawn["training__rounds"]
    schedule: list[dict[str, Any]] = []
    for client in dice.sample(range(clients), dice.randint(0, 3)):
        event: dict[str, Any] = {"client": client, "what": dice.choice(["all", "some", "some"])}
        if event["what"] == "some":
            event["count"] = dice.choice([1, 2, 3])
        if dice.random() < 0.5:
            event["round"] = dice.randint(0, rounds)
        else:
            event["after_learning"] = dice.randrange(3)
        if dice.random() < 0.3:
            event["deadline"] = dice.choice([1, 2, 3])
        schedule.append(event)
    recordings = []
    for _ in range(dice.choice([0, 0, 0, 1, 2])):
        client, count, rounds_done = dice.randrange(clients), dice.choice([2, 3]), dice.randint(1, rounds + 2)
        recordings.append({"client": client, "count": count, "round": rounds_done})
    return small_config(
        corpus__speakers=clients + 2 + dice.choice([0, 0, 2]),
        deletions__schedule=schedule,
        partition__recordings=recordings,
        **drawn,
    )


Act = Callable[[Inbox], None]
Timeline = Mapping[tuple[int, int], Sequence[Act]]
"""(client, rounds done) -> what people put into its inbox just before the server asks in that round"""


def drawn_requests(dice: random.Random, config: Config, partition: Partition) -> Timeline:
    """Draw requests; some are withdrawn on one device, at once or later."""
    plan = defaultdict[tuple[int, int], list[Act]](list)
    for _ in range(dice.randint(0, 3)):
        id_, rounds_done = f"{dice.getrandbits(64):016x}", dice.randrange(config.training.rounds + 4)
        client = dice.randrange(config.partition.clients)
        what = dice.choice(["all", "some", "some", "speaker", "emotion", "named", "named"])
        request = partial(FiledRequest, id_, what, f"person-{id_}", deadline=dice.choice([None, None, 0, 2]))
        devices: Sequence[int] = [client]
        if what == "speaker":
            speaker = dice.choice(sorted({u.speaker for u in partition.clients[client].train}))
            devices = partition.holders[speaker]
            request = partial(request, speaker=speaker, devices=len(devices))
        elif what == "some":
            request = partial(request, count=2)
        elif what == "emotion":
            request = partial(request, emotion=dice.choice(partition.clients[client].test).emotion)
        elif what == "named":
            share = partition.clients[client]
            chosen = dice.sample([*share.test, *share.train], dice.randint(1, 3))
            request = partial(request, utterances=tuple(u.id for u in chosen))
        for device in devices:
            plan[device, rounds_done].append(lambda inbox, request=request: inbox.file(request()))  # type: ignore[misc]
        if dice.random() < 0.4:
            later = rounds_done + dice.choice([0, 0, 1, 2])
            plan[client, later].append(lambda inbox, id_=id_: inbox.file_withdrawal(id_))  # type: ignore[misc]
    return plan


@dataclass(frozen=True)
class Persons:
    """They act whenever the server collects a client's deletions, again if the message is repeated: a Flower
    mod."""

    out: Path
    plan: Timeline

    def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
        if message.metadata.message_type == "query.deletions":
            client = int(context.node_config["partition-id"])
            for act in self.plan.get((client, MessageConfig(message.content).integer("rounds_done")), ()):
                act(Inbox(self.out / "vaults" / f"client-{client:04d}"))
        return call_next(message, context)  # type: ignore[no-any-return]


def mortal(patched: pytest.MonkeyPatch, dice: random.Random, risk: float) -> None:
    """The server may die around an exchange, a checkpoint, a row of the ledger, a state on a device."""

    def around(
        owner: Any, name: str, before: float, after: float, spared: Callable[..., bool] = lambda *_: False
    ) -> None:
        original = getattr(owner, name)

        def chanced(*arguments: Any, **named: Any) -> Any:
            lives = spared(*arguments)
            if dice.random() < before and not lives:
                raise Death
            result = original(*arguments, **named)
            if dice.random() < after and not lives:
                raise Death
            return result

        patched.setattr(owner, name, chanced)

    around(Clients, "ask", 0, risk)
    around(RunCheckpoints, "put", risk, risk, has_ended_partial)
    around(Ledger, "append", risk / 2, risk / 2)
    around(Ledger, "append_model", risk / 2, risk / 2)
    around(Ledger, "append_commitment", risk / 4, risk / 4)
    around(RequestStore, "set_state", risk / 2, risk / 2)


def has_ended_partial(_: RunCheckpoints, saved: SavedRun, __: str) -> bool:
    """Whoever resumes a run that ended with something open has it tried anew: another run from there on."""
    return saved.record.finished and bool(saved.state.open or saved.state.silent_clients)


# ---- what must hold --------------------------------------------------------------------------------------


def no_late_reply_of_the_purged(patched: pytest.MonkeyPatch) -> None:
    """No checkpoint, of either run, may keep what was made of speech that has been purged."""
    put = RunCheckpoints.put

    def looked(self: RunCheckpoints, saved: SavedRun, head: str) -> None:
        put(self, saved, head)
        for reply in saved.state.late_replies:
            if any(saved.state.requests[key].gone for key, _ in reply.requests):
                assert not any(t.numel() for t in reply.update.difference.values()), (
                    reply.requests,
                    reply.due,
                )

    patched.setattr(RunCheckpoints, "put", looked)


def assert_sound(experiment: Experiment, results: Mapping[str, Any]) -> None:
    assert broken(experiment, set()) == []
    faults = [f for f in results["faults"] if f["kind"] == "refused" and not f["reason"].startswith("guard")]
    assert not faults, "everybody is honest here"
    requests = experiment.state.requests.values()
    assert results["status"] == "partial" or not [r.key for r in requests if r.unfinished]
    for request in requests:
        verified = [step["date"] for step in request.history if step["state"] == RequestState.VERIFIED]
        if verified and request.deadline is not None:
            assert request.overdue == (verified[-1] > request.rounds_done + request.deadline), request.key


def on_devices(out: Path) -> dict[str, Any]:
    """Stores and receipts of all devices, without measured times and the amount that a scan read."""
    found: dict[str, Any] = {}
    for vault in sorted((out / "vaults").iterdir()):
        found[vault.name] = [
            (r.id, r.state, r.round, r.utterances, r.held_out, r.withdrawn) for r in RequestStore(vault).all()
        ]
        for file in sorted(vault.glob("receipts/*.json")):
            receipt = json.loads(file.read_text())
            del receipt["when"]["utc"], receipt["verification"]["files"], receipt["verification"]["bytes"]
            del receipt["sha256"], receipt["kept"]  # of these, too; of what the cache happened to keep
            found[f"{vault.name}/{file.name}"] = receipt
    return found


def live(folder: Path, seed: int) -> int:
    """An undisturbed run of a seed, and one that is killed. Returns how often the second one died."""
    dice, quiet = random.Random(seed), Progress(Console(quiet=True))
    config = drawn_config(dice)
    decoded = decode_corpus(resolve(config), quiet)
    whole, out = folder / "whole", folder / "run"
    deaths, results = 0, None
    with pytest.MonkeyPatch.context() as watched:
        no_late_reply_of_the_purged(watched)
        experiment = prepare(config, whole, folder / "whole-run" / "cache", quiet, decoded)
        plan, risk = drawn_requests(dice, config, experiment.partition), dice.choice(RISKS)
        expected = play(experiment, [Persons(whole, plan)]).to_json()
        assert_sound(experiment, expected)

        while results is None:
            with pytest.MonkeyPatch.context() as patched:
                mortal(patched, dice, risk if deaths < MOST_DEATHS else 0)
                try:
                    results = resumed(out, config, folder / "cache", [Persons(out, plan)], decoded)
                except Death:
                    deaths += 1
        assert_same(out, results, (expected, weights_of(whole)))
        assert lines(out) == lines(whole)
        assert on_devices(out) == on_devices(whole)
        replayed = replay_run(RunFolder(out), None, quiet)
        assert replayed.verdict is ReplayVerdict.REPRODUCED, replayed.line
        if expected["status"] == "complete":  # what was left open would be tried anew
            close_requests(experiment.run, experiment.partition, experiment.saved)
            again = resumed(whole, config, folder / "whole-run" / "cache", decoded=decoded)
            assert without_times(again) == without_times(expected)
    return deaths


@pytest.mark.parametrize("seed", [2, pytest.param(9, marks=pytest.mark.slow)])
def test_a_life_of_many_deaths_ends_as_one_without(tmp_path: Path, seed: int) -> None:
    assert live(tmp_path, seed) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_twenty_lives_end_as_without_deaths(tmp_path: Path, seed: int) -> None:
    live(tmp_path, seed)
