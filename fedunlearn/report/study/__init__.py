"""Tables and figures of a study.

Reading order: ``statistics`` (its rows by setting) -> ``tables`` and ``figures``, ``claims`` -> ``page``.
"""
