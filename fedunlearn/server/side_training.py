"""Training beside the main line, in which no deletion happens: of the original, and of retrained models."""

from collections.abc import Callable, Sequence

from fedunlearn.messages.phase import Phase
from fedunlearn.server.context import ServerContext
from fedunlearn.server.requests import TrackedRequest
from fedunlearn.server.state import GlobalModel
from fedunlearn.server.training_rounds import TrainingRounds, is_evaluated


def has_examples_without(context: ServerContext, withheld: Sequence[TrackedRequest]) -> bool:
    """Find out whether any client has something to train on besides what these requests name.

    Args:
        context: of the server.
        withheld: requests whose utterances do not count.
    """
    with context.clients.withholding(withheld):
        return bool(context.clients.active)


def train_without_deletions(
    context: ServerContext,
    model: GlobalModel,
    stream: int,
    phase: Phase,
    after_round: Callable[[GlobalModel], None],
    withheld: Sequence[TrackedRequest] = (),
) -> GlobalModel:
    """Train ordinary rounds, without deletions, until there have been ``training.rounds`` of them.

    Args:
        context: of the server.
        model: to go on from.
        stream: seed of the clients' training streams.
        phase: RETRAIN or COUNTERFACTUAL; names the cost and the rows.
        after_round: called with the model after each round.
        withheld: requests whose utterances no client trains on.

    Returns:
        the trained model
    """
    rounds = TrainingRounds(context)
    while model.learning_rounds < context.config.training.rounds:
        learning_round = model.learning_rounds + 1
        # Not around ``after_round``: a checkpoint must count all that the vaults hold.
        with context.clients.withholding(withheld):
            if not context.clients.active:
                break
            model, result = rounds.train_round(model, stream, learning_round, phase)
        evaluate = is_evaluated(context.config, learning_round)
        rounds.report_round(learning_round, phase, model.weights, result, evaluate)
        after_round(model)
    return model
