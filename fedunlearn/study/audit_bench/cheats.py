"""The cheating servers of the bench, and the controls: name, what each does, and how."""

from dataclasses import dataclass

from fedunlearn.server import cheating
from fedunlearn.study.audit_bench import forgeries
from fedunlearn.study.audit_bench.forgeries import Forgery


@dataclass(frozen=True)
class Cheat:
    """One way to cheat, or a control.

    Attributes:
        name: as written on the command line and in audit.json.
        what: what the operator does, one sentence without a subject.
        server: that plays the run.
        forge: what is done to the run folder when it is over; None = nothing.
        handed_out: whether clients have their receipts before that.
        control: whether it is a control and no cheat.
        why_not: why nobody can tell; empty = somebody should.
    """

    name: str
    what: str
    server: type[cheating.WatchedServer] = cheating.WatchedServer
    forge: Forgery | None = None
    handed_out: bool = True
    control: bool = False
    why_not: str = ""


_ALL = (
    Cheat("honest", "does as it should", control=True),
    Cheat(
        "sham",
        "takes a random step of the right length in place of the requesters' step",
        cheating.ShamServer,
        control=True,
    ),
    Cheat("ignore", "discards the updates and has receipts written", cheating.IgnoringServer),
    Cheat(
        "partial-retraining",
        "discards the updates and trains one round on what the clients keep",
        cheating.BriefTrainingServer,
    ),
    Cheat("scale", "takes a tenth of the step", cheating.ScalingServer),
    Cheat("one-of-two", "applies the update of one of two requesters", cheating.OneOfManyServer),
    Cheat(
        "other-update",
        "applies an ordinary update of another client, at the length of the step",
        cheating.OtherUpdateServer,
    ),
    Cheat(
        "rollback",
        "goes back to the model before the step once the receipts are written",
        cheating.RollbackServer,
    ),
    Cheat("relearn", "gives the step back, a share with every recovery round", cheating.RelearningServer),
    Cheat(
        "old-model",
        "deploys the model from before the step when the run is over",
        cheating.OldModelServer,
    ),
    Cheat(
        "swap",
        "evaluates and keeps the unlearned model, and sends all clients one without the step",
        cheating.SwappingServer,
    ),
    Cheat(
        "two-faced",
        "sends the unlearned model to the requesters and one without the step to all others",
        cheating.TwoFacedServer,
    ),
    Cheat("delay", "accepts the requests and serves none before the run is over", cheating.DelayingServer),
    Cheat(
        "forged-receipt",
        "serves no request, and writes the rows and the receipt of one all the same",
        cheating.DelayingServer,
        forgeries.forge_receipt,
        handed_out=False,
    ),
    Cheat(
        "repeated-receipt",
        "hands one requester the receipt of the other",
        forge=forgeries.repeat_receipt,
        handed_out=False,
    ),
    Cheat("edited-row", "changes rows of the ledger", forge=forgeries.edit_row),
    Cheat(
        "cut-ledger",
        "cuts the ledger after the requests were accepted, and the head in results.json with it",
        forge=forgeries.cut_ledger,
    ),
    Cheat(
        "erased-request",
        "writes ledger, results, request stores and receipts anew as if a request had never been made",
        forge=forgeries.erase_request,
    ),
    Cheat(
        "hoard",
        "does as it should, and keeps a model from before the deletion elsewhere",
        forge=forgeries.hoard_model,
        why_not="nothing that anybody is shown depends on it: no check of models, ledger or receipts can "
        "know of a copy that lies elsewhere",
    ),
)
CHEATS = {cheat.name: cheat for cheat in _ALL}
"""name -> cheat or control, in the order of the table"""
