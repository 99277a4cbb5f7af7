"""Parts of an encoder that are computed alone: what lies below the transformer, and a span of its layers."""

import copy
from typing import Any

from torch import Tensor, nn


def first_state(encoder: Any, waveform: Tensor, mask: Tensor | None) -> Tensor:
    """Compute the input of the first transformer layer: convolutions, projection and positions.

    Args:
        encoder: transformers' Wav2Vec2Model, HubertModel or WavLMModel; not changed.
        waveform: [B, S].
        mask: int64 [B, S], 1 on true samples; None if there is no padding.

    Returns:
        Hidden states [B, T, H]; meaningless on padding frames.
    """
    below = _sharing(encoder, adapter=None)
    layers = _sharing(encoder.encoder, layers=nn.ModuleList())
    if encoder.config.do_stable_layer_norm:  # its norm follows the last layer
        layers._modules["layer_norm"] = nn.Identity()
    below._modules["encoder"] = layers
    states: Tensor = below(waveform, attention_mask=mask, output_hidden_states=False).last_hidden_state
    return states


def later_states(encoder: Any, states: Tensor, real: Tensor, first: int, last: int) -> list[Tensor]:
    """Pass hidden states through some of the transformer's layers.

    Args:
        encoder: as of ``first_state``.
        states: [B, T, H], input of layer ``first``.
        real: bool [B, T], False on padding frames.
        first: number of the first layer, from 0.
        last: number of the layer after the last one, at most L.

    Returns:
        The output [B, T, H] of each layer; meaningless on padding frames.
    """
    layers = encoder.encoder.layers
    if encoder.config.model_type == "wavlm":
        return _later_of_wavlm(layers, states, real, first, last)
    from transformers.masking_utils import create_bidirectional_mask

    mask = create_bidirectional_mask(config=encoder.config, inputs_embeds=states, attention_mask=real)
    made = []
    for layer in layers[first:last]:
        states = layer(states, attention_mask=mask)
        made.append(states)
    return made


def _later_of_wavlm(layers: Any, states: Tensor, real: Tensor, first: int, last: int) -> list[Tensor]:
    """The same for WavLM, whose first layer holds the position bias of all."""
    position, made = None, []
    if first > 0:
        attention, (batch, length, _) = layers[0].attention, states.shape
        bias = attention.compute_bias(length, length)[None].repeat(batch, 1, 1, 1)
        position = bias.view(batch * attention.num_heads, length, length)
    for index in range(first, last):
        states, position = layers[index](states, attention_mask=real, position_bias=position, index=index)
        made.append(states)
    return made


def _sharing(module: Any, **replaced: Any) -> Any:
    """Copy a module that shares all its parts with the original, but for those that are replaced."""
    copied = copy.copy(module)
    copied.__dict__["_modules"] = {**module._modules, **replaced}
    return copied
