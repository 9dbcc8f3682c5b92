"""Parquet files in the Hugging Face image layout: image{bytes, path} and, where there are labels, label.

Only the label column is read on opening; encoded images are streamed when they are decoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.listing import IMAGE_EXTENSIONS, Passed, find_images, split_of, split_of_file
from pocketvit.data.sources.columns import groups, splits
from pocketvit.data.sources.opener import Columns, Opener
from pocketvit.data.structures import NAMES_LISTED, Finding, Item, Section, Source, Spec, hash_files, make_source
from pocketvit.errors import UserError

EXTENSIONS = frozenset((".parquet",))
IMAGE_COLUMNS = ("image", "img")
# In this order, whatever the case; --label-column names another.
LABEL_COLUMNS = ("label", "fine_label", "labels", "target", "class", "category", "coarse_label", "y")
_NUMBER = re.compile(r"[0-9a-f]*\d[0-9a-f]*", re.IGNORECASE)  # decimal or hexadecimal
NO_NUMBER, NO_TEXT = -1, ""  # what a label that is not there is stored as


@dataclass(frozen=True)
class _Shard:
    file: Path
    image: str
    rows: int
    labels: NDArray[Any] | None  # as stored: integers or strings, NO_NUMBER or NO_TEXT where there is none
    others: tuple[str, ...]  # columns that might hold labels, where none is called so
    names: tuple[str, ...] | None  # class names from the metadata


def open_parquet(path: Path, columns: Columns) -> Source:
    """Open a Parquet file, or a folder of them whose names (or whose folders' names, or a column) tell the splits.

    Rows without a label (null, NaN or below 0) are kept, with label -1.

    Args:
        path: a file or a folder.
        columns: where the labels are, or the first of LABEL_COLUMNS that is there; and what images belong to.

    Raises:
        UserError: not Parquet, no image column, no such label column, labels of another kind, or no train shards.
    """
    passed = Passed()
    if path.is_file():
        root, files = path.parent, {"all": [path]}
    else:
        root, files = path, _by_split(path, passed)
    shards = {part: [_read_shard(file, columns.label) for file in members] for part, members in files.items()}
    everything = [shard for members in shards.values() for shard in members]
    name = path.stem if path.is_file() else path.resolve().name

    stored = {part: _stored_labels(root, part, members) for part, members in shards.items()}
    classes, labels = _index_labels(path, stored, _class_names(path, everything))
    sections = {
        part: Section(sum(shard.rows for shard in members), partial(_items, root, members), labels[part])
        for part, members in shards.items()
    }

    findings: list[Finding] = []
    told = splits([shard.file for shard in everything], findings) if set(sections) == {"all"} else None
    if told is not None:
        sections = {part: _some(sections["all"], told == part) for part in ("train", "val", "test") if part in told}

    def fingerprint() -> str:
        # Labels that another column holds are other content.
        asked = "" if columns.label is None else f"{columns.label}:"
        layout = ",".join(f"{part}:{len(members)}" for part, members in files.items())
        return f"{asked}{layout}:{hash_files(root, [shard.file for shard in everything])}"

    others = sorted({column for shard in everything for column in shard.others})
    text = f"no column of labels: --label-column names one of {', '.join(others)}"
    findings += [Finding("no label column", text, tuple(others))] if others else []
    findings += [*_joined(root, files), *_beside(passed), *passed.findings()]
    group = groups(root, [shard.file for shard in everything], columns.group)
    if group is not None:
        findings.append(Finding("grouped", f"grouped by the column '{columns.group}'"))
    return make_source(name, str(root), classes, sections, findings, fingerprint, group)


def _some(section: Section, chosen: NDArray[np.bool_]) -> Section:
    """The rows of a section that are chosen."""
    labels = None if section.labels is None else section.labels[chosen]
    return Section(int(chosen.sum()), lambda: compress(section.items(), chosen), labels)


def _by_split(root: Path, passed: Passed) -> dict[str, list[Path]]:
    parts: dict[str, list[Path]] = {}
    for file in find_images(root, passed, EXTENSIONS):
        relative = file.relative_to(root)
        # The file's own name first, then its folders from the inside out: train/0000.parquet is a train shard too.
        told = [
            split_of_file(relative.name.removesuffix(relative.suffix)),
            *map(split_of, reversed(relative.parts[:-1])),
        ]
        parts.setdefault(next(filter(None, told), "all"), []).append(file)
    if "all" in parts and len(parts) > 1:
        raise UserError(
            f"{parts['all'][0]}: its name tells no split, though others here do: "
            "name every file train-*, validation-* or test-*"
        )
    return parts


def _joined(root: Path, files: Mapping[str, Sequence[Path]]) -> Iterator[Finding]:
    """What is said where files become one split whose names differ in more than numbers, as train and train-old."""
    for part, members in files.items():
        names = tuple(file.relative_to(root).as_posix() for file in members)
        if len({_NUMBER.sub("", name) for name in names}) > 1:
            more = f" and {len(names) - NAMES_LISTED} more" if len(names) > NAMES_LISTED else ""
            what = "one set" if part == "all" else f"the {part} split"
            yield Finding("files joined", f"read together as {what}: {', '.join(names[:NAMES_LISTED])}{more}", names)


def _beside(passed: Passed) -> Iterator[Finding]:
    """What is said of images in files of their own, which are counted no more among what is not read."""
    count = sum(passed.counts.pop(extension, 0) for extension in IMAGE_EXTENSIONS)
    if count:
        text = f"{count} image files lie beside the Parquet files: only those that a row names are read"
        yield Finding("images beside", text)


def _read_shard(file: Path, label_column: str | None) -> _Shard:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            image = _image_column(file, schema)
            label = _label_column(file, schema, label_column)
            others = () if label else tuple(name for name in schema.names if _may_be_labels(schema.field(name).type))
            rows = parquet.metadata.num_rows
            labels = None if label is None else _label_values(file, parquet.read([label]).column(0))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a readable Parquet file ({_first_line(error)})") from error
    return _Shard(file, image, rows, labels, others, _metadata_names(schema.metadata, label))


def _label_column(file: Path, schema: Any, asked: str | None) -> str | None:
    if asked is not None:
        if asked in schema.names:
            return asked
        raise UserError(f"--label-column {asked}: {file} has no such column, only {', '.join(schema.names)}")
    lower = {name.lower(): name for name in reversed(schema.names)}
    return next((lower[name] for name in LABEL_COLUMNS if name in lower), None)


def _may_be_labels(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_integer(kind) or types.is_dictionary(kind) or types.is_boolean(kind) or _is_text(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _image_column(file: Path, schema: Any) -> str:
    import pyarrow.types as types

    for name in IMAGE_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                kind = kind.field(kind.get_field_index("bytes")).type
            if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
                return name
            raise UserError(f"{file}: column '{name}' holds {kind}: expected encoded images (bytes)")
    raise UserError(f"{file}: no column called {' or '.join(IMAGE_COLUMNS)} among {', '.join(schema.names) or 'none'}")


def _label_values(file: Path, column: Any) -> NDArray[Any] | None:
    """Labels as stored, int64 or text, NO_NUMBER or NO_TEXT where there is none; None when no row has one.

    True and False, which pandas makes of two classes, are text; whole floats, which it makes of integers with gaps, are
    integers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_boolean(kind):
        column = pc.if_else(column, "True", "False")
    if types.is_floating(kind):
        numbers = column.to_numpy()
        whole = np.where(np.isfinite(numbers), numbers, -1)
        if (whole != np.floor(whole)).any():
            raise UserError(f"{file}: the label column holds fractions: expected integers or text")
        values = whole.astype(np.int64)
    elif types.is_integer(kind) or types.is_null(kind):
        values = column.cast(pa.int64()).fill_null(-1).to_numpy()
    elif types.is_boolean(kind) or _is_text(kind):
        values = np.array(column.cast(pa.string()).fill_null("").to_pylist(), dtype=str)
    else:
        raise UserError(f"{file}: the label column holds {kind}: expected integers or text")
    missing = _is_missing(values)
    if values.dtype.kind == "i":
        values = np.where(missing, NO_NUMBER, values)
    return None if missing.all() else values


def _is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    missing: NDArray[np.bool_] = values < 0 if values.dtype.kind == "i" else values == NO_TEXT
    return missing


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
    together = np.concatenate(present)
    values = np.unique(together[~_is_missing(together)])
    if names is None or values.dtype.kind == "U":
        classes = tuple(str(value) for value in values)
        indexed = {
            part: None if labels is None else np.where(_is_missing(labels), -1, np.searchsorted(values, labels))
            for part, labels in stored.items()
        }
        return classes, indexed
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
                        # Where a row has a path alone, the image lies beside the file.
                        found = content or (shard.file.parent / path if path and content is None else b"")
                        yield Item(f"{where} row {row}" + (f" ({path})" if path else ""), found)
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


def _recognises(spec: Spec, path: Path | None) -> bool:
    if path is None or not path.is_dir():
        return path is not None and path.is_file() and path.suffix.lower() in EXTENSIONS
    return bool(find_images(path, None, EXTENSIONS))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


PARQUET = Opener(
    words="a Parquet file or a folder of them",
    recognises=_recognises,
    open=lambda spec, path, columns: open_parquet(path or Path(spec), columns),
)
