"""What takes training to find out: how soon D_f is learned again, and what the shadow federations tell."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from fedunlearn.config import Config
from fedunlearn.deletion.request import DeletionRequest, RequestState
from fedunlearn.evaluation.informed import informed
from fedunlearn.evaluation.judge import Judge
from fedunlearn.evaluation.lira import u_lira
from fedunlearn.evaluation.relearning import relearn
from fedunlearn.evaluation.shadow_attack import CannotAttack
from fedunlearn.experiment.shadows import Shadows
from fedunlearn.messages.update import Update
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Partition, recorded_later
from fedunlearn.seeding import rng_for
from fedunlearn.server.requests import RequestKey

ORDERS = 5
"""in which D_f is learned again"""


def relearning(
    judge: Judge,
    model: EmotionModel,
    states: Mapping[str, Mapping[str, Tensor]],
    forget: Sequence[str],
    target: float | None,
    config: Config,
) -> dict[str, Any] | None:
    """``results.relearn``: gradient steps until each model has D_f's accuracy back.

    Args:
        judge: knows D_f.
        model: of the run's kind.
        states: by name.
        forget: D_f.
        target: the original's forget accuracy; None where D_f is empty.

    Returns:
        by model; None where there is nothing to learn again, or it is switched off.
    """
    limit = config.evaluation.relearn_steps
    if target is None or limit == 0:
        return None
    examples = judge.examples(forget)
    return {
        name: relearn(
            model,
            state,
            examples,
            target,
            config.training.local,
            limit,
            [rng_for(config.seed, "relearn", order) for order in range(ORDERS)],
        )
        for name, state in states.items()
    }


def attacks(shadows: Shadows, clients: Mapping[str, int], config: Config) -> dict[str, Any]:
    """``results.attacks``: what U-LiRA and the informed attack make of the shadow federations.

    Args:
        shadows: of the run.
        clients: request -> whose.
    """
    resamples = config.evaluation.bootstrap

    def judged(name: str, attack: Callable[..., Mapping[str, Any]], *about: Any) -> dict[str, Any]:
        """An attack on each stage; why, in one line, where there is too little to attack with."""
        stages, why = {}, shadows.why or None
        for stage, logits in shadows.logits.items():
            rng = rng_for(config.seed, "attack", name)
            try:
                stages[stage] = attack(logits, shadows.labels, shadows.inside, *about, resamples, rng)
            except CannotAttack as error:
                why = str(error)
        return {"stages": stages, "why": why}

    found = judged("informed", informed, shadows.request)
    for stage, of_stage in found["stages"].items():
        named = [{**row, "request": shadows.requests[row["request"]]} for row in of_stage["requests"]]
        requests = [{**row, "client": clients[row["request"]]} for row in named]
        found["stages"][stage] = {**of_stage, "requests": requests}
    return {
        "shadows": len(shadows.inside),
        "candidates": len(shadows.candidates),
        "replay": shadows.replay,
        "ulira": judged("ulira", u_lira),
        "informed": found,
    }


def measure_request_privacy(
    judge: Judge,
    books: Sequence[DeletionRequest],
    partition: Partition,
    config: Config,
    rounds_done: int,
    before: Mapping[str, Tensor],
    update: Update,
    asked: Sequence[str],
) -> Mapping[str, Any]:
    """What a requester's update tells of its forget set: the privacy of the request itself.

    Args:
        books: all requests of the device.
        rounds_done: rounds done.
        before: the weights that the update starts from.
        asked: ids of the requests.
    """
    share = partition.clients[update.client]
    forget = {u for r in books if r.id in asked for u in r.utterances}
    gone = {u for r in books if r.state is RequestState.PURGED for u in r.utterances}
    later = recorded_later(partition, config.partition, config.seed)
    gone |= {u for u, recorded in later.items() if recorded > rounds_done}
    kept = [u.id for u in share.train if u.id not in forget | gone]
    held_out = [u.id for u in share.test if u.id not in forget | gone]
    return judge.request_privacy(before, update.difference, forget, kept, held_out)


_PAIRS = (("original", "unlearned"), ("original", "recovered"), ("retrained", "recovered"))
"""models in the run folder whose difference might give the deleted utterances away: (before, after)"""


def measure_kept_models(
    judge: Judge,
    partition: Partition,
    kept: Mapping[str, Mapping[str, Tensor]],
    gone: Mapping[RequestKey, DeletionRequest],
) -> list[dict[str, Any]]:
    """What the models that the run folder keeps tell of each deletion: ``results.kept``.

    Args:
        judge: measures.
        partition: of the run.
        kept: name -> weights, as they are written.
        gone: requests whose utterances have left the vaults.

    Returns:
        one row a request that took back what a model was trained on: of the pair of models that gives the
        most away, the correlation and the rank as in ``evaluation.reconstruction``
    """
    rows = []
    for (request, client), entry in gone.items():
        share, gone_ids = partition.clients[client], set(entry.utterances)
        others = [u.id for u in share.train if u.id not in gone_ids] or [u.id for u in share.test]
        found: list[dict[str, Any]] = []
        for before, after in _PAIRS:
            difference = {name: kept[after][name] - value for name, value in kept[before].items()}
            told = judge.reconstruct(kept[before], difference, entry.utterances, others)
            if told is not None:
                found.append({"between": [before, after], **told})
        if found:
            rows.append({"request": request, "client": client, **max(found, key=lambda row: row["r"])})
    return rows
