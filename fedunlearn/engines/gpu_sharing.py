"""Shares one GPU among Ray's workers: measures what a process needs, and limits how many there are.

A process that computes on a GPU holds a CUDA context (memory of the GPU driver), the model, and what torch's
allocator has reserved at its peak, which it keeps. The main process of the run, where the judge evaluates, is
such a process, too, and it is the one that measures.
"""

import gc
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from fedunlearn.config import Config
from fedunlearn.errors import RunFailed
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models.contract import EmotionModel
from fedunlearn.seeding import rng_for
from fedunlearn.training import train
from fedunlearn.unlearning.targeted_attack import targeted_pgd

CONTEXT = 700 * 2**20
"""bytes of a CUDA context with the kernels of cuBLAS and cuDNN; 300 to 600 MiB on current GPUs"""
MARGIN = 1.2
"""factor on the measured memory: batches differ, and memory is reserved in blocks"""
_RAY_STEP = 10_000
"""unit in which Ray counts parts of a GPU: ten-thousandths"""
_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""environment variables with torch's allocator settings; the first one has priority"""


class GpuMemory(Protocol):
    """The functions of torch.cuda that are used here."""

    def mem_get_info(self) -> tuple[int, int]:
        """Return the free bytes of the GPU, and all its bytes."""

    def memory_reserved(self) -> int:
        """Return the bytes that this process's allocator holds."""

    def max_memory_reserved(self) -> int:
        """Return the most bytes that it held since the last reset."""

    def reset_peak_memory_stats(self) -> None:
        """Reset that maximum."""

    def empty_cache(self) -> None:
        """Release what is reserved and not in use."""

    def synchronize(self) -> None:
        """Wait until all work is done."""


@dataclass(frozen=True)
class Sharing:
    """How a GPU is divided among workers.

    Attributes:
        workers: number of workers that fit, >= 1.
        share: part of the GPU for each, in (0, 1], in whole ten-thousandths; workers * share <= 1.
        allocator: part of the GPU for a worker's tensors: its share minus its context.
    """

    workers: int
    share: float
    allocator: float


def divide(need: int, free: int, total: int, workers: int, share: float = 0.0) -> Sharing:
    """Divide a GPU evenly among workers.

    Args:
        need: measured peak of one worker's tensors in bytes.
        free: bytes that are left for workers.
        total: bytes of the GPU.
        workers: number of workers wanted, >= 1; the result may be fewer.
        share: part of the GPU for each, as set by the user; 0 = what is left, in equal parts, each at least
            ``MARGIN`` times ``need`` plus a context.

    Raises:
        RunFailed: not even one fits, or the share is too small for anything.
    """
    if share:
        if share * total <= CONTEXT:
            raise RunFailed(
                f"model.encoder.gpu_share = {share:g} is {_gib(share * total)} of this GPU, less than CUDA "
                f"itself takes of it ({_gib(CONTEXT)}); raise it, or set it to 0 to have it measured"
            )
        workers = min(workers, _RAY_STEP // _steps(share))
    else:
        each = math.ceil(MARGIN * need) + CONTEXT
        fits = max(0, free) // each
        if not fits:
            raise RunFailed(
                f"the GPU has {_gib(free)} left for workers of {_gib(total)}, and one needs {_gib(each)}: "
                "lower model.encoder.seconds_at_once, train less of the encoder, or set "
                'model.encoder.device = "cpu"'
            )
        workers = min(workers, fits)
        share = min(1.0, free / total) / workers
    share = _steps(share) / _RAY_STEP
    return Sharing(workers, share, max(share - CONTEXT / total, 0.0))


def _steps(share: float) -> int:
    return math.floor(round(share * _RAY_STEP, 6))


def left_for_workers(peak: int, cuda: GpuMemory) -> tuple[int, int]:
    """Compute the bytes left for workers when this process is at its own peak, and all bytes of the GPU.

    This process holds its context and model already; it will grow up to its peak.

    Args:
        peak: of this process in bytes.
        cuda: of the process.
    """
    free, total = cuda.mem_get_info()
    growth = max(0, math.ceil(MARGIN * peak) - cuda.memory_reserved())
    return free - growth, total


def measure_peak(model: EmotionModel, config: Config, samples: int, cuda: GpuMemory) -> int:
    """Measure the peak of GPU memory that one process reserves for a client's work.

    It runs one training step on a full batch, and one step of the configured attack, on utterances of the
    longest length. To this it adds what unlearning methods keep of the trained weights: importance, a centre
    and a second model. With a frozen encoder it runs the encoder on one utterance.

    Args:
        model: on the GPU; its weights are restored.
        config: with batch size and attack.
        samples: number of samples of the longest utterance.
        cuda: of the process.

    Returns:
        peak in bytes
    """
    rng = rng_for(0, "measure memory")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gc.collect()
    cuda.empty_cache()
    cuda.reset_peak_memory_stats()
    size = 1 if model.frame_seconds is None else config.training.local.batch_size
    waveform = torch.from_numpy(rng.uniform(-0.1, 0.1, (size, samples)).astype("float32"))
    lengths = torch.full((size,), samples)
    with torch.no_grad():
        features, frames = model.derive(waveform, lengths)
    examples = Examples(features, frames, torch.arange(size) % model.classes)
    whole = {"steps": 1, "crop_seconds": 0.0, "time_mask": 0.0, "band_mask": 0.0}
    train(model, examples, config.training.local.model_copy(update=whole), 1e-6, rng)
    for settings in (config.unlearning.calm.attack, config.unlearning.l2ul.attack):
        attack = settings.model_copy(update={"steps": 1, "per_utterance": 1})
        if attack.domain != "log-mel":  # encoders have none
            targeted_pgd(model, ForgetSet(examples, waveform, lengths), attack, rng)
    cuda.synchronize()
    kept = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad and not p.is_cpu)
    peak = cuda.max_memory_reserved() + 3 * kept
    model.load_state_dict(before)
    gc.collect()
    cuda.empty_cache()
    return peak


def share_gpu(
    model: EmotionModel,
    config: Config,
    longest: Callable[[], int],
    workers: int,
    cuda: GpuMemory = torch.cuda,
) -> Sharing | None:
    """Decide how Ray's workers share the GPU; None if the model is not on one.

    Args:
        model: of this process.
        config: the experiment.
        longest: gives the number of samples of the longest utterance.
        workers: number of workers wanted.
        cuda: of the process.

    Raises:
        RunFailed: not even one worker fits beside this process.
    """
    settings = config.model.encoder
    if model.device == "cpu":
        return None
    if settings.gpu_share:
        _, total = cuda.mem_get_info()
        return divide(0, total, total, workers, settings.gpu_share)
    try:
        need = measure_peak(model, config, longest(), cuda)
    except torch.OutOfMemoryError as error:
        raise RunFailed(
            "the GPU is too small for one training step: lower model.encoder.seconds_at_once, train less of "
            'the encoder, or set model.encoder.device = "cpu"'
        ) from error
    return divide(need, *left_for_workers(need, cuda), workers)


@contextmanager
def workers_limited(sharing: Sharing | None) -> Iterator[None]:
    """Limit processes that are started inside to their part of the GPU's memory.

    One that reaches the limit releases what it has reserved and does not use; one that needs more fails
    without affecting the others.

    Args:
        sharing: how the GPU is divided; None = no limit.
    """
    if sharing is None:
        yield
        return
    name = next((n for n in _ALLOCATOR if n in os.environ), _ALLOCATOR[-1])
    before = os.environ.get(name)
    limit = f"per_process_memory_fraction:{sharing.allocator:.4f}"
    os.environ[name] = f"{before},{limit}" if before else limit
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _gib(count: float) -> str:
    return f"{max(0, count) / 2**30:.2f} GiB"
