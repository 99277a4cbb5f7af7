"""What a run folder shows somebody who did not make the run: its ledger, its receipts, what still knows."""
