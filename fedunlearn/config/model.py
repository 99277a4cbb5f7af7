"""Settings of the recogniser."""

from typing import Annotated, Literal

from pydantic import Field

from fedunlearn.config.fields import AtLeastOne, OpenFraction, Settings, Shape

SMALL_MODELS = ("functionals", "cnn")
"""The recognisers that are made from nothing; every other name is that of a speech encoder."""


class EncoderSettings(Settings):
    """How a pre-trained speech encoder is put to use; read where ``model.name`` names one.

    Attributes:
        trains: what learns, and therefore what travels, is checkpointed and is held by regularisers: "head"
            (the emotion head alone; the encoder is listened to once per utterance), "top:N" (the head and the
            N uppermost transformer layers), "lora" (the head and low-rank adapters of every layer's queries
            and values, Hu et al. 2022; needs the extra ``encoders``) or "all".
        projection: width of the head's projection.
        lora_rank, lora_alpha: of the adapters; they add lora_alpha / lora_rank times their product.
        seconds_at_once: of audio that go through the encoder in one piece; bounds memory, not batches.
        device: "cpu", "cuda", or "auto" (a GPU where there is one). The encoder lives there; the head and all
            that is done with it stay on the CPU.
        gpu_share: part of the GPU that one worker takes, in [0, 1]; 0 = what it is measured to need.
        precision: of the encoder's arithmetic: "float32", "bfloat16", or "auto" (bfloat16 on a GPU that has
            it). Weights, head and losses stay float32.
        deterministic: on a GPU take only operations that give the same bits each time (slower); a CPU always
            does.
        sha256: digest of the checkpoint's weights; empty = whatever is found. A run's own config.toml says
            which they were, so that a later run cannot take others by accident.
    """

    trains: Annotated[str, Field(pattern=r"^(head|lora|all|top:[1-9][0-9]{0,3})$")] = "head"
    projection: Shape = 256
    lora_rank: Shape = 8
    lora_alpha: AtLeastOne = 16
    seconds_at_once: Annotated[float, Field(gt=0.0, le=3600.0)] = 30.0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpu_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    deterministic: bool = True
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""


class ModelSettings(Settings):
    """The recogniser.

    Attributes:
        name: "functionals" (about 93 k parameters), "cnn" (about 140 k), or a speech encoder (wav2vec 2.0,
            HuBERT, WavLM): a folder as transformers saves it, a name such as "facebook/wav2vec2-base", or
            "random:wav2vec2-base" for one of that shape that has learned nothing (to measure times).
        hidden: width of the functionals model's hidden layer.
        dropout: probability in [0, 1); of an encoder: on what its head is given.
        encoder: how an encoder is put to use.
    """

    name: Annotated[str, Field(min_length=1)] = "functionals"
    hidden: Shape = 128
    dropout: OpenFraction = 0.0
    encoder: EncoderSettings = EncoderSettings()

    @property
    def is_encoder(self) -> bool:
        """Whether a pre-trained speech encoder is meant."""
        return self.name not in SMALL_MODELS
