"""What the stages of a comparison cost on this machine, from some seconds of doing them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pocketvit.data.symmetry import views
from pocketvit.draws import sharing
from pocketvit.evaluation.doubts import FOLDS
from pocketvit.evaluation.pixels import expected_seconds, without_labels
from pocketvit.evaluation.probe import expected_fit
from pocketvit.stages.arms import Arm
from pocketvit.stages.baselines import pixels_time, readable
from pocketvit.stages.context import Context
from pocketvit.stages.plan import Length, Outlay, Plan
from pocketvit.stages.pretraining import KNN_IMAGES
from pocketvit.training.device import from_main
from pocketvit.training.finetune import epoch_images, finetuning, make_classifier, unlabelled_images
from pocketvit.training.pretrain import pretraining
from pocketvit.training.stage import READINGS
from pocketvit.training.step import GradientStep, total_steps

MEASURED = 1.0  # seconds of steps that a pace is taken from, after the first, which warms up
WARM = 2.0  # seconds of a first step that are enough
QUICK = 0.25  # seconds of a step: slower ones are measured once
MOST_STEPS = 8
FORWARD_IMAGES, FEW_IMAGES = 256, 32  # a few where they take long
PROBE_SHARE = 0.02  # of a time limit that one encoder has to read a split
LEAST_PROBED = 200  # images that it reads at least
REPORT_SECONDS, LOADING_SECONDS = 3.0, 0.3  # figures and page; weights that are written and read


def outlay(context: Context, arms: Sequence[Arm], limit: float | None) -> Outlay:
    """What pre-training, fine-tuning and all around it take here; the lengths are the recipe's.

    All processes have to call this: they take the steps together.

    Args:
        context: of the run.
        arms: that there might be.
        limit: seconds that it may take, of which baselines on raw pixels have a part.
    """
    settings, dataset, accelerator = context.settings, context.dataset, context.accelerator
    budgets = settings.data.label_budgets
    labelled = {budget: context.labelled(budget, settings.seed) for budget in budgets}
    largest = labelled[settings.data.largest_budget]
    objectives = [arm.objective for arm in arms if arm.objective and not context.init]
    networks = dict.fromkeys(arm.network for arm in arms)

    def beside(some: np.ndarray) -> bool:
        return unlabelled_images(dataset, len(some), settings.finetune) > 0

    stages: dict[Any, Callable[[], GradientStep]] = {
        name: partial(pretraining, dataset, settings, accelerator, name) for name in objectives
    }
    # Steps with images without a label beside take longer: of each kind, those of its largest budget.
    stages |= {
        (name, others): partial(
            finetuning, dataset, some, settings, accelerator, seed=settings.seed, init=None, network=name,
            neighbours=context.neighbours,
        )
        for others, some in {beside(some): some for some in sorted(labelled.values(), key=len)}.items()
        for name in networks
    }  # fmt: skip
    paces, forward = {stage: _pace(make) for stage, make in stages.items()}, _seconds_an_image(context, "vit")
    forwards = {name: forward if name == "vit" else _seconds_an_image(context, name) for name in networks}
    # Once more, and the better of the two: what else ran on the machine for a moment says nothing of the rest. Slow
    # ones have outlasted such moments.
    paces = {stage: pace if pace.seconds > QUICK else min(pace, _pace(stages[stage])) for stage, pace in paces.items()}

    def length(pace: Pace, count: int, forward: float, tail: float, extra: float = 0.0) -> Length:
        # As Stage.reading_steps spaces them.
        readings = forward * min(READINGS * pace.read, count * pace.batch / 2)
        return Length(count, pace.seconds + (readings + extra) / count, tail + forward * pace.read + LOADING_SECONDS)

    train, val, test = (len(dataset.labelled(name)[1]) for name in ("train", "val", "test"))
    neighbours = forward * (min(train, KNN_IMAGES) + val)
    every = settings.pretrain.knn_every
    seen = len(views(dataset.train.images[:1], settings.data.symmetry))
    tested = seen * test + min(val, len(largest))
    probed = _probed(context, forward, limit)
    reading, (_, labels) = replace(context, plan=Plan(probed=probed)), dataset.labelled("train")
    read = {name: len(reading.probed(name)) for name in ("train", "val", "test")}
    width = settings.model.sizes().width
    # Plain and whitened.
    fits = sum(2 * expected_fit(labels[readable(reading, budget)], width) for budget in budgets)

    def learning(pace: Pace) -> Length:
        # Of the epochs that end with a reading.
        readings = min(READINGS, pace.steps // (every * pace.epoch)) if every else 0
        return length(pace, pace.steps, forward, neighbours, neighbours * readings)

    found = Outlay(
        pretrain={name: learning(paces[name]) for name in objectives},
        finetune={
            name: {
                budget: length(
                    paces[name, beside(some)], _steps(context, len(some)), forwards[name], forwards[name] * tested
                )
                for budget, some in labelled.items()
            }
            for name in networks
        },
        probe=forward * (read["train"] + read["test"]) + fits,
        probed=probed,
        pixels={budget: _pixels(context, some, pixels_time(context, limit)) for budget, some in labelled.items()},
        pixel_seeds=settings.data.label_budgets != (None,) or settings.data.label_fraction is not None,
        labels=forward * read["val"]
        + FOLDS * expected_fit(np.resize(labels[reading.probed("train")], sum(read.values())), width),
        report=REPORT_SECONDS + 2 * max(forwards.values()) * tested,
    )
    return from_main(accelerator, found)


def _steps(context: Context, labels: int) -> int:
    """Of a fine-tuning on so many labels, by the recipe."""
    config = context.settings.finetune
    return total_steps(config, epoch_images(context.dataset, labels, config))


class Pace(NamedTuple):
    """What a step of a stage takes, and what there is of them.

    Args:
        seconds: of a step
        steps: planned
        epoch: steps of one
        batch: images of a step
        read: images of a reading
    """

    seconds: float
    steps: int
    epoch: int
    batch: int
    read: int


def _pace(make: Callable[[], GradientStep]) -> Pace:
    """Of a stage that is let go afterwards: each may hold a copy of the images, and to train they have it in turn."""
    step = make()
    batches, read = step.batches, step.objective.reading_images
    return Pace(_seconds_a_step(step), step.schedule.planned, batches.steps_per_epoch, batches.batch_size, read)


def _seconds_a_step(step: GradientStep) -> float:
    """Over the course, since steps on part of the patches are quicker; without the first, which warms up.

    Where that takes so long that warming up is little of it, it is all that one waits for.
    """
    pace = _seconds_of(step, [0])
    if pace > WARM:
        return pace
    pace = min(pace, _seconds_of(step, [1]))
    if pace > MEASURED:
        return pace
    planned, count = step.schedule.planned, max(2, min(MOST_STEPS, math.ceil(MEASURED / pace)))
    return _seconds_of(step, [min(planned - 1, round(place * planned / count)) for place in range(count)]) / count


def _seconds_of(step: GradientStep, places: Sequence[int]) -> float:
    """Of the steps at these places of the course, on this process's share of their batches.

    As the main process's clock has it, or others would go on to another number of steps than it, and wait for ever.
    """
    began, accelerator = time.perf_counter(), step.accelerator
    with sharing(accelerator.process_index, accelerator.num_processes):
        step.read_losses([step.run(place) for place in places])
    return from_main(accelerator, time.perf_counter() - began)


def _seconds_an_image(context: Context, network: str) -> float:
    """Of a forward pass through a classifier, as tests take it."""
    predictor = context.predictor(make_classifier(context.dataset, context.settings, 0, None, network))
    images = context.dataset.train.images[:FORWARD_IMAGES]
    few = images[:FEW_IMAGES]
    pace = _seconds_again(lambda: predictor.logits(few)) / len(few)
    return pace if pace * len(images) > MEASURED else _seconds_again(lambda: predictor.logits(images)) / len(images)


def _seconds_again(work: Callable[[], object]) -> float:
    """Of the second time."""
    work()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _probed(context: Context, forward: float, limit: float | None) -> int | None:
    """Images of each split that frozen encoders may read, of a time limit; None for all."""
    if limit is None:
        return None
    most = int(PROBE_SHARE * limit / forward)
    largest = max(len(context.dataset.labelled(name)[1]) for name in ("train", "test"))
    return None if most >= largest else max(LEAST_PROBED, most)


def _pixels(context: Context, labelled: np.ndarray, most: float) -> float:
    images, labels = context.dataset.labelled("train")
    val, test = (len(context.dataset.labelled(name)[1]) for name in ("val", "test"))
    others = without_labels(images, labelled)
    return expected_seconds(images[labelled], labels[labelled], val, test, most, others)
