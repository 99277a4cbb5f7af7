"""``audit.json``: what every verifier of the bench saw, and what it decided, as typed data."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fedunlearn.results_schema import Share

SCHEMA = "fedunlearn/audit/1"
VerifierName = Literal[
    "requester", "requester-who-tests", "committee", "auditor", "auditor-with-records", "replay"
]


class AuditPart(BaseModel):
    """A part of audit.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Statistics(AuditPart):
    """What is measured on the models of one run; the larger, the more suspicious. None = not measurable."""

    forgets: float | None = Field(
        default=None,
        description="Change of the mean log-odds on the requester's forget set from the model that it "
        "unlearned from to the next model that it was sent, less the same on the rest of its speech, nats.",
    )
    returns: float | None = Field(
        default=None,
        description="Share of the way from the next model back to the one before the step that the final "
        "model has gone: the projection on that way.",
    )
    damage: float | None = Field(
        default=None,
        description="Fall of the mean log-odds on all clients' held-out speech from the model before the "
        "step to the final one, nats.",
    )
    remains: float | None = Field(
        default=None,
        description="Mean log-odds on all forget sets of the final model in the run folder, less those of a "
        "retrained model, nats.",
    )


class Contradictions(AuditPart):
    """What exact checks found, one line each, for each verifier."""

    requester: tuple[str, ...] = ()
    committee: tuple[str, ...] = ()
    auditor: tuple[str, ...] = ()
    auditor_with_records: tuple[str, ...] = ()
    replay: tuple[str, ...] = ()

    def of(self, verifier: VerifierName) -> tuple[str, ...]:
        """Return the lines of one verifier.

        Args:
            verifier: which.
        """
        match verifier:
            case "requester" | "requester-who-tests":
                return self.requester
            case "committee":
                return self.committee
            case "auditor":
                return self.auditor
            case "auditor-with-records":
                return self.auditor_with_records
            case "replay":
                return self.replay


class Observation(AuditPart):
    """What the verifiers see of one run.

    Attributes:
        seed: of the run.
        cheat: name of the server.
        statistics: of its models.
        contradictions: that exact checks found.
        retrained: statistics of models that were retrained without the forget sets, as far as they have any.
    """

    seed: int
    cheat: str
    statistics: Statistics
    contradictions: Contradictions
    retrained: Statistics = Statistics()


class Threshold(AuditPart):
    """What a verifier's statistics are compared with.

    Attributes:
        verifier: which.
        statistics: names of the statistics that it reads.
        limits: of each; a value above it is an alarm.
        references: number of honest runs that they were set with.
    """

    verifier: VerifierName
    statistics: tuple[str, ...] = ()
    limits: tuple[float, ...] = ()
    references: int = 0


class DetectionRate(AuditPart):
    """How often a verifier found a server.

    Attributes:
        cheat: name of the server.
        verifier: which.
        found: number of runs in which the verifier raised an alarm.
        exact: number of runs in which an exact check alone would have.
        runs: number of runs.
        low: lower end of the 95 % interval of the rate.
        high: upper end.
    """

    cheat: str
    verifier: VerifierName
    found: int
    exact: int
    runs: int
    low: Share
    high: Share


class AuditFile(AuditPart):
    """The whole file.

    Attributes:
        format: of this file.
        corpus: name of the corpus.
        clients: number of clients.
        requesters: number of clients that request a deletion.
        size: utterances that each deletes.
        method: of unlearning.
        false_alarms: rate that thresholds were set for.
        choosing: seeds that thresholds were set on.
        seeds: seeds that detection was measured on.
        thresholds: of the verifiers.
        rates: of every server and verifier.
        observations: of the detection seeds.
        references: of the choosing seeds.
    """

    format: str = SCHEMA
    corpus: str
    clients: int
    requesters: int
    size: int
    method: str
    false_alarms: Share
    choosing: tuple[int, ...]
    seeds: tuple[int, ...]
    thresholds: tuple[Threshold, ...]
    rates: tuple[DetectionRate, ...]
    observations: tuple[Observation, ...]
    references: tuple[Observation, ...]
