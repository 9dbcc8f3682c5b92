"""This tree's training beside another commit's: a process each, which take turns, and the ratio of each pair of turns.

A side is trained through what every commit has, `pretrain_mae` and `finetune_classifier`: drawing, augmentation, loss,
backward pass and optimiser are those of its loop, and the time is what the loop itself counts, without set-up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from common import REPO, ratios, say, spread

PAIRS = 15
WORKS: dict[str, dict[str, str]] = {  # what is trained, and the settings that make it so
    "pretrain": {},
    "finetune": {"finetune.augment.policy": "none"},
    "finetune, RandAugment": {"finetune.augment.policy": "randaugment"},
}

Json = dict[str, Any]


class Side:
    """A process that imports PocketViT from one tree and trains when it is told to."""

    def __init__(self, tree: Path, job: Json) -> None:
        environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
        environment["POCKETVIT_CACHE"] = str(Path(job["folder"]).parent / f"cache-{tree.name}")
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(job)], env=environment, text=True, cwd=tree,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def turn(self) -> float:
        """Images per second of one turn."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("turn\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def compare(commit: str, job: Json) -> Json:
    """Images per second of this tree and of `commit` in PAIRS turns each, and the ratio of each pair of turns.

    Args:
        commit: anything that git takes for one.
        job: what `_serve` trains: "work" of WORKS, "folder" of images, "settings", "device" and "precision".

    Raises:
        subprocess.CalledProcessError: no such commit.
    """
    with worktree(commit) as tree, ExitStack() as stack:
        sides = [stack.enter_context(Side(place, job)) for place in (REPO, tree)]
        for side in sides:
            side.turn()  # decodes the images, and warms up
        speeds: list[list[float]] = [[], []]
        for pair in range(PAIRS):
            for number in (0, 1) if pair % 2 else (1, 0):
                speeds[number].append(sides[number].turn())
    ratio = ratios(*speeds)
    say(f"{job['work']}, {job['precision']}: {ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})")
    return {
        "work": job["work"], "precision": job["precision"], "ratio": ratio,
        "images_per_second": {"this": spread(speeds[0]), "other": spread(speeds[1])},
    }  # fmt: skip


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


def _serve(job: Json) -> None:
    """In a side's process: train for a turn at each line, and answer with images per second."""
    import numpy as np

    from pocketvit.config import resolve
    from pocketvit.data import load
    from pocketvit.training.device import make_accelerator
    from pocketvit.training.finetune import finetune_classifier
    from pocketvit.training.log import RunLog
    from pocketvit.training.pretrain import pretrain_mae

    settings = resolve(job["sizes"], **job["settings"], **WORKS[job["work"]])
    accelerator = make_accelerator(job["device"], job["precision"])
    dataset, log = load(job["folder"], settings.data, need_labels=True), RunLog(quiet=True)
    labelled = np.arange(len(dataset.train))
    for _ in sys.stdin:
        if job["work"] == "pretrain":
            done = pretrain_mae(dataset, settings, accelerator, log=log)
        else:
            tags = {"stage": "finetune"}
            done = finetune_classifier(
                dataset, labelled, settings, accelerator, seed=0, init=None, log=log, tags=tags
            )  # fmt: skip
        print(done.images_per_second, flush=True)


if __name__ == "__main__":  # a side's process
    _serve(json.loads(sys.argv[1]))
