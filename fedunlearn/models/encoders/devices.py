"""Where an encoder computes, and in which arithmetic."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

import torch

from fedunlearn.errors import BadInput

_SAME_EACH_TIME = ":4096:8"
"""cuBLAS's work space, in fixed blocks; without it, its sums may come in another order each time"""


class Cuda(Protocol):
    """What is asked of torch.cuda."""

    def is_available(self) -> bool:
        """Whether there is a GPU that this torch can use."""

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        """Whether it computes in bfloat16."""


def choose(
    device: Literal["auto", "cpu", "cuda"],
    precision: Literal["auto", "float32", "bfloat16"],
    cuda: Cuda = torch.cuda,
) -> tuple[Literal["cpu", "cuda"], Literal["float32", "bfloat16"]]:
    """What ``model.encoder.device`` and ``model.encoder.precision`` come to on this machine.

    On a CPU "auto" is float32: bfloat16 is faster only where the processor has instructions for it, and its
    answers are other than those of all CPU runs before. Who asks for it gets it. A GPU that would only
    imitate bfloat16 does not have it.

    Args:
        device, precision: as set; what is chosen already stays.
        cuda: asked what there is; not before a GPU is in question.

    Raises:
        BadInput: a GPU, or bfloat16 on it, is asked for and is not there.
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
    """Set this process up, before its first computation on a GPU. For a CPU there is nothing to do.

    float32 is float32: TF32, which keeps 10 of its 23 bits of fraction, is off. With ``deterministic``,
    operations take the form that gives the same bits each time, one that has none raises RuntimeError, and
    cuDNN does not choose its algorithms by trying which is faster.

    These are switches of the whole process, so every process that computes on the GPU calls this.
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
    """Inside, an encoder computes in this precision; "bfloat16" leaves weights, sums and norms in float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)
