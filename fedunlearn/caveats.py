"""When a run says nothing, or little, about its unlearning method, whatever the method is."""

from collections.abc import Iterable

from fedunlearn.results_schema import Caveat, ModelScores, Results

LEARNED = 0.5
"""retain accuracy of the original below which it has not learned: it gets most of its own speech wrong"""

WELL_LEARNED = 0.8
"""retain accuracy of the original below which it memorises little: forget accuracy starts about there"""

NOTHING_TO_FORGET = 1.5
"""rho up to which a run has nothing to forget"""

FEW_UTTERANCES = 10
"""deleted utterances below which one of them is worth more than 10 points of forget accuracy"""

LEAST_LEFT = 0.5
"""share of an update below which the guard, not the method, decided what was unlearned"""

_ROUNDING = 1e-9
_CLOSED = ("purged", "verified", "withdrawn")
"""states of a request that nobody has to be told of"""


def caveats_of(results: Results) -> list[Caveat]:
    """The caveats of a run: those that its results hold; of older results, those found now."""
    return results.caveats if "caveats" in results.model_fields_set else find_caveats(results)


def decisive_caveat(results: Results) -> Caveat | None:
    """The first decisive caveat of a run; None where it says something about its method."""
    return next((caveat for caveat in caveats_of(results) if caveat.decisive), None)


def find_caveats(results: Results) -> list[Caveat]:
    """Find out when a run says nothing, or little, about its method.

    Args:
        results: of a run that was evaluated, complete or partial.

    Returns:
        decisive ones first, each group by weight; empty where the models were not compared.
    """
    if not results.models:
        return []
    found: list[Caveat | None]
    if results.nothing_unlearned:
        nothing = "No request was applied to the global model."
        found = [Caveat(kind="nothing unlearned", sentence=nothing, decisive=True)]
    elif results.nobody_left:
        found = [_guard(results)]
    else:
        found = [
            _not_learned(results),
            _unfinished(results),
            _nothing_to_forget(results) or _indistinguishable(results),
            _guard(results),
            _few_utterances(results),
        ]
    found += [_requests(results), _added(results)]
    if not results.nothing_unlearned:
        found.append(_no_floor(results))
    known = [caveat for caveat in found if caveat is not None]
    return sorted(known, key=lambda caveat: not caveat.decisive)


# ---- the original model ----------------------------------------------------------------------------------


def _not_learned(results: Results) -> Caveat | None:
    """The original is at chance, or misrecognises much of the speech that it was trained on."""
    test, retain = results.models.original.test, results.models.original.retain.accuracy
    emotions = len(results.corpus.emotions)
    name, value, ends = "UAR", test.uar, test.uar_interval
    if value is None:
        name, value, ends = "accuracy", test.accuracy, test.accuracy_interval
    if emotions and value is not None and (ends[0] if ends else value) <= 1 / emotions:
        within = f", 95 % interval {ends[0]:.3f} to {ends[1]:.3f}" if ends else ""
        why = f"test {name} {value:.3f}{within}, where chance is {1 / emotions:.3f}"
        return Caveat(kind="not learned", sentence=f"The original has not learned ({why}).", decisive=True)
    if retain is None or retain >= WELL_LEARNED:
        return None
    beside = "" if test.accuracy is None else f", and {_percent(test.accuracy)} of test speech"
    knows = f"it recognises {_percent(retain)} of its own training speech{beside}"
    if retain < LEARNED:
        return Caveat(kind="not learned", sentence=f"The original has not learned ({knows}).", decisive=True)
    little = f"The original memorises little ({knows}): forget accuracy is low from the start."
    return Caveat(kind="not learned", sentence=little, decisive=False)


def _unfinished(results: Results) -> Caveat | None:
    """Test accuracy rose with unlearning and recovery, above the original's and the retrained models'."""
    gain, original = results.gain, results.models.original.test.accuracy
    retrained = _mean(model.test.accuracy for model in _retrained(results))
    if gain.difference is None or original is None:
        return None
    reached = original + gain.difference
    best = original if retrained is None else max(original, retrained)
    noise = max(results.gap.noise_floor.test or 0.0, 2 * (gain.standard_error or 0.0))
    if reached - best <= noise + _ROUNDING:
        return None
    rose = f"test accuracy rose from {original:.3f} to {reached:.3f} with unlearning and recovery"
    return Caveat(
        kind="training unfinished",
        sentence=f"Learning had not finished, as {rose}, where noise explains {noise:.3f}: every gap mixes "
        "unlearning with learning.",
        decisive=True,
    )


def _nothing_to_forget(results: Results) -> Caveat | None:
    """The original is as near to the retrained models as they are to each other, or knows no more of D_f."""
    gap, none, floor = results.gap, results.gap.none.mean, results.gap.noise_floor.mean
    rho = gap.rho if gap.rho is not None or none is None or not floor else none / floor
    before = results.models.original.forget.accuracy
    without = _mean(model.forget.accuracy for model in _retrained(results))
    if gap.nothing_to_forget or (rho is not None and rho <= NOTHING_TO_FORGET):
        times = "" if rho is None else f" (rho {rho:.2f}; {NOTHING_TO_FORGET} and less is nothing)"
        why = f"is hardly further from the retrained models than they are from each other{times}"
    elif before is not None and without is not None and before <= without + _ROUNDING:
        why = (
            f"recognises the deleted utterances no better than the retrained models do (forget accuracy "
            f"{before:.3f} and {without:.3f})"
        )
    else:
        return None
    return Caveat(
        kind="nothing to forget",
        sentence=f"There is nothing to forget, as the original {why}.",
        decisive=True,
    )


# ---- the measurement -------------------------------------------------------------------------------------


def _indistinguishable(results: Results) -> Caveat | None:
    """The interval of the mean gap holds both doing nothing and the best that can be reached."""
    own, nothing = results.gap[results.final_model], results.gap.none.mean
    floor = results.gap.noise_floor.mean
    if results.control_effect or own.low is None or own.high is None or nothing is None:
        return None
    if not own.low <= (floor or 0.0) <= own.high or not own.low <= nothing <= own.high:
        return None
    best = "a perfect 0" if floor is None else f"the noise floor ({floor:.3f})"
    return Caveat(
        kind="indistinguishable",
        sentence=f"The method cannot be told from doing nothing, as the 95 % interval of its mean gap "
        f"({own.low:.3f} to {own.high:.3f}) holds both {best} and doing nothing ({nothing:.3f}).",
        decisive=True,
    )


def _few_utterances(results: Results) -> Caveat | None:
    deleted = results.models.original.forget.n
    if deleted is None or deleted >= FEW_UTTERANCES or deleted == 0:
        return None
    few = "Only one utterance was" if deleted == 1 else f"Only {deleted} utterances were"
    return Caveat(
        kind="few utterances",
        sentence=f"{few} deleted: one of them is {_percent(1 / deleted)} of forget accuracy.",
        decisive=False,
    )


def _no_floor(results: Results) -> Caveat | None:
    if results.gap.noise_floor.mean is not None or results.gap[results.final_model].mean is None:
        return None
    return Caveat(
        kind="no noise floor",
        sentence="There is one retrained model and so no noise floor: small differences prove nothing (set "
        "evaluation.retrained_seeds to 2 or more).",
        decisive=False,
    )


# ---- what came between the method and the model ----------------------------------------------------------


def _guard(results: Results) -> Caveat | None:
    """The guard shortened or refused updates of honest clients."""
    malicious = set(results.attackers.clients)
    left: dict[tuple[int, int | None], float] = {}
    for each in results.guard:
        if each.client is not None and each.client not in malicious and each.factor is not None:
            place = (each.client, each.round)
            left[place] = left.get(place, 1.0) * each.factor
    if not left:
        return None
    # A client whose update was refused may send another.
    least = {client: min(f for (c, _), f in left.items() if c == client) for client, _ in sorted(left)}
    honest = {request.client for request in results.requests} - malicious - {None}
    decided = all(least.get(client, 1.0) < LEAST_LEFT for client in honest if client is not None)
    shares = [
        f"client {client} refused" if not factor else f"client {client} to {factor:.2g} of its length"
        for client, factor in least.items()
    ]
    decides = "decided what was unlearned" if decided else "shortened or refused updates of honest clients"
    return Caveat(
        kind="guard", sentence=f"The server's guard {decides} ({', '.join(shares)}).", decisive=decided
    )


def _requests(results: Results) -> Caveat | None:
    """Some requests were refused, or are not fulfilled."""
    missed = [request for request in results.requests if request.state not in (None, *_CLOSED)]
    if not missed:
        return None
    refused = {request.id for request in missed if request.state == "refused"}
    waiting = {request.id for request in missed if request.state != "refused"}
    counts = ((len(refused), "refused"), (len(waiting), "not fulfilled"))
    clients = sorted({request.client for request in missed if request.client is not None})
    who = f" (client{'s' if len(clients) > 1 else ''} {', '.join(map(str, clients))})" if clients else ""
    said = " and ".join(f"{n} {'was' if n == 1 else 'were'} {what}" for n, what in counts if n)
    requests = len({request.id for request in results.requests})
    of = f"Of {requests} requests, {said}{who}; the measures are of the others."
    return Caveat(kind="requests", sentence=of, decisive=False)


def _added(results: Results) -> Caveat | None:
    """Recordings were added to devices that the judge does not know."""
    if not results.added:
        return None
    total = sum(row.count or 0 for row in results.added)
    what = "1 recording that is" if total == 1 else f"{total} recordings that are"
    where = ", ".join(f"{row.count} at client {row.client} after round {row.round}" for row in results.added)
    return Caveat(
        kind="recordings added",
        sentence=f"Devices took in {what} in no corpus ({where}). The references were trained on those that "
        "were there in a learning round and not deleted since. No measure includes any, and the run cannot "
        "be repeated from its corpus and seed alone.",
        decisive=False,
    )


def _retrained(results: Results) -> list[ModelScores]:
    return results.models.retrained.seeds or [results.models.retrained]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
