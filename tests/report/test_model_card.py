"""The model card: what it says of a run, and what it must not say."""

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import yaml
from encoder_results import SHA256, encoder_results
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from page_reading import read
from results_example import eventful_results

from fedunlearn.report.model_card import markdown, model_card


def head_of(card: str) -> dict[str, Any]:
    """The YAML between the first two rules."""
    _, head, _ = card.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(head)
    return found


def tables(card: str) -> list[list[list[str]]]:
    """Tables as a reader of Markdown sees them: rows of the texts of their cells."""
    reader = MarkdownIt().enable("table")
    found: list[list[list[str]]] = []
    for token in reader.parse(card.split("---\n", 2)[2]):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level > 3:
            found[-1][-1].append("".join(t.content for t in token.children or ()))
    return found


def without(results: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in results.items() if key not in keys}


# ---- what it says ----------------------------------------------------------------------------------------


def test_the_head_is_what_the_hub_reads() -> None:
    head = head_of(model_card(read(encoder_results())))
    assert head["library_name"] == "transformers" and head["pipeline_tag"] == "audio-classification"
    assert head["base_model"] == "facebook/wav2vec2-base"
    assert {"machine-unlearning", "federated-learning", "speech-emotion-recognition"} <= set(head["tags"])
    assert "base_model" not in head_of(model_card(read(encoder_results("/home/somebody/wav2vec2-base"))))


def test_it_says_what_it_was_made_from_and_what_was_trained() -> None:
    card = model_card(read(encoder_results()))
    assert f"`{SHA256}`" in card and "from: facebook/wav2vec2-base" in card
    assert "the emotion head alone" in card and "231,432 of 94,371,712 values" in card
    assert "from: small, the encoder of fedunlearn" in model_card(read(encoder_results("small")))
    assert "from: small, a local folder" in model_card(read(encoder_results("/home/somebody/small")))
    assert "the uppermost 2 layers" in model_card(read(encoder_results(trains="top:2")))
    assert "the uppermost layer of" in model_card(read(encoder_results(trains="top:1")))
    assert "LoRA) in every layer" in model_card(read(encoder_results(trains="lora")))
    assert "LoRA) in the uppermost 2 layers" in model_card(read(encoder_results(trains="lora:2")))
    assert "the head alone had something to forget" not in model_card(read(encoder_results(trains="all")))


def test_every_request_is_a_row() -> None:
    requests = tables(model_card(read(encoder_results())))[0]
    assert requests[1] == ["r-001-1", "1", "48", "30", "30", "verified", "0 rounds"]
    assert [row[0] for row in requests[1:]] == ["r-001-1", "r-002-1", "r-003-1", "r-004-1"]
    eventful = encoder_results() | without(eventful_results(), "config", "models", "gap")
    rows = tables(model_card(read(eventful)))[0]
    assert ["r-001-1", "1, 9", "60", "30", "34", "verified", "4 rounds"] in rows
    assert ["r-004-1", "4", "12", "39", "–", "accepted", "–"] in rows
    assert ["r-005-1", "5", "12", "35", "–", "withdrawn", "–"] in rows


def test_the_evidence_stands_with_its_intervals() -> None:
    results = encoder_results()
    _, models, gaps, attacks = tables(model_card(read(results)))
    recovered = results["models"]["recovered"]
    forget = next(row for row in models if row[0].startswith("Forget accuracy"))
    low, high = recovered["forget"]["accuracy_interval"]
    assert forget[3] == f"{recovered['forget']['accuracy']:.3f} ([{low:.2f}, {high:.2f}], +0.033)"
    last = models[-1]
    assert last[0] == "Mean gap (to retrained)" and last[3].startswith("0.017 ([0.003, 0.031])")
    assert last[4] == "0.007 (noise floor)"
    assert {row[0] for row in gaps[1:]} == {
        "recovered (to each seed: 0.015, 0.019)",
        "unlearned (to each seed: 0.071, 0.075)",
        "doing nothing (to each seed: 0.197, 0.201)",
        "random weights (to each seed: 0.412, 0.416)",
        "another retraining (the noise floor)",
    }
    assert any(row[0] == "U-LiRA" for row in attacks) and all(len(row) == 6 for row in attacks)
    card = model_card(read(results))
    assert "rho = 27.4" in card and "[toml]" not in card
    assert "The search of all files of the run for deleted speech found none." in card


def test_what_the_page_does_not_call_a_success_the_card_does_not() -> None:
    results = encoder_results()
    assert "not green" in model_card(read(results)), "an attack still tells single utterances"
    for attack in ("ulira", "informed"):
        results["attacks"][attack]["stages"]["recovered"] |= {"auc": 0.5, "low": 0.45, "high": 0.55}
    card = model_card(read(results))
    assert "not green" not in card and "no certificate" in card
    results["ranking"][0]["useful"] = False
    assert "not green" in model_card(read(results))


def test_without_attacks_on_single_utterances_it_says_so() -> None:
    assert "Attacks on single utterances were not made" not in model_card(read(encoder_results()))
    card = model_card(read(encoder_results() | {"attacks": None}))
    assert "Attacks on single utterances were not made" in card


def test_random_weights_are_called_so_first_of_all() -> None:
    card = model_card(read(encoder_results("random:wav2vec2-base")))
    assert "# wav2vec2-base (random weights): speech emotions" in card
    assert card.index("**Random weights.**") < card.index("## How to load it")
    assert "random-weights" in head_of(card)["tags"] and "base_model" not in head_of(card)


def test_a_privileged_baseline_is_called_one() -> None:
    """And retraining from scratch alone recomputes what the speech is like on average."""
    results = encoder_results()
    assert "not recomputed" in model_card(read(results))
    results["unlearning"] |= {"method": "retrained"}
    assert "not recomputed" not in model_card(read(results))
    results["unlearning"] |= {"method": "scrub", "sees": "retain"}
    assert "it sees: the retain sets (a privileged baseline" in model_card(read(results))


# ---- runs of other kinds ---------------------------------------------------------------------------------


def no_deletions(results: dict[str, Any]) -> dict[str, Any]:
    return results | {"requests": [], "attacks": None}


def test_a_run_without_deletions_deleted_nothing() -> None:
    results = no_deletions(encoder_results())
    card = model_card(read(results))
    assert "Nothing: no deletion was requested." in card and "after federated learning" in card
    assert "## How\n" not in card and "no certificate" not in card and len(tables(card)) == 1


def test_requests_that_were_all_withdrawn_deleted_nothing() -> None:
    results = encoder_results()
    for request in results["requests"]:
        request |= {"state": "withdrawn", "round_applied": None, "rounds_waited": None}
    card = model_card(read(results))
    assert "Nothing, in the end; further: 4 withdrawn." in card and "## How\n" not in card


@pytest.mark.parametrize(
    ("status", "end"), [("partial", "is partial"), ("failed", "did not come to its end")]
)
def test_a_run_that_is_not_complete_says_so_at_its_top(status: str, end: str) -> None:
    results = encoder_results() | without(eventful_results(), "config", "models", "gap")
    results |= {"status": status}
    if status == "failed":
        results = without(results, "models", "gap", "ranking", "noise_floor", "attacks")
    card = model_card(read(results))
    assert card.index("**Not complete.**") < card.index("It recognises 6 emotions")
    assert end in card and "Still open: r-004-1 (accepted)" in card
    assert ("There is none:" in card) == (status == "failed")
    assert "Not complete" not in model_card(read(encoder_results()))


def test_nothing_known_is_a_card_too() -> None:
    for results in ({}, {"status": "failed"}, dict.fromkeys(encoder_results())):
        card = model_card(read(results))
        assert head_of(card)["library_name"] == "transformers" and "None" not in card and "nan" not in card


@settings(max_examples=25)
@given(data=st.data())
def test_any_hole_in_the_results_is_defined(data: st.DataObject) -> None:
    results = encoder_results()
    node: Any = results
    while isinstance(node, dict) and node:
        key = data.draw(st.sampled_from(sorted(node)))
        if not isinstance(node[key], dict) or data.draw(st.booleans()):
            node[key] = None
            break
        node = node[key]
    card = model_card(read(results))
    assert "None" not in card and head_of(card)
    for table in tables(card):
        assert {len(row) for row in table} == {len(table[0])}


# ---- what it does not say --------------------------------------------------------------------------------


def test_no_path_no_speaker_and_no_utterance_gets_into_a_card() -> None:
    """Whatever text of a record may hold one is given a word to look for."""
    results = encoder_results("/home/PRIVATE/models/my-encoder") | without(
        eventful_results(), "config", "models", "gap"
    )
    results["failure"] = "client 4 failed: /home/PRIVATE/x; go on: run --out /home/PRIVATE"
    for entry in results["requests"]:
        entry |= {"reason_open": "names PRIVATE_017", "what": "PRIVATE"}
    for fault in results["faults"]:
        fault["reason"] = "PRIVATE"
    results["config"]["corpus"] |= {"path": "/home/PRIVATE/ravdess"}
    results["config"]["availability"] = {"trace": "/home/PRIVATE/trace.csv"}
    results["config"]["deletions"]["schedule"] = [{"utterances": ["PRIVATE_001"], "speaker": "PRIVATE"}]
    results["corpus"]["warnings"] = ["PRIVATE_003: shorter than 0.5 s"]
    results["traces"]["found"] = ["PRIVATE/checkpoints/original.safetensors"]
    results["fairness"]["speakers"][0]["speaker"] = "PRIVATE"
    card = model_card(read(results))
    assert "PRIVATE" not in card
    assert "from: my-encoder, a local folder" in card and "found some in 1 of them" in card
    results["status"] = "failed"
    assert "PRIVATE" not in model_card(read(without(results, "models", "gap")))


def test_names_of_folders_of_any_system_lose_what_lies_above_them() -> None:
    for name in ("/home/ann/enc/", "C:\\Users\\ann\\enc", "./enc", "~/ann/enc"):
        card = model_card(read(encoder_results(name)))
        assert "from: enc, a local folder" in card and "ann" not in card.replace("channel", "")


NASTY = "a|b `c` *d* _e_ [f](g) <h> #i\n\n# j ~~k~~ $l$ &lt; \\"


def nasty(results: dict[str, Any]) -> None:
    results["corpus"] |= {"name": NASTY, "emotions": [NASTY, "calm"]}
    results["config"]["model"]["name"] = f"/x/{NASTY}".replace("/", "")
    results["requests"][0]["id"] = NASTY
    results["versions"]["torch"] = NASTY


def quoting(results: dict[str, Any]) -> None:
    results["config"]["model"]["name"] = 'a: "b"\n- c'


@pytest.mark.parametrize("spoil", [nasty, quoting])
def test_whatever_names_hold_the_card_keeps_its_shape(spoil: Callable[[dict[str, Any]], None]) -> None:
    plain, results = encoder_results(), encoder_results()
    spoil(results)
    card = model_card(read(results))
    assert head_of(card).keys() - {"base_model"} == head_of(model_card(read(plain))).keys() - {"base_model"}
    headings = [line for line in card.splitlines() if re.match(r"#+ ", line)]
    assert [h for h in headings if h.startswith("## ")] == [
        h for h in model_card(read(plain)).splitlines() if h.startswith("## ")
    ]
    assert [len(t) for t in tables(card)] == [len(t) for t in tables(model_card(read(plain)))]
    if spoil is nasty:
        assert tables(card)[0][1][0] == " ".join(NASTY.split())


@settings(max_examples=50)
@given(st.text(max_size=40))
def test_markdown_shows_a_text_as_it_is(text: str) -> None:
    shown = MarkdownIt().enable("table").parse(f"| x |\n|---|\n| .{markdown(text)}. |\n")
    cells = ["".join(t.content for t in token.children or ()) for token in shown if token.type == "inline"]
    assert cells == ["x", "." + " ".join(text.replace("\x00", "�").split()) + "."]


def test_the_same_results_give_the_same_card() -> None:
    results = encoder_results()
    before = copy.deepcopy(results)
    assert model_card(read(results)) == model_card(read(copy.deepcopy(results))) and results == before
