"""Typed, frozen settings. Recipes are YAML files that fill them; flags and keyword arguments override recipes.

Nothing here imports torch, so that the command line starts at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from pocketvit.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """Images: their size, and which of them (and of their labels) are used for what.

    Args:
        size: side in pixels (36) or HEIGHTxWIDTH ("28x40") that images are scaled to; null takes their own, rounded up
            to the patch, and makes at most 256 patches of it, with patches of up to 8 px, unless --patch is given
        scale: factor on the images' own size before it is rounded, where size is null
        val_fraction: share of the train images held out for validation, stratified by class
        test_fraction: share of the images held out for testing when the source brings no test split
        split_seed: seed of these two splits
        group_by: pattern in file names whose match (its first group, where it has one) tells what belongs together, as
            one patient's or one track's images; each stays on one side of these two splits
        labels_per_class: labels to keep for fine-tuning: a count, "all", or several separated by commas ("5,all")
        label_fraction: share of the labels to keep for fine-tuning, stratified by class (instead of labels_per_class)
        images: learn from about this many of the train images, the same share of every class; null takes them all
        skip_bad: leave out images that cannot be decoded, and list them, instead of stopping
        label_column: of Parquet files; null takes the first that is called label, labels, target, class or the like
    """

    size: int | str | None = None
    scale: float = 1.0
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    group_by: str | None = None
    labels_per_class: int | str = "all"
    label_fraction: float | None = None
    images: int | None = None
    skip_bad: bool = False
    label_column: str | None = None

    @property
    def shape(self) -> tuple[int, int] | None:
        """(height, width) asked for, or None for the native size."""
        if self.size is None:
            return None
        parts = str(self.size).lower().split("x")
        if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise UserError(f"--size: '{self.size}' is neither a side (36) nor HEIGHTxWIDTH (28x40)")
        return int(parts[0]), int(parts[-1])

    @property
    def label_budgets(self) -> tuple[int | None, ...]:
        """Labels kept per class, one entry an experiment; None keeps them all (or `label_fraction` of them)."""
        budgets: list[int | None] = []
        for part in str(self.labels_per_class).split(","):
            part = part.strip()
            if part == "all":
                budgets.append(None)
            elif part.isdecimal() and int(part) > 0:
                budgets.append(int(part))
            else:
                raise UserError(f"--labels-per-class: '{part}' is neither a count above 0 nor 'all'")
        if self.label_fraction is not None:
            if budgets != [None]:
                raise UserError("--labels-per-class and --label-fraction exclude each other: give one of them")
            if not 0 < self.label_fraction <= 1:
                raise UserError(f"--label-fraction: {self.label_fraction} is not above 0 and at most 1")
        return tuple(budgets)

    @property
    def largest_budget(self) -> int | None:
        """The one of `label_budgets` that keeps most labels; None, all of them, is the largest."""
        return max(self.label_budgets, key=lambda n: float("inf") if n is None else n)


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network. A preset names them all; any of them can be set beside it.

    Args:
        preset: paper, lite, tiny or digits
        patch: side of a patch in pixels
        width: width of the encoder
        depth: layers of the encoder
        heads: attention heads of the encoder
        mlp_ratio: width of the feed-forward layers over that of the encoder or decoder
        decoder_width: width of the decoder
        decoder_depth: layers of the decoder
        decoder_heads: attention heads of the decoder
        decoder_attention: what the decoder's tokens attend to: each other, or (cross) the encoder's output alone
        pool: what the head reads: the class token's output, or the mean over patches
    """

    preset: Literal["paper", "lite", "tiny", "digits"] = "lite"
    patch: int | None = None
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    mlp_ratio: float | None = None
    decoder_width: int | None = None
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    decoder_attention: Literal["self", "cross"] = "self"
    pool: Literal["token", "mean"] = "token"

    def resolved(self) -> ModelConfig:
        """The same network with every size filled in from the preset; raises UserError for sizes that cannot be."""
        given = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        model = dataclasses.replace(self, **{**PRESETS[self.preset], **given})
        least = dict.fromkeys(("patch", "width", "depth", "heads", "decoder_width", "decoder_heads"), 1)
        # Without a layer, the queries of a cross-attention decoder would see nothing of the image.
        for name, value in (least | {"decoder_depth": int(model.decoder_attention == "cross")}).items():
            if getattr(model, name) < value:
                raise UserError(f"--model.{name}: {getattr(model, name)} is out of range: expected at least {value}")
        if any(int(getattr(model, name) * (model.mlp_ratio or 0)) < 1 for name in ("width", "decoder_width")):
            raise UserError(f"--model.mlp_ratio: {model.mlp_ratio} leaves the feed-forward layers no width")
        for width, heads in (("width", "heads"), ("decoder_width", "decoder_heads")):
            if getattr(model, width) % getattr(model, heads):
                raise UserError(
                    f"--model.{heads} {getattr(model, heads)} does not divide --model.{width} {getattr(model, width)}"
                )
        return model


_VIT = {"width": 192, "depth": 12, "heads": 3, "mlp_ratio": 2.0}
_DECODER = {"decoder_width": 96, "decoder_depth": 2, "decoder_heads": 3}
PRESETS: dict[str, dict[str, Any]] = {
    # The paper's encoder; heads and decoder are not stated there.
    "paper": {"patch": 3, **_VIT, **_DECODER},
    "lite": {"patch": 4, **_VIT, **_DECODER},
    "tiny": {"patch": 4, "width": 128, "depth": 8, "heads": 4, "mlp_ratio": 2.0} | _DECODER,
    "digits": {
        **{"patch": 2, "width": 96, "depth": 4, "heads": 4, "mlp_ratio": 2.0},
        **{"decoder_width": 64, "decoder_depth": 1, "decoder_heads": 4},
    },
}


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes to training images, drawn anew for every image of every batch, on the device.

    Args:
        flip: mirror half of the images left to right (wrong for glyphs)
        crop_scale: least share of the area that a random resized crop keeps; 1 turns cropping off
        shift: furthest random shift, as a share of the side
        rotate: furthest random rotation in degrees
        policy: RandAugment or TrivialAugment, drawn for each image, or none
        erase: share of the images with a random rectangle erased
    """

    flip: bool = True
    crop_scale: float = 1.0
    shift: float = 0.0
    rotate: float = 0.0
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    erase: float = 0.0


@dataclass(frozen=True)
class OptimConfig:
    """How long and how fast to train; shared by every stage.

    Args:
        epochs: passes over the training images
        min_steps: train at least this many steps, however few images there are
        batch_size: images a step, over all processes
        accumulate: parts that a batch goes through the device in, one after the other, where memory is short
        repeats: times that an image stands in a batch, changed anew each time; an epoch has as many steps as with 1
        optimizer: adamw; muon for the matrices inside the layers and AdamW for the rest; lion or schedule-free (AdamW),
            which need the extra "optim"
        lr: peak learning rate
        lr_base_size: images a batch that lr and min_lr are meant for, from which they grow and shrink in proportion to
            batch_size; 0 takes them as they are
        min_lr: learning rate at the end of the cosine; schedule-free stays at lr
        warmup: share of the steps in which the rate rises to its peak
        weight_decay: decoupled weight decay; biases, norms and embeddings are spared
        beta2: AdamW's second beta; Lion keeps its own
        layer_decay: factor on the rate for each layer further from the head; random init is fine-tuned without it
        clip: largest norm of the gradient; 0 turns clipping off
        ema: decay of the weights' moving average, which is then what is evaluated and saved; 0 turns it off
    """

    epochs: int = 100
    min_steps: int = 0
    batch_size: int = 256
    accumulate: int = 1
    repeats: int = 1
    optimizer: Literal["adamw", "muon", "lion", "schedule-free"] = "adamw"
    lr: float = 1e-3
    lr_base_size: int = 0
    min_lr: float = 0.0
    warmup: float = 0.1
    weight_decay: float = 0.05
    beta2: float = 0.95
    layer_decay: float = 1.0
    clip: float = 0.0
    ema: float = 0.0


@dataclass(frozen=True)
class PretrainConfig(OptimConfig):
    """Masked-autoencoder pre-training.

    Args:
        mask_ratio: share of the patches to hide
        decode_share: share of the hidden patches that a training step reconstructs, at least one, drawn anew each time
        visible_discount: weight of the visible patches' loss beside the masked patches'
        normalise_targets: reconstruct patches normalised by their own mean and deviation
        knn_every: epochs between two kNN readings on the validation images; 0 takes them at the end only
        augment: random changes to the images
    """

    epochs: int = 200
    mask_ratio: float = 0.75
    decode_share: float = 1.0
    visible_discount: float = 0.1
    normalise_targets: bool = False
    knn_every: int = 0
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(crop_scale=0.4))


@dataclass(frozen=True)
class FinetuneConfig(OptimConfig):
    """Supervised training of the classifier.

    Args:
        label_smoothing: share of the target spread over all classes
        mixup: alpha of mixup's Beta distribution; 0 turns it off
        cutmix: alpha of cutmix's Beta distribution; 0 turns it off
        mix_share: share of the batches that are mixed, where mixup or cutmix is on
        drop_path: stochastic depth of the last layer
        scratch_rate: factor on lr and min_lr from random init, which also goes without layer_decay
        freeze_encoder: train the head alone (a linear probe with augmentation)
        reconstruction: weight of a masked autoencoder's loss, trained at once on all train images, with labels or not,
            as `pretrain` describes it; 0 leaves it out
        augment: random changes to the images
    """

    beta2: float = 0.999
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_share: float = 1.0
    drop_path: float = 0.1
    scratch_rate: float = 1.0
    freeze_encoder: bool = False
    reconstruction: float = 0.0
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(crop_scale=0.5))


# What values may be; names are those of fields, in whichever stage they are.
_LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    "at least 1": (lambda v: v is None or v >= 1, "seeds epochs batch_size accumulate repeats images"),
    "at least 0": (
        lambda v: v >= 0,
        "min_steps lr min_lr lr_base_size weight_decay clip visible_discount knn_every mixup cutmix "
        "rotate reconstruction",
    ),
    # What NumPy's generators take, with room for --seeds more.
    "from 0 to 4,000,000,000": (lambda v: 0 <= v <= 4_000_000_000, "seed split_seed"),
    "from 0 to 1": (lambda v: 0 <= v <= 1, "mask_ratio warmup label_smoothing mix_share layer_decay shift erase"),
    "at least 0 and below 1": (lambda v: 0 <= v < 1, "beta2 ema drop_path"),
    "above 0": (lambda v: v > 0, "scale scratch_rate"),
    "above 0 and at most 1": (lambda v: 0 < v <= 1, "crop_scale decode_share"),
}


def _check_limits(settings: Any, prefix: str = "") -> None:
    """Raise UserError, naming the flag, for what no stage could work with."""
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if dataclasses.is_dataclass(value):
            _check_limits(value, f"{prefix}{f.name}.")
        if value is None and "None" not in str(f.type):
            raise UserError(f"--{prefix}{f.name}: has no value: give one, or leave it out")
        for words, (holds, names) in _LIMITS.items():
            if f.name in names.split() and not holds(value):
                raise UserError(f"--{prefix}{f.name}: {value} is out of range: expected {words}")


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on.

    Args:
        recipe: name of a shipped recipe or a YAML file, read before --config and flags; null picks one for the data
        seed: seed of every random choice but the data splits
        seeds: how many times to fine-tune, with seeds seed, seed + 1, ...
        device: auto, cpu, cuda or mps
        precision: float32, bf16, or auto: bf16 where the device has it in hardware
        compile: torch.compile always, never, or auto: in stages of over four minutes, where a short trial shows a gain;
            graphs: always, and replayed as CUDA graphs, where a step takes the host longer than the device
        shard: over several processes, keep a part of what training holds in each (FSDP), where it is too much for one
        deterministic: on CUDA, only kernels that give the same bits each time, some of them slower; a CPU always does
        tensorboard: also write TensorBoard events into the run directory; needs the extra "track"
    """

    recipe: str | None = None
    seed: int = 0
    seeds: int = 1
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: Literal["auto", "always", "graphs", "never"] = "auto"
    shard: bool = False
    deterministic: bool = False
    tensorboard: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)

    def __post_init__(self) -> None:
        _check_limits(self)
        for name, stage in (("pretrain", self.pretrain), ("finetune", self.finetune)):
            if stage.optimizer == "schedule-free" and stage.ema:
                raise UserError(
                    f"--{name}.ema: {stage.ema} beside --{name}.optimizer schedule-free, which averages the weights "
                    f"itself: add --{name}.ema 0"
                )
        if self.finetune.freeze_encoder and self.finetune.reconstruction:
            raise UserError("--finetune.reconstruction trains the encoder, which --finetune.freeze_encoder forbids")


# What people change often is a flat flag; everything else is reached by its dotted name.
FLAT: dict[str, str] = {
    "size": "data.size",
    "labels_per_class": "data.labels_per_class",
    "label_fraction": "data.label_fraction",
    "skip_bad": "data.skip_bad",
    "label_column": "data.label_column",
    "group_by": "data.group_by",
    "preset": "model.preset",
    "patch": "model.patch",
    "mask_ratio": "pretrain.mask_ratio",
    "decode_share": "pretrain.decode_share",
}
# These mean the stage that the verb runs; `fit` runs both, and takes them for pre-training.
FLAT_BY_STAGE = ("epochs", "batch_size", "lr")


def flat_names(stage: str) -> dict[str, str]:
    """Flat names and the dotted names they stand for; `stage` is "pretrain" or "finetune"."""
    return FLAT | {name: f"{stage}.{name}" for name in FLAT_BY_STAGE}


def default_recipe(data: str) -> str:
    """The recipe of a source when none is named."""
    return "digits" if data == "digits" else "lite"


def seconds_of(duration: str | float) -> float:
    """Seconds in "90s", "50m", "1.5h" or a number of seconds; UserError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(duration))
    if not found or float(found[1]) <= 0:
        raise UserError(f"'{duration}' is not a duration: expected one like 90s, 50m or 1.5h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def recipe_path(name: str) -> Path:
    """The YAML file of a shipped recipe or of a path; raises UserError with the recipes there are."""
    there = shipped("recipes", ".yaml")
    if name in there:
        return there[name]
    if Path(name).suffix in (".yaml", ".yml") and Path(name).is_file():
        return Path(name)
    raise UserError(f"--recipe: no recipe '{name}': use one of {', '.join(sorted(there))}, or a YAML file")


def model_path(name: str | Path) -> Path:
    """A run directory or weights file, or else the weights of a shipped model of that name.

    A path that is not there is given back as it is, for its reader to refuse; a bare name raises UserError.
    """
    path, there = Path(name), shipped("models", ".safetensors")
    if path.exists() or path.suffix or path.name != str(name):
        return path
    if str(name) in there:
        return there[str(name)]
    names = f"the shipped models are {', '.join(sorted(there))}" if there else "no model is shipped yet"
    raise UserError(f"--model or --init '{name}': no run directory, no weights file and no shipped model ({names})")


def shipped(folder: str, suffix: str) -> dict[str, Path]:
    """Files by their names without `suffix`. They travel inside the wheel; in a checkout they lie beside src/."""
    here = Path(__file__)
    return {
        path.name.removesuffix(suffix): path
        for parent in (here.parents[2], here.parent)
        for path in sorted((parent / folder).glob(f"*{suffix}"))
    }


def run_config(model: str | Path) -> Path | None:
    """config.yaml of a run directory, or beside a weights file in one; None elsewhere.

    Whoever tests a run's model must split the data as the run did, or would test on images it was trained on.
    """
    folder = Path(model) if Path(model).is_dir() else Path(model).parent
    return folder / "config.yaml" if (folder / "config.yaml").is_file() else None


def settings_parser(**kwargs: Any) -> Any:
    """A jsonargparse parser whose arguments are the fields of `Settings`, with --config and --print_config."""
    from jsonargparse import ActionConfigFile, ArgumentParser

    parser = ArgumentParser(exit_on_error=False, **kwargs)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of settings, read after the recipe")
    parser.add_class_arguments(Settings, as_group=True)
    return parser


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

    try:
        return parser.parse_args(args)
    except (ArgumentError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(_one_line(str(error), [a.dest for a in parser._actions])) from None


def settings_of(parser: Any, parsed: Any) -> Settings:
    """The frozen `Settings` in a parsed namespace."""
    for f in dataclasses.fields(Settings):
        # jsonargparse takes `pretrain: 5` in a file for no settings at all, and would go on with the defaults.
        group, default = parsed.get(f.name), f.default_factory
        if default is not dataclasses.MISSING and len(getattr(group, "__dict__", ())) < len(
            dataclasses.fields(default())
        ):
            raise UserError(
                f"--{f.name}: one value was given for a group of settings: expected {f.name}: {{key: value}}"
            )
    ready = parser.instantiate(parsed)
    return Settings(**{f.name: ready[f.name] for f in dataclasses.fields(Settings)})


def as_yaml(settings: Settings | Mapping[str, Any]) -> str:
    """Every value, as YAML that `--config` reads back."""
    values = dataclasses.asdict(settings) if isinstance(settings, Settings) else dict(settings)
    return yaml.safe_dump(values, sort_keys=False)


def _one_line(message: str, known: list[str]) -> str:
    text = " ".join(message.split())
    unknown = re.search(r"unrecognized arguments: --([\w.-]+)|does not accept option '([^']+)'", text)
    if unknown:
        name = (unknown[1] or unknown[2]).replace("-", "_")
        there = {*FLAT, *FLAT_BY_STAGE, *known, *(k.split(".")[-1] for k in known)} - {name}
        close = difflib.get_close_matches(name, sorted(there), n=1, cutoff=0.7)
        if close:
            return f"{text} (did you mean {close[0]}?)"
    return text
