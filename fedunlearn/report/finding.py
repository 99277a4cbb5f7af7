"""What the numbers say, in words: computed from them, the bad news first."""

from dataclasses import dataclass
from typing import Literal

from fedunlearn.caveats import caveats_of, decisive_caveat
from fedunlearn.report.attack import describe_attack
from fedunlearn.report.names import method_name, privileged_data, sees_tickets
from fedunlearn.report.request_view import CLOSED, FULFILLED, view_requests
from fedunlearn.report.values import (
    Interval,
    duration,
    fraction,
    interval,
    interval_words,
    many,
    plain,
)
from fedunlearn.results_schema import CONTROLS, PhaseCostRow, Results

FAR = 0.05  # forget accuracy; a model surely that far below the retrained one is not praised
GUESSING = 0.5  # AUC
ABOUT_AS_MUCH = 0.02  # forget accuracy; the spread of single seeds

Tone = Literal["good", "useless", "unknown"]


@dataclass(frozen=True)
class Finding:
    """The head of the page.

    Attributes:
        tone: "good" (closer to retrained than both controls, without forgetting more than a retrained model
            would, and no attack on single utterances detects them with certainty), "useless", "unknown",
            which it always is where the run says nothing about its method.
        alarm: what went wrong with the run itself; empty where nothing did.
        headline: one sentence.
        caveats: why the run says less than it seems to, besides the headline; empty where it does not.
        remarks: further sentences that qualify it.
    """

    tone: Tone
    alarm: str
    headline: str
    caveats: str
    remarks: tuple[str, ...]


def find(results: Results) -> Finding:
    """Read the finding off the results."""
    tone, headline = _headline(results)
    remarks, decisive = _remarks(results), explain_no_finding(results)
    if decisive and not results.nothing_unlearned:
        tone, headline, remarks = "unknown", decisive, [headline, *remarks]
    return Finding(tone, _alarm(results), headline, _other_caveats(results), tuple(remarks))


def explain_no_finding(results: Results) -> str:
    """``This run says nothing about calm: the original has not learned``; empty where it says something."""
    caveat = decisive_caveat(results)
    if caveat is None:
        return ""
    why = caveat.sentence or ""
    return f"This run says nothing about {method_name(results)}: {why[:1].lower()}{why[1:]}"


def _other_caveats(results: Results) -> str:
    """What the headline and the alarm leave out."""
    first, alarmed = decisive_caveat(results), results.status != "complete"
    others = [caveat for caveat in caveats_of(results) if caveat != first]
    return " ".join(c.sentence or "" for c in others if c.kind != "requests" or not alarmed)


def judge_method(results: Results) -> tuple[bool | None, str]:
    """Whether the final model beats both controls, as ``Results.useless`` decides, and why, in words.

    Returns:
        (None, "") where the numbers to say it are missing, and where there is nothing to be judged.
    """
    useless = results.useless
    if useless is None:
        return None, ""
    final = results.final_model
    ours = results.gap[final].mean
    ranked = next((r for r in results.ranking if (r.name or "").startswith(final)), None)
    if not useless:
        return True, (ranked.why or "") if ranked else ""
    if effect := results.control_effect:
        return False, f"“{method_name(results)}” is a control, it {effect}"
    controls = {name: results.gap[name].mean for name in CONTROLS}
    beaten_by = {n: g for n, g in controls.items() if ours is not None and g is not None and ours >= g}
    if beaten_by:
        best = min(beaten_by, key=lambda name: beaten_by[name])
        return False, f"it ranks no better than {CONTROLS[best].words} ({fraction(beaten_by[best])})"
    return False, f"it {plain(ranked.why if ranked else None).rstrip('.')}"


def list_unfulfilled(results: Results) -> list[str]:
    """``id: state`` of every request that is still open, and why where that is known."""
    return [
        f"{request.id}: {request.state}{f' ({request.why})' if request.why else ''}"
        for request in view_requests(results)
        if request.state not in (*FULFILLED, *CLOSED)
    ]


def count_requests(results: Results) -> str:
    """``4 deletion requests from 4 clients (92 utterances)``, without those withdrawn or refused."""
    served = [request for request in view_requests(results) if request.state not in CLOSED]
    sizes = [request.utterances for request in served]
    known = [size for size in sizes if size is not None]
    total = f" ({many(sum(known), 'utterance')})" if known and len(known) == len(sizes) else ""
    clients = {client for request in served for client in request.clients}
    return f"{many(len(served), 'deletion request')} from {many(len(clients), 'client')}{total}"


def count_closed(results: Results) -> str:
    """``1 withdrawn, 2 refused``; empty where none was either."""
    states = [request.state for request in view_requests(results)]
    return ", ".join(f"{states.count(state)} {state}" for state in CLOSED if state in states)


def _alarm(results: Results) -> str:
    status, cause = results.status, results.failure
    if status == "complete":
        return ""
    unfulfilled = [line for line in list_unfulfilled(results) if line.split(":")[0] not in str(cause)]
    because = f": {_shorten(cause.rstrip('.'))}." if cause else "."
    still = f" Unfulfilled: {'; '.join(unfulfilled[:8])}" if unfulfilled else ""
    still += f" and {len(unfulfilled) - 8} more." if len(unfulfilled) > 8 else "." if still else ""
    if status == "failed":
        return f"This run failed{because}{still} The page shows how far it got; that is not a result."
    if status == "partial" and not results.models:
        return f"This run is partial{because}{still} The page shows how far it got; that is not a result."
    if status == "partial":
        return f"This run is partial{because}{still} Not all that was requested was done; do not quote it."
    return f"This run says neither that it is complete nor that it failed (status: {plain(status)}).{still}"


def _shorten(cause: str) -> str:
    parts = cause.split("; ")
    return "; ".join(parts[:8]) + (f"; and {len(parts) - 8} more" if len(parts) > 8 else "")


def _headline(results: Results) -> tuple[Tone, str]:
    requests, status = view_requests(results), results.status
    if not requests and status == "failed":
        return "unknown", "No finding: the run ended before it received any request."
    if status == "partial" and not results.models:
        return "unknown", "No finding yet: the run was stopped before its models could be compared."
    if not requests:
        return "unknown", "No deletion was requested: there was nothing to forget and nothing to compare."
    if all(request.state in CLOSED for request in requests):
        count = many(len(requests), "deletion request")
        return "unknown", f"There was nothing to forget: {count}, {count_closed(results)}."
    if results.nothing_unlearned:
        early = all(request.state in (*FULFILLED, *CLOSED) for request in requests)
        why = ": no model had been trained on it" if early else ""
        return "unknown", f"No finding: after {count_requests(results)}, nothing was unlearned{why}."
    final = results.final_model
    ours = results.gap[final].mean
    if ours is None:
        return "unknown", f"No finding: after {count_requests(results)}, the models could not be compared."
    gap = f"the {final} model has a mean gap of {fraction(ours)}{_in_brackets(interval(results.gap[final]))}"
    if results.nobody_left:
        return "unknown", (
            f"Nobody is left after {count_requests(results)}: a model retrained without them has learned "
            f"nothing, and {gap} to it. Only random weights would be right."
        )
    useful, why = judge_method(results)
    sentence = f"After {count_requests(results)}, {gap} to {_references(results)}{_others(results, ours)}"
    if useful is False:
        this = "At face value, the" if decisive_caveat(results) else "This"
        return "useless", f"{this} method is useless here: {why}. {sentence}."
    if useful is None:
        return "unknown", f"{sentence}; there is no control to judge that by."
    if _over_forgets(results):
        return "unknown", f"{sentence}. But it forgets more than a retrained model does."
    if detected := describe_detection(results):
        return "unknown", f"{sentence}. But {detected}."
    return "good", f"{sentence}."


def describe_detection(results: Results) -> str:
    """What the best attack on single utterances detects in the final model with certainty; else empty."""
    final, found = results.final_model, {}
    for attack, name in (
        (results.attacks.ulira, "U-LiRA"),
        (results.attacks.informed, "the informed attack"),
    ):
        scores, before = attack.stages[final], attack.stages.original.auc
        spread = interval(scores)
        if spread is not None and spread[0] > GUESSING:
            was = f", {fraction(before)} before" if before is not None else ""
            auc = scores.auc or 0.0
            found[auc] = (
                f"{name} still tells deleted utterances from others: AUC {fraction(auc)} "
                f"({interval_words(spread)}{was}), where guessing gives 0.5"
            )
    return found[max(found)] if found else ""


def _no_detection(results: Results) -> str:
    """State that the attacks on single utterances were made and detect nothing with certainty."""
    auc = results.attacks.ulira.stages[results.final_model].auc
    if auc is None or describe_detection(results):
        return ""
    return f"The attacks on single utterances find nothing for certain (U-LiRA AUC {fraction(auc)})."


def _in_brackets(ends: Interval | None) -> str:
    words = interval_words(ends)
    return f" ({words})" if words else ""


def _references(results: Results) -> str:
    seeds = len(results.models.retrained.seeds)
    return "models retrained without them" if seeds > 1 else "a model retrained without them"


def _others(results: Results, ours: float) -> str:
    nothing, floor = results.gap.none.mean, results.gap.noise_floor.mean
    parts = [f"doing nothing has {fraction(nothing)}"] if nothing is not None else []
    if floor is not None:
        parts.append(f"another retraining {'' if floor < ours else 'no less, '}{fraction(floor)}")
    return f"; {', '.join(parts)}" if parts else ""


def _remarks(results: Results) -> list[str]:
    if results.nothing_unlearned:
        return []
    remarks = [
        _privileged(results),
        _tickets(results),
        _forgetting(results),
        _doubt(results),
        _no_detection(results),
        _recovery(results),
        _saving(results),
        _attack(results),
    ]
    return [remark for remark in remarks if remark]


def _privileged(results: Results) -> str:
    seen = privileged_data(results)
    return f"A privileged baseline, not a solution: “{method_name(results)}” sees {seen}." if seen else ""


def _tickets(results: Results) -> str:
    if not sees_tickets(results):
        return ""
    return (
        "Not from the forget set alone: while the model learned, each device noted of each of its utterances "
        "what it contributed, and unlearns with that. These tickets are deleted with the utterance."
    )


def _attack(results: Results) -> str:
    said = describe_attack(results)
    return f"{said}." if said else ""


def _forget_difference(results: Results) -> float | None:
    """Forget accuracy of the final model less that of the retrained one; None where either is unknown."""
    ours = results.models[results.final_model].forget.accuracy
    target = results.models.retrained.forget.accuracy
    return None if ours is None or target is None else ours - target


def _is_certain(results: Results) -> bool:
    """Whether the interval of the final model's forget accuracy leaves the retrained one's out."""
    target = results.models.retrained.forget.accuracy or 0.0
    spread = results.models[results.final_model].forget.accuracy_interval
    return spread is None or not spread[0] <= target <= spread[1]


def _over_forgets(results: Results) -> bool:
    difference = _forget_difference(results)
    return difference is not None and difference < -FAR and _is_certain(results)


def _forgetting(results: Results) -> str:
    difference = _forget_difference(results)
    if difference is None:
        return ""
    margin = max(ABOUT_AS_MUCH, results.gap.noise_floor.forget or 0.0)
    certain = _is_certain(results)
    verdict = "It knows the deleted utterances about as well as a model that was never trained on them"
    if difference > margin:
        knows = "still knows" if certain else "may still know"
        verdict = f"It {knows} more of the deleted utterances than a model that was never trained on them"
    elif difference < -margin:
        start = "Over-forgetting: it knows" if certain else "It may over-forget and know"
        verdict = f"{start} less of the deleted utterances than a model that was never trained on them"
    models = results.models
    ours, target, before = (
        model.forget.accuracy for model in (models[results.final_model], models.retrained, models.original)
    )
    spread = _in_brackets(models[results.final_model].forget.accuracy_interval)
    doubt = "" if abs(difference) <= margin or certain else ", too few utterances to be sure"
    was = f"; it was {fraction(before)} before" if before is not None else ""
    return f"{verdict}: forget accuracy {fraction(ours)}{spread} against {fraction(target)}{doubt}{was}."


def _doubt(results: Results) -> str:
    """State that the final model and doing nothing cannot be told apart."""
    ours, nothing = interval(results.gap[results.final_model]), interval(results.gap.none)
    decisive = decisive_caveat(results)
    if results.control_effect or (decisive is not None and decisive.kind == "indistinguishable"):
        return ""
    if ours is None or nothing is None or ours[1] < nothing[0] or nothing[1] < ours[0]:
        return ""
    return (
        f"The intervals of its gap ({interval_words(ours)}) and of doing nothing ({interval_words(nothing)}) "
        "overlap: on so little speech the two can hardly be told apart."
    )


def _recovery(results: Results) -> str:
    before, after = results.gap.unlearned.mean, results.gap.recovered.mean
    knew, knows = results.models.unlearned.forget.accuracy, results.models.recovered.forget.accuracy
    if before is None or after is None:
        return ""
    moved = f"mean gap {fraction(before)} before them, {fraction(after)} after"
    if fraction(before) == fraction(after):
        return f"The recovery rounds left the mean gap where it was: {fraction(after)}."
    if abs(after - before) < (results.gap.noise_floor.mean or 0.0):
        return f"The recovery rounds moved the model by less than the noise floor: {moved}."
    if after > before:
        back = knew is not None and knows is not None and knows > knew
        reversion = ", and brought deleted knowledge back (reversion)" if back else ""
        return f"The recovery rounds led away from the retrained model{reversion}: {moved}."
    return f"The recovery rounds led towards the retrained model: {moved}."


def _saving(results: Results) -> str:
    unlearn, recover, retrain = (
        results.cost.get(phase, PhaseCostRow.empty()).client_seconds
        for phase in ("unlearn", "recover", "retrain")
    )
    if unlearn is None or recover is None or not retrain or unlearn + recover == 0:
        return ""
    spent = unlearn + recover
    ratio, word = (retrain / spent, "less") if spent < retrain else (spent / retrain, "more")
    return (
        f"Unlearning and recovery took the clients {duration(spent)} of computing, retraining "
        f"{duration(retrain)}: {ratio:,.{0 if ratio >= 10 else 1}f} times {word}."
    )
