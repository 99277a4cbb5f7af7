"""What models, controls and methods are called on every page."""

from fedunlearn.report.values import plain
from fedunlearn.results_schema import Results

MODELS = ("original", "unlearned", "recovered", "retrained")
CONTROLS = {"none": "leaves the model as it is", "destroy": "puts random weights in its place"}
"""what each control does; results of old versions do not say"""
CONTROL_WORDS = {"none": "doing nothing", "destroy": "random weights"}
RANDOM_WEIGHTS = "destroy"
"""the control that is so far from all methods that figures may leave it outside"""
CONTROL_COLOURS = {"none": "original", "destroy": "destroy"}
"""control -> the model whose colour it has: doing nothing leaves the original"""
PRIVILEGED = {"retain": "the retain sets", "history": "the retain sets and the server's history"}
"""what a privileged baseline sees beside the forget set"""


def method_title(results: Results) -> str:
    """The unlearning method as pages show it."""
    return results.unlearning.title or method_name(results)


def control_effect(results: Results) -> str:
    """What the method does in place of unlearning, where it is a control; else empty."""
    control = results.unlearning.control
    return CONTROLS.get(method_name(results), "") if control is None else control


def method_name(results: Results) -> str:
    """Name of the unlearning method; results of old versions have it among the settings alone."""
    return plain(results.unlearning.method or results.setting("unlearning", "method"))


def privileged_data(results: Results) -> str:
    """What the method sees beside the forget set; empty where it sees nothing else."""
    return PRIVILEGED.get(results.unlearning.sees or "", "")
