"""The contestants: PocketViT, and networks of the same sizes from other libraries in the loop that is usual for them.

Each has `step`, one optimiser step on images that are ready, and returns the loss. Data reach all of them normalised.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pocketvit.config import Settings
from pocketvit.data import Dataset
from pocketvit.model.vit import NORM_EPS
from pocketvit.training.augment import CROP_RATIO
from pocketvit.training.batches import Batches
from pocketvit.training.finetune import form_of, make_classifier
from pocketvit.training.objectives.mae import MaskedAutoencoding
from pocketvit.training.objectives.supervised import Classification
from pocketvit.training.step import GradientStep

OURS, BASELINE, OTHER = "pocketvit", "transformers", "vit-pytorch"
COMPILED = " compiled"
CROP_ATTEMPTS = 10  # of torchvision's RandomResizedCrop, after which it takes the whole image


def alike(settings: Settings) -> Settings:
    """The settings without what only PocketViT does: another optimiser, averages, mixing and stochastic depth."""
    return dataclasses.replace(
        settings,
        pretrain=dataclasses.replace(settings.pretrain, optimizer="adamw"),
        finetune=dataclasses.replace(
            settings.finetune, optimizer="adamw", ema=0.0, drop_path=0.0, mixup=0.0, cutmix=0.0, label_smoothing=0.0
        ),
    )


class Ours:
    """One stage of PocketViT: its own gradient step.

    Args:
        stage: "pretrain" or "finetune"
        dataset: whose train images are learnt from
        settings: of the run
        accelerator: device and precision
        compiled: by torch.compile
        resident: whether the images are moved to the device; None moves them where they fit
    """

    def __init__(
        self,
        stage: str,
        dataset: Dataset,
        settings: Settings,
        accelerator: Accelerator,
        compiled: bool = False,
        resident: bool | None = None,
    ) -> None:
        self.config, seed = getattr(settings, stage), settings.seed
        images, labels = dataset.labelled("train")
        objective: MaskedAutoencoding | Classification
        if stage == "pretrain":
            objective = MaskedAutoencoding(dataset, settings, accelerator)
        else:
            self.config, everything = form_of(self.config, pretrained=False), np.arange(len(images))
            classifier = make_classifier(dataset, settings, seed, None)
            objective = Classification(classifier, dataset, everything, settings, accelerator, seed)
        objective.batches = self.batches = Batches(
            images, labels if stage == "finetune" else None, dataset.mean, dataset.std,
            batch_size=self.config.batch_size, seed=seed,
            device=accelerator.device, resident=resident,
        )  # fmt: skip
        self.model, self.objective = objective.network, objective
        self.training = GradientStep(objective, self.config, accelerator, seed=seed)
        if compiled:
            self.training.programs = self.training.programs.compiled(graphs=False)
        self._full = self.training.programs
        self.done = 0

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step on (B, C, H, W) normalised images and (B,) labels, without drawing or changing them."""
        self.objective.batches = self.training.batches = Ready(images, labels)  # type: ignore[assignment]
        self.training.programs = self._full._replace(augment=nn.Identity())
        return self._taken()

    def full_step(self, mark: Callable[[str], None] = lambda part: None) -> Tensor:
        """One step of training, input included; `mark` is called with each part's name at its end."""
        self.training.mark = mark
        return self._taken()

    def _taken(self) -> Tensor:
        # A rate of a training that is over would be none.
        loss = self.training.run(self.done % self.training.schedule.steps)
        self.done += 1
        return loss


class Ready:
    """A batch that needs no drawing and no normalising, in the place of Batches."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._batch, self.batch_size = (images, labels, torch.arange(len(images))), len(images)

    def at(self, step: int, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """The batch."""
        return self._batch

    @staticmethod
    def normalise(images: Tensor) -> Tensor:
        """The images."""
        return images


class Theirs:
    """Another library's network in a plain loop: autocast, AdamW, a clipped gradient, a schedule."""

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
        stage: str,
        settings: Settings,
        accelerator: Accelerator,
        compiled: bool = False,
    ) -> None:
        config = settings.pretrain if stage == "pretrain" else settings.finetune
        self.device, self.bf16 = accelerator.device, accelerator.mixed_precision == "bf16"
        self.model, self.loss, self.clip = model.to(self.device).train(), loss, config.clip
        self.call: Any = torch.compile(self.model) if compiled else self.model
        # Fused, as the Trainer of transformers chooses by itself.
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), config.lr, (0.9, config.beta2), weight_decay=config.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=1_000_000)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step on (B, C, H, W) normalised images and (B,) labels."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.loss(self.call, images, labels)
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


Contestant = Ours | Theirs


def names(compiled: bool = False) -> list[str]:
    """Who can take part here: a library that is not installed cannot."""
    found = [OURS, BASELINE]
    if importlib.util.find_spec("vit_pytorch") and importlib.util.find_spec("einops"):
        found.append(OTHER)
    return found + ([OURS + COMPILED, BASELINE + COMPILED] if compiled else [])


def make(name: str, stage: str, dataset: Dataset, settings: Settings, accelerator: Accelerator) -> Contestant:
    """Build the contestant `name` for "pretrain" or "finetune" at the sizes of `settings.model`."""
    library, compiled = name.removesuffix(COMPILED), name.endswith(COMPILED)
    if library == OURS:
        return Ours(stage, dataset, alike(settings), accelerator, compiled)
    torch.manual_seed(settings.seed)
    build = _transformers if library == BASELINE else _vit_pytorch
    return Theirs(*build(stage, dataset, settings), stage, settings, accelerator, compiled)


def ready_batches(dataset: Dataset, settings: Settings, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Batches that every contestant gets alike: normalised images and labels, on the device."""
    images, labels = dataset.labelled("train")
    size = settings.pretrain.batch_size
    batches = Batches(images, labels, dataset.mean, dataset.std, batch_size=size, seed=0, device=device)
    ready = []
    for number in range(min(8, batches.steps_per_epoch)):
        drawn, targets, _ = batches.at(number)
        assert targets is not None
        ready.append((batches.normalise(drawn), targets))
    return ready


def take_steps(contestant: Contestant, ready: list[tuple[Tensor, Tensor]], steps: int) -> Tensor:
    """Some steps, without input; returns the last loss."""
    for number in range(steps):
        loss = contestant.step(*ready[number % len(ready)])
    return loss


def _transformers(stage: str, dataset: Dataset, settings: Settings) -> tuple[nn.Module, Callable[..., Tensor]]:
    """ViTMAEForPreTraining or ViTForImageClassification, as a fresh configuration gives it."""
    from transformers import ViTConfig, ViTForImageClassification, ViTMAEConfig, ViTMAEForPreTraining

    c, (side, _, channels) = settings.model.sizes(), dataset.shape
    sizes: dict[str, Any] = {
        "hidden_size": c.width, "num_hidden_layers": c.depth, "num_attention_heads": c.heads,
        "intermediate_size": int(c.width * c.mlp_ratio), "layer_norm_eps": NORM_EPS,
        "image_size": side, "patch_size": c.patch, "num_channels": channels,
    }  # fmt: skip
    if stage == "pretrain":
        decoder: dict[str, Any] = {
            "decoder_hidden_size": c.decoder_width, "decoder_num_hidden_layers": c.decoder_depth,
            "decoder_num_attention_heads": c.decoder_heads,
            "decoder_intermediate_size": int(c.decoder_width * c.mlp_ratio),
        }  # fmt: skip
        mae = settings.mae
        config = ViTMAEConfig(**sizes, **decoder, mask_ratio=mae.mask_ratio, norm_pix_loss=mae.normalise_targets)
        return ViTMAEForPreTraining(config), lambda model, images, labels: model(pixel_values=images).loss
    sizes["num_labels"] = len(dataset.classes)
    classifier = ViTForImageClassification(ViTConfig(**sizes))
    return classifier, lambda model, images, labels: model(pixel_values=images, labels=labels).loss


def _vit_pytorch(stage: str, dataset: Dataset, settings: Settings) -> tuple[nn.Module, Callable[..., Tensor]]:
    """vit-pytorch's MAE or ViT; its MAE has no class token, and its attention no biases."""
    if "vit_pytorch" not in sys.modules:
        # Its __init__ imports torchvision for a part that is not used here, and a torchvision that fits is not
        # there for every build of torch: so the package is set up without running that file.
        spec = importlib.util.find_spec("vit_pytorch")
        assert spec is not None
        sys.modules["vit_pytorch"] = importlib.util.module_from_spec(spec)
    from vit_pytorch.mae import MAE
    from vit_pytorch.vit import Transformer, ViT

    c, (side, _, channels) = settings.model.sizes(), dataset.shape
    vit = ViT(
        image_size=side, patch_size=c.patch, channels=channels, num_classes=len(dataset.classes),
        dim=c.width, depth=c.depth, heads=c.heads, dim_head=c.width // c.heads, mlp_dim=int(c.width * c.mlp_ratio),
        # Its MAE takes an encoder without a class token only.
        pool="mean" if stage == "pretrain" else "cls",
    )  # fmt: skip
    if stage == "finetune":
        return vit, lambda model, images, labels: F.cross_entropy(model(images), labels)
    vit.mlp_head = None
    decoder = {"depth": c.decoder_depth, "heads": c.decoder_heads, "dim_head": c.decoder_width // c.decoder_heads}
    mae = MAE(encoder=vit, decoder_dim=c.decoder_width, masking_ratio=settings.mae.mask_ratio)
    # Its constructor fixes a feed-forward four times as wide; this is its own module at the common size.
    mae.decoder = Transformer(dim=c.decoder_width, mlp_dim=int(c.decoder_width * c.mlp_ratio), **decoder)
    return mae, lambda model, images, labels: model(images)


class Files(TorchDataset):
    """Image files in class folders through Pillow, as the example scripts of transformers prepare them.

    Random resized crop with bicubic scaling, flip, to float, normalise; an item is ((C, H, W) float32, class number).
    """

    def __init__(self, folder: Path, dataset: Dataset, crop_scale: float, flip: bool) -> None:
        self.files = sorted(folder.glob("*/*.png"))
        self.side, self.crop_scale, self.flip = dataset.shape[0], crop_scale, flip
        self.numbers = {name: number for number, name in enumerate(dataset.classes)}
        self.mean, self.std = (torch.tensor(v).view(-1, 1, 1) for v in (dataset.mean, dataset.std))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file = self.files[index]
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        image = image.crop(self._box(*image.size)).resize((self.side, self.side), Image.Resampling.BICUBIC)
        if self.flip and torch.rand(1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return pixels.sub_(self.mean).div_(self.std), self.numbers[file.parent.name]

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of a window of random area, ratio and place."""
        for _ in range(CROP_ATTEMPTS):
            area = width * height * torch.empty(1).uniform_(self.crop_scale, 1).item()
            ratio = CROP_RATIO ** torch.empty(1).uniform_(-1, 1).item()
            w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                left = int(torch.randint(0, width - w + 1, (1,)))
                top = int(torch.randint(0, height - h + 1, (1,)))
                return left, top, left + w, top + h
        return 0, 0, width, height

    def loader(self, batch_size: int, workers: int, device: torch.device) -> DataLoader:
        """A pass over the files in random order; the last batch is dropped where it is smaller, as in PocketViT."""
        return DataLoader(
            self, batch_size, shuffle=True, drop_last=True, num_workers=workers, pin_memory=device.type == "cuda"
        )
