"""Measures of models and of what they give away; no federation.

Reading order: ``recordings`` and ``judge`` (a model evaluated on every set) -> ``metrics``, ``intervals`` ->
``gap`` with ``resampling`` (the distance to retrained models) -> ``verdict`` (all measures of a run).
Membership: ``membership``, ``roc``, ``lira``, ``informed``, ``shadow_attack``. Privacy of the request:
``request_privacy``, ``reconstruction``. Further measures: ``distances``, ``fairness``, ``gum``,
``relearning``.
"""
