"""What verbs that train are asked for: a set and settings, as people give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.config import LENGTHS, Settings, default_recipe, flat_names, resolve
from pocketvit.data import Arrays, Spec
from pocketvit.errors import UserError

Data = str | Path | Arrays | tuple[NDArray[np.uint8], Any]
"""A set: a name, a folder, a file; or images (N, H, W) or (N, H, W, C) with labels (N,), in memory."""


def asked(
    data: Data,
    recipe: str | None,
    config: str | Path | None,
    settings: Settings | None,
    elastic: bool | None,
    overrides: dict[str, Any],
) -> tuple[Spec, Settings, bool]:
    """The set, the settings, and whether their lengths may give way."""
    named = {flat_names("pretrain").get(name, name) for name in overrides}
    given = bool(settings or recipe or config or LENGTHS & named)
    spec = spec_of(data)
    return spec, settings or settings_for(spec, recipe, config, overrides), not given if elastic is None else elastic


def spec_of(data: object) -> Spec:
    """A set as `pocketvit.data.load` takes it; raises UserError for what is none."""
    if isinstance(data, tuple) and len(data) == 2:
        return Arrays(*data)
    if isinstance(data, Arrays):
        return data
    if isinstance(data, (str, Path)):
        return str(data)
    kind = type(data).__name__
    raise UserError(f"data of type {kind}: expected a name, a folder, a file or a pair (images, labels)")


def settings_for(
    data: Spec, recipe: str | None, config: str | Path | None, overrides: dict[str, Any], stage: str = "pretrain"
) -> Settings:
    """Of a recipe, or of the one that suits the set; flat names are those of the stage. Raises as `resolve`."""
    chosen = recipe or default_recipe(str(data), overrides.get("device"))
    return resolve(chosen, config, stage=stage, **overrides)
