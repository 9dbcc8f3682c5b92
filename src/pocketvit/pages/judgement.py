"""What the page needs to show where the saved classifier errs, and which labels may be wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.pages import figures, words

Arrays = Mapping[str, NDArray[Any]]
Context = dict[str, Any]


def class_name(classes: Sequence[str], label: int) -> str:
    """Of a label; the number where it has none."""
    return classes[label] if 0 <= label < len(classes) else str(label)


def mistakes(arrays: Arrays, classes: Sequence[str]) -> list[Context]:
    """The test images that the saved classifier is surest and wrong about."""
    keys = ("mistakes", "mistakes_true", "mistakes_predicted", "mistakes_confidence")
    if not all(key in arrays for key in keys):
        return []
    images, *columns = (arrays[key] for key in keys)
    names = arrays.get("mistakes_names", np.full(len(images), ""))
    rows = zip(figures.pictures(images, 72), *columns, names, strict=False)
    shown = [
        {
            "picture": picture,
            "true": class_name(classes, int(true)),
            "predicted": class_name(classes, int(predicted)),
            "confidence": float(confidence),
            "name": str(name),
        }
        for picture, true, predicted, confidence, name in rows
    ]
    return sorted(shown, key=lambda mistake: -mistake["confidence"])


def doubts(arrays: Arrays, classes: Sequence[str]) -> list[Context]:
    """Images whose label may be wrong, each with one like it of the class that is suggested."""
    keys = ("doubts_label", "doubts_suggested", "doubts_probability", "doubts_names")
    if not all(key in arrays for key in ("doubts", "doubts_like", *keys)):
        return []
    pairs = zip(figures.pictures(arrays["doubts"], 72), figures.pictures(arrays["doubts_like"], 72), strict=False)
    rows = zip(pairs, *(arrays[key] for key in keys), strict=False)
    return [
        {
            "picture": picture, "like": like, "label": class_name(classes, int(label)),
            "suggested": class_name(classes, int(suggested)), "probability": float(probability), "name": str(name),
        }
        for (picture, like), label, suggested, probability, name in rows
    ]  # fmt: skip


def judgement(evaluation: Any, classes: Sequence[str]) -> Context | None:
    """The saved classifier on the test images; None where nothing was tested."""
    if not evaluation:
        return None
    counts = _square(evaluation.get("confusion"), len(classes))
    confused = []
    if counts is not None:
        wrong = counts - np.diag(np.diag(counts))
        for flat in np.argsort(-wrong, axis=None, kind="stable")[:6]:
            true, predicted = divmod(int(flat), len(classes))
            if wrong[true, predicted] > 0:
                times = int(wrong[true, predicted])
                confused.append({"true": classes[true], "predicted": classes[predicted], "times": times})
    return {
        "accuracy": words.accuracy(evaluation),
        "ece": words.number(evaluation.get("ece")),
        "ece_uncalibrated": words.number(evaluation.get("ece_uncalibrated")),
        "reliability": _reliability(evaluation.get("reliability")),
        "per_class": _per_class(evaluation.get("per_class") or {}, counts, classes),
        "kept": _kept(evaluation.get("kept")),
        "confusion": None if counts is None else figures.confusion_matrix(counts, classes),
        "confused": confused,
    }


def _per_class(recalls: Any, counts: NDArray[np.float64] | None, classes: Sequence[str]) -> list[Context]:
    """Recall, precision, F1 and test images of each class that has some, the lowest recall first."""
    rows = []
    for name, value in recalls.items():
        recall = words.number(value)
        if recall is None:
            continue
        row: Context = {"name": name, "recall": recall, "precision": None, "f1": None, "images": None}
        if counts is not None and name in classes:
            place = list(classes).index(name)
            right, named = counts[place, place], counts[:, place].sum()
            row["images"] = int(counts[place].sum())
            row["precision"] = float(right / named) if named else None
            row["f1"] = float(2 * right / (named + counts[place].sum()))
        rows.append(row)
    return sorted(rows, key=lambda row: row["recall"])


def _kept(kept: Any) -> Any:
    """The curve; None for a run of a version that kept none, or of one point."""
    if not kept or len(kept) < 2:
        return None
    return figures.kept_curve({entry["share"]: entry["accuracy"] for entry in kept})


def _reliability(bins: Any) -> Any:
    """The diagram; None for a run of a version that kept no bins."""
    if not bins:
        return None
    curves = (
        {bin_["confidence"]: bin_["accuracy"] for bin_ in bins.get(name) or ()} for name in ("plain", "calibrated")
    )
    return figures.reliability_curve(*curves)


def _square(rows: Any, size: int) -> NDArray[np.float64] | None:
    """The matrix, where it has one row and one column for each class."""
    if size < 2 or not isinstance(rows, list) or len(rows) != size or any(len(row) != size for row in rows):
        return None
    return np.asarray(rows, dtype=np.float64)
