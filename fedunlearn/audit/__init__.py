"""Audits of a run folder: its ledger, its receipts, and files that still know what was deleted."""
