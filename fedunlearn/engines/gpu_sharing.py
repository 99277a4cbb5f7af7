"""One GPU for all: what a process needs of it, and how many of Ray's workers it carries.

A process that computes on a GPU holds a CUDA context (the driver's own share of memory), the model, and what
torch's allocator has reserved at the busiest moment, which it keeps for the next time. The driver of the run,
where the judge listens, is such a process too, and it is the one that measures.
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
"""bytes of a CUDA context with the kernels of cuBLAS and cuDNN; 300 to 600 MiB on the cards of today"""
MARGIN = 1.2
"""times what was measured: batches differ, and what is reserved is reserved in pieces"""
_RAY_STEP = 10_000
"""Ray counts parts of a GPU in ten-thousandths."""
_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""where torch reads how to allocate, the first one first"""


class Cuda(Protocol):
    """What is asked of torch.cuda."""

    def mem_get_info(self) -> tuple[int, int]:
        """Bytes that are free on the GPU, whoever holds the rest, and bytes in all."""

    def memory_reserved(self) -> int:
        """Bytes that this process's allocator holds."""

    def max_memory_reserved(self) -> int:
        """The most that it held since the count was last reset."""

    def reset_peak_memory_stats(self) -> None:
        """Count anew."""

    def empty_cache(self) -> None:
        """Give back what is reserved and not in use."""

    def synchronize(self) -> None:
        """Wait until all work is done."""


@dataclass(frozen=True)
class Sharing:
    """How a GPU is divided.

    Attributes:
        workers: that fit, >= 1.
        share: of the GPU for each, in (0, 1], in whole ten-thousandths; workers * share <= 1.
        allocator: the part of the GPU that a worker's tensors may take: its share less its context.
    """

    workers: int
    share: float
    allocator: float


def divide(need: int, free: int, total: int, workers: int, share: float = 0.0) -> Sharing:
    """Divide a GPU among workers, evenly.

    Args:
        need: bytes of one worker's tensors at the busiest moment, as measured.
        free: bytes that are left for workers.
        total: of the GPU.
        workers: that are wanted, >= 1; fewer come where they do not fit.
        share: part of the GPU for each, as the user wants it; 0 = what is left, in equal parts, each at least
            ``MARGIN`` times ``need`` and a context.

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


def left_for_workers(peak: int, cuda: Cuda) -> tuple[int, int]:
    """Bytes free for workers, after this process has had its own busiest moment again, and bytes in all.

    This process holds its context and model already; up to its peak it will grow once more.
    """
    free, total = cuda.mem_get_info()
    growth = max(0, math.ceil(MARGIN * peak) - cuda.memory_reserved())
    return free - growth, total


def measure_peak(model: EmotionModel, config: Config, samples: int, cuda: Cuda) -> int:
    """Bytes of GPU memory that one process reserves at the busiest moment of a client's work.

    One training step on a full batch, and one step of an attack as the settings have it, on the longest
    utterance of the corpus; beside them what unlearning methods keep of the trained weights: importance,
    a centre and a second model. With a frozen encoder it is one utterance being listened to.

    Args:
        model: on the GPU; left as it was.
        config: batch size, attack.
        samples: of the longest utterance.
        cuda: of the process.
    """
    rng = rng_for(0, "measure memory")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gc.collect()
    cuda.empty_cache()
    cuda.reset_peak_memory_stats()
    size = config.training.local.batch_size if not model.stores_features else 1
    waveform = torch.from_numpy(rng.uniform(-0.1, 0.1, (size, samples)).astype("float32"))
    lengths = torch.full((size,), samples)
    with torch.no_grad():
        features, frames = model.derive(waveform, lengths)
    examples = Examples(features, frames, torch.arange(size) % model.classes)
    whole = {"epochs": 1, "crop_seconds": 0.0, "time_mask": 0.0, "band_mask": 0.0}
    train(model, examples, config.training.local.model_copy(update=whole), 1e-6, rng)
    attack = config.unlearning.l2ul.attack.model_copy(update={"steps": 1, "per_utterance": 1})
    if attack.domain != "log-mel":  # which encoders have not
        targeted_pgd(model, ForgetSet(examples, waveform, lengths), attack, rng)
    cuda.synchronize()
    kept = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad and not p.is_cpu)
    peak = cuda.max_memory_reserved() + 3 * kept
    model.load_state_dict(before)
    gc.collect()
    cuda.empty_cache()
    return peak


def share_gpu(
    model: EmotionModel, config: Config, longest: Callable[[], int], workers: int, cuda: Cuda = torch.cuda
) -> Sharing | None:
    """How Ray's workers share the GPU; None where the model does not live on one.

    Args:
        model: this process's own.
        longest: samples of the longest utterance.
        workers: wanted.

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
    """Processes that are started in here get at most their part of the GPU's memory.

    One that wants more gives back what it has reserved and does not use; one that needs more fails alone,
    and takes no other with it.
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
