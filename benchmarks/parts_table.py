"""The table of what each part of the method adds on EuroSAT with 2 % of the labels, from the evidence of trials.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from bench_tables import TITLES, gain_cell
from common import paired
from writing import BadEvidence, Json, markdown, minutes, plain


class Trained(NamedTuple):
    """An arm of one trial of results/trials-NAME.json."""

    name: str
    trial: int
    arm: str


MIRRORED, ALL = "tiny-mae-second", "eurosat-symmetry"
RESNETS = "eurosat-symmetry-resnet"
# What is added, with it and without; seeds, labels and steps of fine-tuning are the same in each pair.
PARTS = (
    ("pre-training, 10 epochs", Trained(ALL, 0, "mae"), Trained(ALL, 0, "random")),
    ("length: 30 epochs in place of 10", Trained(ALL, 1, "mae"), Trained(ALL, 0, "mae")),
    ("all symmetries in place of mirroring", Trained(ALL, 0, "mae"), Trained(MIRRORED, 0, "mae")),
    ("all symmetries in place of mirroring", Trained(ALL, 0, "random"), Trained("tiny-random-second", 0, "random")),
    ("all symmetries in place of mirroring", Trained(RESNETS, 1, "resnet"), Trained(RESNETS, 0, "resnet")),
    ("contrast beside: 21 epochs in place of 30", Trained("eurosat-contrast", 0, "contrast"), Trained(ALL, 1, "mae")),
    ("start: CIFAR-10's `lite` in place of 30 epochs", Trained("eurosat-transfer", 0, "mae"), Trained(ALL, 1, "mae")),
    ("the same, in place of a ResNet from scratch", Trained("eurosat-transfer", 0, "mae"), Trained(ALL, 1, "resnet")),
    ("unlabelled images: a teacher", Trained(RESNETS, 2, "resnet"), Trained(RESNETS, 1, "resnet")),
)  # fmt: skip


def parts_table(results: Path) -> str:
    """A row for each part: validation accuracy with it, without it, and the difference paired by seed."""
    rows = []
    for part, *pair in PARTS:
        one, other = (_found(results, trained) for trained in pair)
        reached = [f"{100 * found['validation_accuracy']:.1f} ± {100 * found['std']:.1f} %" for found in (one, other)]
        took = " in place of ".join(minutes(_seconds(found)) for found in (one, other))
        rows.append([part, TITLES[pair[0].arm], *reached, gain_cell(paired(one["all"], other["all"])), took])
    names = sorted({trained.name for _, *pair in PARTS for trained in pair})
    head = ["part", "network", "with it", "without", "gain, points", "training of a seed, wall clock"]
    origin = (
        f"Validation accuracy; differences paired by seed, 95 %. {', '.join(f'`trials-{name}`' for name in names)}."
    )
    return plain(f"{markdown(head, rows)}\n\n<sub>{origin}</sub>\n")


def _found(results: Path, trained: Trained) -> Json:
    """What an arm of a trial reached, with its pre-training; raises BadEvidence."""
    file = results / f"trials-{trained.name}.json"
    try:
        trial = json.loads(file.read_text(encoding="utf-8"))["trials"][trained.trial]
        # Older evidence has MAE's pre-training beside the arms.
        return {"pretrain": trial.get("pretrain") if trained.arm == "mae" else None, **trial[trained.arm]}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise BadEvidence(f"results/{file.name} is not the evidence of benchmarks/trials.py ({error!r})") from error


def _seconds(found: Json) -> float:
    """Of one seed's training, pre-training included."""
    return (found["pretrain"] or {}).get("seconds", 0.0) + found["seconds"] / len(found["all"])
