"""What every stage of a run works with: settings, data, device and the run's folder, opened and checked."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from pocketvit.config import SPLITTING, Settings, seconds_of
from pocketvit.data import Dataset, Spec, digest, image_digests, label_subset
from pocketvit.data.sources import find
from pocketvit.errors import UserError
from pocketvit.evaluation.predictor import Eager, Predictor
from pocketvit.files import expanded, read_json, write_whole
from pocketvit.model import weights
from pocketvit.model.network import Network
from pocketvit.model.weights import WeightsMeta, weights_file
from pocketvit.run.clock import Clock
from pocketvit.run.evidence import evidence
from pocketvit.run.folder import RunFolder, check_origin
from pocketvit.run.opening import hold, open_run
from pocketvit.stages.arms import networks_of, objectives_of
from pocketvit.stages.images import labelled_indices, load_images, sized_as
from pocketvit.stages.plan import Plan
from pocketvit.training.device import from_main, make_accelerator
from pocketvit.training.finetune import make_classifier
from pocketvit.training.log import RunLog, check_tensorboard
from pocketvit.training.memory import check_estimate, check_memory
from pocketvit.training.objectives import PRETRAINING
from pocketvit.training.optimizer import optimizer_class
from pocketvit.training.schedule import Deadlines
from pocketvit.training.spreading import Neighbours
from pocketvit.training.stops import Paused

T = TypeVar("T")
StageName = Literal["pretrain", "finetune"]
Trained = tuple[StageName, str]  # a stage, and what it trains by or trains


@dataclass(frozen=True)
class Context:
    """What every stage of a run works with."""

    settings: Settings
    dataset: Dataset
    accelerator: Accelerator
    log: RunLog
    folder: RunFolder
    evidence: dict[str, Any]
    clock: Clock
    pause: float  # when to save and stop, on time.monotonic's clock
    stages: tuple[StageName, ...]  # that train
    networks: tuple[str, ...]  # kinds of those that are trained
    lock: Any = None  # on the folder, in the main process
    neighbours: Neighbours | None = None  # of the train images; graphs of them are made once
    init: Path | None = None  # weights that the run starts from, in place of pre-training
    plan: Plan = Plan()  # noqa: RUF009  # frozen
    read: dict[tuple[Path, str], NDArray[np.float32]] = field(default_factory=dict)  # features, by encoder and split

    @classmethod
    def open(
        cls,
        verb: str,
        data: Spec,
        settings: Settings,
        *,
        out: str | Path | None,
        overwrite: bool,
        resume: bool,
        pause_after: str | float | None,
        need_labels: bool,
        init: Path | None = None,
        own: Collection[str] = (),
        began: float | None = None,
        quiet: bool = False,
    ) -> Context:
        """Load the data and check everything that can be wrong before the first file of the run is written.

        Args:
            verb: "fit", or the stage that is all there is.
            data: a source of images.
            settings: of the run.
            out: its folder; None makes a new one in runs/.
            overwrite: replace the run that is there.
            resume: go on with it.
            pause_after: when to save and stop, in seconds or as "50m"; counted from `began`.
            need_labels: refuse a set without labels.
            init: weights that the run starts from.
            own: names of files that the caller writes into the folder.
            began: when its time began, on time.monotonic's clock; None for now.
            quiet: say nothing on stderr.

        Raises:
            UserError: bad data, settings, weights or folder.
        """
        began, out = time.monotonic() if began is None else began, out and expanded(out)
        pause = math.inf if pause_after is None else began + seconds_of(pause_after)
        every: tuple[StageName, ...] = ("pretrain", "finetune")
        stages = tuple(stage for stage in every if verb in (stage, "fit") and not (stage == "pretrain" and init))
        objectives, networks = (of(settings, compared=verb == "fit") for of in (objectives_of, networks_of))
        if init and len(objectives) > 1:
            raise UserError(f"--init stands for one pre-training: name one of {', '.join(objectives)} in --arms")
        for stage in stages:
            optimizer_class(getattr(settings, stage).optimizer, f"--{stage}.optimizer")
        if settings.tensorboard:
            check_tensorboard()
        accelerator = make_accelerator(settings.device, settings.precision, settings.deterministic)
        settings, resized = sized_as(settings, init)
        trained = [(stage, kind) for stage in stages for kind in (objectives if stage == "pretrain" else networks)]
        if settings.data.shape is not None:
            # Before anything is decoded to a size that cannot be: grey images of one class are the least they can be.
            for stage, kind in trained:
                check_estimate(stage, (*settings.data.shape, 1), 1, settings, accelerator, kind)
        # One process of each machine decodes; the others find the cache.
        with accelerator.local_main_process_first():
            dataset, settings = load_images(data, settings, need_labels, init)
        if resized is not None:
            dataset = replace(dataset, findings=(resized, *dataset.findings))
        _check_networks(dataset, settings, accelerator, trained, init)
        if need_labels:
            for per_class in settings.data.label_budgets:
                labelled_indices(dataset, settings, per_class, settings.seed)
        main = accelerator.is_main_process
        _check_out(out, data, resume)
        needed = {"the images": find(data), "the weights of --init": init}
        name = f"{dataset.name}-{settings.recipe or 'custom'}"
        own = {f"{objective}.safetensors" for objective in PRETRAINING}.union(own)
        root = open_run(out, name, settings, overwrite, resume, needed, own) if main else Path()
        folder = RunFolder(from_main(accelerator, root))
        if main:
            origin = {"DATA": dataset.fingerprint, "--init": init and digest(weights_file(init).read_bytes())}
            parts = (dataset.train.images, dataset.val.images)
            check_origin(folder, origin, lambda: np.concatenate([image_digests(images) for images in parts]))
        clock = Clock(folder.clock if main else None, began)
        log = RunLog(folder.root, settings.tensorboard, quiet, clock.tick) if main else RunLog(quiet=True)
        lock = hold(folder.root) if main else None
        return cls(
            settings, dataset, accelerator, log, folder, evidence(verb, resume), clock, pause, stages, networks, lock,
            Neighbours(dataset), init,
        )  # fmt: skip

    def planned(self, plan: Plan) -> Context:
        """The same by a plan, with its seeds, arms and lengths."""
        return replace(self, plan=plan, settings=replace(self.settings, seeds=plan.seeds))

    def deadlines(self, stage: str, patience: float = 1.0) -> Deadlines:
        """Of a stage that begins now; with `patience`, it lands when it takes so many times what it should."""
        done = lambda key: self.folder.result(key).exists()  # noqa: E731
        seconds = self.plan.seconds_for(stage, self.clock.seconds, done, patience)
        return Deadlines(time.monotonic() + seconds, self.pause)

    def meta(self, kind: Any, network: str = "vit") -> WeightsMeta:
        """How weights of this run describe themselves."""
        s, d = self.settings, self.dataset
        return WeightsMeta(
            kind, s.network(network), d.shape, d.mean, d.std, d.classes,
            visible_discount=s.mae.visible_discount, normalise_targets=s.mae.normalise_targets,
            bits=d.rendering.bits, background=d.rendering.background, source=d.fingerprint, native=d.native,
            network=network, held_out={name: getattr(s.data, name) for name in SPLITTING},
        )  # fmt: skip

    def predictor(self, network: Network, temperature: float = 1.0) -> Predictor:
        """A network of this run, ready for its images."""
        dataset = self.dataset
        runtime = Eager(network, dataset.mean, dataset.std, self.accelerator.device)
        return Predictor(runtime, dataset.shape, dataset.classes, temperature)

    def probed(self, split: str) -> NDArray[np.intp]:
        """Indices of the labelled images of a split that frozen encoders read: all, or as many as the plan has."""
        seed, (_, labels) = self.settings.seed, self.dataset.labelled(split)
        order = np.random.default_rng(seed).permutation(len(labels))
        if split == "train" and self.plan.probed:
            # One of each class comes first, and then the smallest label budget: chance might read next to none of them.
            budgets = [self.labelled(per_class, seed) for per_class in self.settings.data.label_budgets]
            for some in sorted([*budgets, label_subset(labels, per_class=1, seed=seed)], key=len, reverse=True):
                order = order[np.argsort(~np.isin(order, some), kind="stable")]
        return np.sort(order[: self.plan.probed])

    def features(self, encoder: Path, split: str) -> NDArray[np.float32]:
        """(N, D): what a frozen pre-trained encoder makes of the images of `probed`; kept, to be asked for again."""
        if (encoder, split) not in self.read:
            images, _ = self.dataset.labelled(split)
            network = self.predictor(weights.frozen_encoder(encoder))
            self.read[encoder, split] = network.features(images[self.probed(split)])
        return self.read[encoder, split]

    def on_main(self, compute: Callable[[], T]) -> T:
        """What `compute` returns in the main process, which alone calls it, in every process."""
        value: Any = compute() if self.accelerator.is_main_process else None
        made: T = from_main(self.accelerator, value)
        return made

    def once(self, stage: str, compute: Callable[[], Any]) -> Any:
        """What `compute` returned, in the main process, when the stage last finished: a resumed run repeats none.

        Raises:
            Paused: the time to pause has come, and the stage is not finished.
        """
        kept = self.begin(stage)
        return self.keep(stage, self.on_main(compute)) if kept is None else kept

    def begin(self, stage: str) -> Any:
        """What `keep` kept of a stage; None where it has not finished, and is to be computed now.

        Raises:
            Paused: as `once`.
        """
        kept, late = self.on_main(lambda: (self.kept(stage), time.monotonic() > self.pause))
        if kept is not None:
            return kept
        self.clock.enter(stage)  # before a pause too: what planning has taken is spent
        if late:
            raise Paused
        self.log.stage = self.plan.place(stage, lambda key: self.folder.result(key).exists())
        return None

    def keep(self, stage: str, value: T) -> T:
        """Keep what a stage found, as JSON; returns it."""
        self.on_main(lambda: write_whole(self.folder.result(stage), json.dumps(value, indent=1)))
        return value

    def kept(self, stage: str) -> Any:
        """What `keep` kept of a stage; None where it has not finished."""
        file = self.folder.result(stage)
        return read_json(file) if file.exists() else None

    def forget(self, stage: str) -> None:
        """Remove a stage's checkpoints, after `keep`: killed between the two, a resumed run still has them."""
        self.on_main(lambda: shutil.rmtree(self.folder.checkpoints(stage), ignore_errors=True))

    def seeds(self) -> range:
        """The seeds of fine-tuning."""
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    def labelled(self, per_class: int | None, seed: int) -> np.ndarray:
        """Indices of the train images whose labels a fine-tuning may read."""
        return labelled_indices(self.dataset, self.settings, per_class, seed)


def _check_out(out: str | Path | None, data: Spec, resume: bool) -> None:
    """Raise UserError for a run's folder that would be taken for the set, or that lies among its images."""
    if not out:
        return
    place, folder = find(data), Path(out).resolve()
    if place is None and isinstance(data, str) and Path(data).resolve() in (folder, *folder.parents):
        raise UserError(f"--out {out}: from then on '{data}' would be that folder, not the set: choose another")
    begun = resume and RunFolder(folder).config.exists()  # one that lies there already is gone on with
    if not begun and place and place.resolve() in folder.parents:
        raise UserError(f"--out {out}: lies among the images of {data}: give a folder beside them")


def _check_networks(
    dataset: Dataset, settings: Settings, accelerator: Accelerator, trained: Collection[Trained], init: Path | None
) -> None:
    """Raise UserError for networks that cannot be, would not fit into memory, or are not those of `init`."""
    with torch.device("meta"):
        for objective in PRETRAINING.values():
            objective.build(settings, dataset.shape)
    for stage, kind in trained:
        check_memory(stage, dataset, settings, accelerator, kind)
    if init is not None:
        make_classifier(dataset, settings, settings.seed, init)
