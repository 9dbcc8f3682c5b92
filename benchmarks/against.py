"""This tree's training beside another commit's: a process each, which take turns, and the ratio of each pair of turns.

Both train with this tree's settings, by its own entry to a stage: drawing,
augmentation, loss, backward pass and optimiser are those of each side's own loop.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from common import NATIVE, REPO, ratios, say, settings_of, spread, write_images

DEFAULTS = {"sizes": "lite-cifar10", "repeats": 15}  # in place of those that the other measurements have
WORKS: dict[str, dict[str, str]] = {  # what is trained, its stage first, and the settings that make it so
    "pretrain": {},
    "finetune": {"finetune.augment.policy": "none"},
    "finetune, RandAugment": {"finetune.augment.policy": "randaugment"},
}

Json = dict[str, Any]


class Side:
    """A process that imports PocketViT from one tree, and trains when it is told to."""

    def __init__(self, tree: Path, cache: Path, job: Json) -> None:
        self.tree = tree
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("turns.py")), json.dumps(job)],
            env={**os.environ, "PYTHONPATH": str(tree / "src"), "POCKETVIT_CACHE": str(cache)}, text=True,
            cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def turn(self, work: str) -> Json:
        """Train once; the answer holds "steps", the loop's "seconds", and "call_seconds" with its set-up."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"stage": work.split(",")[0], "settings": WORKS[work]}) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> Json:
        """The next line of the process; RuntimeError where it has ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that trains {self.tree} has ended; its own error is above")
        found: Json = json.loads(line)
        return found


def compare(given: argparse.Namespace) -> Json:
    """Images per second of this tree and of the commit `given.against`, and the ratio of each pair of their turns.

    Raises:
        RuntimeError: a side's training failed.
    """
    settings = settings_of(given.sizes, given.batch_size)
    short: Json = {"epochs": 1, "min_steps": 0}
    settings = dataclasses.replace(
        settings,
        recipe=None,
        compile="never",  # as "auto" comes to in so short a stage
        data=dataclasses.replace(settings.data, size=NATIVE),
        pretrain=dataclasses.replace(settings.pretrain, **short),
        finetune=dataclasses.replace(settings.finetune, **short),
    )
    works = [work for work in WORKS if work.split(",")[0] in given.stages]
    with worktree(given.against) as other, tempfile.TemporaryDirectory() as place:
        # Of just these images: the one epoch of a turn has its steps, and one reading of a few images at their end.
        write_images(Path(place) / "images", given.steps * given.batch_size)
        job = {"folder": str(Path(place) / "images"), "settings": dataclasses.asdict(settings), "device": given.device}
        rows = []
        for precision in given.precision:
            with ExitStack() as stack:
                this, that = (
                    stack.enter_context(Side(tree, Path(place) / name, {**job, "precision": precision}))
                    for name, tree in (("this", REPO), ("other", other))
                )
                _acquainted(this)
                one_sided = _acquainted(that)
                rows += [_pairs(this, that, work, precision, given) for work in works]
    return {"against": given.against, "settings_on_one_side": one_sided, "pairs": rows}


def _acquainted(side: Side) -> list[str]:
    """Names of the settings that only this tree or only the side has; RuntimeError if it imports another tree's."""
    about = side.answer()
    if not Path(about["package"]).resolve().is_relative_to(side.tree.resolve()):
        raise RuntimeError(f"{about['package']} was imported in place of the package in {side.tree}")
    names: list[str] = about["settings_on_one_side"]
    return names


def _pairs(this: Side, that: Side, work: str, precision: str, given: argparse.Namespace) -> Json:
    """Turns of two sides, each before the other in every second pair, after one each that is not counted."""
    turns: dict[Side, list[Json]] = {this: [], that: []}
    for number in range(given.repeats + 1):
        for side in (this, that) if number % 2 else (that, this):
            turns[side].append(side.turn(work))
            if turns[side][-1]["steps"] != given.steps:
                raise RuntimeError(f"{side.tree} took {turns[side][-1]['steps']} steps in place of {given.steps}")
    images = given.steps * given.batch_size
    speeds, of_calls = (
        [[images / turn[name] for turn in taken[1:]] for taken in turns.values()]
        for name in ("seconds", "call_seconds")
    )
    ratio = ratios(*speeds)
    say(f"{work}, {precision}: {ratio['median']:.3f} times as fast ({ratio['min']:.3f} to {ratio['max']:.3f})")
    return {
        "work": work,
        "precision": precision,
        "ratio": ratio,
        "ratio_with_set_up": ratios(*of_calls),
        "images_per_second": {"this": spread(speeds[0]), "other": spread(speeds[1])},
    }


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit, for a while."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "other"
        git = ["git", "-C", str(REPO), "worktree"]
        subprocess.run([*git, "add", "--detach", str(tree), commit], check=True, capture_output=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True, capture_output=True)


def full_name(commit: str) -> str | None:
    """The 40 digits of anything that git takes for a commit; None where it knows none, or is not there itself."""
    if not shutil.which("git"):
        return None
    git = ["git", "-C", str(REPO), "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
