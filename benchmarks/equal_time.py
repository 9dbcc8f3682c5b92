"""Forms of fine-tuning at equal CPU time: what a change gains where a step costs another time, on validation images.

    python benchmarks/equal_time.py tiny eurosat_32 --init mae-run --seconds 120 360 \\
        --trial "finetune.patch_share=0.5:0.5,0.2:0.75,0.3:1"

The recipe as it is comes first. The pace of each form is measured in turns with the others', in seconds of the
process's CPU time, and every length has as many steps of a form as fit into it; readings are left out of both. The
evidence is results/equal-time-NAME.json. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from common import REPO, at_least_1, say, settings_in, write_evidence
from trials import in_full, words_of

from pocketvit.config import Settings, resolve
from pocketvit.data import Dataset, load
from pocketvit.errors import UserError
from pocketvit.evaluation.predictor import Eager
from pocketvit.evaluation.statistics import deviation, difference
from pocketvit.files import write_whole
from pocketvit.stages.images import labelled_indices, patching_of
from pocketvit.training.device import make_accelerator
from pocketvit.training.finetune import finetuning
from pocketvit.training.log import RunLog
from pocketvit.training.loop import train
from pocketvit.training.schedule import Schedule
from pocketvit.training.step import GradientStep

Json = dict[str, Any]
WARM_UP, TIMED, TURNS = 3, 16, 3  # steps before any is timed; steps of a turn; turns


def parser() -> argparse.ArgumentParser:
    """The flags; what they do not know is a setting of all forms."""
    made = argparse.ArgumentParser(
        prog="benchmarks/equal_time.py", description=__doc__.split("\n")[0], allow_abbrev=False,
        epilog="Any other --NAME VALUE is a setting of all forms, as for `pocketvit finetune`.",
    )  # fmt: skip
    made.add_argument("recipe", help="name of a recipe, or a YAML file")
    made.add_argument("data", help="source of images with labels")
    made.add_argument("--init", type=Path, help="weights to fine-tune from (default: random init)")
    made.add_argument("--seconds", type=at_least_1, nargs="+", required=True, help="CPU seconds of a fine-tuning")
    made.add_argument(
        "--trial", action="append", default=[], metavar="CHANGES", help='"NAME=VALUE ...", of settings; once a form'
    )
    made.add_argument("--seeds", type=at_least_1, default=5, help="fine-tunings of each (default: 5)")
    made.add_argument("--name", required=True, help="of the evidence, results/equal-time-NAME.json")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run or go on; returns the exit status."""
    argv, began = sys.argv[1:] if argv is None else argv, time.perf_counter()
    given, rest = parser().parse_known_args(argv)
    try:
        common = in_full(settings_in(rest))
        forms = [{}, *(in_full(settings_in(words_of(trial))) for trial in given.trial)]
        settings = [resolve(given.recipe, **{**common, **changes}) for changes in forms]
        for name in sorted({name for changes in forms for name in changes}):
            if not name.startswith("finetune."):
                raise UserError(f"--trial {name}: not a setting of fine-tuning, as finetune.NAME=VALUE")
        bench = Bench(given, settings)
        paces = bench.paces()
        found = [bench.form(number, changes, paces[number]) for number, changes in enumerate(forms)]
    except UserError as error:
        say(f"equal_time: {error}")
        return 2
    given.data, given.init = Path(given.data).name, given.init and given.init.name  # no places
    words = [given.recipe, given.data, *(["--init", given.init] if given.init else [])]
    given.out = REPO / "results" / f"equal-time-{given.name}.json"
    result = {"images": len(bench.dataset.labelled("val")[1]), "labels": len(bench.labelled), "forms": found}
    seeds = range(given.seeds)
    write_evidence("equal_time", given, words + argv_after(argv), bench.accelerator, began, result, seeds)
    return 0


def argv_after(argv: list[str]) -> list[str]:
    """The flags but for the recipe, the data and the init, which may be places."""
    rest = argv[2:]
    if "--init" in rest:
        place = rest.index("--init")
        del rest[place : place + 2]
    return rest


class Bench:
    """The data, and the fine-tunings that are done, kept beside them in runs/."""

    def __init__(self, given: argparse.Namespace, settings: list[Settings]) -> None:
        self.given, self.settings = given, settings
        first = settings[0]
        self.dataset: Dataset = load(given.data, first.data, patching=patching_of(first), need_labels=True)
        self.labelled = labelled_indices(self.dataset, first, first.data.largest_budget, first.seed)
        self.accelerator: Accelerator = make_accelerator(first.device, first.precision)
        self.folder = Path("runs") / f"equal-time-{given.name}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.right: dict[tuple[int, int], np.ndarray] = {}  # by form and length

    def paces(self) -> list[float]:
        """CPU seconds of a step of each form, the quickest of some turns, over all of its course."""
        return self._once("paces", lambda: list(map(min, zip(*self._turns(), strict=True))))

    def _turns(self) -> list[list[float]]:
        steps = [self._step(number, 1000, 0) for number in range(len(self.settings))]
        for step in steps:
            _seconds_of(step, WARM_UP)
        return [[_seconds_of(step, TIMED) / TIMED for step in steps] for _ in range(TURNS)]

    def form(self, number: int, changes: dict[str, str], pace: float) -> Json:
        """What became of a form at each length, and its difference from the first form."""
        size = self.settings[number].finetune.batch_size
        found: Json = {"changes": changes, "images_per_second": round(size / pace, 1), "lengths": []}
        for length in self.given.seconds:
            steps = max(1, round(length / pace))
            runs = [self._run(number, length, steps, seed) for seed in range(self.given.seeds)]
            self.right[number, length] = np.stack([self._predicted(number, length, run["seed"]) for run in runs])
            values = [run["val_accuracy"] for run in runs]
            over = difference(self.right[number, length], self.right[0, length]).to_json() if number else None
            found["lengths"].append(
                {
                    "seconds": length,
                    "steps": steps,
                    "validation_accuracy": float(np.mean(values)),
                    "std": deviation(values),
                    "all": values,
                    "cpu_seconds": [run["cpu_seconds"] for run in runs],
                    "gain": over,
                }
            )
            say(json.dumps({**found, "lengths": found["lengths"][-1]}))
        return found

    def _run(self, number: int, length: int, steps: int, seed: int) -> Json:
        def compute() -> Json:
            step = self._step(number, steps, seed)
            spent = _readings_clocked(step)
            began = time.process_time()
            result = train(step, RunLog(), {"form": number, "seconds": length, "seed": seed})
            cpu = time.process_time() - began - spent()
            images, labels = self.dataset.labelled("val")
            network: Any = result.model
            eager = Eager(network, self.dataset.mean, self.dataset.std, self.accelerator.device)
            right = eager.logits(images).argmax(axis=1) == labels
            np.save(self._file(number, length, seed), right)
            return {"seed": seed, "val_accuracy": float(right.mean()), "cpu_seconds": round(cpu, 1)}

        return self._once(f"{number}-{length}-{seed}", compute)

    def _step(self, number: int, steps: int, seed: int) -> GradientStep:
        settings, init = self.settings[number], self.given.init
        step = finetuning(self.dataset, self.labelled, settings, self.accelerator, seed=seed, init=init)
        step.schedule = Schedule(steps, steps)
        return step

    def _file(self, number: int, length: int, seed: int) -> Path:
        return self.folder / f"{number}-{length}-{seed}.npy"

    def _predicted(self, number: int, length: int, seed: int) -> np.ndarray:
        right: np.ndarray = np.load(self._file(number, length, seed))
        return right

    def _once(self, key: str, compute: Callable[[], Any]) -> Any:
        file = self.folder / f"{key}.json"
        if not file.exists():
            write_whole(file, json.dumps(compute()))
        return json.loads(file.read_text(encoding="utf-8"))


def _seconds_of(step: GradientStep, count: int) -> float:
    """CPU seconds of so many steps, spread over the course."""
    planned = step.schedule.steps
    began = time.process_time()
    step.read_losses([step.run(round(place * (planned - 1) / max(1, count - 1))) for place in range(count)])
    return time.process_time() - began


def _readings_clocked(step: GradientStep) -> Callable[[], float]:
    """From now on the CPU seconds of the step's readings are added up; gives what returns their sum."""
    read, spent = step.objective.read, 0.0

    def clocked(*args: Any) -> dict[str, float]:
        nonlocal spent
        began = time.process_time()
        values = read(*args)
        spent += time.process_time() - began
        return values

    step.objective.read = clocked  # type: ignore[method-assign,assignment]
    return lambda: spent


if __name__ == "__main__":
    sys.exit(main())
