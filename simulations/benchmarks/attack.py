"""The attack: adversarial samples a second, in batches, one by one, and as a well-known library makes them.

    python -m benchmarks.attack '{"domain": "log-mel"}'

In one thread. Run in simulations/; prints one line of JSON. The library is torchattacks, whose requirements
conflict with Flower's: install it apart with ``pip install --no-deps --target FOLDER torchattacks``, and set
PYTHONPATH=FOLDER.
"""

import json
import statistics
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.workload import EMOTIONS
from fedunlearn.config.model import ModelSettings
from fedunlearn.config.unlearning import AttackSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models import build_model
from fedunlearn.models.functionals import FunctionalsModel
from fedunlearn.seeding import rng_for
from fedunlearn.unlearning.targeted_attack import targeted_pgd

_UTTERANCES, _SAMPLES, _STEPS, _EPS, _REPEATS = 32, 48_000, 10, 0.01, 3

Domain = Literal["log-mel", "waveform"]


def measure(domain: Domain) -> dict[str, float | None]:
    """Attack the functionals model in ten "l2" steps on 32 utterances of 3 s.

    Args:
        domain: what is perturbed.

    Returns:
        samples per second: batched, one_by_one, library (None = it is not installed).
    """
    torch.set_num_threads(1)
    model = build_model(ModelSettings(), len(EMOTIONS), rng_for(0, "template"))
    assert isinstance(model, FunctionalsModel)
    forget_set = _noise(model)
    settings = AttackSettings(domain=domain, norm="l2", eps=_EPS, steps=_STEPS, per_utterance=1)
    singles = [_one(forget_set, i) for i in range(_UTTERANCES)]

    def one_by_one() -> None:
        for single in singles:
            targeted_pgd(model, single, settings, rng_for(0, "attack"))

    library = _library(model, forget_set, domain)
    return {
        "batched": _rate(lambda: targeted_pgd(model, forget_set, settings, rng_for(0, "attack"))),
        "one_by_one": _rate(one_by_one),
        "library": library and _rate(library),
    }


def _noise(model: FunctionalsModel) -> ForgetSet:
    rng = rng_for(0, "speech")
    waveform = torch.from_numpy(rng.standard_normal((_UTTERANCES, _SAMPLES), dtype="float32")).mul(0.1)
    samples = torch.full((_UTTERANCES,), _SAMPLES)
    with torch.no_grad():
        features, frames = model.derive(waveform.clamp_(-1, 1), samples)
    labels = torch.from_numpy(rng.integers(0, len(EMOTIONS), _UTTERANCES))
    return ForgetSet(Examples(features, frames, labels), waveform, samples)


def _one(whole: ForgetSet, i: int) -> ForgetSet:
    return ForgetSet(
        whole.examples.take(torch.tensor([i])), whole.waveform[i : i + 1], whole.samples[i : i + 1]
    )


def _library(model: FunctionalsModel, forget_set: ForgetSet, domain: Domain) -> Callable[[], Any] | None:
    """The same steps by torchattacks, which knows images of values in [0, 1]: [n, 1, H, W]."""
    try:
        import torchattacks
    except ImportError:
        return None
    with torch.no_grad():
        mel, frames = model.log_mel(forget_set.waveform, forget_set.samples)
    low, high = (float(mel.min()), float(mel.max())) if domain == "log-mel" else (-1.0, 1.0)

    class FromImage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.eval()

        def forward(self, image: Tensor) -> Tensor:
            values = image[:, 0] * (high - low) + low
            if domain == "log-mel":
                return model.classify(*model.from_mel(values, frames[: len(values)]))
            return model.classify(*model.derive(values[:, 0], forget_set.samples[: len(values)]))

    clean = mel if domain == "log-mel" else forget_set.waveform[:, None]
    images = ((clean - low) / (high - low)).clamp(0, 1)[:, None]
    radius = _EPS * images[0].numel() ** 0.5
    attack = torchattacks.PGDL2(FromImage(), eps=radius, alpha=radius / _STEPS, steps=_STEPS)
    attack.set_mode_targeted_by_label(quiet=True)
    targets = (forget_set.examples.labels + 1) % len(EMOTIONS)
    return lambda: attack(images, targets)


def _rate(work: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(_REPEATS + 1):
        start = perf_counter()
        work()
        seconds.append(perf_counter() - start)
    return _UTTERANCES / statistics.median(seconds[1:])


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
