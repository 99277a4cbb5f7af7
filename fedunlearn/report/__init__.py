"""From ``results.json`` to ``report.html``: one page, no script, no network.

Reading order: ``values`` (numbers that may be missing) -> ``finding`` (what the numbers say, in words) ->
``tables``, ``drawing`` (ink and SVG) -> a file a subject, with its table and its figure (``side_by_side``,
``gaps``, ``attacks`` and ``roc``, ``fairness``, ...) -> ``page``, ``papers`` (the figures as files) and
``model_card`` (what goes with a trained encoder).
Several runs on one page: ``runs`` (which of them may be compared) -> ``runs_finding`` -> ``runs_figure``,
``runs_tables`` -> ``runs_page``.
"""

from fedunlearn.report.figures.export import write_figures
from fedunlearn.report.model_card import model_card
from fedunlearn.report.run_page import write_report
from fedunlearn.report.runs.page import write_comparison

__all__ = ["model_card", "write_comparison", "write_figures", "write_report"]
