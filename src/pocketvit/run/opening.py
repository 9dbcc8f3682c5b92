"""A run's folder opened and locked, and the run that was there before taken away, by one hand."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from pocketvit.config import Settings, as_yaml, resolve
from pocketvit.errors import UserError
from pocketvit.files import write_whole
from pocketvit.run.folder import CONFIG, LOCK, OWN, OWNER, REPLACED, STAGES


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

    The run that is replaced is there until `settle`, and is put back by `discard`.

    Raises:
        UserError: another run is there, or what the command needs.
    """
    folder = Path(out) if out else _unused(Path("runs") / name, resume)
    settings = replace(settings, model=settings.model.resolved())
    if _holds_something(folder):
        config = folder / CONFIG
        if not _is_of_a_run(config):
            raise UserError(f"--out {folder}: exists and is not a run directory: choose another")
        if not (resume or overwrite):
            raise UserError(f"--out {folder}: holds a run already: add --overwrite or --resume, or choose another")
        lock = hold(folder)
        if resume:
            if not _same(config, settings):
                raise UserError(f"--resume: the settings differ from those in {config}: repeat them, or start afresh")
            return folder
        _set_aside(folder, needed or {}, OWN.union(own))
    try:
        (folder / STAGES).mkdir(parents=True, exist_ok=True)
        lock = hold(folder)  # noqa: F841  # until here: the caller holds it for the rest
        write_whole(folder / CONFIG, as_yaml(settings))
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written ({error.strerror})") from None
    return folder


def settle(folder: Path) -> None:
    """Delete the run that is replaced: the new one has begun."""
    shutil.rmtree(folder.resolve() / REPLACED, ignore_errors=True)


def discard(folder: Path) -> None:
    """Take back a run that came to nothing: what it wrote, and its directory where nothing else is there.

    The run that it would have replaced is put back.
    """
    place = folder.resolve()
    for entry in [entry for entry in place.iterdir() if entry.name in OWN | {LOCK, OWNER}]:
        _delete(entry)
    if (before := place / REPLACED).is_dir():
        for entry in list(before.iterdir()):
            entry.rename(place / entry.name)
        before.rmdir()
    elif not any(place.iterdir()):
        folder.rmdir()


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


def _holds_something(folder: Path) -> bool:
    """Whether anything is there but a lock; UserError where nothing can be."""
    try:
        return folder.exists() and (
            not folder.is_dir() or any(entry.name not in (LOCK, OWNER, REPLACED) for entry in folder.iterdir())
        )
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be a directory ({error.strerror}): choose another") from None


def _is_of_a_run(config: Path) -> bool:
    """Whether a config.yaml is a run's: others have files of that name too, and what lies beside them is theirs."""
    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(found, dict) and {"data", "model", "pretrain", "finetune"} <= set(found)


def _set_aside(folder: Path, needed: Mapping[str, Path | None], own: Collection[str]) -> None:
    """Move a run, and nothing else, out of its directory, or of a link to it; UserError where the command needs it."""
    place = folder.resolve()
    for words, path in needed.items():
        if path is not None and place in (path.resolve(), *path.resolve().parents):
            raise UserError(f"--out {folder}: holds {words}, which --overwrite would delete: choose another directory")
    # One that was killed before it began has nothing to keep, and what it would have replaced is there still.
    unbegun = (place / REPLACED / CONFIG).is_file()
    if not unbegun:
        settle(folder)
        (place / REPLACED).mkdir()
    for entry in [entry for entry in place.iterdir() if entry.name in own]:
        if unbegun:
            _delete(entry)
        else:
            entry.rename(place / REPLACED / entry.name)


def _delete(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _unused(path: Path, resume: bool) -> Path:
    names = [path, *(path.with_name(f"{path.name}-{i}") for i in range(2, 1000))]
    free = next(i for i, p in enumerate(names) if not p.exists())
    return names[max(0, free - 1)] if resume else names[free]
