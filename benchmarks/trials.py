"""Try changes to a recipe, one at a time, and judge them on validation images: evidence for docs/experiments.md.

    python benchmarks/trials.py tiny eurosat_32 --label-fraction 0.02 --trial "finetune.repeats=3" \\
        --trial "pretrain.optimizer=adamw mae.normalise_targets=false"

The recipe as it is comes first. Each trial pre-trains, unless one before it did so with the same settings, and
fine-tunes from that; from random init; and, where asked for, from another objective's weights, and a ResNet. The same
command goes on where it stopped. Validation images are what to choose by; accuracies on the test images stand beside,
with intervals of the gain over the first trial, and of the first arm's over each other, paired by seed and image.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import REPO, at_least_1, labelled_set, say, settings_in, write_evidence
from numpy.typing import NDArray

import pocketvit
from pocketvit.config import flat_names, recipe_path, resolve, seconds_of
from pocketvit.errors import UserError
from pocketvit.evaluation.statistics import deviation, difference
from pocketvit.run.folder import CONFIG, RunFolder
from pocketvit.run.summary import read_summary
from pocketvit.stages.arms import known_arms
from pocketvit.stages.finetuning import finetune_key
from pocketvit.training.device import make_accelerator
from pocketvit.training.stops import Interrupted, NonFiniteLoss, Paused
from pocketvit.verbs.runs import Run

Changes = dict[str, str]
INITS = {arm.name: arm.objective for arm in known_arms()}
USUAL = ("mae", "random")


def parser() -> argparse.ArgumentParser:
    """The flags; what they do not know is a setting of all trials."""
    made = argparse.ArgumentParser(
        prog="benchmarks/trials.py",
        description=__doc__.split("\n")[0],
        epilog="Any other --NAME VALUE is a setting of all trials, as for `pocketvit fit`: --label-fraction 0.02.",
        allow_abbrev=False,
    )
    made.add_argument("recipe", help="name of a recipe, or a YAML file")
    made.add_argument("data", help="source of images with labels")
    made.add_argument(
        "--trial", action="append", default=[], metavar="CHANGES", help='"NAME=VALUE ...", of settings; once a trial'
    )
    made.add_argument(
        "--inits", nargs="+", choices=INITS, default=list(USUAL), help="what to train (default: mae random)"
    )
    made.add_argument("--init", help="weights that arms start from in place of pre-training")
    made.add_argument("--seeds", type=at_least_1, default=3, help="fine-tunings of each (default: 3)")
    made.add_argument("--pause-after", help="as 9m: save and stop; the next call goes on")
    made.add_argument("--name", help="of the evidence, results/trials-NAME.json (default: the recipe's)")
    made.add_argument("--out", type=Path, default=argparse.SUPPRESS, help="evidence file in its place")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run or go on; returns the exit status, as `pocketvit` does."""
    argv, began = sys.argv[1:] if argv is None else argv, time.perf_counter()
    try:
        given, settings, trials = plan(argv)
        name, used = given.name or recipe_path(given.recipe).stem, resolve(given.recipe, **settings)
        bench = Bench(given, settings, Path("runs") / f"trials-{name}", began)
        found = []
        for changes in trials:
            found.append(bench.trial(changes))
            say(json.dumps(found[-1]))
        given.out = getattr(given, "out", REPO / "results" / f"trials-{name}.json")
        accelerator = make_accelerator(used.device, used.precision)
        seeds = range(used.seed, used.seed + given.seeds)
        write_evidence("trials", given, argv, accelerator, began, {"trials": found}, seeds)
        return 0
    except Paused:
        say("trials: not finished: the same command goes on")
        return 0
    except Interrupted as stop:
        say(f"trials: {stop}")
        return 128 + stop.signum
    except (UserError, NonFiniteLoss) as error:
        say(f"trials: {error}")
        return 2 if isinstance(error, UserError) else 1


def plan(argv: list[str]) -> tuple[argparse.Namespace, Changes, list[Changes]]:
    """Flags, settings of all trials, and the changes of each; raises UserError for settings that cannot be."""
    given, rest = parser().parse_known_args(argv)
    settings, *trials = (in_full(settings_in(words)) for words in (rest, [], *map(words_of, given.trial)))
    for changes in trials:
        resolve(given.recipe, **{**settings, **changes})
    return given, settings, trials


def words_of(trial: str) -> list[str]:
    """The flags in "NAME=VALUE NAME=VALUE"."""
    return [f"--{word}" for word in trial.split()]


def in_full(changes: Changes) -> Changes:
    """With dotted names alone; the short ones mean what they mean in `fit`."""
    names = flat_names("pretrain")
    return {names.get(name, name): value for name, value in changes.items()}


class Bench:
    """Where trials run: what one of them has done, the next one with the same settings takes over."""

    def __init__(self, given: argparse.Namespace, settings: Changes, folder: Path, began: float) -> None:
        self.given, self.settings, self.folder, self.began = given, settings, folder, began
        used, dataset = labelled_set(given.recipe, given.data, settings)
        self.budget, self.seeds = used.data.largest_budget, range(used.seed, used.seed + given.seeds)
        self.test_labels = dataset.labelled("test")[1]
        self.first: dict[str, NDArray[np.bool_]] = {}  # what each arm of the first trial got right

    def trial(self, changes: Changes) -> dict[str, Any]:
        """What became of the recipe with `changes`; raises what `pocketvit.pretrain` and `finetune` raise."""
        beside = float({**self.settings, **changes}.get("finetune.reconstruction", 0))
        before = {k: v for k, v in changes.items() if not k.startswith("finetune.")}
        found: dict[str, Any] = {"changes": changes}
        right: dict[str, NDArray[np.bool_]] = {}
        for init in self.given.inits:
            start: dict[str, Any] = {"arms": init}
            told = {}
            if INITS[init]:
                start["init"], learnt = self._start(init, before, start)
                # With the labels that fine-tuning has.
                used = resolve(self.given.recipe, **{**self.settings, **changes})
                probed = pocketvit.probe(self.given.data, model=start["init"], settings=used)["model"]
                told = {"pretrain": learnt, "probe": probed}
            # Pre-training's settings matter to a random init where it reconstructs too.
            kept = changes if INITS[init] or beside else after(changes)
            tuned = self._run("finetune", kept, f"-{init}", **start, seeds=self.given.seeds)
            runs = read_summary(tuned.path)["details"]["runs"]
            values = [r["val_accuracy"] for r in runs]
            right[init] = self._right(tuned, init)
            tested, first = right[init].mean(axis=1).tolist(), self.first.get(init)
            over_views = [r["accuracy_over_views"] for r in runs]
            found[init] = {
                "validation_accuracy": statistics.fmean(values), "std": deviation(values), "all": values,
                "labels": runs[0]["labels"], "steps": runs[0]["steps"], "seconds": sum(r["seconds"] for r in runs),
                "test": {
                    "accuracy": statistics.fmean(tested), "std": deviation(tested), "all": tested,
                    "over_views": None if None in over_views else statistics.fmean(over_views),
                    "images": len(self.test_labels),
                    "over_first_trial": None if first is None else difference(right[init], first).to_json(),
                },
                **told,
            }  # fmt: skip
        lead, *others = right
        found["gains"] = [
            {"arm": lead, "over": other, "test": difference(right[lead], right[other]).to_json()} for other in others
        ]
        self.first = self.first or right
        return found

    def _start(self, init: str, changes: Changes, arms: dict[str, Any]) -> tuple[str | Path, dict[str, Any]]:
        """What an arm is fine-tuned from, and how that was pre-trained."""
        if self.given.init:
            return self.given.init, {"init": self.given.init}
        run = self._run("pretrain", changes, f"-{init}", **arms)
        return run.path, read_summary(run.path)["pretrain"][init]

    def _right(self, run: Run, init: str) -> NDArray[np.bool_]:
        """(S, N): which test images the network of each seed got right."""
        folder, keys = RunFolder(run.path), [finetune_key(init, self.budget, seed) for seed in self.seeds]
        return np.stack([np.load(folder.predicted(key)) == self.test_labels for key in keys])

    def _run(self, verb: str, changes: Changes, suffix: str = "", **more: Any) -> Run:
        of = [self.given.recipe, self.given.data, self.settings, changes, more.get("seeds")]
        of += [self.given.init] if self.given.init else []
        mark = hashlib.blake2b(json.dumps(of, sort_keys=True).encode(), digest_size=4).hexdigest()
        folder = self.folder / f"{verb}{suffix}-{mark}"
        limit = self.given.pause_after
        left = None if limit is None else max(0.01, seconds_of(limit) - (time.perf_counter() - self.began))
        run: Run = getattr(pocketvit, verb)(
            self.given.data, recipe=self.given.recipe, out=folder, resume=(folder / CONFIG).exists(), pause_after=left,
            **{**self.settings, **changes, **more},
        )  # fmt: skip
        return run


def after(changes: Changes) -> Changes:
    """Those that do not concern pre-training alone."""
    return {k: v for k, v in changes.items() if not k.startswith("pretrain.")}


if __name__ == "__main__":
    sys.exit(main())
