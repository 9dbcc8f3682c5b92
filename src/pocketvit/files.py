"""Files that are whole or not there."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path


def write_whole(path: Path, content: bytes | str) -> None:
    """Write beside, flush to the disk and rename: a reader finds the old file or the new one, never a part.

    Raises:
        OSError: it cannot be written; a file that was there is left as it was, and nothing lies beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as stream:
            stream.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write CSV, whole. Raises as `write_whole`."""
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([head, *rows])
    write_whole(path, table.getvalue())
