"""Many runs as one study: which cells there are, running them, and what they found as rows.

Reading order: ``grid`` (the cells) -> ``plan`` (questions and claims) -> ``runner`` and ``cell_pool`` (run
them) -> ``rows`` -> ``claims`` (decided) -> ``compare``; ``guard_study`` does the same for malicious clients.
The soak test: ``soak``, ``soak_life``, ``soak_invariants``.
"""
