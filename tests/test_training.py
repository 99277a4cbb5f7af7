import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedunlearn.config import LocalSettings, TrainingSettings
from fedunlearn.config.model import ModelSettings
from fedunlearn.config.work import LocalWork
from fedunlearn.examples import Examples
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.models.functionals import FunctionalsModel
from fedunlearn.seeding import rng_for
from fedunlearn.training import (
    TrainingDiverged,
    add_noise,
    calibrate,
    clip_gradients,
    crop,
    mask_spans,
    mix,
    predict,
    round_lr,
    set_calibration,
    train,
)

Name = Literal["functionals", "cnn"]
NAMES: tuple[Name, ...] = ("functionals", "cnn")
EVERYTHING = {
    "functionals": LocalSettings(steps=0, epochs=2, mixup=0.3, feature_noise=0.1, label_smoothing=0.1),
    "cnn": LocalSettings(
        steps=0, epochs=1, crop_seconds=0.3, time_mask=0.2, band_mask=0.2, mixup=0.3, feature_noise=0.1
    ),
}


def model_of(name: Name, dropout: float = 0.0) -> EmotionModel:
    return build_model(ModelSettings(name=name, dropout=dropout), 4, rng_for(1, "init"))


def examples_of(name: Name, n: int = 10, longest: int = 30, seed: int = 0) -> Examples:
    rng = rng_for(seed, "examples")
    dims, longest = (720, 1) if name == "functionals" else (40, longest)
    frames = torch.from_numpy(rng.integers(1, longest + 1, n))
    frames[0] = longest
    features = torch.from_numpy(rng.normal(size=(n, longest, dims)).astype(np.float32))
    features[torch.arange(longest)[None, :] >= frames[:, None]] = 0.0
    return Examples(features, frames, torch.arange(n) % 4)


def state_after(name: Name, settings: LocalSettings, *stream: str | int) -> dict[str, Tensor]:
    model = model_of(name, dropout=0.3)
    train(model, examples_of(name), settings, 0.05, rng_for(1, *stream))
    return model.state_dict()


def legacy_numpy_state() -> np.ndarray:
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - read, to see that nobody touches it
    return np.array(state["state"]["key"])


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", NAMES)
def test_training_depends_on_its_own_stream_alone(name: Name) -> None:
    first = state_after(name, EVERYTHING[name], "client", 0)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the legacy global state is what must not matter
    assert same(first, state_after(name, EVERYTHING[name], "client", 0))
    assert not same(first, state_after(name, EVERYTHING[name], "client", 1))


@pytest.mark.parametrize("name", NAMES)
def test_training_leaves_global_generators_and_the_training_flag(name: Name) -> None:
    torch_before, numpy_before = torch.get_rng_state(), legacy_numpy_state()
    model = model_of(name, dropout=0.3).eval()
    train(model, examples_of(name), EVERYTHING[name], 0.05, rng_for(1, "a"))
    predict(model, examples_of(name))
    assert not model.training
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(legacy_numpy_state(), numpy_before)


def test_steps_are_those_of_torch_sgd() -> None:
    """Whole-batch epochs, so that the order does not matter but for rounding: three steps with momentum."""
    settings = LocalSettings(steps=0, epochs=3, batch_size=10, momentum=0.9, weight_decay=0.01)
    examples, ours, theirs = examples_of("functionals"), model_of("functionals"), model_of("functionals")
    train(ours, examples, settings, 0.1, rng_for(1, "a"))
    optimiser = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        logits = theirs.classify(examples.features, examples.frames)
        torch.autograd.backward(torch.nn.functional.cross_entropy(logits, examples.labels))
        optimiser.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_first_step_of_adamw_moves_each_weight_by_the_learning_rate() -> None:
    """With zero moments the step is lr * g / (|g| + 1e-8), after the weight was decayed by lr * decay.

    A second call begins with zero moments again: nothing of a round's optimiser is kept.
    """
    settings = LocalSettings(steps=1, batch_size=10, optimizer="adamw", weight_decay=0.1)
    examples, model = examples_of("functionals"), model_of("functionals")
    for _ in range(2):
        before = [weight.detach().clone() for weight in model.parameters()]
        logits = model.classify(examples.features, examples.frames)
        loss = torch.nn.functional.cross_entropy(logits, examples.labels)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        train(model, examples, settings, 0.01, rng_for(1, "a"))
        for old, gradient, new in zip(before, gradients, model.parameters(), strict=True):
            clear = gradient.abs() > 1e-5  # the order of a batch's sums moves smaller ones
            expected = old * (1 - 0.01 * 0.1) - 0.01 * gradient.sign()
            torch.testing.assert_close(new[clear], expected[clear], rtol=0, atol=2e-5)
            assert clear.any()


def test_fifteen_steps_are_five_epochs_of_48_utterances() -> None:
    """Batches of 16: three a pass. The default recipe is what it was on such clients, bit for bit."""
    trained = []
    for settings in (LocalSettings(gradient_clip=0.0), LocalSettings(steps=0, epochs=5), LocalSettings()):
        model = model_of("functionals", dropout=0.3)
        loss = train(model, examples_of("functionals", n=48), settings, 0.01, rng_for(1, "a"))
        trained.append((loss, {k: v.clone() for k, v in model.state_dict().items()}))
    assert trained[0][0] == trained[1][0] == trained[2][0]
    assert same(trained[0][1], trained[1][1]) and same(trained[0][1], trained[2][1])


@given(st.integers(1, 40), st.integers(1, 17), st.integers(0, 30), st.integers(1, 4))
def test_the_amount_of_work(examples: int, batch: int, steps: int, epochs: int) -> None:
    """A client's steps do not depend on how much speech it holds; a pass uses every utterance once."""
    work = LocalWork(steps, epochs)
    passes = epochs * len(range(0, examples, batch))
    assert work.steps_on(examples, batch) == (steps or passes)


def test_every_utterance_is_used_once_in_a_pass_and_again_in_the_next() -> None:
    seen: list[int] = []

    def objective(batch: Examples, logits: Tensor, cross_entropy: Tensor) -> Tensor:
        seen.extend(batch.labels.tolist())
        return cross_entropy

    examples = examples_of("functionals", n=10)
    numbered = Examples(examples.features, examples.frames, torch.arange(10))
    model = FunctionalsModel(10, hidden=4)
    train(model, numbered, LocalSettings(steps=5, batch_size=4), 0.01, rng_for(1, "a"), objective)
    assert len(seen) == 4 + 4 + 2 + 4 + 4
    assert sorted(seen[:10]) == list(range(10)) and len(set(seen[10:])) == 8
    assert seen[:8] != seen[10:], "in another order"


def test_the_loss_is_the_mean_over_the_last_pass() -> None:
    """A pass over 10 utterances has steps of 4, 4 and 2; after five steps the last three are of 2, 4, 4."""
    values = iter([9.0, 9.0, 1.0, 2.0, 4.0])

    def objective(batch: Examples, logits: Tensor, cross_entropy: Tensor) -> Tensor:
        return 0.0 * cross_entropy + next(values)

    settings = LocalSettings(steps=5, batch_size=4)
    loss = train(
        model_of("functionals"), examples_of("functionals", n=10), settings, 0.1, rng_for(1, "a"), objective
    )
    assert loss == pytest.approx((2 * 1.0 + 4 * 2.0 + 4 * 4.0) / 10)


def test_a_gradient_is_clipped_over_all_tensors_by_hand() -> None:
    """(3, 0) and (0, 4) are 5 long together; to 2.5 they are halved, to 5 or to any length left alone."""
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[0.0, 4.0]])]
    halved = clip_gradients(gradients, 2.5)
    assert [g.tolist() for g in halved] == [[1.5, 0.0], [[0.0, 2.0]]]
    for largest in (5.0, 0.0, 1e15):
        assert clip_gradients(gradients, largest) is gradients


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=5), st.floats(1e-3, 1e3))
def test_a_clipped_gradient_keeps_its_direction(values: list[float], largest: float) -> None:
    """And it is never longer than the limit, also where its squares are beyond float32."""
    clipped = clip_gradients([torch.tensor([v]) for v in values], largest)
    before, after = np.array(values), np.array([float(g) for g in clipped])
    assert np.linalg.norm(after) <= min(largest, np.linalg.norm(before)) * (1 + 1e-5)
    assert np.linalg.norm(after) >= min(largest, np.linalg.norm(before)) * (1 - 1e-5) - 1e-30
    assert bool((np.sign(after) * np.sign(before) >= 0).all())


def test_training_clips_the_gradient_of_each_step() -> None:
    """From rest, one step moves the weights by lr times the gradient: 0.5 long after clipping at 0.5."""
    for clip, settings in (
        (0.01, LocalSettings(steps=1, gradient_clip=0.01)),
        (None, LocalSettings(steps=1, gradient_clip=0.0)),
    ):
        model = model_of("functionals")
        before = [p.detach().clone() for p in model.parameters()]
        train(model, examples_of("functionals"), settings, 0.1, rng_for(1, "a"))
        pairs = zip(model.parameters(), before, strict=True)
        moved = math.sqrt(sum(float((p.detach() - was).square().sum()) for p, was in pairs))
        assert moved == pytest.approx(0.1 * clip, rel=1e-4) if clip else moved > 0.002


def test_one_step_by_hand() -> None:
    """From zero output weights all p are 1/4: the output bias moves by lr * (mean one-hot - 1/4)."""
    model, examples = model_of("functionals"), examples_of("functionals", n=3)
    assert isinstance(model, FunctionalsModel)
    output = model.head[-1]
    assert isinstance(output, torch.nn.Linear)
    torch.nn.init.zeros_(output.weight)
    torch.nn.init.zeros_(output.bias)
    loss = train(model, examples, LocalSettings(steps=0, epochs=1), 0.4, rng_for(1, "a"))
    assert loss == pytest.approx(math.log(4), rel=1e-6)
    expected = [0.4 * (count / 3 - 0.25) for count in (1, 1, 1, 0)]
    assert output.bias.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_training_learns_its_examples(name: Name) -> None:
    model, examples = model_of(name), examples_of(name)
    loss = train(model, examples, LocalSettings(steps=0, epochs=40, batch_size=5), 0.02, rng_for(1, "a"))
    assert loss < 0.5
    assert (predict(model, examples).argmax(1) == examples.labels).float().mean() >= 0.8


def test_a_loss_that_is_not_finite_names_its_step() -> None:
    model, examples = model_of("functionals"), examples_of("functionals")
    with pytest.raises(TrainingDiverged, match=r"loss is (nan|inf) at step [2-9].*lower the learning rate"):
        train(model, examples, LocalSettings(steps=0, epochs=30), 1e30, rng_for(1, "a"))
    assert model.training


def test_impossible_training_is_refused() -> None:
    model, examples = model_of("functionals"), examples_of("functionals")
    with pytest.raises(ValueError, match="empty"):
        train(model, examples.take(torch.zeros(0, dtype=torch.int64)), LocalSettings(), 0.1, rng_for(1, "a"))
    with pytest.raises(ValueError, match="frame-wise"):
        train(model, examples, LocalSettings(crop_seconds=1.0), 0.1, rng_for(1, "a"))


@pytest.mark.parametrize("name", NAMES)
def test_prediction_does_not_depend_on_the_batch(name: Name) -> None:
    model, examples = model_of(name, dropout=0.5), examples_of(name)
    whole = predict(model, examples)
    torch.testing.assert_close(predict(model, examples, batch_size=3), whole, rtol=1e-4, atol=1e-5)
    assert whole.shape == (10, 4) and model.training


@pytest.mark.parametrize("name", NAMES)
def test_prediction_of_nothing(name: Name) -> None:
    nothing = Examples(
        torch.zeros(0, 0, 0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    )
    assert predict(model_of(name), nothing).shape == (0, 4)


def test_cosine_schedule_by_hand() -> None:
    cosine = TrainingSettings(rounds=4, local=LocalSettings(lr=0.8, lr_schedule="cosine"))
    halfway = 0.4 * (1 + math.sqrt(0.5)), 0.4, 0.4 * (1 - math.sqrt(0.5))
    assert [round_lr(cosine, r) for r in (1, 2, 3, 4)] == pytest.approx([0.8, *halfway])
    constant = TrainingSettings(rounds=4, local=LocalSettings(lr=0.8))
    assert {round_lr(constant, r) for r in (1, 2, 3, 4)} == {0.8}
    for outside in (0, 5):
        with pytest.raises(ValueError, match=r"1 \.\.\. 4"):
            round_lr(cosine, outside)


@pytest.mark.parametrize("name", NAMES)
def test_clients_moments_make_the_pooled_standardisation(name: Name) -> None:
    model, examples = model_of(name), examples_of(name)
    parts = [calibrate(model, examples.take(torch.tensor(i))) for i in ([0, 3, 4], [1], [2, 5, 6, 7, 8, 9])]
    parts.append(calibrate(model, examples.take(torch.zeros(0, dtype=torch.int64))))
    frames = sum(p.frames for p in parts)
    assert frames == int(examples.frames.sum())
    mean = torch.stack([p.mean * p.frames for p in parts]).sum(0) / frames
    mean_square = torch.stack([p.mean_square * p.frames for p in parts]).sum(0) / frames
    set_calibration(model, mean, mean_square)
    pooled = torch.cat([f[:n] for f, n in zip(examples.features, examples.frames, strict=True)]).double()
    std = (pooled.var(0, unbiased=False) + 1e-6).sqrt()
    assert bool(((model.norm.mean - pooled.mean(0)).abs() <= 0.25 * model.norm.std + 1e-6).all())
    assert bool(((model.norm.std / std).log2().abs() <= 0.25 + 1e-6).all())


def test_constants_are_rounded_by_hand() -> None:
    """Variances 4, 8 and 6 give standard deviations 2, 2 sqrt(2) and, as sqrt(6) = 2^1.29, 2^1.5; means are
    multiples of half of these: 2.6 is nearest to 3 (steps of 1), -1 to -sqrt(2) (steps of sqrt(2)), .7 to 0.
    """
    model = model_of("cnn")
    mean = torch.tensor([2.6, -1.0, 0.7]).repeat(14)[:40]
    variance = torch.tensor([4.0, 8.0, 6.0]).repeat(14)[:40]
    set_calibration(model, mean, variance + mean.square())
    assert model.norm.std[:3].tolist() == pytest.approx([2.0, 2.0 * math.sqrt(2), 2.0 * math.sqrt(2)])
    assert model.norm.mean[:3].tolist() == pytest.approx([3.0, -math.sqrt(2), 0.0])


@given(st.integers(8, 200), st.integers(0, 2**31), st.floats(0.1, 10.0))
def test_constants_of_all_but_one_do_not_tell_the_one(count: int, seed: int, scale: float) -> None:
    """N times the coarse mean less the sum of the others is off by more than the one is from the mean."""
    rows = scale * torch.randn(count, 40, generator=torch.Generator().manual_seed(seed)).double()
    model = model_of("cnn")
    set_calibration(model, rows.mean(0), rows.square().mean(0))
    recovered = count * model.norm.mean.double() - rows[1:].sum(0)
    error, known = (recovered - rows[0]).norm(), (rows[0] - rows.mean(0)).norm()
    assert error > 0.5 * known
    if count >= 32:
        assert error > 2 * known


def test_a_constant_feature_gets_no_zero_std() -> None:
    model = model_of("cnn")
    set_calibration(model, torch.full((40,), 3.0), torch.full((40,), 9.0 - 1e-9))
    assert torch.allclose(model.norm.std.log2(), torch.tensor(-10.0))


def test_crops_stay_inside_the_true_length() -> None:
    """Frame t of every example holds t + 1: a crop shows consecutive numbers, none beyond the length."""
    frames = torch.tensor([20, 7, 3, 5])
    ramp = torch.arange(1.0, 21.0).expand(4, 20).clone()
    ramp[torch.arange(20)[None, :] >= frames[:, None]] = 0.0
    examples, seen = Examples(ramp[:, :, None], frames, torch.arange(4)), set()
    for i in range(200):
        batch = crop(examples, torch.tensor([3, 0, 1, 2]), 5, rng_for(i, "crop"))
        assert batch.frames.tolist() == [5, 5, 5, 3] and batch.labels.tolist() == [3, 0, 1, 2]
        assert batch.features[0, :, 0].tolist() == [1, 2, 3, 4, 5]
        assert batch.features[3, :, 0].tolist() == [1, 2, 3, 0, 0]
        for row, length in ((1, 20), (2, 7)):
            values = batch.features[row, :, 0].tolist()
            assert values == list(range(int(values[0]), int(values[0]) + 5)) and values[-1] <= length
        seen.add(int(batch.features[2, 0, 0]))
    assert seen == {1, 2, 3}


def test_mixup_keeps_to_the_frames_both_have() -> None:
    examples = Examples(torch.ones(2, 4, 1), torch.tensor([4, 2]), torch.tensor([0, 1]))
    examples.features[1] = torch.tensor([[3.0], [3.0], [0.0], [0.0]])
    mixed = mix(examples, torch.tensor([1, 0]), 0.75)
    assert mixed.frames.tolist() == [2, 2] and mixed.labels.tolist() == [0, 1]
    assert mixed.features[:, :, 0].tolist() == [[1.5, 1.5], [2.5, 2.5]]


def test_masked_spans_are_one_block_within_share_and_length() -> None:
    frames = torch.tensor([40, 10, 1])
    fill, widest = torch.full((6,), -7.0), 0
    features = torch.ones(3, 40, 6) * (torch.arange(40)[None, :, None] < frames[:, None, None])
    batch = Examples(features, frames, torch.zeros(3, dtype=torch.int64))
    for i in range(200):
        masked = mask_spans(batch, 0.5, 0.0, fill, rng_for(i, "mask")).features
        for row, length in zip(masked, frames.tolist(), strict=True):
            assert (row[length:] == 0).all()
            hidden = (row[:length, 0] == -7.0).nonzero().flatten()
            assert len(hidden) <= 0.5 * length
            assert len(hidden) == 0 or int(hidden[-1] - hidden[0]) == len(hidden) - 1
            widest = max(widest, len(hidden))
    assert widest == 20
    widest = 0
    for i in range(50):
        banded = mask_spans(batch, 0.0, 0.5, fill, rng_for(i, "mask")).features
        hidden_bands = (banded[0] == -7.0).all(0)
        assert (banded[0][:, ~hidden_bands] == 1.0).all()
        widest = max(widest, int(hidden_bands.sum()))
    assert widest == 3


def test_noise_has_the_configured_size_and_spares_padding() -> None:
    batch = Examples(torch.zeros(2, 5_000, 2), torch.tensor([5_000, 100]), torch.tensor([0, 1]))
    noisy = add_noise(batch, torch.tensor([0.1, 2.0]), rng_for(1, "noise")).features
    assert (noisy[1, 100:] == 0).all()
    assert noisy[0].std(0).tolist() == pytest.approx([0.1, 2.0], rel=0.05)


def test_mixup_loss_weighs_both_labels() -> None:
    """One example pair with equal labels: mixup's loss is then the ordinary loss of the mixed input."""
    examples = examples_of("functionals", n=2)
    same_label = Examples(examples.features, examples.frames, torch.tensor([2, 2]))
    settings = LocalSettings(steps=0, epochs=1, mixup=0.5)
    rng = rng_for(1, "a")
    loss = train(model_of("functionals"), same_label, settings, 1e-9, rng_for(1, "a"))
    rng.integers(2**62)
    order, partner = rng.permutation(2), rng.permutation(2)
    share = rng.beta(0.5, 0.5)
    x = same_label.features[order]
    mixed = share * x + (1 - share) * x[partner]
    logits = model_of("functionals").classify(mixed.float(), torch.ones(2))
    expected = torch.nn.functional.cross_entropy(logits, same_label.labels)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
