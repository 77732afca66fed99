"""Errors that a user can mend."""

EXIT_LOST_RANK = 75  # a temporary failure, in the words of sysexits.h
LAUNCHED = (
    "WORLDCOMPASS_LAUNCHED"  # its process, in the environment of ranks for which a launcher of ours speaks
)


class UserError(Exception):
    """One clear sentence: what was expected, what came, how to mend it. The CLI exits with code 2."""


class UnfitInputs(UserError, ValueError):
    """Configuration, scenarios and critics that do not fit together; a ValueError for those who call from code."""


class LostCritic(UserError):
    """A critic failed, or one in another process however often it was asked; what was learned is saved first."""


class StoppedRun(Exception):
    """A diseased run was ended; what is saved can be gone on with. The CLI exits with code 1."""


class LostRank(RuntimeError):
    """Another process of the run is gone: this one cannot go on. The CLI exits with ``EXIT_LOST_RANK``."""
