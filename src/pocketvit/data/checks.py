"""What a careful person would look for in a set before trusting a number measured on it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.structures import Finding, Split
from pocketvit.data.symmetry import views
from pocketvit.errors import UserError

CHUNK = 1 << 20  # bytes at a time
NAMES_LOOKED_AT = 300  # a class
LOOKED_AT, CLOSER = 100, 0.5  # images a class; of a mirrored mean's distance to its own class
FEWEST_GROUPS, SMALLEST_GROUP = 3, 3  # in a class, for its names to suggest groups; images in one, on average


def image_digests(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(N,): a name of each of (N, H, W, C) images by its pixels."""
    names = (hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images)
    return np.frombuffer(b"".join(names), np.uint64)


def image_hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(N,): equal for equal ones of (N, H, W, C) images, hardly ever else; quicker than digests, and not to be kept.

    A sum of the pixels, eight at a time, with random odd weights, modulo 2**64 (multilinear hashing, Carter and
    Wegman 1979).
    """
    size = int(np.prod(images.shape[1:]))
    weights = np.random.default_rng(0).integers(0, 2**63, -(-size // 8), np.uint64) * np.uint64(2) + np.uint64(1)
    hashes, step = np.empty(len(images), np.uint64), max(1, CHUNK // max(1, size))
    for start in range(0, len(images), step):
        rows = np.asarray(images[start : start + step]).reshape(-1, size)
        words = np.ascontiguousarray(np.pad(rows, ((0, 0), (0, -size % 8))) if size % 8 else rows).view(np.uint64)
        hashes[start : start + step] = (words * weights).sum(axis=1, dtype=np.uint64)
    return hashes


def copies(splits: Mapping[str, Split]) -> list[Finding]:
    """What is to be said of equal images: some in two splits, under two labels, or of a single colour."""
    findings = []
    digests = {name: image_hashes(split.images) for name, split in splits.items()}
    for name, other in (("test", "train"), ("test", "val"), ("val", "train")):
        if name in splits and other in splits:
            count = int(np.isin(digests[name], digests[other]).sum())
            if count:
                text = f"{count} of {len(splits[name])} {name} images are identical to {other} images"
                findings.append(Finding("copies", f"{text}: accuracy on them says nothing of new ones"))
    known = [
        (digests[name][split.labels >= 0], split.labels[split.labels >= 0])
        for name, split in splits.items()
        if split.labels is not None
    ]
    if known:
        digest, label = (np.concatenate(values) for values in zip(*known, strict=True))
        pairs = np.unique(np.stack([digest, label.astype(np.uint64)]), axis=1)
        images, labels_each = np.unique(pairs[0], return_counts=True)
        double = images[labels_each > 1]
        if len(double):
            name = _name_of(double[0], splits, digests)
            text = f"{len(double)} images stand under two labels or more, as identical copies{name}"
            findings.append(Finding("two labels", text))
    blank = sum(int(_single_coloured(split.images).sum()) for split in splits.values())
    if blank:
        findings.append(Finding("blank", f"{blank} images are of a single colour"))
    return findings


def _name_of(digest: np.uint64, splits: Mapping[str, Split], digests: Mapping[str, NDArray[np.uint64]]) -> str:
    for name, split in splits.items():
        at = np.flatnonzero(digests[name] == digest)
        if len(at) and split.names is not None:
            return f" ({split.names[at[0]]}, ...)" if len(at) == 1 else f" ({split.names[at[0]]}, {split.names[at[1]]})"
    return ""


def _single_coloured(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(N,) of (N, H, W, C): whether all pixels are equal."""
    # Few images have a row of a single colour.
    found = (images[:, :1] == images[:, :1, :1]).all(axis=(1, 2, 3))
    for index in np.flatnonzero(found):
        found[index] = (images[index] == images[index, :1, :1]).all()
    return found


def mirrored_classes(
    images: NDArray[np.uint8], labels: NDArray[np.int64], classes: Sequence[str], symmetry: str
) -> list[Finding]:
    """A warning where a symmetry makes one class look like another, as arrows to the left and to the right.

    Args:
        images: (N, H, W, C), of which up to 100 a class are looked at
        labels: (N,)
        classes: names
        symmetry: that training draws from, as `views` has them
    """
    means = []
    for label in np.unique(labels):
        chosen = np.flatnonzero(labels == label)[:LOOKED_AT]
        means.append(images[chosen].mean(axis=0, dtype=np.float64))
    own, present = np.stack(means), np.unique(labels)
    for changed in views(own, symmetry)[1:]:
        # (K, K): how far each class's changed mean is from each class's mean.
        far = np.stack([np.abs(own - one).mean(axis=(1, 2, 3)) for one in changed])
        nearest = far.argmin(axis=1)
        for a, b in enumerate(nearest.tolist()):
            if a < b and nearest[b] == a and max(far[a, b], far[b, a]) < CLOSER * min(far[a, a], far[b, b]):
                names, how = (classes[present[a]], classes[present[b]]), "mirrors" if symmetry == "mirror" else "turns"
                text = (
                    f"classes '{names[0]}' and '{names[1]}' look like each other when mirrored or turned, and training "
                    f"{how} images: --symmetry none would not"
                )
                return [Finding("mirrored classes", text, names)]
    return []


def group_indices(names: Sequence[str], pattern: str) -> NDArray[np.int64]:
    """(N,): the number of each name's group: the names in which the pattern matches the same text.

    Raises:
        UserError: a name without a match, or a single group.
    """
    expression, groups = re.compile(pattern), []
    for name in names:
        found = expression.search(name)
        if found is None:
            raise UserError(f"--group-by '{pattern}': does not match the name '{name}'")
        groups.append(found[1] if expression.groups else found[0])
    distinct, indices = np.unique(np.array(groups, object).astype(str), return_inverse=True)
    if len(distinct) < 2:
        raise UserError(f"--group-by '{pattern}': all names are of one group ('{distinct[0]}'): at least 2 are needed")
    return indices.astype(np.int64)


def likely_groups(names: Sequence[str], labels: NDArray[np.int64]) -> list[Finding]:
    """A warning where names look like several images each of the same track, slide or person."""
    expression = re.compile(r"(?:.*/)?([^/]*\d[^/]*)[-_. ]+\d+\.\w+")
    for label in np.unique(labels):
        own = [expression.fullmatch(names[i]) for i in np.flatnonzero(labels == label)[:NAMES_LOOKED_AT]]
        texts = [found[1] for found in own if found]
        distinct = len(set(texts))
        if len(texts) == len(own) and distinct >= FEWEST_GROUPS and len(texts) >= SMALLEST_GROUP * distinct:
            first = texts[0]
            text = (
                f"file names look like groups ('{first}...', {len(texts) // distinct} images each): if they are of the "
                r"same track, slide or person, --group-by '([^/]*\d[^/]*)[-_.\s]+\d+\.\w+$' keeps them on one side of "
                "the splits"
            )
            return [Finding("groups", text)]
    return []
