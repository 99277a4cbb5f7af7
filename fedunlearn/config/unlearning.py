"""Settings of unlearning: one class for each method, with the values at which it reduces to a known one.

Where a paper publishes a value, the field's description says so; all other defaults are this project's.
"""

from collections.abc import Mapping
from keyword import iskeyword
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from fedunlearn.config.baselines import (
    FedEraserSettings,
    FedOSDSettings,
    FineTuneSettings,
    NegGradPlusSettings,
    NoTSettings,
    OracleMatchingSettings,
    ReGUnSettings,
    RewindToDeleteSettings,
    SCRUBSettings,
)
from fedunlearn.config.descent import DescentSettings
from fedunlearn.config.fields import (
    AtLeastOne,
    Count,
    Fraction,
    NonNegative,
    OpenFraction,
    Options,
    Positive,
    Settings,
)
from fedunlearn.config.plugins import find, is_plugin
from fedunlearn.config.work import WorkSettings


def section_of(method: str) -> str:
    """Where the settings of a method are, below ``unlearning``: its name as Python writes it ("not_")."""
    section = method.replace("-", "_")
    return f"{section}_" if iskeyword(section) else section


class AttackSettings(Settings):
    """Targeted projected gradient descent (Madry et al. 2018) on the forget set."""

    domain: Literal["feature", "log-mel", "waveform", "hidden", "embedding"] = Field(
        default="feature",
        description='What is perturbed. "feature": the features of the model, in units of their standard '
        'deviation (of an encoder, "embedding" or "hidden", whichever it keeps, and with trains = "all" the '
        'waveform, in units of its loudness within 25 ms). "log-mel": the frames from which the features '
        "are computed, in units of each band's standard deviation over the forget set (the same frames as "
        '"feature" for the CNN; encoders have none). "waveform": samples in [-1, 1], in units of full scale, '
        'through everything that is computed from them. "embedding": the means of an encoder\'s layers '
        '(trains = "head"). "hidden": an encoder\'s hidden states below the trained layers '
        '(trains = "top:N", "lora").',
    )
    norm: Literal["l2", "linf"] = Field(default="l2", description="Norm of the ball around the utterance.")
    eps: Positive = Field(
        default=0.25,
        description="Radius of the ball, per value: the L2 radius is eps * sqrt(dimension), so that both "
        "norms describe an amplitude. In one reading, the paper's tau clips the same perturbation.",
    )
    step: Positive = Field(default=1.0, description="Step size as a multiple of `eps` / `steps`.")
    steps: Count = Field(default=3, description="Number of attack steps; 0 = the random start alone.")
    per_utterance: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=10, description="Adversarial samples for each forget utterance; 0 = no attack."
    )


class FineTuneSwitches(DescentSettings):
    """The switches of the adversarial fine-tune, of which "calm" and "l2ul" are two settings.

    Without held samples (``hold`` = "none") and elasticity it is "random-label"; then with objective
    "misclassify" it is "gradient-ascent", and with "masked" it is "delete".
    """

    objective: Literal["calibrated", "relabel", "misclassify", "masked"] = Field(
        default="relabel",
        description='What the forget set is trained towards. "calibrated": the output predicted of a model '
        'that never trained on it; "relabel": a random wrong label; "misclassify": away from the '
        'true label (gradient ascent); "masked": the output of the original model without the true class '
        '(with two classes the same as "relabel").',
    )
    hold: Literal["adversarial", "noisy", "none"] = Field(
        default="adversarial",
        description="Samples on which the model is held, `attack.per_utterance` for each forget utterance. "
        '"adversarial": made by the attack; "noisy": copies with Gaussian noise; "none".',
    )
    attack: AttackSettings = Field(default=AttackSettings(), description="How adversarial samples are made.")
    noise: NonNegative = Field(
        default=1.4,
        description="Standard deviation of the noise in noisy copies, in standard deviations of the model's "
        "features. In an encoder that is trained as a whole, 1 is as loud as the speech where it is added.",
    )
    keep_target: Literal["hard", "soft"] = Field(
        default="soft",
        description='Target of the samples: one label ("hard"; for adversarial samples the attack\'s, for '
        "noisy copies the one that the original model gives) or the whole output of the original model "
        '("soft").',
    )
    keep: Literal["sizes"] | NonNegative = Field(
        default="sizes",
        description='Weight of the loss on the samples where that on the forget set has 1; "sizes": both are '
        "weighted by the sizes of a step's two batches, as in L2UL, and sum to 1.",
    )
    importance: Literal["flipped-mas", "mas", "fisher", "none"] = Field(
        default="flipped-mas",
        description='Importance of each weight in the elastic term. "flipped-mas": 1 - MAS, which frees the '
        'weights that matter to the forget set, as in the paper; "mas"; "fisher"; "none": all weights alike.',
    )
    elasticity: NonNegative = Field(default=0.1, description="Weight lambda of the elastic term; 0 = off.")
    gradient_clip: NonNegative = Field(
        default=0.0,
        description="Largest L2 norm of a step's gradient, over all trained weights; 0 = no clipping. It is "
        "the other reading of the paper's tau.",
    )

    @property
    def reads_waveform(self) -> bool:
        """Whether the forget set's waveforms are attacked."""
        return self.hold == "adversarial" and self.attack.domain in ("log-mel", "waveform")


class CalmAttackSettings(AttackSettings):
    """The attack of CALM: fewer samples that lie further away."""

    eps: Positive = 0.35
    per_utterance: Annotated[int, Field(ge=0, le=10_000)] = 3


class CalmSettings(FineTuneSwitches):
    """Settings of CALM, calibrated adversarial log-odds matching, which is this project's own.

    docs/methods.md has the derivation. Chosen with the functionals model on RAVDESS, nEMO and generated
    speech, 5 to 20 clients, deletions of 7 % to 100 % of a client, seeds 101 to 106, for which results are
    never reported.
    """

    objective: Literal["calibrated", "relabel", "misclassify", "masked"] = "calibrated"
    attack: CalmAttackSettings = CalmAttackSettings()
    keep: Literal["sizes"] | NonNegative = 1.0
    elasticity: NonNegative = 0.0
    lr: Positive = 0.005
    batch_size: AtLeastOne = 64
    max_steps: Count = 60
    stop: Literal["level", "zero", "steps"] = Field(
        default="steps",
        description='When to stop before `max_steps`; "steps" (never) by default, since the loss is lowest '
        "where the forget set is known as well as it should be. The values are those of every descent.",
    )


class TicketSettings(Settings):
    """What devices note of their utterances while the model learns, for methods that see tickets."""

    fading: NonNegative = Field(
        default=0.0033,
        description="How fast what was noted fades while learning goes on: a round of s steps at rate lr "
        "with momentum m leaves exp(-fading * lr * s / (1 - m)) of it (a server's step counts as well). "
        "Without an utterance, the others would have taught a part of what it has; the faster it fades, the "
        "less is taken back. Chosen with the functionals model on seeds 101 to 103 of RAVDESS, nEMO and "
        "generated speech, for 10 utterances to a whole client and five recipes of training.",
    )


class RetractSettings(Settings):
    """Settings of "retract", which is this project's own."""

    strength: NonNegative = Field(
        default=1.0,
        description="How much of what the forget set has taken part in is taken back, as a multiple of what "
        "its tickets say; 0 returns the model unchanged.",
    )


class L2ULSettings(FineTuneSwitches):
    """Settings of L2UL-style unlearning (Ren et al. 2025, arXiv 2510.04251; Cha et al. 2024, 2301.11578).

    The hyper-parameters of the paper are not public. These were chosen on RAVDESS with the functionals model
    and seeds 101 to 103 (one client deleting 48 or 20 utterances, and four deleting 20 each), for which
    results are never reported. A step takes up to ``batch_size`` forget utterances and all samples made from
    them.
    """


class RandomLabelSettings(DescentSettings):
    """Settings of random labels (Graves et al. 2021, arXiv 2010.10981): the descent alone."""


class GradientAscentSettings(DescentSettings):
    """Settings of NegGrad (Golatkar et al. 2020, arXiv 1911.04933): the descent alone."""

    lr: Positive = 0.03


class BoundaryShrinkSettings(DescentSettings):
    """Settings of Boundary Shrink (Chen et al. 2023, arXiv 2303.11570)."""

    eps: Positive = Field(
        default=0.4,
        description="Length, per value, of the single step that finds the nearest wrong class, in standard "
        "deviations of the feature. The paper's 0.1 of a pixel's range is about 0.4 of them on CIFAR-10. "
        "Towards 0 the new label becomes the second choice of the original model; with two classes the "
        'method is "random-label" for every value.',
    )
    lr: Positive = 0.002


class DeleteSettings(DescentSettings):
    """Settings of DELETE (Zhou et al. 2025, arXiv 2503.23751): the descent alone.

    With two classes the method is "random-label".
    """

    lr: Positive = 0.005


class AmunForgetSettings(DescentSettings):
    """Settings of AMUN without retain data (Ebrahimpour-Boroojeny et al. 2025, arXiv 2503.00917)."""

    eps: Positive = Field(
        default=0.003,
        description="Radius, per value, of the first ball that is searched (the L2 radius is eps * "
        "sqrt(dimension)), in standard deviations of the feature. It is doubled until the prediction "
        "changes. The authors' code starts at 0.04 for a whole CIFAR-10 image, which is about 0.003.",
    )
    doublings: Annotated[int, Field(ge=0, le=60)] = Field(
        default=12,
        description="Largest number of doublings. An utterance whose prediction has not changed by then is "
        "left out.",
    )
    steps: AtLeastOne = Field(
        default=50,
        description="Attack steps in each ball, each a tenth of its radius long; the paper's attack is "
        "PGD-50.",
    )
    forget_set: Literal["out", "true-label"] = Field(
        default="out",
        description='"out": training uses the adversarial samples alone; "true-label": also the forget '
        "utterances with their own labels.",
    )
    lr: Positive = 0.03


class JiTSettings(DescentSettings):
    """Settings of JiT (Foster et al. 2024, arXiv 2402.01401)."""

    noise: Positive = Field(
        default=1.5,
        description="Standard deviation of the noise in the copies, in standard deviations of the model's "
        "features.",
    )
    copies: AtLeastOne = Field(
        default=5, description="Noisy copies of each forget utterance in a step, drawn anew in each."
    )
    lr: Positive = 0.1


class PUFSettings(WorkSettings):
    """Settings of PUF (Mora et al. 2025, arXiv 2504.05822).

    With one step in one batch and no momentum it is one step of "gradient-ascent", `scale` times as long.
    """

    lr: Positive = Field(
        default=0.05, description="Learning rate of the training that the update comes from."
    )
    momentum: OpenFraction = Field(default=0.9, description="Its momentum (0 = plain SGD).")
    batch_size: AtLeastOne = Field(default=32, description="Forget utterances in one of its steps.")
    scale: NonNegative = Field(
        default=1.0,
        description="The paper's eta_u: how many times the negated update is applied; 0 leaves the model as "
        "it was. Where a client's weight in the average is 1 / 10, the authors' code has 20 times the "
        "averaged update, which is twice this one.",
    )


class FedQUITSettings(DescentSettings):
    """Settings of FedQUIT (Mora et al. 2024, arXiv 2408.07587)."""

    true_logit: Literal["min", "entropy"] | Annotated[float, Field(ge=-1000.0, le=1000.0)] = Field(
        default="entropy",
        description="Logit of the true class in the teacher's output. \"min\": the lowest of the original's "
        'logits; "entropy": the mean of the wrong classes\' logits, weighted by their probabilities, which '
        'makes the output least certain; or a number. Towards minus infinity the method is "delete".',
    )
    lr: Positive = 0.005


class OneAnswerSettings(DescentSettings):
    """Settings of the control "one-answer"; steps and batches are those of "calm"."""

    copies: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=3, description="Noisy copies of each forget utterance, on which the model is held."
    )
    noise: NonNegative = Field(
        default=1.4, description='Standard deviation of their noise, as that of "calm".'
    )
    lr: Positive = 0.005
    batch_size: AtLeastOne = 64
    max_steps: Count = 60
    stop: Literal["level", "zero", "steps"] = "steps"


class PGASettings(DescentSettings):
    """Settings of projected gradient ascent (Halimi et al. 2022, arXiv 2207.05521)."""

    radius: Positive = Field(
        default=0.33,
        description="Radius of the ball around the reference model, as a share of the mean distance from it "
        "to ten models with random weights; the paper uses a third. So large that it is never reached, and "
        'with `clip` = 0, the method is "gradient-ascent".',
    )
    clip: NonNegative = Field(
        default=5.0, description="Largest gradient norm (L2, over all weights); 0 = no clipping."
    )
    lr: Positive = 0.03


class SalUnSettings(DescentSettings):
    """Settings of SalUn (Fan et al. 2024, arXiv 2310.12508) without retain data."""

    threshold: Fraction = Field(
        default=0.5,
        description="Share of the weights that are held fixed: those with the smallest gradients of the "
        'forget loss. The paper uses the median, 0.5. 0 = none, which is "random-label".',
    )
    lr: Positive = 0.03


AGGREGATIONS: Mapping[str, bool] = {
    "sum": False,
    "mean": False,
    "sequential": False,
    "fedavg": False,
    "projected": True,
    "norm-clipped": False,
}
"""How the requesters' updates can join -> whether the others' last differences are read for it."""


class UnlearningSettings(Settings):
    """How a requester unlearns, and how the requesters' updates are aggregated into the global model.

    Each method reads the section of its own name; a hyphen in the name is an underscore there.
    """

    method: str = Field(
        default="calm",
        description="Name of the unlearning method. docs/methods.md lists the methods that see the forget "
        "set alone, the controls, and the privileged baselines, which see more. Or a method of your own: "
        '"path/to/file.py:name" (docs/extending.md).',
    )
    options: Options | None = Field(
        default=None, description="Settings of a method of your own, which defines what they are."
    )
    aggregation: str = Field(
        default="sum",
        description='How the requesters\' updates are combined. "sum"; "mean"; "sequential": one '
        'requester after another; "fedavg": weighted by utterances over all clients, those without a '
        'request counting as no change; "projected": the sum without the components that oppose the most '
        'recent updates of the clients without a request (equal to "sum" if nothing conflicts); '
        '"norm-clipped": the sum, each update shortened to `clip`. Privileged baselines combine their '
        "updates on the forget sets in this way; updates on retain sets are always averaged, weighted by "
        'the utterances kept. Or an aggregation of your own: "path/to/file.py:name" (docs/extending.md).',
    )
    aggregation_options: Options | None = Field(
        default=None, description="Settings of an aggregation of your own, which defines what they are."
    )
    clip: Positive = Field(
        default=3.0,
        description='Longest update that "norm-clipped" lets through, as a multiple of the median norm of '
        'the most recent ordinary updates of the clients without a request; large enough, it is "sum". '
        'Measured with "l2ul" on RAVDESS and generated speech: 1.3 to 2.6 for 10 to 20 utterances and 3.8 '
        "for 48, so the default affects only the latter.",
    )
    asked: Count = Field(
        default=0,
        description="Number of clients, drawn anew for each unlearn step, on whose speech the server has a "
        "model evaluated before the step and for the guard; 0 = all. Each of them is sent the model.",
    )
    left_out_models: bool = Field(
        default=True,
        description="Whether the server keeps, for each client, what the model would lack without it, and "
        "sends it to a requester whose method reads log-odds: it says how much worse this very person will "
        "be recognised. As much memory and disk as there are clients; none is kept where that would be more "
        'than 64 MiB, for models other than "functionals", or with a `training.server_optimizer` other than '
        '"average".',
    )
    tickets: TicketSettings = Field(
        default=TicketSettings(),
        description='What devices note while the model learns, if the method sees "forget + ticket".',
    )
    calm: CalmSettings = Field(default=CalmSettings(), description='Settings of "calm".')
    retract: RetractSettings = Field(default=RetractSettings(), description='Settings of "retract".')
    l2ul: L2ULSettings = Field(default=L2ULSettings(), description='Settings of "l2ul".')
    random_label: RandomLabelSettings = Field(
        default=RandomLabelSettings(), description='Settings of "random-label".'
    )
    gradient_ascent: GradientAscentSettings = Field(
        default=GradientAscentSettings(), description='Settings of "gradient-ascent".'
    )
    boundary_shrink: BoundaryShrinkSettings = Field(
        default=BoundaryShrinkSettings(), description='Settings of "boundary-shrink".'
    )
    delete: DeleteSettings = Field(default=DeleteSettings(), description='Settings of "delete".')
    amun_forget: AmunForgetSettings = Field(
        default=AmunForgetSettings(), description='Settings of "amun-forget".'
    )
    pga: PGASettings = Field(default=PGASettings(), description='Settings of "pga".')
    salun: SalUnSettings = Field(default=SalUnSettings(), description='Settings of "salun".')
    jit: JiTSettings = Field(default=JiTSettings(), description='Settings of "jit".')
    puf: PUFSettings = Field(default=PUFSettings(), description='Settings of "puf".')
    fedquit: FedQUITSettings = Field(default=FedQUITSettings(), description='Settings of "fedquit".')
    one_answer: OneAnswerSettings = Field(
        default=OneAnswerSettings(), description='Settings of the control "one-answer".'
    )
    fine_tune: FineTuneSettings = Field(default=FineTuneSettings(), description='Settings of "fine-tune".')
    neggrad_plus: NegGradPlusSettings = Field(
        default=NegGradPlusSettings(), description='Settings of "neggrad-plus".'
    )
    scrub: SCRUBSettings = Field(default=SCRUBSettings(), description='Settings of "scrub".')
    not_: NoTSettings = Field(default=NoTSettings(), description='Settings of "not".')
    fed_eraser: FedEraserSettings = Field(
        default=FedEraserSettings(), description='Settings of "fed-eraser".'
    )

    regun: ReGUnSettings = Field(default=ReGUnSettings(), description='Settings of "regun".')
    fedosd: FedOSDSettings = Field(default=FedOSDSettings(), description='Settings of "fedosd".')
    rewind_to_delete: RewindToDeleteSettings = Field(
        default=RewindToDeleteSettings(), description='Settings of "rewind-to-delete".'
    )
    oracle_matching: OracleMatchingSettings = Field(
        default=OracleMatchingSettings(), description='Settings of "oracle-matching".'
    )

    @field_validator("aggregation")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value in AGGREGATIONS or is_plugin("aggregation", value):
            return value
        *most, last = (f"'{name}'" for name in AGGREGATIONS)
        raise PydanticCustomError("literal_error", f"should be {', '.join(most)} or {last}")

    @property
    def reads_last_steps(self) -> bool:
        """Whether a joint step reads the most recent updates of the clients without a request.

        Keeping them takes as much memory and disk as there are clients.
        """
        if self.aggregation in AGGREGATIONS:
            return AGGREGATIONS[self.aggregation]
        return bool(find("aggregation", self.aggregation).card.reads_last_steps)
