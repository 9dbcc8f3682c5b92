"""The verbs that use a model on images from anywhere: predict and embed."""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketvit.data import printable
from pocketvit.errors import UserError
from pocketvit.files import expanded, whole
from pocketvit.verbs.model import Images, load
from pocketvit.verbs.models import Model
from pocketvit.verbs.strange import Strange

Paths = Images  # files and folders mostly


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
        strange.add(batch.pixels, batch.headers, trained.meta)
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
            strange.add(batch.pixels, batch.headers, trained.meta)
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
