"""The verb that measures networks in every runtime that is installed."""

from __future__ import annotations

import filecmp
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pocketvit.data import Dataset
from pocketvit.edge.formats import runtime_of
from pocketvit.edge.latency import Contestant, measured, thread_counts, work
from pocketvit.edge.runtimes import TIMED, reader_of
from pocketvit.errors import UserError
from pocketvit.files import drafts, expanded, write_whole
from pocketvit.model.costs import classifier_costs
from pocketvit.model.weights import WeightsMeta
from pocketvit.pages.speed import latency_figure
from pocketvit.run.evidence import evidence
from pocketvit.run.folder import RunFolder
from pocketvit.training.device import cpu_instructions
from pocketvit.training.log import seconds_left
from pocketvit.verbs.asked import Data
from pocketvit.verbs.export import calibrating, images_of
from pocketvit.verbs.models import Model, classifier_of, path_of

BETWEEN_LINES = 30.0  # seconds, where there is no terminal


def bench(
    *models: Model, data: Data | None = None, out: str | Path | None = None, rounds: int = 10, quiet: bool = False
) -> dict[str, Any]:
    """Measure classifiers in every runtime that is installed: speed, memory, size and test accuracy.

    Args:
        models: runs, of which every classifier that was kept is measured; weights files; or exported files.
        data: the images that the models came from; None takes those that each run was begun with.
        out: a JSON file to write, with a figure, of the same name in .svg, beside it.
        rounds: turns of ten calls that each network has in each runtime, on one thread and on all, one image and 32
            at a time.
        quiet: say nothing on stderr.

    Returns:
        "rows", the fastest first; "peaks", the FLOP/s of matrix products here; "instructions" of the CPU; "notes" of
        what did not run; "details" of when, where and with what it was measured. See
        `pocketvit.edge.latency.measured`.

    Raises:
        UserError: no model, one that is no classifier, or whose test images are not known.
    """
    if not models:
        raise UserError("bench: give a run, a weights file or an exported file")
    if rounds < 1:
        raise UserError(f"--rounds {rounds}: expected at least 1")
    out = None if out is None else expanded(out)
    if out is not None and out.suffix != ".json":
        raise UserError(f"--out {out}: expected a file that ends in .json")
    began, threads = time.perf_counter(), thread_counts()
    notes = [
        f'{name} is not installed: pip install "pocketvit[{extra}]"'
        for name, extra in dict.fromkeys((one.name, one.extra) for one in TIMED if not one.installed)
    ]
    with TemporaryDirectory() if out is None else drafts(out) as folder:
        contestants = list(_contestants(models, data, Path(folder), notes))
        if not contestants:
            raise UserError(f"bench: nothing to measure: {'; '.join(notes)}")
        with _Progress(work(contestants, threads, rounds), quiet) as progress:
            rows, peaks, failed = measured(contestants, threads, rounds, progress.tell)
        found = {
            "rows": rows, "peaks": peaks, "instructions": cpu_instructions(), "notes": notes + failed,
            "details": {
                **evidence("bench"), "seconds": round(time.perf_counter() - began, 1), "rounds": rounds,
                "device": "cpu", "runtimes": _versions(contestants),
            },
        }  # fmt: skip
        if out is not None:
            write_whole(out, json.dumps(found, indent=1) + "\n")
            write_whole(out.with_suffix(".svg"), latency_figure(found))
    return found


def _contestants(models: Sequence[Model], data: Data | None, folder: Path, notes: list[str]) -> Iterator[Contestant]:
    """Every file to measure, written to `folder` where it is not there yet."""
    for number, model in enumerate(models):
        path, own = path_of(model), folder / str(number)
        own.mkdir()
        exported = not path.is_dir() and path.suffix not in ("", ".safetensors")
        networks = {path.name: path} if exported else _networks(path)
        prefix = f"{path.name} " if len(models) > 1 and path.is_dir() else ""
        for name, file in networks.items():
            meta = _described(file) if exported else classifier_of(file)[1]
            dataset = images_of(path, meta, data)
            macs = classifier_costs(meta.network, meta.model, meta.shape, len(meta.classes)).macs_computed
            about = {"macs": macs, **_saved_images(dataset, own)}
            if exported:
                yield Contestant(name, reader_of(file), file, **about)
                continue
            for runtime in TIMED:
                if not (runtime.installed and runtime.runs()):
                    continue
                draft = own / f"{len(list(own.iterdir()))}{runtime.suffix}"
                try:
                    network, _ = classifier_of(file)
                    runtime.write(draft, network, meta, calibrating(dataset))
                except UserError as error:
                    notes.append(f"{prefix}{name}, {runtime}: {error}")
                    continue
                yield Contestant(f"{prefix}{name}", runtime, draft, **about)


def _described(file: Path) -> WeightsMeta:
    """What an exported file says of itself; UserError for one that nothing reads."""
    runtime = runtime_of(file)
    if runtime is None:
        raise UserError(f"{file}: a file of a kind that no runtime here reads")
    return runtime(file, 1).meta


def _networks(path: Path) -> dict[str, Path]:
    """A run's classifiers, with a word on the one that it saved; or a weights file."""
    if not path.is_dir():
        return {path.stem: path}
    folder = RunFolder(path)
    found = {}
    for name, file in folder.classifiers().items():
        saved = folder.weights.is_file() and filecmp.cmp(file, folder.weights, shallow=False)
        found[f"{name} (saved)" if saved else name] = file
    return found or {path.name: path}


def _saved_images(dataset: Dataset, folder: Path) -> dict[str, Any]:
    images, labels = dataset.labelled("test")
    files = {"images": folder / "images.npy", "labels": folder / "labels.npy"}
    np.save(files["images"], images)
    np.save(files["labels"], labels)
    return {**files, "count": len(labels)}


def _versions(contestants: Sequence[Contestant]) -> dict[str, str]:
    from importlib.metadata import version

    return {library: version(library) for library in sorted({one.runtime.library for one in contestants})}


class _Progress:
    """A bar with the time left on a terminal; elsewhere a line now and then."""

    def __init__(self, total: int, quiet: bool) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=total)
        self._total, self._done, self._began = total, 0, time.monotonic()
        self._said = self._began

    def tell(self, what: str, images: int) -> None:
        """What is next, where that is not empty, and how many images were computed."""
        self._done += images
        self._bar.update(self._task, advance=images, description=what or None)
        now = time.monotonic()
        if self._bar.disable and what and self._done and now - self._said >= BETWEEN_LINES:
            left = (now - self._began) / self._done * (self._total - self._done)
            self._console.print(f"{what}, {seconds_left(left)} left", markup=False)
            self._said = now

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
