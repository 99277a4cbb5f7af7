"""What models, controls and methods are called on every page."""

from collections.abc import Iterable

from fedunlearn.report.values import plain
from fedunlearn.results_schema import Results

MODELS = ("original", "unlearned", "recovered", "retrained")
PRIVILEGED = {"retain": "the retain sets", "history": "the retain sets and the server's history"}
"""what a privileged baseline sees beside the forget set"""
_TICKETED = "forget + ticket"


def method_title(results: Results) -> str:
    """The unlearning method as pages show it."""
    return results.unlearning.title or method_name(results)


def method_name(results: Results) -> str:
    """Name of the unlearning method; results of old versions have it among the settings alone."""
    return plain(results.unlearning.method or results.setting("unlearning", "method"))


def privileged_data(results: Results) -> str:
    """What the method sees beside the forget set; empty where it sees nothing else."""
    return PRIVILEGED.get(results.unlearning.sees or "", "")


def sees_tickets(results: Results) -> bool:
    """Whether the method sees what the devices noted of the forget set in learning, its tickets."""
    return results.unlearning.sees == _TICKETED


def methods_used(runs: Iterable[Results]) -> list[tuple[str, str]]:
    """List the title of each unlearning method of some runs, and whom it is from; each once."""
    found = {method_title(run): run.unlearning.source for run in runs}
    return [(title, source) for title, source in found.items() if source]
