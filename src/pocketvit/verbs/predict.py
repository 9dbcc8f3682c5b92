"""The verb that classifies images from anywhere."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketvit.data import Header, list_images, read_images
from pocketvit.errors import UnlikeTraining, UserError
from pocketvit.evaluation.predictor import Predictor
from pocketvit.model.weights import WeightsMeta
from pocketvit.training.device import make_accelerator
from pocketvit.verbs.models import Model, classifier_of, rendering_of

FAR = 2.0  # deviations of training's pixels that an image's mean may be from theirs


def predict(
    paths: str | Path | Sequence[str | Path],
    *,
    model: Model,
    top: int = 3,
    device: str = "auto",
    skip_bad: bool = False,
) -> list[dict[str, Any]]:
    """The `top` likeliest classes of each image file, or of each image in a folder.

    Warns, by Python's `warnings`, of images that are unlike those that the model learnt from.

    Args:
        paths: files and folders.
        model: a run, a weights file or a shipped model's name.
        top: classes to name for each image.
        device: auto, cpu, cuda or mps.
        skip_bad: go on where a file cannot be decoded.

    Returns:
        One {"file", "top": [{"class", "probability"}, ...]} an image, in order; with `skip_bad`, one
        {"file", "top": [], "error"} for each that cannot be decoded.

    Raises:
        UserError: no such file, not an image, or weights without a classifier.
    """
    if top < 1:
        raise UserError(f"--top {top}: expected at least 1")
    network, meta = classifier_of(model)
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    files = [file for path in given for file in list_images(path)]
    height, width, channels = meta.shape
    images, headers = read_images(files, (height, width), channels, rendering_of(meta))
    bad = [(file, found) for file, found in zip(files, headers, strict=True) if isinstance(found, str)]
    if bad and not skip_bad:
        file, reason = bad[0]
        raise UserError(f"{file}: cannot be decoded ({reason}): mend it, or give --skip-bad to go on without it")
    for line in unlike(images, [found for found in headers if not isinstance(found, str)], meta):
        warnings.warn(line, UnlikeTraining, stacklevel=2)
    where = make_accelerator(device, "float32").device
    probabilities = torch.from_numpy(Predictor.of(network, meta, where).probabilities(images))
    values, indices = probabilities.topk(min(top, len(meta.classes)), dim=1)
    guesses = (
        [{"class": meta.classes[i], "probability": round(p, 6)} for p, i in zip(ps, ids, strict=True)]
        for ps, ids in zip(values.tolist(), indices.tolist(), strict=True)
    )
    return [
        {"file": str(file), "top": [], "error": found}
        if isinstance(found, str)
        else {"file": str(file), "top": next(guesses)}
        for file, found in zip(files, headers, strict=True)
    ]


def unlike(images: NDArray[np.uint8], headers: Sequence[Header], meta: WeightsMeta) -> list[str]:
    """What sets images apart from those that a model learnt from, so far that its answers mean little.

    Args:
        images: (N, H, W, C), as the model takes them.
        headers: (N,), what they were before.
        meta: of the model.
    """
    channels, (height, width) = meta.shape[2], meta.native or meta.shape[:2]
    wrong = {
        f"are over twice or under half as large as {width:g}x{height:g}": [
            not 0.5 <= math.sqrt(h.height * h.width / (height * width)) <= 2 for h in headers
        ],
        f"are of other proportions than {width:g}x{height:g}": [
            not 0.75 <= (h.height * width) / (h.width * height) <= 4 / 3 for h in headers
        ],
    }
    if channels == 1:
        wrong["have colours, where the model learnt from grey ones"] = [not h.grey for h in headers]
    elif len(set(meta.mean)) > 1:  # grey images saved as RGB have equal channels
        wrong["are grey, where the model learnt from coloured ones"] = [h.grey for h in headers]
    if len(images):
        means = images.reshape(len(images), -1, channels).mean(axis=1) / 255
        far = np.abs(means - np.array(meta.mean)) > FAR * np.array(meta.std)
        wrong["are far darker or brighter"] = far.any(axis=1).tolist()
    return [
        f"{sum(found)} of {len(headers)} images {words}: the model has seen none like them, and its answers may mean "
        "nothing"
        for words, found in wrong.items()
        if any(found)
    ]
