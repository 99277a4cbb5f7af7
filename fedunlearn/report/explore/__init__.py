"""The page to explore runs: results in, one HTML file with its own script out. It loads nothing else.

Reading order: ``measures`` (what the table of methods holds) -> ``overview`` (each run as a line of it) ->
``detail`` (what is shown of one run) -> ``page`` (the file). The script is in ``script``, one file a view.
"""
