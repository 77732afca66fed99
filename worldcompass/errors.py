"""Errors that a user can mend, and the exit codes of the command."""

import signal

EXIT_DISEASED = 1
EXIT_USER_ERROR = 2
EXIT_LOST_RANK = 75  # a temporary failure, in the words of sysexits.h
EXIT_SIGNAL = 128  # plus the signal's number, as in a shell: 130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1
EXIT_INTERRUPTED = EXIT_SIGNAL + signal.SIGINT

# In the environment of ranks that our own launcher started: its process, which reports for them.
LAUNCHED = "WORLDCOMPASS_LAUNCHED"


class UserError(Exception):
    """One clear sentence: what was expected, what came, how to mend it. The CLI exits with code 2."""


class UnfitInputs(UserError, ValueError):
    """Configuration, scenarios and critics that do not fit together; a ValueError for those who call from code."""


class LostCritic(UserError):
    """A critic failed, or one in another process however often it was asked; what was learned is saved first."""


class StoppedRun(Exception):
    """Training stopped because it diverged; the last checkpoint can be resumed. The CLI exits with code 1."""


class LostRank(RuntimeError):
    """Another process of the run is gone: this one cannot go on. The CLI exits with ``EXIT_LOST_RANK``."""
