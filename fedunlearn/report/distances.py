"""Further distances to the retrained models: outputs, relearning, what recovery brought back, GUM."""

from collections.abc import Callable

from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.values import MISSING, count, fraction, many, plain, signed
from fedunlearn.results_schema import RANDOM_WEIGHTS, DistanceScores, GumScores, RelearnTime, Results

MODELS = ("original", "unlearned", "recovered", RANDOM_WEIGHTS.model, "retrained")
_HEADS = {RANDOM_WEIGHTS.model: RANDOM_WEIGHTS.words}
_WORDS = {RANDOM_WEIGHTS.model: "control"}
_DISTANCES: tuple[tuple[str, str, str, Callable[[DistanceScores], float | None]], ...] = (
    ("tow", "Tug of war", "1 = the retrained accuracies", lambda d: d.tow),
    ("ks", "Kolmogorov-Smirnov", "of the losses on D_f", lambda d: d.ks),
    ("wasserstein", "Wasserstein-1", "of the losses on D_f, nats", lambda d: d.wasserstein),
    ("js", "Jensen-Shannon", "of the outputs on D_f, nats", lambda d: d.js),
)
_GUM: tuple[tuple[str, str, Callable[[GumScores], float | None]], ...] = (
    ("GUM", "gum", lambda scores: scores.gum),
    ("CGUM", "gum", lambda scores: scores.cgum),
    ("efficacy", "", lambda scores: scores.efficacy),
    ("utility", "", lambda scores: scores.utility),
    ("time", "", lambda scores: scores.time),
)


def distance_table(results: Results) -> Table | None:
    """Distances to the retrained models and relearn time, by model; None where there are none."""
    rows = []
    for word, head, note, measure in _DISTANCES:
        found = [measure(results.distances[name]) for name in MODELS]
        if any(value is not None for value in found):
            rows.append(Row(head, note, _mark_last([Cell(fraction(value)) for value in found]), word))
    if results.relearn:
        times = [
            RelearnTime.empty() if name == RANDOM_WEIGHTS.model else results.relearn[name] for name in MODELS
        ]
        target = next((time.target for time in times if time.target is not None), None)
        note = "gradient steps" if target is None else f"gradient steps to {fraction(target)}"
        rows.append(Row("Relearn time", note, _mark_last([_relearn_cell(t) for t in times]), "relearn"))
    if not rows:
        return None
    columns = (
        Column(_HEADS.get(name, name), _WORDS.get(name, name), name, name == "retrained") for name in MODELS
    )
    return Table((Column("measure"), *columns), tuple(rows))


def _mark_last(cells: list[Cell]) -> tuple[Cell, ...]:
    return (*cells[:-1], Cell(cells[-1].text, cells[-1].note, reference=True))


def _relearn_cell(time: RelearnTime) -> Cell:
    if time.steps is None and time.limit is None:
        return Cell(MISSING)
    if time.reached is False:
        return Cell(f"> {count(time.limit)}", "not reached")
    known = time.low is not None and time.high is not None and time.low != time.high
    return Cell(_steps(time.steps), f"{_steps(time.low)} to {_steps(time.high)}" if known else "")


def _steps(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def reversion_summary(results: Results) -> str:
    """What the recovery rounds changed in what should be gone; empty where unknown."""
    reversion = results.reversion
    changes = (
        ("forget accuracy", reversion.forget),
        ("membership AUC", reversion.membership),
        ("mean gap", reversion.gap),
    )
    return ", ".join(f"{name} {signed(change)}" for name, change in changes if change is not None)


def reversion_table(results: Results) -> Table | None:
    """Forget accuracy before and after each unlearn step and after its recovery; None where unknown."""
    rows = []
    for step in filter(None, results.reversion.steps):
        after, end = step.unlearned, step.recovered
        back = None if after is None or end is None else end - after
        clients = ", ".join(map(str, step.clients)) or plain(None)
        cells = (*(fraction(value) for value in (step.before, after, end)), signed(back))
        note = f"client{'s' if len(step.clients) > 1 else ''} {clients}"
        rows.append(Row(f"round {count(step.round)}", note, tuple(map(Cell, cells)), "reversion"))
    heads = ("unlearn step", "before", "unlearned", "recovered", "brought back")
    return Table(tuple(Column(head) for head in heads), tuple(rows)) if rows else None


def gum_table(results: Results) -> Table | None:
    """GUM and CGUM with their parts; None where unknown."""
    rows = []
    for name in ("unlearned", "recovered"):
        values = [part(results.gum[name]) for _, _, part in _GUM]
        if any(value is not None for value in values):
            rows.append(Row(name, "", tuple(Cell(fraction(value)) for value in values), name))
    columns = (Column("model"), *(Column(head, word) for head, word, _ in _GUM))
    return Table(columns, tuple(rows)) if rows else None


def distance_note(results: Results) -> str:
    """Which models the distances are to."""
    seeds = len(results.models.retrained.seeds)
    if seeds < 2:
        return "To the one retrained model."
    return (
        f"Means over {many(seeds, 'retrained seed')}; the retrained models' own distances are between their "
        "seeds: what chance alone makes."
    )
