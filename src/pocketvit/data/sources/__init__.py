"""From what the user typed to an opened Source: the grammar that every verb shares, one file for each kind.

Nothing is decoded here: an opened source knows its classes, labels and splits, and where its images lie.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from pocketvit.data.listing import IMAGE_EXTENSIONS
from pocketvit.data.sources.arrays import ARRAYS
from pocketvit.data.sources.cifar import CIFAR
from pocketvit.data.sources.digits import DIGITS
from pocketvit.data.sources.folders import FOLDER
from pocketvit.data.sources.opener import Columns, Opener
from pocketvit.data.sources.parquet import PARQUET
from pocketvit.data.structures import Arrays, Source, Spec
from pocketvit.errors import UserError
from pocketvit.files import named_place

# The first that recognises a set opens it.
OPENERS: tuple[Opener, ...] = (ARRAYS, DIGITS, CIFAR, PARQUET, FOLDER)


def open_source(spec: Spec, columns: Columns = Columns()) -> Source:  # noqa: B008  # immutable
    """Open a set of images without decoding any.

    Args:
        spec: a name, a folder or a file, as one of OPENERS recognises it; a relative path that is not in the working
            folder is looked for in $POCKETVIT_DATA
        columns: of Parquet files

    Raises:
        UserError: nothing is there, or what is there isn't a set of images.
    """
    path = find(spec)
    for opener in OPENERS:
        if opener.recognises(spec, path):
            return opener.open(spec, path, columns)
    assert isinstance(spec, str)
    if path is None:
        raise UserError(f"'{spec}' does not exist{_suggestion(Path(spec))}; expected {accepted()}")
    kind = "a single image" if path.suffix.lower() in IMAGE_EXTENSIONS else f"a file of unknown kind ({path.name})"
    raise UserError(f"{spec}: {kind} is not a set of images; expected {accepted()}")


def accepted() -> str:
    """What a set may be that is named in words."""
    _, *words, last = (opener.words for opener in OPENERS)
    return f"{', '.join(words)}, or {last}"


def find(spec: Spec) -> Path | None:
    """The file or folder that the user named, in the working folder or in $POCKETVIT_DATA; None where there is none."""
    return None if isinstance(spec, Arrays) else named_place(spec)


def _suggestion(path: Path) -> str:
    names = [name for opener in OPENERS for name in opener.names]
    siblings = [entry.name for entry in path.parent.iterdir() if entry.exists()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, [*names, *siblings], n=1)
    return f" (did you mean '{close[0] if close[0] in names else path.with_name(close[0])}'?)" if close else ""
