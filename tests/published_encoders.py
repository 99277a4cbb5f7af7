"""Folders with the configuration and the tensor names and shapes of published encoders, at any width.

The configurations are those of the repositories on huggingface.co that they are named after; the tensors are
listed here from the papers' architectures, with the names that those files have. Values are random.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Shapes = dict[str, tuple[int, ...]]

_CONVOLUTIONS: dict[str, Any] = {
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "feat_extract_activation": "gelu",
    "num_conv_pos_embedding_groups": 16,
    "num_conv_pos_embeddings": 128,
    "num_feat_extract_layers": 7,
}
_TOKENS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": 32}
_BASE: dict[str, Any] = {
    "conv_bias": False,
    "do_stable_layer_norm": False,
    "feat_extract_norm": "group",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
}
_LARGE: dict[str, Any] = {
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
}
_TRAINING: dict[str, Any] = {
    "apply_spec_augment": True,
    "attention_dropout": 0.1,
    "ctc_loss_reduction": "sum",
    "ctc_zero_infinity": False,
    "feat_proj_dropout": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "mask_feature_length": 10,
    "mask_feature_prob": 0.0,
    "mask_time_length": 10,
    "torch_dtype": "float32",
}
_CHANNEL_MASKS: dict[str, Any] = {
    "mask_channel_length": 10,
    "mask_channel_min_space": 1,
    "mask_channel_other": 0.0,
    "mask_channel_prob": 0.0,
    "mask_channel_selection": "static",
    "mask_time_min_space": 1,
    "mask_time_other": 0.0,
    "mask_time_selection": "static",
}
_NO_OVERLAP: dict[str, Any] = {"no_mask_channel_overlap": False, "no_mask_time_overlap": False}
_QUANTISER: dict[str, Any] = {
    "contrastive_logits_temperature": 0.1,
    "diversity_loss_weight": 0.1,
    "feat_quantizer_dropout": 0.0,
    "num_codevector_groups": 2,
    "num_codevectors_per_group": 320,
    "num_negatives": 100,
}
_WAVLM: dict[str, Any] = {
    "activation_dropout": 0.0,
    "adapter_kernel_size": 3,
    "adapter_stride": 2,
    "add_adapter": False,
    "architectures": ["WavLMModel"],
    "classifier_proj_size": 256,
    "final_dropout": 0.0,
    "mask_feature_min_masks": 0,
    "mask_time_min_masks": 2,
    "max_bucket_distance": 800,
    "model_type": "wavlm",
    "num_adapter_layers": 3,
    "num_buckets": 320,
    "num_ctc_classes": 80,
    "replace_prob": 0.5,
    "tokenizer_class": "Wav2Vec2CTCTokenizer",
    "use_weighted_layer_sum": False,
}
_SUPERB: dict[str, Any] = {
    "architectures": ["HubertForSequenceClassification"],
    "classifier_proj_size": 256,
    "id2label": {"0": "neu", "1": "hap", "2": "ang", "3": "sad"},
    "label2id": {"ang": 2, "hap": 1, "neu": 0, "sad": 3},
    "mask_time_prob": 0.075,
    "transformers_version": "4.10.0.dev0",
    "use_weighted_layer_sum": True,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "facebook/wav2vec2-base": _BASE
    | _CONVOLUTIONS
    | _TOKENS
    | _TRAINING
    | _CHANNEL_MASKS
    | _NO_OVERLAP
    | _QUANTISER
    | {
        "activation_dropout": 0.0,
        "architectures": ["Wav2Vec2ForPreTraining"],
        "codevector_dim": 256,
        "final_dropout": 0.0,
        "freeze_feat_extract_train": True,
        "layerdrop": 0.05,
        "mask_time_prob": 0.05,
        "model_type": "wav2vec2",
        "proj_codevector_dim": 256,
        "transformers_version": "4.7.0.dev0",
    },
    "facebook/wav2vec2-large-lv60": _LARGE
    | _CONVOLUTIONS
    | _TOKENS
    | _TRAINING
    | _QUANTISER
    | {
        "activation_dropout": 0.0,
        "architectures": ["Wav2Vec2ForPreTraining"],
        "codevector_dim": 768,
        "conv_bias": True,
        "feat_extract_dropout": 0.0,
        "final_dropout": 0.0,
        "gradient_checkpointing": False,
        "layerdrop": 0.1,
        "mask_time_prob": 0.075,
        "model_type": "wav2vec2",
        "proj_codevector_dim": 768,
        "transformers_version": "4.7.0.dev0",
    },
    "facebook/hubert-base-ls960": _BASE
    | _CONVOLUTIONS
    | _TOKENS
    | _TRAINING
    | {
        "activation_dropout": 0.1,
        "architectures": ["HubertModel"],
        "classifier_proj_size": 256,
        "feat_extract_dropout": 0.0,
        "feat_proj_layer_norm": True,
        "final_dropout": 0.1,
        "gradient_checkpointing": False,
        "hidden_dropout_prob": 0.1,
        "layerdrop": 0.1,
        "mask_feature_min_masks": 0,
        "mask_time_min_masks": 2,
        "mask_time_prob": 0.05,
        "model_type": "hubert",
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "transformers_version": "4.12.0.dev0",
        "use_weighted_layer_sum": False,
    },
    "superb/hubert-large-superb-er": _LARGE
    | _CONVOLUTIONS
    | _TOKENS
    | _TRAINING
    | _CHANNEL_MASKS
    | _SUPERB
    | {
        "_name_or_path": "facebook/hubert-large-ll60k",
        "activation_dropout": 0.0,
        "conv_bias": True,
        "final_dropout": 0.0,
        "gradient_checkpointing": False,
        "layerdrop": 0.1,
        "model_type": "hubert",
    },
    "microsoft/wavlm-base-plus": _BASE
    | _CONVOLUTIONS
    | _TOKENS
    | _TRAINING
    | _CHANNEL_MASKS
    | _NO_OVERLAP
    | _QUANTISER
    | _WAVLM
    | {
        "_name_or_path": "wavlm-base-plus",
        "codevector_dim": 256,
        "freeze_feat_extract_train": True,
        "layerdrop": 0.05,
        "mask_time_prob": 0.05,
        "output_hidden_size": 768,
        "proj_codevector_dim": 256,
        "transformers_version": "4.13.0.dev0",
    },
    "microsoft/wavlm-large": _LARGE
    | _CONVOLUTIONS
    | _TOKENS
    | _TRAINING
    | _CHANNEL_MASKS
    | _QUANTISER
    | _WAVLM
    | {
        "_name_or_path": "./wavlm-large/",
        "codevector_dim": 768,
        "conv_bias": False,
        "feat_extract_dropout": 0.0,
        "gradient_checkpointing": False,
        "layerdrop": 0.1,
        "mask_time_prob": 0.075,
        "output_hidden_size": 1024,
        "proj_codevector_dim": 768,
        "transformers_version": "4.15.0.dev0",
    },
}
"""config.json of each."""

EXTRACTORS: dict[str, dict[str, Any]] = {
    # These two are from before the files named their own class.
    "facebook/wav2vec2-base": {"do_normalize": True, "return_attention_mask": False},
    "facebook/wav2vec2-large-lv60": {"do_normalize": True, "return_attention_mask": True},
    "facebook/hubert-base-ls960": {
        "do_normalize": True,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "padding_value": 0,
        "return_attention_mask": False,
    },
    "superb/hubert-large-superb-er": {
        "do_normalize": True,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "return_attention_mask": True,
    },
    "microsoft/wavlm-base-plus": {
        "do_normalize": False,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "return_attention_mask": True,
    },
    "microsoft/wavlm-large": {
        "do_normalize": True,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "return_attention_mask": True,
    },
}
"""What each preprocessor_config.json says besides one channel at 16 kHz, padded on the right."""

_NARROW: dict[str, Any] = {
    "conv_dim": [16] * 7,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "codevector_dim": 16,
    "proj_codevector_dim": 16,
    "num_codevectors_per_group": 4,
    "classifier_proj_size": 8,
    "output_hidden_size": 16,
}


def config_of(name: str, narrow: bool = False) -> dict[str, Any]:
    """A published config.json; a narrow one has the same structure with two layers of width 16."""
    config = copy.deepcopy(CONFIGS[name])
    return config | {key: value for key, value in _NARROW.items() if key in config} if narrow else config


def tensors_of(config: dict[str, Any]) -> Shapes:
    """Names and shapes of the tensors in the published model.safetensors with such a config.json."""
    headed = not config["architectures"][0].endswith("Model")
    prefix = f"{config['model_type']}." if headed else ""
    shapes = {prefix + name: shape for name, shape in _encoder(config).items()}
    if config["architectures"] == ["Wav2Vec2ForPreTraining"]:
        codes, width = config["num_codevectors_per_group"] * 2, config["codevector_dim"]
        shapes |= {
            "quantizer.codevectors": (1, codes, width // 2),
            **_linear("quantizer.weight_proj", config["conv_dim"][-1], codes),
            **_linear("project_hid", config["hidden_size"], config["proj_codevector_dim"]),
            **_linear("project_q", width, config["proj_codevector_dim"]),
        }
    if config["architectures"] == ["HubertForSequenceClassification"]:
        shapes |= {
            "layer_weights": (config["num_hidden_layers"] + 1,),
            **_linear("projector", config["hidden_size"], config["classifier_proj_size"]),
            **_linear("classifier", config["classifier_proj_size"], len(config["id2label"])),
        }
    return shapes


def write_published(
    folder: Path, name: str, narrow: bool = True, dtype: torch.dtype = torch.float32, extractor: bool = True
) -> dict[str, torch.Tensor]:
    """Write a folder as published, with random weights.

    Returns:
        its tensors, in float32
    """
    config = config_of(name, narrow)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if extractor:
        settings = {"feature_size": 1, "padding_side": "right", "padding_value": 0.0, "sampling_rate": 16000}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings | EXTRACTORS[name]))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        tensor: 0.05 * torch.randn(shape, generator=generator) + (0.5 if tensor.endswith("weight_g") else 0.0)
        for tensor, shape in tensors_of(config).items()
    }
    save_file({k: v.to(dtype) for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return {key: value.to(dtype).float() for key, value in tensors.items()}


def _encoder(config: dict[str, Any]) -> Shapes:
    width, inner, convolved = config["hidden_size"], config["intermediate_size"], config["conv_dim"]
    shapes: Shapes = {"masked_spec_embed": (width,)}
    for i, (inputs, outputs, kernel) in enumerate(
        zip([1, *convolved], convolved, config["conv_kernel"], strict=False)
    ):
        layer = f"feature_extractor.conv_layers.{i}"
        shapes[f"{layer}.conv.weight"] = (outputs, inputs, kernel)
        if config["conv_bias"]:
            shapes[f"{layer}.conv.bias"] = (outputs,)
        if config["feat_extract_norm"] == "layer" or i == 0:
            shapes |= _norm(f"{layer}.layer_norm", outputs)
    shapes |= _norm("feature_projection.layer_norm", convolved[-1])
    shapes |= _linear("feature_projection.projection", convolved[-1], width)
    kernel, groups = config["num_conv_pos_embeddings"], config["num_conv_pos_embedding_groups"]
    shapes["encoder.pos_conv_embed.conv.bias"] = (width,)
    shapes["encoder.pos_conv_embed.conv.weight_g"] = (1, 1, kernel)
    shapes["encoder.pos_conv_embed.conv.weight_v"] = (width, width // groups, kernel)
    shapes |= _norm("encoder.layer_norm", width)
    heads = config["num_attention_heads"]
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{layer}.attention.{part}", width, width)
        if config["model_type"] == "wavlm":
            shapes |= _linear(f"{layer}.attention.gru_rel_pos_linear", width // heads, 8)
            shapes[f"{layer}.attention.gru_rel_pos_const"] = (1, heads, 1, 1)
            if i == 0:  # shared by all layers
                shapes[f"{layer}.attention.rel_attn_embed.weight"] = (config["num_buckets"], heads)
        shapes |= _norm(f"{layer}.layer_norm", width)
        shapes |= _linear(f"{layer}.feed_forward.intermediate_dense", width, inner)
        shapes |= _linear(f"{layer}.feed_forward.output_dense", inner, width)
        shapes |= _norm(f"{layer}.final_layer_norm", width)
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
