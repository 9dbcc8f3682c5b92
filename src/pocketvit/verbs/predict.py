"""The verbs that use a model on images from anywhere: predict and embed."""

from __future__ import annotations

import csv
import math
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketvit.data import Header, printable
from pocketvit.errors import UnlikeTraining, UserError
from pocketvit.files import expanded, whole
from pocketvit.model.weights import WeightsMeta
from pocketvit.verbs.model import Batch, Images, load
from pocketvit.verbs.models import Model

Paths = Images  # files and folders mostly

FAR = 2.0  # deviations of training's pixels that an image's mean may be from theirs


def predict(
    paths: Paths,
    *,
    model: Model,
    top: int = 3,
    device: str = "auto",
    skip_bad: bool = False,
    runtime: str | None = None,
) -> list[dict[str, Any]]:
    """The `top` likeliest classes of each image file, or of each image in a folder.

    Warns, by Python's `warnings`, of images that are unlike those that the model learnt from.

    Args:
        paths: files and folders.
        model: a run, a weights file, an exported file or a shipped model's name.
        top: classes to name for each image.
        device: auto, cpu, cuda or mps.
        skip_bad: go on where a file cannot be decoded.
        runtime: what runs an exported file (see `load`).

    Returns:
        One {"file", "top": [{"class", "probability"}, ...]} an image, in order; with `skip_bad`, one
        {"file", "top": [], "error"} for each that cannot be decoded.

    Raises:
        UserError: no such file, not an image, or weights without a classifier.
    """
    return list(predictions(paths, model=model, top=top, device=device, skip_bad=skip_bad, runtime=runtime))


def predictions(
    paths: Paths,
    *,
    model: Model,
    top: int = 3,
    device: str = "auto",
    skip_bad: bool = False,
    runtime: str | None = None,
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """The rows of `predict` as they come, its warnings last; with `progress`, a bar where there is a terminal."""
    if top < 1:
        raise UserError(f"--top {top}: expected at least 1")
    trained, strange = load(model, device, runtime), Strange()
    trained.check_classifies()
    predictor = trained.predictor()
    for batch in trained.batches(paths, skip_bad, progress):
        strange.add(batch, trained.meta)
        likeliest = iter(
            _likeliest(predictor.probabilities(batch.pixels), trained.meta.classes, top) if len(batch.pixels) else []
        )
        for name, found in zip(batch.names, batch.headers, strict=True):
            if isinstance(found, str):
                yield {"file": name, "top": [], "error": found}
            else:
                yield {"file": name, "top": next(likeliest)}
    strange.warn()


def embed(
    paths: Paths,
    *,
    model: Model,
    out: str | Path,
    device: str = "auto",
    skip_bad: bool = False,
    progress: bool = False,
) -> int:
    """Write the features of each image file, or of each image in a folder, with its name; returns how many.

    Args:
        paths: files and folders.
        model: a run, a weights file or a shipped model's name; of pre-trained weights, the encoder.
        out: a file: with .parquet, columns "file" and "features" (a list of float32); with .csv, or "-" for standard
            output, a column for each feature.
        device: auto, cpu, cuda or mps.
        skip_bad: go on where a file cannot be decoded.
        progress: a bar on stderr, where that is a terminal.

    Raises:
        UserError: no such file, not an image, no such model, or a file of another kind to write.
    """
    kind = Path(out).suffix.lower() if str(out) != "-" else ".csv"
    if kind not in (".parquet", ".csv"):
        raise UserError(f"--out {out}: expected a name that ends in .parquet or .csv")
    trained, strange, count = load(model, device), Strange(), 0
    predictor = trained.predictor()
    with _file_to_write(out) as file:
        writer = (_parquet if kind == ".parquet" else _csv)(file, trained.width)
        next(writer)
        for batch in trained.batches(paths, skip_bad, progress):
            strange.add(batch, trained.meta)
            pairs = zip(batch.names, batch.headers, strict=True)
            names = [printable(name) for name, found in pairs if not isinstance(found, str)]
            if names:
                writer.send((names, predictor.features(batch.pixels)))
            count += len(names)
        writer.close()
    strange.warn()
    return count


@contextmanager
def _file_to_write(out: str | Path) -> Iterator[str | int]:
    """A name to write to that becomes `out` at the end, or standard output; UserError where it cannot be written."""
    if str(out) == "-":
        yield 1
        return
    try:
        with whole(expanded(out)) as beside:
            yield str(beside)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error})") from None


Rows = Generator[None, tuple[list[str], NDArray[np.float32]], None]


def _parquet(out: str | int, width: int) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.list_(pa.float32(), width)
    with pq.ParquetWriter(out, pa.schema([("file", pa.string()), ("features", kind)])) as file:
        while True:
            names, features = yield
            column = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), width)
            file.write_table(pa.table({"file": names, "features": column}))


def _csv(out: str | int, width: int) -> Rows:
    with open(out, "w", newline="", closefd=out != 1, encoding="utf-8") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["file", *(f"f{number}" for number in range(width))])
        while True:
            names, features = yield
            rows.writerows(
                [name, *(f"{value:.6g}" for value in row)] for name, row in zip(names, features, strict=True)
            )


def _likeliest(probabilities: NDArray[np.float32], classes: Sequence[str], top: int) -> list[list[dict[str, Any]]]:
    """The `top` likeliest classes of each row of probabilities (N, K)."""
    values, indices = torch.from_numpy(probabilities).topk(min(top, len(classes)), dim=1)
    rows = zip(values.tolist(), indices.tolist(), strict=True)
    return [
        [{"class": classes[i], "probability": round(p, 6)} for p, i in zip(ps, ids, strict=True)] for ps, ids in rows
    ]


class Strange:
    """What sets images apart from those that a model learnt from, counted over batches."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._images = 0

    def add(self, batch: Batch, meta: WeightsMeta) -> None:
        """Count those of a batch."""
        headers = [found for found in batch.headers if not isinstance(found, str)]
        self._images += len(headers)
        self._counts.update(unlike(batch.pixels, headers, meta))

    def lines(self) -> list[str]:
        """In words, for people."""
        return [
            f"{count} of {self._images} images {words}: the model has seen none like them, and its answers may mean "
            "nothing"
            for words, count in self._counts.items()
        ]

    def warn(self) -> None:
        """By Python's warnings."""
        for line in self.lines():
            warnings.warn(line, UnlikeTraining, stacklevel=3)


def unlike(images: NDArray[np.uint8], headers: Sequence[Header], meta: WeightsMeta) -> dict[str, int]:
    """What sets images apart from those that a model learnt from, so far that its answers mean little: how many.

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
    return {words: sum(found) for words, found in wrong.items() if any(found)}
