"""Encoders are found, checked and loaded as they were saved; what does not fit is one line of advice."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoders import KINDS, NORMS, save_preprocessor, tiny_config, tiny_encoder
from transformers import (
    AutoModel,
    BertConfig,
    HubertForCTC,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForPreTraining,
    WavLMForSequenceClassification,
    WhisperConfig,
)

from fedunlearn.errors import BadInput, Interrupted
from fedunlearn.models.encoders import random_shapes
from fedunlearn.models.encoders.checkpoint import Checkpoint, check_digest, check_trains, load, locate
from fedunlearn.models.encoders.hub import WANTED

PUBLISHED = "facebook/wav2vec2-base"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoders") / "made")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A folder of its own, to be spoilt."""
    return Path(shutil.copytree(made, tmp_path / "encoder"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of published models; nothing is fetched from anywhere."""

    def offline(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no network in tests\nand more")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    monkeypatch.setattr("huggingface_hub.get_repo_discussions", offline)
    return tmp_path / "hub"


def line(name: str | Path, act: Callable[[Checkpoint], Any] = load, **settings: Any) -> str:
    """The error line of an encoder that cannot be used."""
    with pytest.raises(BadInput) as caught:
        act(locate(str(name), **settings))
    (problem,) = caught.value.problems
    assert "\n" not in problem
    return problem


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def put_weights(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def set_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (content | changes).items() if v is not ...}))


def same_weights(one: Any, other: Any) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- what is right ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_encoder_comes_back_as_it_was(kind: str, norm: str, tmp_path: Path) -> None:
    tiny_encoder(tmp_path, kind, norm, layers=3, hidden=8, normalise=norm == "layer")
    found = locate(str(tmp_path))
    assert (found.kind, found.layers, found.hidden) == (kind, 3, 8)
    assert found.normalise == (norm == "layer") and not found.is_random and found.folder == tmp_path
    encoder = load(found)
    assert type(encoder) is KINDS[kind][1] and encoder.dtype == torch.float32 and not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())
    assert encoder.config.layerdrop == 0.0 and not encoder.config.apply_spec_augment
    loaded, saved = encoder.state_dict(), weights_of(tmp_path)
    assert loaded.keys() == saved.keys() and all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_nothing_is_printed_and_nothing_drawn(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    put_weights(
        folder, {f"wav2vec2.{k}": v for k, v in weights_of(folder).items()} | {"lm_head.bias": torch.ones(3)}
    )
    capfd.readouterr()
    before = torch.get_rng_state()
    load(locate(str(folder)))
    load(locate("random:wav2vec2-tiny"))
    assert capfd.readouterr() == ("", "") and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("headed", "kind"),
    [
        (Wav2Vec2ForPreTraining, "wav2vec2"),
        (HubertForCTC, "hubert"),
        (WavLMForSequenceClassification, "wavlm"),
    ],
)
def test_of_a_model_with_a_head_the_encoder_is_taken(headed: Any, kind: str, tmp_path: Path) -> None:
    model = headed(tiny_config(kind))
    model.save_pretrained(tmp_path)
    save_preprocessor(tmp_path)
    assert same_weights(load(locate(str(tmp_path))), model.base_model)


def test_weights_saved_under_their_older_names_are_found(folder: Path) -> None:
    """Most published files were saved before weight norm became a parametrisation."""
    encoder, newer = (
        load(locate(str(folder))),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    )
    older = {
        k.replace(newer[0], "weight_g").replace(newer[1], "weight_v"): v
        for k, v in weights_of(folder).items()
    }
    assert "encoder.pos_conv_embed.conv.weight_g" in older
    put_weights(folder, older)
    assert same_weights(load(locate(str(folder))), encoder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, folder: Path) -> None:
    put_weights(folder, {name: value.to(dtype) for name, value in weights_of(folder).items()})
    set_json(folder / "config.json", dtype=str(dtype).removeprefix("torch."))
    encoder, expected = load(locate(str(folder))), weights_of(folder)
    assert all(torch.equal(value, expected[name].float()) for name, value in encoder.state_dict().items())
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


def test_shards_are_put_together(made: Path, folder: Path) -> None:
    whole = load(locate(str(made)))
    (folder / "model.safetensors").unlink()
    whole.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert same_weights(load(locate(str(folder))), whole)
    next(folder.glob("model-*2-of-*")).unlink()
    assert re.search(
        r"index\.json: names model-00002-of-\d+\.safetensors, which is not in the folder", line(folder)
    )


def test_shards_lie_in_the_folder_itself(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"masked_spec_embed": "../elsewhere.safetensors"}}))
    assert "names ../elsewhere.safetensors, which is not in the folder" in line(folder)
    index.write_text(json.dumps({"weight_map": []}))
    assert f"{index}: names no files" in line(folder)


def test_the_feature_extractor_may_stand_in_a_processor(folder: Path) -> None:
    """As newer transformers save it, beside a tokenizer's settings."""
    (folder / "preprocessor_config.json").unlink()
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False).to_dict()
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": extractor}))
    assert locate(str(folder)).normalise is False


def test_a_folder_may_be_relative_or_at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert locate("encoder").folder == locate("~/encoder").folder == locate("./encoder").folder == folder


Weights = dict[str, torch.Tensor]
MASK = "masked_spec_embed"


def _without_mask(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if name != MASK}


def _older_names(weights: Weights) -> Weights:
    renamed = {
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    }
    for new, old in renamed.items():
        weights = {name.replace(new, old): value for name, value in weights.items()}
    return weights


HEADS = {
    "ctc": {"lm_head.weight": torch.ones(32, 16), "lm_head.bias": torch.full((32,), torch.nan)},
    "classification": {
        "projector.weight": torch.ones(4, 16),
        "classifier.bias": torch.ones(3),
        "layer_weights": torch.ones(3),
    },
    "pre-training": {
        "quantizer.codevectors": torch.ones(1, 8, 2),
        "project_q.weight": torch.ones(2, 2),
        "project_hid.bias": torch.ones(2),
    },
    "fairseq": {"final_proj.weight": torch.ones(2, 16), "label_embs_concat": torch.ones(4, 2)},
    "integers": {"classifier.norm.num_batches_tracked": torch.ones(1, dtype=torch.int64)},
}
MASKS: dict[str, Callable[[Weights], Weights]] = {
    "missing": _without_mask,
    "of an early version": lambda w: _without_mask(w) | {"mask_time_emb_vector": w[MASK]},
    "of fairseq": lambda w: _without_mask(w) | {"mask_emb": w[MASK]},
    "of another shape": lambda w: w | {MASK: torch.ones(3)},
    "not finite": lambda w: w | {MASK: torch.full_like(w[MASK], torch.nan)},
    "of integers": lambda w: w | {MASK: torch.zeros(16, dtype=torch.int8)},
    "beside older names": lambda w: _older_names(_without_mask(w)),
}


@pytest.mark.parametrize("mask", MASKS)
def test_what_no_output_depends_on_is_never_a_reason_to_refuse(mask: str, made: Path, folder: Path) -> None:
    """Frames are never masked and heads are cut off. Here the encoder's weights have no prefix."""
    changed = MASKS[mask](weights_of(made))
    put_weights(folder, changed | {name: value for head in HEADS.values() for name, value in head.items()})
    loaded, whole = load(locate(str(folder))).state_dict(), load(locate(str(made))).state_dict()
    assert loaded.keys() == whole.keys()
    assert all(torch.equal(loaded[name], whole[name]) for name in loaded if name != MASK)
    assert not loaded[MASK].any()  # the same each time, whatever the memory held


@pytest.mark.parametrize("off", [{"mask_time_prob": 0.0, "mask_feature_prob": 0.0}, {}])
@pytest.mark.parametrize("mask", [None, "missing", "not finite"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_embedding_of_every_kind(
    kind: str, mask: str | None, off: dict[str, float], tmp_path: Path
) -> None:
    """Also where masking is off in config.json, so that transformers' model has no place for it."""
    tiny_encoder(tmp_path, kind)
    whole = load(locate(str(tmp_path))).state_dict()
    weights = weights_of(tmp_path)
    set_json(tmp_path / "config.json", **off)
    put_weights(tmp_path, {f"{kind}.{k}": v for k, v in (MASKS[mask](weights) if mask else weights).items()})
    encoder = load(locate(str(tmp_path)))
    loaded = encoder.state_dict()
    assert (MASK in loaded) == (not off)
    assert all(torch.equal(value, whole[name]) for name, value in loaded.items() if name != MASK)
    encoder.save_pretrained(tmp_path)
    assert same_weights(load(locate(str(tmp_path))), encoder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_that_is_needed_is_missed_all_the_same(kind: str, tmp_path: Path) -> None:
    tiny_encoder(tmp_path, kind)
    needed = "encoder.layer_norm.weight"
    weights = {name: value for name, value in weights_of(tmp_path).items() if name not in (MASK, needed)}
    put_weights(tmp_path, {f"{kind}.{name}": value for name, value in weights.items()} | HEADS["ctc"])
    assert f"weights are missing: {needed};" in line(tmp_path)


# ---- the digest ------------------------------------------------------------------------------------------


def test_the_digest_is_of_what_changes_the_encoders_output(made: Path, folder: Path) -> None:
    first = locate(str(made)).sha256
    assert re.fullmatch("[0-9a-f]{64}", first) and locate(str(folder)).sha256 == first
    (folder / "README.md").write_text("says nothing about the encoder")
    assert locate(str(folder)).sha256 == first
    save_preprocessor(folder, normalise=False)
    second = locate(str(folder)).sha256
    weights = weights_of(folder)
    weights["encoder.layer_norm.bias"][0] += 1
    put_weights(folder, weights)
    third = locate(str(folder)).sha256
    set_json(folder / "config.json", layer_norm_eps=1e-4)
    assert len({first, second, third, locate(str(folder)).sha256}) == 4


def test_another_encoder_than_before_is_refused(made: Path) -> None:
    found = locate(str(made))
    check_digest(found, "")
    check_digest(found, found.sha256)
    with pytest.raises(
        BadInput, match=rf"model\.encoder\.sha256: {made} is not the encoder .* expected 000000000000"
    ):
        check_digest(found, 64 * "0")


def test_a_folder_that_changes_between_finding_and_loading_is_refused(folder: Path) -> None:
    found = locate(str(folder))
    tiny_encoder(folder, seed=1)
    with pytest.raises(BadInput, match="was changed"):
        load(found)


def test_no_more_layers_train_than_there_are(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = locate(str(made))
    for trains in ("head", "top:1", "top:2", "all"):
        check_trains(found, trains)
    with pytest.raises(BadInput, match=r'trains = "top:3": .*made has 2 layers; "top:2"'):
        check_trains(found, "top:3")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="needs peft: pip install"):
        check_trains(found, "lora")


# ---- random ones -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_random_weights_are_always_the_same(kind: str) -> None:
    found = locate(f"random:{kind}-tiny")
    assert found.is_random and found.folder is None and found.kind == kind
    first = load(found)
    torch.manual_seed(7)
    second = load(locate(f"random:{kind}-tiny"))
    assert same_weights(first, second) and first is not second
    assert (first.config.num_hidden_layers, first.config.hidden_size) == (found.layers, found.hidden)
    assert not first.training and first.config.layerdrop == 0.0


def test_no_two_random_ones_are_taken_for_each_other() -> None:
    digests = {locate(f"random:{shape}").sha256 for shape in random_shapes.SHAPES}
    assert len(digests) == len(random_shapes.SHAPES)


@pytest.mark.parametrize(
    ("shape", "layers", "hidden", "parameters"),
    [
        ("wav2vec2-base", 12, 768, 94.37e6),
        ("wav2vec2-large", 24, 1024, 315.44e6),
        ("wav2vec2-large-lv60", 24, 1024, 315.44e6),
        ("hubert-base-ls960", 12, 768, 94.37e6),
        ("wavlm-base-plus", 12, 768, 94.38e6),
    ],
)
def test_random_ones_have_the_published_sizes(
    shape: str, layers: int, hidden: int, parameters: float
) -> None:
    """The papers say 95 M for base and 317 M for large, the quantiser of the pre-training included."""
    found, sizes = locate(f"random:{shape}"), random_shapes.SHAPES[shape].sizes
    assert (found.layers, found.hidden) == (layers, hidden)
    with torch.device("meta"):
        model = AutoModel.from_config(KINDS[found.kind][0](**sizes))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=1e-4)


# ---- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("functionnals", 'did you mean "functionals"?'),
        ("CNN", 'did you mean "cnn"?'),
        ("wav2vec2-base", 'did you mean "random:wav2vec2-base"?'),
        ("", "known are functionals, cnn, and speech encoders: small, a folder"),
        ("a b", "known are functionals, cnn, and speech encoders: small, a folder"),
        ("one/two/three", "no such model or folder"),
        ("random:wav2vec", "known are random:wav2vec2-base"),
        ("/no/such/folder", "no such folder"),
        ("./no/such/folder", "no such folder"),
        ("~nobody-of-this-name/encoder", "cannot be read (Could not determine home directory.)"),
        (300 * "a", "cannot be read ([Errno 36] File name too long"),
        ("a\0b", "no such model or folder"),
    ],
)
def test_a_name_that_means_nothing(name: str, expected: str) -> None:
    assert expected in line(name) and line(name).startswith(f'model.name = "{name}": ')


def test_a_file_is_no_folder(made: Path) -> None:
    assert "is a file; give the folder it lies in" in line(made / "model.safetensors")


# ---- published ones --------------------------------------------------------------------------------------


def publish(cache: Path, folder: Path, commit: str, main: bool = True) -> Path:
    """A snapshot in the cache, as huggingface_hub lays it out."""
    home = cache / "models--facebook--wav2vec2-base"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    if main:
        (home / "refs" / "main").write_text(commit)
    return Path(shutil.copytree(folder, home / "snapshots" / commit))


def test_a_published_encoder_that_is_not_here_is_one_line(cache: Path) -> None:
    expected = line(PUBLISHED)
    assert "config.json, preprocessor_config.json and model.safetensors" in expected
    assert (
        f"https://huggingface.co/{PUBLISHED}" in expected
        and "give that as --model" in expected
        and str(cache) in expected
    )
    assert expected.endswith(f"{PUBLISHED} wav2vec2-base")


def test_a_published_encoder_is_found_in_the_cache(cache: Path, made: Path, tmp_path: Path) -> None:
    publish(cache, tiny_encoder(tmp_path / "older", seed=1), "aaa")
    newest = publish(cache, made, "bbb")
    publish(cache, tiny_encoder(tmp_path / "other", seed=2), "ccc", main=False)
    found = locate(PUBLISHED)
    assert (found.name, found.folder) == (PUBLISHED, newest) and found.sha256 == locate(str(made)).sha256
    assert locate(PUBLISHED, download=True) == found  # nothing to fetch


@pytest.mark.parametrize("download", [False, True])
def test_a_published_encoder_without_a_feature_extractor(cache: Path, folder: Path, download: bool) -> None:
    """Other software may have fetched configuration and weights alone; they do without the network."""
    (folder / "preprocessor_config.json").unlink()
    partial = publish(cache, folder, "aaa")
    found = locate(PUBLISHED, download=download)
    assert found.folder == partial and found.normalise
    assert [note.partition(": ")[0] for note in found.notes] == [f"{partial}/preprocessor_config.json"]


def test_of_two_snapshots_the_complete_one_is_taken(cache: Path, made: Path, folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    publish(cache, folder, "bbb")
    whole = publish(cache, made, "aaa", main=False)
    assert locate(PUBLISHED).folder == whole


def test_in_the_cache_a_conversion_stands_for_a_pickle(cache: Path, made: Path, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    publish(cache, folder, "bbb")
    expected = line(PUBLISHED)
    assert "pytorch_model.bin, which can run code" in expected and expected.endswith(
        f"{PUBLISHED} wav2vec2-base"
    )
    converted = publish(cache, made, "ccc", main=False)
    assert locate(PUBLISHED).folder == converted


@pytest.mark.parametrize("converted", [False, True])
def test_a_published_encoder_is_fetched_when_asked_for(
    converted: bool, cache: Path, folder: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the repository has no safetensors, from the converter's proposal, and nobody else's."""
    calls = []
    if converted:
        (folder / "model.safetensors").unlink()

    def snapshot(name: str, revision: str = "main", allow_patterns: Any = None) -> str:
        calls.append((name, revision))
        assert set(allow_patterns) == set(WANTED) and not any("bin" in p for p in allow_patterns)
        main = revision == "main"
        return str(publish(cache, folder if main else made, revision.replace("/", "-"), main))

    def proposals(name: str, author: str, discussion_type: str) -> list[Any]:
        assert (author, discussion_type) == ("SFconvertbot", "pull_request")
        title = "Adding `safetensors` variant of this model"
        return [
            SimpleNamespace(title="Something else", git_reference="refs/pr/1"),
            SimpleNamespace(title=title, git_reference="refs/pr/2"),
        ]

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.get_repo_discussions", proposals)
    found = locate(PUBLISHED, download=True)
    assert found.sha256 == locate(str(made)).sha256
    assert calls == [(PUBLISHED, "main"), *([(PUBLISHED, "refs/pr/2")] if converted else [])]


def test_a_failed_download_is_one_line(cache: Path) -> None:
    expected = line(PUBLISHED, download=True)
    assert expected.startswith(
        f'model.name = "{PUBLISHED}": not fetched (no network in tests); download config.json'
    )


def test_stopping_a_download_stops_the_run(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise Interrupted("SIGTERM")

    monkeypatch.setattr("huggingface_hub.snapshot_download", stop)
    with pytest.raises(Interrupted):
        locate(PUBLISHED, download=True)


@pytest.mark.slow
@pytest.mark.parametrize("files", [1, 2])
def test_the_advice_makes_a_folder_out_of_a_pickle(files: int, made: Path, folder: Path) -> None:
    """The command of the line, carried out, also where no feature extractor was published."""
    weights = list(weights_of(folder).items())
    for i in range(files):
        name = "pytorch_model.bin" if files == 1 else f"pytorch_model-0000{i + 1}-of-00002.bin"
        torch.save(dict(weights[i::files]), folder / name)
    (folder / "model.safetensors").unlink()
    (folder / "preprocessor_config.json").unlink()
    expected = line(folder)
    command = expected[expected.index("python -c") :].replace("python", sys.executable, 1)
    subprocess.run(
        command, shell=True, check=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    assert same_weights(load(locate(str(folder))), load(locate(str(made))))


# ---- what is wrong in a folder ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("config.json", None, "no config.json; an encoder's folder"),
        ("config.json", b"{", "config.json: is not JSON"),
        ("config.json", b"\xff\xfe", "config.json: is not JSON"),
        ("config.json", b"[" * 100_000, "config.json: is not JSON"),
        ("config.json", b"[]", "config.json: holds no JSON object"),
        ("preprocessor_config.json", b"", "preprocessor_config.json: is not JSON"),
        ("model.safetensors", None, "no model.safetensors; put the encoder's weights there"),
        ("model.safetensors", b"", "model.safetensors: cut short or corrupt"),
        ("model.safetensors", 100 * b"x", "model.safetensors: cut short or corrupt"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("adapter_config.json", b"{}", "holds adapters; merge them"),
    ],
)
def test_a_file_that_is_missing_or_corrupt(
    folder: Path, file: str, content: bytes | None, expected: str
) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    assert expected in line(folder) and str(folder) in line(folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "bert"}, 'model_type is "bert"; give a speech encoder'),
        ({"model_type": ...}, "model_type is null"),
        ({"model_type": ["wav2vec2"]}, 'model_type is ["wav2vec2"]'),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number >= 1 (got 0)"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a whole number >= 1 (got true)"),
        ({"hidden_size": "16"}, 'hidden_size must be a whole number >= 1 (got "16")'),
        ({"quantization_config": {"bits": 4}}, "the weights are quantised"),
        ({"add_adapter": True}, "add_adapter is set"),
        ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm is set"),
        ({"num_attention_heads": 3}, "transformers cannot make an encoder of it"),
        ({"conv_dim": [16]}, "transformers cannot make an encoder of it"),
        ({"hidden_act": "shrug"}, "transformers cannot make an encoder of it"),
        ({"layer_norm_eps": "small"}, "transformers cannot make an encoder of it"),
    ],
)
def test_a_configuration_that_is_no_speech_encoders(
    folder: Path, changes: dict[str, Any], expected: str
) -> None:
    set_json(folder / "config.json", **changes)
    assert expected in line(folder) and str(folder) in line(folder)


@pytest.mark.parametrize("other", [BertConfig, WhisperConfig])
def test_a_model_of_another_kind(other: Any, folder: Path) -> None:
    other().save_pretrained(folder)
    expected = (
        f'config.json: model_type is "{other.model_type}"; give a speech encoder, one of wav2vec2, hubert'
    )
    assert expected in line(folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sampling_rate": 8000}, "sampling_rate is 8000 Hz; only encoders of 16000 Hz"),
        ({"sampling_rate": None}, "sampling_rate is None Hz"),
        ({"feature_size": 80}, "feature_size 1 (got Wav2Vec2FeatureExtractor, 80)"),
        ({"feature_extractor_type": "WhisperFeatureExtractor"}, "(got WhisperFeatureExtractor, 1)"),
        ({"do_normalize": "yes"}, 'do_normalize must be true or false (got "yes")'),
    ],
)
def test_a_feature_extractor_of_another_kind(folder: Path, changes: dict[str, Any], expected: str) -> None:
    set_json(folder / "preprocessor_config.json", **changes)
    assert expected in line(folder) and f"{folder}/preprocessor_config.json" in line(folder)


def test_a_file_cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path}: cut short or corrupt" in line(folder)


KEY = "encoder.layers.0.attention.k_proj.weight"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({KEY: ...}, f"weights are missing: {KEY}; fetch or save"),
        (
            {KEY: torch.ones(2, 3)},
            f"weights of other shapes than config.json says: {KEY} (2, 3), not (16, 16);",
        ),
        (
            {"encoder.layers.2.x": torch.ones(1)},
            "weights that config.json has no place for: encoder.layers.2.x;",
        ),
        ({KEY: torch.full((16, 16), torch.nan)}, f"weights that are not finite: {KEY};"),
        ({KEY: torch.full((16, 16), -torch.inf)}, f"weights that are not finite: {KEY};"),
        ({KEY: torch.ones(16, 16, dtype=torch.int8)}, f"{KEY} is of type I8; quantised weights"),
        ({f"odd.{i}": torch.ones(1) for i in range(5)}, "has no place for: odd.0, odd.1, odd.2 and 2 more;"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "wav2vec2."])
def test_weights_that_do_not_fit(folder: Path, changes: dict[str, Any], expected: str, prefix: str) -> None:
    """With or without a head; names in the line are those of the file or of the encoder."""
    weights = {k: v for k, v in (weights_of(folder) | changes).items() if v is not ...}
    put_weights(folder, {prefix + name: value for name, value in weights.items()})
    problem = line(folder)
    assert expected in problem.replace(prefix, "") and str(folder) in problem
