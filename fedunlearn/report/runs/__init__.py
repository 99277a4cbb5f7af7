"""The page of several runs.

Reading order: ``grouping`` (which runs may be compared) -> ``finding`` (what they say together) ->
``tables`` and ``figure`` -> ``page``.
"""
