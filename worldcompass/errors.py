"""Errors that a user can mend."""


class UserError(Exception):
    """One clear sentence: what was expected, what came, how to mend it. The CLI exits with code 2."""
