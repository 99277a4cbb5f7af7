"""The ways in which a run ends early, and what the command line makes of them."""

from collections.abc import Sequence

EXIT_OK = 0
EXIT_BAD_INPUT = 2
EXIT_FAILED = 3
EXIT_NOT_COMPARED = 4
"""of `fedunlearn ledger verify`: nothing is there to compare with; of `audit replay`: undecided"""


class BadInput(Exception):
    """Something the user gave is wrong. Raised before heavy work starts; exit code 2.

    Args:
        problems: one line each, naming the thing, the place and what to do.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class RunFailed(Exception):
    """The run could not be completed (quorum lost, a request unfulfilled); exit code 3."""


class Interrupted(RunFailed):
    """The run was stopped from outside (Ctrl-C, SIGTERM); exit code 3."""
