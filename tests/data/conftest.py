"""Makers of small image folders and Parquet files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def pixels(seed: int = 0, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    """A random image of (height, width)."""
    values = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def save() -> Callable[..., Path]:
    """save(path, seed=0, size=(8, 8), mode="RGB"): writes a random image and makes its folders."""

    def write(path: Path, seed: int = 0, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels(seed, size, mode).save(path)
        return path

    return write


@pytest.fixture
def class_folders(save: Callable[..., Path]) -> Callable[..., Path]:
    """class_folders(root, count=10, classes=("cat", "dog"), **save's): count images in each class folder."""

    def write(root: Path, count: int = 10, classes: Sequence[str] = ("cat", "dog"), **how: object) -> Path:
        for offset, name in enumerate(classes):
            for index in range(count):
                save(root / name / f"{index:03}.png", seed=100 * offset + index, **how)
        return root

    return write


@pytest.fixture
def parquet() -> Callable[..., Path]:
    """parquet(path, labels, names=None, images=None, column="image", label="label", plain=False)."""

    def write(
        path: Path,
        labels: Sequence[object] | None,
        names: Sequence[str] | None = None,
        images: Sequence[bytes] | None = None,
        column: str = "image",
        label: str = "label",
        plain: bool = False,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        count = len(labels) if labels is not None else 10
        contents = images if images is not None else [png(pixels(seed)) for seed in range(count)]
        rows = [c if plain else {"bytes": c, "path": f"{i}.png"} for i, c in enumerate(contents)]
        kind = pa.binary() if plain else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns = {column: pa.array(rows, kind)}
        if labels is not None:
            columns[label] = pa.array(labels)
        table = pa.table(columns)
        if names is not None:
            features = {label: {"names": list(names), "_type": "ClassLabel"}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, path)
        return path

    return write
