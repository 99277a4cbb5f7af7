"""results.json as types: what a run writes, what reports read, and the JSON schema made from it.

A writer builds these models with keyword arguments. A wrong name or type is refused, and mypy finds it; mypy
also finds a missing argument, unless the field's default is given as ``default=`` (by PEP 681 mypy takes no
notice of a positional one).

A reader calls `Results.read` or `Results.model_validate`, which take any results of ours, whole or not. What
is missing, null or of a wrong type is an empty part (false in an ``if``), an empty list or ``None``; unknown
fields are left out. So ``results.models.recovered.forget.accuracy`` is a number or ``None``, whatever the
file holds.

What `ResultsPart.to_json` gives holds the fields that were set, in the order of this file; an empty part is
null.

``python -m fedunlearn.results_schema`` writes the file of the JSON schema anew.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Generic, Literal, NamedTuple, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from fedunlearn.errors import BadInput
from fedunlearn.inputs import read_text

if TYPE_CHECKING:
    import pandas as pd

SCHEMA: Final = "fedunlearn/results/1"
FAMILY = "fedunlearn/results/"
"""what the schema's name begins with, of whatever version"""


class Control(NamedTuple):
    """A control, which every method has to beat, as results name it.

    Attributes:
        name: of the method that it can also be run as, and of its gap in ``results.gap``.
        model: the model that stands for it in ``results.models`` and ``results.distances``.
        effect: what it does in place of unlearning, as ``results.unlearning.control`` says.
        verdict: the same in ``results.ranking``.
        words: the same as a noun.
    """

    name: str
    model: str
    effect: str
    verdict: str
    words: str


DOING_NOTHING: Final = Control(
    "none", "original", "leaves the model as it is", "does nothing", words="doing nothing"
)
RANDOM_WEIGHTS: Final = Control(
    "destroy", "destroy", "puts random weights in its place", "random weights", words="random weights"
)
CONTROLS: Final = {control.name: control for control in (DOING_NOTHING, RANDOM_WEIGHTS)}
"""The controls by name: the fields of ``results.gap`` that are always there."""

T = TypeVar("T")
_READING = {"reading": True}


class _NeverNull:
    """In a file the value is there or missing, never null; only a reader sees None."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        (value,) = (option for option in handler(core)["anyOf"] if option != {"type": "null"})
        return dict(value)


class _OrNull:
    """In a file the part may be null; a reader sees an empty one."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(core), {"type": "null"}]}


Known = Annotated[T | None, _NeverNull()]
"""a value that a file has unless the field is missing; None for a reader where it is"""
Nullable = Annotated[T, _OrNull()]
"""a part, list or mapping that may be null in a file; a reader sees an empty one"""

Share = Annotated[float, Field(strict=True, ge=0.0, le=1.0)]
Difference = Annotated[float, Field(strict=True, ge=-1.0, le=1.0)]
"""of two shares"""
Amount = Annotated[float, Field(strict=True, ge=0.0, allow_inf_nan=False)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True, ge=0)]
PositiveCount = Annotated[int, Field(strict=True, ge=1)]
Text = Annotated[str, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]

Ends = tuple[Share, Share]
"""lower and upper end of a 95 % interval"""


def _one_of(*words: str) -> dict[str, Any]:
    """For the JSON schema; a reader takes words of other versions, too."""
    return {"enum": list(words)}


Status = Literal["complete", "partial", "failed"]
PhaseName = Annotated[
    Text,
    Field(
        json_schema_extra=_one_of(
            "calibrate", "learn", "unlearn", "recover", "listen", "retrain", "counterfactual"
        )
    ),
]
StateName = Annotated[
    Text,
    Field(
        json_schema_extra=_one_of(
            "raised", "accepted", "unlearned", "applied", "purged", "verified", "withdrawn", "refused"
        )
    ),
]
FaultKind = Annotated[
    Text, Field(json_schema_extra=_one_of("refused", "failed", "late", "repeated", "dropped"))
]


class ResultsPart(BaseModel):
    """A part of results.json; false where nothing is known of it."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    required: ClassVar[tuple[str, ...]] = ()
    """names of the fields that a file must have where it has the part"""

    @classmethod
    def empty(cls) -> Self:
        """A part of which nothing is known."""
        return cls.model_construct()

    def __bool__(self) -> bool:
        return bool(self.model_fields_set)

    def to_json(self) -> dict[str, Any]:
        """Plain data as in results.json: the fields that were set, in order; empty parts are null."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    @model_validator(mode="before")
    @classmethod
    def _take_what_is_known(cls, value: Any, info: ValidationInfo) -> Any:
        """While reading: leave out unknown fields; anything but an object is an empty part."""
        if info.context is not _READING or isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            return {}
        names = {field.alias or name for name, field in cls.model_fields.items()}
        return {name: of for name, of in value.items() if name in names}

    @field_validator("*", mode="wrap")
    @classmethod
    def _take_what_is_valid(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        """Null is an empty part where it may be; while reading, so is a value of a wrong type."""
        assert info.field_name is not None
        field = cls.model_fields[info.field_name]
        if value is None and any(isinstance(mark, _OrNull) for mark in field.metadata):
            return field.get_default(call_default_factory=True)
        if info.context is not _READING:
            return handler(value)
        try:
            return handler(value)
        except ValidationError:
            return field.get_default(call_default_factory=True)

    @model_serializer(mode="wrap")
    def _null_where_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any] | None:
        found: dict[str, Any] = handler(self)
        return found if self.model_fields_set else None


P = TypeVar("P", bound=ResultsPart)


class ByName(ResultsPart, Generic[P]):
    """Parts of one type, which can be taken by their names, too: ``results.models["recovered"]``."""

    def __getitem__(self, name: str) -> P:
        """The part of that name.

        Raises:
            KeyError: there is no such field.
        """
        if name not in type(self).model_fields:
            raise KeyError(name)
        part: P = getattr(self, name)
        return part


# ---- what ran --------------------------------------------------------------------------------------------


class MethodUsed(ResultsPart):
    """The unlearning method."""

    required = ("method", "sees", "source")

    method: Known[Text] = Field(None, description="Its name.")
    sees: Known[Text] = Field(
        None,
        description="What it sees: forget (the forget set alone), forget + ticket (what devices noted of it "
        "in learning, too), retain (the retain sets, too), history.",
    )
    source: Known[Text] = Field(None, description="The publication that it is from.")
    title: Known[Text] = Field(None, description="Its name as a page shows it.")
    control: Known[Text] = Field(
        None, description="Of a control, what it does in place of unlearning; else empty."
    )


class Recognizer(ResultsPart):
    """The emotion recogniser."""

    required = ("weights", "parameters", "travels")

    weights: Known[Literal["from nothing", "pre-trained", "random"]] = Field(
        None,
        description="What training starts from. With random weights an encoder's times and sizes are valid, "
        "its accuracies are not.",
    )
    parameters: Known[Whole] = Field(None, description="Number of parameters, frozen ones included.")
    travels: Known[Whole] = Field(
        None, description="Values in a message: normalisation constants and trained parameters."
    )
    kind: Known[Text] = Field(
        default=None, description="wav2vec2, hubert or wavlm; only encoders have this field and those below."
    )
    sha256: Known[Text] = Field(default=None, description="SHA-256 of the checkpoint.")
    trains: Known[Text] = Field(
        default=None, description="What is trained: head, top:N, lora, lora:N or all."
    )
    device: Known[Text] = Field(default=None, description="Where the encoder was computed: cpu or cuda.")
    precision: Known[Text] = Field(
        default=None, description="Precision of the encoder's arithmetic: float32 or bfloat16."
    )


class CorpusSummary(ResultsPart):
    """The corpus and how it was divided."""

    required = ("name", "utterances", "speakers", "clients", "emotions", "unseen_speakers")

    name: Known[Text] = Field(None, description="Name of the corpus.")
    utterances: Known[Whole] = Field(None, description="Number of utterances.")
    speakers: Known[Whole] = Field(None, description="Number of speakers.")
    clients: Known[PositiveCount] = Field(None, description="Number of clients.")
    emotions: list[Text] = Field([], description="Names of the emotions, in the order of the classes.")
    unseen_speakers: Known[Whole] = Field(None, description="Speakers who take no part in the federation.")
    warnings: list[Text] = Field([], description="Warnings of the corpus reader.")


# ---- measures of one model -------------------------------------------------------------------------------


class Recognition(ResultsPart):
    """Recognition of one set of utterances."""

    required = ("accuracy", "n")

    uar: Share | None = Field(
        default=None,
        description="Unweighted average recall over the emotions that occur; null for an empty set.",
    )
    accuracy: Share | None = Field(
        None,
        description="Share of utterances recognised correctly (weighted accuracy, WA); null without any.",
    )
    macro_f1: Share | None = Field(
        default=None,
        description="Mean of the F1 scores of the emotions that occur or are recognised; "
        "null for an empty set.",
    )
    n: Known[Whole] = Field(None, description="Number of utterances.")
    accuracy_interval: Ends | None = Field(None, description="95 % interval of the accuracy.")
    uar_interval: Ends | None = Field(default=None, description="95 % interval of the UAR.")


class RocCurve(ResultsPart):
    """A ROC curve, from (0, 0) to (1, 1)."""

    required = ("fpr", "tpr")

    fpr: list[Share] = Field([], description="False positive rates, rising.")
    tpr: list[Share] = Field([], description="True positive rates, one for each false positive rate.")


class MembershipAttack(ResultsPart):
    """A population membership attack by loss: AUC with a 95 % interval."""

    required = ("auc", "low", "high")

    auc: Share | None = Field(
        None,
        description="Probability that a forget utterance has a lower loss than a test utterance, ties half; "
        "null where either set is empty.",
    )
    low: Share | None = Field(None, description="Lower end of its 95 % interval.")
    high: Share | None = Field(None, description="Upper end of its 95 % interval.")
    n: Whole | None = Field(None, description="Utterances of D_f that were compared.")
    tpr_at: Nullable[dict[Text, Share | None]] = Field(
        default={}, description='True positive rate by false positive rate as text ("0.01").'
    )
    roc: Nullable[RocCurve] = Field(default=RocCurve.empty(), description="ROC of the attack.")


class LossHistogram(ResultsPart):
    """Histogram of the loss of single utterances, in nats."""

    required = ("edges", "forget", "test")

    edges: list[Amount] = Field([], description="Edges of the bins, in nats; one more than there are bins.")
    forget: list[Whole] = Field([], description="Utterances of D_f in each bin.")
    test: list[Whole] = Field([], description="Test utterances in each bin.")


ConfusionMatrix = list[list[Whole]]


class Confusion(ResultsPart):
    """Confusion matrices: counts [true emotion][recognised emotion], in the order of ``corpus.emotions``."""

    test: Nullable[ConfusionMatrix] = Field([], description="On test speech of client speakers.")
    unseen: Nullable[ConfusionMatrix] = Field([], description="On speakers who take no part.")


class ModelScores(ResultsPart):
    """The measures of one model."""

    required = ("test", "unseen", "retain", "forget", "membership")

    test: Recognition = Field(Recognition.empty(), description="Held-out utterances of client speakers.")
    unseen: Recognition = Field(Recognition.empty(), description="Utterances of speakers who take no part.")
    retain: Recognition = Field(
        Recognition.empty(), description="Training utterances that the clients keep, D_r."
    )
    forget: Recognition = Field(Recognition.empty(), description="D_f, all requests together.")
    membership: Nullable[MembershipAttack] = Field(
        MembershipAttack.empty(),
        description="Population attack: D_f against test utterances of client speakers.",
    )
    membership_same_speaker: Nullable[MembershipAttack] = Field(
        MembershipAttack.empty(), description="Population attack on pairs of utterances of one speaker only."
    )
    losses: LossHistogram = Field(LossHistogram.empty(), description="Histograms of the loss.")
    confusion: Confusion = Field(Confusion.empty(), description="Confusion matrices by set.")
    seeds: "list[ModelScores]" = Field(
        default=[], description="Only for the retrained model: the scores of each seed, this one's first."
    )


class Models(ByName[ModelScores]):
    """The four models side by side."""

    required = ("original", "unlearned", "recovered", "retrained")

    original: ModelScores = Field(
        ModelScores.empty(), description="The global model as if no deletion had been requested."
    )
    unlearned: ModelScores = Field(ModelScores.empty(), description="Right after the last unlearn step.")
    recovered: ModelScores = Field(ModelScores.empty(), description="After the recovery rounds.")
    retrained: ModelScores = Field(
        ModelScores.empty(), description="Trained from scratch without D_f: the reference."
    )


# ---- distance to the retrained models --------------------------------------------------------------------


class Gap(ResultsPart):
    """Distance to the retrained models."""

    required = ("forget", "retain", "test", "membership", "mean")

    forget: Share | None = Field(None, description="|difference| of forget accuracy; null if unknown.")
    retain: Share | None = Field(None, description="|difference| of retain accuracy; null if unknown.")
    test: Share | None = Field(None, description="|difference| of test accuracy; null if unknown.")
    membership: Share | None = Field(None, description="|difference| of membership AUC; null if unknown.")
    mean: Share | None = Field(None, description="Mean of the known parts.")
    low: Share | None = Field(
        default=None, description="Lower end of the 95 % interval of the mean, over utterances."
    )
    high: Share | None = Field(default=None, description="Upper end of the 95 % interval of the mean.")
    against: Nullable[list[Share | None]] = Field(default=[], description="Mean gap to each retrained seed.")


class GapReport(ByName[Gap]):
    """Distances to the retrained models, beside the distance of those to each other."""

    required = ("unlearned", "recovered", *CONTROLS)

    unlearned: Nullable[Gap] = Field(Gap.empty(), description="Gap of the unlearned model.")
    recovered: Nullable[Gap] = Field(Gap.empty(), description="Gap of the recovered model.")
    none: Nullable[Gap] = Field(
        Gap.empty(), description="Gap of the control that does nothing: the original."
    )
    destroy: Nullable[Gap] = Field(Gap.empty(), description="Gap of the control with random weights.")
    noise_floor: Nullable[Gap] = Field(
        Gap.empty(), description="Mean gap between retrained models that differ in their seed; null with one."
    )
    rho: Amount | None = Field(None, description="Mean gap of the original over the noise floor's.")
    nothing_to_forget: Flag | None = Field(None, description="Whether rho is near 1.")


class RankedModel(ResultsPart):
    """A model or a control in the ranking."""

    required = ("name", "mean_gap", "useful", "why")

    name: Known[Text] = Field(None, description="Name of the model.")
    mean_gap: Share | None = Field(None, description="Its mean gap.")
    forgetting: Number | None = Field(
        None,
        description="How much of the way from the original's forget accuracy to the retrained models' it "
        "went: 0 none, 1 as if retrained, more is damage; null where there is no way to go.",
    )
    retention: Share | None = Field(
        None,
        description="Share of the retrained models' accuracy above chance that is kept, the mean of retain "
        "and test; null where those models are at chance.",
    )
    useful: Known[Flag] = Field(None, description="Whether it is useful.")
    why: Known[Text] = Field(None, description="Why it is useful, or why it is not.")


# ---- requests --------------------------------------------------------------------------------------------


class RequestStep(ResultsPart):
    """A state that a request reached."""

    required = ("state", "round")

    state: Known[Text] = Field(None, description="The state.")
    round: Known[Whole] = Field(None, description="The timeline round in which it was reached.")
    date: Known[Whole] = Field(None, description="Learning rounds done by then.")


class NoiseUsed(ResultsPart):
    """Clipping and noise of an unlearn update, and the privacy guarantee that they give."""

    clip: Known[Amount] = Field(None, description="Longest L2 norm that leaves the client.")
    multiplier: Known[Amount] = Field(None, description="Standard deviation of the noise in clips.")
    epsilon: Amount | None = Field(None, description="Epsilon of the guarantee; null where there is none.")
    delta: Known[Amount] = Field(None, description="Delta of the guarantee.")


class LabelMixAttack(ResultsPart):
    """Total variation distances, in [0, 1], of guesses to the forget set's label mix."""

    tv: Known[Share] = Field(None, description="Distance of the best attack's guess.")
    attack: Known[Text] = Field(None, description="Name of that attack.")
    uniform: Known[Share] = Field(None, description='Distance of the guess "all classes alike".')
    corpus: Known[Share] = Field(None, description='Distance of the guess "as in the whole corpus".')


class UpdateMembership(ResultsPart):
    """How well an update distinguishes deleted utterances from others of the client: AUC, 95 % interval."""

    auc: Known[Share] = Field(None, description="AUC of the attack that did best.")
    low: Known[Share] = Field(None, description="Lower end of its 95 % interval.")
    high: Known[Share] = Field(None, description="Upper end of its 95 % interval.")
    against: Known[Text] = Field(
        None, description="kept (other training utterances) or held-out (test utterances)."
    )
    attack: Known[Text] = Field(None, description="Name of that attack.")
    tpr_at: Nullable[dict[Text, Share | None]] = Field(
        default={}, description='True positive rate by false positive rate as text ("0.01").'
    )


class Reconstruction(ResultsPart):
    """How well deleted utterances' features are read off a difference of two models."""

    required = ("r", "r_others", "named", "chance")

    r: Known[Share] = Field(
        None, description="Largest absolute correlation with a deleted utterance's features."
    )
    r_others: Share | None = Field(
        None, description="The same with the client's other utterances, which is chance."
    )
    named: Known[Share] = Field(
        None, description="Share of the deleted that stand first among the client's utterances."
    )
    chance: Known[Share] = Field(None, description="That share by guessing.")


class RequestPrivacy(ResultsPart):
    """What a requester's update reveals about its forget set."""

    label_mix: Nullable[LabelMixAttack] = Field(
        LabelMixAttack.empty(), description="How well the forget set's label mix is guessed."
    )
    membership: Nullable[UpdateMembership] = Field(
        UpdateMembership.empty(), description="Against what the client kept, where it kept any."
    )
    membership_held_out: Nullable[UpdateMembership] = Field(
        UpdateMembership.empty(), description="Against the client's test utterances."
    )
    reconstruction: Nullable[Reconstruction] = Field(
        Reconstruction.empty(), description="How well features are read off the update."
    )


class RequestOutcome(ResultsPart):
    """One request at one device, and what became of it; the fields after reason_open once it was served."""

    required = (
        "id",
        "client",
        "utterances",
        "round_raised",
        "round_applied",
        "state",
        "rounds_waited",
    )

    id: Known[Text] = Field(None, description="The same for all devices of one person.")
    client: Known[Whole] = Field(None, description="Which device.")
    what: Text | None = Field(None, description='"all" or "some"; null where its vault does not say.')
    round_raised: Known[Whole] = Field(None, description="Timeline round in which it was raised.")
    round_applied: Whole | None = Field(
        None,
        description="Timeline round in which its update was aggregated; null where it never was.",
    )
    utterances: Known[Whole] = Field(None, description="How many utterances it names there.")
    state: Known[StateName] = Field(None, description="The last state that it reached.")
    rounds_waited: Whole | None = Field(None, description="Rounds from raised to applied.")
    deadline: Whole | None = Field(None, description="Rounds within which it should be verified; null: none.")
    overdue: Known[Flag] = Field(None, description="Whether the deadline passed while it was open.")
    devices: Known[PositiveCount] = Field(None, description="Devices of the person that hold such speech.")
    learned: Known[Whole] = Field(
        None, description="How many of its utterances the global model had been trained on."
    )
    attempts: Known[Whole] = Field(None, description="How often the client received it to unlearn.")
    history: list[RequestStep] = Field([], description="Each state with the round in which it was reached.")
    reason_open: Text | None = Field(None, description="Why it is not fulfilled.")
    steps: Whole | None = Field(default=None, description="Gradient steps of the client.")
    stopped: Text | None = Field(default=None, description="Why it stopped there.")
    scalars_read: Nullable[list[Text]] = Field(
        default=[], description="Which of the server's numbers its method read."
    )
    forget_accuracy: tuple[Share | None, Share | None] | None = Field(
        default=None, description="The client's own forget accuracy, before and after its unlearn step."
    )
    adversarial: Whole | None = Field(default=None, description="Adversarial samples made.")
    attack_success: Share | None = Field(default=None, description="Share of them that fooled the model.")
    noise: Nullable[NoiseUsed] = Field(
        default=NoiseUsed.empty(),
        description="Clipping and noise of the update, and the epsilon that they give.",
    )
    update_norm: Amount | None = Field(default=None, description="L2 norm of its update.")
    usual_norm: Amount | None = Field(
        default=None, description="Mean L2 norm of an ordinary update at that time."
    )
    privacy: Nullable[RequestPrivacy] = Field(
        default=RequestPrivacy.empty(), description="What the update reveals about the forget set."
    )
    joint_with: Nullable[list[Text]] = Field(
        default=[], description="Other requests of the same client served by the same update."
    )


# ---- the run ---------------------------------------------------------------------------------------------


class RoleCostRow(ResultsPart):
    """What the clients in one role spent in a phase."""

    required = ("client_seconds", "bytes_up", "bytes_down")

    client_seconds: Known[Amount] = Field(None, description="CPU time on the clients, in s.")
    bytes_up: Known[Whole] = Field(None, description="Bytes of messages from clients.")
    bytes_down: Known[Whole] = Field(None, description="Bytes of messages to clients.")


class RoleCosts(ResultsPart):
    """The cost of a phase by role."""

    required = ("requesters", "others")

    requesters: RoleCostRow = Field(
        RoleCostRow.empty(), description="Clients in the messages of their own unlearning."
    )
    others: RoleCostRow = Field(RoleCostRow.empty(), description="All other messages.")


class PhaseCostRow(ResultsPart):
    """Cost of one phase."""

    required = ("rounds", "client_seconds", "wall_seconds", "bytes_up", "bytes_down")

    rounds: Known[Whole] = Field(None, description="Exchanges in which clients computed.")
    client_seconds: Known[Amount] = Field(None, description="CPU time on the clients, summed, in s.")
    wall_seconds: Known[Amount] = Field(None, description="Time on the server's clock, in s.")
    bytes_up: Known[Whole] = Field(None, description="Bytes of all messages from clients.")
    bytes_down: Known[Whole] = Field(None, description="Bytes of all messages to clients.")
    bytes_stored: Known[Whole] = Field(None, description="Bytes that the server keeps for later.")
    bytes_noted: Known[Whole] = Field(
        default=None,
        description="Bytes of tickets on all devices when learning is over, of a method that reads tickets. "
        "While the model learns, a device has them for as many rounds as a resumed run may go back.",
    )
    roles: Nullable[RoleCosts] = Field(RoleCosts.empty(), description="The same by role.")


class TimelineEntry(ResultsPart):
    """One round of a timeline, and the global model after it."""

    required = (
        "round",
        "phase",
        "loss",
        "refused",
        "requests",
        "test_uar",
        "unseen_uar",
        "retain_accuracy",
        "forget_accuracy",
    )

    round: Known[Whole] = Field(None, description="Timeline round.")
    phase: Known[PhaseName] = Field(None, description="What was done in it.")
    loss: Amount | None = Field(
        None, description="Mean training loss of the clients; null where none was reported."
    )
    refused: Known[Whole] = Field(None, description="Replies that did not count.")
    requests: list[Text] = Field([], description="Ids of the requests applied in it.")
    test_uar: Share | None = Field(
        None, description="UAR on test speech; null where the model was not evaluated."
    )
    unseen_uar: Share | None = Field(None, description="UAR on speakers who take no part.")
    retain_accuracy: Share | None = Field(None, description="Accuracy on D_r.")
    forget_accuracy: Share | None = Field(None, description="Accuracy on D_f of the whole run.")


class GuardIntervention(ResultsPart):
    """One thing that the server's guard did to an unlearn update."""

    required = ("round", "what", "client")

    round: Known[Whole] = Field(None, description="Timeline round.")
    client: Whole | None = Field(None, description="Whose update.")
    requests: list[Text] = Field([], description="Ids of the requests that it was for.")
    what: Known[Text] = Field(None, description="clipped, scaled back or refused.")
    norm: Amount | None = Field(None, description="L2 norm of the update as it came to this check.")
    limit: Amount | None = Field(None, description="The longest allowed then; null: any.")
    drop: Number | None = Field(
        None,
        description="Accuracy lost on held-out speech of the other clients; null where not evaluated.",
    )
    silenced: Share | None = Field(None, description="Largest share of its probes that a class lost.")
    factor: Share | None = Field(None, description="What is left of the update; 0: it was refused.")


class StepRehearsed(ResultsPart):
    """What clients without a request reported of rehearsing one unlearn step."""

    required = ("round", "clients")

    round: Known[Whole] = Field(None, description="Timeline round.")
    clients: Known[Whole] = Field(None, description="Clients that rehearsed it.")
    size: Known[Whole] = Field(None, description="Utterances that each unlearned, if it has so many.")
    longest: Amount | None = Field(None, description="L2 norm of the longest update; null: nobody rehearsed.")
    silenced: Share | None = Field(None, description="Largest share of its probes that a class lost.")
    drop: Number | None = Field(
        None, description="Median loss of accuracy, each on the client's own held-out speech."
    )
    distance: Amount | None = Field(
        None, description="L2 norm of what learning has changed, over the trained weights."
    )


class Attackers(ResultsPart):
    """Malicious test clients, as configured."""

    clients: list[Whole] = Field([], description="Which clients are malicious.")
    kind: Known[Text] = Field(None, description="What they send: scaled, flipped, targeted or random.")
    factor: Known[Number] = Field(None, description="By which factor.")
    target: Known[Whole] = Field(None, description="The class that they relabel.")


class ReplyFault(ResultsPart):
    """A reply that did not count."""

    required = ("round", "phase", "client", "reason")

    round: Known[Whole] = Field(None, description="Timeline round.")
    phase: Known[Text] = Field(None, description="What was being done.")
    client: Known[Annotated[int, Field(strict=True, ge=-1)]] = Field(
        None, description="Which client; -1: a node that has not said which client it is."
    )
    reason: Known[Text] = Field(None, description="What was wrong, in one line.")
    kind: Known[FaultKind] = Field(None, description="What kind of fault.")


class UnknownSpeakersMeasured(ResultsPart):
    """How much worse the model recognised speakers that it had not heard yet, early in learning."""

    drop: Number | None = Field(
        None,
        description="Mean log-odds on held-out speech of the clients that trained, less that on the speech "
        "of those that join late, in standard deviations of the former.",
    )
    spread: Amount | None = Field(
        None, description="Standard deviation of the log-odds of the latter, over that of the former."
    )


class AddedRecordings(ResultsPart):
    """Recordings that a person added to a device in the course of the run; no measure includes them."""

    required = ("client", "round", "count")

    client: Known[Whole] = Field(None, description="Number of the client.")
    round: Known[Whole] = Field(
        None, description="Rounds done when the device took them in; the next round trained on them."
    )
    count: Known[Whole] = Field(None, description="How many.")


class Absences(ResultsPart):
    """Which clients were unreachable when."""

    unreachable: list[tuple[Whole, Whole]] = Field(
        [], description="[timeline round, number of unreachable clients] wherever there were any."
    )
    requesters: list[tuple[Whole, Whole, Whole]] = Field(
        [], description="[client, first round, first round after it] of each absence of a requester."
    )


class LedgerHead(ResultsPart):
    """The state of ledger.sqlite."""

    required = ("entries", "head")

    entries: Known[Whole] = Field(None, description="Number of entries.")
    head: Known[Text] = Field(None, description="Digest of the last one.")


class Times(ResultsPart):
    """Times of the run, which differ between two equal runs."""

    required = ("started",)

    started: Known[Text] = Field(None, description="ISO 8601, UTC.")
    wall_seconds: Known[Amount] = Field(default=None, description="Whole run, in s.")
    phases: dict[Text, Amount] = Field(default={}, description="Of each phase, in s.")
    references: dict[Text, Text] = Field(default={}, description="Each reference: cached or trained.")
    searched: dict[Text, Whole] = Field(
        default={}, description="Number of files and bytes that the search for traces read."
    )


class Traces(ResultsPart):
    """The search for deleted speech in the files of the run."""

    required = ("found",)

    windows: Known[Whole] = Field(None, description="Distinct windows of deleted speech searched for.")
    found: Known[list[Text]] = Field(None, description="Files in which deleted speech was left.")
    unsearched: list[Text] = Field(
        [],
        description="What could not be searched, and why; a run with deletions is then partial.",
    )
    spared: list[Text] = Field([], description="Links into the user's own corpus, which is not searched.")


# ---- further analyses ------------------------------------------------------------------------------------


class DistanceScores(ResultsPart):
    """Distances to the retrained models, mean over their seeds."""

    required = ("tow", "ks", "wasserstein", "js")

    tow: Share | None = Field(
        None,
        description="Tug of war: product of 1 - |accuracy difference| over forget, retain and test.",
    )
    ks: Share | None = Field(None, description="Kolmogorov-Smirnov distance of the losses on D_f.")
    wasserstein: Amount | None = Field(
        None, description="Wasserstein-1 distance of the losses on D_f, in nats."
    )
    js: Amount | None = Field(
        None, description="Mean Jensen-Shannon divergence of the predictions on D_f, in nats."
    )


class Distances(ByName[DistanceScores]):
    """Distances of each model to the retrained models."""

    original: Nullable[DistanceScores] = Field(DistanceScores.empty(), description="Of the original model.")
    unlearned: Nullable[DistanceScores] = Field(DistanceScores.empty(), description="Of the unlearned model.")
    recovered: Nullable[DistanceScores] = Field(DistanceScores.empty(), description="Of the recovered model.")
    destroy: Nullable[DistanceScores] = Field(DistanceScores.empty(), description="Of random weights.")
    retrained: Nullable[DistanceScores] = Field(
        DistanceScores.empty(), description="Of retrained models to each other; null with one seed."
    )


class LogOddsShift(ResultsPart):
    """How far the log-odds of the true emotion move from one model to another, utterance by utterance."""

    required = ("rms", "slope", "n")

    rms: Amount | None = Field(None, description="Root mean square of the shift, in nats; null without any.")
    mean: Number | None = Field(None, description="Mean shift, in nats.")
    slope: Number | None = Field(
        None, description="Least-squares slope of after on before: 1 = unchanged, below 1 = flattened."
    )
    residual: Amount | None = Field(
        default=None, description="Root mean square of what is left about that line, in nats."
    )
    n: Known[Whole] = Field(None, description="Number of utterances, or of utterances in shadow models.")


class CollateralShift(ByName[LogOddsShift]):
    """Shift on speech that was neither deleted nor trained on, beside what retraining moves there."""

    unlearned: Nullable[LogOddsShift] = Field(
        LogOddsShift.empty(), description="From the original to the unlearned model."
    )
    recovered: Nullable[LogOddsShift] = Field(
        LogOddsShift.empty(), description="From the original to the recovered model."
    )
    retrained: Nullable[LogOddsShift] = Field(
        default=LogOddsShift.empty(),
        description="From the original to the retrained models, mean over seeds; not in shadow models.",
    )
    seeds: Nullable[LogOddsShift] = Field(
        LogOddsShift.empty(), description="From one retrained seed to another, mean over pairs."
    )


class TargetsFollowed(ByName[LogOddsShift]):
    """Log-odds of the deleted utterances less those that they were trained towards, in shadow models."""

    unlearned: Nullable[LogOddsShift] = Field(
        LogOddsShift.empty(), description="From the targets to the unlearned models."
    )
    recovered: Nullable[LogOddsShift] = Field(
        LogOddsShift.empty(), description="From the targets to the recovered models."
    )


class AnswerSpread(ResultsPart):
    """Standard deviation of the log-odds of the true emotion over D_f, in nats."""

    original: Amount | None = Field(None, description="Of the original model.")
    unlearned: Amount | None = Field(None, description="Of the unlearned model.")
    recovered: Amount | None = Field(None, description="Of the recovered model.")
    retrained: Amount | None = Field(None, description="Of the retrained models, mean over seeds.")


class CollateralReport(ResultsPart):
    """How far answers move on speech that nobody asked to delete."""

    requesters: Nullable[CollateralShift] = Field(
        CollateralShift.empty(), description="Held-out speech of the speakers whose speech was deleted."
    )
    others: Nullable[CollateralShift] = Field(
        CollateralShift.empty(), description="Held-out speech of all other client speakers."
    )
    spread: Nullable[AnswerSpread] = Field(
        AnswerSpread.empty(), description="How much answers on D_f differ from utterance to utterance."
    )


class RelearnTime(ResultsPart):
    """How fast D_f is learned again."""

    required = ("steps",)

    steps: Amount | None = Field(None, description="Gradient steps to the target, mean over orders.")
    low: Whole | None = Field(None, description="Least over orders.")
    high: Whole | None = Field(None, description="Most over orders.")
    reached: Flag | None = Field(None, description="Whether the target was reached in every order.")
    target: Share | None = Field(None, description="Forget accuracy of the original.")
    limit: Known[Whole] = Field(None, description="Largest number of steps.")


class RelearnReport(ByName[RelearnTime]):
    """Relearn time of each model."""

    original: Nullable[RelearnTime] = Field(RelearnTime.empty(), description="Of the original model.")
    recovered: Nullable[RelearnTime] = Field(RelearnTime.empty(), description="Of the recovered model.")
    unlearned: Nullable[RelearnTime] = Field(RelearnTime.empty(), description="Of the unlearned model.")
    retrained: Nullable[RelearnTime] = Field(RelearnTime.empty(), description="Of the retrained model.")


class ReversionStep(ResultsPart):
    """Forget accuracy around one joint unlearn step."""

    round: Known[Whole] = Field(None, description="Timeline round.")
    clients: list[Whole] = Field([], description="Clients that unlearned.")
    before: Share | None = Field(None, description="Before the step.")
    unlearned: Share | None = Field(None, description="Right after it.")
    recovered: Share | None = Field(None, description="After its recovery rounds; null without any.")


class Reversion(ResultsPart):
    """What recovery brought back: values of the recovered model minus those of the unlearned one."""

    forget: Difference | None = Field(None, description="Of forget accuracy.")
    membership: Difference | None = Field(None, description="Of membership AUC.")
    gap: Difference | None = Field(None, description="Of the mean gap.")
    steps: Nullable[list[ReversionStep]] = Field(
        [], description="Forget accuracy around each joint unlearn step."
    )


class GroupScores(ResultsPart):
    """Accuracy of each model on the test speech of some of those who stay."""

    n: Known[Whole] = Field(None, description="Number of test utterances.")
    original: Share | None = Field(None, description="Of the original model.")
    unlearned: Share | None = Field(None, description="Of the unlearned model.")
    recovered: Share | None = Field(None, description="Of the recovered model.")
    retrained: Share | None = Field(None, description="Of the retrained models, mean over seeds.")

    def accuracy(self, model: str) -> float | None:
        """Accuracy of a model by its name: original, unlearned, recovered or retrained."""
        scores = {
            "original": self.original,
            "unlearned": self.unlearned,
            "recovered": self.recovered,
            "retrained": self.retrained,
        }
        return scores[model]


class Speaker(ResultsPart):
    """A speaker, without a name."""

    client: Known[Whole] = Field(None, description="Whose device.")
    speaker: Known[Whole] = Field(None, description="Which of the client's speakers.")
    gender: Known[Text] = Field(
        None, description="female, male, or another word of the corpus; empty if unknown."
    )


class Emotion(ResultsPart):
    """An emotion."""

    emotion: Known[Text] = Field(None, description="Name of the emotion.")


class Gender(ResultsPart):
    """A gender."""

    gender: Known[Text] = Field(None, description="As among the speakers; only those known.")


class SpeakerScores(GroupScores, Speaker):
    """Test accuracy of one speaker who stays."""

    required = ("client", "n")


class EmotionScores(GroupScores, Emotion):
    """Recall of one emotion on the test speech of those who stay."""

    required = ("emotion", "n")


class GenderScores(GroupScores, Gender):
    """Test accuracy of one gender among those who stay."""

    required = ("gender", "n")


class AccuracyChange(ResultsPart):
    """Change of test accuracy against the original, over the speakers who stay."""

    mean: Difference | None = Field(None, description="Mean over speakers.")
    std: Amount | None = Field(None, description="Standard deviation over speakers.")
    worst: Difference | None = Field(None, description="Lowest change.")
    worst_client: Whole | None = Field(None, description="Client of the speaker with the lowest change.")
    n: Known[Whole] = Field(None, description="Number of speakers.")


class AccuracyChanges(ByName[AccuracyChange]):
    """Change of test accuracy by model."""

    unlearned: Nullable[AccuracyChange] = Field(AccuracyChange.empty(), description="Of the unlearned model.")
    recovered: Nullable[AccuracyChange] = Field(AccuracyChange.empty(), description="Of the recovered model.")
    retrained: Nullable[AccuracyChange] = Field(
        AccuracyChange.empty(), description="Of the retrained models."
    )


class FairnessReport(ResultsPart):
    """Who pays for forgetting."""

    speakers: list[SpeakerScores] = Field([], description="Test accuracy of each speaker who stays.")
    emotions: list[EmotionScores] = Field([], description="Recall of each emotion.")
    genders: list[GenderScores] = Field([], description="Test accuracy of each known gender.")
    change: AccuracyChanges = Field(AccuracyChanges.empty(), description="Change over speakers, by model.")


class GumScores(ResultsPart):
    """The global unlearning metric of UnSLU-BENCH, of one model."""

    gum: Share | None = Field(None, description="GUM: harmonic mean of efficacy, utility and time saved.")
    cgum: Share | None = Field(None, description="CGUM (Savelli et al. 2026).")
    efficacy: Share | None = Field(None, description="Efficacy of forgetting; 1 is best.")
    utility: Share | None = Field(
        None, description="1 minus the distance of test F1 to the retrained model's."
    )
    time: Share | None = Field(None, description="Time saved against retraining, on a log scale; 1 is best.")


class GumReport(ByName[GumScores]):
    """The global unlearning metric by model."""

    unlearned: Nullable[GumScores] = Field(GumScores.empty(), description="Of the unlearned model.")
    recovered: Nullable[GumScores] = Field(GumScores.empty(), description="Of the recovered model.")


class RateWithInterval(ResultsPart):
    """A rate with its 95 % interval."""

    required = ("value",)

    value: Share | None = Field(None, description="The rate.")
    low: Share | None = Field(None, description="Lower end of its 95 % interval.")
    high: Share | None = Field(None, description="Upper end of its 95 % interval.")


class RequestAttack(ResultsPart):
    """The informed attack on the utterances of one request, trained on the others."""

    request: Text | Whole | None = Field(None, description="Id of the request.")
    auc: Share | None = Field(None, description="AUC on its own utterances.")
    n: Known[Whole] = Field(None, description="Number of scores.")
    client: Whole | None = Field(default=None, description="Whose request.")
    tpr_at: Nullable[dict[Text, Share | None]] = Field(
        default={}, description='True positive rate by false positive rate as text ("0.01").'
    )


class ShadowAttackScores(ResultsPart):
    """A per-example attack on the models of one stage."""

    required = ("auc",)

    auc: Share | None = Field(None, description="AUC over all shadow models.")
    low: Share | None = Field(None, description="Lower end of its 95 % interval.")
    high: Share | None = Field(None, description="Upper end of its 95 % interval.")
    n_in: Known[Whole] = Field(None, description="Scores of utterances that were trained on and unlearned.")
    n_out: Known[Whole] = Field(None, description="Scores of utterances never trained on.")
    left_out: Known[Whole] = Field(None, description="Utterances that could not be attacked.")
    tpr_at: Nullable[dict[Text, Nullable[RateWithInterval]]] = Field(
        {}, description="True positive rate by false positive rate as text."
    )
    roc: Nullable[RocCurve] = Field(RocCurve.empty(), description="ROC of the attack.")
    requests: Nullable[list[RequestAttack]] = Field(
        default=[], description="Only of the informed attack: each request left out in turn."
    )


class AttackedStages(ByName[ShadowAttackScores]):
    """An attack on the models of each stage."""

    original: Nullable[ShadowAttackScores] = Field(
        default=ShadowAttackScores.empty(), description="On the original models."
    )
    unlearned: Nullable[ShadowAttackScores] = Field(
        default=ShadowAttackScores.empty(), description="On the unlearned models."
    )
    recovered: Nullable[ShadowAttackScores] = Field(
        default=ShadowAttackScores.empty(), description="On the recovered models."
    )


class ShadowAttackReport(ResultsPart):
    """One per-example attack."""

    stages: Nullable[AttackedStages] = Field(AttackedStages.empty(), description="What it reached, by stage.")
    why: Text | None = Field(None, description="Why there are no numbers.")


class ReplayCheck(ResultsPart):
    """Whether the shadow federations' loop, run as the run itself, gives the run's weights."""

    exact: Flag | None = Field(None, description="Whether it does bit for bit.")
    difference: Amount | None = Field(None, description="Largest |weight difference|.")
    stages: dict[Text, Amount | None] = Field({}, description="The same by stage.")
    departures: list[Text] = Field(
        [], description="What happened in the run that the loop leaves out, one line each."
    )


class KlomScores(ResultsPart):
    """KLoM, the KL divergence of margins, over the candidates."""

    required = ("mean", "median", "p95", "n")

    mean: Amount | None = Field(None, description="Mean over candidates, in nats.")
    median: Amount | None = Field(None, description="Median.")
    p95: Amount | None = Field(None, description="95th percentile: the utterances that are answered worst.")
    gaussian: Amount | None = Field(
        None, description="Median of the same divergence of Gaussians fitted to the margins."
    )
    n: Known[Whole] = Field(None, description="Number of candidates.")
    models: Known[Whole] = Field(None, description="Models on each side, median over candidates.")


class KlomReport(ResultsPart):
    """KLoM of the shadow models of each stage against models that were never trained on the utterance."""

    original: Nullable[KlomScores] = Field(default=KlomScores.empty(), description="Of the original models.")
    unlearned: Nullable[KlomScores] = Field(
        default=KlomScores.empty(), description="Of the unlearned models."
    )
    recovered: Nullable[KlomScores] = Field(
        default=KlomScores.empty(), description="Of the recovered models."
    )
    null: Nullable[KlomScores] = Field(
        default=KlomScores.empty(), description="Of models that never heard it against other such models."
    )
    why: Text | None = Field(default=None, description="Why there are no numbers.")


class AttackReport(ResultsPart):
    """Per-example attacks with shadow federations."""

    shadows: Known[Whole] = Field(None, description="Number of shadow federations.")
    candidates: Known[Whole] = Field(None, description="Number of attacked utterances.")
    replay: Nullable[ReplayCheck] = Field(
        ReplayCheck.empty(), description="Whether a shadow that is the run itself gives its weights."
    )
    ulira: Nullable[ShadowAttackReport] = Field(
        ShadowAttackReport.empty(), description="U-LiRA (arXiv 2403.01218)."
    )
    informed: Nullable[ShadowAttackReport] = Field(
        ShadowAttackReport.empty(), description="Informed attack, each request left out in turn."
    )
    klom: Nullable[KlomReport] = Field(
        default=KlomReport.empty(),
        description="KL divergence of margins from models that never heard the utterance (arXiv 2410.23232).",
    )
    collateral: Nullable[CollateralShift] = Field(
        default=CollateralShift.empty(),
        description="Shift of log-odds on candidates that a shadow was never trained on, while it unlearned "
        "the others; seeds: from one shadow that never heard an utterance to another.",
    )
    following: Nullable[TargetsFollowed] = Field(
        default=TargetsFollowed.empty(),
        description="How well answers follow the method's targets; null where it has none.",
    )


class UtteranceAnswers(ResultsPart):
    """A model's answers to the utterances of a group, in columns of one length."""

    required = ("log_odds", "correct")

    log_odds: list[Number | None] = Field(
        [], description="ln p - ln(1 - p) of the true emotion, in nats; null where it is not finite."
    )
    correct: Known[Annotated[str, Field(strict=True, pattern="^[01]*$")]] = Field(
        None, description="A character for each utterance: 1 where it was recognised correctly, 0 where not."
    )


class UtteranceGroup(ByName[UtteranceAnswers]):
    """Single utterances of one set, and of one request or one speaker.

    Those of a request, and all others of the speakers of its clients, are without a speaker, a place and an
    emotion, and are sorted by their log-odds: what is missing from a complete list would name the deleted.
    """

    required = ("subset", "original", "unlearned", "recovered", "retrained")

    subset: Known[Annotated[Text, Field(json_schema_extra=_one_of("forget", "retain", "test", "unseen"))]] = (
        Field(None, description="Which set they are of.")
    )
    request: Text | None = Field(default=None, description="Id of the request that deleted them, of D_f.")
    client: Whole | None = Field(default=None, description="Client of the speaker.")
    speaker: Whole | None = Field(
        default=None, description="Which of the client's speakers, or of those who take no part."
    )
    places: list[Whole] = Field(default=[], description="Indexes into the corpus, sorted by id.")
    emotions: list[Whole] = Field(default=[], description="True emotions, as indexes of corpus.emotions.")
    original: UtteranceAnswers = Field(UtteranceAnswers.empty(), description="Of the original model.")
    unlearned: UtteranceAnswers = Field(UtteranceAnswers.empty(), description="Of the unlearned model.")
    recovered: UtteranceAnswers = Field(UtteranceAnswers.empty(), description="Of the recovered model.")
    retrained: UtteranceAnswers = Field(
        UtteranceAnswers.empty(),
        description="Of the retrained models: mean log-odds over seeds; correct by the first of them.",
    )
    deviations: list[Amount | None] = Field(
        default=[],
        description="Standard deviation of the log-odds over retrained seeds, in nats; empty with one seed.",
    )


class UtteranceReport(ResultsPart):
    """How each model answers single utterances."""

    groups: list[UtteranceGroup] = Field([], description="The utterances, D_f first.")
    left_out: Known[Whole] = Field(
        None, description="Utterances beside D_f that are not listed: a random choice of a large corpus is."
    )


class KeptModelLeak(ResultsPart):
    """What the models that the run folder keeps reveal about one deletion."""

    required = ("request", "client", "between", "r", "r_others", "named", "chance")

    request: Known[Text] = Field(None, description="Id of the request.")
    client: Known[Whole] = Field(None, description="Whose request.")
    between: Known[tuple[Text, Text]] = Field(
        None, description="The two models whose difference gives the most away."
    )
    r: Known[Share] = Field(
        None, description="Largest absolute correlation with a deleted utterance's features."
    )
    r_others: Share | None = Field(
        None, description="The same with the client's other utterances, which is chance."
    )
    named: Known[Share] = Field(
        None, description="Share of the deleted that stand first among the client's utterances."
    )
    chance: Known[Share] = Field(None, description="That share by guessing.")


class AccuracyGain(ResultsPart):
    """Test accuracy of the recovered model less the original's, on the same utterances."""

    required = ("difference", "standard_error", "n")

    difference: Difference | None = Field(None, description="The difference; null without test speech.")
    standard_error: Amount | None = Field(
        None, description="Standard error of the paired difference; null with fewer than two utterances."
    )
    n: Known[Whole] = Field(None, description="Number of test utterances.")


CaveatKind = Literal[
    "nothing unlearned",
    "not learned",
    "training unfinished",
    "nothing to forget",
    "indistinguishable",
    "guard",
    "few utterances",
    "requests",
    "no noise floor",
    "recordings added",
]


class Caveat(ResultsPart):
    """Why the run says nothing, or little, about its method, whatever the method is."""

    required = ("kind", "sentence", "decisive")

    kind: Known[CaveatKind] = Field(None, description="Which of the reasons.")
    sentence: Known[Text] = Field(None, description="The same in words, with the numbers.")
    decisive: Known[Flag] = Field(
        None, description="Whether the run says nothing about the method; otherwise it says less."
    )


# ---- the whole -------------------------------------------------------------------------------------------


class Results(ResultsPart):
    """All results of a run.

    Fields may be added, those here stay. Probabilities, accuracies and shares are in [0, 1]; no number is NaN
    or infinite.
    """

    required = (
        "schema",
        "config",
        "seed",
        "versions",
        "status",
        "failure",
        "corpus",
        "requests",
        "cost",
        "timeline",
        "faults",
        "times",
    )

    format: Known[Annotated[Text, WithJsonSchema({"type": "string", "const": SCHEMA})]] = Field(
        None, alias="schema", description="Version of the format of this file."
    )
    config: dict[str, Any] = Field({}, description="All settings, as docs/configuration.md names them.")
    seed: Known[Whole] = Field(None, description="Seed of all randomness.")
    versions: dict[Text, Text] = Field(
        {}, description="Versions of Python and of the libraries that numbers depend on."
    )
    unlearning: MethodUsed = Field(MethodUsed.empty(), description="The unlearning method.")
    corpus: CorpusSummary = Field(CorpusSummary.empty(), description="The corpus and how it was divided.")
    model: Recognizer = Field(Recognizer.empty(), description="The emotion recogniser.")
    requests: list[RequestOutcome] = Field([], description="All requests, in the order of asking.")
    cost: dict[Text, PhaseCostRow] = Field(
        {}, description="By phase: learn, listen, unlearn, recover, retrain, counterfactual."
    )
    unknown_speakers: Nullable[UnknownSpeakersMeasured] = Field(
        default=UnknownSpeakersMeasured.empty(),
        description="How the model recognised the speakers of clients before these joined learning; null "
        "where not measured.",
    )
    guard: list[GuardIntervention] = Field([], description="What the server's guard did.")
    rehearsals: list[StepRehearsed] = Field([], description="What the guard's bounds followed from.")
    attackers: Nullable[Attackers] = Field(
        Attackers.empty(), description="Which clients are malicious, and how; null where none is."
    )
    faults: list[ReplyFault] = Field([], description="Replies that did not count.")
    added: list[AddedRecordings] = Field(
        [],
        description="Recordings that are in no corpus and were added to devices. The models and the "
        "references were trained on them; the run cannot be repeated from its corpus and seed alone.",
    )
    ledger: LedgerHead = Field(LedgerHead.empty(), description="State of ledger.sqlite.")
    models: Models = Field(default=Models.empty(), description="The four models side by side.")
    gap: GapReport = Field(
        default=GapReport.empty(), description="Absolute differences to the retrained models."
    )
    ranking: list[RankedModel] = Field(
        default=[], description="Models and controls, nearest to the retrained models first."
    )
    distances: Nullable[Distances] = Field(
        default=Distances.empty(),
        description="Distances in accuracy, loss and output to the retrained models.",
    )
    fairness: Nullable[FairnessReport] = Field(
        default=FairnessReport.empty(), description="Who pays for forgetting."
    )
    collateral: Nullable[CollateralReport] = Field(
        default=CollateralReport.empty(),
        description="How far answers move on speech that nobody asked to delete.",
    )
    reversion: Nullable[Reversion] = Field(
        default=Reversion.empty(), description="What recovery brought back."
    )
    status: Known[Status] = Field(
        None,
        description="complete: all done. partial: a request is not fulfilled, or the run was stopped. "
        "failed: it ended early.",
    )
    failure: Text | None = Field(None, description="What went wrong; null where nothing did.")
    gain: Nullable[AccuracyGain] = Field(
        default=AccuracyGain.empty(),
        description="What unlearning and recovery changed in test accuracy.",
    )
    caveats: list[Caveat] = Field(
        default=[],
        description="Why the run says nothing, or little, about its method: decisive reasons first.",
    )
    relearn: Nullable[RelearnReport] = Field(
        default=RelearnReport.empty(),
        description="How fast each model learns D_f again; null where not measured.",
    )
    gum: Nullable[GumReport] = Field(
        default=GumReport.empty(), description="GUM and CGUM, the metrics of UnSLU-BENCH."
    )
    references: dict[Text, Text] = Field(
        default={}, description="Key of each reference in the cache: a digest of all that decides it."
    )
    timeline: list[TimelineEntry] = Field([], description="The global model, round by round.")
    retrained_timeline: list[TimelineEntry] = Field(
        default=[], description="The first retrained model, round by round."
    )
    availability: Nullable[Absences] = Field(
        default=Absences.empty(),
        description="Who was away when; null where every client was always reachable.",
    )
    times: Times = Field(Times.empty(), description="Times of the run.")
    attacks: Nullable[AttackReport] = Field(
        default=AttackReport.empty(),
        description="Per-example attacks with shadow federations; null where evaluation.shadows = 0.",
    )
    answers: Nullable[UtteranceReport] = Field(
        default=UtteranceReport.empty(), description="How each model answers single utterances."
    )
    kept: list[KeptModelLeak] = Field(
        default=[], description="What the models that the run folder keeps reveal about each deletion."
    )
    traces: Traces = Field(default=Traces.empty(), description="The search for deleted speech.")

    # ---- reading and writing -----------------------------------------------------------------------------

    @classmethod
    def model_validate(cls, obj: Any, **_: Any) -> Self:
        """Results from the content of a results.json, which may be of an older version or have holes.

        Args:
            obj: the parsed JSON. Whatever is missing or of a wrong type is left empty.
        """
        return super().model_validate(_moved(obj), context=_READING)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The results of a run.

        Args:
            path: of a run folder, or of its results.json.

        Raises:
            BadInput: there is no such file, or it is not a results.json of ours.
        """
        file = path if path.suffix == ".json" else path / "results.json"
        try:
            content = json.loads(read_text(file))
        except BadInput as error:
            raise BadInput(f"{error}; give a folder that a run made") from error
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{file}: cannot be read ({error}); give a folder that a run made") from error
        if not isinstance(content, dict) or not str(content.get("schema", "")).startswith(FAMILY):
            raise BadInput(f"{file}: is not a results.json of fedunlearn")
        return cls.model_validate(content)

    def setting(self, *keys: str) -> Any:
        """A setting by its path in the config, such as ``"unlearning", "method"``; None if it is missing."""
        node: Any = self.config
        for key in keys:
            node = node.get(key) if isinstance(node, Mapping) else None
        return node

    # ---- the verdict -------------------------------------------------------------------------------------

    @property
    def final_model(self) -> Literal["unlearned", "recovered"]:
        """The model that the run ends with: "unlearned" where nothing was recovered."""
        only_unlearned = self.gap.unlearned.mean is not None and self.gap.recovered.mean is None
        return "unlearned" if only_unlearned else "recovered"

    @property
    def nothing_unlearned(self) -> bool:
        """Whether the update of no request was aggregated into the global model."""
        return all(request.round_applied is None for request in self.requests)

    @property
    def nobody_left(self) -> bool:
        """Whether the retrained model had nothing to learn from: random weights are right then."""
        return self.models.retrained.retain.n == 0

    @property
    def control_effect(self) -> str:
        """What the method does in place of unlearning, where it is a control; else empty."""
        if self.unlearning.control is not None:
            return self.unlearning.control
        # Older results do not say whether the method is a control.
        method = self.unlearning.method or self.setting("unlearning", "method")
        return CONTROLS[method].effect if method in CONTROLS else ""

    @property
    def useless(self) -> bool | None:
        """Whether the final model is useless.

        It is where a control ran as the method, where it is no nearer to the retrained models than a control,
        and where the ranking (``evaluation.gap.rank``) says so. None where there is nothing to judge: nothing
        was unlearned, nobody is left to train a model on, or the gaps are not known.
        """
        if self.nothing_unlearned or self.nobody_left:
            return None
        if self.control_effect:
            return True
        own = self.gap[self.final_model].mean
        controls = [gap for name in CONTROLS if (gap := self.gap[name].mean) is not None]
        if own is not None and any(own >= control for control in controls):
            return True
        named = (row for row in self.ranking if (row.name or "").startswith(self.final_model))
        if (row := next(named, None)) and row.useful is False:
            return True
        return None if own is None or not controls else False

    # ---- tables ------------------------------------------------------------------------------------------

    def to_frame(self) -> "pd.DataFrame":
        """One row a model and measure.

        Returns:
            columns ``method``, ``corpus``, ``seed`` (of the run); ``model`` (original, unlearned, recovered,
            retrained; of gaps also none and destroy, the controls, and noise_floor); ``measure``
            (test_accuracy, test_uar, test_macro_f1, unseen_accuracy, unseen_uar, unseen_macro_f1,
            retain_accuracy, forget_accuracy, membership_auc, same_speaker_auc, gap_mean, gap_forget,
            gap_retain, gap_test, gap_membership); ``value``, ``low`` and ``high`` (ends of the 95 %
            interval); ``n`` (utterances). What is not known is NaN.
        """
        import pandas as pd

        method = self.unlearning.method or self.setting("unlearning", "method")
        run = {"method": method, "corpus": self.corpus.name, "seed": self.seed}
        rows = [{**run, **row} for row in (*self._score_rows(), *self._gap_rows())]
        columns = [*run, "model", "measure", "value", "low", "high", "n"]
        numbers = dict.fromkeys(("value", "low", "high", "n"), "float64")
        return pd.DataFrame(rows, columns=columns).astype(numbers)

    def _score_rows(self) -> list[dict[str, Any]]:
        rows = []
        for name in Models.model_fields:
            scores = self.models[name]
            if not scores:
                continue
            for of in ("test", "unseen", "retain", "forget"):
                share: Recognition = getattr(scores, of)
                rows.append(_row(name, f"{of}_accuracy", share.accuracy, share.accuracy_interval, share.n))
                if of in ("test", "unseen"):
                    rows.append(_row(name, f"{of}_uar", share.uar, share.uar_interval, share.n))
                    rows.append(_row(name, f"{of}_macro_f1", share.macro_f1, None, share.n))
            pairs = (("membership", scores.membership), ("same_speaker", scores.membership_same_speaker))
            for of, found in pairs:
                ends = None if found.low is None or found.high is None else (found.low, found.high)
                rows.append(_row(name, f"{of}_auc", found.auc, ends, found.n))
        return rows

    def _gap_rows(self) -> list[dict[str, Any]]:
        rows = []
        for name in ("unlearned", "recovered", *CONTROLS, "noise_floor"):
            gap = self.gap[name]
            if not gap:
                continue
            ends = None if gap.low is None or gap.high is None else (gap.low, gap.high)
            rows.append(_row(name, "gap_mean", gap.mean, ends, None))
            parts = {"forget": gap.forget, "retain": gap.retain, "test": gap.test}
            for of, value in {**parts, "membership": gap.membership}.items():
                rows.append(_row(name, f"gap_{of}", value, None, None))
        return rows


def load_results(folder: Path) -> Results:
    """The results of the run in a folder.

    Raises:
        BadInput: it holds no results.json of ours.
    """
    return Results.read(folder)


def _row(
    model: str, measure: str, value: float | None, ends: tuple[float, float] | None, n: int | None
) -> dict[str, Any]:
    low, high = ends or (None, None)
    return {"model": model, "measure": measure, "value": value, "low": low, "high": high, "n": n}


def _moved(content: Any) -> Any:
    """Older results have the noise floor beside the gaps, not among them."""
    if not isinstance(content, Mapping):
        return content
    floor, gaps = content.get("noise_floor"), content.get("gap")
    if isinstance(floor, Mapping) and floor and isinstance(gaps, Mapping):
        return {**content, "gap": {**gaps, "noise_floor": floor}}
    return content


# ---- the JSON schema -------------------------------------------------------------------------------------

SCHEMA_FILE = Path(__file__).parent / "schemas" / "results.schema.json"


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of results.json, made from the models.

    Unknown fields are allowed, as fields may be added.
    """
    made = Results.model_json_schema(by_alias=True)
    parts: dict[str, type[ResultsPart]] = {cls.__name__: cls for cls in _all_parts(ResultsPart)}
    definitions = made.pop("$defs")
    for name, definition in {**definitions, "Results": made}.items():
        for field, about in parts[name].model_fields.items():
            definition["properties"][about.alias or field]["description"] = about.description
        if required := parts[name].required:
            definition["required"] = list(required)
    status_complete = {"properties": {"status": {"const": "complete"}}}
    compared = ["models", "gap", "ranking"]
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://fedunlearn.invalid/schemas/results.schema.json",
        "title": "results.json of a run",
        "description": " ".join((Results.__doc__ or "").split()),
        **{key: made[key] for key in ("type", "properties", "required")},
        "allOf": [
            {
                "if": status_complete,
                "then": {
                    "properties": {"failure": {"type": "null"}, "cost": {"required": ["retrain"]}},
                    "required": [*compared, "retrained_timeline"],
                },
                "else": {"properties": {"failure": {"type": "string", "minLength": 1}}},
            },
            {
                "if": {"anyOf": [{"required": [name]} for name in compared]},
                "then": {"required": compared},
            },
        ],
        "$defs": dict(sorted(definitions.items())),
    }
    schema["properties"]["cost"]["required"] = ["learn", "unlearn", "recover"]
    return _plain(schema)  # type: ignore[no-any-return]


def write_json_schema() -> None:
    """Write the JSON schema into the package."""
    SCHEMA_FILE.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")


def _all_parts(of: type[ResultsPart]) -> list[type[ResultsPart]]:
    return [cls for each in of.__subclasses__() for cls in (each, *_all_parts(each))]


def _plain(node: Any, names: bool = False) -> Any:
    """Without titles and defaults of fields, and without the ban on unknown fields.

    Args:
        node: of the schema.
        names: whether the keys are names of fields, which may be "title", too.
    """
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {
        key: _plain(value, names=key in ("properties", "$defs"))
        for key, value in node.items()
        if names
        or not (
            key == "default"
            or (key == "title" and "$schema" not in node)
            or (key == "additionalProperties" and value in (True, False))
        )
    }
    return kept


if __name__ == "__main__":
    write_json_schema()
