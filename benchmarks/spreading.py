"""How many images a graph of neighbours names rightly from few labels, with its own settings and with scikit-learn's.

    python benchmarks/spreading.py digits digits --labels-per-class 5 --data.split_seed 0

Spreads each draw of labels over the train images, and reads the accuracy on those without a label, and on the
validation images by their neighbours. The evidence is results/spreading-RECIPE.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import REPO, at_least_1, flags_of, labelled_set, settings_in, write_evidence
from sklearn.semi_supervised import LabelSpreading

from pocketvit.config import recipe_path
from pocketvit.errors import UserError
from pocketvit.evaluation.statistics import deviation
from pocketvit.stages.images import labelled_indices
from pocketvit.training import spreading
from pocketvit.training.device import make_accelerator

USUAL = {"n_neighbors": 10, "alpha": 0.8, "max_iter": 200}  # of scikit-learn's


def parser() -> argparse.ArgumentParser:
    """The flags; any other --NAME VALUE is a setting."""
    made = argparse.ArgumentParser(
        prog="benchmarks/spreading.py", description=__doc__.split("\n")[0], allow_abbrev=False,
        epilog="Any other --NAME VALUE is a setting, as for `pocketvit fit`.",
    )  # fmt: skip
    made.add_argument("recipe", help="name of a recipe, or a YAML file")
    made.add_argument("data", help="source of images with labels")
    made.add_argument("--draws", type=at_least_1, default=20, help="of labels (default: 20)")
    made.add_argument("--usual", action="store_true", help="scikit-learn's label spreading beside")
    made.add_argument("--out", type=Path, default=argparse.SUPPRESS, help="evidence file in its place")
    return made


def main(argv: list[str] | None = None) -> int:
    """Spread and read; returns the exit status."""
    given, rest = parser().parse_known_args(argv)
    began = time.perf_counter()
    try:
        changes = settings_in(rest)
        settings, dataset = labelled_set(given.recipe, given.data, changes)
        (images, labels), (val_images, val_labels) = dataset.labelled("train"), dataset.labelled("val")
        (per_class,) = settings.data.label_budgets
        draws = [labelled_indices(dataset, settings, per_class, seed) for seed in range(given.draws)]
    except UserError as error:
        print(f"spreading: {error}", file=sys.stderr)
        return 2
    points, val_points = spreading.pixels(images), spreading.pixels(val_images)
    graph, read = spreading.neighbour_graph(points), []
    for labelled in draws:
        others = np.setdiff1d(np.arange(len(labels)), labelled)
        soft = spreading.spread(graph, labelled, labels[labelled], len(dataset.classes))
        validation = spreading.read_off(graph, soft, val_points).argmax(axis=1) == val_labels
        right = {"others": (soft.argmax(axis=1) == labels)[others], "validation": validation}
        if given.usual:
            known = np.full(len(labels), -1)
            known[labelled] = labels[labelled]
            usual = LabelSpreading(kernel="knn", **USUAL).fit(points, known)
            right["usual"] = (usual.transduction_ == labels)[others]
        read.append({name: float(values.mean()) for name, values in right.items()})
    found: dict[str, Any] = {"labels": len(draws[0]), "images": len(labels), "validation_images": len(val_labels)}
    values = {name: [one[name] for one in read] for name in read[0]}
    found["accuracy"] = {
        name: {"mean": statistics.fmean(some), "std": deviation(some), "all": some} for name, some in values.items()
    }
    print(found, file=sys.stderr)
    given.data = Path(given.data).name  # no places
    words = [given.recipe, given.data, *(["--usual"] if given.usual else []), "--draws", str(given.draws)]
    words += flags_of(changes)
    given.out = getattr(given, "out", REPO / "results" / f"spreading-{recipe_path(given.recipe).stem}.json")
    accelerator = make_accelerator(settings.device, settings.precision)
    write_evidence("spreading", given, words, accelerator, began, found, range(given.draws))
    return 0


if __name__ == "__main__":
    sys.exit(main())
