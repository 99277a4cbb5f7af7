"""The ClientApp and what a device computes.

Reading order: ``steps`` (training, unlearning, evaluation, as functions) -> ``device`` (what a process keeps
between messages) -> ``app`` (a handler for each message type). ``privacy`` clips updates and adds noise,
``liveness`` detects workers that died, and ``adversaries`` are malicious clients that test the server's
guard.
"""
