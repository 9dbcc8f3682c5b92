"""The arms of a comparison: what a classifier is fine-tuned from, and what kind it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pocketvit.config import Settings
from pocketvit.errors import UserError
from pocketvit.model.networks import NETWORKS
from pocketvit.model.vit import ViT
from pocketvit.training.objectives import PRETRAINING


@dataclass(frozen=True)
class Arm:
    """A network, and a way to initialise it.

    Args:
        name: in files and JSON
        title: in tables and figures
        colour: in figures, as #rrggbb
        objective: of pre-training, one of PRETRAINING, whose encoder it starts from; None starts from random init
        network: kind of classifier, one of NETWORKS
    """

    name: str
    title: str
    colour: str
    objective: str | None = None
    network: str = "vit"

    @property
    def doing(self) -> str:
        """What its training is called."""
        return f"fine-tuning from {self.title}" if self.network == "vit" else f"training a {self.title}"

    @property
    def preparing(self) -> str:
        """What its pre-training is called."""
        return f"pre-training ({self.title})"

    def training(self, budget: int | None, seed: int, *, budgets: int, seeds: int) -> str:
        """What one of its trainings is called, where there are so many label budgets and seeds."""
        labels = f", {labels_in_words(budget)}" if budgets > 1 else ""
        return f"{self.doing}{labels}{f', seed {seed}' if seeds > 1 else ''}"

    def to_json(self) -> dict[str, Any]:
        """What a report needs to know of it."""
        told = {"name": self.name, "title": self.title, "colour": self.colour, "network": self.network}
        return told | {"pretrained": self.objective is not None}


RANDOM = Arm("random", ViT.title, ViT.colour)


def known_arms() -> tuple[Arm, ...]:
    """Every arm there is, pre-trained ones first."""
    pretrained = (Arm(name, kind.title, kind.colour, name) for name, kind in PRETRAINING.items())
    others = (Arm(name, kind.title, kind.colour, network=name) for name, kind in NETWORKS.items() if kind is not ViT)
    return (*pretrained, RANDOM, *others)


def arms_of(settings: Settings) -> tuple[Arm, ...]:
    """Those that settings ask for; raises UserError for a name that none has."""
    if settings.arms == "all":
        return tuple(arm for arm in known_arms() if not arm.objective or PRETRAINING[arm.objective].usual)
    try:
        return arms_named([name.strip() for name in settings.arms.split(",")])
    except KeyError as error:
        known = ", ".join(arm.name for arm in known_arms())
        raise UserError(f"--arms: no arm is called {error}: expected some of {known}, or all") from None


def arm_of(settings: Settings, verb: str, *, pretrained: bool) -> Arm:
    """What a verb that trains one arm calls it; raises UserError for several, or for one that is not `pretrained`.

    Where not, it is one that is trained from scratch.
    """
    if settings.arms == "all":
        return arms_named(["mae"])[0] if pretrained else RANDOM
    arms = arms_of(settings)
    if len(arms) > 1 or bool(arms[0].objective) != pretrained:
        start = "pre-trained, as mae" if pretrained else "trained from scratch, as random"
        raise UserError(f"--arms {settings.arms}: {verb} trains one arm: expected one that is {start}")
    return arms[0]


def objectives_of(settings: Settings, *, compared: bool) -> tuple[str, ...]:
    """Objectives of pre-training: where arms are `compared`, of all of them; or else that of one."""
    arms = arms_of(settings) if compared or settings.arms != "all" else arms_named(["mae"])
    return tuple(arm.objective for arm in arms if arm.objective)


def networks_of(settings: Settings, *, compared: bool) -> tuple[str, ...]:
    """Kinds of network that are trained: where arms are `compared`, of all of them; or else that of one."""
    if settings.arms == "all" and not compared:
        return (RANDOM.network,)
    return tuple(dict.fromkeys(arm.network for arm in arms_of(settings)))


def arms_named(names: list[str]) -> tuple[Arm, ...]:
    """Arms by their names, in the order of `known_arms`; KeyError for a name that none has."""
    by_name = {arm.name: arm for arm in known_arms()}
    chosen = {by_name[name].name for name in names}
    return tuple(arm for arm in by_name.values() if arm.name in chosen)


def labels_in_words(budget: int | None) -> str:
    """A label budget: so many labels per class, or all."""
    return "all labels" if budget is None else f"{budget} labels per class"
