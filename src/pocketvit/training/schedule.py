"""How long a stage is, and how it lands: a rate that comes down in fewer steps where the time will not do."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, replace

SLACK = 0.02  # of the steps that fit, which a landing leaves out; three times as many are worth another change
KNOWN_SHARE = 0.1  # of the time left for which a pace must have been watched before it is believed
WATCHED = 30  # settlings of losses, about a minute, that a pace is taken from


@dataclass(frozen=True)
class Deadlines:
    """Moments on time.monotonic's clock.

    Args:
        land: when a stage has to have ended; the rest of its schedule is shortened where that is in danger.
        pause: when to save and stop, for another process to go on.
    """

    land: float = math.inf
    pause: float = math.inf


@dataclass(frozen=True)
class Schedule:
    """The steps of a stage, and where each lies in the learning rate's course.

    Args:
        planned: steps that the course was laid out for.
        steps: steps after which the stage ends: those planned, or fewer.
        landing: step at which that was last changed.
        place: where that step lies in the course, from 0 to `planned`.
    """

    planned: int
    steps: int
    landing: int = 0
    place: float = 0.0

    def at(self, step: int) -> float:
        """Where `step` lies in the course: itself, unless the rest of it is run through in fewer steps."""
        return self.place + (step - self.landing) * (self.planned - self.place) / (self.steps - self.landing)

    def ending(self, done: int, rest: int) -> Schedule:
        """The same up to step `done`, and over after `rest` more, but not after more than were planned."""
        return replace(self, steps=min(self.planned, done + rest), landing=done, place=self.at(done))


class Pace:
    """Seconds a step of a stage on the clock, readings and checkpoints included, as the last minute had it."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque(maxlen=WATCHED)

    def landed(self, schedule: Schedule, done: int, land: float) -> Schedule:
        """`schedule`, or another number of steps where its rest would end after `land`, or a landing did too much.

        The first call begins the watch: what comes before it, a compiler at work mostly, says nothing of the rest.
        """
        now = time.monotonic()
        self._marks.append((now, done))
        (began, first), left, rest = self._marks[0], land - now, schedule.steps - done
        if rest <= 1 or math.isinf(land) or (left > 0 and (done == first or now - began < KNOWN_SHARE * left)):
            return schedule
        fits = left * (done - first) / (now - began) if left > 0 else 0.0
        most = schedule.planned - done
        if min(fits, most) * (1 - 3 * SLACK) <= rest <= fits:
            return schedule
        chosen = max(1, min(int(fits * (1 - SLACK)), most))
        if chosen == rest:
            return schedule
        # Watched anew: what the pace was before, and the checkpoint that a change is worth, would call for another.
        self._marks.clear()
        return schedule.ending(done, chosen)
