"""What the requests themselves give away, as rows of ready-made text."""

from collections.abc import Sequence

from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import MISSING, bracketed, fraction, interval, plain, significant
from fedunlearn.results_schema import (
    KeptModelLeak,
    Reconstruction,
    RequestOutcome,
    Results,
    UpdateMembership,
)

COLUMNS = (
    "request",
    "features read off it",
    "off the models kept",
    "label mix, off by",
    "guessing alike",
    "guessing the corpus",
    "AUC against kept",
    "AUC against held-out",
)
TOO_FEW = 4
"""utterances: an update of fewer gives them away; as ``vault.calibration.FEWEST``"""
GIVEN_AWAY = 0.5
"""correlation with a deleted utterance's features from which on the page says that they are given away"""


def privacy_table(results: Results) -> Table | None:
    """One row for each request whose update came: what a curious server reads off it; None without any."""
    kept = {(row.request, row.client): row for row in results.kept}
    rows = [_row(request, kept.get((request.id, request.client))) for request in _measured(results)]
    return Table(tuple(map(Column, COLUMNS)), tuple(rows)) if rows else None


def _measured(results: Results) -> list[RequestOutcome]:
    return [request for request in results.requests if request.privacy]


def describe_leaks(results: Results) -> str:
    """Sentences where updates, or the models that the run folder keeps, give deleted utterances away."""
    measured = _measured(results)
    few = sum(0 < (request.utterances or 0) < TOO_FEW for request in measured)
    sentences = []
    evaluation = results.setting("evaluation")
    if results.status == "complete" and isinstance(evaluation, dict) and evaluation.get("ephemeral"):
        sentences.append(
            "The run was ephemeral: no model of before a deletion is kept, nor what it could be resumed from."
        )
    if few:
        which = f"{few} of {len(measured)} requests are" if len(measured) > 1 else "The request is"
        sentences.append(f"{which} of fewer than {TOO_FEW} utterances: an update of so few gives them away.")
    updates = [request.privacy.reconstruction.r for request in results.requests]
    kept = [row.r for row in results.kept]
    for correlations, source in ((updates, "The updates of {} give"), (kept, "The models kept for {} give")):
        sentences += _leaks(correlations, source)
    return " ".join(sentences)


def _leaks(correlations: Sequence[float | None], source: str) -> list[str]:
    high = [r for r in correlations if r is not None and r >= GIVEN_AWAY]
    if not high:
        return []
    which = f"{len(high)} of {len(correlations)} requests" if len(correlations) > 1 else "this request"
    return [
        f"{source.format(which)} deleted utterances away: their features are read off with a correlation of "
        f"up to {fraction(max(high))}."
    ]


def _row(request: RequestOutcome, kept: KeptModelLeak | None) -> Row:
    privacy, noise = request.privacy, request.noise
    mix = privacy.label_mix
    cells = (
        _correlation(privacy.reconstruction),
        _correlation(kept) if kept else Cell(MISSING),
        Cell(fraction(mix.tv), mix.attack or ""),
        Cell(fraction(mix.uniform), reference=True),
        Cell(fraction(mix.corpus), reference=True),
        _membership(privacy.membership, "kept"),
        _membership(privacy.membership_held_out, "held-out"),
    )
    known = noise.epsilon is not None
    note = f"noise: epsilon {significant(noise.epsilon)} at delta {noise.delta}" if known else ""
    return Row(plain(request.id), note, cells)


def _correlation(found: Reconstruction | KeptModelLeak) -> Cell:
    if found.r is None:
        return Cell(MISSING)
    between = " to ".join(found.between or ()) if isinstance(found, KeptModelLeak) else ""
    others = "" if found.r_others is None else f"others {fraction(found.r_others)}"
    return Cell(fraction(found.r), ", ".join(filter(None, (between, others))))


def _membership(found: UpdateMembership, against: str) -> Cell:
    if found.against != against:
        return Cell(MISSING)
    rate = found.tpr_at.get("0.01")
    certain = "" if rate is None else f"TPR at 1% FPR {fraction(rate)}"
    notes = (f"{bracketed(interval(found))} {plain(found.attack)}".strip(), certain)
    return Cell(fraction(found.auc), "\n".join(filter(None, notes)))
