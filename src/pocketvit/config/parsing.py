"""From recipes, YAML files, flags and keyword arguments to `Settings`."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pocketvit.config.fields import described, in_words
from pocketvit.config.settings import Settings
from pocketvit.config.shipped import recipe_path
from pocketvit.errors import UserError
from pocketvit.files import expanded, named_place

# What people change often is a flat flag; everything else is reached by its dotted name.
FLAT: dict[str, str] = {
    "size": "data.size",
    "labels_per_class": "data.labels_per_class",
    "label_fraction": "data.label_fraction",
    "skip_bad": "data.skip_bad",
    "label_column": "data.label_column",
    "group_by": "data.group_by",
    "symmetry": "data.symmetry",
    "preset": "model.preset",
    "patch": "model.patch",
    "mask_ratio": "mae.mask_ratio",
    "decode_share": "mae.decode_share",
}
# What settings were called in earlier versions, for recipes and runs of theirs.
RENAMED = {
    f"pretrain.{name}": f"mae.{name}"
    for name in ("mask_ratio", "decode_share", "visible_discount", "normalise_targets")
}
FLIP = "augment.flip"  # of each stage, before symmetry was a setting of the data
# Settings that say how long a run is.
LENGTHS = frozenset(("pretrain.epochs", "pretrain.min_steps", "finetune.epochs", "finetune.min_steps", "seeds"))
# These mean the stage that the verb runs; `fit` runs both, and takes them for pre-training.
FLAT_BY_STAGE = ("epochs", "batch_size", "lr")


def flat_names(stage: str) -> dict[str, str]:
    """Flat names and the dotted names they stand for; `stage` is "pretrain" or "finetune"."""
    return FLAT | RENAMED | {name: f"{stage}.{name}" for name in FLAT_BY_STAGE}


def default_recipe(data: str, device: str | None = None) -> str:
    """The recipe of a source when none is named: on a CPU, `lite` would take hours where `tiny` takes minutes."""
    if data == "digits" and not ((own := named_place(data)) and own.is_dir()):  # a folder of that name is the user's
        return "digits"
    if device in (None, "auto"):
        import torch

        return "lite" if torch.cuda.is_available() else "tiny"
    return "lite" if device == "cuda" else "tiny"


def seconds_of(duration: str | float) -> float:
    """Seconds in "90s", "50m", "1.5h" or a number of seconds; UserError for anything else."""
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(duration))
    if not parts or float(parts[1]) <= 0:
        raise UserError(f"'{duration}' is not a duration: expected one like 90s, 50m or 1.5h")
    return float(parts[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[parts[2]]


def settings_parser(**kwargs: Any) -> Any:
    """A jsonargparse parser whose arguments are the fields of `Settings`, with --config and --print_config."""
    from jsonargparse import ActionConfigFile, ArgumentParser

    parser = ArgumentParser(exit_on_error=False, **kwargs)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of settings, read after the recipe")
    parser.add_class_arguments(Settings, as_group=True)
    texts = setting_texts()
    for action in parser._actions:
        action.help = texts.get(action.dest, action.help)
    return parser


def setting_texts() -> dict[str, str]:
    """What each setting is for, by its dotted name."""
    return {setting.flag: setting.text for setting in described(Settings)}


def boolean_settings() -> tuple[str, ...]:
    """Flags of the settings that are yes or no, and may be given bare."""
    return tuple(f"--{setting.flag}" for setting in described(Settings) if setting.kind is bool)


def resolve(
    recipe: str | None = None, config: str | Path | None = None, *, stage: str = "pretrain", **overrides: Any
) -> Settings:
    """Settings from defaults, then `recipe`, then `config`, then `overrides`, each over the one before.

    Args:
        recipe: name of a shipped recipe, or a YAML file.
        config: YAML file with any part of the settings.
        stage: the stage that flat names such as `epochs` mean, "pretrain" or "finetune".
        overrides: flat names (`epochs=5`), or dotted ones through a dictionary (`**{"finetune.lr": 1e-3}`).

    Raises:
        UserError: unknown key, wrong type or unreadable file.
    """
    args = [f"--config={recipe_path(recipe)}"] if recipe else []
    args += [f"--config={config}"] if config else []
    flat = flat_names(stage)
    for name, value in (({"recipe": recipe} if recipe else {}) | overrides).items():
        text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]
        args.append(f"--{flat.get(name, name)}={text}")
    parser = settings_parser(prog="pocketvit")
    return settings_of(parser, parse(parser, args))


def parse(parser: Any, args: list[str]) -> Any:
    """Parse, turning every complaint of jsonargparse into a UserError of one line that suggests the nearest name."""
    from jsonargparse import ArgumentError

    args = [f"--config={_plain(arg.removeprefix('--config='))}" if arg.startswith("--config=") else arg for arg in args]
    try:
        return parser.parse_args(args)
    except (ArgumentError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(_one_line(" ".join(str(error).split()), parser._actions)) from None


def settings_of(parser: Any, parsed: Any) -> Settings:
    """The frozen `Settings` in a parsed namespace."""
    # Before they are made, for the message to name the whole flag.
    for setting in described(Settings):
        name, value = setting.flag, parsed.get(setting.flag)
        if not setting.is_group:
            setting.check(value)
        # jsonargparse takes `pretrain: 5` in a file for no settings at all, and would go on with the defaults.
        elif len(getattr(value, "__dict__", ())) < len(dataclasses.fields(setting.kind)):
            raise UserError(f"--{name}: one value stands for a group of settings: expected {name}: {{key: value}}")
    ready = parser.instantiate(parsed)
    return Settings(**{f.name: ready[f.name] for f in dataclasses.fields(Settings)})


def as_yaml(settings: Settings | Mapping[str, Any]) -> str:
    """Every value, as YAML that `--config` reads back."""
    values = dataclasses.asdict(settings) if isinstance(settings, Settings) else dict(settings)
    return yaml.safe_dump(values, sort_keys=False)


def read_settings(file: str | Path) -> dict[str, Any]:
    """The part of the settings that a YAML file holds, nested, over that of the recipe that its `base` names.

    Names of earlier versions are today's. Raises UserError where the file cannot be read, or is no mapping.
    """
    values = _read(expanded(file))
    base = values.pop("base", None)
    if base is None:
        return values
    below = _read(recipe_path(str(base)))
    if "base" in below:
        raise UserError(f"{file}: base: {base} has a base itself: name one that has none")
    return _merged(below, values)


def _plain(file: str) -> str:
    """`read_settings` as one line of YAML."""
    return yaml.safe_dump(read_settings(file), default_flow_style=True, width=float("inf")).strip()


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which PyYAML takes the last and drops the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            raise yaml.YAMLError(f"'{twice[0]}' is there twice, near line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _Loader) or {}
        json.dumps(values, default=str)  # refuses what holds itself, as an alias in its own anchor does
    except OSError as error:
        raise UserError(f"--config: {file}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"--config: {file}: not YAML of settings ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"--config: {file}: holds no settings: expected lines like 'seed: 1'")
    for before, now in RENAMED.items():
        (group, name), (new_group, new_name) = before.split("."), now.split(".")
        if isinstance(values.get(group), dict) and name in values[group]:
            values.setdefault(new_group, {})[new_name] = values[group].pop(name)
    flips = [
        values[stage]["augment"].pop("flip")
        for stage in ("pretrain", "finetune")
        if isinstance(values.get(stage), dict)
        and isinstance(values[stage].get("augment"), dict)
        and "flip" in values[stage]["augment"]
    ]
    if flips:
        values["data"] = {"symmetry": "mirror" if any(flips) else "none"} | (values.get("data") or {})
    return values


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested values, those of `above` where both have one."""
    both = {
        name: _merged(below[name], value) if isinstance(value, dict) and isinstance(below.get(name), dict) else value
        for name, value in above.items()
    }
    return below | both


def _one_line(text: str, actions: Sequence[Any]) -> str:
    """What jsonargparse complains of, in our words; `actions` are the parser's."""
    if FLIP in text:
        return f"{text} (now --symmetry none, mirror or all)"
    if group := re.search(r"""Parser key "([\w.]+)": Unable to load config '(.*?)'""", text):
        return f"--{group[1]} {group[2]}: that is a group of settings: give one of them, --{group[1]}.NAME VALUE"
    if wrong := re.search(r'Parser key "([\w.]+)":.*(?:Got value|Given value): (.*)', text):
        return f"--{_typed(wrong[1])} {wrong[2]}: expected {_expected(wrong[1], actions)}"
    if lacking := re.fullmatch(r"argument --([\w.]+): expected one argument", text):
        return f"--{_typed(lacking[1])}: expected a value after it"
    if needed := re.fullmatch(r"the following arguments are required: (.*)", text):
        lacks = set(needed[1].split(", "))
        told = [_named(a) for a in actions if lacks & {a.dest, a.metavar, *a.option_strings}]
        return f"missing: {' and '.join(told)}"
    text = text.replace("unrecognized arguments:", "not understood:")
    unknown = re.search(r"not understood: --([\w.-]+)|does not accept option '([^']+)'", text)
    if unknown:
        name = (unknown[1] or unknown[2]).replace("-", "_")
        dests = [action.dest for action in actions]
        names = {dest.split(".")[-1]: dest for dest in dests} | {dest: dest for dest in (*dests, *FLAT, *FLAT_BY_STAGE)}
        others = sorted(known for known in names if names[known] != name)
        close = difflib.get_close_matches(name, others, n=1, cutoff=0.7)
        if close:
            # In a file it is a key, there and not on the command line without its group.
            meant = f"--{_typed(names[close[0]])}" if unknown[1] else close[0]
            return f"{text} (did you mean {meant}?)"
    return f"{text} (--help says what is)" if text.startswith("not understood:") else text


def _typed(dest: str) -> str:
    """A flag as people type it."""
    return dest if "." in dest else dest.replace("_", "-")


def _expected(dest: str, actions: Sequence[Any]) -> str:
    """What a flag's value has to be, in words."""
    own = {setting.flag: setting.expected for setting in described(Settings)}
    verbs = {action.dest: in_words(action._typehint) for action in actions if hasattr(action, "_typehint")}
    return own.get(dest) or verbs.get(dest, "another value")


def _named(action: Any) -> str:
    """An argument as help writes it, and what it is for."""
    return f"{f'--{_typed(action.dest)}' if action.option_strings else action.metavar} ({action.help})"
