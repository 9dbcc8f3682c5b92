"""Run a recipe from raw images to evidence: pre-train, probe, fine-tune from MAE and from random init, test.

    python benchmarks/reproduce.py lite-cifar10 --total-time 25m --time-limit 9m

The same command goes on where it stopped, until results/RECIPE-DEVICE-SEED.json is written. All training is
`pocketvit.fit`; here is what goes around it: how many epochs fit into the time, and how fast they were.
docs/reproduce.md says what is written where.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shlex
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "src"), str(REPO / "benchmarks")]  # a clone runs as it is

import numpy as np  # noqa: E402
import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from roofline import BytesMoved, Ceilings  # noqa: E402

from pocketvit.config import Settings, recipe_path, resolve, seconds_of  # noqa: E402
from pocketvit.data import Dataset, Split, load  # noqa: E402
from pocketvit.errors import UserError  # noqa: E402
from pocketvit.evaluation.features import features, predict_probabilities  # noqa: E402
from pocketvit.evaluation.metrics import Metrics  # noqa: E402
from pocketvit.evaluation.probe import knn_accuracy, linear_accuracy  # noqa: E402
from pocketvit.files import write_whole  # noqa: E402
from pocketvit.model import weights  # noqa: E402
from pocketvit.model.budget import budget  # noqa: E402
from pocketvit.model.vit import ViT, ViTShape  # noqa: E402
from pocketvit.training.checkpoint import NEWEST, read  # noqa: E402
from pocketvit.training.device import describe, make_accelerator  # noqa: E402
from pocketvit.training.finetune import finetune_classifier  # noqa: E402
from pocketvit.training.log import RunLog  # noqa: E402
from pocketvit.training.loop import Interrupted, NonFiniteLoss, TimeIsUp, TrainResult  # noqa: E402
from pocketvit.training.pretrain import pretrain_mae  # noqa: E402
from pocketvit.verbs.fit import INITS, fit  # noqa: E402
from pocketvit.verbs.run import CONFIG, SUMMARY, WEIGHTS, open_run  # noqa: E402
from pocketvit.verbs.stages import labelled_indices  # noqa: E402

STAGES = ("pretrain", "finetune")
PLAN, CALLS, EVIDENCE = "plan.json", "calls.jsonl", "reproduction.json"

# How --total-time is spent.
PRETRAIN_SHARE = 0.6  # of the time for training; the fine-tunings have equal shares of the rest
MARGIN = 0.1  # of the total that nothing is planned for
AROUND = 20.0  # seconds for loading again, report and evidence
MEASURE_SECONDS = 8.0  # at most, for each stage, after its first step
MEASURE_STEPS = 4  # between two readings of the clock

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
        print((job.folder / EVIDENCE).resolve(), json.dumps(in_short(job.folder)), sep="\n")
        return 0
    except TimeIsUp:
        print(f"{job.folder}: not finished: the same command goes on", file=sys.stderr)
        return 0
    except Interrupted as stop:
        print(f"reproduce: {stop}: the same command goes on", file=sys.stderr)
        return 128 + stop.signum
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


def settings_in(words: list[str]) -> dict[str, str]:
    """`--name value` and `--name=value` as a dictionary; raises UserError."""
    found, rest = {}, iter(words)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        value = value if equals else next(rest, "")
        if not word.startswith("--") or not value:
            raise UserError(f"'{word}': expected --NAME VALUE; --help lists the flags")
        found[name.replace("-", "_")] = value
    return found


def reproduce(job: Job, started: float) -> None:
    """Plan, unless there is a plan; run or go on; write the evidence. Raises TimeIsUp and what `fit` raises."""
    if job.overwrite or not (job.folder / CONFIG).is_file():
        plan = make_plan(job, started) if job.total_time else {"epochs": {}}
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


# The plan.


def make_plan(job: Job, started: float) -> Json:
    """Measure both stages and a probe for a moment, here, and choose the epochs that fit; raises UserError."""
    settings = job.settings()
    dataset = job.load(settings)
    found = {
        "seconds_per_epoch": {stage: seconds_per_epoch(stage, dataset, settings, job.accelerator) for stage in STAGES},
        "probe_seconds": probe_seconds(dataset, settings, job.accelerator.device),
    }
    fine_tunings = len(INITS) * settings.seeds * len(settings.data.label_budgets)
    spent = time.perf_counter() - started
    epochs = choose_epochs(seconds_of(job.total_time or 0), spent, found, fine_tunings)
    paces = ", ".join(f"{stage} {found['seconds_per_epoch'][stage]:.3g} s/epoch" for stage in STAGES)
    print(f"plan for {job.total_time}: {paces}; epochs: {epochs}", file=sys.stderr)
    return {"epochs": epochs, "measured": found, "planning_seconds": round(spent, 1)}


def choose_epochs(total: float, spent: float, found: Json, fine_tunings: int) -> dict[str, int]:
    """Epochs of both stages, for everything to take under `total` seconds; raises UserError where not even one fits.

    Args:
        total: seconds.
        spent: seconds of them that are over.
        found: "seconds_per_epoch" of both stages, and "probe_seconds" of one encoder; two are probed.
        fine_tunings: how many there will be.
    """
    left = total * (1 - MARGIN) - spent - AROUND - len(INITS) * found["probe_seconds"]
    shares = {"pretrain": PRETRAIN_SHARE, "finetune": (1 - PRETRAIN_SHARE) / fine_tunings}
    paces = found["seconds_per_epoch"]
    epochs = {stage: int(left * shares[stage] / paces[stage]) for stage in STAGES}
    if min(epochs.values()) < 1:
        least = (max(paces[s] / shares[s] for s in STAGES) + total * (1 - MARGIN) - left) / (1 - MARGIN)
        raise UserError(f"--total-time: {total:.0f} s are too short for one epoch of each stage: give {least:.0f}s")
    return epochs


def seconds_per_epoch(stage: str, dataset: Dataset, settings: Settings, accelerator: Accelerator) -> float:
    """Seconds of an epoch of `stage`, from some warm steps of it; readings are not counted."""
    config = getattr(settings, stage)
    images = len(dataset.train) if stage == "pretrain" else len(labels_of(dataset, settings))
    batch = min(config.batch_size, images)
    some = first(dataset, MEASURE_STEPS * batch)
    brief = dataclasses.replace(settings, **{stage: dataclasses.replace(config, epochs=50, min_steps=0)})
    with tempfile.TemporaryDirectory() as folder:
        try:
            deadline = time.monotonic() + MEASURE_SECONDS
            done = train(stage, some, brief, accelerator, folder=Path(folder), deadline=deadline)
            steps, seconds, history = done.steps, done.seconds, done.history
        except TimeIsUp:
            kept = read(Path(folder) / NEWEST)
            steps, seconds, history = kept.step, kept.notes["seconds"], kept.notes["history"]
    # From the first reading on, which comes when all is warm; from the start where there is no time for two.
    marks = [(r["step"], r["step"] * batch / r["images_per_second"]) for r in history if r["step"] < steps][:1]
    warm, began = marks[0] if marks else (0, 0.0)
    return (seconds - began) / (steps - warm) * (images // batch)


def probe_seconds(dataset: Dataset, settings: Settings, device: torch.device) -> float:
    """Seconds that kNN and linear probe of one encoder will take, from a tenth of the images of a large set."""
    thin = 10 if len(dataset.train) > 10_000 else 1
    vit = ViT(ViTShape.of(settings.model, dataset.shape), pool=settings.model.pool).to(device)
    splits = [tuple(array[::thin] for array in dataset.labelled(split)) for split in ("train", "test")]
    began = time.perf_counter()
    parts = [array for x, y in splits for array in (features(vit, x, dataset.mean, dataset.std, device), y)]
    linear_accuracy(*parts)
    linear = time.perf_counter()
    knn_accuracy(*parts)  # takes time with the product of both counts
    return (linear - began) * thin + (time.perf_counter() - linear) * thin**2


def labels_of(dataset: Dataset, settings: Settings) -> np.ndarray:
    """Indices of the train images that the largest fine-tuning reads."""
    return labelled_indices(dataset, settings, settings.data.largest_budget, settings.seed)


def first(dataset: Dataset, images: int) -> Dataset:
    """The data set with its first train images only, and hardly any to validate."""
    (x, y), (val_x, val_y) = dataset.labelled("train"), dataset.labelled("val")
    return dataclasses.replace(dataset, train=Split(x[:images], y[:images]), val=Split(val_x[:2], val_y[:2]))


def train(stage: str, dataset: Dataset, settings: Settings, accelerator: Accelerator, **where: Any) -> TrainResult:
    """One stage on all of `dataset`, in silence, from random init."""
    log = RunLog(quiet=True)
    if stage == "pretrain":
        return pretrain_mae(dataset, settings, accelerator, log=log, **where)
    everything = np.arange(len(dataset.train))
    tags = {"stage": stage}
    return finetune_classifier(
        dataset, everything, settings, accelerator, seed=settings.seed, init=None, log=log, tags=tags, **where
    )


# The evidence.


def write_evidence(job: Job, settings: Settings, plan: Json) -> None:
    """Evidence, float16 weights and model card, in the run directory, and where they are published."""
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
        **speed(dataset, settings, summary, job.accelerator),
    }  # fmt: skip
    write_whole(card, model_card(job, summary))
    write_whole(folder / EVIDENCE, json.dumps(summary, indent=1) + "\n")
    out = job.out or (None if job.changes else REPO)
    if out is not None:
        publish(folder / EVIDENCE, out / "results" / f"{job.name}.json")
        if job.seed == 0:  # one model of a recipe is shipped, and no accuracy chooses which
            publish(model, out / "models" / model.name)
            publish(card, out / "models" / card.name)


def publish(file: Path, to: Path) -> None:
    write_whole(to, file.read_bytes())


def speed(dataset: Dataset, settings: Settings, summary: Json, accelerator: Accelerator) -> Json:
    """Both stages' pace, and how near it comes to what the device does at best."""
    bf16 = accelerator.mixed_precision == "bf16"
    ceilings = Ceilings.measure(accelerator.device, torch.bfloat16 if bf16 else torch.float32)
    cost = budget(settings.model, dataset.shape, len(dataset.classes), settings.pretrain.mask_ratio)
    labels, pretrained = len(labels_of(dataset, settings)), summary["pretrain"]
    runs = [run for run in summary["details"]["runs"] if run["labels"] == labels]
    batch = min(settings.finetune.batch_size, labels)
    seconds = max(0.05, sum(run["seconds"] for run in runs))  # of each run they are rounded to tenths
    finetuned = {
        "epochs": runs[0]["steps"] // (labels // batch),
        "images_per_second": sum(run["steps"] for run in runs) * batch / seconds,
    }
    found: Json = {"ceilings": {"matmul_flops": ceilings.flops, "copy_bytes": ceilings.bytes}}
    for stage, images, done, macs in (
        ("pretrain", len(dataset.train), pretrained, cost.pretrain_macs),
        ("finetune", labels, finetuned, cost.macs),
    ):
        batch, rate = min(getattr(settings, stage).batch_size, images), done["images_per_second"]
        # Backward takes twice the products of forward; a MAC is two FLOPs.
        flops, moved = 6 * macs * batch, bytes_of_a_step(stage, dataset, settings, accelerator)
        found[stage] = {
            "epochs": done["epochs"], "batch_size": batch, "images_per_second": rate,
            "seconds_per_epoch": images // batch * batch / rate,
            "step": ceilings.roofline(flops, moved, batch / rate),
        }  # fmt: skip
    return found


def bytes_of_a_step(stage: str, dataset: Dataset, settings: Settings, accelerator: Accelerator) -> int:
    """Bytes that the operators of one training step move: those of two steps without those of one."""
    config, totals = getattr(settings, stage), []
    one_batch = first(dataset, config.batch_size)
    for steps in (1, 2):
        brief = dataclasses.replace(settings, **{stage: dataclasses.replace(config, epochs=steps, min_steps=0)})
        with torch.compiler.set_stance("force_eager"), BytesMoved() as moved:
            train(stage, one_batch, brief, accelerator)
        totals.append(moved.total)
    return totals[1] - totals[0]


def in_short(folder: Path) -> Json:
    """What a person wants to see first of the evidence."""
    summary = json.loads((folder / EVIDENCE).read_text())
    tables, pace = summary["finetune"], summary["reproduction"]
    last = tables[-1] if isinstance(tables, list) else tables
    return {
        **{f"accuracy_{name}": last[name]["accuracy"] for name in INITS},
        "probe": summary["probe"]["mae"],
        "seconds": summary["details"]["seconds"],
        **{f"{stage}_seconds_per_epoch": round(pace[stage]["seconds_per_epoch"], 3) for stage in STAGES},
        **{f"{stage}_utilisation": round(pace[stage]["step"]["utilisation"], 4) for stage in STAGES},
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
