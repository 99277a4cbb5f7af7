"""The device: one ClientApp that answers from its own vault, and tells nobody what is in it.

Message types: ``query.population`` (who am I, how much do I hold), ``train.calibrate`` (normalisation
constants), ``train`` (ordinary and recovery rounds), ``evaluate`` (held-out speech), ``query.deletions``
(what my people want gone), ``train.unlearn`` (forget it, on the forget set alone), ``train.forget_part`` and
``train.retain_part`` (a round of an upper reference), ``query.purge`` (it is applied: remove it for good, and
verify). Where a message says so, requested utterances are left out before they are purged.
"""

import copy
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from time import thread_time
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedunlearn import config as configuration
from fedunlearn.blockwise import StateDict
from fedunlearn.client.liveness import attending
from fedunlearn.client.privacy import told
from fedunlearn.client.steps import (
    heard_by,
    moments_of,
    sent,
    train_in_round,
    trained,
    unlearned,
)
from fedunlearn.config import Config
from fedunlearn.config.model import ModelSettings
from fedunlearn.deletion.admission import raise_due
from fedunlearn.deletion.purge import AppliedRequests, purge_requests
from fedunlearn.deletion.receipts import MethodRecord
from fedunlearn.deletion.request import RequestState
from fedunlearn.deletion.request_store import RequestStore, answer
from fedunlearn.examples import Examples
from fedunlearn.links import open_to_append
from fedunlearn.messages.records import LARGE, MessageConfig, borrow, lend
from fedunlearn.messages.scalars import read_scalars
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Split
from fedunlearn.run_folder import RunFolder
from fedunlearn.seeding import rng_for
from fedunlearn.training import TrainingDiverged
from fedunlearn.unlearning import METHODS, PRIVILEGED, method_named
from fedunlearn.unlearning.contract import Method, UnlearnFailed
from fedunlearn.unlearning.privileged.contract import RoundsCard
from fedunlearn.vault.calibration import may_send_moments
from fedunlearn.vault.vault import Vault

Handler = Callable[["Device", RecordDict], RecordDict]


class Device:
    """What a process keeps of one client between messages: its opened vault and a model to load into."""

    def __init__(self, run: RunFolder, client: int) -> None:
        self.client = client
        self.run, self._stamp = run, _stamp(run)
        self.config = _config(run.config, self._stamp)
        self.vault = Vault(run.vault(client))
        self.model = _recogniser(self.config.model, self.vault.classes)
        self._examples: dict[Split, Examples] = {}

    @property
    def is_current(self) -> bool:
        """Whether run and vault are still those that this was made of."""
        return self._stamp == _stamp(self.run) and self.vault.is_current

    def examples(self, split: Split) -> Examples:
        """All examples of one split, kept in memory until a purge."""
        if split not in self._examples:
            self.vault.derive(self.model)
            self._examples[split] = self.vault.examples(self.vault.ids(split), self.model)
        return self._examples[split]

    def kept(self, content: RecordDict) -> Examples:
        """The training examples recorded by the message's date, less those of the requests it withholds."""
        examples, there, kept = self.examples("train"), self.vault.ids("train"), set(self.kept_ids(content))
        if len(kept) == len(there):
            return examples
        rows = [i for i, utterance in enumerate(there) if utterance in kept]
        return examples.take(torch.tensor(rows, dtype=torch.int64))

    def kept_ids(self, content: RecordDict) -> tuple[str, ...]:
        """The ids of ``kept``, in vault order."""
        by_date, gone = self.vault.ids("train", by=MessageConfig(content).integer("rounds_done")), set[str]()
        if "withheld" in content.config_records:
            gone = set(_utterances_of(self, MessageConfig(content, "withheld").texts("requests")))
        return tuple(utterance for utterance in by_date if utterance not in gone)

    def load(self, content: RecordDict) -> None:
        """Put the message's weights into the model."""
        self.model.load_state_dict(borrow(content.array_records["weights"]))

    def teacher(self, content: RecordDict) -> EmotionModel | None:
        """A second model with the message's ``teacher`` weights; None where it brings none."""
        weights = content.array_records.get("teacher")
        if weights is None:
            return None
        model = copy.deepcopy(self.model)
        model.load_state_dict(borrow(weights))
        return model

    def forget_caches(self) -> None:
        """Drop everything in memory that came from audio."""
        self._examples.clear()


@lru_cache(maxsize=4)
def _config(file: Path, stamp: tuple[int, int]) -> Config:
    """The one experiment of a process. ``stamp``: of the file as it is now."""
    return configuration.load(file)


@lru_cache(maxsize=4)
def _recogniser(settings: ModelSettings, classes: int) -> EmotionModel:
    """The one model of a process, for all its devices: whoever is asked loads the message's weights first."""
    return build_model(settings, classes, rng_for(0, "template"))


@lru_cache(maxsize=1)
def _room(model: EmotionModel) -> StateDict | None:
    """Where the difference of a large model is written, again and again: new memory would take longer.

    What is sent from here holds until the process answers its next message. Whoever reads it has done so.
    """
    state = model.state_dict()
    large = sum(value.nbytes for value in state.values()) >= LARGE
    return {name: torch.empty_like(value) for name, value in state.items()} if large else None


class DeviceFailed(Exception):
    """What a device tells of its failure: the kind of it, and no path, speaker or utterance."""


_devices: dict[tuple[str, int], Device] = {}
_swept: tuple[object, ...] = ()
"""the run, and its count of purges, when ``_devices`` was last looked through"""


def _stamp(run: RunFolder) -> tuple[int, int]:
    # Every run writes its config anew.
    status = run.config.stat()
    return status.st_ino, status.st_mtime_ns


def _home(run_folder: str, context: Context) -> tuple[RunFolder, int]:
    folder = run_folder or str(context.run_config["out"])
    return _run(folder), int(context.node_config["partition-id"])


@lru_cache(maxsize=4)
def _run(folder: str) -> RunFolder:
    return RunFolder(Path(folder))


def _device(run: RunFolder, client: int) -> Device:
    _drop_stale(run)
    key = str(run.path), client
    known = _devices.get(key)
    if known is None or not known.is_current:
        torch.set_num_threads(1)
        known = _devices[key] = Device(run, client)
    return known


def _drop_stale(run: RunFolder) -> None:
    """Let go of every device that another worker has purged since, whoever this message is for.

    And of those of other runs, which may have had this one's place.
    """
    global _swept
    purges = run.purges.stat().st_size if run.purges.exists() else 0
    now = (str(run.path), _stamp(run), purges)
    if now != _swept:
        for key in [k for k, d in _devices.items() if k[0] != str(run.path) or not d.is_current]:
            del _devices[key]
        _swept = now


def population(device: Device, _: RecordDict) -> RecordDict:
    """Who this is and how many utterances it trains on and holds out; features are derived on the way."""
    vault = device.vault
    vault.derive(device.model)
    return _reply(client=device.client, train=len(vault.ids("train", by=0)), test=len(vault.ids("test")))


def calibrate_locally(device: Device, content: RecordDict) -> RecordDict:
    """This client's mean and mean square per feature dimension, for the shared normalisation constants.

    They are sent of one set of utterances, ever: of two sets, or of three utterances or fewer, they would
    tell single utterances' features. Otherwise the client sends nothing.
    """
    kept = device.kept(content)
    sends = may_send_moments(device.vault.folder, device.kept_ids(content))
    moments = moments_of(device.model, kept if sends else kept.take(torch.arange(0)))
    reply = _reply(examples=moments.frames)
    reply["moments"] = lend({"mean": moments.mean, "mean_square": moments.mean_square})
    return reply


def train_locally(device: Device, content: RecordDict) -> RecordDict:
    """One ordinary or recovery round on everything this client keeps."""
    asked, config = MessageConfig(content), device.config
    epochs, lr = asked.integer("epochs"), asked.real("lr")
    when = (asked.text("phase"), asked.integer("round"), asked.integer("stream"))

    def training(kept: Examples) -> float:
        return train_in_round(device.model, kept, config, epochs, lr, device.client, *when)

    return _trained(device, content, training)


def _trained(device: Device, content: RecordDict, training: Callable[[Examples], float]) -> RecordDict:
    start, kept = borrow(content.array_records["weights"]), device.kept(content)
    # Who has recorded nothing yet learns nothing, and counts for nothing.
    update, loss = trained(
        device.model, start, lambda: training(kept) if len(kept) else 0.0, _room(device.model)
    )
    reply = _reply(examples=len(kept), loss=loss)
    reply["update"] = lend(update)
    return reply


def evaluate_locally(device: Device, content: RecordDict) -> RecordDict:
    """What of this client's held-out speech the global model gets right, and log-odds if asked for."""
    device.load(content)
    held_out = device.examples("test")
    log_odds = bool(MessageConfig(content).integer("log_odds"))
    own, rank = device.kept(content) if log_odds else None, device.config.unlearning.calm.rank
    right, of_trained, of_held_out = heard_by(device.model, held_out, own, rank)
    sums = of_trained.as_metrics("trained") | of_held_out.as_metrics("held_out") if log_odds else {}
    return _reply(examples=len(held_out), right=right, **sums)


def deletions(device: Device, content: RecordDict) -> RecordDict:
    """The requests of this device, as ids, counts, states and dates, and how much it trains on now."""
    asked, vault = MessageConfig(content), device.vault
    rounds_done, trained = asked.integer("rounds_done"), asked.integer("trained")
    book = raise_due(device.config, vault, device.client, rounds_done)
    reply = _reply(train=len(vault.ids("train", rounds_done)))
    reply["requests"] = ConfigRecord({**answer(book, vault.entries, rounds_done, trained)})
    return reply


def unlearn_locally(device: Device, content: RecordDict) -> RecordDict:
    """Forget the named requests' utterances, on them alone, and send the difference."""
    return _unlearned(device, content, METHODS[device.config.unlearning.method].unlearn)


def _unlearned(device: Device, content: RecordDict, unlearn: Method) -> RecordDict:
    asked = MessageConfig(content)
    device.load(content)
    config = device.config
    names = asked.texts("requests")
    ids = _utterances_of(device, names)
    forget_set = device.vault.forget_set(ids, device.model)
    scalars, timeline_round = read_scalars(asked), asked.integer("round")
    result, update = unlearned(
        device.model, forget_set, unlearn, config, scalars, device.client, timeline_round, config.seed
    )
    result = told(result, config.privacy)
    RequestStore(device.vault.folder).set_state(
        names, RequestState.UNLEARNED
    )  # too late to withdraw from here on
    before, after = result.forget_accuracy
    reply = _reply(
        examples=len(forget_set),
        steps=result.steps,
        forget_before=before,
        forget_after=after,
        adversarial=result.adversarial,
        attack_success=result.attack_success,
    )
    own = partial(device.kept, content)
    reply["update"] = lend(
        sent(device.model, update, own, config, device.client, timeline_round, config.seed)
    )
    reply["outcome"] = ConfigRecord(
        {"stopped": result.stopped, "scalars_read": ",".join(result.scalars_read)}
    )
    return reply


def forget_part(device: Device, content: RecordDict) -> RecordDict:
    """A requester's half of an upper reference's round: away from its forget set."""
    part = _rounds_card(device).forget
    assert part is not None
    return _unlearned(device, content, partial(part, original=device.teacher(content)))


def retain_part(device: Device, content: RecordDict) -> RecordDict:
    """A client's half of an upper reference's round: training on what it keeps."""
    config, card = device.config, _rounds_card(device)
    rng = rng_for(config.seed, "retain part", device.client, MessageConfig(content).integer("round"))

    def part(kept: Examples) -> float:
        local, teacher = config.training.local, device.teacher(content)
        return card.retain(device.model, kept, config.unlearning, local, rng, teacher)

    return _trained(device, content, part)


def _rounds_card(device: Device) -> RoundsCard:
    card = PRIVILEGED[device.config.unlearning.method]
    assert isinstance(card, RoundsCard)
    return card


def purge(device: Device, content: RecordDict) -> RecordDict:
    """Remove the named requests' utterances for good, look for them everywhere, leave a receipt."""
    asked = MessageConfig(content)
    card, run = method_named(device.config.unlearning.method), device.run
    method = MethodRecord(card.name, card.source, card.sees, device.config.unlearning.aggregation)
    rounds_done, rounds, since = (asked.integer(name) for name in ("rounds_done", "round", "round_applied"))
    applied = AppliedRequests(
        rounds_done, rounds, since, asked.text("model"), method, asked.text("ledger_head")
    )
    beside = [path for path in run.path.iterdir() if path != run.vaults]  # others' vaults are others' speech
    try:
        done = purge_requests(
            device.vault, device.model, asked.texts("requests"), beside, applied, _spared(device)
        )
    finally:
        device.forget_caches()
        _devices.pop((str(run.path), device.client), None)
        with open_to_append(run.purges) as file:
            file.write(".")
    train, held = (len(device.vault.ids(split, applied.rounds_done)) for split in ("train", "test"))
    return _reply(removed=done.removed, verified=int(done.verified), train=train, held=held)


def _spared(device: Device) -> list[Path]:
    """What is not this device's to look into, where a link leads there: others' vaults, the user's corpus."""
    return [device.run.vaults, *device.config.corpus.folders]


HANDLERS: dict[str, Handler] = {
    "query.population": population,
    "train.calibrate": calibrate_locally,
    "train.default": train_locally,
    "evaluate.default": evaluate_locally,
    "query.deletions": deletions,
    "train.unlearn": unlearn_locally,
    "train.forget_part": forget_part,
    "train.retain_part": retain_part,
    "query.purge": purge,
}


def make_client_app(run_folder: str = "", mods: Sequence[Any] = ()) -> ClientApp:
    """The ClientApp, used unchanged by both engines.

    Args:
        run_folder: where the vaults are; empty = read ``out`` from the run config (``flwr run``).
        mods: Flower mods around every handler; tests inject failures through them.
    """
    app = ClientApp(mods=list(mods))
    for kind, handler in HANDLERS.items():
        category, action = kind.split(".")
        getattr(app, category)(action)(partial(_answer, run_folder, handler))
    return app


def _answer(run_folder: str, handler: Handler, message: Message, context: Context) -> Message:
    run, client = _home(run_folder, context)
    start = thread_time()
    told = ""
    try:
        content = _attended(_device(run, client), handler, message.content)
    except Exception as error:
        # In full into the device's own log; only the kind of it leaves the device.
        with open_to_append(run.vault(client) / "log.txt") as log:
            log.write("".join(traceback.format_exception(error)))
        told = _told(error)
    if told:  # out here, or the exception would keep the other's frames alive, and the speech in them
        raise DeviceFailed(told)
    content.metric_records["metrics"]["seconds"] = thread_time() - start
    return Message(content, reply_to=message)


def _attended(device: Device, handler: Handler, content: RecordDict) -> RecordDict:
    """Answer, and say so if the process that tried it before died in the middle."""
    with attending(device.run, device.client) as died:
        reply = handler(device, content)
    if died:
        reply.metric_records["metrics"]["died"] = 1
    return reply


def _told(error: Exception) -> str:
    if isinstance(error, UnlearnFailed | TrainingDiverged):
        return str(error)
    why = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    return f"{type(error).__name__}{why}; the device's own log says more"


def _reply(**metrics: float) -> RecordDict:
    # What was not measured (NaN) is not sent.
    return RecordDict({"metrics": MetricRecord({k: v for k, v in metrics.items() if v == v})})


def _utterances_of(device: Device, request_ids: Iterable[str]) -> tuple[str, ...]:
    wanted = set(request_ids)
    book = RequestStore(device.vault.folder).all()
    return tuple(u for r in book if r.id in wanted for u in r.utterances)
