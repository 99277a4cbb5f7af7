"""What an encoder costs a federation: seconds, memory, bytes, and how much of the machine it puts to use.

On generated noise, which takes as long as speech. One process: no message is passed, no worker started, so
these are the times of the work itself.
"""

import copy
import hashlib
import platform
import resource
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from fedunlearn.audio import SAMPLE_RATE
from fedunlearn.blockwise import StateDict, difference
from fedunlearn.config import LocalSettings
from fedunlearn.config.model import EncoderSettings, ModelSettings
from fedunlearn.config.unlearning import AttackSettings
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.messages.update import Update
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.models.encoders.devices import choose
from fedunlearn.seeding import rng_for
from fedunlearn.server.aggregation import step, weighted_mean
from fedunlearn.training import train
from fedunlearn.unlearning.targeted_attack import targeted_pgd, wrong_labels

CLASSES = 8
_LR = 1e-4
_SIDE = {"cpu": 1536, "cuda": 8192}
"""of the square matrices that the machine's rate is measured with"""
_PROFILED_ROWS = 40


@dataclass(frozen=True)
class EncoderLoad:
    """One setting of the encoder whose cost is measured.

    Attributes:
        model: as in ``model.name``.
        trains: which part of the encoder is trained, as in ``model.encoder``.
        device: as in ``model.encoder``.
        precision: as in ``model.encoder``.
        deterministic: as in ``model.encoder``.
        seconds_at_once: as in ``model.encoder``.
        clients: in a round.
        utterances: of each, all in one batch of local training, one epoch.
        seconds: s, of each utterance.
        attacked: utterances; 0 = no attack is measured.
        steps: of the attack.
        compared: utterances that are attacked one by one as well, to compare.
        repeats: measurements, after one that does not count; medians are reported. 0 = only that one.
        threads: of torch on the CPU.
    """

    model: str
    trains: str
    device: str = "auto"
    precision: str = "auto"
    deterministic: bool = True
    seconds_at_once: float = 30.0
    clients: int = 20
    utterances: int = 8
    seconds: float = 3.0
    attacked: int = 16
    steps: int = 5
    compared: int = 4
    repeats: int = 3
    threads: int = 1


@dataclass(frozen=True)
class RoundCost:
    """Cost of one round: every client trains from the same weights, and the differences are averaged.

    Attributes:
        seconds: s, whole round.
        training_seconds: s, of it in local training.
        moving_seconds: s, of it to load weights, to read them back and to subtract.
        averaging_seconds: s, of it on the server.
        flops: floating-point operations of products, convolutions and attention, recomputation included.
        share: of the machine's matrix rate, reached in local training.
        whole_share: the same, of the whole round.
        weights: SHA-256 of the averaged weights.
        same_bits: whether every repetition gave these weights; None if there was none.
    """

    seconds: float
    training_seconds: float
    moving_seconds: float
    averaging_seconds: float
    flops: int
    share: float
    whole_share: float
    weights: str
    same_bits: bool | None


@dataclass(frozen=True)
class AttackCost:
    """Cost of the attack on waveforms.

    Attributes:
        samples_per_second: waveforms attacked in batches.
        one_by_one_per_second: waveforms attacked one after another by a plain loop.
        difference: L2 distance of what the two made, as a share of how far the attack moved.
        flops: floating-point operations of the batches.
        share: of the machine's matrix rate, reached by the batches.
        same_bits: whether every repetition gave the same samples; None if there was none.
    """

    samples_per_second: float
    one_by_one_per_second: float
    difference: float
    flops: int
    share: float
    same_bits: bool | None


@dataclass(frozen=True)
class EncoderCost:
    """What one load costs on this machine.

    Attributes:
        load: device and precision as they came out.
        machine: names of the device and of the versions that computed.
        weights: "random" or "pre-trained".
        parameters: number of trained parameters.
        travels: bytes of the weights that a client receives in a round, and sends.
        matrix_flops_per_second: rate of a product of two large square matrices.
        listen_seconds: s, features of one client, once in a run; 0 where none are kept.
        start_bytes: memory before the first round: libraries and encoder.
        peak_bytes: largest memory in rounds and attack.
        peak_of: "GPU memory reserved" or "resident memory".
        round: of one round.
        attack: of the attack; None if it was not measured.
    """

    load: EncoderLoad
    machine: dict[str, str]
    weights: str
    parameters: int
    travels: int
    matrix_flops_per_second: float
    listen_seconds: float
    start_bytes: int
    peak_bytes: int
    peak_of: str
    round: RoundCost
    attack: AttackCost | None = None


@dataclass
class _Seconds:
    """Where a round's seconds went."""

    training: list[float] = field(default_factory=list)
    moving: list[float] = field(default_factory=list)
    averaging: list[float] = field(default_factory=list)


def measure(
    load: EncoderLoad, write: Callable[[EncoderCost], None] = lambda cost: None, profile: Path | None = None
) -> EncoderCost:
    """Measure all figures of one load in this process, which should be a fresh one.

    Args:
        load: what is measured.
        write: receives the figures that there are, before the attack.
        profile: file for a table of the operations that took longest; None = none is written.
    """
    torch.set_num_threads(load.threads)
    device, precision = choose(load.device, load.precision)  # type: ignore[arg-type]
    load = replace(load, device=device, precision=precision)
    encoder = EncoderSettings(
        trains=load.trains,
        device=device,
        precision=precision,
        deterministic=load.deterministic,
        seconds_at_once=load.seconds_at_once,
    )
    model = build_model(ModelSettings(name=load.model, encoder=encoder), CLASSES, rng_for(0, "template"))
    start_bytes, peak_of = _peak(device)
    rate = matrix_rate(device, precision)
    _forget_peak(device)
    waves = [_speech(load, client) for client in range(load.clients)]
    listen = _median(load, lambda: _derived(model, *waves[0])) if model.stores_features else 0.0
    clients = [_derived(model, *wave) for wave in waves]
    cost = EncoderCost(
        load,
        machine(device) | {"threads": str(load.threads)},
        model.about()["weights"],
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        sum(value.nbytes for value in model.state_dict().values()),
        rate,
        listen,
        start_bytes,
        0,
        peak_of,
        _round_cost(model, clients, load, rate),
    )
    cost = replace(cost, peak_bytes=_peak(device)[0])
    write(cost)
    if load.attacked:
        cost = replace(cost, attack=_attack_cost(model, load, rate), peak_bytes=_peak(device)[0])
        write(cost)
    if profile is not None:
        state, forget_set = _state(model), _forget_set(model, replace(load, attacked=load.utterances))
        training = _profiled(device, lambda: _local(model, state, clients[0], load, _Seconds()))
        once = _attack(replace(load, steps=1))
        attack = _profiled(device, lambda: targeted_pgd(model, forget_set, once, _dice()))
        profile.write_text(
            f"# local training of one client\n{training}\n# one step of the attack\n{attack}", "utf-8"
        )
    return cost


def _round_cost(model: EmotionModel, clients: list[Examples], load: EncoderLoad, rate: float) -> RoundCost:
    start = _state(model)
    first, made = _Seconds(), list[StateDict]()
    flops = flops_of(lambda: made.append(_round(model, start, clients, load, first)))
    weights = [_digest(made.pop())]
    seconds, rounds = _Seconds() if load.repeats else first, list[float]()
    for _ in range(load.repeats):
        rounds.append(
            _seconds(lambda: made.append(_round(model, start, clients, load, seconds)), load.device)
        )
        weights.append(_digest(made.pop()))
    rounds = rounds or [sum(first.training + first.moving + first.averaging)]
    training, moving, averaging = (
        sum(part) / len(rounds) for part in (seconds.training, seconds.moving, seconds.averaging)
    )
    whole = statistics.median(rounds)
    return RoundCost(
        whole,
        training,
        moving,
        averaging,
        flops,
        flops / training / rate,
        flops / whole / rate,
        weights[0],
        len(set(weights)) == 1 if load.repeats else None,
    )


def _attack_cost(model: EmotionModel, load: EncoderLoad, rate: float) -> AttackCost:
    forget_set, attack, made = _forget_set(model, load), _attack(load), list[Tensor]()
    few = ForgetSet(
        forget_set.examples.take(torch.arange(min(load.compared, load.attacked))),
        forget_set.waveform[: load.compared],
        forget_set.samples[: load.compared],
    )

    def batched() -> None:
        made.append(targeted_pgd(model, forget_set, attack, _dice()).examples.features)

    flops = flops_of(batched)
    seconds = _median(replace(load, repeats=max(load.repeats, 1)), batched)
    attacked_one_by_one(model, few, attack)
    plain: list[Tensor] = []
    plain_seconds = _seconds(lambda: plain.append(attacked_one_by_one(model, few, attack)), load.device)
    together = targeted_pgd(model, few, attack, _dice()).examples.features
    moved = (together - few.examples.features).norm()
    return AttackCost(
        len(forget_set) / seconds,
        len(few) / plain_seconds,
        float((together - plain[0]).norm() / moved),
        flops,
        flops / seconds / rate,
        all(torch.equal(again, made[0]) for again in made[1:]),
    )


def _profiled(device: str, work: Callable[[], object]) -> str:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    _wait(device)
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        work()
        _wait(device)
    order = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    averages = profiler.key_averages()
    return str(averages.table(sort_by=order, row_limit=_PROFILED_ROWS, max_name_column_width=90))


def _digest(weights: StateDict) -> str:
    digest = hashlib.sha256()
    for value in weights.values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def machine(device: str) -> dict[str, str]:
    """Return the name of the device, and the versions that computed."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return {"name": name, "torch": torch.__version__, "python": platform.python_version()}


def matrix_rate(device: str, precision: str, side: int = 0) -> float:
    """Floating-point operations a second of a product of two large square matrices, 2 n^3; the best of 20."""
    side = side or _SIDE[device]
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    # Random: products of constants are faster, for they draw less power.
    dice = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, generator=dice, dtype=kind, device=device) for _ in range(2))
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
    model: EmotionModel, start: StateDict, examples: Examples, load: EncoderLoad, seconds: _Seconds
) -> StateDict:
    """Train one client from the start weights; return what it sends."""
    local, update = LocalSettings(steps=1, batch_size=load.utterances), list[StateDict]()
    loading = _seconds(lambda: model.load_state_dict(start), load.device)
    seconds.training.append(
        _seconds(lambda: train(model, examples, local, _LR, rng_for(0, "training")), load.device)
    )
    reading = _seconds(lambda: update.append(difference(model.state_dict(), start)), load.device)
    seconds.moving.append(loading + reading)
    return update[0]


def _round(
    model: EmotionModel, start: StateDict, clients: list[Examples], load: EncoderLoad, seconds: _Seconds
) -> StateDict:
    """Have every client train from the start weights; return what they average to."""
    updates = [
        Update(client, len(examples), _local(model, start, examples, load, seconds))
        for client, examples in enumerate(clients)
    ]
    made: list[StateDict] = []
    seconds.averaging.append(_seconds(lambda: made.append(step(start, weighted_mean(updates))), "cpu"))
    return made[0]


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


def _median(load: EncoderLoad, work: Callable[[], object]) -> float:
    return statistics.median([_seconds(work, load.device) for _ in range(load.repeats + 1)][-load.repeats :])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


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
