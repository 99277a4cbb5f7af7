"""From results to pages, tables and figures: no script, no network.

Reading order: ``values`` (how numbers are written), ``names`` and ``tables`` -> ``request_view`` (requests as
people made them) -> ``finding`` (what the numbers say, in words) -> one module for each subject, with its
table and its figure (``side_by_side``, ``gaps``, ``attacks``, ``fairness``, ``costs``, ...) -> ``run_page``,
``model_card`` and ``figures.export``. Figures that are no table's, and the style of all: ``figures``.

Several runs: ``statistics`` (means over seeds, what can be distinguished) -> ``runs`` (which runs may be
compared, and their page) and ``study`` (tables and figures of a comparison, which ``markup`` writes).
"""
