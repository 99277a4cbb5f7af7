"""Audits of a run folder: its ledger, its receipts, and files that still know what was deleted.

Reading order: ``ledger_notes`` (what files say about the ledger) -> ``ledger_check`` (whether they agree) ->
``replay`` (whether the run, computed again, is the one that the ledger records) -> ``influence`` (models that
were trained on deleted data).
"""
