"""What the numbers say, in words: computed from them, the bad news first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedunlearn.report.names import CONTROL_WORDS, CONTROLS
from fedunlearn.report.request_view import CLOSED, FULFILLED, wishes
from fedunlearn.report.values import (
    at,
    duration,
    fraction,
    interval_at,
    many,
    noise_floor,
    number_at,
    plain,
    rows,
    significant,
    sure,
)

SEEN = {"retain": "the retain sets", "history": "the retain sets and the server's history"}
"""what an upper reference sees more than the forget set"""
NOTHING_TO_FORGET = 2.0  # times the noise floor between original and retrained, in results without rho
FAR = 0.05  # forget accuracy; a model so far below the retrained one, and surely below it, is not praised
GUESSING = 0.5  # AUC
ABOUT_AS_MUCH = 0.02  # forget accuracy; the spread of single seeds

Tone = Literal["good", "useless", "unknown"]


@dataclass(frozen=True)
class Finding:
    """The head of the page.

    Attributes:
        tone: "good" (closer to retrained than both controls, without forgetting more than a retrained model
            would, and no attack on single utterances surely tells them), "useless", "unknown".
        alarm: what went wrong with the run itself; empty where nothing did.
        headline: one sentence.
        remarks: further sentences that qualify it.
    """

    tone: Tone
    alarm: str
    headline: str
    remarks: tuple[str, ...]


def find(results: Mapping[str, Any]) -> Finding:
    """Read the finding off the results."""
    tone, headline = _headline(results)
    return Finding(tone, _alarm(results), headline, tuple(_remarks(results)))


def final_model(results: Mapping[str, Any]) -> str:
    """The model that the run ends with: "recovered", or "unlearned" where nothing was recovered."""
    has_recovered = number_at(results, "gap", "recovered", "mean") is not None
    has_unlearned = number_at(results, "gap", "unlearned", "mean") is not None
    return "unlearned" if has_unlearned and not has_recovered else "recovered"


def judgement(results: Mapping[str, Any]) -> tuple[bool | None, str]:
    """Whether the final model beats both controls, and why.

    A method that the ranking calls useless is useless; so is one whose mean gap is no smaller than a
    control's, whatever the ranking says, and so is a control that ran as the method.

    Returns:
        (None, "") where the numbers to say it are missing, and where there is nothing to be judged: nothing
        was unlearned, or nobody is left.
    """
    if nothing_unlearned(results) or nobody_left(results):
        return None, ""
    final = final_model(results)
    method = plain(at(results, "config", "unlearning", "method"))
    ours = number_at(results, "gap", final, "mean")
    ranked = next((r for r in rows(at(results, "ranking")) if plain(at(r, "name")).startswith(final)), None)
    if method in CONTROLS:
        return False, f"“{method}” is a control, it {CONTROLS[method]}"
    controls = {name: number_at(results, "gap", name, "mean") for name in CONTROLS}
    beaten_by = {n: g for n, g in controls.items() if ours is not None and g is not None and ours >= g}
    if beaten_by:
        best = min(beaten_by, key=lambda name: beaten_by[name])
        return False, f"it ranks no better than {CONTROL_WORDS[best]} ({fraction(beaten_by[best])})"
    if at(ranked, "useful") is False:
        return False, f"it {plain(at(ranked, 'why')).rstrip('.')}"
    if ours is None or all(gap is None for gap in controls.values()):
        return None, ""
    return True, plain(at(ranked, "why")) if at(ranked, "why") else ""


def is_useless(results: Mapping[str, Any]) -> bool:
    """Whether the final model is no better than a control, or was made by one."""
    return judgement(results)[0] is False


def nothing_unlearned(results: Mapping[str, Any]) -> bool:
    """Whether no request joined the global model."""
    entries = [entry for wish in wishes(results) for entry in wish.entries]
    return all(number_at(entry, "round_applied") is None for entry in entries)


def nobody_left(results: Mapping[str, Any]) -> bool:
    """Whether the retrained model had nothing to learn from: random weights are right then."""
    return number_at(results, "models", "retrained", "retain", "n") == 0


def unfulfilled(results: Mapping[str, Any]) -> list[str]:
    """``id: state`` of every request that is still open, and why where that is known."""
    return [
        f"{wish.id}: {wish.state}{f' ({wish.why})' if wish.why else ''}"
        for wish in wishes(results)
        if wish.state not in (*FULFILLED, *CLOSED)
    ]


def asked(results: Mapping[str, Any]) -> str:
    """``4 deletion requests from 4 clients (92 utterances)``, without those withdrawn or refused."""
    served = [wish for wish in wishes(results) if wish.state not in CLOSED]
    sizes = [wish.utterances for wish in served]
    known = [size for size in sizes if size is not None]
    total = f" ({many(sum(known), 'utterance')})" if known and len(known) == len(sizes) else ""
    clients = {client for wish in served for client in wish.clients}
    return f"{many(len(served), 'deletion request')} from {many(len(clients), 'client')}{total}"


def closed(results: Mapping[str, Any]) -> str:
    """``1 withdrawn, 2 refused``; empty where none was either."""
    states = [wish.state for wish in wishes(results)]
    return ", ".join(f"{states.count(state)} {state}" for state in CLOSED if state in states)


def _alarm(results: Mapping[str, Any]) -> str:
    status = at(results, "status")
    if status == "complete":
        return ""
    cause = at(results, "failure")
    open_requests = [line for line in unfulfilled(results) if line.split(":")[0] not in str(cause)]
    cause = f": {_shortened(str(cause).rstrip('.'))}." if cause else "."
    still = f" Unfulfilled: {'; '.join(open_requests[:8])}" if open_requests else ""
    still += f" and {len(open_requests) - 8} more." if len(open_requests) > 8 else "." if still else ""
    if status == "failed":
        return f"This run failed{cause}{still} What follows is as far as it got; it is not a result."
    if status == "partial" and not at(results, "models"):
        return f"This run is partial{cause}{still} What follows is as far as it got; it is not a result."
    if status == "partial":
        return f"This run is partial{cause}{still} Not everything that was asked was done; do not quote it."
    return f"This run says neither that it is complete nor that it failed (status: {plain(status)}).{still}"


def _shortened(cause: str) -> str:
    parts = cause.split("; ")
    return "; ".join(parts[:8]) + (f"; and {len(parts) - 8} more" if len(parts) > 8 else "")


def _headline(results: Mapping[str, Any]) -> tuple[Tone, str]:
    people, status = wishes(results), at(results, "status")
    if not people and status == "failed":
        return "unknown", "No finding: the run ended before anybody was heard."
    if status == "partial" and not at(results, "models"):
        return "unknown", "No finding yet: the run was stopped before its models could be compared."
    if not people:
        return "unknown", "Nobody asked for a deletion: there was nothing to forget and nothing to compare."
    if all(wish.state in CLOSED for wish in people):
        count = many(len(people), "deletion request")
        return "unknown", f"Nothing was to be forgotten: {count}, {closed(results)}."
    if nothing_unlearned(results):
        early = all(wish.state in (*FULFILLED, *CLOSED) for wish in people)
        why = ": no model had been trained on it" if early else ""
        return "unknown", f"No finding: after {asked(results)}, nothing was unlearned{why}."
    final = final_model(results)
    ours = number_at(results, "gap", final, "mean")
    if ours is None:
        return "unknown", f"No finding: after {asked(results)}, the models could not be compared."
    if nobody_left(results):
        stands = f"the {final} model stands {fraction(ours)}{_interval(results, 'gap', final)}"
        return "unknown", (
            f"Nobody is left after {asked(results)}: a model retrained without them has learned nothing, "
            f"and {stands} from it. Only random weights would be right."
        )
    useful, why = judgement(results)
    stands = (
        f"the {final} model stands {fraction(ours)}{_interval(results, 'gap', final)} from {_those(results)}"
    )
    said = f"After {asked(results)}, {stands}{_beside(results, ours)}"
    before = _nothing(results)
    if useful is False:
        return "useless", f"{before}This method is useless here: {why}. {said}."
    if useful is None:
        return "unknown", f"{before}{said}; there is no control to judge that by."
    if _over_forgets(results):
        return "unknown", f"{before}{said}. But it forgets more than a retrained model does."
    if found := still_told(results):
        return "unknown", f"{before}{said}. But {found}."
    return "unknown" if before else "good", f"{before}{said}."


def still_told(results: Mapping[str, Any]) -> str:
    """What the attack on single utterances that does best surely finds in the final model; else empty."""
    final, found = final_model(results), {}
    for key, name in (("ulira", "U-LiRA"), ("informed", "the informed attack")):
        stages = at(results, "attacks", key, "stages")
        spread = interval_at(stages, final)
        if spread is not None and spread[0] > GUESSING:
            before = number_at(stages, "original", "auc")
            was = f", {fraction(before)} before" if before is not None else ""
            auc = number_at(stages, final, "auc") or 0.0
            found[auc] = (
                f"{name} still tells deleted utterances from others: AUC {fraction(auc)} "
                f"({sure(spread)}{was}), where guessing gives 0.5"
            )
    return found[max(found)] if found else ""


def _unseen(results: Mapping[str, Any]) -> str:
    """Said where the attacks on single utterances were made and find nothing for certain."""
    auc = number_at(results, "attacks", "ulira", "stages", final_model(results), "auc")
    if auc is None or still_told(results):
        return ""
    return f"The attacks on single utterances find nothing for certain (U-LiRA AUC {fraction(auc)})."


def _interval(results: Mapping[str, Any], *keys: str) -> str:
    spread = sure(interval_at(results, *keys))
    return f" ({spread})" if spread else ""


def _those(results: Mapping[str, Any]) -> str:
    seeds = len(rows(at(results, "models", "retrained", "seeds")))
    return "models retrained without them" if seeds > 1 else "a model retrained without them"


def _beside(results: Mapping[str, Any], ours: float) -> str:
    nothing, floor = number_at(results, "gap", "none", "mean"), noise_floor(results, "mean")
    said = [f"doing nothing stands {fraction(nothing)}"] if nothing is not None else []
    if floor is not None:
        nearer = fraction(floor) if floor < ours else f"no nearer ({fraction(floor)})"
        said.append(f"another retraining {nearer}")
    return f"; {', '.join(said)}" if said else ""


def _nothing(results: Mapping[str, Any]) -> str:
    """The sentence for a run whose requests could not change the model; empty where they could."""
    if at(results, "gap", "nothing_to_forget") is not True:
        return ""
    rho = number_at(results, "gap", "rho")
    said = f" (rho = {significant(rho)})" if rho is not None else ""
    return (
        f"There is nothing to forget here{said}: the original stands hardly further from retrained models "
        "than they stand from each other. "
    )


def _remarks(results: Mapping[str, Any]) -> list[str]:
    if nothing_unlearned(results):
        return []
    remarks = [
        _seeing(results),
        _forgetting(results),
        _doubt(results),
        _unseen(results),
        _recovery(results),
        _saving(results),
        _floor(results),
    ]
    return [remark for remark in remarks if remark]


def _seeing(results: Mapping[str, Any]) -> str:
    seen = SEEN.get(plain(at(results, "unlearning", "sees")))
    method = plain(at(results, "unlearning", "method"))
    return f"An upper reference, not an answer: “{method}” sees {seen}." if seen else ""


def _beyond(results: Mapping[str, Any]) -> float | None:
    """Forget accuracy of the final model less that of the retrained one; None where either is unknown."""
    ours = number_at(results, "models", final_model(results), "forget", "accuracy")
    target = number_at(results, "models", "retrained", "forget", "accuracy")
    return None if ours is None or target is None else ours - target


def _shown(results: Mapping[str, Any]) -> bool:
    """Whether the interval of the final model's forget accuracy leaves the retrained one's out."""
    target = number_at(results, "models", "retrained", "forget", "accuracy") or 0.0
    spread = interval_at(results, "models", final_model(results), "forget", "accuracy_interval")
    return spread is None or not spread[0] <= target <= spread[1]


def _over_forgets(results: Mapping[str, Any]) -> bool:
    beyond = _beyond(results)
    return beyond is not None and beyond < -FAR and _shown(results)


def _forgetting(results: Mapping[str, Any]) -> str:
    beyond = _beyond(results)
    if beyond is None:
        return ""
    margin = max(ABOUT_AS_MUCH, noise_floor(results, "forget") or 0.0)
    sure_of_it = _shown(results)
    verdict = "It knows the deleted utterances about as well as a model that never heard them"
    if beyond > margin:
        knows = "still knows" if sure_of_it else "may still know"
        verdict = f"It {knows} more of the deleted utterances than a model that never heard them"
    elif beyond < -margin:
        head = "Over-forgetting: it knows" if sure_of_it else "It may over-forget and know"
        verdict = f"{head} less of the deleted utterances than a model that never heard them"
    final = final_model(results)
    ours, target, before = (
        number_at(results, "models", name, "forget", "accuracy") for name in (final, "retrained", "original")
    )
    spread = _interval(results, "models", final, "forget", "accuracy_interval")
    doubt = "" if abs(beyond) <= margin or sure_of_it else ", too few utterances to be sure"
    was = f"; it was {fraction(before)} before" if before is not None else ""
    return f"{verdict}: forget accuracy {fraction(ours)}{spread} against {fraction(target)}{doubt}{was}."


def _doubt(results: Mapping[str, Any]) -> str:
    """Said where the final model and doing nothing cannot be told apart."""
    ours = interval_at(results, "gap", final_model(results))
    nothing = interval_at(results, "gap", "none")
    if plain(at(results, "config", "unlearning", "method")) == "none":
        return ""
    if ours is None or nothing is None or ours[1] < nothing[0] or nothing[1] < ours[0]:
        return ""
    return (
        f"The intervals of its gap ({sure(ours)}) and of doing nothing ({sure(nothing)}) overlap: on so "
        "little speech the two can hardly be told apart."
    )


def _recovery(results: Mapping[str, Any]) -> str:
    gaps = [number_at(results, "gap", name, "mean") for name in ("unlearned", "recovered")]
    knows = [number_at(results, "models", name, "forget", "accuracy") for name in ("unlearned", "recovered")]
    if gaps[0] is None or gaps[1] is None:
        return ""
    moved = f"mean gap {fraction(gaps[0])} before them, {fraction(gaps[1])} after"
    if fraction(gaps[0]) == fraction(gaps[1]):
        return f"The recovery rounds left the mean gap where it was: {fraction(gaps[1])}."
    if abs(gaps[1] - gaps[0]) < (noise_floor(results, "mean") or 0.0):
        return f"The recovery rounds moved the model by less than the noise floor: {moved}."
    if gaps[1] > gaps[0]:
        back = knows[0] is not None and knows[1] is not None and knows[1] > knows[0]
        reversion = ", and brought deleted knowledge back (reversion)" if back else ""
        return f"The recovery rounds led away from the retrained model{reversion}: {moved}."
    if gaps[1] < gaps[0]:
        return f"The recovery rounds led towards the retrained model: {moved}."
    return ""


def _saving(results: Mapping[str, Any]) -> str:
    parts = [number_at(results, "cost", name, "client_seconds") for name in ("unlearn", "recover", "retrain")]
    unlearn, recover, retrain = parts
    if unlearn is None or recover is None or not retrain or unlearn + recover == 0:
        return ""
    spent = unlearn + recover
    if spent < retrain:
        ratio, word = retrain / spent, "less"
    else:
        ratio, word = spent / retrain, "more"
    return (
        f"Unlearning and recovery took the clients {duration(spent)} of computing, retraining "
        f"{duration(retrain)}: {ratio:,.{0 if ratio >= 10 else 1}f} times {word}."
    )


def _floor(results: Mapping[str, Any]) -> str:
    floor = noise_floor(results, "mean")
    nothing = number_at(results, "gap", "none", "mean")
    if floor is None:
        has_gap = number_at(results, "gap", final_model(results), "mean") is not None
        return (
            "There is one retrained model and so no noise floor: small differences prove nothing "
            "(set evaluation.retrained_seeds to 2 or more)."
            if has_gap
            else ""
        )
    known = at(results, "gap", "nothing_to_forget") is not None  # then it is in the headline
    if not known and nothing is not None and nothing < NOTHING_TO_FORGET * floor:
        return (
            f"There was little or nothing to forget: the original model already stands {fraction(nothing)} "
            f"from the retrained one, and retrained models stand {fraction(floor)} from each other."
        )
    return ""
