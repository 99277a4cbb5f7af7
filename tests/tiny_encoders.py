"""Speech encoders small enough to be made on the spot, saved as transformers saves them."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    HubertConfig,
    HubertModel,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

KINDS: dict[str, tuple[Any, type[PreTrainedModel]]] = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    "hubert": (HubertConfig, HubertModel),
    "wavlm": (WavLMConfig, WavLMModel),
}
NORMS = ("group", "layer")
RECEPTIVE_FIELD, STRIDE = 400, 320
"""samples; of the seven convolutions of all three kinds"""


def tiny_config(
    kind: str = "wav2vec2", norm: str = "group", layers: int = 2, hidden: int = 16, **config: Any
) -> Any:
    """The configuration of a tiny encoder: real kernels and strides, few channels.

    As in the published checkpoints, the "layer" norm comes with biases in the convolutions and with the
    transformer's layer norms first in each layer ("stable").
    """
    sizes = {
        "conv_dim": (16,) * 7,
        "conv_bias": norm == "layer",
        "feat_extract_norm": norm,
        "do_stable_layer_norm": norm == "layer",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * hidden,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
    }
    return KINDS[kind][0](**(sizes | config))


def tiny_encoder(
    folder: Path,
    kind: str = "wav2vec2",
    norm: str = "group",
    layers: int = 2,
    hidden: int = 16,
    seed: int = 0,
    normalise: bool = True,
    **config: Any,
) -> Path:
    """Make an encoder with seeded random weights and save it: config, preprocessor's config, safetensors.

    Args:
        folder: where; made if it is missing.
        kind: "wav2vec2", "hubert" or "wavlm".
        norm: "group" (over time, in the first convolution alone) or "layer" (in each convolution).
        layers: L, of the transformer.
        hidden: H, its width; even.
        seed: of the weights; torch's own generator is left as it was.
        normalise: whether its waveforms are to have mean 0 and variance 1.
        config: what else the configuration should say, in transformers' words.

    Returns:
        the folder
    """
    settings = tiny_config(kind, norm, layers, hidden, **config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = KINDS[kind][1](settings)
    model.save_pretrained(folder)
    save_preprocessor(folder, normalise)
    return folder


def save_preprocessor(folder: Path, normalise: bool = True, **settings: Any) -> None:
    """Write a preprocessor_config.json: one channel, 16 kHz, unless ``settings`` say otherwise."""
    wanted = {"feature_size": 1, "sampling_rate": 16_000, "padding_value": 0.0} | settings
    extractor = Wav2Vec2FeatureExtractor(**wanted, do_normalize=normalise, return_attention_mask=True)
    extractor.save_pretrained(folder)
