"""The command line's arguments: settings and a verb's own, parsed, helped with and completed."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pocketvit.config import (
    LENGTHS,
    Settings,
    default_recipe,
    flat_names,
    model_path,
    recipe_path,
    run_config,
)
from pocketvit.config.fields import described
from pocketvit.config.parsing import RENAMED, boolean_settings, parse, setting_texts, settings_of, settings_parser
from pocketvit.errors import UserError

Arguments = dict[str, tuple[Any, Any, str]]
DATA_HELP = "digits, cifar10, cifar100; a folder of images or class folders, with train/ or without; Parquet"
DATA = (str, "digits", f"{DATA_HELP}; default: digits")
JUDGED = (str, None, f"{DATA_HELP}; default: what the run was begun with")
MODEL = (str, ..., "run directory, weights file or name of a shipped model")
# Among settings, where "model" is the network's sizes, --model stands for this.
WEIGHTS = (str, None, MODEL[2])
OUT: Arguments = {
    "out": (str, None, "run directory; default: a new one in runs/"),
    "overwrite": (bool, False, "replace the run that is in --out"),
    "resume": (bool, False, "go on with the run that is in --out, if there is one"),
    "pause_after": (str, None, "save and stop after 90s, 50m or 1.5h; resume goes on"),
}
FIT: Arguments = {
    "time_limit": (str, None, "have all done by then, as 10m; lengths are chosen to fit"),
    "plan": (bool, False, "say what would be done and how long it takes, and stop"),
}
IMAGES: Arguments = {
    "model": MODEL,
    "device": (Literal["auto", "cpu", "cuda", "mps"], "auto", "auto, cpu, cuda or mps"),
    "skip_bad": (bool, False, "go on where a file cannot be decoded"),
}
BENCH: Arguments = {
    "data": (str, None, "images that the models came from; default: those that each run was begun with"),
    "out": (str, None, "JSON file to write, and beside it a figure in SVG"),
    "rounds": (int, 10, "turns of ten calls that each has: one and 32 images, on one thread and on all"),
}
PURPOSES = {
    "train": ("fit", "pretrain", "finetune", "resume"),
    "judge": ("evaluate", "probe", "reconstruct", "report"),
    "use": ("predict", "embed", "export", "bench", "budget", "completion"),
}
# Of the verbs that take settings, what they take beside.
ARGUMENTS: dict[str, Arguments] = {
    "fit": {"source": DATA, "init": (str, None, "run or weights to start from, without pre-training"), **OUT, **FIT},
    "pretrain": {"source": DATA, **OUT},
    "finetune": {"source": DATA, "init": (str, None, f"{MODEL[2]} to start from; default: random"), **OUT},
    "probe": {"source": JUDGED, "weights": WEIGHTS},
    "evaluate": {"source": JUDGED, "weights": WEIGHTS},
    "reconstruct": {
        "source": JUDGED, "weights": WEIGHTS, "count": (int, 8, "images"),
        "out": (str, None, "PNG file to write; default: reconstruction.png in the run"),
    },
    "budget": {"channels": (int, 3, "channels of an image"), "classes": (int, 10, "outputs of the head")},
}  # fmt: skip
# Of the verbs that take no settings: the name of what they are given, how usage writes that, how many of it, what it
# is, and their flags.
PLAIN: dict[str, tuple[str, str, Any, str, Arguments]] = {
    "resume": ("run", "RUN", None, "run directory", {"pause_after": OUT["pause_after"]}),
    "report": ("run", "RUN", None, "run directory", {}),
    "predict": ("paths", "IMAGES", "+", "image files and folders of images", IMAGES | {
        "top": (int, 3, "classes to list for each image"),
        "runtime": (str, None, "of an exported file: onnxruntime, openvino or executorch; default: by its name"),
    }),
    "embed": ("paths", "IMAGES", "+", "image files and folders of images", IMAGES | {
        "out": (str, "-", "file that ends in .parquet or .csv; default: CSV on standard output"),
    }),
    "export": ("model", "RUN", None, MODEL[2], {
        "to": (str, "onnx", "kind of file: onnx, openvino, executorch, timm, or html for a page in a browser"),
        "out": (str, ..., "file to write; a card is written beside it"),
        "int8": (bool, False, "quantise, calibrated on train images"),
        "data": (str, None, "images that the run came from; default: those that it was begun with"),
        "max_drop": (float, 0.3, "points of test accuracy that may be lost, or one image where that is more"),
    }),
    "bench": ("models", "MODEL [MODEL ...]", "+", f"{MODEL[2]}, or exported file", BENCH),
    "completion": ("shell", "SHELL", None, "bash, zsh or fish", {}),
}  # fmt: skip
# Settings that `--help` shows, beside those with flat names; --help-all shows them all.
SHOWN = ("recipe", "config", "seed", "seeds", "device")
RARELY = ("decode_share", "label_column", "mask_ratio")  # flat names that only --help-all shows
TRAINING = ("fit", "pretrain", "finetune")
TIMES = ("time_limit", "pause_after")
# Of these verbs only what says which images are which matters.
NETWORK = ("config", "recipe", "preset", "size", "patch")
JUDGING = ("config", "device", "labels_per_class", "label_fraction", "skip_bad", "group_by")


def settings_given(verb: str, about: str, args: list[str], arguments: Arguments) -> tuple[Any, Any]:
    """Parsed arguments of a verb, and the `Settings` among them. A recipe is the first of the --config files.

    `given["lengths_given"]` says whether a recipe, a file or a flag says how long training is to be.
    """
    stage = "finetune" if verb == "finetune" else "pretrain"
    flat = flat_names(stage) | ({"model": "weights"} if "weights" in arguments else {})
    parser = settings_parser(prog=f"pocketvit {verb}", description=about, formatter_class=Formatter)
    add_arguments(parser, arguments)
    _help_asked(args, lambda everything: _help(parser, verb, arguments, flat, everything=everything))
    words = underscored(args, flat)
    named = _value(words, "recipe")
    chosen = named is not None or any(word.startswith("--config=") for word in words)
    if named is None and "source" in arguments and verb in TRAINING:
        from_data = [w for w in words if not w.startswith("-")]
        named = default_recipe((from_data[:1] or ["digits"])[0], _value(words, "device"))
        words.append(f"--recipe={named}")
    used = _value(words, "weights")
    base = recipe_path(named) if named else run_config(model_path(used)) if used else None
    try:
        given = parse(parser, [f"--config={base}", *words] if base else words)
        settings = settings_of(parser, given)
    except UserError as error:
        raise UserError(_as_typed(str(error), args, flat)) from None
    if "weights" in arguments and not given["weights"]:
        raise UserError(f"--model: {verb} needs a {MODEL[2]}")
    given["lengths_given"] = chosen or any(_value(words, name) is not None for name in LENGTHS)
    return given, settings


def _as_typed(message: str, args: list[str], flat: dict[str, str]) -> str:
    """A message with the short names of flags where these were typed, as --epochs for --pretrain.epochs."""
    typed = {arg.partition("=")[0].removeprefix("--").replace("-", "_") for arg in args}
    for name in typed & flat.keys():
        message = re.sub(rf"--{re.escape(flat[name])}(?![\w.])", f"--{name.replace('_', '-')}", message)
    return message


def _help_asked(args: list[str], text: Callable[[bool], str]) -> None:
    """Print it, of everything or not, and leave, where a word of `args` asks for it."""
    asked = next((word for word in args if word in ("-h", "--help", "--help-all")), None)
    if asked is not None:
        print(text(asked == "--help-all"))
        raise SystemExit(0)


def given_to(verb: str, about: str, args: list[str]) -> Any:
    """Parsed arguments of a verb that takes no settings."""
    from jsonargparse import ArgumentParser

    name, written, count, text, arguments = PLAIN[verb]
    parser = ArgumentParser(
        prog=f"pocketvit {verb}", usage=_usage(verb, written, arguments), description=about, exit_on_error=False,
        formatter_class=Formatter,
    )  # fmt: skip
    parser.add_argument(name, metavar=written.split()[0], nargs=count, help=text)
    add_arguments(parser, arguments, json=verb != "completion")
    _help_asked(args, lambda _: _plain_help(parser))
    return parse(parser, underscored(args))


def _usage(verb: str, written: str, arguments: Arguments) -> str:
    """The first line of a verb's help: what it is given, and the flags that it cannot do without."""
    needed = [f"--{name} X" for name, (_, default, _) in arguments.items() if default is ...]
    needed += ["--model X"] if "weights" in arguments else []
    return " ".join(word for word in ("pocketvit", verb, written, *needed, "[--FLAG VALUE ...]") if word)


def _plain_help(parser: Any) -> str:
    """What --help prints of a verb that takes no settings; what it is given stands under no title."""
    for action in parser._actions:
        action.help = "this" if action.dest == "help" else action.help
    for group in parser._action_groups:
        group.title = {"options": "flags", "positional arguments": None}.get(group.title, group.title)
    return str(parser.format_help()).rstrip()


def add_arguments(parser: Any, arguments: Arguments, json: bool = True) -> None:
    """Arguments as name: (type, default, help); `source` is positional, ... is required."""
    for name, (kind, default, text) in arguments.items():
        unsaid = default not in (None, ..., False) and "default" not in text
        text += f"; default: {default}" if unsaid else ""
        if name == "source":
            parser.add_argument("source", metavar="DATA", nargs="?", default=default, help=text)
        elif kind is bool:
            parser.add_argument(f"--{name}", action="store_true", help=text)
        elif default is ...:
            parser.add_argument(f"--{name}", type=kind, required=True, help=text)
        else:
            parser.add_argument(
                f"--{name}", type=kind if default is not None else kind | None, default=default, help=text
            )
    if json:
        parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on stdout")


def underscored(args: list[str], flat: dict[str, str] | None = None) -> list[str]:
    """Flags with underscores and dotted names, each joined to its value: `--mask-ratio 0.5` and the like."""
    words: list[str] = []
    for arg in args:
        if arg.startswith("--") and len(arg) > 2:
            name, equals, value = arg[2:].partition("=")
            name = name.replace("-", "_")
            name = (flat or {}).get(name, name)
            words.append(f"--{name}{equals}{value}")
        elif (
            words and flat is not None and words[-1].startswith("--") and "=" not in words[-1] and words[-1] not in BARE
        ):
            words[-1] += f"={arg}"
        else:
            words.append(arg)
    return [word + "=true" if flat is not None and word in boolean_settings() else word for word in words]


BARE = (
    *("--json", "--help", "--print_config"),
    *(f"--{name}" for name, (kind, *_) in (OUT | FIT).items() if kind is bool),
    *boolean_settings(),
)


class Formatter(argparse.HelpFormatter):
    """Flags as people type them, and what they are for; no types and no defaults in Python's words."""

    def __init__(self, prog: str, *_: Any, **__: Any) -> None:
        super().__init__(prog, max_help_position=27, width=min(100, shutil.get_terminal_size().columns))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        name = action.option_strings[-1]
        name = name if "." in name else name.replace("_", "-")
        bare = action.nargs == 0 or f"--{action.dest}" in BARE
        return name if bare else f"{name} {'TIME' if action.dest in TIMES else 'N' if _counts(action) else 'X'}"

    def _format_usage(self, usage: str | None, *_: Any) -> str:
        return f"usage: {usage or self._prog}\n\n"


def _counts(action: argparse.Action) -> bool:
    """Whether its value is a whole number."""
    kinds = {setting.flag: setting.kind for setting in described(Settings)}
    return kinds.get(action.dest, getattr(action, "_typehint", action.type)) is int


def _help(parser: Any, verb: str, arguments: Arguments, flat: dict[str, str], *, everything: bool) -> str:
    """What --help prints: the verb's own flags, and the settings that people change often or all of them."""
    parser.usage = _usage(verb, "[DATA]" if "source" in arguments else "", arguments)
    texts, short = setting_texts(), {dotted: name for name, dotted in flat.items() if name not in RENAMED}
    shown = JUDGING if "weights" in arguments else NETWORK if verb == "budget" else (*SHOWN, *(set(flat) - set(RARELY)))
    for action in parser._actions:
        name = short.get(action.dest, action.dest)
        action.option_strings = [f"--{name}"] if action.option_strings else []
        if action.dest == "help":
            action.help = "this"
        elif not everything and action.dest in texts:
            action.help = texts[action.dest].split(";")[0] if name in shown else argparse.SUPPRESS
        elif not everything and action.dest not in (*arguments, "json", "config"):
            action.help = argparse.SUPPRESS
    if not everything:
        _merge_groups(parser)
    more = "" if everything else f"\npocketvit {verb} --help-all lists every setting\n"
    text: str = parser.format_help()
    return text.rstrip() + "\n" + more


def _merge_groups(parser: Any) -> None:
    """One list of flags, and one of settings."""
    titles = {"options": "flags", "positional arguments": "images", "Everything a run depends on": "settings"}
    for group in parser._action_groups:
        group.title, group.description = titles.get(group.title), None
    first = next((group for group in parser._action_groups if group.title == "settings"), None)
    for group in parser._action_groups:
        if group.title is None and first is not None:
            first._group_actions += group._group_actions
            group._group_actions = []


def _value(words: list[str], name: str) -> str | None:
    """The last value that is given for a flag."""
    return next((word.split("=", 1)[1] for word in reversed(words) if word.startswith(f"--{name}=")), None)


def front_page(verbs: Mapping[str, Callable[..., int]], groups: Mapping[str, Sequence[str]]) -> str:
    """What `pocketvit` alone prints."""
    lines = [
        "PocketViT: from a folder of small images to a small, fast image classifier.",
        "pocketvit VERB --help says more of each; --version which this is.",
    ]
    for purpose, names in groups.items():
        for number, name in enumerate(names):
            text = str(verbs[name].__doc__)
            lines.append(f"  {purpose if not number else '':<7}{name:<12} {text}")
    examples = (
        "pocketvit fit digits", "pocketvit fit my_images/ --time-limit 10m", "pocketvit fit my_images/ --plan",
        "pocketvit predict new_images/ --model runs/my_images-tiny",
    )  # fmt: skip
    return "\n".join([*lines, "", *(f"  {line}" for line in examples)])


def typed_at() -> float:
    """When the command was typed, on time.monotonic's clock: a promise of time counts from then."""
    if Path(sys.argv[0]).stem != "pocketvit":
        return time.monotonic()
    import psutil

    return time.monotonic() - (time.time() - psutil.Process().create_time())
