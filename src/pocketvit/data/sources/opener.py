"""What a kind of source has to say of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pocketvit.data.structures import Source


@dataclass(frozen=True)
class Opener:
    """A kind of source.

    Args:
        words: for it, as help and errors list what is accepted
        recognises: (what the user typed, the file or folder that it names or None) to whether it is of this kind
        open: (the same two, the label column asked for or None) to the set, opened but not decoded; raises UserError
        names: of sets that need no file, for suggestions
    """

    words: str
    recognises: Callable[[str, Path | None], bool]
    open: Callable[[str, Path | None, str | None], Source]
    names: tuple[str, ...] = ()
