"""Further analyses: relearn time, attacks on shadow federations, what updates and kept models reveal."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from fedunlearn.config import Config
from fedunlearn.deletion.request import DeletionRequest, RequestState
from fedunlearn.evaluation.collateral import never_heard_shift, targets_followed
from fedunlearn.evaluation.informed import informed
from fedunlearn.evaluation.judge import Judge
from fedunlearn.evaluation.klom import klom_of_shadows
from fedunlearn.evaluation.lira import confidence, u_lira
from fedunlearn.evaluation.relearning import relearn
from fedunlearn.evaluation.shadow_attack import CannotAttack, Matrix
from fedunlearn.experiment.shadows import Shadows
from fedunlearn.messages.update import Update
from fedunlearn.models.contract import EmotionModel
from fedunlearn.partition import Partition, recorded_later
from fedunlearn.results_schema import (
    AttackedStages,
    AttackReport,
    CollateralShift,
    KeptModelLeak,
    KlomReport,
    RelearnReport,
    RelearnTime,
    ReplayCheck,
    RequestPrivacy,
    ShadowAttackReport,
    ShadowAttackScores,
    TargetsFollowed,
)
from fedunlearn.seeding import rng_for
from fedunlearn.server.requests import RequestKey

ORDERS = 5
"""in which D_f is learned again"""


def measure_relearning(
    judge: Judge,
    model: EmotionModel,
    states: Mapping[str, Mapping[str, Tensor]],
    forget: Sequence[str],
    target: float | None,
    config: Config,
) -> RelearnReport:
    """Measure how many gradient steps bring each model's accuracy on D_f back.

    Args:
        judge: has the features of D_f.
        model: of the run's kind.
        states: weights by name.
        forget: D_f.
        target: the original's forget accuracy; None where D_f is empty.

    Returns:
        by model; empty where there is nothing to learn again, or it is switched off.
    """
    limit = config.evaluation.relearn_steps
    if target is None or limit == 0:
        return RelearnReport.empty()
    examples = judge.examples(forget)

    def time(name: str) -> RelearnTime:
        rngs = [rng_for(config.seed, "relearn", order) for order in range(ORDERS)]
        found = relearn(model, states[name], examples, target, config.training.local, limit, rngs)
        return found or RelearnTime.empty()

    return RelearnReport(
        original=time("original"),
        recovered=time("recovered"),
        unlearned=time("unlearned"),
        retrained=time("retrained"),
    )


def run_attacks(shadows: Shadows, clients: Mapping[str, int], config: Config) -> AttackReport:
    """Run U-LiRA and the informed attack on the shadow federations.

    Args:
        shadows: of the run.
        clients: id of a request -> its client.
    """
    resamples = config.evaluation.bootstrap

    def on_each_stage(name: str, attack: Callable[..., ShadowAttackScores], *about: object) -> _Attacked:
        """An attack on each stage; why, in one line, where there is too little to attack with."""
        stages, why = dict[str, ShadowAttackScores](), shadows.why or None
        for stage, logits in shadows.logits.items():
            rng = rng_for(config.seed, "attack", name)
            try:
                stages[stage] = attack(logits, shadows.labels, shadows.inside, *about, resamples, rng)
            except CannotAttack as error:
                why = str(error)
        return stages, why

    by_request, why_not_informed = on_each_stage("informed", informed, shadows.request)
    for scores in by_request.values():
        for row in scores.requests:
            row.request = shadows.requests[int(row.request or 0)]
            row.client = clients[row.request]
    likelihood, why_no_likelihood = on_each_stage("ulira", u_lira)
    phi = {stage: confidence(logits, shadows.labels) for stage, logits in shadows.logits.items()}
    return AttackReport(
        shadows=len(shadows.inside),
        candidates=len(shadows.candidates),
        replay=shadows.replay or ReplayCheck.empty(),
        ulira=ShadowAttackReport(stages=_by_stage(likelihood), why=why_no_likelihood),
        informed=ShadowAttackReport(stages=_by_stage(by_request), why=why_not_informed),
        klom=_klom(phi, shadows, config.seed),
        collateral=never_heard_shift(phi, shadows.inside) if phi else CollateralShift.empty(),
        following=targets_followed(phi, shadows.targets.astype(np.float64))
        if phi
        else TargetsFollowed.empty(),
    )


def _klom(phi: Mapping[str, Matrix], shadows: Shadows, seed: int) -> KlomReport:
    """KLoM of the models of each stage; the null value is the same for all."""
    report = KlomReport(why=shadows.why or None)
    try:
        for stage, margins in phi.items():
            rng = rng_for(seed, "attack", "klom")
            scores, report.null = klom_of_shadows(margins, phi["original"], shadows.inside, rng)
            setattr(report, stage, scores)
    except CannotAttack as error:
        return KlomReport(why=str(error))
    return report


_Attacked = tuple[dict[str, ShadowAttackScores], str | None]
"""stage -> scores; why there are none"""


def _by_stage(found: Mapping[str, ShadowAttackScores]) -> AttackedStages:
    """Those of the stages that were attacked; the others are not named."""
    return AttackedStages.model_validate(found)


def measure_request_privacy(
    judge: Judge,
    requests: Sequence[DeletionRequest],
    partition: Partition,
    config: Config,
    rounds_done: int,
    before: Mapping[str, Tensor],
    update: Update,
    ids: Sequence[str],
) -> RequestPrivacy:
    """Measure what a requester's update reveals about its forget set.

    Args:
        judge: measures.
        requests: all requests of the client.
        partition: of the run.
        config: of the run.
        rounds_done: learning rounds done.
        before: the weights that the update starts from.
        update: of the client.
        ids: of the requests that the update serves.
    """
    share = partition.clients[update.client]
    forget = {u for r in requests if r.id in ids for u in r.utterances}
    gone = {u for r in requests if r.state is RequestState.PURGED for u in r.utterances}
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
) -> list[KeptModelLeak]:
    """Measure what the models that the run folder keeps reveal about each deletion.

    Args:
        judge: measures.
        partition: of the run.
        kept: name -> weights, as they are written.
        gone: requests whose utterances have left the vaults.

    Returns:
        one row for each request that deleted what a model was trained on: of the pair of models that gives
        the most away, the correlation and the rank as in ``evaluation.reconstruction``
    """
    rows = []
    for (request, client), entry in gone.items():
        share, gone_ids = partition.clients[client], set(entry.utterances)
        others = [u.id for u in share.train if u.id not in gone_ids] or [u.id for u in share.test]
        found: list[KeptModelLeak] = []
        for before, after in ((before, after) for before, after in _PAIRS if before in kept):
            difference = {name: kept[after][name] - value for name, value in kept[before].items()}
            rebuilt = judge.reconstruct(kept[before], difference, entry.utterances, others)
            if rebuilt is not None:
                found.append(
                    KeptModelLeak(
                        request=request,
                        client=client,
                        between=(before, after),
                        r=rebuilt.r,
                        r_others=rebuilt.r_others,
                        named=rebuilt.named,
                        chance=rebuilt.chance,
                    )
                )
        if found:
            rows.append(max(found, key=lambda row: row.r or 0.0))
    return rows
