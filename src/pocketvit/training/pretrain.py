"""Pre-training: a masked autoencoder on every train image, watched on held-out ones with fixed masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pocketvit.config import Settings
from pocketvit.data import Dataset
from pocketvit.data.augment import Augment
from pocketvit.data.batches import Batches
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.vit import ViT
from pocketvit.training.log import RunLog
from pocketvit.training.loop import TrainResult, train
from pocketvit.training.schedule import Deadlines

HELDOUT_BATCH = 512
FEWEST_READINGS = 5  # that say whether a loss falls


def make_mae(dataset: Dataset, settings: Settings) -> MaskedAutoencoder:
    """A masked autoencoder for the images of `dataset`, drawn from torch's global generator."""
    config = settings.pretrain
    return MaskedAutoencoder(settings.model, dataset.shape, config.visible_discount, config.normalise_targets)


def pretrain_mae(
    dataset: Dataset,
    settings: Settings,
    accelerator: Accelerator,
    *,
    log: RunLog,
    folder: Path | None = None,
    deadlines: Deadlines = Deadlines(),  # noqa: B008  # frozen
    knn: Callable[[ViT], float] | None = None,
) -> TrainResult:
    """Train a masked autoencoder on `dataset.train`; its readings hold `heldout_loss`, and `knn` where given."""
    config, device = settings.pretrain, accelerator.device
    torch.manual_seed(settings.seed)
    mae = make_mae(dataset, settings).to(device)
    augment = Augment(config.augment, dataset.shape[2], dataset.mean, device)
    norm = {"mean": dataset.mean, "std": dataset.std, "device": device}
    batches = Batches(
        dataset.train.images, None, batch_size=config.batch_size, repeats=config.repeats, seed=settings.seed, **norm
    )
    heldout = Batches(dataset.val.images, None, batch_size=HELDOUT_BATCH, seed=0, **norm)
    noise = _fixed_noise(len(dataset.val), mae).to(device)

    def loss_function(model: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        return model(batches.normalise(images), config.mask_ratio, decode_share=config.decode_share).loss

    def evaluate(model: nn.Module, epoch: int, last: bool) -> dict[str, float]:
        with accelerator.autocast():
            reading = {"heldout_loss": heldout_loss(model, heldout, noise, config.mask_ratio)}
        if knn and (last or (config.knn_every and epoch % config.knn_every == 0)):
            reading["knn"] = knn(model.encoder)  # type: ignore[arg-type]
        return reading

    tags = {"stage": "pretrain"}
    return train(
        mae, loss_function, batches, config, accelerator,
        seed=settings.seed, log=log, tags=tags, evaluate=evaluate, reading_images=len(heldout),
        augment=augment, folder=folder, deadlines=deadlines, compilation=settings.compile, sharded=settings.shard,
    )  # fmt: skip


@torch.no_grad()
def heldout_loss(model: nn.Module, heldout: Batches, noise: Tensor, mask_ratio: float) -> float:
    """Mean reconstruction loss on images in order, masked by `noise` (N, patches): no augmentation, no chance.

    Every patch is decoded, whatever share training decodes.
    """
    model.eval()
    total, start = 0.0, 0
    for images in heldout.chunks(HELDOUT_BATCH):
        total += model(images, mask_ratio, noise[start : start + len(images)]).loss.item() * len(images)
        start += len(images)
    return total / start


def _fixed_noise(images: int, mae: MaskedAutoencoder) -> Tensor:
    return torch.rand(images, mae.encoder.shape.patches, generator=torch.Generator().manual_seed(0))


def verdict(heldout: Sequence[float]) -> str:
    """Held-out loss over time, in words: still falling, flat, overfitting, diverged or too few readings to tell.

    Overfitting is a rise of over 2 % above the best reading; still falling, a fall of over 1 % in the last quarter.
    Fewer than five readings tell divergence alone.
    """
    first, last, best = heldout[0], heldout[-1], min(heldout)
    if not last < float("inf") or (len(heldout) > 1 and last > first):
        return "diverged"
    if len(heldout) < FEWEST_READINGS:
        return "too few readings to tell"
    if last > 1.02 * best:
        return "overfitting"
    return "still falling" if last < 0.99 * heldout[-1 - len(heldout) // 4] else "flat"
