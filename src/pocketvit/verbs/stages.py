"""`pretrain` and `finetune`, and the steps of them that `fit` strings together."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from pocketvit.config import Settings, default_recipe, model_path, resolve, seconds_of
from pocketvit.data import (
    Dataset,
    Patching,
    Rendering,
    digest,
    grown_patch,
    image_digests,
    label_subset,
    load,
    mirror_note,
)
from pocketvit.data.sizes import MOST_PATCHES
from pocketvit.evaluation.features import features, predict_probabilities
from pocketvit.evaluation.metrics import Metrics, most_confident_mistakes
from pocketvit.evaluation.probe import knn_accuracy
from pocketvit.evaluation.reconstruct import reconstruct_images
from pocketvit.evaluation.statistics import deviation
from pocketvit.files import write_whole
from pocketvit.model import weights
from pocketvit.model.budget import budget
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.patches import check_patch
from pocketvit.model.vit import ViT
from pocketvit.model.weights import WeightsMeta, weights_file
from pocketvit.report import write_report
from pocketvit.training.device import describe, from_main, make_accelerator
from pocketvit.training.finetune import finetune_classifier, make_classifier
from pocketvit.training.log import RunLog
from pocketvit.training.loop import Paused
from pocketvit.training.memory import check_memory
from pocketvit.training.optimizer import optimizer_class
from pocketvit.training.pretrain import pretrain_mae, verdict
from pocketvit.training.schedule import Deadlines
from pocketvit.verbs.run import (
    CONFIG,
    MAE_WEIGHTS,
    SUMMARY,
    WEIGHTS,
    Run,
    check_origin,
    evidence,
    hold,
    open_run,
    printable,
)

T = TypeVar("T")
# The kNN reading during pre-training is a sign of progress: this many neighbours' candidates are enough for it.
KNN_IMAGES = 5000


@dataclass(frozen=True)
class Context:
    """What every stage of a run works with."""

    settings: Settings
    dataset: Dataset
    accelerator: Accelerator
    log: RunLog
    folder: Path
    evidence: dict[str, Any]
    started: float
    pause: float  # when to save and stop, on time.monotonic's clock
    lock: Any = None  # on the folder, in the main process

    @classmethod
    def open(
        cls,
        verb: str,
        data: str,
        settings: Settings,
        *,
        out: str | Path | None,
        overwrite: bool,
        resume: bool,
        pause_after: str | float | None,
        need_labels: bool,
        init: Path | None = None,
    ) -> Context:
        """Load the data and check everything that can be wrong before the first file of the run is written."""
        started, patching = time.perf_counter(), patching_of(settings)
        pause = math.inf if pause_after is None else time.monotonic() + seconds_of(pause_after)
        settings.data.label_budgets  # noqa: B018  # raises now rather than after pre-training
        for stage, config in (("pretrain", settings.pretrain), ("finetune", settings.finetune)):
            if verb in (stage, "fit"):
                optimizer_class(config.optimizer, f"--{stage}.optimizer")
        accelerator = make_accelerator(settings.device, settings.precision, settings.deterministic)
        images, rendering, channels = settings.data, None, None
        if init is not None:
            # Images become what the weights are used to, unless another size is asked for.
            _, meta = weights.encoder_state(init)
            images = replace(images, size=images.size or "{}x{}".format(*meta.shape))
            rendering, channels = Rendering(meta.bits, meta.background), meta.shape[2]
        # One process of each machine decodes; the others find the cache.
        with accelerator.local_main_process_first():
            dataset = load(
                data, images, patching=patching, rendering=rendering, channels=channels, need_labels=need_labels
            )
        height, width, _ = dataset.shape
        patch = grown_patch(height, width, patching)
        check_patch(height, width, patch)
        if patch != patching.side:
            note = f"patches of {patch} px rather than {patching.side}, so that an image has at most {MOST_PATCHES}"
            dataset = replace(dataset, notes=(*dataset.notes, f"{note} (--patch and --size decide otherwise)"))
            settings = replace(settings, model=replace(settings.model, patch=patch))
        with torch.device("meta"):
            MaskedAutoencoder(settings.model, dataset.shape, normalise_targets=settings.pretrain.normalise_targets)
        for stage in ("pretrain", "finetune"):
            if verb in (stage, "fit"):
                check_memory(stage, dataset, settings, accelerator)
        if init is not None:
            make_classifier(dataset, settings, settings.seed, init)
        if need_labels:
            for per_class in settings.data.label_budgets:
                labelled_indices(dataset, settings, per_class, settings.seed)
        name, main = f"{dataset.name}-{settings.recipe or 'custom'}", accelerator.is_main_process
        places = (Path(data).expanduser(), Path(os.environ.get("POCKETVIT_DATA", ".")).expanduser() / data)
        needed = {
            "the images": next((place for place in places if place.exists()), None),
            "the weights of --init": init,
        }
        folder = open_run(out, name, settings, overwrite, resume, needed) if main else Path()
        folder = from_main(accelerator, folder)
        if main:
            origin = {"DATA": dataset.fingerprint, "--init": init and digest(weights_file(init).read_bytes())}
            parts = (dataset.train.images, dataset.val.images)
            check_origin(folder, origin, lambda: np.concatenate([image_digests(images) for images in parts]))
        log = RunLog(folder, settings.tensorboard) if main else RunLog(quiet=True)
        lock = hold(folder) if main else None
        context = cls(settings, dataset, accelerator, log, folder, evidence(verb, resume), started, pause, lock)
        counts = {name: len(split) for name, split in _splits(dataset).items() if split is not None}
        context.log.say(f"{dataset.name}: {counts}, {len(dataset.classes)} classes, shape {dataset.shape}")
        mirrored = [stage for stage in ("pretrain", "finetune") if getattr(settings, stage).augment.flip]
        doubts = [] if not mirrored else [f"training mirrors images ({' and '.join(mirrored)}: augment.flip)"]
        if mirrored and need_labels and not resume:
            doubts += mirror_note(*dataset.labelled("train"), dataset.classes)
        for line in (*dataset.notes, *doubts, f"{describe(accelerator)}, writing to {folder}"):
            context.log.say(f"  {line}")
        return context

    def meta(self, kind: Any) -> WeightsMeta:
        """How weights of this run describe themselves."""
        s, d = self.settings, self.dataset
        return WeightsMeta(
            kind, s.model, d.shape, d.mean, d.std, d.classes,
            visible_discount=s.pretrain.visible_discount, normalise_targets=s.pretrain.normalise_targets,
            bits=d.rendering.bits, background=d.rendering.background, source=d.fingerprint, native=d.native,
        )  # fmt: skip

    def on_main(self, compute: Callable[[], T]) -> T:
        """What `compute` returns in the main process, which alone calls it, in every process."""
        value: Any = compute() if self.accelerator.is_main_process else None
        made: T = from_main(self.accelerator, value)
        return made

    def once(self, name: str, compute: Callable[[], Any], together: bool = False) -> Any:
        """What `compute` returned when it last finished, kept as stages/`name`.json: a resumed run repeats no stage.

        Args:
            name: of the stage.
            compute: returns something that JSON holds.
            together: all processes compute, as in training, rather than the main one alone.

        Raises:
            Paused: the time to pause has come, and the stage is not finished.
        """
        kept, late = self.on_main(lambda: (self.kept(name), self.is_late()))
        if kept is not None:
            return kept
        if late:
            raise Paused
        value = compute() if together else self.on_main(compute)
        self.on_main(lambda: write_whole(self._stage_file(name), json.dumps(value, indent=1)))
        return value

    def kept(self, name: str) -> Any:
        """What `once` kept of a stage; None where it has not finished."""
        file = self._stage_file(name)
        return json.loads(file.read_text()) if file.exists() else None

    def _stage_file(self, name: str) -> Path:
        return self.folder / "stages" / f"{name}.json"

    def forget(self, stage: str) -> None:
        """Remove a stage's checkpoints, after `once`: killed before, a resumed run still has them."""
        self.on_main(lambda: shutil.rmtree(self.folder / "checkpoints" / stage, ignore_errors=True))

    def ship(self, init: str) -> None:
        """Make the kept classifier from `init` the run's model."""
        self.on_main(lambda: shutil.copyfile(classifier_file(self, init), self.folder / WEIGHTS))

    def is_late(self) -> bool:
        """Whether the time to pause has come."""
        return time.monotonic() > self.pause

    def images(self) -> tuple[Any, Any, Any]:
        """Mean, standard deviation and device, as the evaluation room takes them."""
        return self.dataset.mean, self.dataset.std, self.accelerator.device


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
        "pretrain",
        data,
        settings,
        out=out,
        overwrite=overwrite,
        resume=resume,
        pause_after=pause_after,
        need_labels=False,
    )
    result = pretrain_stage(context, WEIGHTS)
    results = {"pretrain": result, "probe": None, "finetune": None}
    return finish(context, results, {}, context.folder / WEIGHTS)


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
    name, tables, runs = "mae" if source else "random", [], []
    for per_class in settings.data.label_budgets:
        found = [finetune_stage(context, name, source, per_class, seed) for seed in seeds(context)]
        tables.append(
            dict.fromkeys(("mae", "random", "pixels", "gain", "gain_interval"))
            | {name: spread(found), "labels_per_class": per_class}
        )
        runs += found
    context.ship(name)
    results = {"pretrain": None, "probe": None, "finetune": tables if len(tables) > 1 else tables[0]}
    return finish(context, results, {"runs": runs}, source)


def pretrain_stage(context: Context, file: str = MAE_WEIGHTS, land: float = math.inf) -> dict[str, Any]:
    """Pre-train, save the weights (decoder included) and return what the summary says of it.

    `land` is when it has to be over, on time.monotonic's clock.
    """
    dataset, knn = context.dataset, None
    if dataset.train.labels is not None and dataset.val.labels is not None and len(dataset.classes) > 1:
        images, labels = dataset.labelled("train")
        chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:KNN_IMAGES])
        train_images, val = images[chosen], dataset.val
        train_y, val_y = labels[chosen], dataset.val.labels

        def knn(vit: ViT) -> float:
            train_x, val_x = (features(vit, x, *context.images()) for x in (train_images, val.images))
            return knn_accuracy(train_x, train_y, val_x, val_y)

    def compute() -> dict[str, Any]:
        folder = context.folder / "checkpoints" / "pretrain"
        result = pretrain_mae(
            dataset, context.settings, context.accelerator,
            log=context.log, folder=folder, knn=knn, deadlines=Deadlines(land, context.pause),
        )  # fmt: skip
        mae = result.model
        assert isinstance(mae, MaskedAutoencoder)
        context.on_main(lambda: weights.save(context.folder / file, mae.cpu(), context.meta("mae")))
        heldout = [reading["heldout_loss"] for reading in result.history]
        return {
            "epochs": result.epochs,
            "steps": result.steps,
            "planned_steps": result.planned,
            "compiled": result.compiled,
            "seconds": round(result.seconds, 1),
            "images_per_second": round(result.images_per_second, 1),
            "train_loss": result.train_loss,
            "heldout_loss": heldout[-1] if heldout else None,
            "verdict": verdict(heldout) if heldout else "resumed after its end",
        }

    stage: dict[str, Any] = context.once("pretrain", compute, together=True)
    context.forget("pretrain")
    loss = f"train loss {stage['train_loss']:.4f}, held out {stage['heldout_loss']:.4f}"
    context.log.say(f"pretrain: {stage['epochs']} epochs in {stage['seconds']} s; {loss}; {stage['verdict']}")
    return stage


def finetune_stage(
    context: Context,
    name: str,
    init: Path | None,
    per_class: int | None,
    seed: int,
    steps: int | None = None,
    land: float = math.inf,
) -> dict[str, Any]:
    """Fine-tune once and test; which labels are read depends on the seed.

    The first seed's weights at the largest label budget are kept in stages/, since they may be shipped, and so are its
    predictions of the test images.

    Args:
        steps: how many there are to be, in place of the settings' epochs.
        land: when it has to be over, on time.monotonic's clock.
    """
    dataset, settings = context.dataset, context.settings
    if steps is not None:
        settings = replace(settings, finetune=replace(settings.finetune, epochs=1, min_steps=steps))
    keep = per_class == settings.data.largest_budget and seed == settings.seed
    tags = {"stage": "finetune", "init": name, "labels_per_class": per_class, "seed": seed}
    key = finetune_key(name, per_class, seed)

    def compute() -> dict[str, Any]:
        labelled = labelled_indices(dataset, context.settings, per_class, seed)
        folder = context.folder / "checkpoints" / key
        result = finetune_classifier(
            dataset, labelled, settings, context.accelerator,
            seed=seed, init=init, log=context.log, tags=tags, folder=folder, deadlines=Deadlines(land, context.pause),
        )  # fmt: skip
        vit = result.model
        assert isinstance(vit, ViT)
        images, labels = dataset.labelled("test")
        probabilities = predict_probabilities(vit, images, *context.images())
        metrics = Metrics.of(probabilities, labels, dataset.classes)
        predicted = probabilities.argmax(axis=1).astype(np.int32)
        context.on_main(lambda: np.save(predictions_file(context, key), predicted))
        if keep:
            file, predictions = classifier_file(context, name), context.folder / "stages" / f"predictions-{name}.npy"
            context.on_main(lambda: np.save(predictions, probabilities))
            context.on_main(lambda: weights.save(file, vit.cpu(), context.meta("classifier")))
        return {
            **tags, "labels": len(labelled), "steps": result.steps, "planned_steps": result.planned,
            "compiled": result.compiled, "seconds": round(result.seconds, 1),
            "accuracy": metrics.accuracy, "ece": metrics.ece, "val_accuracy": result.history[-1]["val_accuracy"],
        }  # fmt: skip

    stage: dict[str, Any] = context.once(key, compute, together=True)
    context.forget(key)
    asked = settings.finetune.epochs * -(-stage["labels"] // settings.finetune.batch_size)
    if steps is None and stage["planned_steps"] > asked and seed == settings.seed:
        least = f"--finetune.min_steps asks for {stage['planned_steps']} steps"
        context.log.say(f"  {least}, where {settings.finetune.epochs} epochs would be {asked}")
    seconds = f"{stage['labels']} labels, {stage['steps']} steps in {stage['seconds']} s"
    context.log.say(f"finetune from {name}, seed {seed}: test {100 * stage['accuracy']:.2f} %  ({seconds})")
    return stage


def finetune_key(name: str, per_class: int | None, seed: int) -> str:
    """The stage of one fine-tuning."""
    return f"finetune-{name}-{per_class or 'all'}-{seed}"


def predictions_file(context: Context, key: str) -> Path:
    """Where the predicted classes (N,) of the test images of one fine-tuning are kept."""
    return context.folder / "stages" / f"{key}.npy"


def correct(context: Context, name: str, per_class: int | None) -> NDArray[np.bool_] | None:
    """(S, N): which test images an arm got right, for each seed; None where a run of an earlier version kept none."""
    _, labels = context.dataset.labelled("test")
    files = [predictions_file(context, finetune_key(name, per_class, seed)) for seed in seeds(context)]
    if not all(file.exists() for file in files):
        return None
    return np.stack([np.load(file) == labels for file in files])


def finish(context: Context, results: dict[str, Any], details: dict[str, Any], mae: Path | None) -> Run:
    """Write summary.json, the figures' data and the report; returns the run."""
    return Run(context.folder, printable(context.on_main(lambda: _finish(context, results, details, mae))))


def _finish(context: Context, results: dict[str, Any], details: dict[str, Any], mae: Path | None) -> dict[str, Any]:
    s, d, folder = context.settings, context.dataset, context.folder
    module, _ = weights.load(folder / WEIGHTS)
    module.to(context.accelerator.device)
    arrays, evaluation = gallery(context, mae), None
    if isinstance(module, ViT):
        found, evaluation = judge(context, module)
        arrays |= found
    np.savez_compressed(folder / "figures.npz", **arrays)
    cost = budget(s.model, d.shape, len(d.classes), s.pretrain.mask_ratio)
    summary = {
        "dataset": {
            "name": d.name, "classes": list(d.classes), "train": len(d.train), "val": len(d.val),
            "test": len(d.test) if d.test else 0, "shape": list(d.shape),
        },
        "model": {
            "preset": s.model.preset, "params": cost.params, "macs": cost.macs,
            "macs_without_attention": cost.macs_without_attention,
        },
        **results,
        "files": {
            name: str(folder / file)
            for name, file in (("weights", WEIGHTS), ("report", "report.html"), ("config", CONFIG))
        },
        "details": {
            **context.evidence, "recipe": s.recipe, "seconds": round(time.perf_counter() - context.started, 1),
            **describe(context.accelerator), "notes": list(d.notes), "label_fraction": s.data.label_fraction,
            **details, "evaluation": evaluation,
        },
    }  # fmt: skip
    write_whole(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
    write_report(folder)
    return summary


def judge(context: Context, vit: ViT) -> tuple[dict[str, Any], dict[str, Any]]:
    """The saved classifier on the test images: arrays for the report, and its metrics."""
    images, labels = context.dataset.labelled("test")
    probabilities = predict_probabilities(vit, images, *context.images())
    wrong = most_confident_mistakes(probabilities, labels, 24)
    arrays = {
        "mistakes": images[wrong],
        "mistakes_true": labels[wrong],
        "mistakes_predicted": probabilities[wrong].argmax(axis=1),
        "mistakes_confidence": probabilities[wrong].max(axis=1),
    }
    return arrays, Metrics.of(probabilities, labels, context.dataset.classes).to_json()


def gallery(context: Context, mae: Path | None) -> dict[str, Any]:
    """Samples of the train images, and reconstructions of held-out ones where there is a masked autoencoder."""
    train, val = context.dataset.train, context.dataset.val
    images, labels = (train.images, None) if train.labels is None else context.dataset.labelled("train")
    chosen = np.sort(np.random.default_rng(0).permutation(len(images))[:40])
    arrays: dict[str, Any] = {"samples": images[chosen]}
    if labels is not None:
        arrays["sample_labels"] = labels[chosen]
    if mae is not None:
        model, meta = weights.load(mae)
        if isinstance(model, MaskedAutoencoder):
            made = reconstruct_images(model, val.images[:12], meta.mean, meta.std, context.settings.pretrain.mask_ratio)
            arrays |= {f"gallery_{name}": array for name, array in made._asdict().items()}
    return arrays


def patching_of(settings: Settings) -> Patching:
    """The patch that images are read for; one that was asked for stays, and so does any beside a size asked for."""
    patch = settings.model.resolved().patch
    assert patch is not None
    return Patching(patch, fixed=settings.model.patch is not None or settings.data.size is not None)


def labelled_indices(dataset: Dataset, settings: Settings, per_class: int | None, seed: int) -> np.ndarray:
    """Indices of the train images whose labels a fine-tuning may read."""
    _, labels = dataset.labelled("train")
    fraction = settings.data.label_fraction
    return label_subset(labels, per_class=per_class, fraction=fraction, seed=seed, classes=dataset.classes)


def seeds(context: Context) -> range:
    """The fine-tuning seeds of a run."""
    return range(context.settings.seed, context.settings.seed + max(1, context.settings.seeds))


def spread(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of the test accuracy over seeds, 0 where there is one."""
    values = [run["accuracy"] for run in runs]
    return {
        "accuracy": float(np.mean(values)),
        "std": deviation(values),
        "seeds": [run["seed"] for run in runs],
    }


def classifier_file(context: Context, name: str) -> Path:
    """Where the first seed's classifier from an init is kept."""
    return context.folder / "stages" / f"classifier-{name}.safetensors"


def _splits(dataset: Dataset) -> dict[str, Any]:
    return {"train": dataset.train, "val": dataset.val, "test": dataset.test}
