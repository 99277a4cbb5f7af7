"""What a purge leaves readable: no file of a finished run gives deleted features away, nor does a device."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from safetensors.torch import load_file
from small_run import decoded_once, prepared, resumed, run_small, small_config
from torch import Tensor
from typer.testing import CliRunner

from fedunlearn.cli import app
from fedunlearn.client.app import calibrate_locally
from fedunlearn.client.device import Device
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.engines.engine import play
from fedunlearn.errors import BadInput
from fedunlearn.evaluation.reconstruction import reconstruct
from fedunlearn.examples import Examples
from fedunlearn.experiment.kept_original import RATIO, noise_along
from fedunlearn.experiment.reference_cache import ReferenceCache
from fedunlearn.models.functionals import FunctionalsModel
from fedunlearn.report.privacy import TOO_FEW, describe_leaks
from fedunlearn.report.run_page import write_report
from fedunlearn.results_schema import Results
from fedunlearn.run_folder import RunFolder
from fedunlearn.server.clients import settings
from fedunlearn.vault.calibration import FEWEST, may_send_moments

ONE = [{"client": 2, "what": "some", "count": 1, "after_learning": 0}]


def some_model() -> FunctionalsModel:
    torch.manual_seed(0)
    return FunctionalsModel(classes=4, hidden=16).eval()


def some_examples(count: int, seed: int) -> Examples:
    features = torch.randn(count, 1, 720, generator=torch.Generator().manual_seed(seed))
    return Examples(features, torch.ones(count, dtype=torch.int64), torch.arange(count) % 4)


def gradient(model: FunctionalsModel, examples: Examples) -> dict[str, Tensor]:
    loss = torch.nn.functional.cross_entropy(
        model.classify(examples.features, examples.frames), examples.labels
    )
    names, parameters = zip(*model.named_parameters(), strict=True)
    zero = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    return zero | dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


# ---- the attack ------------------------------------------------------------------------------------------


def test_one_gradient_step_on_one_utterance_is_its_features() -> None:
    """dW = delta x^T: every row is a multiple of x, so the correlation is exactly 1."""
    model, forget, others = some_model(), some_examples(1, 1), some_examples(9, 2)
    found = reconstruct(model, gradient(model, forget), forget, others)
    assert found is not None and found.r > 0.9999 and found.named == 1.0
    assert found.chance == pytest.approx(0.1) and (found.r_others or 0.0) < 0.2


def test_an_update_of_zeros_tells_nothing() -> None:
    model, forget = some_model(), some_examples(2, 1)
    nothing = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    found = reconstruct(model, nothing, forget, some_examples(2, 3))
    assert found is not None and found.to_json() == {"r": 0.0, "r_others": None, "named": 0.0, "chance": 0.5}
    assert reconstruct(model, nothing, some_examples(0, 1), forget) is None


def test_noise_along_an_update_hides_what_it_was_made_from() -> None:
    """The rows get RATIO times their length of noise: a correlation of about 1 / RATIO is left."""
    model, forget, others = some_model(), some_examples(1, 1), some_examples(9, 2)
    update = gradient(model, forget)
    noise = noise_along(update, 0, "secret")
    lengths = noise["head.0.weight"].norm() / update["head.0.weight"].norm()
    assert float(lengths) == pytest.approx(RATIO, rel=0.1)
    hidden = {name: value + noise[name] for name, value in update.items()}
    found = reconstruct(model, hidden, forget, others)
    assert found is not None and found.r < 0.2
    assert torch.equal(noise["norm.mean"], torch.zeros(720)), "what did not move gets no noise"
    again, other = noise_along(update, 0, "secret"), noise_along(update, 0, "another")
    assert torch.equal(again["head.0.weight"], noise["head.0.weight"])
    assert not torch.equal(other["head.0.weight"], noise["head.0.weight"])


# ---- the files of a finished run -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One deleted utterance: run, references, and the utterance's id in a file."""
    folder = tmp_path_factory.mktemp("one")
    run_small(folder / "run", small_config(deletions__schedule=ONE), cache=folder / "references")
    return folder


def first_layers(run: Path) -> dict[str, Tensor]:
    """Every tensor in every file of the run folder that has the form of the first layer's weights."""
    found = {}
    for file in sorted(run.rglob("*.safetensors")):
        for name, value in load_file(file).items():
            if value.shape == (16, 720):
                found[f"{file.name}:{name}"] = value.double()
    return found


def features_of_the_deleted(folder: Path) -> tuple[Tensor, dict[str, Tensor]]:
    config = small_config(deletions__schedule=ONE)
    experiment = prepared(folder / f"other-{len(list(folder.iterdir()))}", config)
    gone = RequestStore(folder / "run" / "vaults" / "client-0002").all()[0].utterances[0]
    decoded = decoded_once(config)
    assert decoded is not None
    norm = load_file(folder / "run" / "checkpoints" / "recovered.safetensors")
    seen = {
        name: ((f.flatten() - norm["norm.mean"]) / norm["norm.std"]).double()
        for name, f in decoded[1].features(experiment.template).items()
    }
    experiment.close()
    return seen.pop(gone), seen


def test_no_two_files_of_the_run_folder_give_the_deleted_features(folder: Path) -> None:
    """All pairs of all tensors of the first layer's form, checkpoints and states for resuming alike."""
    deleted, others = features_of_the_deleted(folder)
    wanted = torch.nn.functional.normalize(deleted - deleted.mean(), dim=0)
    layers = list(first_layers(folder / "run").values())
    assert len(layers) > 8
    worst, chance = 0.0, 0.0
    rest = torch.stack([torch.nn.functional.normalize(v - v.mean(), dim=0) for v in others.values()])
    for i, before in enumerate(layers):
        for after in layers[i + 1 :]:
            difference = after - before
            if not bool(difference.any()):
                continue
            row = torch.linalg.svd(difference, full_matrices=False).Vh[0]
            row = torch.nn.functional.normalize(row - row.mean(), dim=0)
            worst = max(worst, abs(float(row @ wanted)))
            chance = max(chance, float((rest @ row).abs().max()))
    assert worst < 0.6 and worst <= chance, "the deleted utterance is no nearer than others are"


def test_the_exact_original_is_nowhere_in_the_run_folder(folder: Path) -> None:
    results = json.loads((folder / "run" / "results.json").read_text())
    learned = ReferenceCache(folder / "references").find(results["references"]["original"])
    assert learned is not None
    exact = learned.state["head.0.weight"].double()
    nearest = min(float((layer - exact).abs().max()) for layer in first_layers(folder / "run").values())
    assert nearest > 1e-4


@pytest.mark.usefixtures("undrawn")
def test_results_say_what_update_and_kept_models_give_away(folder: Path) -> None:
    results = json.loads((folder / "run" / "results.json").read_text())
    update = results["requests"][0]["privacy"]["reconstruction"]
    assert update["r"] > 0.7 and update["named"] == 1.0, "the update of one utterance gives it away"
    assert TOO_FEW == FEWEST
    sentence = describe_leaks(Results.model_validate(results))
    assert "fewer than 4 utterances" in sentence and f"correlation of up to {update['r']:.3f}" in sentence
    write_report(Results.model_validate(results), folder / "page.html")
    page = (folder / "page.html").read_text()
    assert sentence in page and "features read off it" in page
    (kept,) = results["kept"]
    assert kept["request"] == results["requests"][0]["id"] and kept["r"] < 0.5


def test_constants_are_the_same_in_every_model_and_asked_for_once(tmp_path: Path) -> None:
    """Requests in the middle of learning, so that a counterfactual original is trained, too."""
    contacted: list[int] = []

    def listen(message: Message, context: Context, call_next: Any) -> Message:
        if message.metadata.message_type == "train.calibrate":
            contacted.append(int(context.node_config["partition-id"]))
        reply: Message = call_next(message, context)
        return reply

    schedule = [
        {"client": 2, "what": "some", "count": 1, "round": 1},
        {"client": 3, "what": "all", "round": 0},
    ]
    config = small_config(deletions__schedule=schedule, evaluation__retrained_seeds=2)
    run_small(tmp_path / "run", config, [listen])
    assert sorted(contacted) == list(range(6))
    means = [
        load_file(f)["norm.mean"] for f in sorted((tmp_path / "run" / "checkpoints").glob("*.safetensors"))
    ]
    assert len(means) == 4 and all(torch.equal(means[0], mean) for mean in means)


def test_a_device_sends_moments_of_one_set_only(tmp_path: Path) -> None:
    """Asked before, again, and after a deletion by a server that wants to know the difference."""
    config = small_config(deletions__schedule=ONE, evaluation__search=False)
    experiment = prepared(tmp_path / "run", config)
    run, content = experiment.run, RecordDict({"settings": settings(rounds_done=0)})

    def correlations() -> tuple[float, list[float]]:
        reply = calibrate_locally(Device(run, 2), content)
        mean = torch.from_numpy(reply.array_records["moments"]["mean"].numpy())
        return float(reply.metric_records["metrics"]["examples"]), mean.tolist()

    first, again = correlations(), correlations()
    assert first[0] == 14 and first == again
    play(experiment)
    experiment.close()
    assert correlations() == (0.0, [0.0] * 720)


def test_rules_of_the_one_set(tmp_path: Path) -> None:
    assert not may_send_moments(tmp_path, ["a", "b", "c"]), "three tell each of them"
    assert not (tmp_path / "calibration.json").exists()
    assert may_send_moments(tmp_path, ["a", "b", "c", "d"]) and may_send_moments(
        tmp_path, ["a", "b", "c", "d"]
    )
    assert not may_send_moments(tmp_path, ["a", "b", "c", "d", "e"])
    assert not may_send_moments(tmp_path, ["d", "c", "b", "a"])


# ---- what holds influence, and deleting it ---------------------------------------------------------------


def test_influence_is_listed_and_deleted_and_the_run_says_so_when_resumed(
    folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "copy"
    shutil.copytree(folder, place)
    run, references = place / "run", place / "references"
    config = small_config(deletions__schedule=ONE)
    again = resumed(run, config, references)
    assert again["status"] == "complete" and len(again["requests"]) == 1
    listed = CliRunner().invoke(app, ["influence", str(run)])
    assert listed.exit_code == 0 and "sealed-" in listed.output and "--delete" in listed.output
    key = again["references"]["original"]
    assert key in listed.output and (references / f"{key}.safetensors").exists()
    receipt = json.loads(next((run / "vaults" / "client-0002" / "receipts").glob("*.json")).read_text())
    assert {one["file"] for one in receipt["kept"]} >= {f"references/{key}.safetensors"}
    deleted = CliRunner().invoke(app, ["influence", str(run), "--delete"])
    assert deleted.exit_code == 0 and "deleted: " in deleted.output
    assert not (references / f"{key}.safetensors").exists() and not list(references.glob("sealed-*"))
    receipt = json.loads(next((run / "vaults" / "client-0002" / "receipts").glob("*.json")).read_text())
    assert receipt["kept"] == []
    assert "no file is left" in CliRunner().invoke(app, ["influence", str(run)]).output
    with pytest.raises(BadInput, match="the original model of this run is not in"):
        resumed(run, config, references)


def test_a_run_that_goes_on_keeps_what_it_needs(tmp_path: Path) -> None:
    experiment = prepared(
        tmp_path / "run", small_config(deletions__schedule=ONE, federation__checkpoint_every=1)
    )

    def stop(message: Message, context: Context, call_next: Any) -> Message:
        if message.metadata.message_type == "query.purge":
            experiment.stop.set()
        reply: Message = call_next(message, context)
        return reply

    with pytest.raises(Exception, match="interrupted"):
        play(experiment, [stop])
    experiment.write_failure("interrupted", True)
    experiment.close()
    refused = CliRunner().invoke(app, ["influence", str(tmp_path / "run"), "--delete"])
    assert refused.exit_code == 2


def test_a_run_without_deletions_keeps_its_exact_original(tmp_path: Path) -> None:
    results = run_small(tmp_path / "run", small_config(deletions__schedule=[]), cache=tmp_path / "references")
    learned = ReferenceCache(tmp_path / "references").find(results["references"]["original"])
    kept = load_file(RunFolder(tmp_path / "run").checkpoints / "original.safetensors")
    assert learned is not None and all(
        torch.equal(kept[name], value) for name, value in learned.state.items()
    )
    assert "no file is left" in CliRunner().invoke(app, ["influence", str(tmp_path / "run")]).output
