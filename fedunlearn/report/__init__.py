"""From ``results.json`` to ``report.html``: one page, no script, no network.

Reading order: ``values`` (numbers that may be missing) -> ``finding`` (what the numbers say, in words) ->
``tables`` -> ``drawing`` (ink and SVG), ``timeline``, ``figures`` -> ``page``.
"""

from fedunlearn.report.page import write_report

__all__ = ["write_report"]
