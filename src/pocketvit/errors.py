"""The one exception that a user's own mistake raises; the command line prints it as one line and exits with 2."""


class UserError(Exception):
    """A mistake the user can mend: one line that says what was found, what was expected and what to do."""
