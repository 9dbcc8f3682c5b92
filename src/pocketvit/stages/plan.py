"""What a run will do and how long that takes: its stages with their steps, chosen to fit a time where one is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pocketvit.errors import UserError
from pocketvit.stages.arms import Arm, arms_named, labels_in_words
from pocketvit.training.log import Place

LEAST_STEPS = 10  # of a stage that trains
LONGEST = 4.0  # times the recipe's lengths, beyond which a longer time is not filled
ENOUGH = 0.75  # of the recipe's lengths; what is shorter has seeds and arms from scratch give way first
FIRST = 0.5  # of a time limit that pre-training and the first seed of each arm have before lengths are cut for others
CLOSE = 0.97  # of a time limit that is planned for; the last stage lands where the pace was another
GENEROUS = 1.25  # times the steps that would fit: a stage that runs late lands, one that runs early has nothing to do


@dataclass(frozen=True)
class Part:
    """A stage of a plan.

    Args:
        key: of its files in the run.
        title: for people.
        seconds: that it takes in all.
        tail: seconds of them that no landing shortens.
        trains: whether a landing can shorten the rest.
        steps: of training; None where the recipe has the say.
    """

    key: str
    title: str
    seconds: float
    tail: float = 0.0
    trains: bool = False
    steps: int | None = None


@dataclass(frozen=True)
class Plan:
    """The stages of a run, in order. Without any, all lengths are the recipe's and nothing is known of their time.

    Args:
        parts: the stages.
        arms: names of those that are trained.
        seeds: how many fine-tunings each has.
        spent: seconds before the first stage.
        limit: seconds, from the run's begin, by which all has to be over; None for no limit.
        reserve: seconds of the limit that no stage is given.
        probed: images of each split that frozen encoders read at most; None for all.
        notes: what gave way, and what more time would buy, in sentences.
    """

    parts: tuple[Part, ...] = ()
    arms: tuple[str, ...] = ()
    seeds: int = 1
    spent: float = 0.0
    limit: float | None = None
    reserve: float = 0.0
    probed: int | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Plan of {len(self.parts)} stages, about {self.seconds:.0f} s: arms {', '.join(self.arms)}>"

    @property
    def seconds(self) -> float:
        """That the run will have taken at its end."""
        return self.spent + sum(part.seconds for part in self.parts)

    def steps(self, key: str) -> int | None:
        """Of a stage; None where the recipe has the say."""
        return next((part.steps for part in self.parts if part.key == key), None)

    def seconds_for(self, key: str, spent: float, done: Callable[[str], bool], patience: float = 1.0) -> float:
        """Seconds that the training of a stage may take, `spent` seconds after the run's begin.

        What is left, but for what cannot be shortened, is divided as the plan divides it among the stages to come.

        Args:
            key: of a stage that is not done; one that the plan does not have may take for ever.
            spent: seconds.
            done: whether a stage is, by its key.
            patience: times its share that it may take, within the limit.
        """
        if self.limit is None or all(part.key != key for part in self.parts):
            return math.inf
        coming = [part for part in self.parts if not done(part.key)]
        fixed = sum(part.tail if part.trains else part.seconds for part in coming)
        trained = {part.key: part.seconds - part.tail for part in coming if part.trains}
        left = self.limit - spent - fixed
        return max(0.0, min(patience * (left - self.reserve) * trained[key] / sum(trained.values()), left))

    def place(self, key: str, done: Callable[[str], bool]) -> Place | None:
        """Where a stage stands among all; None where there is no plan."""
        keys = [part.key for part in self.parts]
        if key not in keys:
            return None
        number = keys.index(key)
        own, later = self.parts[number], sum(p.seconds for p in self.parts if p.key != key and not done(p.key))
        planned = own.seconds - own.tail if own.trains and self.limit is None else None
        return Place(number + 1, len(keys), own.title, later + own.tail, planned)

    def to_json(self) -> dict[str, Any]:
        """For the run."""
        return asdict(self)

    @classmethod
    def of(cls, found: dict[str, Any]) -> Plan:
        """From what `to_json` gave."""
        parts = tuple(Part(**part) for part in found["parts"])
        return cls(**{**found, "parts": parts, "arms": tuple(found["arms"]), "notes": tuple(found["notes"])})


@dataclass(frozen=True)
class Length:
    """What a training stage takes: `steps` of the recipe, and seconds.

    Args:
        steps: the recipe's.
        step: seconds of one, its share of the readings included.
        tail: seconds after the last.
    """

    steps: int
    step: float
    tail: float

    def cut(self, factor: float) -> int:
        """Steps of `factor` times the recipe's length."""
        return max(min(LEAST_STEPS, self.steps), round(factor * self.steps))

    def seconds(self, factor: float) -> float:
        """Of `factor` times the recipe's length."""
        return self.cut(factor) * self.step + self.tail


@dataclass(frozen=True)
class Outlay:
    """What the stages of a comparison cost on this machine.

    Args:
        pretrain: by objective; empty where the run starts from weights.
        finetune: of one fine-tuning, by kind of network and label budget.
        probe: seconds of one encoder.
        probed: images of each split that it reads at most; None for all.
        pixels: seconds for one seed, by label budget.
        pixel_seeds: whether other seeds have other pixels to learn from.
        labels: seconds of looking for wrong ones.
        report: seconds.
    """

    pretrain: dict[str, Length]
    finetune: dict[str, dict[int | None, Length]]
    probe: float
    probed: int | None
    pixels: dict[int | None, float]
    pixel_seeds: bool
    labels: float
    report: float

    def parts(
        self, arms: Sequence[Arm], seeds: Sequence[int], factor: float, key: Callable[[str, int | None, int], str]
    ) -> list[Part]:
        """The stages, all lengths `factor` times the recipe's; `key` names a fine-tuning by arm, budget and seed."""
        words = {budget: f", {labels_in_words(budget)}" if len(self.pixels) > 1 else "" for budget in self.pixels}
        read = len(seeds) if self.pixel_seeds else 1
        found = [Part(f"pixels-{b or 'all'}", f"raw pixels{words[b]}", read * t) for b, t in self.pixels.items()]
        for arm in arms:
            if arm.objective in self.pretrain:
                pre = self.pretrain[arm.objective]
                seconds = pre.seconds(factor)
                found.append(Part(f"pretrain-{arm.objective}", arm.preparing, seconds, pre.tail, True, pre.cut(factor)))
        encoders = sum(1 for arm in arms if arm.objective) + 1
        found.append(Part("probe", "probe", encoders * self.probe))
        if encoders > 1:
            found.append(Part("labels", "doubtful labels", self.labels))
        for budget in self.pixels:
            for seed in seeds:
                for arm in arms:
                    length = self.finetune[arm.network][budget]
                    title = arm.training(budget, seed, budgets=len(self.pixels), seeds=len(seeds))
                    seconds = length.seconds(factor)
                    name = key(arm.name, budget, seed)
                    found.append(Part(name, title, seconds, length.tail, True, length.cut(factor)))
        return [*found, Part("report", "report", self.report)]


@dataclass(frozen=True)
class Way:
    """One way to spend the time: these arms and seeds, and the lengths that then fit, as a factor on the recipe's."""

    arms: tuple[Arm, ...]
    seeds: range
    factor: float

    def is_good(self, outlay: Outlay, limit: float) -> bool:
        """Whether nothing more has to give way."""
        lengths = [length for arm in self.arms for length in outlay.finetune[arm.network].values()]
        lengths += [outlay.pretrain[arm.objective] for arm in self.arms if arm.objective in outlay.pretrain]
        first = sum(length.seconds(self.factor) for length in lengths)
        return self.factor >= 1 or (self.factor >= ENOUGH and (first >= FIRST * limit or len(self.seeds) == 1))


def make_plan(
    outlay: Outlay,
    arms: Sequence[Arm],
    seeds: range,
    spent: float,
    key: Callable[[str, int | None, int], str],
    *,
    limit: float | None = None,
    within: float | None = None,
) -> Plan:
    """The stages of a comparison, with the lengths of the recipe or those that fit a time.

    Where the time is short, seeds give way first, then arms that only tell what pre-training is worth, then lengths. A
    rival of another kind stays: it is often the better network where time is short.

    Args:
        outlay: what stages cost.
        arms: all that there might be.
        seeds: all that there might be.
        spent: seconds since the run's begin.
        key: of a fine-tuning by arm, budget and seed.
        limit: seconds from the run's begin by which all has to be over, and which are to be used.
        within: as limit, but a wish: what is shorter stays as it is, and nothing lands.

    Raises:
        UserError: not even the least lengths fit `limit`; the message says what would.
    """
    total = limit or within
    chosen = Way(tuple(arms), seeds, 1.0)
    if total is not None:
        for chosen in _ways(outlay, arms, seeds, spent, total, key):
            if chosen.is_good(outlay, total if limit else 0.0):
                break
        chosen = Way(chosen.arms, chosen.seeds, min(chosen.factor, LONGEST if limit else 1.0))
    if limit is not None:
        _refuse_less_than_least(outlay, chosen, spent, limit, key)
    generous = GENEROUS if limit and chosen.factor < LONGEST else 1.0
    parts = outlay.parts(chosen.arms, chosen.seeds, chosen.factor, key)
    # Steps beyond those that fit, for a pace that was measured too low; the seconds stay those that there are.
    parts = [replace(part, steps=round(generous * part.steps)) if part.steps else part for part in parts]
    names = tuple(arm.name for arm in chosen.arms)
    all_of_it = spent + sum(part.seconds for part in outlay.parts(arms, seeds, 1.0, key))
    notes = tuple(_notes(chosen, arms, seeds, all_of_it / CLOSE, limit, outlay.probed))
    reserve = (1 - CLOSE) * (limit or 0.0)
    return Plan(tuple(parts), names, len(chosen.seeds), spent, limit, reserve, outlay.probed, notes)


def _ways(
    outlay: Outlay,
    arms: Sequence[Arm],
    seeds: range,
    spent: float,
    total: float,
    key: Callable[[str, int | None, int], str],
) -> Iterator[Way]:
    """From all arms and seeds to a single seed without controls, with the longest lengths that fit."""
    ways, left = [(tuple(arms), seeds[:count]) for count in range(len(seeds), 0, -1)], list(arms)
    for arm in arms:
        if _is_control(arm, arms):
            left.remove(arm)
            ways.append((tuple(left), seeds[:1]))
    for some, first in ways:
        at_1, at_2 = (sum(p.seconds for p in outlay.parts(some, first, factor, key)) for factor in (1.0, 2.0))
        yield Way(some, first, 1.0 + (total * CLOSE - spent - at_1) / (at_2 - at_1))


def _refuse_less_than_least(
    outlay: Outlay, way: Way, spent: float, limit: float, key: Callable[[str, int | None, int], str]
) -> None:
    least = (spent + sum(part.seconds for part in outlay.parts(way.arms, way.seeds, 0.0, key))) / CLOSE
    if least > limit:
        raise UserError(
            f"--time-limit: {limit:.0f} s are too short here, even for {LEAST_STEPS} steps of each stage: "
            f"give {math.ceil(1.1 * least)}s"
        )


def _notes(
    way: Way, arms: Collection[Arm], seeds: range, whole: float, limit: float | None, probed: int | None
) -> Iterator[str]:
    """What gave way, and what would have done."""
    gone = [arm for arm in arms if arm not in way.arms]
    gave = [f"{arm.title} (so that what pre-training is worth is not measured)" for arm in gone]
    gave += [f"{len(seeds) - len(way.seeds)} of {len(seeds)} seeds"] if len(way.seeds) < len(seeds) else []
    gave = [f"without {' and '.join(gave)}"] if gave else []
    gave += [f"with lengths of {100 * way.factor:.0f} % of the recipe's"] if way.factor < 0.995 else []
    if gave:
        yield f"For want of time {', '.join(gave)}: --time-limit {math.ceil(whole / 60)}m would fit the whole."
    if probed is not None:
        yield f"Frozen encoders read {probed:,} images of each split at most, for want of time; so do labels in doubt."
    if limit is not None and way.factor >= LONGEST:
        yield f"It ends before the limit: lengths are {LONGEST:.0f} times the recipe's, and more is not known to help."


def plan_arms(plan: Plan) -> tuple[Arm, ...]:
    """The arms that a plan trains."""
    return arms_named(list(plan.arms))


def _is_control(arm: Arm, arms: Collection[Arm]) -> bool:
    """Whether an arm differs from a pre-trained one in that alone."""
    return not arm.objective and any(other.objective and other.network == arm.network for other in arms)
