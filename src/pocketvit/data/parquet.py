"""Parquet files in the Hugging Face image layout: image{bytes, path} and, where there are labels, label.

Only the label column is read on opening; encoded images are streamed when they are decoded.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.folders import SPLIT_NAMES
from pocketvit.data.structures import Item, Section, Source, hash_files, make_source
from pocketvit.errors import UserError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")
SPLIT_PATTERN = re.compile(r"(train|test|validation|valid|val)(?=[-_.]|$)")


@dataclass(frozen=True)
class _Shard:
    file: Path
    image: str
    rows: int
    labels: NDArray[Any] | None  # as stored: integers or strings
    names: tuple[str, ...] | None  # class names from the metadata


def parquet_files(folder: Path) -> list[Path]:
    """All Parquet files under a folder, in sorted order; hidden files and folders are passed over."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, n) for n in sorted(names) if n.lower().endswith(".parquet") and not n.startswith(".")]
    return found


def open_parquet(path: Path) -> Source:
    """Open a Parquet file, or a folder of them whose names (or whose folders' names) tell the splits.

    Raises:
        UserError: not Parquet, no image column, labels that are neither integers nor text, or no train shards.
    """
    if path.is_file():
        root, files = path.parent, {"all": [path]}
    else:
        root, files = path, _by_split(path)
    shards = {part: [_read_shard(file) for file in members] for part, members in files.items()}
    everything = [shard for members in shards.values() for shard in members]
    name = path.stem if path.is_file() else path.resolve().name

    stored = {part: _stored_labels(root, part, members) for part, members in shards.items()}
    classes, labels = _index_labels(path, stored, _class_names(path, everything))
    sections = {
        part: Section(sum(shard.rows for shard in members), partial(_items, root, members), labels[part])
        for part, members in shards.items()
    }

    def fingerprint() -> str:
        layout = ",".join(f"{part}:{len(members)}" for part, members in files.items())
        return f"{layout}:{hash_files(root, [shard.file for shard in everything])}"

    return make_source(name, str(root), classes, sections, [], fingerprint)


def _by_split(root: Path) -> dict[str, list[Path]]:
    parts: dict[str, list[Path]] = {}
    for file in parquet_files(root):
        relative = file.relative_to(root)
        # The file's own name first, then its folders from the inside out: train/0000.parquet is a train shard too.
        matches = (SPLIT_PATTERN.match(name.lower()) for name in reversed(relative.parts))
        match = next(filter(None, matches), None)
        parts.setdefault(SPLIT_NAMES[match.group(1)] if match else "all", []).append(file)
    if "all" in parts and len(parts) > 1:
        raise UserError(
            f"{parts['all'][0]}: its name tells no split, though others here do: "
            "name every file train-*, validation-* or test-*"
        )
    return parts


def _read_shard(file: Path) -> _Shard:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            image = _image_column(file, schema)
            label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
            rows = parquet.metadata.num_rows
            labels = None if label is None else _label_values(file, parquet.read([label]).column(0))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a readable Parquet file ({_first_line(error)})") from error
    return _Shard(file, image, rows, labels, _metadata_names(schema.metadata, label))


def _image_column(file: Path, schema: Any) -> str:
    import pyarrow.types as types

    for name in IMAGE_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                kind = kind.field(kind.get_field_index("bytes")).type
            if types.is_binary(kind) or types.is_large_binary(kind):
                return name
            raise UserError(f"{file}: column '{name}' holds {kind}: expected encoded images (bytes)")
    raise UserError(f"{file}: no column called {' or '.join(IMAGE_COLUMNS)} among {', '.join(schema.names) or 'none'}")


def _label_values(file: Path, column: Any) -> NDArray[Any] | None:
    """Labels as stored, int64 or text; None when no row has one (null, or -1 as hidden test labels are written)."""
    import pyarrow as pa
    import pyarrow.types as types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_integer(kind) or types.is_null(kind):
        values: NDArray[Any] = column.cast(pa.int64()).fill_null(-1).to_numpy()
        missing = values < 0
    elif types.is_string(kind) or types.is_large_string(kind):
        values = np.array(column.cast(pa.string()).fill_null("").to_pylist(), dtype=str)
        missing = values == ""
    else:
        raise UserError(f"{file}: the label column holds {kind}: expected integers or text")
    if missing.any() and not missing.all():
        raise UserError(f"{file}: {missing.sum()} of {len(values)} rows have no label (null or below 0): label all")
    return None if missing.all() else values


def _metadata_names(metadata: Mapping[bytes, bytes] | None, label: str | None) -> tuple[str, ...] | None:
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
        return tuple(str(name) for name in names)
    except (KeyError, TypeError, ValueError):
        return None  # absent, or of a shape that another writer chose: class names fall back to the label values


def _class_names(path: Path, shards: Sequence[_Shard]) -> tuple[str, ...] | None:
    named = {shard.names: shard.file for shard in shards if shard.names is not None}
    if len(named) > 1:
        first, second, *_ = named.values()
        raise UserError(f"{path}: {first.name} and {second.name} disagree about the class names in their metadata")
    return next(iter(named), None)


def _stored_labels(root: Path, part: str, shards: Sequence[_Shard]) -> NDArray[Any] | None:
    filled = [shard for shard in shards if shard.rows]
    arrays = [shard.labels for shard in filled if shard.labels is not None]
    if not arrays:
        return None
    if len(arrays) < len(filled) or len({array.dtype.kind for array in arrays}) > 1:
        raise UserError(f"{root}: the {part} files differ in their label column: expected the same in all of them")
    return np.concatenate(arrays)


def _index_labels(
    path: Path, stored: Mapping[str, NDArray[Any] | None], names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64] | None]]:
    """Class names, and for each part its labels as indices into them."""
    present = [values for values in stored.values() if values is not None]
    if not present:
        return (), dict.fromkeys(stored)
    if len({values.dtype.kind for values in present}) > 1:
        raise UserError(f"{path}: labels are text in one split and integers in another: expected the same in both")
    values = np.unique(np.concatenate(present))
    if names is None or values.dtype.kind == "U":
        classes = tuple(str(value) for value in values)
        return classes, {
            part: None if labels is None else np.searchsorted(values, labels).astype(np.int64)
            for part, labels in stored.items()
        }
    if values[-1] >= len(names):
        raise UserError(f"{path}: label {values[-1]} lies beyond the {len(names)} class names in the metadata")
    return names, {part: None if labels is None else labels.astype(np.int64) for part, labels in stored.items()}


def _items(root: Path, shards: Sequence[_Shard]) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for shard in shards:
        row = 0
        where = shard.file.relative_to(root).as_posix()
        try:
            with pq.ParquetFile(shard.file) as parquet:
                for batch in parquet.iter_batches(batch_size=1024, columns=[shard.image]):
                    for content, path in _rows(batch.column(0)):
                        yield Item(f"{where} row {row}" + (f" ({path})" if path else ""), content or b"")
                        row += 1
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{shard.file}: damaged near row {row} ({_first_line(error)})") from error


def _rows(column: Any) -> Iterator[tuple[bytes | None, str | None]]:
    import pyarrow.types as types

    if not types.is_struct(column.type):
        return ((content, None) for content in column.to_pylist())
    # Whole fields at once: a dictionary a row costs more than decoding a small image does.
    fields = dict(zip((field.name for field in column.type), column.flatten(), strict=True))
    contents = fields["bytes"].to_pylist()
    return zip(contents, fields["path"].to_pylist() if "path" in fields else [None] * len(contents), strict=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
