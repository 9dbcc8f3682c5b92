"""How many of the labels that `fit` doubts first are wrong, where some were made wrong on purpose.

    python benchmarks/labels.py tiny eurosat_32 --share 0.03

Pre-trains by the recipe, gives a share of all images another class, and reads the precision among the first N doubts.
The evidence is results/labels.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from common import REPO, flags_of, labelled_set, settings_in, write_evidence

from pocketvit.errors import UserError
from pocketvit.evaluation.doubts import doubtful
from pocketvit.evaluation.predictor import Eager, Predictor
from pocketvit.model import weights
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.network import Network
from pocketvit.training.device import make_accelerator
from pocketvit.training.log import RunLog
from pocketvit.training.loop import train
from pocketvit.training.pretrain import pretraining

FIRST = (50, 100, 200, 400)


def parser() -> argparse.ArgumentParser:
    """The flags; any other --NAME VALUE is a setting."""
    made = argparse.ArgumentParser(
        prog="benchmarks/labels.py", description=__doc__.split("\n")[0], allow_abbrev=False,
        epilog="Any other --NAME VALUE is a setting, as for `pocketvit fit`.",
    )  # fmt: skip
    made.add_argument("recipe", help="name of a recipe, or a YAML file")
    made.add_argument("data", help="source of images with labels")
    made.add_argument("--share", type=float, default=0.03, help="of the labels that are made wrong (default: 0.03)")
    made.add_argument("--weights", type=Path, help="pre-trained weights, in place of pre-training now")
    made.add_argument("--out", type=Path, default=REPO / "results" / "labels.json", help="evidence file")
    return made


def main(argv: list[str] | None = None) -> int:
    """Pre-train, plant, look; returns the exit status."""
    given, rest = parser().parse_known_args(argv)
    began = time.perf_counter()
    try:
        changes = settings_in(rest)
        settings, dataset = labelled_set(given.recipe, given.data, changes)
        accelerator = make_accelerator(settings.device, settings.precision)
        if given.weights is None:
            step = pretraining(dataset, settings, accelerator)
            network = train(step, RunLog(), {"stage": "pretrain"}).model
            assert isinstance(network, MaskedAutoencoder)
            encoder: Network = network.encoder
            encoder.head, encoder.classes = torch.nn.Identity(), 0
        else:
            encoder = weights.frozen_encoder(given.weights)
    except UserError as error:
        print(f"labels: {error}", file=sys.stderr)
        return 2
    splits = [dataset.labelled(name) for name in ("train", "val", "test")]
    images, labels = (np.concatenate(part) for part in zip(*splits, strict=True))
    random, classes = np.random.default_rng(settings.seed), len(dataset.classes)
    planted = random.permutation(len(labels))[: round(given.share * len(labels))]
    wrong = labels.copy()
    wrong[planted] = (labels[planted] + random.integers(1, classes, len(planted))) % classes
    predictor = Predictor(Eager(encoder, dataset.mean, dataset.std, accelerator.device), dataset.shape)
    found = doubtful(predictor.features(images), wrong, settings.seed)
    hit = np.isin(found.images, planted)
    right = found.suggested == labels[found.images]
    result = {
        "images": len(labels), "classes": classes, "planted": len(planted), "doubted": len(found.images),
        "precision": {str(n): float(hit[:n].mean()) for n in FIRST if n <= len(hit)},
        "found": float(hit.sum() / len(planted)),
        "suggestion_right": float(right[hit].mean()) if hit.any() else None,
    }  # fmt: skip
    print(result, file=sys.stderr)
    given.data = Path(given.data).name  # no places
    given.weights = given.weights and given.weights.name
    words = [given.recipe, given.data, "--share", str(given.share)]
    words += flags_of(changes)
    write_evidence("labels", given, words, accelerator, began, result, [settings.seed])
    return 0


if __name__ == "__main__":
    sys.exit(main())
