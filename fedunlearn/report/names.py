"""What models and controls are called on every page."""

MODELS = ("original", "unlearned", "recovered", "retrained")
CONTROLS = {"none": "leaves the model as it is", "destroy": "puts random weights in its place"}
"""what each control does, by its name as a method"""
CONTROL_WORDS = {"none": "doing nothing", "destroy": "random weights"}
