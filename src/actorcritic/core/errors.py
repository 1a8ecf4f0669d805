"""The one error that is meant for people."""


class UserError(Exception):
    """A mistake that the user can mend. The command line prints its text, never a traceback."""
