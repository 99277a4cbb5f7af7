"""Small encoders to be saved, and what a saved one answers."""

from pathlib import Path

import torch
from torch import Tensor

from fedunlearn.audio import pad
from fedunlearn.config.model import ModelSettings
from fedunlearn.models import build_model
from fedunlearn.models.encoders.model import EncoderModel

EMOTIONS = ("anger", "calm", "sadness")


def trained(folder: Path, trains: str, classes: int = len(EMOTIONS)) -> EncoderModel:
    """A model in which everything that travels has moved: no weight, mean or scale is as it began."""
    encoder = {"trains": trains, "projection": 5, "device": "cpu", "precision": "float32"}
    encoder |= {"state_precision": "float32"}  # a saved model rounds no hidden state
    chosen = ModelSettings.model_validate({"name": str(folder), "encoder": encoder})
    model = build_model(chosen, classes, torch.Generator().manual_seed(1))
    assert isinstance(model, EncoderModel)
    rng = torch.Generator().manual_seed(5)
    moved = {k: v + 0.3 * torch.randn(v.shape, generator=rng) for k, v in model.state_dict().items()}
    moved["norm.std"] = torch.rand(moved["norm.std"].shape, generator=rng) + 0.2
    model.load_state_dict(moved)
    return model.eval()


def utterance(samples: int) -> Tensor:
    """In [-1, 1], with an offset and a size that a feature extractor would take away."""
    return 0.1 + 0.05 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))


def logits_of(model: EncoderModel, waveform: Tensor) -> Tensor:
    with torch.no_grad():
        return model(*pad([waveform]))[0]
