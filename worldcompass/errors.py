"""Errors that a user can fix, and the exit codes of the command line."""

import signal

EXIT_DISEASED = 1
EXIT_USER_ERROR = 2
EXIT_LOST_RANK = 75  # EX_TEMPFAIL of sysexits.h
EXIT_SIGNAL = 128  # plus the signal's number, as in a shell: 130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1
EXIT_INTERRUPTED = EXIT_SIGNAL + signal.SIGINT

# Environment variable of ranks under the package's launcher: its process id, as the launcher reports for them.
LAUNCHED = "WORLDCOMPASS_LAUNCHED"


class UserError(Exception):
    """One sentence: what was expected, what came, how to fix it. The CLI exits with code 2."""


class UnfitInputs(UserError, ValueError):
    """Configuration, scenarios and critics do not fit together; also a ValueError, for callers in Python."""


class LostCritic(UserError):
    """A critic failed, after all retries if it is remote; training saves its earlier steps first."""


class StoppedRun(Exception):
    """Training stopped because it diverged; the last checkpoint can be resumed. The CLI exits with code 1."""


class LostRank(RuntimeError):
    """Another process of the run is lost, so this one cannot continue. The CLI exits with ``EXIT_LOST_RANK``."""
