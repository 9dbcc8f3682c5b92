"""Run a recipe from raw images to evidence: pre-train, probe, fine-tune from MAE and from random init, test.

    python benchmarks/reproduce.py lite-cifar10 --total-time 25m --time-limit 9m

The same command goes on where it stopped, until results/RECIPE-DEVICE-SEED.json is written. All training is
`pocketvit.fit`; planning.py chooses the epochs that fit into the time, and roofline.py says how fast they were.
docs/reproduce.md says what is written where.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shlex
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "src"), str(REPO / "benchmarks")]  # a clone runs as it is

import planning  # noqa: E402
import roofline  # noqa: E402
import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from common import settings_in  # noqa: E402

from pocketvit.config import Settings, recipe_path, resolve, seconds_of  # noqa: E402
from pocketvit.data import Dataset, load  # noqa: E402
from pocketvit.errors import UserError  # noqa: E402
from pocketvit.evaluation.features import predict_probabilities  # noqa: E402
from pocketvit.evaluation.metrics import Metrics  # noqa: E402
from pocketvit.files import write_whole  # noqa: E402
from pocketvit.model import weights  # noqa: E402
from pocketvit.model.vit import ViT  # noqa: E402
from pocketvit.training.device import describe, make_accelerator  # noqa: E402
from pocketvit.training.loop import Interrupted, NonFiniteLoss, TimeIsUp  # noqa: E402
from pocketvit.verbs.fit import INITS, fit  # noqa: E402
from pocketvit.verbs.run import CONFIG, SUMMARY, WEIGHTS, open_run  # noqa: E402

PLAN, CALLS, EVIDENCE = "plan.json", "calls.jsonl", "reproduction.json"

SOURCES = {
    "cifar10": "CIFAR-10 (Krizhevsky 2009). Its authors state no licence; the images come from the web, by way of "
    "80 Million Tiny Images, which has been withdrawn.",
    "cifar100": "CIFAR-100 (Krizhevsky 2009). Its authors state no licence; the images come from the web, by way of "
    "80 Million Tiny Images, which has been withdrawn. Ten test images are also train images.",
}

Json = dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    """Run or go on with one recipe; returns the exit status, as `pocketvit` does."""
    started = time.perf_counter()
    try:
        job = Job.parse(argv)
        if job.overwrite or not (job.folder / EVIDENCE).is_file():
            reproduce(job, started)
        publish(job)
        print((job.folder / EVIDENCE).resolve(), json.dumps(in_short(job.folder)), sep="\n")
        return 0
    except TimeIsUp:
        print(f"{job.folder}: not finished: the same command goes on", file=sys.stderr)
        return 0
    except Interrupted as stop:
        print(f"{job.folder}: stopped by signal {stop.signum}: the same command goes on", file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        return 130
    except (UserError, NonFiniteLoss) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be run; `changes` are settings that the command line gives beside the recipe."""

    recipe: str
    data: str
    seed: int
    device: str
    changes: dict[str, str]
    total_time: str | None
    time_limit: str | None
    out: Path | None
    overwrite: bool
    accelerator: Accelerator

    @classmethod
    def parse(cls, argv: list[str] | None) -> Job:
        """From the command line; raises UserError."""
        parser = argparse.ArgumentParser(
            prog="reproduce.py",
            description="Pre-train, probe, fine-tune from MAE and from random init, test; then write the evidence. "
            "The same command goes on with a run that is not finished.",
            epilog="Any other --NAME VALUE is a setting, as for `pocketvit fit`: --pretrain.epochs 5, "
            "--label-fraction 0.1. With such a change nothing is published: evidence and weights stay in the run's "
            "directory.",
            allow_abbrev=False,
        )
        parser.add_argument("recipe", help="name of a recipe, or a YAML file")
        parser.add_argument("--data", help="source of images (default: data/cifar10 for a recipe named X-cifar10)")
        parser.add_argument("--seed", type=int, default=0, help="of everything but the splits (default: 0)")
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
        parser.add_argument("--images", help="train images to use (default: all)")
        parser.add_argument("--total-time", help="as 25m: choose both stages' epochs for the whole to take this long")
        parser.add_argument("--time-limit", help="as 9m: save and stop; the next call goes on")
        parser.add_argument("--out", type=Path, help="folder for results/ and models/ (default: this checkout)")
        parser.add_argument("--overwrite", action="store_true", help="start afresh")
        given, rest = parser.parse_known_args(argv)
        stem = recipe_path(given.recipe).stem
        changes = settings_in(rest) | ({"data.images": given.images} if given.images else {})
        for flag in (given.total_time, given.time_limit):
            if flag is not None:
                seconds_of(flag)
        if given.total_time and any(name.endswith("epochs") for name in changes):
            raise UserError("--total-time chooses the epochs: leave one of the two out")
        settings = resolve(given.recipe, **{**changes, "seed": given.seed, "device": given.device})
        return cls(
            given.recipe, given.data or f"data/{stem.split('-')[-1]}", given.seed, given.device, changes,
            given.total_time, given.time_limit, given.out, given.overwrite,
            make_accelerator(settings.device, settings.precision, settings.deterministic),
        )  # fmt: skip

    @property
    def stem(self) -> str:
        return recipe_path(self.recipe).stem

    @property
    def name(self) -> str:
        """RECIPE-DEVICE-SEED, with a mark of the changes where there are any."""
        device = describe(self.accelerator)["device"].lower().replace(" ", "-")
        mark = hashlib.blake2b(json.dumps(self.changes, sort_keys=True).encode(), digest_size=3).hexdigest()
        return f"{self.stem}-{device}-{self.seed}{f'-changed-{mark}' if self.changes else ''}"

    @property
    def folder(self) -> Path:
        """The run directory."""
        return Path("runs") / self.name

    @property
    def command(self) -> str:
        """What to type for the same result: no paths, and no slices."""
        words = [self.recipe, "--seed", str(self.seed)]
        words += ["--total-time", self.total_time] if self.total_time else []
        words += [word for name, value in self.changes.items() for word in (f"--{name}", value)]
        return f"python benchmarks/reproduce.py {shlex.join(words)}"

    def settings(self, epochs: dict[str, int] | None = None) -> Settings:
        """The recipe's, with the changes and with the epochs of a plan."""
        planned = {f"{stage}.epochs": count for stage, count in (epochs or {}).items()}
        return resolve(self.recipe, **{**self.changes, **planned, "seed": self.seed, "device": self.device})

    def load(self, settings: Settings) -> Dataset:
        """The images, from the cache where they were decoded before."""
        return load(self.data, settings.data, multiple_of=settings.model.resolved().patch or 1, need_labels=True)


def reproduce(job: Job, started: float) -> None:
    """Plan, unless there is a plan; run or go on; write the evidence. Raises TimeIsUp and what `fit` raises."""
    if job.overwrite or not (job.folder / CONFIG).is_file():
        dataset = job.load(job.settings())  # what is wrong with the data is said before anything is written
        plan: Json = {"epochs": {}}
        if job.total_time:
            total = seconds_of(job.total_time)
            plan = planning.make_plan(total, dataset, job.settings(), job.accelerator, started)
            print(f"plan for {job.total_time}: {json.dumps(plan)}", file=sys.stderr)
        open_run(job.folder, job.name, job.settings(plan["epochs"]), job.overwrite, resume=False)
        write_whole(job.folder / PLAN, json.dumps({"total_time": job.total_time, **plan}, indent=1) + "\n")
    try:
        plan = json.loads((job.folder / PLAN).read_text())
    except (OSError, ValueError):
        raise UserError(f"{job.folder}: no readable {PLAN}: start afresh with --overwrite") from None
    if plan["total_time"] != job.total_time:
        raise UserError(f"--total-time: {job.folder} was planned with {plan['total_time']}: repeat it, or --overwrite")
    settings = job.settings(plan["epochs"])
    limit = None
    if job.time_limit:
        limit = max(0.01, round(seconds_of(job.time_limit) - (time.perf_counter() - started), 2))
    finished = False
    try:
        fit(job.data, settings=settings, out=job.folder, resume=True, time_limit=limit)
        finished = True
    finally:
        note_call(job, started, finished)
    write_evidence(job, settings, plan)


def note_call(job: Job, started: float, finished: bool) -> None:
    """Append to calls.jsonl what this call took."""
    on_gpu = job.accelerator.device.type == "cuda"
    call = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_memory_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1) if on_gpu else None,
        "finished": finished,
    }
    with (job.folder / CALLS).open("a") as file:
        file.write(json.dumps(call) + "\n")


def write_evidence(job: Job, settings: Settings, plan: Json) -> None:
    """Evidence, float16 weights and model card, in the run directory."""
    folder, dataset = job.folder, job.load(settings)
    summary = json.loads((folder / SUMMARY).read_text())
    calls = [json.loads(line) for line in (folder / CALLS).read_text().splitlines()]
    module, meta = weights.load(folder / WEIGHTS)
    assert isinstance(module, ViT)
    model, card = folder / f"{job.stem}.safetensors", folder / f"{job.stem}.md"
    weights.save(model, module, meta, torch.float16)
    rounded, device = weights.load(model)[0].to(job.accelerator.device), job.accelerator.device
    images, labels = dataset.labelled("test")
    assert isinstance(rounded, ViT)
    probabilities = predict_probabilities(rounded, images, meta.mean, meta.std, device)
    summary["details"] |= {
        "command": job.command, "seconds": sum(call["seconds"] for call in calls), "resumed": len(calls) > 1,
    }  # fmt: skip
    summary["reproduction"] = {
        "recipe": job.stem, "seed": job.seed, "changes": job.changes, "plan": plan, "calls": calls,
        "peak_memory_mb": max(call["peak_memory_mb"] or 0 for call in calls) or None,
        "float16_accuracy": Metrics.of(probabilities, labels, dataset.classes).accuracy,
        **roofline.speed(dataset, settings, summary, job.accelerator),
    }  # fmt: skip
    write_whole(card, model_card(job, summary))
    write_whole(folder / EVIDENCE, json.dumps(summary, indent=1) + "\n")


def publish(job: Job) -> None:
    """Copy what a finished run wrote to results/ and models/; a changed recipe's only where --out asks for it."""
    out = job.out or (None if job.changes else REPO)
    if out is None:
        return
    write_whole(out / "results" / f"{job.name}.json", (job.folder / EVIDENCE).read_bytes())
    if job.seed == 0:  # one model of a recipe is shipped, and no accuracy chooses which
        for suffix in (".safetensors", ".md"):
            file = job.folder / f"{job.stem}{suffix}"
            write_whole(out / "models" / file.name, file.read_bytes())


def in_short(folder: Path) -> Json:
    """What a person wants to see first of the evidence."""
    summary = json.loads((folder / EVIDENCE).read_text())
    tables, pace = summary["finetune"], summary["reproduction"]
    last = tables[-1] if isinstance(tables, list) else tables
    return {
        **{f"accuracy_{name}": last[name]["accuracy"] for name in INITS},
        "probe": summary["probe"]["mae"],
        "seconds": summary["details"]["seconds"],
        **{f"{stage}_seconds_per_epoch": round(pace[stage]["seconds_per_epoch"], 3) for stage in planning.STAGES},
        **{f"{stage}_utilisation": round(pace[stage]["step"]["utilisation"], 4) for stage in planning.STAGES},
    }


def model_card(job: Job, summary: Json) -> str:
    """What the weights are, and what they are not."""
    details, data, found = summary["details"], summary["dataset"], summary["reproduction"]
    tables = summary["finetune"]
    table = tables[-1] if isinstance(tables, list) else tables
    size = "×".join(str(side) for side in data["shape"])
    return f"""# {job.stem}

A Vision Transformer of {summary["model"]["params"]:,} parameters for images of {size}, stored in float16.

| | |
|---|---|
| classes | {", ".join(data["classes"])} |
| trained on | {data["train"]:,} images; {data["val"]:,} more to validate |
| recipe | `{job.stem}`, seed {job.seed}{f", with {job.changes}" if job.changes else ""}: \
{found["pretrain"]["epochs"]} epochs of pre-training, {found["finetune"]["epochs"]} of fine-tuning |
| started from | {"the pre-trained encoder" if details["shipped"] == "mae" else "random init"}, which did better on \
the images that validate |
| test accuracy | {100 * found["float16_accuracy"]:.2f} % of this file on the {data["test"]:,} test images; \
the recipe from MAE {100 * table["mae"]["accuracy"]:.2f} %, from random init {100 * table["random"]["accuracy"]:.2f} % |
| calibration error | {details["evaluation"]["ece"]:.3f} |
| command | `{details["command"]}` |
| commit | {details["commit"]} |
| date, device | {details["date"][:10]}, {details["device"]}, {details["precision"]} |

## Data

{SOURCES.get(data["name"], f"`{data['name']}`: its licence is its source's.")}

## Limits

It knows {len(data["classes"])} classes and gives every image one of them, whatever it shows. It has seen no images but
those of this data set, and its accuracy says nothing of images from elsewhere. It is one seed of its recipe.
"""


if __name__ == "__main__":
    sys.exit(main())
