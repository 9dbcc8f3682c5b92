"""Which images, and which of their labels, are used for what: seeded, and stratified by class.

Indices only: nothing here touches an image.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import UserError

Indices = NDArray[np.int64]


def stratified_split(
    labels: NDArray[np.int64] | None, n: int, fraction: float, seed: int, classes: Sequence[str] = ()
) -> tuple[Indices, Indices]:
    """Hold out a share of n images: the same share of every class, and at least one image of each in both parts.

    Args:
        labels: int64 (n,) class indices, or None to split without regard to class
        n: number of images
        fraction: share to hold out, above 0 and below 1
        seed: equal seeds give equal splits
        classes: class names, for messages

    Returns:
        sorted indices kept, and sorted indices held out

    Raises:
        UserError: a class (or the set) has fewer than two images, or the fraction is out of range.
    """
    from sklearn.model_selection import train_test_split

    if not 0 < fraction < 1:
        raise UserError(f"a share of {fraction} cannot be held out: expected above 0 and below 1")
    if labels is None:
        labels = np.zeros(n, dtype=np.int64)
        if n < 2:
            raise UserError(f"{n} images cannot be split in two: at least 2 are needed")
    check_class_sizes(labels, 2, classes)
    kept, held = [], []
    # Class by class, because train_test_split's own stratification may give a small class no place in one part.
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(_nearest(fraction * len(members)), 1), len(members) - 1)
        keep, hold = train_test_split(members, test_size=count, random_state=seed)
        kept.append(keep)
        held.append(hold)
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(held))


def grouped_split(
    labels: NDArray[np.int64] | None, groups: NDArray[np.int64], fraction: float, seed: int, classes: Sequence[str] = ()
) -> tuple[Indices, Indices]:
    """Hold out whole groups of images, about a share of the images and of every class.

    Args:
        labels: int64 (n,) class indices, or None to split without regard to class
        groups: int64 (n,) group indices
        fraction: share to hold out, above 0 and below 1
        seed: equal seeds give equal splits
        classes: class names, for messages

    Returns:
        sorted indices kept, and sorted indices held out

    Raises:
        UserError: there is a single group, or a class would be held out whole.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    count = len(np.unique(groups))
    if count < 2:
        raise UserError("--group-by: a single group cannot be split in two: at least 2 are needed")
    strata = np.zeros(len(groups), np.int64) if labels is None else labels
    folds = StratifiedGroupKFold(min(count, max(2, round(1 / fraction))), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes smaller than the number of folds
        parts = [(keep, hold) for keep, hold in folds.split(groups, strata, groups) if len(hold)]
    for keep, hold in parts:
        if len(np.unique(strata[keep])) == len(np.unique(strata)):
            return keep.astype(np.int64), hold.astype(np.int64)
    alone = next(label for label in np.unique(strata) if len(np.unique(groups[strata == label])) == 1)
    raise UserError(
        f"--group-by: the images of class '{_name(alone, classes)}' are all of one group, so that none is left to "
        "learn from: take another pattern"
    )


def label_subset(
    labels: NDArray[np.int64],
    *,
    per_class: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
    classes: Sequence[str] = (),
) -> Indices:
    """Choose the images whose labels are used; with one seed, a smaller budget is a subset of a larger one.

    Args:
        labels: int64 (N,) class indices
        per_class: exactly this many of each class
        fraction: this share of each class, rounded to the nearest count, and at least one
        seed: equal seeds give equal choices
        classes: class names; with per_class, each of them must have enough images

    Returns:
        sorted indices into labels: all of them when neither budget is given

    Raises:
        UserError: a class has fewer than per_class images, both budgets are given, or one is out of range.
    """
    if per_class is not None and fraction is not None:
        raise UserError("labels per class and a label fraction exclude each other: give one of them")
    if per_class is not None:
        if per_class < 1:
            raise UserError(f"{per_class} labels per class: expected at least 1")
        counts = np.bincount(labels, minlength=len(classes))
        for label in range(len(classes)) if classes else np.unique(labels):
            if counts[label] < per_class:
                raise UserError(
                    f"{per_class} labels per class: class '{_name(label, classes)}' has {counts[label]} train images: "
                    "ask for fewer or add some"
                )
    elif fraction is not None:
        if not 0 < fraction <= 1:
            raise UserError(f"a label fraction of {fraction}: expected above 0 and at most 1")
    else:
        return np.arange(len(labels))
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = per_class if per_class is not None else max(1, _nearest((fraction or 0) * len(members)))
        # A generator for each class: what one class holds doesn't change the choice in another.
        stream = int(label) if label >= 0 else len(labels)  # images without a label are a class of their own here
        chosen.append(np.random.default_rng([seed, stream]).permutation(members)[:count])
    return np.sort(np.concatenate(chosen)) if chosen else np.arange(0)


def check_class_sizes(labels: NDArray[np.int64], minimum: int, classes: Sequence[str] = ()) -> None:
    """Check that every class present has enough images to be split.

    Raises:
        UserError: one has fewer than minimum.
    """
    present, counts = np.unique(labels, return_counts=True)
    if len(counts) and counts.min() < minimum:
        smallest = int(counts.argmin())
        raise UserError(
            f"class '{_name(present[smallest], classes)}' has too few images: {counts[smallest]}, and the splits need "
            f"at least {minimum} (one in each): add images or remove the class"
        )


def _name(label: int, classes: Sequence[str]) -> str:
    return classes[label] if classes else str(label)


def _nearest(value: float) -> int:
    return int(np.floor(value + 0.5))
