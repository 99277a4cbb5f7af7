"""The ClientApp: a handler per message type, each of which works on one device's own vault.

Message types:
    query.population    client number and number of utterances
    train.calibrate     moments of the features, for the normalisation constants
    train               ordinary and recovery rounds
    evaluate            the model on held-out examples
    evaluate.log_odds   the model's log-odds, on speech that it has not learned
    query.deletions     the device's deletion requests
    train.unlearn       unlearn requests, on their forget set alone
    train.forget_part   a requester's half of a privileged baseline's round
    train.retain_part   a client's half of a privileged baseline's round
    train.rehearse      unlearn speech that nobody asked to delete, for the guard, and keep nothing of it
    query.purge         remove the data of applied requests for good, and verify it

Where a message has a record ``withheld``, the utterances of these requests are left out although they are not
purged yet.
"""

import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import thread_time
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedunlearn.client.costs import CostLog
from fedunlearn.client.device import DEVICES, Device
from fedunlearn.client.liveness import serving
from fedunlearn.client.privacy import redact
from fedunlearn.client.shown_metadata import METADATA, metadata_record
from fedunlearn.client.steps import (
    calibration_moments,
    draw_rehearsal,
    evaluate,
    notes_for,
    outgoing_update,
    rehearse,
    sum_log_odds,
    train_in_round,
    train_update,
    unlearn_update,
    with_unknown,
)
from fedunlearn.config.work import LocalWork
from fedunlearn.deletion.admission import raise_due
from fedunlearn.deletion.purge import AppliedRequests, purge_requests
from fedunlearn.deletion.receipts import MethodRecord
from fedunlearn.deletion.request import RequestState
from fedunlearn.deletion.request_store import report_requests
from fedunlearn.examples import Examples
from fedunlearn.links import open_to_append
from fedunlearn.messages.records import MessageConfig, borrow, lend, serialised
from fedunlearn.messages.scalars import read_scalars
from fedunlearn.models.probes import Probes
from fedunlearn.run_folder import RunFolder
from fedunlearn.seeding import rng_for
from fedunlearn.training import TrainingDiverged
from fedunlearn.unlearning import METHODS, PRIVILEGED, method_named
from fedunlearn.unlearning.contract import Method, UnlearnFailed
from fedunlearn.unlearning.privileged.contract import RoundsCard
from fedunlearn.vault.calibration import may_send_moments

Handler = Callable[[Device, RecordDict], RecordDict]
"""(device, content of the message) -> content of the reply"""


class DeviceFailed(Exception):
    """A handler's failure as the server sees it: its kind, without paths, speakers or utterances."""


# ---- handlers ------------------------------------------------------------------------------------------


def report_population(device: Device, _: RecordDict) -> RecordDict:
    """Report the client number, how many utterances it holds, and a commitment; derives features first."""
    vault = device.vault
    vault.derive(device.model)
    reply = _reply(client=device.client, train=len(vault.ids("train", by=0)), test=len(vault.ids("test")))
    reply["commitment"] = device.commitment()
    return reply


def calibrate_locally(device: Device, content: RecordDict) -> RecordDict:
    """Compute mean and mean square per feature dimension, for the shared normalisation constants.

    A device sends them for one set of at least four utterances, ever: those of two sets, or of fewer
    utterances, would reveal the features of single utterances. Otherwise it sends empty moments.
    """
    kept = device.kept(content)
    sends = may_send_moments(device.vault.folder, device.kept_ids(content))
    moments = calibration_moments(device.model, kept if sends else kept.take(torch.arange(0)))
    reply = _reply(examples=moments.frames)
    reply["moments"] = lend({"mean": moments.mean, "mean_square": moments.mean_square})
    return reply


def train_locally(device: Device, content: RecordDict) -> RecordDict:
    """Train one ordinary or recovery round on everything that the device keeps."""
    settings = MessageConfig(content)
    work, lr = LocalWork(settings.integer("steps"), settings.integer("epochs")), settings.real("lr")
    when = (settings.text("phase"), settings.integer("round"), settings.integer("stream"))
    weight = settings.real("weight")

    def training(kept: Examples) -> float:
        noted = notes_for(device.model, kept, weight)
        loss = train_in_round(device.model, kept, device.config, work, lr, device.client, *when, noted)
        if noted is not None:
            device.note_tickets(content, noted * (weight * len(kept)))
        return loss

    return _train(device, content, training)


def _train(device: Device, content: RecordDict, training: Callable[[Examples], float]) -> RecordDict:
    start, kept = borrow(content.array_records["weights"]), device.kept(content)
    # A device without recordings does not train and has no weight in the average.
    update, loss = train_update(
        device.model, start, lambda: training(kept) if len(kept) else 0.0, device.update_buffer
    )
    reply = _reply(examples=len(kept), loss=loss)
    reply["update"] = lend(update)
    return reply


def evaluate_locally(device: Device, content: RecordDict) -> RecordDict:
    """Count the held-out utterances that the global model gets right, and sum up log-odds if requested."""
    device.load(content)
    held_out = device.examples("test")
    log_odds = bool(MessageConfig(content).integer("log_odds"))
    own = device.kept(content) if log_odds else None
    right, of_trained, of_held_out = evaluate(device.model, held_out, own)
    sums = of_trained.as_metrics("trained") | of_held_out.as_metrics("held_out") if log_odds else {}
    return _reply(examples=len(held_out), right=right, **sums)


def sum_up_log_odds(device: Device, content: RecordDict) -> RecordDict:
    """Sum up the global model's log-odds on held-out speech, or, as it has learned nothing here, on all."""
    device.load(content)
    all_speech = bool(MessageConfig(content).integer("all_speech"))
    parts = [*([device.kept(content)] if all_speech else []), device.examples("test")]
    return _reply(**sum_log_odds(device.model, parts).as_metrics("log_odds"))


def report_deletions(device: Device, content: RecordDict) -> RecordDict:
    """Report the device's requests as ids, counts, states and rounds, and how much it trains on now."""
    settings, vault = MessageConfig(content), device.vault
    rounds_done, last_trained = settings.integer("rounds_done"), settings.integer("trained")
    device.take_in_recordings(rounds_done)
    store = raise_due(device.config, vault, device.client, rounds_done)
    added = device.count_added(rounds_done)
    reply = _reply(train=len(vault.ids("train", rounds_done)), **added)
    if added:  # it holds more than it committed to at first
        reply["commitment"] = device.commitment()
    reply["requests"] = ConfigRecord({**report_requests(store, vault.entries, rounds_done, last_trained)})
    return reply


def unlearn_locally(device: Device, content: RecordDict) -> RecordDict:
    """Unlearn the named requests' utterances, on these alone, and send the weight difference."""
    return _unlearn(device, content, METHODS[device.config.unlearning.method].unlearn)


def _unlearn(device: Device, content: RecordDict, method: Method) -> RecordDict:
    settings, config, client = MessageConfig(content), device.config, device.client
    device.load(content)
    requests, timeline_round = settings.texts("requests"), settings.integer("round")
    forget_set = device.forget_set(device.utterances_of(requests))
    forget_set = with_unknown(device.model, forget_set, device.left_out(content))
    result, update = unlearn_update(
        device.model, forget_set, method, config, read_scalars(settings), client, timeline_round, config.seed
    )
    result = redact(result, config.privacy)
    # From here on it is too late to withdraw the requests.
    device.requests.set_state(requests, RequestState.UNLEARNED)
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
        outgoing_update(device.model, update, own, config, client, timeline_round, config.seed)
    )
    reply["outcome"] = ConfigRecord(
        {"stopped": result.stopped, "scalars_read": ",".join(result.scalars_read)}
    )
    return reply


def rehearse_locally(device: Device, content: RecordDict) -> RecordDict:
    """Unlearn some of the speech that the device keeps, report four numbers, and keep nothing of it."""
    settings, config = MessageConfig(content), device.config
    device.load(content)
    when = device.client, settings.integer("round"), config.seed
    drawn = draw_rehearsal(device.kept_ids(content), settings.integer("size"), *when)
    forget_set, held_out = device.forget_set(drawn), device.examples("test")
    forget_set = with_unknown(device.model, forget_set, device.left_out(content))
    method = METHODS[config.unlearning.method].unlearn
    scalars = read_scalars(settings)
    probes = Probes(device.model, device.model.state_dict(), config.seed)
    found = rehearse(device.model, probes, forget_set, held_out, method, config, scalars, *when)
    return _reply(**found.as_metrics())


def forget_part(device: Device, content: RecordDict) -> RecordDict:
    """Train a requester's half of a privileged baseline's round: away from its forget set."""
    card = _rounds_card(device)
    assert card.forget is not None
    held_out = device.examples("test") if card.held_out else None
    method = partial(card.forget, original=device.teacher(content), held_out=held_out)
    return _unlearn(device, content, method)


def retain_part(device: Device, content: RecordDict) -> RecordDict:
    """Train a client's half of a privileged baseline's round: on the data that it keeps."""
    config, card = device.config, _rounds_card(device)
    rng = rng_for(config.seed, "retain part", device.client, MessageConfig(content).integer("round"))

    def training(kept: Examples) -> float:
        local, teacher = config.training.local, device.teacher(content)
        return card.retain(device.model, kept, config.unlearning, local, rng, teacher)

    return _train(device, content, training)


def _rounds_card(device: Device) -> RoundsCard:
    card = PRIVILEGED[device.config.unlearning.method]
    assert isinstance(card, RoundsCard)
    return card


def purge(device: Device, content: RecordDict) -> RecordDict:
    """Remove the named requests' utterances for good, search for traces of them, and leave a receipt."""
    settings, run = MessageConfig(content), device.run
    card = method_named(device.config.unlearning.method)
    method = MethodRecord(card.name, card.source, card.sees, device.config.unlearning.aggregation)
    applied = AppliedRequests(
        settings.integer("rounds_done"),
        settings.integer("round"),
        settings.integer("round_applied"),
        settings.text("model"),
        method,
        settings.text("ledger_head"),
        settings.text("model_before"),
    )
    # Other devices' vaults hold other people's recordings, and a corpus is the user's: neither is searched.
    beside = [path for path in run.path.iterdir() if path != run.vaults]
    spared = [run.vaults, *device.config.corpus.folders]
    try:
        result = purge_requests(
            device.vault, device.model, settings.texts("requests"), beside, applied, spared
        )
    finally:
        DEVICES.drop(device)
        with open_to_append(run.purges) as file:
            file.write(".")
    train, held = (len(device.vault.ids(split, applied.rounds_done)) for split in ("train", "test"))
    added = device.count_added(applied.rounds_done)
    reply = _reply(removed=result.removed, verified=int(result.verified), train=train, held=held, **added)
    reply["commitment"] = device.commitment()
    return reply


def _reply(**metrics: float) -> RecordDict:
    # What was not measured (NaN) is not sent.
    return RecordDict({"metrics": MetricRecord({k: v for k, v in metrics.items() if v == v})})


HANDLERS: dict[str, Handler] = {
    "query.population": report_population,
    "train.calibrate": calibrate_locally,
    "train.default": train_locally,
    "evaluate.default": evaluate_locally,
    "evaluate.log_odds": sum_up_log_odds,
    "query.deletions": report_deletions,
    "train.unlearn": unlearn_locally,
    "train.forget_part": forget_part,
    "train.retain_part": retain_part,
    "train.rehearse": rehearse_locally,
    "query.purge": purge,
}
"""message type -> its handler"""


# ---- the app -------------------------------------------------------------------------------------------


def make_client_app(run_folder: str = "", mods: Sequence[Any] = ()) -> ClientApp:
    """Make the ClientApp, which is the same on every engine.

    Args:
        run_folder: where the vaults are; empty = the device's own folder, which its node config names
            (``device``, in a deployment), or else ``out`` of the run config (``flwr run``).
        mods: Flower mods around every handler; tests inject failures through them.
    """
    app = ClientApp(mods=list(mods))
    for kind, handler in HANDLERS.items():
        category, action = kind.split(".")
        getattr(app, category)(action)(partial(_answer, run_folder, handler))
    return app


def _answer(run_folder: str, handler: Handler, message: Message, context: Context) -> Message:
    own = str(context.node_config.get("device", ""))
    run = RunFolder(Path(run_folder or own or str(context.run_config["out"])))
    client = int(context.node_config["partition-id"])
    costs = CostLog(run.path, message) if own and not run_folder else None
    start = thread_time()
    failure = ""
    try:
        content = _handle(run, client, handler, message.content)
    except Exception as error:
        # The device's own log gets all of it; only its kind leaves the device.
        with open_to_append(run.vault(client) / "log.txt") as log:
            log.write("".join(traceback.format_exception(error)))
        failure = _redact_error(error)
    if failure:  # not raised above, or it would keep the frames of ``error`` alive, with the audio in them
        raise DeviceFailed(failure)
    content.metric_records["metrics"]["seconds"] = thread_time() - start
    if context.node_config.get("experimenter"):
        content[METADATA] = metadata_record(client, run.vault(client))
    if costs is not None:
        costs.end(content)
    return Message(serialised(content) if own else content, reply_to=message)


def _handle(run: RunFolder, client: int, handler: Handler, content: RecordDict) -> RecordDict:
    """Let the handler answer, and report whether a process died when it tried the message before."""
    device = DEVICES.get(run, client)
    with serving(device.run, device.client) as died:
        reply = handler(device, content)
    if died:
        reply.metric_records["metrics"]["died"] = 1
    return reply


def _redact_error(error: Exception) -> str:
    if isinstance(error, UnlearnFailed | TrainingDiverged):
        return str(error)
    why = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    return f"{type(error).__name__}{why}; the device's own log says more"


client_app = make_client_app()
"""the app that ``flwr run`` starts on each node"""
