"""From ``results.json`` to ``report.html``: one page, no script, no network.

Reading order: ``values`` (numbers that may be missing) -> ``finding`` (what the numbers say, in words) ->
``tables``, ``figures.style`` -> a file for each subject, with its table and its figure (``side_by_side``,
``gaps``, ``attacks``, ``fairness``, ...) -> ``run_page``, ``figures.export`` (the figures as files) and
``model_card`` (what goes with a trained encoder).

Several runs: ``statistics`` (means over seeds, what can be distinguished) -> ``runs`` (which runs may be
compared, and their page) and ``study`` (tables and figures of a comparison, which ``markup`` writes).
"""

from fedunlearn.report.figures.export import write_figures
from fedunlearn.report.model_card import model_card
from fedunlearn.report.run_page import write_report
from fedunlearn.report.runs.page import write_comparison

__all__ = ["model_card", "write_comparison", "write_figures", "write_report"]
