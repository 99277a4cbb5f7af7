"""The phases of a run, as messages, timelines, costs and faults name them."""

from enum import StrEnum


class Phase(StrEnum):
    """What clients and server are doing; the values stand in results.json.

    Attributes:
        MEET: clients say who they are.
        CALIBRATE: normalisation constants from all clients' moments.
        LEARN: ordinary training rounds.
        LISTEN: the server asks for deletion requests.
        EVALUATE: clients evaluate a model on what they hold out, for the requesters' scalars.
        UNLEARN: requesters unlearn.
        GUARD: clients evaluate a candidate model for the guard.
        PURGE: devices remove what was deleted.
        RECOVER: recovery rounds after an unlearn step.
        COUNTERFACTUAL: training of the original continues as if no deletion had been requested.
        RETRAIN: training from scratch without the forget set.
    """

    MEET = "meet"
    CALIBRATE = "calibrate"
    LEARN = "learn"
    LISTEN = "listen"
    EVALUATE = "evaluate"
    UNLEARN = "unlearn"
    GUARD = "guard"
    PURGE = "purge"
    RECOVER = "recover"
    COUNTERFACTUAL = "counterfactual"
    RETRAIN = "retrain"
