"""The device and precision of an encoder."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

import torch

from fedunlearn.errors import BadInput

_SAME_EACH_TIME = ":4096:8"
"""cuBLAS's workspace in fixed blocks; without it the order of its sums may vary."""


class CudaSupport(Protocol):
    """The part of torch.cuda that is used here."""

    def is_available(self) -> bool:
        """Whether there is a GPU that this torch can use."""

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        """Whether it computes in bfloat16."""


def choose(
    device: Literal["auto", "cpu", "cuda"],
    precision: Literal["auto", "float32", "bfloat16"],
    cuda: CudaSupport = torch.cuda,
) -> tuple[Literal["cpu", "cuda"], Literal["float32", "bfloat16"]]:
    """Resolve ``model.encoder.device`` and ``model.encoder.precision`` on this machine.

    On a CPU "auto" is float32: bfloat16 is faster only if the processor has instructions for it, and its
    outputs differ from those of other CPU runs. A GPU that only emulates bfloat16 counts as lacking it.

    Args:
        device: the setting; "auto" is resolved, other values stay.
        precision: the setting; "auto" is resolved, other values stay.
        cuda: torch.cuda, or a substitute for tests; queried only if a GPU is possible.

    Returns:
        Device and precision.

    Raises:
        BadInput: a GPU, or bfloat16 on it, is asked for and not available.
    """
    if device == "cpu" or not cuda.is_available():
        if device == "cuda":
            raise BadInput(
                'model.encoder.device = "cuda": torch finds no GPU it can use; set it to "auto" or "cpu", '
                "or install a driver and a torch that fit the GPU"
            )
        return "cpu", "float32" if precision == "auto" else precision
    has_bfloat16 = precision != "float32" and cuda.is_bf16_supported(including_emulation=False)
    if precision == "bfloat16" and not has_bfloat16:
        raise BadInput(
            'model.encoder.precision = "bfloat16": this GPU does not compute in it; set it to "auto" or '
            '"float32"'
        )
    return "cuda", "bfloat16" if has_bfloat16 else "float32"


def make_ready(device: str, deterministic: bool) -> None:
    """Configure this process before its first computation on a GPU; a CPU needs nothing.

    TF32, which keeps 10 of float32's 23 fraction bits, is switched off. These are settings of the whole
    process, so every process that computes on the GPU calls this.

    Args:
        device: "cpu" or "cuda".
        deterministic: use only operations that give the same bits each time (others raise RuntimeError), and
            no cuDNN benchmarking.
    """
    if torch.device(device).type != "cuda":
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _SAME_EACH_TIME)  # read when cuBLAS starts
        torch.backends.cudnn.benchmark = False
        # It would also fill all memory before it is written, at the cost of writing it twice.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(True)


def arithmetic(device: str, precision: str) -> AbstractContextManager[object]:
    """Return a context in which an encoder computes in a precision.

    Args:
        device: "cpu" or "cuda".
        precision: "float32" or "bfloat16", which leaves weights, sums and norms in float32.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)
