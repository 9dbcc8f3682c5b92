"""What a shell is told when it completes a command: verbs, flags, recipes, runs, models and data."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pocketvit.arguments import SHOWN, Arguments
from pocketvit.config import flat_names, shipped_files
from pocketvit.config.parsing import setting_texts
from pocketvit.errors import UserError


def complete(verbs: dict[str, tuple[str, Arguments | None]]) -> None:
    """Answer the shell's question for what may follow, and leave; argcomplete asks it with variables of its own."""
    import argcomplete
    from argcomplete.completers import DirectoriesCompleter, FilesCompleter

    parser = argparse.ArgumentParser(prog="pocketvit")
    parser.add_argument("--version", action="store_true")
    sub = parser.add_subparsers()
    places: dict[str, Callable[..., Any]] = {
        "out": DirectoriesCompleter(), "init": FilesCompleter(), "model": _models, "run": _models,
        "recipe": lambda **_: list(shipped_files("recipes")),
    }  # fmt: skip
    for verb, (about, arguments) in verbs.items():
        one = sub.add_parser(verb, help=about)
        flags = [name for name in arguments or {} if name not in ("source", "weights")] + ["json"]
        if arguments is not None:
            one.add_argument("source", nargs="?").completer = _sources  # type: ignore[attr-defined]
            flags += [*SHOWN, *flat_names("pretrain"), *setting_texts()]
        for flag in dict.fromkeys([*flags, *(["model"] if arguments is None or "weights" in arguments else [])]):
            made = one.add_argument(f"--{flag.replace('_', '-') if '.' not in flag else flag}", nargs="?")
            if flag in places:
                made.completer = places[flag]  # type: ignore[attr-defined]
        if arguments is None:
            one.add_argument("paths", nargs="*").completer = FilesCompleter()  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def completion_script(shell: str) -> str:
    """What a shell reads to complete: bash, zsh or fish. Raises UserError for another."""
    import argcomplete

    if shell not in ("bash", "zsh", "fish"):
        raise UserError(f"completion: no shell '{shell}': expected bash, zsh or fish")
    script: str = argcomplete.shellcode(["pocketvit"], shell=shell)
    return script


def _models(prefix: str = "", **_: Any) -> list[str]:
    runs = [str(path.parent) for path in Path("runs").glob("*/config.yaml")]
    return [name for name in [*runs, *shipped_files("models")] if name.startswith(prefix)]


def _sources(prefix: str = "", **_: Any) -> list[str]:
    folders = [f"{path}/" for path in Path().glob(f"{prefix}*") if path.is_dir()]
    return [name for name in ("digits", "cifar10", "cifar100", *folders) if name.startswith(prefix)]
