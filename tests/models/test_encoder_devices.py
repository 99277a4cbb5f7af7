"""Encoders on a GPU, as far as that can be seen without one.

A pretend GPU shows that nothing mixes devices; the division of a GPU's memory is arithmetic of byte counts.
That torch and Ray do on a real GPU what they say is not tested here.
"""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pretend_gpu import DEVICE, Far, PretendGpu
from small_run import run_small, small_config, weights_of
from tiny_encoders import tiny_encoder
from torch import Tensor

from fedunlearn import config as configuration
from fedunlearn.config import Config
from fedunlearn.config.model import EncoderSettings, ModelSettings
from fedunlearn.engines import engine
from fedunlearn.engines.engine import backend_config
from fedunlearn.engines.gpu_sharing import (
    CONTEXT,
    MARGIN,
    Sharing,
    divide,
    left_for_workers,
    measure_peak,
    share_gpu,
    workers_limited,
)
from fedunlearn.errors import BadInput, RunFailed
from fedunlearn.examples import Examples, ForgetSet
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.models.encoders import devices
from fedunlearn.models.encoders import model as encoder_model
from fedunlearn.models.encoders.checkpoint import load, locate
from fedunlearn.models.encoders.devices import arithmetic, choose, make_ready
from fedunlearn.seeding import rng_for
from fedunlearn.training import predict, train
from fedunlearn.unlearning.targeted_attack import targeted_pgd

GIB = 2**30


class FakeCuda:
    """torch.cuda of a machine that is made up."""

    def __init__(self, there: bool = True, bfloat16: bool = True, free: int = 0, total: int = 0) -> None:
        self.there, self.bfloat16, self.free, self.total = there, bfloat16, free, total
        self.reserved = self.peak = 0

    def is_available(self) -> bool:
        return self.there

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return self.bfloat16 or including_emulation

    def mem_get_info(self) -> tuple[int, int]:
        return self.free, self.total

    def memory_reserved(self) -> int:
        return self.reserved

    def max_memory_reserved(self) -> int:
        return self.peak

    def reset_peak_memory_stats(self) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


# ---- which device, which arithmetic ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "precision", "cuda", "chosen"),
    [
        ("auto", "auto", FakeCuda(), ("cuda", "bfloat16")),
        ("auto", "float32", FakeCuda(), ("cuda", "float32")),
        ("auto", "auto", FakeCuda(bfloat16=False), ("cuda", "float32")),
        ("cuda", "bfloat16", FakeCuda(), ("cuda", "bfloat16")),
        ("cpu", "auto", FakeCuda(), ("cpu", "float32")),
        ("cpu", "bfloat16", FakeCuda(), ("cpu", "bfloat16")),
        ("auto", "auto", FakeCuda(there=False), ("cpu", "float32")),
        ("auto", "bfloat16", FakeCuda(there=False), ("cpu", "bfloat16")),
    ],
)
def test_what_auto_comes_to(device: Any, precision: Any, cuda: FakeCuda, chosen: tuple[str, str]) -> None:
    assert choose(device, precision, cuda) == chosen
    assert choose(*chosen, cuda) == chosen  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "precision", "cuda", "line"),
    [
        ("cuda", "auto", FakeCuda(there=False), 'model.encoder.device = "cuda": torch finds no GPU'),
        ("auto", "bfloat16", FakeCuda(bfloat16=False), 'model.encoder.precision = "bfloat16": this GPU'),
    ],
)
def test_what_is_not_there_is_reported_in_one_line(
    device: Any, precision: Any, cuda: FakeCuda, line: str
) -> None:
    with pytest.raises(BadInput) as raised:
        choose(device, precision, cuda)
    assert (
        str(raised.value).startswith(line)
        and len(raised.value.problems) == 1
        and "\n" not in str(raised.value)
    )


@pytest.fixture
def switches() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled()
    workspace = os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.use_deterministic_algorithms(before[1])
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if workspace is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace


@pytest.mark.usefixtures("switches")
def test_a_gpu_is_made_reproducible_and_a_cpu_left_alone() -> None:
    make_ready("cpu", True)
    assert torch.backends.cudnn.allow_tf32 and not torch.are_deterministic_algorithms_enabled()
    make_ready("cuda", False)
    assert not torch.backends.cudnn.allow_tf32 and not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    make_ready("cuda", True)
    assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.backends.cuda.matmul.allow_tf32


def test_bfloat16_is_of_the_products_alone() -> None:
    x = torch.randn(3, 4)
    with arithmetic("cpu", "bfloat16"):
        assert (x @ x.T).dtype == torch.bfloat16 and x.sum().dtype == torch.float32
    with arithmetic("cpu", "float32"):
        assert (x @ x.T).dtype == torch.float32


# ---- nothing mixes devices -------------------------------------------------------------------------------


def settings_of(folder: Path, trains: str, device: str = "cpu", **encoder: Any) -> ModelSettings:
    chosen = EncoderSettings(trains=trains, seconds_at_once=0.6, projection=8, **encoder)
    chosen = chosen.model_copy(update={"device": device})  # torch's "meta" is no device that users may name
    return ModelSettings(name=str(folder), encoder=chosen)


def speech() -> tuple[Tensor, Tensor, Tensor]:
    """Waveforms [4, 8000], their lengths and labels; more than one piece."""
    samples = torch.tensor([8000, 5000, 300, 8000])
    waveform = torch.randn(4, 8000, generator=torch.Generator().manual_seed(1))
    real = torch.arange(8000) < samples[:, None]
    return 0.1 * waveform * real, samples, torch.tensor([0, 1, 2, 1])


def life(model: EmotionModel) -> dict[str, Tensor]:
    """What comes of some training, an attack on the waveform and prediction, and the gradients of all."""
    waveform, samples, labels = speech()
    with torch.no_grad():
        examples = Examples(*model.derive(waveform, samples), labels)
    local = configuration.LocalSettings(steps=0, epochs=1, batch_size=3)
    train(model, examples, local, 0.01, rng_for(1, "training"))
    attack = configuration.AttackSettings(domain="waveform", eps=0.01, steps=2, per_utterance=1)
    adversarial = targeted_pgd(model, ForgetSet(examples, waveform, samples), attack, rng_for(2, "attack"))
    model.eval()
    whole = waveform.clone().requires_grad_(True)
    loss = F.cross_entropy(model(whole, samples), labels)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, [whole, *weights.values()])
    found = dict(zip(["waveform", *weights], gradients, strict=True))
    found |= {f"state {name}": value for name, value in model.state_dict().items()}
    found |= {f"state {name}": value for name, value in copy.deepcopy(model).state_dict().items()}
    return found | {"logits": predict(model, examples), "attack": adversarial.examples.features}


@pytest.mark.parametrize(
    ("trains", "kind", "norm"),
    [
        ("all", "wav2vec2", "group"),
        pytest.param("all", "wavlm", "layer", marks=pytest.mark.slow),
        pytest.param("top:1", "hubert", "layer", marks=pytest.mark.slow),
        ("lora", "hubert", "group"),
        pytest.param("lora", "wavlm", "group", marks=pytest.mark.slow),
        ("head", "wav2vec2", "layer"),
    ],
)
def test_an_encoder_elsewhere_does_what_it_does_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trains: str, kind: str, norm: str
) -> None:
    if trains == "lora":
        pytest.importorskip("peft")
    folder = tiny_encoder(tmp_path / "tiny", kind, norm)
    made = {}
    monkeypatch.setattr(encoder_model, "choose", lambda device, precision: (device, "float32"))
    for device in ("cpu", DEVICE):
        encoder = load(locate(str(folder)))  # out here: transformers itself makes use of "meta"
        monkeypatch.setattr(encoder_model, "load", lambda _, loaded=encoder: loaded)
        encoder_model._listener.cache_clear()
        with PretendGpu():
            model = build_model(settings_of(folder, trains, device), 3, rng_for(0, "template"))
            made[device] = {name: value.cpu() for name, value in life(model).items()}
            there = {name for name, p in model.named_parameters() if isinstance(p.data, Far)}
            assert all(name.startswith("encoder.") for name in there)
            assert bool(there) == (device == DEVICE and trains != "head")
            assert not any(isinstance(value, Far) for value in model.state_dict().values())
    encoder_model._listener.cache_clear()
    assert made["cpu"].keys() == made[DEVICE].keys()
    for name, value in made["cpu"].items():
        torch.testing.assert_close(made[DEVICE][name], value, atol=1e-4, rtol=1e-3, msg=name)


def test_the_pretend_gpu_mixes_no_devices() -> None:
    here = torch.ones(3)
    with PretendGpu():
        there = here.to(DEVICE)
        assert torch.equal((there + 2.0 * torch.tensor(1.5)).cpu(), torch.full((3,), 4.0))
        with pytest.raises(RuntimeError, match="two devices"):
            there + here


# ---- how a GPU is shared ---------------------------------------------------------------------------------


def test_a_gpu_in_equal_parts() -> None:
    """24 GiB, of which 18 are left; a worker needs 1.2 * 4 GiB and a context of .68, 5.48: three fit."""
    sharing = divide(4 * GIB, 18 * GIB, 24 * GIB, 16)
    assert sharing.workers == 3 and sharing.share == 0.25
    assert sharing.allocator == pytest.approx(0.25 - CONTEXT / (24 * GIB))
    assert divide(4 * GIB, 18 * GIB, 24 * GIB, 2).workers == 2


def test_a_share_that_the_user_chose() -> None:
    assert divide(0, 24 * GIB, 24 * GIB, 16, 0.3) == Sharing(3, 0.3, 0.3 - CONTEXT / (24 * GIB))
    assert divide(0, 24 * GIB, 24 * GIB, 16, 1 / 3).workers == 3
    assert divide(0, 24 * GIB, 24 * GIB, 2, 0.1).workers == 2
    with pytest.raises(RunFailed, match=r"gpu_share = 0.01 is 0.24 GiB of this GPU"):
        divide(0, 24 * GIB, 24 * GIB, 16, 0.01)


@pytest.mark.parametrize("free", [4 * GIB, 0, -GIB])
def test_none_fits(free: int) -> None:
    with pytest.raises(
        RunFailed, match=r"the GPU has .* GiB left for workers of 24.00 GiB, and one needs"
    ) as raised:
        divide(4 * GIB, free, 24 * GIB, 4)
    assert "\n" not in str(raised.value)


@given(
    need=st.integers(0, 40 * GIB),
    free=st.integers(0, 80 * GIB),
    beyond=st.integers(0, 10 * GIB),
    workers=st.integers(1, 64),
)
def test_all_parts_fit_and_each_holds_what_a_worker_needs(
    need: int, free: int, beyond: int, workers: int
) -> None:
    total = max(free + beyond, 1)
    try:
        sharing = divide(need, free, total, workers)
    except RunFailed:
        assert free < MARGIN * need + CONTEXT + 1
        return
    step = total / 10_000  # Ray's
    assert 1 <= sharing.workers <= workers
    assert sharing.workers * sharing.share <= 1 and sharing.workers * sharing.share * total <= free + 1
    assert sharing.share * total >= MARGIN * need + CONTEXT - step
    assert int(1 / sharing.share) >= sharing.workers, "Flower would start fewer"
    assert 0 <= sharing.allocator < sharing.share


def test_the_driver_keeps_room_for_its_own_busiest_moment() -> None:
    """Of 10 GiB that are free it will take 1.2 * 5 - 2 = 4 more."""
    cuda = FakeCuda(free=10 * GIB, total=16 * GIB)
    cuda.reserved = 2 * GIB
    assert left_for_workers(5 * GIB, cuda) == (6 * GIB, 16 * GIB)
    cuda.reserved = 7 * GIB
    assert left_for_workers(5 * GIB, cuda) == (10 * GIB, 16 * GIB)


@pytest.mark.parametrize("trains", ["head", "top:1", "all"])
def test_measuring_leaves_the_model_as_it_was(tmp_path: Path, trains: str) -> None:
    """And it is of what a client really does: the fake count is requested after it."""
    folder = tiny_encoder(tmp_path / "tiny")
    config = Config(model=settings_of(folder, trains))
    model = build_model(config.model, 3, rng_for(0, "template"))
    before = copy.deepcopy(model.state_dict())
    cuda = FakeCuda()
    cuda.peak = 5 * GIB
    # Of a model on the CPU nothing is kept on the GPU beside what was counted.
    assert measure_peak(model, config, 4000, cuda) == 5 * GIB
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training


def test_what_does_not_live_on_a_gpu_shares_none() -> None:
    model = build_model(ModelSettings(), 3, rng_for(0, "template"))
    assert share_gpu(model, Config(), lambda: 1, 4, FakeCuda()) is None


def test_ray_reserves_the_gpu() -> None:
    plain = backend_config(4, None)
    assert plain["init_args"]["num_cpus"] == 4 and "num_gpus" not in plain["init_args"]
    assert plain["client_resources"]["num_gpus"] == 0.0
    shared = backend_config(4, Sharing(3, 0.25, 0.2))
    assert shared["init_args"]["num_cpus"] == 3 and shared["init_args"]["num_gpus"] == 1
    assert shared["client_resources"]["num_gpus"] == 0.25


@pytest.mark.parametrize(
    ("name", "before", "inside"),
    [
        ("PYTORCH_ALLOC_CONF", None, "per_process_memory_fraction:0.2000"),
        ("PYTORCH_CUDA_ALLOC_CONF", "a:1", "a:1,per_process_memory_fraction:0.2000"),
    ],
)
def test_workers_start_with_their_limit(
    monkeypatch: pytest.MonkeyPatch, name: str, before: str | None, inside: str
) -> None:
    for other in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(other, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    with workers_limited(None):
        assert os.environ.get(name) == before
    with workers_limited(Sharing(3, 0.25, 0.2)):
        assert os.environ[name] == inside
    assert os.environ.get(name) == before


def test_cuda_is_queried_only_where_a_gpu_is_in_question(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_available() -> bool:
        raise AssertionError("asked")

    monkeypatch.setattr(devices.torch.cuda, "is_available", is_available)
    assert choose("cpu", "auto") == ("cpu", "float32")


@pytest.mark.slow
def test_ray_starts_as_many_workers_as_share_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray takes our word for the GPU: three workers of a third each, with their limit; the same results."""
    contents: list[str] = []
    workers: set[int] = set()

    def shared(*_: object) -> Sharing:
        return Sharing(3, 0.3333, 0.3)

    class Queries:
        """A Flower mod that leaves word of the worker that it runs in."""

        def __call__(self, message: Any, context: Any, call_next: Any) -> Any:
            parts = os.environ["CUDA_VISIBLE_DEVICES"], os.environ["PYTORCH_ALLOC_CONF"]
            (tmp_path / f"worker-{os.getpid()}").write_text(" ".join(parts))
            return call_next(message, context)

    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(engine, "share_gpu", shared)
    config = small_config(federation__engine="ray", federation__workers=8)
    run_small(tmp_path / "shared", config, [Queries()])
    for file in tmp_path.glob("worker-*"):
        workers.add(int(file.name.removeprefix("worker-")))
        contents.append(file.read_text())
    assert 2 <= len(workers) <= 3 and set(contents) == {"0 per_process_memory_fraction:0.3000"}
    run_small(tmp_path / "alone", small_config(federation__engine="inline"))
    assert weights_of(tmp_path / "shared") == weights_of(tmp_path / "alone")
