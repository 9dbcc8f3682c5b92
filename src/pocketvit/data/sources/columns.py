"""What a table says of its rows beside images and labels: what they belong to, and which split they are of."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.listing import split_of

ROW = re.compile(r"(.*?) row (\d+)")  # of an item's name
SPLIT = "split"


def groups(root: Path, files: Sequence[Path], column: str | None) -> Callable[[str], str] | None:
    """What a row belongs to by a column, from its item's name; None where not every file has that column."""
    import pyarrow.parquet as pq

    if column is None or not all(column in pq.read_schema(file).names for file in files):
        return None
    values = {
        file.relative_to(root).as_posix(): pq.read_table(file, columns=[column]).column(0).to_pylist() for file in files
    }

    def group(name: str) -> str:
        found = ROW.match(name)
        assert found is not None, name
        return str(values[found[1]][int(found[2])])

    return group


def splits(files: Sequence[Path]) -> NDArray[np.object_] | None:
    """(N,): "train", "val" or "test" of each row, by a column that is called split and tells it of every row."""
    import pyarrow.parquet as pq

    told: list[str | None] = []
    for file in files:
        named = {name.lower(): name for name in pq.read_schema(file).names}
        if SPLIT not in named:
            return None
        values = pq.read_table(file, columns=[named[SPLIT]]).column(0).to_pylist()
        told += [split_of(str(value)) for value in values]
    return np.array(told, object) if None not in told and "train" in told else None
