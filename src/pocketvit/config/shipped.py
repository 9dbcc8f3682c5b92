"""Files that ship with PocketViT, recipes and models, by their names."""

from __future__ import annotations

import difflib
from pathlib import Path

from pocketvit.errors import UserError
from pocketvit.files import expanded


def recipe_path(name: str) -> Path:
    """The YAML file of a shipped recipe or of a path; raises UserError with the names of the shipped ones."""
    recipes = shipped_files("recipes")
    if name in recipes:
        return recipes[name]
    if Path(name).suffix in (".yaml", ".yml") and expanded(name).is_file():
        return expanded(name)
    close = difflib.get_close_matches(name, recipes, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UserError(f"--recipe: no recipe '{name}'{hint}: use one of {', '.join(sorted(recipes))}, or a YAML file")


def model_path(name: str | Path) -> Path:
    """A run directory or weights file, or else the weights of a shipped model of that name.

    A path without a file is returned as it is, for its reader to refuse; a bare name raises UserError.
    """
    path, models = expanded(name), shipped_files("models")
    if path.exists() or path.suffix or path.name != str(path):
        return path
    if str(name) in models:
        return models[str(name)]
    names = f"the shipped models are {', '.join(sorted(models))}" if models else "no model is shipped yet"
    raise UserError(f"--model or --init '{name}': no run directory, no weights file and no shipped model ({names})")


def shipped_files(folder: str) -> dict[str, Path]:
    """Files of "recipes" or "models", by their names. They travel in the wheel; in a checkout beside src/."""
    package, suffix = Path(__file__).parents[1], {"recipes": ".yaml", "models": ".safetensors"}[folder]
    return {
        path.name.removesuffix(suffix): path
        for parent in (package.parents[1], package)
        for path in sorted((parent / folder).glob(f"*{suffix}"))
    }


def run_config(model: str | Path) -> Path | None:
    """config.yaml of a run directory, or beside a weights file in one; None elsewhere.

    Whoever tests a run's model must split the data as the run did, or would test on images it was trained on.
    """
    folder = Path(model) if Path(model).is_dir() else Path(model).parent
    return folder / "config.yaml" if (folder / "config.yaml").is_file() else None
