"""Many runs as one study: which cells there are, running them, and what they found as rows.

Reading order: ``grid`` (the cells) -> ``plan`` (questions and claims) -> ``runner`` and ``cell_pool`` (run
them) -> ``rows`` -> ``claims`` (decided) -> ``compare``; ``guard_study`` does the same for malicious clients.
What others can join: ``study_file`` (study.json), ``speech`` and ``task`` (which task it is of), ``sharing``
(made of cells, and rows of it), ``joining`` (checked and merged), ``merge``.
The soak test: ``soak``, ``soak_life``, ``soak_invariants``.
"""
