"""The arms of a comparison: what a classifier is fine-tuned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pocketvit.training.objectives import PRETRAINING


@dataclass(frozen=True)
class Arm:
    """A way to initialise the network that is fine-tuned.

    Args:
        name: in files and JSON
        title: in tables and figures
        colour: in figures, as #rrggbb
        objective: of pre-training, one of PRETRAINING, whose encoder it starts from; None starts from random init
    """

    name: str
    title: str
    colour: str
    objective: str | None = None

    def to_json(self) -> dict[str, Any]:
        """What a report needs to know of it."""
        pretrained = self.objective is not None
        return {"name": self.name, "title": self.title, "colour": self.colour, "pretrained": pretrained}


RANDOM = Arm("random", "random init", "#d5651a")


def known_arms() -> tuple[Arm, ...]:
    """Every arm there is, pre-trained ones first."""
    return (*(Arm(name, kind.title, kind.colour, name) for name, kind in PRETRAINING.items()), RANDOM)


def arms_named(names: list[str]) -> tuple[Arm, ...]:
    """Arms by their names, in the order of `known_arms`; KeyError for a name that none has."""
    by_name = {arm.name: arm for arm in known_arms()}
    chosen = {by_name[name].name for name in names}
    return tuple(arm for arm in by_name.values() if arm.name in chosen)
