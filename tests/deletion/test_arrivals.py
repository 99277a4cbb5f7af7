"""Random arrivals: at their rates, the same however they are drawn, and known beforehand to the
experimenter."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tiny import EMOTIONS, recordings_of, tiny_corpus, tiny_partition

from fedunlearn.config import Config, load
from fedunlearn.config.deletion import DeletionSettings, ScheduledDeletion
from fedunlearn.deletion.admission import raise_due
from fedunlearn.deletion.request import DeletionRequest, RequestState
from fedunlearn.deletion.schedule import any_while_learning
from fedunlearn.deletion.schedule_check import check_schedule
from fedunlearn.errors import BadInput
from fedunlearn.vault.index import VaultEntry
from fedunlearn.vault.vault import Vault

LEARNING = 10


def experiment(clients: int = 4, learning: int = LEARNING, seed: int = 1, **deletions: object) -> Config:
    """Nothing but what is named; ``deletions__`` need not be written."""
    chosen = {f"deletions.{key}": value for key, value in deletions.items()}
    whole = {
        "deletions.schedule": [],
        "partition.clients": clients,
        "training.rounds": learning,
        "seed": seed,
    }
    return load(None, whole | chosen)


def vault_of(folder: Path, utterances: int) -> Vault:
    entries = [VaultEntry(f"u{i:04d}", "calm", 1, "train", 1) for i in range(utterances)]
    return Vault.build(folder, [(e, np.zeros(1, np.int16)) for e in entries], 3)


def requests_by(
    folder: Path, config: Config, rounds_done: int, utterances: int = 400
) -> list[tuple[DeletionRequest, ...]]:
    """What each client has raised when somebody listens at ``rounds_done`` for the first time."""
    vaults = [vault_of(folder / f"{c}", utterances) for c in range(config.partition.clients)]
    return [raise_due(config, vault, client, rounds_done).all() for client, vault in enumerate(vaults)]


def events(stores: list[tuple[DeletionRequest, ...]]) -> list[list[str]]:
    return [[r.event for r in store] for store in stores]


def test_a_burst_makes_so_many_clients_request_in_the_same_round(tmp_path: Path) -> None:
    stores = requests_by(
        tmp_path, experiment(clients=8, burst_rate=1.0, burst_clients=3, rate_count=2), LEARNING - 1
    )
    per_round = Counter(event for store in events(stores) for event in store)
    assert per_round == {f"burst-{r}": 3 for r in range(LEARNING)}
    assert {r.count for store in stores for r in store} == {2}
    assert len({tuple(store) for store in events(stores)}) > 1, "always the same clients"


def test_bursts_come_at_their_rate_and_strike_everybody_alike(tmp_path: Path) -> None:
    """200 rounds at .4: 80 bursts, deviation 6.9; each of 4 clients is in half of them: 40, deviation 6.3."""
    config = experiment(learning=200, burst_rate=0.4, burst_clients=2, rate_count=1)
    stores = events(requests_by(tmp_path, config, 199))
    assert abs(len({event for store in stores for event in store}) - 80) < 4 * 6.9
    assert all(abs(len(store) - 40) < 4 * 6.3 for store in stores)


def test_a_client_that_leaves_deletes_everything_and_requests_nothing_after_that(tmp_path: Path) -> None:
    config = experiment(leave_rate=1.0, rate=1.0, rate_count=3)
    for store in requests_by(tmp_path, config, LEARNING - 1, utterances=10):
        assert [(r.event, r.what, r.count) for r in store] == [
            ("arrival-0", "some", 3),
            ("leave-0", "all", 7),
        ]
        assert all(r.state is RequestState.RAISED for r in store)


def test_clients_leave_at_their_rate(tmp_path: Path) -> None:
    """Each of 40 clients stays 10 rounds with probability .95 ^ 10 = .599: 16 leave, deviation 3.1."""
    stores = requests_by(tmp_path, experiment(clients=40, leave_rate=0.05), LEARNING - 1, utterances=2)
    assert abs(sum(bool(store) for store in stores) - 16) < 4 * 3.1


@pytest.mark.parametrize(("arrive_for", "last"), [(0, LEARNING - 1), (1, LEARNING), (5, LEARNING + 4)])
def test_arrivals_end_with_learning_or_so_many_rounds_after_it(
    tmp_path: Path, arrive_for: int, last: int
) -> None:
    config = experiment(
        clients=1, burst_clients=1, rate=1.0, burst_rate=1.0, rate_count=1, arrive_for=arrive_for
    )
    (store,) = events(requests_by(tmp_path, config, 99))
    assert store == [f"{kind}-{r}" for r in range(last + 1) for kind in ("arrival", "burst")]
    assert config.deletions.last_round(LEARNING) == max(last, LEARNING)


def test_without_chance_nothing_is_waited_for_after_learning() -> None:
    assert DeletionSettings(schedule=(), arrive_for=50).last_round(LEARNING) == LEARNING
    late = (ScheduledDeletion(client=0, after_learning=70),)
    settings = DeletionSettings(schedule=late, rate=0.1, arrive_for=50)
    assert settings.last_round(LEARNING) == LEARNING + 70


def test_arrivals_are_the_same_however_often_one_listens(tmp_path: Path) -> None:
    chances = {"rate": 0.2, "burst_rate": 0.2, "leave_rate": 0.02, "arrive_for": 4, "rate_count": 1}
    at_once = events(requests_by(tmp_path / "once", experiment(**chances), 20))
    vault = vault_of(tmp_path / "often", 400)
    for rounds_done in range(21):
        store = raise_due(experiment(**chances), vault, 2, rounds_done)
    assert [r.event for r in store.all()] == at_once[2] != []
    assert all(r.round == int(r.event.rpartition("-")[2]) for r in store.all())
    assert events(requests_by(tmp_path / "other", experiment(seed=2, **chances), 20)) != at_once


def test_one_kind_of_chance_does_not_move_another(tmp_path: Path) -> None:
    alone = events(requests_by(tmp_path / "a", experiment(rate=0.3, rate_count=1), 9))
    chances = {"rate": 0.3, "burst_rate": 0.5, "leave_rate": 0.0, "rate_count": 1}
    among = events(requests_by(tmp_path / "b", experiment(**chances), 9))
    assert [[e for e in store if e.startswith("arrival")] for store in among] == alone


def test_deadlines_of_chance_and_schedule(tmp_path: Path) -> None:
    schedule = [{"client": 0, "round": 0, "what": "some", "count": 1, "deadline": d} for d in (0, 2)]
    for default, expected in ((0, [None, 2, None]), (5, [5, 2, 5])):
        config = experiment(clients=1, schedule=schedule, rate=1.0, rate_count=1, deadline=default)
        ((*store,),) = requests_by(tmp_path / str(default), config, 0)
        assert [r.deadline for r in store] == expected


CHANCE = st.sampled_from([0.0, 0.0, 0.1, 1.0])


@given(rate=CHANCE, burst=CHANCE, leave=CHANCE, learning=st.integers(1, 4), seed=st.integers(0, 99))
@hypothesis_settings(max_examples=40)
def test_the_experimenter_knows_of_every_kind_of_arrival(
    rate: float,
    burst: float,
    leave: float,
    learning: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    chances = {"rate": rate, "burst_rate": burst, "burst_clients": 1, "leave_rate": leave, "arrive_for": 3}
    config = experiment(clients=3, learning=learning, seed=seed, **chances)
    stores = requests_by(tmp_path_factory.mktemp("clients"), config, learning - 1, utterances=2)
    assert any_while_learning(config.deletions, 3, learning, seed) == any(stores)


def test_a_burst_of_more_clients_than_there_are_is_bad_input() -> None:
    partition = tiny_partition(tiny_corpus(seconds=0.001))
    check_schedule(DeletionSettings(schedule=(), burst_clients=9), partition, LEARNING)
    with pytest.raises(BadInput, match=r"deletions\.burst_clients is 5, but there are 4 clients"):
        check_schedule(DeletionSettings(schedule=(), burst_rate=0.1, burst_clients=5), partition, LEARNING)


def test_a_scheduled_speaker_must_be_there_and_not_be_gone() -> None:
    partition = tiny_partition(tiny_corpus(seconds=0.001))
    speaker = partition.clients[1].train[0].speaker

    def deletion(client: int, rounds_done: int, what: str = "speaker") -> ScheduledDeletion:
        name = speaker if what == "speaker" else ""
        return ScheduledDeletion(client=client, what=what, speaker=name, round=rounds_done)

    check_schedule(DeletionSettings(schedule=(deletion(1, 2),)), partition, LEARNING)
    with pytest.raises(BadInput) as caught:
        check_schedule(DeletionSettings(schedule=(deletion(0, 2),)), partition, LEARNING)
    assert caught.value.problems == (
        f"deletions.schedule.0.speaker: client 0 has no utterance of {speaker!r}",
    )
    for earlier in ("all", "speaker"):
        twice = DeletionSettings(schedule=(deletion(1, 5), deletion(1, 4, earlier)))
        with pytest.raises(BadInput, match=r"schedule\.0: client 1 has taken .* back before"):
            check_schedule(twice, partition, LEARNING)


def test_a_shared_speakers_schedule_reaches_the_other_devices(tmp_path: Path) -> None:
    """Of what the partition assigns: each holder finds its own part, and the parts are all there is."""
    partition = tiny_partition(tiny_corpus(seconds=0.001), shared_speakers=1, devices=3)
    (speaker, holders), *_ = [(s, h) for s, h in partition.holders.items() if len(h) > 1]
    config = experiment(schedule=[{"client": holders[1], "what": "speaker", "speaker": speaker, "round": 1}])
    found: list[str] = []
    for share in partition.clients:
        recordings = recordings_of(partition, share.client)
        vault = Vault.build(tmp_path / str(share.client), recordings, len(EMOTIONS))
        store = raise_due(config, vault, share.client, 1).all()
        assert len(store) == (share.client in holders)
        found += [u for r in store for u in r.utterances]
    assert sorted(found) == sorted(u.id for u in partition.train if u.speaker == speaker)
