"""The end of a run: its summary, and the arrays that a report shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.data import Split
from pocketvit.evaluation.calibration import calibration_error, reliability
from pocketvit.evaluation.metrics import Metrics, kept_accuracy, most_confident_mistakes
from pocketvit.evaluation.reconstruct import reconstruct_images
from pocketvit.files import whole, write_table, write_whole
from pocketvit.model import weights
from pocketvit.model.costs import classifier_costs
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.network import Network
from pocketvit.run.clock import OPENING
from pocketvit.run.folder import MISTAKE
from pocketvit.run.summary import FORMAT
from pocketvit.stages.arms import Arm
from pocketvit.stages.context import Context
from pocketvit.stages.plan import Part
from pocketvit.training.device import describe

MISTAKES, SAMPLES, RECONSTRUCTIONS = 24, 40, 12


def write_results(
    context: Context,
    arms: Sequence[Arm],
    results: dict[str, Any],
    details: dict[str, Any],
    mae: Path | None,
) -> dict[str, Any]:
    """Write summary.json and the figures' data, in the main process; returns the summary.

    Args:
        context: of a run whose model is there.
        arms: of the comparison.
        results: "pretrain", "probe" and "finetune", as they are printed.
        details: what else is kept.
        mae: weights of a masked autoencoder to show at work, or of anything else, or None.
    """
    summary: dict[str, Any] = context.on_main(lambda: _write(context, arms, results, details, mae))
    return summary


def _write(
    context: Context, arms: Sequence[Arm], results: dict[str, Any], details: dict[str, Any], mae: Path | None
) -> dict[str, Any]:
    s, d, folder = context.settings, context.dataset, context.folder
    module, meta = weights.load(folder.weights)
    arrays, evaluation = _gallery(context, mae), None
    if isinstance(module, Network) and module.classes:
        mistakes, evaluation = _judgement(context, module, meta.temperature)
        arrays |= mistakes
    with whole(folder.figures) as beside, beside.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    cost = classifier_costs(meta.network, meta.model, d.shape, len(d.classes))
    summary = {
        "format": FORMAT,
        "dataset": {
            "name": d.name, "classes": list(d.classes), "train": len(d.train), "val": len(d.val),
            "test": len(d.test) if d.test else 0, "shape": list(d.shape),
        },
        "model": {
            "preset": meta.model.preset, "params": cost.params, "macs": cost.macs,
            "macs_without_attention": cost.macs_without_attention,
        },
        "arms": [arm.to_json() for arm in arms],
        **results,
        "files": {"weights": str(folder.weights), "report": str(folder.report), "config": str(folder.config)},
        "details": {
            **context.evidence, "recipe": s.recipe, "init": context.init and context.init.stem,
            "seconds": round(context.clock.seconds, 1),
            **describe(context.accelerator), "notes": list(d.notes), "label_fraction": s.data.label_fraction,
            **details, "evaluation": evaluation,
        },
    }  # fmt: skip
    write_whole(folder.summary, json.dumps(summary, indent=1) + "\n")
    return summary


def _judgement(context: Context, network: Network, temperature: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """The saved classifier on the test images: arrays for the report, and its metrics."""
    images, labels = context.dataset.labelled("test")
    calibrated, plain = (context.predictor(network, t) for t in (temperature, 1.0))
    logits = plain.logits(images)
    probabilities, uncalibrated = calibrated.calibrated(logits), plain.calibrated(logits)
    names, every = context.dataset.names_of("test"), most_confident_mistakes(probabilities, labels, len(labels))
    _write_mistakes(context, names, every, probabilities, labels)
    wrong = every[:MISTAKES]
    arrays = {
        "mistakes_names": names[wrong].astype(np.str_),
        "mistakes": images[wrong],
        "mistakes_true": labels[wrong],
        "mistakes_predicted": probabilities[wrong].argmax(axis=1),
        "mistakes_confidence": probabilities[wrong].max(axis=1),
    }
    return arrays, {
        **Metrics.of(probabilities, labels, context.dataset.classes).to_json(),
        "temperature": temperature,
        "ece_uncalibrated": calibration_error(uncalibrated, labels),
        "kept": kept_accuracy(probabilities, labels),
        "reliability": {"calibrated": reliability(probabilities, labels), "plain": reliability(uncalibrated, labels)},
    }


def _write_mistakes(
    context: Context,
    names: NDArray[np.object_],
    wrong: NDArray[np.intp],
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> None:
    """mistakes.csv, a row for each of the test images `wrong`."""
    classes = context.dataset.classes
    predicted = probabilities.argmax(axis=1)
    rows = (
        (names[one], classes[labels[one]], classes[predicted[one]], f"{probabilities[one, predicted[one]]:.4f}")
        for one in wrong
    )
    write_table(context.folder.mistakes, MISTAKE, rows)


def _gallery(context: Context, mae: Path | None) -> dict[str, Any]:
    """Samples of the train images, and reconstructions of held-out ones where there is a masked autoencoder."""
    train, val = context.dataset.train, context.dataset.val
    chosen = _over_classes(train, SAMPLES)
    arrays: dict[str, Any] = {"samples": train.images[chosen], "sample_names": _names(train, chosen)}
    if train.labels is not None:
        arrays["sample_labels"] = train.labels[chosen]
    if mae is not None:
        model, meta = weights.load(mae)
        if isinstance(model, MaskedAutoencoder):
            some, ratio = _over_classes(val, RECONSTRUCTIONS), context.settings.mae.mask_ratio
            model = model.to(context.accelerator.device)
            made = reconstruct_images(model, val.images[some], meta.mean, meta.std, ratio)
            arrays |= {f"gallery_{name}": array for name, array in made._asdict().items()}
            arrays["gallery_names"] = _names(val, some)
    return arrays


def _over_classes(split: Split, count: int) -> NDArray[np.intp]:
    """Positions of some images: of each class in turn, as far as `count` goes; any, where there are no labels."""
    order = np.random.default_rng(0).permutation(len(split))
    if split.labels is None:
        return np.sort(order[:count])
    labels = split.labels[order]
    # How many of its class come before it: one of each class is drawn before a second.
    turn = np.zeros(len(order), np.int64)
    for one in np.unique(labels):
        members = np.flatnonzero(labels == one)
        turn[members] = np.arange(len(members)) if one >= 0 else len(order)
    return order[np.argsort(turn, kind="stable")[:count]]


def _names(split: Split, chosen: NDArray[np.intp]) -> NDArray[np.str_]:
    if split.names is None:
        return np.full(len(chosen), "", dtype=np.str_)
    return split.names[chosen].astype(np.str_)


def plan_and_truth(context: Context) -> dict[str, Any]:
    """The plan beside what it took, in seconds."""
    plan, took = context.plan, context.clock.stages

    def seconds(part: Part) -> dict[str, float]:
        return {"planned": round(part.seconds, 1), "took": round(took.get(part.key, 0.0), 1)}

    stages = [{"stage": part.key, "title": part.title, **seconds(part)} for part in plan.parts]
    planned = {"limit": plan.limit, "seconds": round(plan.seconds, 1), "notes": list(plan.notes)}
    return planned | {"opening": round(took.get(OPENING, 0), 1), "stages": stages}
