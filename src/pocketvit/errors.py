"""The one exception that a user's own mistake raises; the command line prints it as one line and exits with 2."""


class UserError(Exception):
    """A mistake the user can mend: one line that says what was found, what was expected and what to do."""


class UnlikeTraining(UserWarning):
    """Images are so far from those that a model learnt from that its answers mean little."""
