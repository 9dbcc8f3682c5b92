"""Files that are whole or not there."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pocketvit.errors import UserError, of_place


def expanded(path: str | Path) -> Path:
    """With the home for ~, which shells leave alone in --out=~/runs; of a user that is not known, as it is."""
    return Path(os.path.expanduser(path))


def named_place(name: str) -> Path | None:
    """The file or folder that a person named, in the working folder or in $POCKETVIT_DATA; None where there is none."""
    path = expanded(name)
    folder = os.environ.get("POCKETVIT_DATA")
    candidates = [path] if folder is None else [path, expanded(folder) / path]
    # os.path's takes a name that no file can have for one that none has.
    return next((candidate for candidate in candidates if name and os.path.exists(candidate)), None)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside, to write to: flushed to the disk and renamed at the end, so that a reader finds no part of a file.

    Raises:
        OSError: it cannot be written. A file that was there is left as it was by any error, and nothing lies beside it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield beside
        with beside.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file, and its folder where there is none. Raises as `whole`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as beside:
        beside.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


def copy_whole(path: Path, to: Path) -> None:
    """Write a copy of a file. Raises as `whole`."""
    with whole(to) as beside:
        shutil.copyfile(path, beside)


def read_json(path: Path) -> Any:
    """What `write_whole` wrote; raises UserError where something else has damaged it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(
            f"{path}: damaged: take it away to have its part of the run done again, or start afresh"
        ) from None


@contextmanager
def drafts(file: Path) -> Iterator[Path]:
    """A folder beside a file that is to be, for what it is made from; it goes away.

    That nothing can be written there is so known before the work is done.

    Raises:
        UserError: nothing can be, now or later; or a folder has the file's name.
    """
    try:
        if file.is_dir():
            raise UserError(f"--out {file}: a folder is there: choose another name")
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".partial-", dir=file.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise of_place(error, f"--out {file}") from None


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write CSV, whole. Raises as `write_whole`."""
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([head, *rows])
    write_whole(path, table.getvalue())
