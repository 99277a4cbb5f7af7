"""The promises of the design, each held by a whole small run on the in-process engine."""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from small_run import prepared, run_small, small_config, weights_of, without_times
from torch import Tensor

from fedunlearn import corpora
from fedunlearn.audio import PCM
from fedunlearn.checkpoints import load_checkpoint
from fedunlearn.client import app as device_side
from fedunlearn.client.app import HANDLERS
from fedunlearn.client.device import Device
from fedunlearn.corpora.utterance import Utterance
from fedunlearn.deletion.receipts import receipt_of
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.engines.engine import play
from fedunlearn.experiment.final_search import EngineStorage
from fedunlearn.experiment.preparation import read_speech, resolve
from fedunlearn.ledger import Ledger
from fedunlearn.messages.records import unpack
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.run_folder import RunFolder
from fedunlearn.seeding import rng_for
from fedunlearn.server.clients import settings
from fedunlearn.unlearning import PRIVILEGED
from fedunlearn.unlearning.privileged.contract import RoundsCard
from fedunlearn.vault.traces import scan_run
from fedunlearn.vault.vault import Vault

EMOTIONS = 6


@pytest.fixture(scope="module")
def base(inline_run: tuple[Path, dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    return inline_run


def speech_of(seed_config: Any = None) -> dict[str, Utterance]:
    corpus = corpora.load(resolve(seed_config or small_config()).corpus, 3)
    return {u.id: u for u in corpus.utterances}


def forgotten(out: Path) -> list[str]:
    run = RunFolder(out)
    stores = [RequestStore(folder).all() for folder in sorted(run.vaults.iterdir())]
    return [u for store in stores for request in store for u in request.utterances]


def test_the_run_is_complete(base: tuple[Path, dict[str, Any]]) -> None:
    out, results = base
    assert results["status"] == "complete" and results["faults"] == []
    assert [(r["client"], r["what"], r["state"]) for r in results["requests"]] == [
        (1, "all", "verified"),
        (2, "some", "verified"),
        (3, "some", "verified"),
    ]
    assert results["models"]["retrained"]["forget"]["n"] == sum(r["utterances"] for r in results["requests"])
    kept = {p.name for p in out.iterdir()}
    assert {"config.toml", "metrics.jsonl", "results.json", "ledger.sqlite", "checkpoints", "vaults"} <= kept
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [r["phase"] for r in rows] == [
        *["learn"] * 3,
        "unlearn",
        "recover",
        "unlearn",
        "recover",
        *["retrain"] * 3,
    ]


def test_every_request_is_in_the_ledger_step_by_step(base: tuple[Path, dict[str, Any]]) -> None:
    ledger = Ledger(base[0] / "ledger.sqlite")
    assert ledger.verify() is None
    for request in base[1]["requests"]:
        states = list(ledger.states(request["id"], request["client"]))
        assert states == ["raised", "accepted", "unlearned", "applied", "purged", "verified"]
    ledger.close()


def test_same_seed_twice_is_the_same_run(base: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Also in the folder of another run: what a process holds of a device belongs to one vault, not to its
    path.
    """
    other = run_small(tmp_path / "run", small_config(seed=4))
    assert weights_of(tmp_path / "run") != weights_of(base[0])
    assert without_times(other) != without_times(base[1])
    shutil.rmtree(tmp_path / "run")
    again = run_small(tmp_path / "run")
    assert without_times(again) == without_times(base[1])
    assert weights_of(tmp_path / "run") == weights_of(base[0])


class Spy(Vault):
    """Raises on any utterance outside the forget set of the requests that are named."""

    allowed: frozenset[str] = frozenset()

    def read_audio(self, utterance: str) -> PCM:
        self._look(utterance)
        return super().read_audio(utterance)

    def read_features(self, utterance: str, model: EmotionModel) -> Tensor:
        self._look(utterance)
        return super().read_features(utterance, model)

    def _look(self, utterance: str) -> None:
        if utterance not in self.allowed:
            raise PermissionError(f"looked at {utterance}, which nobody asked to forget")


@pytest.mark.parametrize(
    ("method", "domain"),
    [
        ("l2ul", "feature"),
        ("l2ul", "waveform"),
        ("scrub", ""),
        ("regun", ""),
        pytest.param("neggrad-plus", "", marks=pytest.mark.slow),
    ],
)
def test_unlearning_reads_the_forget_set_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, domain: str
) -> None:
    """Also the forget half of a privileged baseline: what it sees more comes in the other half.

    The one exception says so on its card: it reads the requester's held-out speech, and none that it keeps.
    """
    card = PRIVILEGED.get(method)
    kind = "train.unlearn" if card is None else "train.forget_part"
    reads_held_out = isinstance(card, RoundsCard) and card.held_out
    answer = HANDLERS[kind]

    def spied(device: Device, content: RecordDict) -> RecordDict:
        open_requests = RequestStore(device.vault.folder).open()
        spy = Spy(device.vault.folder)
        spy.allowed = frozenset(u for r in open_requests for u in r.utterances)
        if reads_held_out:
            spy.allowed |= frozenset(spy.ids("test"))
        kept = set(spy.ids("train")) - spy.allowed
        if kept:  # the spy does raise
            with pytest.raises(PermissionError):
                spy.read_audio(min(kept))
        device.vault = spy
        device.forget_caches()
        reply = answer(device, content)
        device.vault = Vault(device.vault.folder)
        seen.append(device.client)
        return reply

    seen: list[int] = []
    monkeypatch.setitem(HANDLERS, kind, spied)
    attack = {"unlearning.l2ul.attack.domain": domain or "feature", "unlearning.l2ul.attack.per_utterance": 2}
    chosen = {"unlearning.neggrad_plus.rounds": 1, "unlearning.scrub.max_rounds": 1}
    chosen["unlearning.regun.rounds"] = 1
    results = run_small(tmp_path / "run", small_config(unlearning__method=method, **attack, **chosen))
    assert results["status"] == "complete" and seen == [1, 2, 3]


def texts_in(record: RecordDict) -> Iterator[str]:
    for name, config in record.config_records.items():
        yield name
        for key, value in config.items():
            yield key
            yield from (str(v) for v in (value if isinstance(value, list) else [value]))
    for name, metrics in record.metric_records.items():
        yield name
        yield from metrics
    for name, arrays in record.array_records.items():
        yield name
        yield from arrays


@pytest.mark.parametrize("method", ["l2ul", "scrub"])
def test_no_message_tells_what_is_in_a_vault(tmp_path: Path, method: str) -> None:
    """Every message of a run, both ways: no utterance, speaker or path; no PCM and no feature, as bytes."""
    texts: list[str] = []
    carried: list[bytes] = []

    def listen(message: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(message, context)
        for content in (message.content, reply.content):
            texts.extend(texts_in(content))
            for record in content.array_records.values():
                carried.extend(value.numpy().tobytes() for value in unpack(record).values())
        return reply

    out = tmp_path / "run"
    run_small(out, small_config(unlearning__method=method), mods=[listen])
    speech = speech_of()
    model = build_model(small_config().model, EMOTIONS, rng_for(0, "any"))
    assert len(texts) > 1000
    text = "\n".join(texts)
    assert "/" not in text and str(tmp_path) not in text
    for utterance in speech.values():
        assert utterance.id not in text and utterance.speaker not in text
    blob = b"".join(carried)
    for utterance in list(speech.values())[::7]:
        pcm = utterance.pcm()
        assert pcm[1000:1064].tobytes() not in blob
        assert model.features_of(pcm).numpy().ravel()[100:116].tobytes() not in blob


def test_a_device_with_next_to_no_speech_keeps_its_moments_to_itself(tmp_path: Path) -> None:
    """Mean and mean square of one or two utterances are those utterances' features."""
    sent: list[tuple[int, int, float]] = []

    def listen(message: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(message, context)
        if message.metadata.message_type == "train.calibrate":
            moments = unpack(reply.content.array_records["moments"])
            frames = int(reply.content.metric_records["metrics"]["examples"])
            sent.append(
                (int(context.node_config["partition-id"]), frames, float(moments["mean"].abs().sum()))
            )
        return reply

    _, partition = read_speech(resolve(small_config()))
    nearly_all = len(partition.clients[2].train) - 2
    schedule = [{"client": 2, "what": "some", "count": nearly_all, "after_learning": 0}]
    results = run_small(tmp_path / "run", small_config(deletions__schedule=schedule), mods=[listen])
    assert results["status"] == "complete"
    ((_, frames, mean),) = [row for row in sent if row[0] == 2]
    assert frames > 3 and mean > 0  # learning: it has enough to hide in; retraining sends no message
    device = Device(RunFolder(tmp_path / "run"), 2)
    reply = HANDLERS["train.calibrate"](device, RecordDict({"settings": settings(rounds_done=9)}))
    assert reply.metric_records["metrics"]["examples"] == 0  # two utterances are left


def test_a_failing_device_names_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason that leaves the device is of a kind; the name stands in the device's own log only."""

    def damaged(device: Device, content: RecordDict) -> RecordDict:
        if device.client == 5:
            raise KeyError(device.vault.ids("train")[0])
        return device_side.train_locally(device, content)

    monkeypatch.setitem(HANDLERS, "train.default", damaged)
    results = run_small(tmp_path / "run")
    assert {f["reason"] for f in results["faults"]} == {
        "DeviceFailed: KeyError; the device's own log says more"
    }
    name = Vault(tmp_path / "run" / "vaults" / "client-0005").ids("train")[0]
    assert name in (tmp_path / "run" / "vaults" / "client-0005" / "log.txt").read_text()
    for file in ("results.json", "metrics.jsonl"):
        assert name not in (tmp_path / "run" / file).read_text()


def gone_from(out: Path) -> list[str]:
    """What was requested, and what a client that deleted everything held out."""
    _, partition = read_speech(resolve(small_config()))
    return [*forgotten(out), *(u.id for u in partition.clients[1].test)]


def scanned(out: Path, gone: list[str], *more: Path) -> dict[str, Any]:
    config = small_config()
    _, partition = read_speech(resolve(config))
    model = build_model(config.model, EMOTIONS, rng_for(0, "any"))
    return scan_run([out, out.parent / f"{out.name}-references", *more], partition, gone, model)


def test_deleted_speech_is_nowhere_in_run_folder_and_cache(base: tuple[Path, dict[str, Any]]) -> None:
    out, _ = base
    gone = gone_from(out)
    sent = scanned(out, gone)
    assert sent["found"] == []
    # 1,500 pieces of 16-bit and 3,000 of float32 samples in each 3 s, less silence.
    assert sent["windows"] > 1000 * len(gone)
    on_disk = [p for folder in (out, out.parent / f"{out.name}-references") for p in folder.rglob("*")]
    files = [p for p in on_disk if p.is_file() and not p.name.endswith(("-wal", "-shm"))]
    assert sent["scanned_files"] >= len(files)
    assert sent["scanned_bytes"] >= sum(p.stat().st_size for p in files)


def test_a_scan_does_find_what_is_there(base: tuple[Path, dict[str, Any]]) -> None:
    """One kept utterance of every device that is left: in its vault, as audio and as features."""
    out, _ = base
    _, partition = read_speech(resolve(small_config()))
    gone = set(gone_from(out))
    shares = [share for share in partition.clients if share.client != 1]
    kept = [next(u.id for u in share.train if u.id not in gone) for share in shares]
    vaults = [f"run/vaults/client-{share.client:04d}" for share in shares]
    found = {(str(Path(name).parent), Path(name).suffix) for name in scanned(out, kept)["found"]}
    assert found == {(vault, kind) for vault in vaults for kind in (".i16", ".f32")}


def test_a_leftover_of_4_ms_is_found_wherever_it_lies(
    base: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(base[0], out)
    (tmp_path / "run-references").mkdir()
    (tmp_path / "session" / "spilled").mkdir(parents=True)
    gone = gone_from(base[0])
    pcm = speech_of()[gone[0]].pcm()
    loud = int(np.abs(pcm[:-100].astype(int)).argmax())
    assert scanned(out, gone, tmp_path / "session")["found"] == []
    places = (
        "run/metrics.jsonl",
        "run/checkpoints/x.tmp",
        "run/vaults/client-0004/audio-1.i16",
        "run-references/y",
        "session/spilled/z",
    )
    for place in places:
        path = tmp_path / place
        before = path.read_bytes() if path.exists() else b""
        path.write_bytes(before + b"odd"[: 1 + len(before) % 3] + pcm[loud : loud + 64].tobytes())
    assert scanned(out, gone, tmp_path / "session")["found"] == sorted(places)


def test_every_device_leaves_its_people_a_receipt(base: tuple[Path, dict[str, Any]]) -> None:
    out, results = base
    model = weights_of(out)
    applied = {}
    for request in results["requests"]:
        vault = RunFolder(out).vault(request["client"])
        receipt = json.loads(receipt_of(vault, request["id"]).read_text())
        (own,) = RequestStore(vault).all()
        assert receipt["removed"]["utterances"] == list(own.utterances)
        assert (receipt["from_model"]["round"], receipt["verification"]["found"]) == (
            request["round_applied"],
            0,
        )
        assert len(receipt["from_model"]["sha256"]) == 64
        applied[request["round_applied"]] = receipt["from_model"]["sha256"]
        assert str(out) not in json.dumps(receipt)
    assert len(applied) == len(set(applied.values())) == 2
    assert model["unlearned.safetensors"] == applied[max(applied)]
    assert not list(out.rglob("evidence")) and not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_deleted_speech_is_nowhere_in_what_ray_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session folder, with logs and whatever was spilled, while it is still there."""
    import ray

    config = small_config(federation__engine="ray", federation__workers=2)
    experiment = prepared(tmp_path / "run", config)
    conduct, sent = experiment.conduct, []

    def watched(grid: Grid, storage: EngineStorage) -> None:
        conduct(grid, storage)
        context = ray.get_runtime_context()
        session = Path(context.get_temp_dir()) / context.get_session_name()
        gone = gone_from(tmp_path / "run")
        sent.append(scanned(tmp_path / "run", gone, session))
        pcm = speech_of()[gone[0]].pcm()
        loud = int(np.abs(pcm[:-100].astype(int)).argmax())
        (session / "planted").write_bytes(pcm[loud : loud + 64].tobytes())
        sent.append(scanned(tmp_path / "run", gone, session))
        sent.append({"session": session.name})

    monkeypatch.setattr(experiment, "conduct", watched)
    assert play(experiment).status == "complete"
    clean, planted, named = sent
    assert clean["found"] == [] and planted["found"] == [f"{named['session']}/planted"]


def test_a_users_corpus_is_read_and_never_written(tmp_path: Path) -> None:
    speech = list(speech_of().values())
    folder = tmp_path / "corpus"
    folder.mkdir()
    lines = ["path,speaker,emotion"]
    for utterance in speech:
        soundfile.write(folder / f"{utterance.id}.wav", utterance.pcm(), 16_000)
        lines.append(f"{utterance.id}.wav,{utterance.speaker},{utterance.emotion}")
    (folder / "manifest.csv").write_text("\n".join(lines))

    def picture() -> dict[str, tuple[int, bytes]]:
        return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*"))}

    before = picture()
    for path in folder.iterdir():
        path.chmod(0o444)
    config = small_config(corpus__name="manifest", corpus__path=str(folder))
    assert run_small(tmp_path / "run", config)["status"] == "complete"
    assert picture() == before


def test_a_default_run_opens_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert run_small(tmp_path / "run")["status"] == "complete"


@pytest.mark.parametrize("method", ["none", "destroy"])
def test_controls_run_as_methods_and_are_ranked_useless(tmp_path: Path, method: str) -> None:
    results = run_small(tmp_path / "run", small_config(unlearning__method=method))
    rows = {row["name"]: row for row in results["ranking"]}
    assert not rows[f"unlearned ({method})"]["useful"], rows
    assert not rows[f"recovered ({method})"]["useful"], rows
    if method == "none":
        weights = weights_of(tmp_path / "run")
        assert results["requests"][0]["forget_accuracy"][0] == results["requests"][0]["forget_accuracy"][1]
        assert all(r["update_norm"] == 0.0 for r in results["requests"])
        assert weights["original.safetensors"] != weights["recovered.safetensors"]  # recovery did run


def test_without_recovery_the_control_none_leaves_the_original(tmp_path: Path) -> None:
    config = small_config(unlearning__method="none", recovery__rounds=0)
    results = run_small(tmp_path / "run", config)
    weights = weights_of(tmp_path / "run")
    assert len({weights[f"{name}.safetensors"] for name in ("original", "unlearned", "recovered")}) == 1
    assert results["gap"]["unlearned"] == results["gap"]["none"]


def test_a_request_during_learning_leaves_the_original_as_if_nobody_had_requested_deletion(
    tmp_path: Path,
) -> None:
    early = [{"client": 2, "what": "some", "count": 4, "round": 1}]
    experiment = prepared(tmp_path / "asked", small_config(deletions__schedule=early))
    asked = play(experiment).to_json()
    run_small(tmp_path / "silent", small_config(deletions__schedule=[]))
    files = [tmp_path / name / "checkpoints" / "original.safetensors" for name in ("silent", "asked")]
    silent, kept = (load_checkpoint(file)[0] for file in files)
    original = experiment.record.original
    assert original is not None and all(torch.equal(original[k], v) for k, v in silent.items())
    a, b = weights_of(tmp_path / "asked"), weights_of(tmp_path / "silent")
    assert b["original.safetensors"] == b["recovered.safetensors"] != a["recovered.safetensors"]
    assert any(not torch.equal(kept[k], v) for k, v in silent.items()), "the run folder's copy is blurred"
    assert asked["cost"]["counterfactual"]["rounds"] == 2
    phases = [row["phase"] for row in asked["timeline"]]
    assert phases == ["learn", "unlearn", "recover", "learn", "learn"]


def test_everybody_takes_everything_back(tmp_path: Path) -> None:
    """During learning, and after it: nobody is left to learn from, and the run says so by its numbers."""
    for place, when in (("during", {"round": 1}), ("after", {"after_learning": 0})):
        everybody = [{"client": c, "what": "all", **when} for c in range(6)]
        results = run_small(tmp_path / place, small_config(deletions__schedule=everybody))
        assert results["status"] == "complete" and len(results["requests"]) == 6
        kept = results["models"]["recovered"]["retain"]
        assert (kept["accuracy"], kept["n"]) == (None, 0)
        assert all(not Vault(p).entries for p in sorted((tmp_path / place / "vaults").iterdir()))


def test_two_requests_of_one_client_at_the_same_time_are_one_step(tmp_path: Path) -> None:
    twice = [{"client": 2, "what": "some", "count": n, "after_learning": 0} for n in (3, 4)]
    results = run_small(tmp_path / "run", small_config(deletions__schedule=twice))
    first, second = results["requests"]
    assert first["joint_with"] == [second["id"]] and second["joint_with"] == [first["id"]]
    assert (first["utterances"], second["utterances"]) == (3, 4)
    assert results["models"]["recovered"]["forget"]["n"] == 7


def test_random_arrivals_reach_every_device(tmp_path: Path) -> None:
    config = small_config(deletions__schedule=[], deletions__rate=1.0, deletions__rate_count=4)
    results = run_small(tmp_path / "run", config)
    assert results["status"] == "complete"
    assert {r["client"] for r in results["requests"]} == set(range(6))
    # 15 training utterances less 4 a round for 3 rounds, at each of 6 devices.
    assert results["models"]["retrained"]["retain"]["n"] == sum(
        len(Vault(p).ids("train")) for p in sorted((tmp_path / "run" / "vaults").iterdir())
    )


def test_a_second_method_finds_the_trained_original_and_reference(
    base: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, first = base
    cache = out.parent / f"{out.name}-references"
    second = run_small(tmp_path / "run", small_config(unlearning__method="none"), cache=cache)
    assert set(second["times"]["references"].values()) == {"cached"}
    assert second["models"]["original"] == first["models"]["original"]
    assert second["models"]["retrained"] == first["models"]["retrained"]
    assert second["cost"]["retrain"] == first["cost"]["retrain"]
    assert second["retrained_timeline"] == first["retrained_timeline"]
    same = run_small(tmp_path / "same", cache=cache)
    assert without_times(same) == without_times(first)


@pytest.mark.parametrize(
    "how",
    [
        "sequential",
        "projected",
        *(pytest.param(how, marks=pytest.mark.slow) for how in ("mean", "fedavg", "norm-clipped")),
    ],
)
def test_every_aggregation_serves_every_request(
    base: tuple[Path, dict[str, Any]], tmp_path: Path, how: str
) -> None:
    cache = base[0].parent / f"{base[0].name}-references"
    config = small_config(unlearning__aggregation=how, unlearning__clip=0.1)
    results = run_small(tmp_path / "run", config, cache=cache)
    assert {r["state"] for r in results["requests"]} == {"verified"}
    assert (
        weights_of(tmp_path / "run")["unlearned.safetensors"] != weights_of(base[0])["unlearned.safetensors"]
    )


def test_nobody_requests_deletion(tmp_path: Path) -> None:
    results = run_small(tmp_path / "run", small_config(deletions__schedule=[]))
    assert results["status"] == "complete" and results["requests"] == []
    forgotten = results["models"]["original"]["forget"]
    assert (forgotten["accuracy"], forgotten["n"]) == (None, 0)


def test_several_retrained_seeds_give_a_noise_floor(tmp_path: Path) -> None:
    results = run_small(tmp_path / "run", small_config(evaluation__retrained_seeds=2))
    assert len(results["models"]["retrained"]["seeds"]) == 2
    assert results["gap"]["noise_floor"]["mean"] > 0


@pytest.mark.slow
def test_the_cnn_goes_the_same_way(tmp_path: Path) -> None:
    config = small_config(model__name="cnn", training__rounds=1, training__local__steps=1)
    assert run_small(tmp_path / "run", config)["status"] == "complete"


def test_a_prepared_run_refuses_a_used_folder(tmp_path: Path) -> None:
    from fedunlearn.errors import BadInput

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("mine")
    with pytest.raises(BadInput, match="not an empty folder"):
        prepared(tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["precious.txt"]
