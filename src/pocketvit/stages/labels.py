"""The stage that looks for wrong labels, in all images that have one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.evaluation.doubts import Doubts, doubtful
from pocketvit.files import write_table
from pocketvit.stages.context import Context

SHOWN = 24
HEAD = ("file", "label", "suggested", "probability_of_label", "probability_of_suggested", "like")
SPLITS = ("train", "val", "test")


def labels_stage(context: Context, encoder: Path | None) -> int | None:
    """Write doubtful-labels.csv, the most doubtful first; returns how many there are. None without an `encoder`.

    The encoder has learnt from images alone, so that no label, wrong or right, is in what it knows.
    """
    if encoder is None:
        return None

    def compute() -> dict[str, Any]:
        images, labels, names = _every(context)
        features = np.concatenate([context.features(encoder, name) for name in SPLITS])
        found = doubtful(features, labels, context.settings.seed)
        classes = context.dataset.classes
        rows = (
            (
                *(names[doubt], classes[labels[doubt]], classes[found.suggested[number]]),
                *(f"{found.own[number]:.4f}", f"{found.other[number]:.4f}", " ".join(names[found.neighbours[number]])),
            )
            for number, doubt in enumerate(found.images)
        )
        write_table(context.folder.doubts, HEAD, rows)
        _keep(context, found, images, labels, names)
        return {"count": len(found.images)}

    kept: dict[str, int] = context.once("labels", compute)
    return kept["count"]


def _every(context: Context) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.object_]]:
    """All images that have a label, or as many of them as the plan has, with these and their names."""
    images, labels, names = [], [], []
    for name in SPLITS:
        (pictures, known), chosen = context.dataset.labelled(name), context.probed(name)
        images.append(pictures[chosen])
        labels.append(known[chosen])
        names.append(context.dataset.names_of(name)[chosen])
    return np.concatenate(images), np.concatenate(labels), np.concatenate(names)


def _keep(
    context: Context, found: Doubts, images: NDArray[np.uint8], labels: NDArray[np.int64], names: NDArray[np.object_]
) -> None:
    """The most doubtful ones and their neighbours, for the page."""
    first = found.images[:SHOWN]
    np.savez_compressed(
        context.folder.doubted,
        doubts=images[first], doubts_label=labels[first], doubts_suggested=found.suggested[:SHOWN],
        doubts_probability=found.other[:SHOWN], doubts_names=names[first].astype(np.str_),
        doubts_like=images[found.neighbours[:SHOWN, 0]],
    )  # fmt: skip
