"""The L2UL-style method and the two controls: by hand, at their edges, and by what they may not do."""

import copy
from keyword import iskeyword
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_model import TinyModel, forget_set, separable, speechless, tiny
from torch import Tensor

from fedunlearn import results_schema, unlearning
from fedunlearn.config.unlearning import AttackSettings, L2ULSettings, UnlearningSettings
from fedunlearn.errors import BadInput
from fedunlearn.examples import ForgetSet
from fedunlearn.models.functionals import FunctionalsModel
from fedunlearn.unlearning import CONTROLS, METHODS, PRIVILEGED, method_named
from fedunlearn.unlearning.contract import ServerScalars, UnlearnFailed, UnlearnResult
from fedunlearn.unlearning.importance import importance

SILENT = ServerScalars()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def l2ul(
    model: TinyModel,
    data: ForgetSet,
    seed: int = 0,
    scalars: ServerScalars = SILENT,
    attack: dict[str, Any] | None = None,
    **chosen: Any,
) -> UnlearnResult:
    """With settings of the tests' own, so that no test depends on the tuned defaults."""
    attack = dict(eps=0.3, step=1.0, steps=3, per_utterance=2) | (attack or {})
    chosen = dict(keep_target="hard", elasticity=0.1, lr=0.1, batch_size=16) | chosen
    settings = L2ULSettings(attack=AttackSettings(**attack), **chosen)
    return METHODS["l2ul"].unlearn(model, data, UnlearningSettings(l2ul=settings), rng(seed), scalars)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], **close: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if close:
            torch.testing.assert_close(value, other[name], **close)
        else:
            assert torch.equal(value, other[name]), name


NO_ATTACK = {"per_utterance": 0}
PLAIN: dict[str, Any] = dict(attack=NO_ATTACK, elasticity=0.0, momentum=0.0, stop="steps")


def test_one_relabelling_step_by_hand() -> None:
    """Two classes, W = 0, b = 0, so p = (1/2, 1/2). x = 2 of class 0 (new label 1) and x = -1 of class 1
    (new label 0). The loss is the mean of the two; its gradient is (p - onehot(new)) x:

    for W: ((1/2, -1/2) * 2 + (-1/2, 1/2) * -1) / 2 = (3/4, -3/4); for b: (0, 0). With lr = 0.2:
    W' = (-0.15, 0.15): x > 0 now says class 1, x < 0 says class 0, both wrong.
    """
    model = TinyModel(torch.zeros(2, 1))
    data = forget_set([torch.tensor([[2.0]]), torch.tensor([[-1.0]])], [0, 1])
    result = l2ul(model, data, **PLAIN, lr=0.2, max_steps=1)
    torch.testing.assert_close(result.state["weight"], torch.tensor([[-0.15], [0.15]]))
    torch.testing.assert_close(result.state["bias"], torch.zeros(2))
    assert result.forget_accuracy == (0.5, 0.0)
    assert (result.steps, result.stopped) == (1, "steps")


def test_one_clipped_step_by_hand() -> None:
    """The same step: its gradient (3/4, -3/4; 0, 0) has length 3 / sqrt(8) = 1.0607. Clipped to 0.1 it is
    (0.0707, -0.0707), and with lr = 0.2, W' = (-0.014142, 0.014142). A longer clip, and 0, change nothing.
    """
    model = TinyModel(torch.zeros(2, 1))
    data = forget_set([torch.tensor([[2.0]]), torch.tensor([[-1.0]])], [0, 1])
    clipped = l2ul(model, data, **PLAIN, lr=0.2, max_steps=1, gradient_clip=0.1)
    torch.testing.assert_close(clipped.state["weight"], torch.tensor([[-0.0141421], [0.0141421]]))
    whole = l2ul(model, data, **PLAIN, lr=0.2, max_steps=1).state
    for clip in (0.0, 1.07):
        assert_same(l2ul(model, data, **PLAIN, lr=0.2, max_steps=1, gradient_clip=clip).state, whole)


def test_one_misclassifying_step_by_hand() -> None:
    """Three classes, W = 0: p = (1/3, 1/3, 1/3). x = 3 of class 0; the gradient of -CE is -(p - onehot(0)) x
    = (2, -1, -1). With lr = 0.1: W' = (-0.2, 0.1, 0.1), away from the truth and towards nothing else.
    """
    model = TinyModel(torch.zeros(3, 1))
    data = forget_set([torch.tensor([[3.0]])], [0])
    result = l2ul(model, data, **PLAIN, objective="misclassify", lr=0.1, max_steps=1)
    torch.testing.assert_close(result.state["weight"], torch.tensor([[-0.2], [0.1], [0.1]]))


def test_one_masked_step_by_hand() -> None:
    """p = (2, 3, 1) / 6 everywhere. x = 3 of class 0: without it (0, 3/4, 1/4). The gradient of the
    cross-entropy is p - target = (1/3, -1/4, -1/12), times x for W. With lr = 0.4: W' = (-0.4, 0.3, 0.1).
    """
    model = TinyModel(torch.zeros(3, 1), torch.tensor([2.0, 3.0, 1.0]).log())
    data = forget_set([torch.tensor([[3.0]])], [0])
    result = l2ul(model, data, **PLAIN, objective="masked", lr=0.4, max_steps=1)
    torch.testing.assert_close(result.state["weight"], torch.tensor([[-0.4], [0.3], [0.1]]))


def test_the_objective_does_not_change_what_is_attacked() -> None:
    """Same stream, same targets and starts: objectives are compared on equal stand-ins."""
    model, data = tiny(), speechless(9)
    kept = [
        l2ul(model, data, objective=objective, max_steps=0)
        for objective in ("relabel", "misclassify", "masked")
    ]
    assert len({(r.adversarial, r.attack_success) for r in kept}) == 1


OBJECTIVES = ("relabel", "misclassify", "masked")
SWITCHES: list[dict[str, Any]] = [
    {"attack": dict(per_utterance=each), "elasticity": elasticity, "objective": objective}
    for each in (0, 2)
    for elasticity in (0.0, 5.0)
    for objective in OBJECTIVES
]
SWITCHES += [
    {"attack": dict(domain=domain, norm=norm, eps=eps), "keep_target": keep}
    for domain in ("feature", "log-mel", "waveform")
    for norm in ("l2", "linf")
    for eps in (0.05, 0.3)
    for keep in ("hard", "soft")
]
SWITCHES += [{"importance": kind, "elasticity": 5.0} for kind in ("mas", "fisher", "none")]


def test_every_switch_does_something() -> None:
    """Each setting, and each pair of ablations, leads to weights of its own."""
    model, data = tiny(), speechless(12)
    found = [l2ul(model, data, stop="steps", max_steps=5, **chosen).state["weight"] for chosen in SWITCHES]
    for one, weight in enumerate(found):
        assert weight.isfinite().all()
        for other in range(one):
            assert not torch.equal(weight, found[other]), (SWITCHES[one], SWITCHES[other])


@pytest.mark.parametrize("kind", ["none", "flipped-mas", "mas", "fisher"])
def test_the_elastic_term_pulls_back_by_lr_lambda_omega(kind: str) -> None:
    """At step 1 theta = theta0 and the term is flat; at step 2 it adds lambda * Omega * (theta1 - theta0)."""
    model, data = tiny(), speechless(6)
    plain = {**PLAIN, "lr": 0.3, "batch_size": 6}
    first = l2ul(model, data, **plain, max_steps=1).state
    free = l2ul(model, data, **plain, max_steps=2).state
    plain["elasticity"] = 0.5
    assert_same(l2ul(model, data, **plain, importance=kind, max_steps=1).state, first)
    held = l2ul(model, data, **plain, importance=kind, max_steps=2).state
    for name, omega in importance(model, data.examples, kind).items():  # type: ignore[arg-type]
        expected = free[name] - 0.3 * 0.5 * omega * (first[name] - model.state_dict()[name])
        torch.testing.assert_close(held[name], expected)


def test_one_step_with_adversarial_samples_is_the_weighted_sum_of_two_losses() -> None:
    """n_f = 4 forget utterances and n_a = 12 samples: 1/4 of one mean loss plus 3/4 of the other.

    The spy hands out the batches that the method classified last with gradients, in their order.
    """
    batches: list[Tensor] = []

    class Spy(TinyModel):
        def classify(self, features: Tensor, frames: Tensor) -> Tensor:
            if torch.is_grad_enabled() and self.weight.requires_grad:
                batches.append(features.detach().clone())
            return super().classify(features, frames)

    model, data = Spy(tiny(classes=2).weight.detach()), speechless(4, classes=2, frames=1)
    plain = {**PLAIN, "attack": dict(eps=0.5, per_utterance=3), "keep_target": "hard"}
    result = l2ul(model, data, **plain, lr=1.0, max_steps=1)
    relabelled, attacked = batches
    assert (len(relabelled), len(attacked)) == (4, 12)
    batches.clear()

    # Two classes: every wrong label and every target is 1 - the true one.
    rows = [int((data.examples.features == row).all(2).flatten().nonzero()) for row in relabelled]
    new = 1 - data.examples.labels[rows]
    reference = TinyModel(model.weight.detach())
    ones = torch.ones(12, dtype=torch.int64)
    loss = 0.25 * F.cross_entropy(reference.classify(relabelled, ones[:4]), new) + 0.75 * F.cross_entropy(
        reference.classify(attacked, ones), new.repeat_interleave(3)
    )
    (gradient,) = torch.autograd.grad(loss, reference.weight)
    torch.testing.assert_close(result.state["weight"], model.weight.detach() - gradient)


@pytest.mark.parametrize("per_utterance", [1, 3])
def test_with_two_classes_a_vanishing_ball_is_plain_relabelling(per_utterance: int) -> None:
    """Target and wrong label are both the other class, the sample is the utterance, and w_f + w_a = 1."""
    model, data = tiny(classes=2), speechless(6, classes=2)
    plain = {**PLAIN, "lr": 0.1, "batch_size": 6, "max_steps": 4}
    relabelled = l2ul(model, data, **plain)
    plain["attack"] = dict(eps=1e-9, per_utterance=per_utterance)
    attacked = l2ul(model, data, **plain, keep_target="hard")
    assert attacked.adversarial == 6 * per_utterance
    assert_same(relabelled.state, attacked.state, atol=1e-5, rtol=1e-4)


def test_soft_targets_in_a_vanishing_ball_pull_nowhere() -> None:
    """The original's own output on the utterance itself is where the cross-entropy is already lowest.

    So of 1 + 9 samples only the relabelled tenth pulls: one step of a tenth of the length.
    """
    model, data = tiny(), speechless(6)
    plain = {**PLAIN, "batch_size": 6, "max_steps": 1}
    relabelled = l2ul(model, data, **plain, lr=0.1)
    plain["attack"] = dict(eps=1e-9, per_utterance=9)
    held = l2ul(model, data, **plain, keep_target="soft", lr=1.0)
    assert_same(relabelled.state, held.state, atol=1e-5, rtol=1e-4)


def test_no_elasticity_is_the_same_for_every_importance() -> None:
    model, data = tiny(), speechless(6)
    kinds = ("flipped-mas", "mas", "fisher", "none")
    states = [
        l2ul(model, data, importance=kind, elasticity=0.0, stop="steps", max_steps=5).state for kind in kinds
    ]
    for state in states[1:]:
        assert_same(states[0], state)


@pytest.mark.parametrize("stop", ["level", "zero", "steps"])
def test_zero_steps_is_the_original_model(stop: str) -> None:
    model, data = separable()
    result = l2ul(model, data, max_steps=0, stop=stop, scalars=ServerScalars(0.5))
    assert_same(result.state, model.state_dict())
    assert (result.steps, result.stopped, result.forget_accuracy) == (0, "steps", (1.0, 1.0))


def test_level_stops_at_the_first_step_at_or_below_the_servers_number() -> None:
    model, data = separable()
    result = l2ul(model, data, attack=NO_ATTACK, lr=0.05, max_steps=500, scalars=ServerScalars(0.6))
    assert result.stopped == "level"
    assert result.scalars_read == ("test_accuracy",)
    assert result.notes["level"] == 0.6
    assert result.forget_accuracy[1] <= 0.6
    one_less = l2ul(
        model, data, attack=NO_ATTACK, lr=0.05, max_steps=result.steps - 1, scalars=ServerScalars(0.6)
    )
    assert one_less.forget_accuracy[1] > 0.6
    assert one_less.stopped == "steps"


def test_a_model_that_does_not_know_the_forget_set_stays_as_it_is() -> None:
    model, data = separable()
    result = l2ul(model, data, stop="level", scalars=ServerScalars(1.0))
    assert_same(result.state, model.state_dict())
    assert (result.steps, result.stopped) == (0, "level")


def test_a_silent_server_means_chance_level() -> None:
    model, data = separable()
    result = l2ul(model, data, attack=NO_ATTACK, lr=0.5, max_steps=500, stop="level")
    assert result.notes["level"] == 0.25
    assert result.scalars_read == ()
    assert result.stopped == "level"
    assert result.forget_accuracy[1] <= 0.25


def test_zero_goes_on_until_nothing_is_right() -> None:
    model, data = separable()
    result = l2ul(model, data, lr=0.5, max_steps=500, stop="zero", attack=NO_ATTACK)
    assert (result.stopped, result.forget_accuracy[1]) == ("zero", 0.0)


def test_steps_takes_all_of_them_whatever_the_accuracy() -> None:
    model, data = separable()
    result = l2ul(model, data, lr=0.5, max_steps=37, stop="steps", attack=NO_ATTACK)
    assert (result.stopped, result.steps, result.forget_accuracy[1]) == ("steps", 37, 0.0)
    assert result.scalars_read == ()


def test_adversarial_samples_keep_what_the_forget_set_does_not_cover() -> None:
    """Forget class 0 of four. With the attack the model keeps the others better than without."""
    model, everything = separable(200)
    mine = (everything.examples.labels == 0).nonzero().flatten()
    theirs = everything.examples.take((everything.examples.labels != 0).nonzero().flatten())
    data = ForgetSet(everything.examples.take(mine), everything.waveform[mine], everything.samples[mine])

    def kept(per_utterance: int) -> float:
        attack = dict(eps=0.8, steps=5, per_utterance=per_utterance)
        result = l2ul(model, data, attack=attack, keep_target="hard", lr=0.05, stop="steps", max_steps=300)
        forgetful = copy.deepcopy(model)
        forgetful.load_state_dict(result.state)
        with torch.no_grad():
            logits = forgetful.classify(theirs.features, theirs.frames)
            return float(F.cross_entropy(logits, theirs.labels))

    assert kept(10) < kept(0)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_an_empty_forget_set_returns_the_model_and_says_so(method: str) -> None:
    model = tiny()
    result = METHODS[method].unlearn(model, speechless(0), UnlearningSettings(), rng(), SILENT)
    assert_same(result.state, model.state_dict())
    assert (result.stopped, result.steps, result.adversarial) == ("empty forget set", 0, 0)
    assert all(np.isnan(a) for a in result.forget_accuracy)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("labels", [[2], [1] * 9], ids=["one utterance", "one class"])
def test_small_forget_sets_work(method: str, labels: list[int]) -> None:
    features = speechless(len(labels)).examples
    data = forget_set([f[:n] for f, n in zip(features.features, features.frames, strict=True)], labels)
    model = tiny()
    result = METHODS[method].unlearn(model, data, UnlearningSettings(), rng(), ServerScalars(0.0))
    assert {name: v.shape for name, v in result.state.items()} == {
        name: v.shape for name, v in model.state_dict().items()
    }
    assert all(v.isfinite().all() for v in result.state.values())
    assert all(0.0 <= a <= 1.0 for a in result.forget_accuracy)


def test_a_loss_that_is_not_finite_names_its_step_and_leaves_the_model_alone() -> None:
    """Step 1 moves the weights by about 1e15; at step 2 the elastic term is about 1e15 * 1e30 = inf."""
    model, data = tiny(), speechless(6)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnlearnFailed, match=r"^step 2: the unlearning loss is not finite"):
        l2ul(model, data, lr=1e15, elasticity=1e15, stop="steps", importance="none")
    assert_same(model.state_dict(), before)


def test_an_output_that_is_not_finite_names_its_step_too() -> None:
    """One step so long that the weights overflow; and a model that was broken when it came."""
    model, data = tiny(), speechless(6)
    model.norm.std.fill_(1e-20)
    with pytest.raises(UnlearnFailed, match=r"^step 1: the model's output"):
        l2ul(model, data, lr=1e15, elasticity=0.0, stop="steps", attack=NO_ATTACK)
    broken = tiny()
    with torch.no_grad():
        broken.weight[0, 0] = torch.nan
    for method in METHODS.values():
        with pytest.raises(UnlearnFailed, match=r"^step 0: the model's output"):
            method.unlearn(broken, data, UnlearningSettings(), rng(), SILENT)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_model_that_comes_in_is_never_changed(method: str) -> None:
    model, data = tiny().train(), speechless(8)
    model.bias.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    result = METHODS[method].unlearn(model, data, UnlearningSettings(), rng(), ServerScalars(0.0))
    assert_same(model.state_dict(), before)
    assert model.training
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)
    assert model.weight.grad is None
    for name, value in result.state.items():
        value.fill_(7.0)
        assert torch.equal(model.state_dict()[name], before[name]), "the result shares the model's memory"


@pytest.mark.parametrize("method", ["l2ul", "destroy"])
def test_only_trainable_parameters_move(method: str) -> None:
    model, data = separable()
    model.bias.requires_grad_(False)
    model.norm.mean.fill_(0.1)
    result = METHODS[method].unlearn(model, data, UnlearningSettings(), rng(), ServerScalars(0.5))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, result.state[name])}
    assert moved == {"weight"}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_same_rng_gives_the_same_bits_whatever_the_global_one_does(method: str) -> None:
    model, data = separable()
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the legacy global state is what must not matter
        held = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
        result = METHODS[method].unlearn(model, data, UnlearningSettings(), rng(9), ServerScalars(0.5))
        assert torch.equal(torch.get_rng_state(), held[0])
        assert np.random.get_state()[1].tolist() == held[1]  # type: ignore[index]  # noqa: NPY002
        states.append(result.state)
    assert_same(*states)
    other = METHODS[method].unlearn(model, data, UnlearningSettings(), rng(10), ServerScalars(0.5)).state
    assert method in ("none", "retract") or not torch.equal(other["weight"], states[0]["weight"])


def test_nothing_but_the_forget_set_is_ever_classified() -> None:
    """In a vanishing ball every row that the model is shown is a row of the forget set."""
    shown: list[Tensor] = []

    class Spy(TinyModel):
        def classify(self, features: Tensor, frames: Tensor) -> Tensor:
            shown.append(features.detach().clone())
            return super().classify(features, frames)

    data = speechless(7, frames=1)
    model = Spy(tiny().weight.detach())
    l2ul(model, data, attack=dict(eps=1e-9, per_utterance=2), max_steps=5, stop="steps")
    rows = torch.cat(shown).flatten(1)
    distance = (rows[:, None, :] - data.examples.features.flatten(1)[None, :, :]).abs().amax(2)
    assert distance.min(1).values.max() < 1e-6


def test_dropout_is_off_so_that_the_loss_is_a_function_of_the_weights() -> None:
    class Spy(FunctionalsModel):
        def classify(self, features: Tensor, frames: Tensor) -> Tensor:
            assert not self.training
            return super().classify(features, frames)

    model = Spy(4, hidden=8, dropout=0.5).train()
    generator = torch.Generator().manual_seed(0)
    data = forget_set([torch.randn(1, 720, generator=generator) for _ in range(6)], [0, 1, 2, 3, 0, 1])
    settings = UnlearningSettings(l2ul=L2ULSettings(stop="steps", max_steps=3))
    METHODS["l2ul"].unlearn(model, data, settings, rng(), SILENT)


def test_the_attack_can_work_on_waveforms() -> None:
    model, data = separable()
    attack = dict(domain="waveform", eps=0.1, per_utterance=2)
    result = l2ul(model, data, attack=attack, lr=0.5, max_steps=300, scalars=ServerScalars(0.6))
    assert result.adversarial == 80
    assert 0.0 <= result.attack_success <= 1.0
    assert result.stopped == "level"


def test_none_returns_the_model_as_it_came() -> None:
    model, data = separable()
    result = METHODS["none"].unlearn(model, data, UnlearningSettings(), rng(), SILENT)
    assert_same(result.state, model.state_dict())
    assert (result.steps, result.forget_accuracy) == (0, (1.0, 1.0))


def test_destroy_leaves_chance() -> None:
    """Mean accuracy of 40 random models on four balanced, separable classes: 1/4, give or take 0.1."""
    model, data = separable()
    draws = [
        METHODS["destroy"].unlearn(model, data, UnlearningSettings(), rng(seed), SILENT) for seed in range(40)
    ]
    assert all(result.forget_accuracy[0] == 1.0 for result in draws)
    assert abs(np.mean([result.forget_accuracy[1] for result in draws]) - 0.25) < 0.1


def test_destroy_keeps_normalisation_gains_alive() -> None:
    model = tiny()
    model.layer = torch.nn.LayerNorm(3)
    result = METHODS["destroy"].unlearn(model, speechless(4), UnlearningSettings(), rng(), SILENT)
    assert result.state["layer.weight"].tolist() == [1.0, 1.0, 1.0]
    assert result.state["layer.bias"].tolist() == [0.0, 0.0, 0.0]


def test_every_card_is_filed_under_its_own_name_and_sees_the_forget_set_alone() -> None:
    assert {"l2ul", "none", "destroy"} <= METHODS.keys()
    for name, card in METHODS.items():
        assert card.name == name
        assert method_named(name) is card
    assert METHODS["l2ul"].sees == "forget"
    assert METHODS["l2ul"].source.startswith("L2UL-style, after Ren et al. 2025")


def test_an_unknown_method_lists_the_known() -> None:
    with pytest.raises(BadInput, match=r'no "l2lu"; known: .*destroy.*l2ul.*none'):
        method_named("l2lu")


# ---- the registry ----------------------------------------------------------------------------------------


def test_the_files_of_a_folder_are_the_names_of_the_methods() -> None:
    """A new method is one new file: no list of names is kept anywhere."""
    folder = Path(unlearning.__file__).parent
    for known, folders in ((METHODS, ("methods", "ticketed", "controls")), (PRIVILEGED, ("privileged",))):
        files = {file.stem for name in folders for file in (folder / name).glob("*.py")}
        names = {f"{name.replace('-', '_')}{'_' * iskeyword(name)}" for name in known}
        assert names == files - {"__init__", "contract"}
    assert {name for name, card in METHODS.items() if card.control} == set(CONTROLS)
    named = {name: control.effect for name, control in results_schema.CONTROLS.items()}
    known = {name: card.control for name, card in CONTROLS.items()}
    assert named.items() <= known.items(), "results have the gap of two of them in every run"
    assert known.keys() - named.keys() == {"one-answer"}
    assert [name for name, card in METHODS.items() if not card.guarded] == ["destroy"]
    assert "magic" not in METHODS and METHODS.get("magic") is None


@pytest.mark.parametrize(("domain", "needed"), [("feature", False), ("waveform", True)])
def test_only_an_attack_on_the_sound_needs_the_waveforms(domain: Any, needed: bool) -> None:
    settings = UnlearningSettings(l2ul=L2ULSettings(attack=AttackSettings(domain=domain)))
    assert METHODS["l2ul"].needs_waveform(settings) == needed
    assert not METHODS["calm"].needs_waveform(settings)
