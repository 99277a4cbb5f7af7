"""A prepared experiment from its first round to its page."""

from collections.abc import Callable

from fedunlearn.engines.engine import play
from fedunlearn.errors import Interrupted, RunFailed
from fedunlearn.experiment.experiment import Experiment, write_completed
from fedunlearn.final_model import leave_model
from fedunlearn.results_schema import Results
from fedunlearn.run_folder import RunFolder
from fedunlearn.tracking import Follower


def play_to_the_page(
    experiment: Experiment,
    follower: Follower | None = None,
    resume_hint: str = "",
    player: Callable[[Experiment], Results] | None = None,
) -> Results:
    """Play an experiment; leave its results, closed requests, the page and, of a speech encoder, the model.

    Args:
        experiment: prepared, not played yet.
        follower: is given the results at the end.
        resume_hint: how to go on with a run that failed; it is added to the reason and to the exception.
        player: plays it; None = the engine that its config names.

    Returns:
        the results.

    Raises:
        RunFailed: the run could not be completed; its results and page say why and how far it came.
            ``Interrupted`` where somebody stopped it.
        BadInput: the final model cannot be read.
        OSError: a file cannot be written.
    """
    run = experiment.run
    try:
        results = (player or play)(experiment)
    except RunFailed as failure:
        reason = str(failure)
        if resume_hint:
            reason += f"; {resume_hint}"
            failure.add_note(resume_hint)
        ended = experiment.write_failure(reason, isinstance(failure, Interrupted))
        if follower is not None:
            follower.finished(ended.to_json())
        _write_page(ended, run)
        raise
    write_completed(experiment, results)
    content = results.to_json()
    if follower is not None:
        follower.finished(content)
    _write_page(results, run)
    leave_model(run, content)
    return results


def _write_page(results: Results, run: RunFolder) -> None:
    # Imported here: nothing before the page draws figures, and matplotlib would delay the first round.
    from fedunlearn.report.run_page import write_report

    write_report(results, run.report)
