"""A run directory: where a run's settings, results and weights lie, and the evidence of how they came about."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from pocketvit.config import Settings, as_yaml, resolve
from pocketvit.errors import UserError
from pocketvit.files import write_whole

SUMMARY, CONFIG, WEIGHTS, MAE_WEIGHTS = "summary.json", "config.yaml", "model.safetensors", "mae.safetensors"
JSON_KEYS = ("dataset", "model", "pretrain", "probe", "finetune", "files")


@dataclass(frozen=True)
class Run:
    """A finished run: its directory and what `--json` prints of it."""

    path: Path
    summary: dict[str, Any]

    def predict(self, paths: list[str] | str, top: int = 3) -> list[dict[str, Any]]:
        """Classes and probabilities of image files, or of a folder's; see `pocketvit.predict`."""
        from pocketvit.verbs.use import predict

        return predict(paths, model=self.path, top=top)


RECONSTRUCTION, LOCK, OWNER = "reconstruction.png", ".lock", ".owner"
ORIGIN, LEARNT = "stages/origin.json", "stages/learnt.npy"  # what it came from, and the images it learnt from
# All that a run writes into its directory, beside LOCK and OWNER; nothing else is ever deleted.
OWN = frozenset(
    (
        *(CONFIG, SUMMARY, WEIGHTS, MAE_WEIGHTS, "metrics.jsonl", "figures.npz", "report.html", RECONSTRUCTION),
        *("stages", "checkpoints", "tensorboard"),
    )
)


def open_run(
    out: str | Path | None,
    name: str,
    settings: Settings,
    overwrite: bool,
    resume: bool,
    needed: Mapping[str, Path | None] | None = None,
    own: Collection[str] = (),
) -> Path:
    """Create the run directory and write config.yaml; `resume` goes on with the one that is there, if there is one.

    Args:
        out: the directory; None makes one in runs/ from `name`.
        name: of the run.
        settings: to be written.
        overwrite: replace the run that is there.
        resume: go on with it.
        needed: what the command reads, by the words for it, and must not delete.
        own: names of files that the caller writes there, beside OWN.

    Raises:
        UserError: another run is there, or what the command needs.
    """
    folder = Path(out) if out else _unused(Path("runs") / name, resume)
    settings = replace(settings, model=settings.model.resolved())
    text = as_yaml(settings)
    if folder.exists() and (not folder.is_dir() or any(entry.name not in (LOCK, OWNER) for entry in folder.iterdir())):
        config = folder / CONFIG
        if not config.is_file():
            raise UserError(f"--out {folder}: exists and is not a run directory: choose another")
        if not (resume or overwrite):
            raise UserError(f"--out {folder}: holds a run already: add --overwrite or --resume, or choose another")
        lock = hold(folder)
        if resume:
            if not _same(config, settings):
                raise UserError(f"--resume: the settings differ from those in {config}: repeat them, or start afresh")
            return folder
        _clear(folder, needed or {}, OWN.union(own))
    try:
        (folder / "stages").mkdir(parents=True, exist_ok=True)
        lock = hold(folder)  # noqa: F841  # until here: the caller holds it for the rest
        write_whole(folder / CONFIG, text)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written ({error.strerror})") from None
    return folder


def hold(folder: Path) -> FileLock | None:
    """A lock on a run's directory: one process at a time writes there. Its death releases it, and so does its end.

    None where the file system has no locks.

    Raises:
        UserError: another process has it.
    """
    # Whoever holds it in this process already may have it again, as with a run that is resumed in a notebook.
    lock = FileLock(folder / LOCK, blocking=False, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        try:
            owner = (folder / OWNER).read_text()
        except OSError:
            owner = "another process"
        raise UserError(f"--out {folder}: {owner} is writing there: wait for its end, or choose another") from None
    except (OSError, NotImplementedError):
        return None
    write_whole(folder / OWNER, f"process {os.getpid()} on {platform.node()}")
    return lock


def _same(config: Path, settings: Settings) -> bool:
    """Whether a run's config.yaml says the same, settings that it does not know yet being their defaults."""
    try:
        before = resolve(config=config)
    except UserError:
        return False
    return replace(before, model=before.model.resolved()) == settings


def check_origin(folder: Path, origin: Mapping[str, Any], learnt: Callable[[], NDArray[np.uint64]]) -> None:
    """Keep what a run came from or, where that is kept already, see that it is the same.

    Args:
        folder: the run directory.
        origin: words for what decides the results beside the settings, each with something that tells it from others.
        learnt: gives the digests of the images that are learnt from or validated on.

    Raises:
        UserError: the run came from something else.
    """
    file = folder / ORIGIN
    if not file.exists():
        np.save(folder / LEARNT, learnt())
        write_whole(file, json.dumps(origin, indent=1) + "\n")
        return
    before = json.loads(file.read_text())
    for words, value in origin.items():
        if before.get(words) != value:
            raise UserError(f"--resume: {words} is not what {folder} was begun with: give the same, or start afresh")


def learnt_images(folder: Path) -> tuple[str, NDArray[np.uint64]] | None:
    """The fingerprint of a run's data, and the digests of the images it learnt from; None where no run kept them."""
    try:
        return json.loads((folder / ORIGIN).read_text())["DATA"], np.load(folder / LEARNT)
    except (OSError, ValueError, KeyError):
        return None


def _clear(folder: Path, needed: Mapping[str, Path | None], own: Collection[str]) -> None:
    """Remove a run, and nothing else, from its directory or a link to it; UserError where the command needs it."""
    place = folder.resolve()
    for words, path in needed.items():
        if path is not None and place in (path.resolve(), *path.resolve().parents):
            raise UserError(f"--out {folder}: holds {words}, which --overwrite would delete: choose another directory")
    for entry in [entry for entry in place.iterdir() if entry.name in own]:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _unused(path: Path, resume: bool) -> Path:
    names = [path, *(path.with_name(f"{path.name}-{i}") for i in range(2, 1000))]
    free = next(i for i, p in enumerate(names) if not p.exists())
    return names[max(0, free - 1)] if resume else names[free]


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json of a run directory; raises UserError where there is none."""
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text())
    except (OSError, ValueError):
        raise UserError(f"{folder}: no readable {SUMMARY}: give the directory of a finished run") from None
    return summary


def printable(summary: dict[str, Any]) -> dict[str, Any]:
    """The part of a summary that `--json` prints."""
    return {key: summary[key] for key in JSON_KEYS if key in summary}


def evidence(verb: str, resumed: bool = False) -> dict[str, Any]:
    """Command, commit, date, versions and machine: what a published number must name."""
    command = ["pocketvit", *sys.argv[1:]] if Path(sys.argv[0]).stem == "pocketvit" else [f"pocketvit.{verb}(...)"]
    return {
        "command": " ".join(command),
        "resumed": resumed,
        "commit": _commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | _versions(),
        "environment": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in ("pocketvit", "torch", "numpy", "pillow", "scikit-learn", "lion-pytorch", "schedulefree"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", str(here.parent)]).returncode
    except (OSError, subprocess.CalledProcessError):
        # A tree that travels without .git, to a machine that is borrowed, takes it along in the environment.
        return os.environ.get("POCKETVIT_COMMIT")
    return head + ("+changes" if changed else "")
