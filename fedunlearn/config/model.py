"""Settings of the emotion recogniser."""

from typing import Annotated, Literal

from pydantic import Field

from fedunlearn.config.fields import AtLeastOne, OpenFraction, Options, Settings, Shape
from fedunlearn.config.plugins import is_plugin

SMALL_MODELS = ("functionals", "cnn")
"""The recognisers that are trained from scratch; other names are those of speech encoders and plug-ins."""
BUNDLED_ENCODER = "small"
"""The speech encoder that is installed with the package."""


class EncoderSettings(Settings):
    """How a pre-trained speech encoder is used; read where `model.name` names one."""

    trains: Annotated[str, Field(pattern=r"^(head|lora|all|(top|lora):[1-9][0-9]{0,3})$")] = Field(
        default="head",
        description="Which parameters are trained, and therefore sent, checkpointed and regularised. "
        '"head": the emotion head alone (each utterance passes the encoder once); "top:N": the head and the '
        'N uppermost transformer layers; "lora": the head and low-rank adapters on the queries and values '
        'of every layer (Hu et al. 2022; needs the extra `encoders`), "lora:N": of the N uppermost layers; '
        '"all": everything. What lies below the trained layers is computed once for each utterance.',
    )
    state_precision: Literal["float16", "float32"] = Field(
        default="float16",
        description="Precision in which a device keeps the hidden states below the trained layers; read with "
        'trains = "top:N" and "lora".',
    )
    head: Literal["new", "kept"] = Field(
        default="new",
        description='"new": an emotion head with random initial weights; a head in the checkpoint is not '
        'used. "kept": training starts from the head of a fine-tuned classification checkpoint, without '
        "standardisation of its inputs.",
    )
    labels: tuple[str, ...] = Field(
        default=(),
        description="The checkpoint's label (id2label) of each emotion of the corpus, in the order of the "
        'emotions; read with head = "kept". Empty = found by name. The config.toml of a run contains them.',
    )
    projection: Shape = Field(
        default=256,
        description="Width of the projection layer in the emotion head; one that is kept has its own.",
    )
    lora_rank: Shape = Field(
        default=8,
        description="Rank r of the adapters, which add (`lora_alpha` / r) * B A to a weight matrix; read "
        'with trains = "lora".',
    )
    lora_alpha: AtLeastOne = Field(
        default=16,
        description="Scale of the adapters, which add (`lora_alpha` / `lora_rank`) * B A to a weight "
        'matrix; read with trains = "lora".',
    )
    seconds_at_once: Annotated[float, Field(gt=0.0, le=3600.0)] = Field(
        default=30.0,
        description="Seconds of audio that pass through the encoder in one piece. Bounds memory; does not "
        "change the batch size.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description='Where the encoder runs: "cpu", "cuda", or "auto" (a GPU if there is one). The head and '
        "everything computed from its inputs stay on the CPU.",
    )
    gpu_share: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.0,
        description="Share of the GPU's memory that one worker may use; 0 = the measured requirement.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description='Precision of the encoder\'s matrix products: "float32", "bfloat16", or "auto" '
        "(bfloat16 on a GPU that supports it, otherwise float32). Weights, head and losses stay in float32.",
    )
    deterministic: bool = Field(
        default=True,
        description="Use only GPU operations that give the same bits in every run, which is slower. A CPU "
        "always does.",
    )
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = Field(
        default="",
        description="SHA-256 of the checkpoint's weights; empty = accept whatever is found. The config.toml "
        "of a run contains the digest that was found, so that a later run cannot use other weights by "
        "accident.",
    )


class ModelSettings(Settings):
    """The emotion recogniser that the clients train together."""

    name: Annotated[str, Field(min_length=1)] = Field(
        default="functionals",
        description='"functionals" (about 93,000 parameters), "cnn" (about 140,000), or a speech encoder '
        '(wav2vec 2.0, HuBERT, WavLM): "small", which is installed with the package and was pre-trained on '
        "generated speech (docs/encoders.md), a folder saved by transformers, a published name such as "
        '"facebook/wav2vec2-base", or "random:wav2vec2-base" for that architecture with random weights, to '
        'measure times. Or a model of your own: "path/to/file.py:name" (docs/extending.md).',
    )
    hidden: Shape = Field(default=128, description="Width of the hidden layer of the functionals model.")
    dropout: OpenFraction = Field(
        default=0.0, description="Dropout probability; in an encoder, on the input of its head."
    )
    encoder: EncoderSettings = Field(
        default=EncoderSettings(), description="How a pre-trained speech encoder is used."
    )
    options: Options | None = Field(
        default=None, description="Settings of a model of your own, which defines what they are."
    )

    def lacks_domain(self, domain: str) -> str:
        """Say why the model has nothing in an attack's domain; empty where it has.

        Args:
            domain: as in ``unlearning.*.attack.domain``.
        """
        if not self.is_encoder:
            only_encoders = f'"{domain}" is of speech encoders; take "feature", "log-mel" or "waveform"'
            return only_encoders if domain in ("hidden", "embedding") else ""
        trains = self.encoder.trains
        own = "hidden" if self.keeps_states else "embedding" if trains == "head" else ""
        others = " or ".join(f'"{name}"' for name in ("feature", own, "waveform") if name)
        missing = {
            "log-mel": "a speech encoder hears no log-mel frames",
            "hidden": f'a speech encoder with trains = "{trains}" keeps no hidden states',
            "embedding": f'a speech encoder with trains = "{trains}" does not begin at embeddings',
        }
        return f"{missing[domain]}; take {others}" if domain in missing and domain != own else ""

    @property
    def keeps_states(self) -> bool:
        """Whether an encoder's features are hidden states: its lower layers are frozen, its upper are not."""
        return self.is_encoder and self.encoder.trains not in ("head", "all")

    @property
    def is_plugin(self) -> bool:
        """Whether a user's own model is meant."""
        return self.name not in SMALL_MODELS and is_plugin("model", self.name)

    @property
    def is_encoder(self) -> bool:
        """Whether a pre-trained speech encoder is meant."""
        return self.name not in SMALL_MODELS and not self.is_plugin
