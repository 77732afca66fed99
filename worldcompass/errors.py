"""Errors that a user can mend."""


class UserError(Exception):
    """One clear sentence: what was expected, what came, how to mend it. The CLI exits with code 2."""


class StoppedRun(Exception):
    """The doctor ended a diseased run, which is saved. The CLI exits with code 1."""
