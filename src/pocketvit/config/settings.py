"""Typed, frozen settings, checked when they are made.

Nothing here imports torch, so that the command line starts at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pocketvit.config.fields import (
    ABOVE_0,
    ANGLE,
    AT_LEAST_0,
    AT_LEAST_1,
    BELOW_1,
    PART,
    SEED,
    SHARE,
    SOME,
    Checked,
    changed,
    group,
    setting,
)
from pocketvit.config.network import ModelConfig, NetworkConfig, ResNetConfig
from pocketvit.config.objectives import ContrastConfig, MAEConfig
from pocketvit.errors import UserError

SPLITTING = ("val_fraction", "test_fraction", "split_seed", "group_by")  # settings of data that decide what is held out


@dataclass(frozen=True)
class DataConfig(Checked):
    """Images: their size, and which of them (and of their labels) are used for what."""

    prefix = "data."
    size: int | str | None = setting(
        None,
        'side in pixels (36) or HEIGHTxWIDTH ("28x40") that images are scaled to; null takes their own, '
        "rounded up to the patch, and makes at most 256 patches of it, with patches of up to 8 px, unless "
        "--patch is given",
    )
    scale: float = setting(1.0, "factor on the images' own size before it is rounded, where size is null", ABOVE_0)
    val_fraction: float = setting(0.1, "share of the train images held out for validation, stratified by class", PART)
    test_fraction: float = setting(
        0.2, "share of the images held out for testing when the source brings no test split", PART
    )
    split_seed: int = setting(0, "seed of these two splits", SEED)
    group_by: str | None = setting(
        None,
        "column of a Parquet set, or pattern in file names, that tells what belongs together; as one patient's or one "
        "track's images, by the column's values or by the text that the pattern matches (its first group, where it "
        "has one), each of which stays on one side of these two splits",
    )
    labels_per_class: int | str = setting(
        "all", 'labels to keep for fine-tuning: a count, "all", or several separated by commas ("5,all")'
    )
    label_fraction: float | None = setting(
        None, "share of the labels to keep for fine-tuning, stratified by class (instead of labels_per_class)", SOME
    )
    images: int | None = setting(
        None,
        "learn from about this many of the train images, the same share of every class; null takes them all",
        AT_LEAST_1,
    )
    symmetry: Literal["none", "mirror", "all"] = setting(
        "none",
        "changes of an image that leave its class what it is, drawn in training: none, mirror or all; mirror, left to "
        "right, as for photographs; all, the eight of a square, or four of an oblong, as for satellite tiles and "
        "microscopy (wrong for glyphs: a 6 becomes a 9)",
    )
    skip_bad: bool = setting(
        False, "leave out images that cannot be decoded; they are listed, where training would stop otherwise"
    )
    label_column: str | None = setting(
        None, "of Parquet files; null takes the first that is called label, labels, target, class or the like"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.shape  # noqa: B018  # raises
        self.label_budgets  # noqa: B018  # raises
        try:
            re.compile(self.group_by or "")
        except re.error as error:
            raise UserError(f"--group-by '{self.group_by}': not a regular expression ({error})") from None

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
        if self.label_fraction is not None and budgets != [None]:
            raise UserError("--labels-per-class and --label-fraction exclude each other: give one of them")
        return tuple(budgets)

    @property
    def largest_budget(self) -> int | None:
        """The one of `label_budgets` that keeps most labels; None, all of them, is the largest."""
        return max(self.label_budgets, key=lambda n: float("inf") if n is None else n)


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """Random changes to training images, drawn anew for every image of every batch, on the device."""

    prefix = "augment."
    crop_scale: float = setting(
        1.0, "least share of the area that a random resized crop keeps; 1 turns cropping off", SOME
    )
    shift: float = setting(0.0, "furthest random shift, as a share of the side", SHARE)
    rotate: float = setting(0.0, "furthest random rotation in degrees", ANGLE)
    policy: Literal["none", "randaugment", "trivialaugment"] = setting(
        "none", "RandAugment or TrivialAugment, drawn for each image, or none"
    )
    erase: float = setting(0.0, "share of the images with a random rectangle erased", SHARE)


@dataclass(frozen=True)
class OptimConfig(Checked):
    """How long and how fast to train; shared by every stage."""

    epochs: int = setting(100, "passes over the training images", AT_LEAST_1)
    min_steps: int = setting(0, "train at least this many steps, however few images there are", AT_LEAST_0)
    batch_size: int = setting(256, "images a step, over all processes", AT_LEAST_1)
    accumulate: int = setting(
        1, "parts that a batch goes through the device in, one after the other, where memory is short", AT_LEAST_1
    )
    repeats: int = setting(
        1,
        "times that an image stands in a batch, changed anew each time; an epoch has as many steps as with 1",
        AT_LEAST_1,
    )
    optimizer: Literal["adamw", "muon", "lion", "schedule-free"] = setting(
        "adamw",
        "adamw; muon for the matrices inside the layers and AdamW for the rest; lion or schedule-free "
        '(AdamW), which need the extra "optim"',
    )
    lr: float = setting(1e-3, "peak learning rate", AT_LEAST_0)
    lr_base_size: int = setting(
        0,
        "images a batch that lr and min_lr are meant for, from which they grow and shrink in proportion to "
        "batch_size; 0 takes them as they are",
        AT_LEAST_0,
    )
    min_lr: float = setting(0.0, "learning rate at the end of the cosine; schedule-free stays at lr", AT_LEAST_0)
    warmup: float = setting(0.1, "share of the steps in which the rate rises to its peak", SHARE)
    weight_decay: float = setting(0.05, "decoupled weight decay; biases, norms and embeddings are spared", AT_LEAST_0)
    beta2: float = setting(0.95, "AdamW's second beta; Lion keeps its own", BELOW_1)
    layer_decay: float = setting(
        1.0, "factor on the rate for each layer further from the head; random init is fine-tuned without it", SHARE
    )
    clip: float = setting(0.0, "largest norm of the gradient; 0 turns clipping off", AT_LEAST_0)
    ema: float = setting(
        0.0, "decay of the weights' moving average, which is then what is evaluated and saved; 0 turns it off", BELOW_1
    )


@dataclass(frozen=True)
class PretrainConfig(OptimConfig):
    """Pre-training, by whatever objective."""

    prefix = "pretrain."
    epochs: int = changed(OptimConfig, "epochs", 200)
    knn_every: int = setting(
        0,
        "epochs between two kNN readings on the validation images, taken where such an epoch ends with a reading, of "
        "which a stage has about 20; 0 takes one at the end only",
        AT_LEAST_0,
    )
    augment: AugmentConfig = group(AugmentConfig, "random changes to the images", crop_scale=0.4)


@dataclass(frozen=True)
class FinetuneConfig(OptimConfig):
    """Supervised training of the classifier."""

    prefix = "finetune."
    beta2: float = changed(OptimConfig, "beta2", 0.999)
    label_smoothing: float = setting(0.1, "share of the target spread over all classes", SHARE)
    mixup: float = setting(0.0, "alpha of mixup's Beta distribution; 0 turns it off", AT_LEAST_0)
    cutmix: float = setting(0.0, "alpha of cutmix's Beta distribution; 0 turns it off", AT_LEAST_0)
    mix_share: float = setting(1.0, "share of the batches that are mixed, where mixup or cutmix is on", SHARE)
    drop_path: float = setting(0.1, "stochastic depth of the last layer", BELOW_1)
    scratch_rate: float = setting(
        1.0, "factor on lr and min_lr from random init, which also goes without layer_decay", ABOVE_0
    )
    mimetic: bool = setting(False, "start the attention of random init as it is found in trained networks")
    resnet_rate: float = setting(3.0, "factor on lr and min_lr of the ResNet, which has no layer_decay either", ABOVE_0)
    freeze_encoder: bool = setting(False, "train the head alone (a linear probe with augmentation)")
    patch_share: float | str = setting(
        1.0,
        "share of the patches that a step sees, drawn for each image; or phases, TIME:SHARE, with shares of the time: "
        "0.5:0.5,0.2:0.75,0.3:1 spends half of the time on half of the patches, and the last third on all of them",
    )
    reconstruction: float = setting(
        0.0,
        "weight of a masked autoencoder's loss, trained at once on all train images, with labels or not, as "
        "`pretrain` describes it; 0 leaves it out",
        AT_LEAST_0,
    )
    unlabelled: Literal["none", "graph", "teacher"] = setting(
        "none",
        "what images without a label are for: graph, soft labels from those most like them, pixel by pixel, as for "
        "glyphs and scans; teacher, the network's own average names them in every step",
    )
    augment: AugmentConfig = group(AugmentConfig, "random changes to the images", crop_scale=0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.patch_phases  # noqa: B018  # raises

    @property
    def patch_phases(self) -> tuple[tuple[float, float], ...]:
        """(share of the time, share of the patches) of each phase of `patch_share`; the times add up to 1."""
        try:
            pairs = [tuple(map(float, part.split(":"))) for part in str(self.patch_share).split(",")]
            phases = [(1.0, *pair) if len(pairs) == len(pair) == 1 else pair for pair in pairs]
            times, shares = zip(*phases, strict=True)
            if min(times) <= 0 or abs(sum(times) - 1) > 1e-6 or not all(0 < share <= 1 for share in shares):
                raise ValueError
        except ValueError:
            raise UserError(
                f"--finetune.patch_share: '{self.patch_share}' is neither a share above 0 and at most 1 nor phases, as "
                "TIME:SHARE,TIME:SHARE, whose times add up to 1"
            ) from None
        return tuple(zip(times, shares, strict=True))


@dataclass(frozen=True)
class Settings(Checked):
    """Everything a run depends on."""

    recipe: str | None = setting(
        None, "name of a shipped recipe or a YAML file; read before --config and flags; null picks one for the data"
    )
    seed: int = setting(0, "seed of every random choice but the data splits", SEED)
    seeds: int = setting(1, "how many times to fine-tune; with seeds seed, seed + 1, ...", AT_LEAST_1)
    arms: str = setting(
        "all",
        "what `fit` compares, by name and separated by commas: those that are pre-trained, mae and contrast, and those "
        'that are trained from scratch, as random; "all" takes each but contrast, which is another pre-training',
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "auto, cpu, cuda or mps")
    precision: Literal["auto", "float32", "bf16"] = setting(
        "auto", "float32, bf16, or auto: bf16 where the device has it in hardware"
    )
    compile: Literal["auto", "always", "graphs", "never"] = setting(
        "auto",
        "torch.compile always, never, or auto: in stages of over four minutes, where a short trial shows a "
        "gain; graphs: always, and replayed as CUDA graphs, where a step takes the host longer than the "
        "device",
    )
    shard: bool = setting(
        False, "over several processes, keep a part of what training holds in each (FSDP), where it is too much for one"
    )
    deterministic: bool = setting(
        False, "on CUDA, only kernels that give the same bits each time, some of them slower; a CPU always does"
    )
    tensorboard: bool = setting(False, 'also write TensorBoard events into the run directory; needs the extra "track"')
    data: DataConfig = group(DataConfig, "images")
    model: ModelConfig = group(ModelConfig, "the network")
    resnet: ResNetConfig = group(ResNetConfig, "the CNN that `fit` trains beside it")
    mae: MAEConfig = group(MAEConfig, "masked autoencoding")
    contrast: ContrastConfig = group(ContrastConfig, "masked autoencoding with contrast, an arm that `all` leaves out")
    pretrain: PretrainConfig = group(PretrainConfig, "pre-training")
    finetune: FinetuneConfig = group(FinetuneConfig, "fine-tuning")

    def network(self, name: str) -> NetworkConfig:
        """Sizes of a kind of classifier, one of `pocketvit.model.networks`."""
        sizes: dict[str, NetworkConfig] = {"vit": self.model, "resnet": self.resnet}
        return sizes[name]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, stage in (("pretrain", self.pretrain), ("finetune", self.finetune)):
            if stage.optimizer == "schedule-free" and stage.ema:
                raise UserError(
                    f"--{name}.ema: {stage.ema} beside --{name}.optimizer schedule-free, which averages the weights "
                    f"itself: add --{name}.ema 0"
                )
        if self.finetune.freeze_encoder and self.finetune.reconstruction:
            raise UserError("--finetune.reconstruction trains the encoder, which --finetune.freeze_encoder forbids")
        if self.finetune.unlabelled == "teacher" and self.finetune.reconstruction:
            raise UserError("--finetune.unlabelled teacher and --finetune.reconstruction exclude each other: give one")
        if self.finetune.unlabelled == "teacher" and self.finetune.optimizer == "schedule-free":
            raise UserError(
                "--finetune.unlabelled teacher is an average of the weights, beside that of --finetune.optimizer "
                "schedule-free: choose another optimizer"
            )
