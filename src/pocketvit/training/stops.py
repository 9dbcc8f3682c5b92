"""Why training may stop before its end."""

from __future__ import annotations

import signal

GO_ON = "continue with pocketvit resume RUN, or with the same command and --resume"


class NonFiniteLoss(Exception):
    """The loss stopped being a number; the message names the step and the file to replay it from."""


class Interrupted(Exception):
    """SIGINT or SIGTERM came, and the state is saved; `signum` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; {GO_ON}")
        self.signum = signum


class Paused(Exception):
    """The time after which to pause is over, and the state is saved."""

    def __init__(self) -> None:
        super().__init__(f"paused; {GO_ON}")
