"""Oracle targets: the truth by hand, a step that follows it, and a small federation that is told it."""

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import call_script, small_file
from hypothesis import given
from hypothesis import strategies as st
from oracle import oracle
from oracle_targets.measures import (
    NOT_A_METHOD,
    OracleMeasures,
    OracleRow,
    oracle_json,
    oracle_table,
    spread_over_models,
)
from oracle_targets.study import PlayedRun, play_with_shadows, tell
from oracle_targets.truth import Oracle, Truth, targets_from, truth_of
from small_run import small_config
from tiny_model import TinyModel, forget_set

import fedunlearn
from fedunlearn.config.unlearning import CalmSettings, UnlearningSettings
from fedunlearn.errors import RunFailed
from fedunlearn.evaluation.lira import confidence
from fedunlearn.experiment.reference_cache import LEARNED_FOLDER
from fedunlearn.report.markup import markdown
from fedunlearn.results_schema import LogOddsShift, RateWithInterval, ShadowAttackScores
from fedunlearn.unlearning import METHODS
from fedunlearn.unlearning.contract import LogOdds, ServerScalars
from fedunlearn.unlearning.log_odds import log_odds_of, predict_log_odds

# ---- the truth ---------------------------------------------------------------------------------------------

INSIDE = np.array([[1, 0], [0, 0], [0, 1], [1, 0]], bool)
PHI = np.array([[9.0, 1.0], [2.0, 4.0], [4.0, -7.0], [8.0, 4.0]])


def test_the_truth_by_hand() -> None:
    """Utterance 0 is outside shadows 1 and 2 (2, 4), utterance 1 outside 0, 1 and 3 (1, 4, 4)."""
    truth = truth_of(PHI, INSIDE)
    assert truth.mean.tolist() == [3.0, 3.0]
    assert truth.std.tolist() == pytest.approx([2**0.5, 3**0.5])


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_models_that_were_trained_on_an_utterance_say_nothing_of_its_truth(heard: list[float]) -> None:
    phi = PHI.copy()
    phi[INSIDE] = heard
    known, found = truth_of(PHI, INSIDE), truth_of(phi, INSIDE)
    assert found.mean.tolist() == known.mean.tolist() and found.std.tolist() == known.std.tolist()


def test_an_utterance_that_one_model_alone_was_not_trained_on_has_no_truth() -> None:
    with pytest.raises(RunFailed, match=r"1 utterances are outside fewer than 2 of the 3 .* set --shadows"):
        truth_of(PHI[:3], np.array([[1, 0], [1, 0], [0, 0]], bool))


def test_targets_are_the_mean_or_drawn_around_it() -> None:
    truth = Truth(np.array([1.0, -2.0, 5.0]), np.array([3.0, 0.5, 0.0]))
    assert targets_from(truth, "mean", 1, 0).tolist() == [1.0, -2.0, 5.0]
    drawn = np.array([targets_from(truth, "drawn", 1, shadow) for shadow in range(2000)])
    assert drawn[7].tolist() == targets_from(truth, "drawn", 1, 7).tolist()
    np.testing.assert_allclose(drawn.mean(0), truth.mean, rtol=0, atol=0.3)  # 4.5 standard errors
    np.testing.assert_allclose(drawn.std(0), truth.std, rtol=0.1)
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.1


# ---- the step ----------------------------------------------------------------------------------------------

SCALARS = ServerScalars(0.5, 1.0, LogOdds(4.0, 2.0), LogOdds(0.5, 1.0))


def test_a_step_that_is_told_the_truth_follows_it() -> None:
    """One utterance a direction: nothing stands in the way. Utterances are told apart by their ids."""
    settings = UnlearningSettings(calm=CalmSettings(hold="none", lr=0.5, max_steps=400))
    data = forget_set([torch.eye(4)[i : i + 1] for i in range(3)], [0, 1, 2])
    method = Oracle({"x": 9.0, "c": 0.5, "b": -1.0, "a": 2.0}).method_for(("a", "b", "c"))
    result = method(TinyModel(4.0 * torch.eye(4)), data, settings, np.random.default_rng(0), SCALARS)
    after = TinyModel(torch.zeros(4, 4))
    after.load_state_dict(result.state)
    assert log_odds_of(after, data.examples).tolist() == pytest.approx([2.0, -1.0, 0.5], abs=1e-2)
    assert result.targets is not None and result.targets.tolist() == [2.0, -1.0, 0.5]
    assert result.scalars_read == ()


def test_a_step_that_is_told_what_calm_predicts_is_calms() -> None:
    settings = UnlearningSettings(calm=CalmSettings(hold="noisy", lr=0.1, max_steps=20))
    data = forget_set([torch.eye(4)[i : i + 1] for i in range(3)], [0, 1, 2])
    model = TinyModel(4.0 * torch.eye(4))
    predicted, _ = predict_log_odds(model, data, SCALARS)
    told = Oracle(dict(zip("abc", predicted.tolist(), strict=True))).method_for(("a", "b", "c"))
    results = [
        method(model, data, settings, np.random.default_rng(3), SCALARS)
        for method in (told, METHODS["calm"].unlearn)
    ]
    assert all(torch.equal(results[0].state[name], value) for name, value in results[1].state.items())


def test_no_method_of_the_package_gives_the_fine_tune_targets_from_outside() -> None:
    name = "adversarial_fine_tune"
    sources = [f.read_text(encoding="utf-8") for f in Path(fedunlearn.__file__).parent.rglob("*.py")]
    calls = [
        node
        for source in sources
        if name in source
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(name)
    ]
    assert len(calls) >= 2 and all(len(call.args) == 5 and not call.keywords for call in calls)


# ---- what is measured --------------------------------------------------------------------------------------


def test_spread_over_models_by_hand() -> None:
    """Inside: 9, 8 of utterance 0 (variance .5), one answer of utterance 1. Outside: variances 2 and 3.

    A third utterance, 100 nats apart outside: the median of three is the second.
    """
    assert spread_over_models(PHI, INSIDE) == pytest.approx(0.5**0.5)
    assert spread_over_models(PHI, ~INSIDE) == pytest.approx((2**0.5 + 3**0.5) / 2)
    wide = np.column_stack([PHI, [0.0, 100.0, 0.0, 100.0]]), np.column_stack([~INSIDE, [True] * 4])
    assert spread_over_models(*wide) == pytest.approx(3**0.5)
    assert spread_over_models(PHI, np.zeros_like(INSIDE)) is None


def test_the_table_says_that_an_oracle_is_no_method() -> None:
    attack = ShadowAttackScores(
        auc=0.8, low=0.75, high=0.85, tpr_at={"0.01": RateWithInterval(value=0.2, low=0.1, high=0.3)}
    )
    shift = LogOddsShift(rms=2.0, mean=0.5, slope=0.75, residual=1.0, n=9)
    measures = OracleMeasures(attack, 0.044, shift, shift, shift, 0.77, None)
    rows = [OracleRow("oracle, mean", True, measures), OracleRow("calm", False, measures)]
    lines = markdown([oracle_table(rows, 64, exact=True)]).splitlines()
    cells = (
        "0.800 [0.750, 0.850] | 0.200 [0.100, 0.300] | 0.044 | 2.00 | 2.00 | 0.75 | 0.77 | – | 0.75 | 1.00"
    )
    assert f"| oracle, mean ({NOT_A_METHOD}) | {cells} |" in lines
    assert f"| calm | {cells} |" in lines
    told, own = json.loads(oracle_json(rows, 64, exact=True, seed=1))["rows"]
    assert told["what"] == NOT_A_METHOD == "not a method: it is told the answers"
    assert own["what"] == "a method" and own["ulira"]["auc"] == 0.8 and own["gap"] == 0.044


# ---- a small federation ------------------------------------------------------------------------------------

QUICK: dict[str, Any] = {
    "corpus__utterances": 12,
    "unlearning__calm__hold": "none",
    "guard__rehearsals": 0,
    "deletions__schedule": [{"client": 2, "what": "some", "count": 5, "after_learning": 0}],
    "evaluation__shadow_workers": 1,
    "evaluation__search": False,
    "evaluation__relearn_steps": 0,
}
SHADOWS = 8


@dataclass(frozen=True)
class Finished:
    """The command, finished, and its run and shadows as a second call finds them."""

    out: Path
    printed: str
    learned: dict[Path, int]
    again: PlayedRun


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("oracle")
    file, out = small_file(folder, **QUICK), folder / "out"
    code, printed = call_script(
        oracle, "--config", file, "--shadows", str(SHADOWS), "--beside", "none", "--out", out
    )
    assert code == 0, printed
    learned = learned_in(out)
    return Finished(out, printed, learned, play_with_shadows(small_config(**QUICK), out, SHADOWS))


def learned_in(out: Path) -> dict[Path, int]:
    files = (out / "references" / LEARNED_FOLDER).glob("*.safetensors")
    return {file: file.stat().st_mtime_ns for file in files}


@pytest.mark.slow
def test_the_command_writes_the_study(finished: Finished) -> None:
    table, text = (finished.out / "oracle.md").read_text(), (finished.out / "oracle.json").read_text()
    assert table.strip() in finished.printed and table.count(f"({NOT_A_METHOD})") == 2
    found = json.loads(text)
    assert [row["name"] for row in found["rows"]] == ["oracle, mean", "oracle, drawn", "calm", "none"]
    assert found["replay_exact"] and found["shadows"] == SHADOWS


def test_federations_are_told_the_truth_and_learn_as_before(finished: Finished) -> None:
    """Requesters train what is inside towards the truth; what was learned is read, not learned again."""
    run = finished.again
    shadows, recovered = tell(run, "mean")
    inside = run.shadows.inside
    np.testing.assert_array_equal(np.isnan(shadows.targets), ~inside)
    told = np.broadcast_to(run.truth.mean, inside.shape)
    np.testing.assert_allclose(shadows.targets[inside], told[inside], rtol=1e-6)
    np.testing.assert_array_equal(shadows.logits["original"], run.shadows.logits["original"])
    assert not np.array_equal(shadows.logits["recovered"], run.shadows.logits["recovered"])
    assert learned_in(finished.out) == finished.learned and len(finished.learned) == SHADOWS
    own = run.experiment.state.model
    assert own is not None and not all(torch.equal(recovered[k], v) for k, v in own.weights.items())


def test_the_truth_of_a_federation_is_of_those_that_never_heard_the_utterance(finished: Finished) -> None:
    run = finished.again
    shadows = run.shadows
    phi, column = confidence(shadows.logits["original"], shadows.labels)[:, 0], shadows.inside[:, 0]
    assert run.truth.mean[0] == pytest.approx(sum(phi[~column]) / sum(~column))


def test_what_the_study_decides_cannot_be_set(tmp_path: Path) -> None:
    code, printed = call_script(
        oracle,
        "--set",
        "unlearning.method=none",
        "--set",
        "evaluation.search=false",
        "--out",
        tmp_path / "out",
    )
    assert code == 2 and "--set unlearning.method: the study sets it to 'calm'; leave it out" in printed
    assert "evaluation.search" not in printed
    code, printed = call_script(oracle, "--beside", "nothing", "--out", tmp_path / "out")
    assert code == 2 and "--beside nothing: is none of " in printed
    assert not (tmp_path / "out").exists()
