"""The verbs that train: fit, pretrain and finetune."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvit.config import Settings, default_recipe, model_path, resolve
from pocketvit.model import weights
from pocketvit.pages import write_report
from pocketvit.run.summary import printable
from pocketvit.stages.arms import RANDOM, Arm, arms_named, known_arms
from pocketvit.stages.baselines import pixels_stage, probe_stage
from pocketvit.stages.comparison import choice, initial, table, train_arms
from pocketvit.stages.context import Context
from pocketvit.stages.finetuning import finetune_stage
from pocketvit.stages.pretraining import pretrain_stage
from pocketvit.stages.results import write_results


@dataclass(frozen=True)
class Run:
    """A finished run: its directory and what `--json` prints of it."""

    path: Path
    summary: dict[str, Any]

    def predict(self, paths: list[str] | str, top: int = 3) -> list[dict[str, Any]]:
        """Classes and probabilities of image files, or of a folder's; see `pocketvit.predict`."""
        from pocketvit.verbs.predict import predict

        return predict(paths, model=self.path, top=top)


def fit(
    data: str = "digits",
    *,
    recipe: str | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    pause_after: str | float | None = None,
    settings: Settings | None = None,
    **overrides: Any,
) -> Run:
    """Images in; a tested classifier and a report out.

    Pre-trains on every train image, then fine-tunes from those weights and from random init, equally many steps, at
    each label budget and seed, beside baselines on raw pixels. What is saved as the classifier is the arm that did
    better on the validation images at the largest budget; or, where these have more labels than that, the one from
    MAE. Arguments and errors as for `pretrain`; `epochs`, `batch_size` and `lr` mean pre-training here.
    """
    settings = settings or resolve(recipe or default_recipe(data), config, **overrides)
    context = Context.open(
        "fit", data, settings, out=out, overwrite=overwrite, resume=resume, pause_after=pause_after, need_labels=True
    )
    return complete(context, known_arms())


def complete(context: Context, arms: Sequence[Arm]) -> Run:
    """Train the arms, but for what is trained already; then probes, baselines on raw pixels, summary and report."""
    trained = train_arms(context, arms)
    folder, largest = context.folder, context.settings.data.largest_budget
    pretrained = {arm.name: folder.pretrained(arm.objective) for arm in arms if arm.objective}
    probed = probe_stage(context, pretrained)
    tables, pixels = [], []
    for per_class, runs in trained.finetune.items():
        baselines = pixels_stage(context, per_class)
        tables.append(table(context, arms, per_class, runs, baselines))
        test = {name: {"accuracy": v["accuracy"], "std": v["std"]} for name, v in baselines.items()}
        pixels.append({"labels_per_class": per_class, **test})
    best, chosen_by = choice(context, arms, trained.finetune[largest])
    context.log.say(f"saved: the classifier from {best.title}, chosen by {chosen_by}")
    context.on_main(lambda: shutil.copyfile(folder.classifier(best.name), folder.weights))
    every = [run for runs in trained.finetune.values() for arm in arms for run in runs[arm.name]]
    results = {"pretrain": trained.pretrain, "probe": probed, "finetune": tables}
    details = {"shipped": best.name, "chosen_by": chosen_by, "runs": every, "pixels": pixels}
    return _finished(context, arms, results, details, next((initial(context, arm) for arm in arms), None))


def pretrain(
    data: str = "digits",
    *,
    recipe: str | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    pause_after: str | float | None = None,
    settings: Settings | None = None,
    **overrides: Any,
) -> Run:
    """Pre-train a masked autoencoder on images, with or without labels.

    Args:
        data: a source of images.
        recipe, config, overrides: see `pocketvit.config.resolve`; `settings` takes their place.
        out: run directory; None makes a new one in runs/.
        overwrite: replace a run that is there.
        resume: go on with the run that is there.
        pause_after: when to save and stop, in seconds or as "50m"; counted from the call.

    Raises:
        UserError: bad data, settings or directory.
        Paused: `pause_after` is over; what was done is saved, and `resume` goes on with it.
    """
    settings = settings or resolve(recipe or default_recipe(data), config, **overrides)
    context = Context.open(
        "pretrain", data, settings,
        out=out, overwrite=overwrite, resume=resume, pause_after=pause_after, need_labels=False,
    )  # fmt: skip
    arms, folder = arms_named(["mae"]), context.folder
    found = pretrain_stage(context, "mae", folder.weights)
    return _finished(context, arms, {"pretrain": {"mae": found}, "probe": {}, "finetune": []}, {}, folder.weights)


def finetune(
    data: str = "digits",
    *,
    init: Run | str | Path | None = None,
    recipe: str | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    pause_after: str | float | None = None,
    settings: Settings | None = None,
    **overrides: Any,
) -> Run:
    """Train a classifier from weights, or from random init.

    `init` is a run, a weights file, a shipped model's name, or None for random.
    With several seeds the test accuracy is their mean. The weights that are saved are the first seed's at the largest
    label budget. Arguments and errors as for `pretrain`; `epochs`, `batch_size` and `lr` mean fine-tuning here.
    """
    settings = settings or resolve(recipe or default_recipe(data), config, stage="finetune", **overrides)
    source = init.path if isinstance(init, Run) else model_path(init) if init else None
    if source is not None:
        weights.encoder_state(source)  # before the data are decoded
    context = Context.open(
        "finetune", data, settings, out=out, overwrite=overwrite, resume=resume, pause_after=pause_after,
        need_labels=True, init=source,
    )  # fmt: skip
    (arm,), tables, every = arms_named(["mae"]) if source else (RANDOM,), [], []
    for per_class in settings.data.label_budgets:
        runs = [finetune_stage(context, arm, source, per_class, seed) for seed in context.seeds()]
        tables.append(table(context, [arm], per_class, {arm.name: runs}))
        every += runs
    folder = context.folder
    context.on_main(lambda: shutil.copyfile(folder.classifier(arm.name), folder.weights))
    return _finished(context, [arm], {"pretrain": {}, "probe": {}, "finetune": tables}, {"runs": every}, source)


def _finished(
    context: Context, arms: Sequence[Arm], results: dict[str, Any], details: dict[str, Any], mae: Path | None
) -> Run:
    """Summary, figures' data and report of a run that is over."""
    summary = write_results(context, arms, results, details, mae)
    context.on_main(lambda: write_report(context.folder.root))
    return Run(context.folder.root, printable(summary))
