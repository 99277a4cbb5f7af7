"""The ServerApp. It has no corpus, no partition and no judge.

Reading order: ``state`` and ``context`` (what all parts share) -> ``app`` (the phases) -> ``main_line`` and
``training_rounds`` (learning and recovery) -> ``request_tracker`` with ``requests``, ``request_queue`` and
``requesters`` (a request's life on the server) -> ``unlearn_step`` and ``steps`` (how updates join the
model) -> ``aggregation`` (``plugin``: a user's own) and ``guard`` with ``rehearsals``. Messages:
``meeting``, ``clients``, ``exchange``, ``availability``, ``cost``. Others watch through ``callbacks``.
``privileged`` and ``history`` serve baselines that see more, ``side_training`` trains the reference models.
"""
