"""What a shell is told when it completes a command: verbs, flags, recipes, runs, models and data."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pocketvit.arguments import ARGUMENTS, PLAIN
from pocketvit.config import Settings, flat_names, shipped_files
from pocketvit.config.fields import described
from pocketvit.errors import UserError

SHELLS = ("bash", "zsh", "fish")
# The names in `pocketvit.edge.formats`, which imports torch: too slow for a key that is pressed.
KINDS = ("onnx", "openvino", "executorch", "html", "timm")
RUNTIMES = ("onnxruntime", "openvino", "executorch")


def complete(verbs: Mapping[str, Callable[..., int]]) -> None:
    """Answer the shell's question for what may follow, and leave; argcomplete asks it with variables of its own."""
    import argcomplete
    from argcomplete.completers import DirectoriesCompleter, FilesCompleter

    parser = argparse.ArgumentParser(prog="pocketvit")
    parser.add_argument("--version", action="store_true")
    sub = parser.add_subparsers()
    places: dict[str, Callable[..., Any]] = {
        "source": _sources, "paths": FilesCompleter(), "run": _runs, "models": _models,
        "out": DirectoriesCompleter(), "init": _models, "model": _models,
    }  # fmt: skip
    # A flag whose value is one of few; what else it may be, as a recipe's file, a person types out.
    names = {
        "recipe": tuple(shipped_files("recipes")), "shell": SHELLS, "to": KINDS, "runtime": RUNTIMES,
    }  # fmt: skip
    kinds = {setting.flag: setting.kind for setting in described(Settings) if not setting.is_group}
    for verb, function in verbs.items():
        one, settings = sub.add_parser(verb, help=str(function.__doc__)), verb in ARGUMENTS
        if settings:
            own, flat = ARGUMENTS[verb], flat_names("finetune" if verb == "finetune" else "pretrain")
            given, count = "source", "?"
            flags = {name: kind for name, (kind, *_) in own.items() if name not in ("source", "weights")}
            flags |= {"model": str} if "weights" in own else {}
            flags |= {name: kinds[dotted] for name, dotted in flat.items()} | {"config": str} | kinds
        else:
            given, _, count, _, own = PLAIN[verb]
            flags = {name: kind for name, (kind, *_) in own.items()}
        if not settings or "source" in own:
            place = one.add_argument(given, nargs=count, choices=names.get(given))
            place.completer = places.get(given)  # type: ignore[attr-defined]
        more = {"json": bool} | ({"help_all": bool} if settings else {})
        for flag, kind in (flags | more).items():
            written = f"--{flag if '.' in flag else flag.replace('_', '-')}"
            if kind is bool:
                one.add_argument(written, action="store_true")
                continue
            choices = get_args(kind) if get_origin(kind) is Literal else names.get(flag)
            made = one.add_argument(written, choices=choices)
            if flag in places:
                made.completer = places[flag]  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def completion_script(shell: str) -> str:
    """What a shell reads to complete: bash, zsh or fish. Raises UserError for another."""
    import argcomplete

    if shell not in SHELLS:
        raise UserError(f"completion: no shell '{shell}': expected bash, zsh or fish")
    script: str = argcomplete.shellcode(["pocketvit"], shell=shell)
    return script


def _runs(prefix: str = "", **_: Any) -> list[str]:
    from argcomplete.completers import DirectoriesCompleter

    runs = [str(path.parent) for path in Path("runs").glob("*/config.yaml")]
    return [name for name in runs if name.startswith(prefix)] or list(DirectoriesCompleter()(prefix))


def _models(prefix: str = "", **_: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter

    named = [name for name in (*_runs(prefix), *shipped_files("models")) if name.startswith(prefix)]
    return list(dict.fromkeys([*named, *FilesCompleter()(prefix)]))


def _sources(prefix: str = "", **_: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter

    named = [name for name in ("digits", "cifar10", "cifar100") if name.startswith(prefix)]
    return [*named, *FilesCompleter()(prefix)]
