"""From the folder of a trained run to evidence: probes, raw pixels, report, roofline; on any machine with the images.

    python benchmarks/finish.py runs/lite-cifar10-0 --data data/cifar10

reproduce.py trains and tests; nothing here needs its device. What is not known of that device (its best, from
pace.py) is left out of the roofline.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "src"), str(REPO / "benchmarks")]  # a clone runs as it is

import numpy as np  # noqa: E402
import roofline  # noqa: E402
import torch  # noqa: E402
from common import default_source  # noqa: E402

from pocketvit.config import recipe_path, resolve  # noqa: E402
from pocketvit.errors import UserError  # noqa: E402
from pocketvit.evaluation.metrics import Metrics  # noqa: E402
from pocketvit.evaluation.predictor import Predictor  # noqa: E402
from pocketvit.files import write_whole  # noqa: E402
from pocketvit.model import weights  # noqa: E402
from pocketvit.model.vit import ViT  # noqa: E402
from pocketvit.pages.page import write_report  # noqa: E402
from pocketvit.run.folder import CONFIG  # noqa: E402
from pocketvit.run.summary import updated  # noqa: E402
from pocketvit.stages.arms import Arm, known_arms  # noqa: E402
from pocketvit.stages.context import Context  # noqa: E402
from pocketvit.verbs.train import complete  # noqa: E402

JOB, PLAN, CALLS, EVIDENCE = "job.json", "plan.json", "calls.jsonl", "reproduction.json"
# What another arm needs to join the run later, beside the weights, which are published as models.
KEPT = (CONFIG, JOB, PLAN, CALLS, "metrics.jsonl", "stages/pretrain-*.json", "stages/finetune-*.json",
        "stages/finetune-*.npy")  # fmt: skip
MAE_SUFFIX = "-mae"  # of the published name of the pre-trained weights
SOURCES = {
    "cifar10": "CIFAR-10 (Krizhevsky 2009). Its authors state no licence; the images come from the web, by way of "
    "80 Million Tiny Images, which has been withdrawn.",
    "cifar100": "CIFAR-100 (Krizhevsky 2009). Its authors state no licence; the images come from the web, by way of "
    "80 Million Tiny Images, which has been withdrawn. Ten test images are also train images.",
}

Json = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(prog="finish.py", description=__doc__.split("\n")[0], allow_abbrev=False)
    made.add_argument("run", type=Path, help="run directory of reproduce.py, trained and tested")
    made.add_argument("--data", help="source of images (default: cifar10 for a recipe named X-cifar10)")
    made.add_argument("--pace", type=Path, help="folder that pace.py wrote on the device that trained")
    made.add_argument("--out", type=Path, help="folder for results/ and models/ (default: this checkout)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Finish one run; returns the exit status."""
    given = parser().parse_args(argv)
    try:
        finish(given.run, given.data, given.out, given.pace)
        return 0
    except UserError as error:
        print(f"finish: {error}", file=sys.stderr)
        return 2


def finish(folder: Path, data: str | None = None, out: Path | None = None, pace: Path | None = None) -> None:
    """Evidence, float16 weights and model card in the run directory, copied to where they are published.

    Args:
        folder: the run directory.
        data: source of images; None takes that which the recipe's name ends in.
        out: folder for results/ and models/; None takes this checkout, and publishes no changed recipe.
        pace: folder with device.json, for the roofline.

    Raises:
        UserError: no such run, one with an arm that is not trained, or bad data.
    """
    job = read(folder / JOB)
    stem = recipe_path(job["recipe"]).stem
    if not (folder / EVIDENCE).is_file():
        settings = resolve(config=folder / CONFIG)
        context = Context.open(
            "fit", data or default_source(stem), settings, out=folder, overwrite=False, resume=True,
            pause_after=None, need_labels=True,
        )  # fmt: skip
        complete(context, arms_of(context))
        write_evidence(context, job, stem, read(pace / "device.json") if pace else None)
    publish(folder, job, stem, out)
    print((folder / EVIDENCE).resolve(), json.dumps(in_short(folder)), sep="\n")


def files_of(stem: str) -> list[str]:
    """What reproduce.py and this write into the directory of a run of recipe `stem`."""
    models = [f"{stem}{mae}{suffix}" for mae in ("", MAE_SUFFIX) for suffix in (".safetensors", ".md")]
    return [JOB, PLAN, CALLS, EVIDENCE, *models]


def arms_of(context: Context) -> list[Arm]:
    """The arms whose classifier is there; UserError where there is none."""
    arms = [arm for arm in known_arms() if context.folder.classifier(arm.name).is_file()]
    if not arms:
        raise UserError(f"{context.folder.root}: no arm is trained and tested: go on with reproduce.py")
    return arms


def read(file: Path) -> Json:
    """A JSON file; UserError where it cannot be read."""
    try:
        found: Json = json.loads(file.read_text())
    except (OSError, ValueError):
        raise UserError(f"{file.parent}: no readable {file.name}: give a run directory of reproduce.py") from None
    return found


def calls_of(folder: Path) -> list[Json]:
    """What each call of reproduce.py noted of itself, in order."""
    file = folder / CALLS
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def write_evidence(context: Context, job: Json, stem: str, device: Json | None) -> None:
    """Evidence, float16 weights and model card, in the run directory."""
    folder, dataset, settings = context.folder.root, context.dataset, context.settings
    summary, calls = json.loads(context.folder.summary.read_text()), calls_of(folder)
    module, meta = weights.load(context.folder.weights)
    assert isinstance(module, ViT)
    model = folder / f"{stem}.safetensors"
    weights.save(model, module, meta, torch.float16)
    rounded, (images, labels) = weights.load(model)[0], dataset.labelled("test")
    assert isinstance(rounded, ViT)
    predictor = Predictor.of(rounded, meta, context.accelerator.device)
    plain, mirrored = (predictor.probabilities(x) for x in (images, np.ascontiguousarray(images[:, :, ::-1])))
    trained = {key: calls[-1][key] for key in ("command", "commit", "date", "device", "precision")}
    trained |= {key: calls[-1][key] for key in ("versions", "environment")}
    summary["details"] |= {
        **trained, "seconds": sum(call["seconds"] for call in calls), "resumed": len(calls) > 1,
        "finished_on": {key: summary["details"][key] for key in ("device", "environment", "commit", "date")},
    }  # fmt: skip
    # The report tells of the device that trained, too.
    write_whole(context.folder.summary, json.dumps(summary, indent=1) + "\n")
    write_report(folder)
    summary["reproduction"] = {
        "recipe": stem, "seed": job["seed"], "changes": job["changes"], "plan": read(folder / PLAN), "calls": calls,
        "peak_memory_mb": max(call["peak_memory_mb"] or 0 for call in calls) or None,
        "float16_accuracy": Metrics.of(plain, labels, dataset.classes).accuracy,
        "mirrored_accuracy": Metrics.of((plain + mirrored) / 2, labels, dataset.classes).accuracy,
        **roofline.speed(dataset, settings, summary, context.accelerator, device),
    }  # fmt: skip
    write_whole(folder / f"{stem}.md", model_card(job, stem, summary))
    if summary["pretrain"]:
        weights.save(
            folder / f"{stem}{MAE_SUFFIX}.safetensors", *weights.load(context.folder.pretrained("mae")), torch.float16
        )
        write_whole(folder / f"{stem}{MAE_SUFFIX}.md", mae_card(stem, summary))
    write_whole(folder / EVIDENCE, json.dumps(summary, indent=1) + "\n")


def publish(folder: Path, job: Json, stem: str, out: Path | None) -> None:
    """Copy what a finished run wrote to results/ and models/; a changed recipe's only where --out asks for it."""
    out = out or (None if job["changes"] else REPO)
    if out is None:
        return
    device = read(folder / EVIDENCE)["details"]["device"].lower().replace(" ", "-")
    name = f"{folder.name.removesuffix(str(job['seed']))}{device}-{job['seed']}" if not job["changes"] else folder.name
    write_whole(out / "results" / f"{name}.json", (folder / EVIDENCE).read_bytes())
    predicted = {file.stem.partition("-")[2]: np.load(file) for file in (folder / "stages").glob("predictions-*.npy")}
    np.savez_compressed(out / "results" / f"{name}.npz", **{arm: p.astype(np.float16) for arm, p in predicted.items()})
    for file in (file for pattern in KEPT for file in folder.glob(pattern)):
        write_whole(out / "results" / "runs" / folder.name / file.relative_to(folder), file.read_bytes())
    if job["seed"] == 0:  # one model of a recipe is shipped, and no accuracy chooses which
        for file in (folder / name for name in files_of(stem) if Path(name).stem in (stem, f"{stem}{MAE_SUFFIX}")):
            if file.is_file():
                write_whole(out / "models" / file.name, file.read_bytes())


def mae_card(stem: str, summary: Json) -> str:
    """What the pre-trained weights are."""
    data, found, probe = summary["dataset"], summary["pretrain"]["mae"], summary["probe"]
    call = summary["reproduction"]["calls"][0]  # other arms may have joined later
    return f"""# {stem}{MAE_SUFFIX}

The masked autoencoder that `{stem}` was fine-tuned from, encoder and decoder, stored in float16: for `--init`.

| | |
|---|---|
| trained on | {data["train"]:,} images without their labels, {found["epochs"]} epochs |
| loss | {found["train_loss"]:.4f}; on {data["val"]:,} held-out images {found["heldout_loss"]:.4f} |
| frozen, all labels, {data["test"]:,} test images | kNN {100 * probe["mae"]["knn"]:.2f} %, linear probe \
{100 * probe["mae"]["linear"]:.2f} % |
| command | `{call["command"]}` |
| commit | {call["commit"]} |
| date, device | {call["date"][:10]}, {call["device"]}, {call["precision"]} |

Data and limits are those of [{stem}]({stem}.md).
"""


def in_short(folder: Path) -> Json:
    """What a person wants to see first of the evidence."""
    summary = updated(read(folder / EVIDENCE))
    last, pace = summary["finetune"][-1], summary["reproduction"]
    stages = [stage for stage in ("pretrain", "finetune") if stage in pace]
    return {
        **{f"accuracy_{name}": arm["accuracy"] for name, arm in last["arms"].items()},
        "probe": summary["probe"].get("mae"),
        "seconds": summary["details"]["seconds"],
        **{f"{stage}_seconds_per_epoch": round(pace[stage]["seconds_per_epoch"], 3) for stage in stages},
        **{
            f"{stage}_utilisation": round(pace[stage]["step"]["utilisation"], 4)
            for stage in stages
            if "utilisation" in pace[stage].get("step", {})
        },
    }


def model_card(job: Json, stem: str, summary: Json) -> str:
    """What the weights are, and what they are not."""
    details, data, found = summary["details"], summary["dataset"], summary["reproduction"]
    # Other arms may have joined later.
    call = next(call for call in reversed(found["calls"]) if details["shipped"] in call["arms"])
    accuracy, titles = summary["finetune"][-1]["arms"], {arm["name"]: arm["title"] for arm in summary["arms"]}
    arms = ", ".join(f"from {titles[name]} {100 * arm['accuracy']:.2f} %" for name, arm in accuracy.items())
    epochs = f"{found['finetune']['epochs']} of fine-tuning"
    if "pretrain" in found:
        epochs = f"{found['pretrain']['epochs']} epochs of pre-training, {epochs}"
    size = "×".join(str(side) for side in data["shape"])
    started = titles[details["shipped"]] + (", frozen, with a linear head" if details.get("frozen") else "")
    if len(accuracy) > 1:
        started += ", which did better on the images that validate"
    return f"""# {stem}

A Vision Transformer of {summary["model"]["params"]:,} parameters for images of {size}, stored in float16.

| | |
|---|---|
| classes | {", ".join(data["classes"])} |
| trained on | {data["train"]:,} images; {data["val"]:,} more to validate |
| recipe | `{stem}`, seed {job["seed"]}{f", with {job['changes']}" if job["changes"] else ""}: {epochs} |
| started from | {started} |
| test accuracy | {100 * found["float16_accuracy"]:.2f} % of this file on the {data["test"]:,} test images; \
the recipe {arms} |
| calibration error | {details["evaluation"]["ece"]:.3f} |
| command | `{call["command"]}` |
| commit | {call["commit"]} |
| date, device | {call["date"][:10]}, {call["device"]}, {call["precision"]} |

## Data

{SOURCES.get(data["name"], f"`{data['name']}`: its licence is its source's.")}

## Limits

It knows {len(data["classes"])} classes and gives every image one of them, whatever it shows. It has seen no images but
those of this data set, and its accuracy says nothing of images from elsewhere. It is one seed of its recipe.
"""


if __name__ == "__main__":
    sys.exit(main())
