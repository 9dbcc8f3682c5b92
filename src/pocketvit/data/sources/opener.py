"""What a kind of source has to say of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pocketvit.data.structures import Source, Spec


class Columns(NamedTuple):
    """Columns of a table that are asked for.

    Args:
        label: where the labels are; None takes the first that is called like one
        group: what an image belongs to, where the table has a column of that name; or None
    """

    label: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Opener:
    """A kind of source.

    Args:
        words: for it, as help and errors list what is accepted
        recognises: (what the user typed, the file or folder that it names or None) to whether it is of this kind
        open: (the same two, and the columns asked for) to the set, opened but not decoded; raises UserError
        names: of sets that need no file, for suggestions
    """

    words: str
    recognises: Callable[[Spec, Path | None], bool]
    open: Callable[[Any, Path | None, Columns], Source]
    names: tuple[str, ...] = ()
