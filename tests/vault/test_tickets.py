"""Tickets in a vault: a round counts once however often it is trained, and what is purged leaves none."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import EMOTIONS, recordings_of, tiny_partition

from fedunlearn.config.model import ModelSettings
from fedunlearn.models import build_model
from fedunlearn.models.contract import EmotionModel
from fedunlearn.seeding import rng_for
from fedunlearn.vault.tickets import TicketFiles, fade
from fedunlearn.vault.traces import find_traces
from fedunlearn.vault.vault import Vault

RECORDINGS = recordings_of(tiny_partition(), 0)
SIZE = 20
IDS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def model() -> EmotionModel:
    return build_model(ModelSettings(hidden=4), len(EMOTIONS), rng_for(1, "model"))


def part(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed))


def newest(files: TicketFiles, ids: Sequence[str] = IDS[:2]) -> torch.Tensor:
    found = files.of(ids, SIZE)
    assert found is not None
    return found


def test_a_share_fades_in_every_round_by_hand() -> None:
    noted, new = torch.tensor([[8.0]]), torch.tensor([[1.0]])
    assert fade(noted, new, 0.5).item() == 4.5
    assert fade(noted, new, 0.5, rounds=3).item() == 1.5  # (8 / 4 + 1) / 2
    assert fade(noted, new, 0.0, rounds=3).item() == 9.0


def test_rounds_add_up_and_who_did_not_train_fades(tmp_path: Path) -> None:
    files = TicketFiles(tmp_path, 1, IDS[:3])
    assert files.of(IDS, SIZE) is None
    first, second = part(1, 3), part(2, 2)
    files.note(IDS, first, 1, 0.25, 4)
    files.note(["c", "a"], second, 3, 0.25, 4)  # away in round 2
    wanted = first * 0.75**3
    wanted[[2, 0]] += second * 0.75
    torch.testing.assert_close(newest(files, IDS), wanted)


@given(again=st.lists(st.integers(0, 3), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_a_round_counts_once_however_often_a_run_goes_back(
    tmp_path_factory: pytest.TempPathFactory, again: list[int]
) -> None:
    """Resumed again and again up to three rounds before, it ends as if it had not been interrupted."""
    plain, resumed = (TicketFiles(tmp_path_factory.mktemp("t"), 1, IDS[:2]) for _ in range(2))
    for number in range(1, 12):
        plain.note(IDS[:2], part(number, 2), number, 0.1, 5)
    number = 1
    for back in [*again, 0]:
        for again_or_first in range(number, 12):
            resumed.note(IDS[:2], part(again_or_first, 2), again_or_first, 0.1, 5)
        number = 12 - back
    assert torch.equal(newest(plain), newest(resumed))


def test_a_slot_that_was_not_written_whole_is_as_none(tmp_path: Path) -> None:
    files = TicketFiles(tmp_path, 1, IDS[:2])
    for number in (1, 2):
        files.note(IDS[:2], part(number, 2), number, 0.1, 2)
    after_one = part(1, 2) * 0.9
    torn = next(p for p in tmp_path.iterdir() if p.read_bytes()[0] == 2)
    torn.write_bytes(torn.read_bytes()[:-8])
    torch.testing.assert_close(newest(files), after_one)
    files.note(IDS[:2], part(2, 2), 2, 0.1, 2)
    torch.testing.assert_close(newest(files), (after_one + part(2, 2)) * 0.9)


def test_there_are_no_more_files_than_slots(tmp_path: Path) -> None:
    files = TicketFiles(tmp_path, 1, IDS[:2])
    for number in range(1, 20):
        files.note(IDS[:2], part(number, 2), number, 0.1, 4)
    assert len(list(tmp_path.iterdir())) == 4


def test_tickets_of_another_model_are_none(tmp_path: Path) -> None:
    files = TicketFiles(tmp_path, 1, IDS[:2])
    files.note(IDS[:2], part(1, 2), 1, 0.1, 2)
    assert files.of(IDS[:2], SIZE + 1) is None


# ---- purge ---------------------------------------------------------------------------------------------


def noted_vault(folder: Path, model: EmotionModel) -> Vault:
    vault = Vault.build(folder, RECORDINGS, len(EMOTIONS))
    vault.derive(model)
    ids = vault.ids("train")
    for number in (1, 2, 3):
        vault.tickets.note(ids, part(number, len(ids)), number, 0.1, 3)
    return vault


def test_a_purge_leaves_the_others_and_no_byte_of_its_own(tmp_path: Path, model: EmotionModel) -> None:
    vault = noted_vault(tmp_path / "vault", model)
    gone, *others = vault.ids("train")
    kept, own = newest(vault.tickets, others), vault.tickets.rows_of([gone])
    assert len(own) == 3
    evidence = vault.fingerprints([gone], model)
    found = find_traces([vault.folder], evidence).found
    assert {path.suffix for path in found} == {".i16", ".f32", ".tickets"}
    vault.purge([gone])
    assert torch.equal(newest(vault.tickets, others), kept)
    assert not find_traces([vault.folder], evidence).found
    everything = b"".join(path.read_bytes() for path in vault.folder.iterdir())
    assert not any(row[:2].tobytes() in everything for row in own)
    vault.tickets.note(others, part(4, len(others)), 4, 0.1, 3)
    torch.testing.assert_close(newest(vault.tickets, others), (kept + part(4, len(others))) * 0.9)


def test_the_search_finds_a_copy_of_a_ticket_after_any_round(tmp_path: Path, model: EmotionModel) -> None:
    vault = noted_vault(tmp_path / "vault", model)
    gone = vault.ids("train")[1]
    evidence = vault.fingerprints([gone], model)
    for number, row in enumerate(vault.tickets.rows_of([gone])):
        copy = tmp_path / f"copy-{number}"
        copy.write_bytes(b"abc" + row.tobytes())
        assert set(find_traces([copy], evidence).found) == {copy}
    other = tmp_path / "other"
    other.write_bytes(np.concatenate(vault.tickets.rows_of(vault.ids("train")[2:])).tobytes())
    assert not find_traces([other], evidence).found


def test_a_whole_device_leaves_nothing(tmp_path: Path, model: EmotionModel) -> None:
    vault = noted_vault(tmp_path / "vault", model)
    evidence = vault.fingerprints(vault.ids("train"), model)
    vault.purge(vault.ids("train"))
    assert not find_traces([vault.folder], evidence).found
    assert newest(vault.tickets, ()).shape == (0, SIZE)
