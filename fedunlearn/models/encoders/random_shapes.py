"""Architectures of encoders with random weights, to measure times and for tests."""

from dataclasses import dataclass, field
from typing import Any

from fedunlearn.errors import BadInput

PREFIX = "random:"
_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_STABLE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
_SMALL = {
    "conv_dim": [128] * 7,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "num_conv_pos_embeddings": 64,
}
_TINY = {
    "conv_dim": [16] * 7,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


@dataclass(frozen=True)
class RandomShape:
    """The architecture of an encoder.

    Attributes:
        kind: "wav2vec2", "hubert" or "wavlm".
        normalise: whether its waveforms must have mean 0 and variance 1.
        sizes: where it differs from transformers' default configuration of that kind, the base model's.
    """

    kind: str
    normalise: bool = True
    sizes: dict[str, Any] = field(default_factory=dict)


SHAPES = {
    "wav2vec2-base": RandomShape("wav2vec2"),
    "wav2vec2-large": RandomShape("wav2vec2", sizes=_LARGE),
    "wav2vec2-large-lv60": RandomShape("wav2vec2", sizes=_LARGE | _STABLE),
    "hubert-base-ls960": RandomShape("hubert"),
    "wavlm-base-plus": RandomShape("wavlm", normalise=False),
    "wav2vec2-small": RandomShape("wav2vec2", sizes=_SMALL),
    "wav2vec2-tiny": RandomShape("wav2vec2", sizes=_TINY),
    "hubert-tiny": RandomShape("hubert", sizes=_TINY | _STABLE),
    "wavlm-tiny": RandomShape("wavlm", normalise=False, sizes=_TINY),
}
"""94 M parameters (base), 315 M (large), 4 M (small) and 11 k (tiny)."""


def shape_of(name: str) -> RandomShape:
    """Return the shape that "random:..." names.

    Args:
        name: the name, with or without "random:".

    Raises:
        BadInput: there is no shape of that name.
    """
    try:
        return SHAPES[name.removeprefix(PREFIX)]
    except KeyError:
        known = ", ".join(PREFIX + shape for shape in SHAPES)
        raise BadInput(f'model.name = "{name}": no such shape; known are {known}') from None
