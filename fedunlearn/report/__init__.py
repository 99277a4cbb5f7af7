"""From ``results.json`` to ``report.html``: one page, no script, no network.

Reading order: ``values`` (numbers that may be missing) -> ``finding`` (what the numbers say, in words) ->
``tables``, ``drawing`` (ink and SVG) -> a file a subject, with its table and its figure (``side_by_side``,
``gaps``, ``attacks`` and ``roc``, ``fairness``, ...) -> ``page``, and ``papers`` (the figures as files).
"""

from fedunlearn.report.page import write_report
from fedunlearn.report.papers import write_figures

__all__ = ["write_figures", "write_report"]
