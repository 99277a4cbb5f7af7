"""Deletion requests: raised when due, once, without naming anybody, and never for one utterance twice."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tiny import EMOTIONS, recordings_of, tiny_corpus, tiny_partition

from fedunlearn.config import Config
from fedunlearn.config import load as load_config
from fedunlearn.config.deletion import DeletionSettings, ScheduledDeletion
from fedunlearn.deletion.admission import raise_due
from fedunlearn.deletion.request import DeletionRequest, ImpossibleStep, RequestState
from fedunlearn.deletion.request_store import RequestStore
from fedunlearn.deletion.schedule import any_while_learning
from fedunlearn.deletion.schedule_check import check_schedule
from fedunlearn.errors import BadInput
from fedunlearn.vault.index import VaultEntry
from fedunlearn.vault.vault import Vault

SHORT = tiny_partition(tiny_corpus(seconds=0.001))
"""4 clients; each trains on 6 utterances, 2 of each of 3 emotions."""
ROUNDS = 10


def vault_at(folder: Path, client: int = 0) -> Vault:
    return Vault.build(folder, recordings_of(SHORT, client), len(EMOTIONS))


def big_vault(folder: Path, utterances: int) -> Vault:
    entry = [VaultEntry(f"u{i:04d}", "calm", 1, "train", 1) for i in range(utterances)]
    return Vault.build(folder, [(e, np.zeros(1, np.int16)) for e in entry], 3)


def schedule(*events: Mapping[str, Any]) -> DeletionSettings:
    return DeletionSettings(schedule=tuple(ScheduledDeletion(**event) for event in events))


def random_arrivals(rate: float, count: int = 2) -> DeletionSettings:
    return DeletionSettings(schedule=(), rate=rate, rate_count=count)


def raise_requests(
    vault: Vault, wanted: DeletionSettings, rounds_done: int, client: int = 0, seed: int = 1
) -> list[DeletionRequest]:
    return list(raise_due(experiment(wanted, ROUNDS, seed), vault, client, rounds_done).all())


def experiment(wanted: DeletionSettings, rounds: int = ROUNDS, seed: int = 1, clients: int = 4) -> Config:
    plain = load_config(None, {"seed": seed, "training.rounds": rounds, "partition.clients": clients})
    return plain.model_copy(update={"deletions": wanted})


# ---- rounds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "due"),
    [
        ({"round": 0}, 0),
        ({"round": 4}, 4),
        ({"round": ROUNDS}, 10),
        ({"after_learning": 0}, 10),
        ({"after_learning": 3}, 13),
    ],
)
def test_a_scheduled_request_is_raised_in_its_round_and_not_before(
    tmp_path: Path, event: dict[str, int], due: int
) -> None:
    vault = vault_at(tmp_path / "v")
    wanted = schedule({"client": 0, **event})
    for rounds_done in range(due):
        assert raise_requests(vault, wanted, rounds_done) == []
    (request,) = raise_requests(vault, wanted, due)
    assert (request.round, request.client, request.state) == (due, 0, RequestState.RAISED)
    assert wanted.last_round(ROUNDS) == max(due, ROUNDS)


def test_a_missed_round_is_made_up_for(tmp_path: Path) -> None:
    (request,) = raise_requests(vault_at(tmp_path / "v"), schedule({"client": 0, "round": 2}), 7)
    assert request.round == 7


def test_other_clients_events_are_none_of_ours(tmp_path: Path) -> None:
    assert raise_requests(vault_at(tmp_path / "v"), schedule({"client": 1, "round": 0}), 5) == []


def test_an_event_is_raised_once_however_often_it_is_due(tmp_path: Path) -> None:
    wanted = schedule({"client": 0, "round": 1, "what": "some", "count": 2}, {"client": 0, "round": 3})
    vault = vault_at(tmp_path / "v")
    first = raise_requests(vault, wanted, 1)
    assert raise_requests(vault, wanted, 1) == raise_requests(Vault(vault.folder), wanted, 2) == first
    both = raise_requests(vault, wanted, 3)
    RequestStore(vault.folder).set_state([r.id for r in both], RequestState.PURGED)
    vault.purge([u for r in both for u in r.utterances])
    assert [r.id for r in raise_requests(vault, wanted, ROUNDS + 9)] == [r.id for r in both]


# ---- what is requested -----------------------------------------------------------------------------------


@pytest.mark.parametrize("client", range(4))
def test_each_kind_names_its_own_training_utterances(tmp_path: Path, client: int) -> None:
    train = [u.id for u in SHORT.clients[client].train]
    calm = [u.id for u in SHORT.clients[client].train if u.emotion == "calm"]
    for what, extra, expected in (
        ("all", {}, train),
        ("emotion", {"emotion": "calm"}, calm),
        ("named", {"utterances": (train[4], train[1])}, [train[1], train[4]]),
    ):
        vault = vault_at(tmp_path / what, client)
        (request,) = raise_requests(
            vault, schedule({"client": client, "round": 0, "what": what, **extra}), 0, client
        )
        assert list(request.utterances) == expected
        assert request.what == what
    assert len(calm) == 2


def test_some_are_drawn_at_random_from_all(tmp_path: Path) -> None:
    drawn = Counter()
    train = vault_at(tmp_path / "v").ids("train")
    wanted = schedule({"client": 0, "round": 0, "what": "some", "count": 2})
    for seed in range(60):
        vault = Vault(tmp_path / "v")
        (request,) = raise_requests(vault, wanted, 0, seed=seed)
        assert len(set(request.utterances)) == 2
        drawn.update(request.utterances)
        (vault.folder / "requests.json").unlink()
    # Each of 6 is drawn 20 times in 60 on average, with a standard deviation of 3.7.
    assert set(drawn) == set(train) and max(drawn.values()) < 20 + 4 * 3.7


def test_a_client_with_fewer_left_than_the_count_requests_all_of_them(tmp_path: Path) -> None:
    vault = vault_at(tmp_path / "v")
    wanted = schedule(*({"client": 0, "round": r, "what": "some", "count": 4} for r in range(3)))
    four, two, none = raise_requests(vault, wanted, 5)
    assert [r.count for r in (four, two, none)] == [4, 2, 0]
    assert (none.state, none.note) == (RequestState.REFUSED, "already requested")


def test_requests_that_overlap_name_no_utterance_twice(tmp_path: Path) -> None:
    vault = vault_at(tmp_path / "v")
    wanted = schedule(
        {"client": 0, "round": 0, "what": "some", "count": 3},
        {"client": 0, "round": 0, "what": "emotion", "emotion": "sad"},
        {"client": 0, "round": 1, "what": "named", "utterances": vault.ids("train")[:2]},
        {"client": 0, "round": 2, "what": "all"},
        {"client": 0, "round": 3, "what": "all"},
    )
    named = [u for r in raise_requests(vault, wanted, 9) for u in r.utterances]
    assert sorted(named) == sorted(vault.ids("train"))


# ---- random arrivals -------------------------------------------------------------------------------------


def test_at_rate_zero_nothing_is_requested(tmp_path: Path) -> None:
    assert raise_requests(vault_at(tmp_path / "v"), random_arrivals(0.0), 99) == []


def test_at_rate_one_there_is_a_request_in_every_ordinary_round_and_none_after(tmp_path: Path) -> None:
    vault = big_vault(tmp_path / "v", 100)
    wanted = random_arrivals(1.0, 3)
    for rounds_done in range(ROUNDS):
        requests = raise_requests(vault, wanted, rounds_done)
        assert [r.round for r in requests] == list(range(rounds_done + 1))
    assert raise_requests(vault, wanted, 50) == requests
    assert [len(r.utterances) for r in requests] == [3] * ROUNDS


def test_arrivals_come_at_their_rate(tmp_path: Path) -> None:
    """300 rounds at .3: 90 on average, standard deviation sqrt(300 * .3 * .7) = 7.9."""
    store = raise_due(experiment(random_arrivals(0.3, 1), 300), big_vault(tmp_path / "v", 400), 0, 299)
    assert abs(len(store.all()) - 90) < 4 * 7.9


def test_arrivals_depend_on_seed_and_client_alone(tmp_path: Path) -> None:
    def raised(name: str, dates: range, client: int = 0, seed: int = 1) -> list[tuple[str, tuple[str, ...]]]:
        vault = big_vault(tmp_path / name, 100)
        for rounds_done in dates:
            requests = raise_requests(vault, random_arrivals(0.5), rounds_done, client, seed)
        return [(r.event, r.utterances) for r in requests]

    every_round = raised("a", range(ROUNDS))
    assert raised("b", range(ROUNDS - 1, ROUNDS)) == every_round
    assert raised("c", range(ROUNDS), client=1) != every_round
    assert raised("d", range(ROUNDS), seed=2) != every_round


EVENT = st.one_of(
    st.fixed_dictionaries({"client": st.integers(0, 1), "round": st.integers(0, 5)}),
    st.fixed_dictionaries({"client": st.integers(0, 1), "after_learning": st.integers(0, 3)}),
)


@given(
    events=st.lists(EVENT, max_size=3),
    rate=st.sampled_from([0.0, 0.0, 0.05, 0.3, 1.0]),
    rounds=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_the_experimenter_knows_whether_there_will_be_a_request_while_learning(
    events: list[dict[str, int]],
    rate: float,
    rounds: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    wanted = DeletionSettings(schedule=tuple(ScheduledDeletion(**e) for e in events), rate=rate, rate_count=1)
    assume(all(e.get("round", 0) <= rounds for e in events))
    folder = tmp_path_factory.mktemp("clients")
    expected = False
    for client in range(2):
        vault = big_vault(folder / str(client), 3)
        for rounds_done in range(rounds):
            expected |= bool(raise_due(experiment(wanted, rounds, seed, 2), vault, client, rounds_done).all())
    assert any_while_learning(wanted, 2, rounds, seed) == expected


# ---- the store -------------------------------------------------------------------------------------------


def test_the_store_is_on_disk_and_closed_requests_are_no_longer_open(tmp_path: Path) -> None:
    vault = vault_at(tmp_path / "v")
    wanted = schedule(*({"client": 0, "round": 0, "what": "some", "count": 2} for _ in range(3)))
    first, second, third = raise_requests(vault, wanted, 0)
    store = RequestStore(vault.folder)
    store.set_state([first.id], RequestState.PURGED)
    store.set_state([second.id], RequestState.REFUSED)
    with pytest.raises(ImpossibleStep, match="a request that is refused cannot become purged"):
        store.set_state([third.id, second.id], RequestState.PURGED)
    store.set_state(["unknown"], RequestState.PURGED)
    again = RequestStore(vault.folder)
    assert [r.state for r in again.all()] == [RequestState.PURGED, RequestState.REFUSED, RequestState.RAISED]
    assert [r.id for r in again.open()] == [third.id]
    assert again.all()[2] == third
    assert all(isinstance(r.utterances, tuple) for r in again.all())


def test_an_empty_store_is_empty(tmp_path: Path) -> None:
    assert RequestStore(tmp_path).all() == RequestStore(tmp_path).open() == ()


def test_adding_an_event_again_has_no_effect(tmp_path: Path) -> None:
    store = RequestStore(tmp_path)
    request = DeletionRequest("0" * 16, 0, "all", 1, "schedule-0", ("u1",))
    store.add([request])
    store.add([request, DeletionRequest("1" * 16, 0, "all", 2, "schedule-0", ("u2",))])
    assert store.all() == (request,)


def test_an_id_reveals_neither_client_nor_content(tmp_path: Path) -> None:
    """Ids are digests of seed, client number and event alone: other speech, the same ids."""
    wanted = schedule({"client": 0, "round": 0, "what": "some", "count": 2}, {"client": 0, "round": 0})
    ids = [r.id for r in raise_requests(vault_at(tmp_path / "a"), wanted, 0)]
    assert [r.id for r in raise_requests(big_vault(tmp_path / "b", 9), wanted, 0)] == ids
    assert all(len(i) == 16 and set(i) <= set("0123456789abcdef") for i in ids)
    others = [r.id for r in raise_requests(vault_at(tmp_path / "c"), wanted, 0, seed=2)]
    assert len({*ids, *others}) == 4


def test_a_half_written_store_does_not_replace_the_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = vault_at(tmp_path / "v")
    (request,) = raise_requests(vault, schedule({"client": 0, "round": 0}), 0)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        RequestStore(vault.folder).set_state([request.id], RequestState.PURGED)
    assert RequestStore(vault.folder).all() == (request,)


# ---- the schedule against the partition ------------------------------------------------------------------


def test_a_schedule_that_fits_is_fine() -> None:
    own = SHORT.clients[2].train[0]
    check_schedule(
        schedule(
            {"client": 0, "round": ROUNDS},
            {"client": 3, "after_learning": 99},
            {"client": 1, "round": 0, "what": "some", "count": 6},
            {"client": 2, "round": 0, "what": "named", "utterances": (own.id,)},
            {"client": 2, "round": 0, "what": "emotion", "emotion": own.emotion},
        ),
        SHORT,
        ROUNDS,
    )


def test_everything_that_cannot_happen_is_reported_at_once() -> None:
    foreign = SHORT.clients[1].train[0].id
    held_out = SHORT.clients[0].test[0].id
    wanted = schedule(
        {"client": 4, "round": 0},
        {"client": 0, "round": 0, "what": "some", "count": 7},
        {"client": 0, "round": 0, "what": "named", "utterances": (foreign, held_out)},
        {"client": 0, "round": 0, "what": "emotion", "emotion": "bored"},
        {"client": 1, "round": 11},
        {"client": 0, "round": 10},
    )
    with pytest.raises(BadInput) as caught:
        check_schedule(wanted, SHORT, ROUNDS)
    assert caught.value.problems == (
        "deletions.schedule.0.client is 4, but the clients are 0 to 3: "
        "name another one, or have more clients",
        "deletions.schedule.1.count is 7, but client 0 trains on 6",
        f"deletions.schedule.2.utterances: client 0 does not hold {foreign}",
        "deletions.schedule.3.emotion: client 0 has no utterance of 'bored'",
        "deletions.schedule.4.round is 11, but learning has 10 rounds; use after_learning",
    )


def test_states_are_written_as_plain_words(tmp_path: Path) -> None:
    vault = vault_at(tmp_path / "v")
    raise_requests(vault, schedule({"client": 0, "round": 0}), 0)
    (row,) = json.loads((vault.folder / "requests.json").read_text())
    assert row["state"] == "raised"
