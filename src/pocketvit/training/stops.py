"""Why training may stop before its end, and how signals end a step rather than a process."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying from them, where this thread may set handlers."""
    stop: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, lambda n, _: stop.append(n)) for number in numbers}
    except ValueError:  # Not the main thread: whoever runs it decides.
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
