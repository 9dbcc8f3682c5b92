"""What a table says of its rows beside images and labels: what they belong to, and which split they are of."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.listing import split_of
from pocketvit.data.structures import NAMES_LISTED, Finding

ROW = re.compile(r"(.*?\.parquet) row (\d+)(?: \(.*)?", re.IGNORECASE | re.DOTALL)  # an item's name
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
        found = ROW.fullmatch(name)
        assert found is not None, name
        return str(values[found[1]][int(found[2])])

    return group


def splits(files: Sequence[Path], findings: list[Finding]) -> NDArray[np.object_] | None:
    """(N,): "train", "val" or "test" of each row, by a column that is called split, None for a row of none of these.

    None where a file has no such column, or where it calls nothing train. What else it says goes to `findings`.
    """
    import pyarrow.parquet as pq

    values: list[str] = []
    for file in files:
        named = {name.lower(): name for name in pq.read_schema(file).names}
        if SPLIT not in named:
            return None
        column = pq.read_table(file, columns=[named[SPLIT]]).column(0)
        values += ["" if value is None else str(value) for value in column.to_pylist()]
    parts = {value: split_of(value) for value in set(values)}
    others = sorted(value for value, part in parts.items() if part is None)
    words = ", ".join(f"'{value}'" for value in others[:NAMES_LISTED]) + (", ..." if len(others) > NAMES_LISTED else "")
    told = np.array([parts[value] for value in values], object)
    if "train" not in told:
        if values:
            text = f"the column '{SPLIT}' names no train split ({words or ', '.join(sorted(parts))}) and is not read"
            findings.append(Finding("split column", text, tuple(others)))
        return None
    if others:
        count = int((told == None).sum())  # noqa: E711  # of each
        text = f"{count} rows whose column '{SPLIT}' says {words} are of no split, and are left out"
        findings.append(Finding("split column", text, tuple(others)))
    return told
