"""What signals end: a step of training, or a verb; never a process in the middle of what it writes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
HEARD = b"\npocketvit: stopping after this step, which will be saved; Ctrl-C once more stops at once\n"


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying from them, where this thread may set handlers.

    A step may take a minute, where it is compiled: a person who presses Ctrl-C is answered at once, and not held by a
    second one.
    """
    stop: list[int] = []

    def collect(number: int, _: object) -> None:
        if number == signal.SIGINT:
            if number in stop:
                raise KeyboardInterrupt
            with suppress(OSError):
                os.write(2, HEARD)  # print may be at work, and cannot be entered again
        stop.append(number)

    with _handled((signal.SIGINT, signal.SIGTERM), collect):
        yield stop


@contextmanager
def unwinding_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit, of status 128 + number, so that what is half written goes away.

    What another program has seen to, as `nohup`, stays as it is.
    """
    ours = [number for number in ENDING if signal.getsignal(number) == signal.SIG_DFL]
    with _handled(ours, lambda number, _: sys.exit(128 + number)):
        yield


@contextmanager
def _handled(numbers: Iterable[int], handler: Callable[[int, Any], object]) -> Iterator[None]:
    """Signals are handled so, until the end; in a thread that may not say so, as before."""
    try:
        before = {number: signal.signal(number, handler) for number in numbers}
    except ValueError:  # Not the main thread: whoever runs it decides.
        before = {}
    try:
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, own)
