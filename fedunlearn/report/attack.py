"""The attack of a run in one sentence: who made how many adversarial samples, and how many succeeded."""

from fedunlearn.report.names import method_name
from fedunlearn.report.values import many
from fedunlearn.results_schema import Results


def describe_attack(results: Results) -> str:
    """Describe the adversarial fine-tunes of a run; empty where no client attacked its model.

    A client that served several requests in one step made its samples once.
    """
    steps = {
        (request.client, request.round_applied): (request.adversarial, request.attack_success or 0.0)
        for request in results.requests
        if request.round_applied is not None and request.adversarial
    }
    samples = sum(made or 0 for made, _ in steps.values())
    if not samples:
        return ""
    hits = sum((made or 0) * success for made, success in steps.values())
    clients = many(len({client for client, _ in steps}), "client")
    return (
        f"{clients} ran the adversarial fine-tune ({method_name(results)}) on the forget set alone: "
        f"{samples:,} adversarial samples, {hits / samples:.0%} of them classified as the attack wanted"
    )
