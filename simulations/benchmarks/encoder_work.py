"""What an encoder costs a federation: seconds, memory, bytes, and how much of the machine it puts to use.

On generated noise, which takes as long as speech. One process: no message is passed, no worker started, so
these are the times of the work itself.
"""

import copy
import platform
import resource
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from fedunlearn.audio import SAMPLE_RATE
from fedunlearn.client.steps import train_update
from fedunlearn.config import LocalSettings
from fedunlearn.config.model import EncoderSettings, ModelSettings
from fedunlearn.config.unlearning import AttackSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.messages.sizes import weights_size
from fedunlearn.messages.update import Update
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.models.encoders.devices import choose
from fedunlearn.seeding import rng_for
from fedunlearn.server.aggregation import weighted_mean
from fedunlearn.training import train
from fedunlearn.unlearning.targeted_attack import targeted_pgd, wrong_labels

CLASSES = 8
_LR = 1e-4
_SIDE = {"cpu": 1536, "cuda": 8192}
"""of the square matrices that the machine's rate is measured with"""


@dataclass(frozen=True)
class EncoderLoad:
    """One setting of the encoder whose cost is measured.

    Attributes:
        model: as in ``model.name``.
        trains: which part of the encoder is trained, as in ``model.encoder``.
        device: as in ``model.encoder``.
        precision: as in ``model.encoder``.
        seconds_at_once: as in ``model.encoder``.
        clients: in a round.
        utterances: of each, all in one batch of local training, one epoch.
        seconds: s, of each utterance.
        attacked: utterances.
        steps: of the attack.
        repeats: measurements, after one that does not count; medians are reported.
        threads: of torch.
    """

    model: str
    trains: str
    device: str = "auto"
    precision: str = "auto"
    seconds_at_once: float = 30.0
    clients: int = 20
    utterances: int = 8
    seconds: float = 3.0
    attacked: int = 16
    steps: int = 5
    repeats: int = 3
    threads: int = 1


def measure(load: EncoderLoad) -> dict[str, Any]:
    """Measure all figures of one load in this process, which should be a fresh one.

    Returns:
        load: as requested, device and precision as they came out; machine; weights: "random" or
            "pre-trained";
        parameters: trained; round_seconds, listen_seconds (features of one client, once in a run; 0 where
        nothing is kept); bytes_up, bytes_down: a client and round, as Flower serialises them; peak_bytes
        of rounds and attack, start_bytes before them (libraries, encoder), and peak_of ("GPU memory reserved"
        or "resident memory"); round_flops: of products and
        convolutions, recomputation included; matrix_flops_per_second: of the machine; round_share: of it
        reached in a round; attack: samples_per_second ("batched", "one_by_one"), difference: L2 of what the
        two moved otherwise, as a share of what was moved; share: of the matrix rate reached by the batched.
    """
    torch.set_num_threads(load.threads)
    device, precision = choose(load.device, load.precision)  # type: ignore[arg-type]
    encoder = EncoderSettings(
        trains=load.trains, device=device, precision=precision, seconds_at_once=load.seconds_at_once
    )
    model = build_model(ModelSettings(name=load.model, encoder=encoder), CLASSES, rng_for(0, "template"))
    start, _ = _peak(device)
    waves = [_speech(load, client) for client in range(load.clients)]
    listen = _median(load, device, lambda: _derived(model, *waves[0])) if model.stores_features else 0.0
    clients = [_derived(model, *wave) for wave in waves]
    round_seconds = _median(load, device, lambda: _round(model, clients, load))
    forget_set, attack = _forget_set(model, load), _attack(load)
    batched_seconds = _median(load, device, lambda: targeted_pgd(model, forget_set, attack, _dice()))
    peak, peak_of = _peak(device)
    rate = matrix_rate(device, precision)

    plain_seconds = _median(load, device, lambda: attacked_one_by_one(model, forget_set, attack))
    batched = targeted_pgd(model, forget_set, attack, _dice()).examples.features
    apart = batched - attacked_one_by_one(model, forget_set, attack)
    moved = (batched - forget_set.examples.features).norm()
    flops = load.clients * flops_of(lambda: _local(model, _state(model), clients[0], load))
    attack_flops = flops_of(lambda: targeted_pgd(model, forget_set, attack, _dice()))
    rate = max(rate, matrix_rate(device, precision))  # before and after: others may be at work
    about = model.about()
    return {
        "load": asdict(load) | {"device": device, "precision": precision},
        "machine": machine(device) | {"threads": load.threads},
        "weights": about["weights"],
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "round_seconds": round_seconds,
        "listen_seconds": listen,
        "bytes_up": weights_size("update", model.state_dict()),
        "bytes_down": weights_size("weights", model.state_dict()),
        "start_bytes": start,
        "peak_bytes": peak,
        "peak_of": peak_of,
        "round_flops": flops,
        "matrix_flops_per_second": rate,
        "round_share": flops / round_seconds / rate,
        "attack": {
            "samples_per_second": {
                "batched": len(forget_set) / batched_seconds,
                "one_by_one": len(forget_set) / plain_seconds,
            },
            "difference": float(apart.norm() / moved),
            "share": attack_flops / batched_seconds / rate,
        },
    }


def machine(device: str) -> dict[str, str]:
    """Return the name of the device, and the versions that computed."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return {"name": name, "torch": torch.__version__, "python": platform.python_version()}


def matrix_rate(device: str, precision: str, side: int = 0) -> float:
    """Floating-point operations a second of a product of two large square matrices, 2 n^3; the best of 20."""
    side = side or _SIDE[device]
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.full((side, side), value, dtype=kind, device=device) for value in (0.5, 0.25))
    return 2 * side**3 / min(_seconds(lambda: a @ b, device) for _ in range(20))


def flops_of(work: Callable[[], object]) -> int:
    """Floating-point operations of products, convolutions and attention, forward and backward."""
    aten = torch.ops.aten
    on_cpu = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    counter = FlopCounterMode(display=False, custom_mapping=on_cpu)
    counter.mod_tracker = _NoModuleTracker()  # type: ignore[assignment]
    with counter:
        work()
    return int(counter.get_total_flops())


class _NoModuleTracker:
    """Which module an operation is of: torch's own hooks for it do not bear autograd.grad."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]


def attacked_one_by_one(model: EmotionModel, forget_set: ForgetSet, settings: AttackSettings) -> Tensor:
    """The attack on waveforms as one would first write it, a sample at a time: features [n, T, D].

    Drawn numbers are those of ``targeted_pgd`` for one sample an utterance in the "l2" ball.
    """
    frozen, rng = copy.deepcopy(model).eval().requires_grad_(False), _dice()
    targets = wrong_labels(forget_set.examples.labels, frozen.classes, rng)
    noise = torch.from_numpy(rng.standard_normal(tuple(forget_set.waveform.shape), dtype="float32"))
    shares = torch.from_numpy(rng.random(len(forget_set), dtype="float32"))
    made = []
    for i, length in enumerate(forget_set.samples.tolist()):
        clean = forget_set.waveform[i, :length]
        radius, count = settings.eps * length**0.5, torch.tensor([length])
        start = noise[i, :length]
        delta = _inside(clean, start / start.norm() * radius * shares[i])
        for _ in range(settings.steps):
            delta.requires_grad_(True)
            logits = frozen.classify(*frozen.derive((clean + delta)[None], count))
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, targets[i : i + 1]), delta)
            delta = delta.detach() - settings.step * radius / settings.steps * gradient / gradient.norm()
            delta = _inside(clean, delta * min(1.0, radius / float(delta.norm())))
        with torch.no_grad():
            made.append(frozen.derive((clean + delta)[None], count)[0][0])
    return torch.nn.utils.rnn.pad_sequence(made, batch_first=True)


def _inside(clean: Tensor, delta: Tensor) -> Tensor:
    return (clean + delta).clamp(-1.0, 1.0) - clean


# ---- the work --------------------------------------------------------------------------------------------


def _speech(load: EncoderLoad, client: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise [n, S], lengths and labels of a client; every length is the same."""
    rng, samples = rng_for(0, "speech", client), round(load.seconds * SAMPLE_RATE)
    waveform = 0.1 * torch.from_numpy(rng.standard_normal((load.utterances, samples), dtype="float32"))
    labels = torch.from_numpy(rng.integers(0, CLASSES, load.utterances))
    return waveform.clamp(-1, 1), torch.full((load.utterances,), samples), labels


def _derived(model: EmotionModel, waveform: Tensor, samples: Tensor, labels: Tensor) -> Examples:
    with torch.no_grad():
        features, frames = model.derive(waveform, samples)
    return Examples(features, frames, labels)


def _state(model: EmotionModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _local(
    model: EmotionModel, start: dict[str, Tensor], examples: Examples, load: EncoderLoad
) -> tuple[dict[str, Tensor], float]:
    local = LocalSettings(steps=1, batch_size=load.utterances)
    return train_update(model, start, lambda: train(model, examples, local, _LR, rng_for(0, "training")))


def _round(model: EmotionModel, clients: list[Examples], load: EncoderLoad) -> None:
    """Have every client train from the same weights, and average."""
    start = _state(model)
    updates = []
    for client, examples in enumerate(clients):
        update, _ = _local(model, start, examples, load)
        updates.append(Update(client, len(examples), update))
    mean = weighted_mean(updates)
    model.load_state_dict({name: value + mean[name].to(value.dtype) for name, value in start.items()})


def _forget_set(model: EmotionModel, load: EncoderLoad) -> ForgetSet:
    waves = [_speech(load, client) for client in range(-(-load.attacked // load.utterances))]
    waveform, samples, labels = (torch.cat(parts)[: load.attacked] for parts in zip(*waves, strict=True))
    return ForgetSet(_derived(model, waveform, samples, labels), waveform, samples)


def _attack(load: EncoderLoad) -> AttackSettings:
    return AttackSettings(domain="waveform", norm="l2", eps=0.01, steps=load.steps, per_utterance=1)


def _dice() -> Any:
    return rng_for(0, "attack")


# ---- the clock and the scales ----------------------------------------------------------------------------


def _seconds(work: Callable[[], object], device: str) -> float:
    _wait(device)
    start = perf_counter()
    work()
    _wait(device)
    return perf_counter() - start


def _median(load: EncoderLoad, device: str, work: Callable[[], object]) -> float:
    return statistics.median([_seconds(work, device) for _ in range(load.repeats + 1)][1:])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak(device: str) -> tuple[int, str]:
    if device == "cuda":
        return torch.cuda.max_memory_reserved(), "GPU memory reserved"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "resident memory"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        named = next(line for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
    return named.partition(":")[2].strip()
