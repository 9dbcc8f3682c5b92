"""Runs killed by SIGKILL at random moments and resumed until they are done end as an undisturbed run does."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketvit.run.folder import CONFIG, WEIGHTS

SMALL = {
    "model.width": 16, "model.depth": 2, "model.heads": 2, "model.decoder_width": 16, "model.decoder_heads": 2,
    "pretrain.epochs": 12, "finetune.epochs": 4, "finetune.min_steps": 0, "finetune.ema": 0.9,
    "finetune.drop_path": 0.1, "seeds": 1, "labels_per_class": "all", "device": "cpu", "precision": "float32",
}  # fmt: skip
KILLS = 3  # of one run, at the most: then it may finish
# Children are forked from a server that has imported everything: a life costs no more than its training.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["pocketvit.cli", "pocketvit.verbs.train"])


def life(verb: str, folder: Path) -> None:
    """One process that trains, from the beginning or from where the one before it was killed."""
    import torch

    import pocketvit
    from pocketvit.training import loop, stage

    torch.set_num_threads(1)
    stage.CHECKPOINT_SECONDS, loop.SETTLE_SECONDS = 0.05, 0.02
    begun = (folder / CONFIG).exists()
    train: Callable[..., object] = getattr(pocketvit, verb)
    train("digits", recipe="digits", out=folder, overwrite=not begun, resume=begun, **SMALL)


def live(verb: str, folder: Path, seconds: float | None = None, trained: bool = False) -> tuple[int | None, float]:
    """Start a life, killed after `seconds`, which count from when there is a checkpoint if it shall have `trained`.

    Returns its exit status, 0 where it ended by itself, and how long it lived from that moment.
    """
    child = processes.Process(target=life, args=(verb, folder))
    child.start()
    while trained and child.is_alive() and not has_checkpoint(folder):
        time.sleep(0.001)
    began = time.monotonic()
    child.join(seconds)
    lived = time.monotonic() - began
    child.kill()
    child.join()
    return child.exitcode, lived


def has_checkpoint(folder: Path) -> bool:
    return any(folder.glob("checkpoints/*/checkpoint*.safetensors"))


@pytest.mark.parametrize("runs", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_runs_killed_at_random_moments_end_with_the_same_bits(tmp_path: Path, runs: int) -> None:
    rng, verbs, whole, usual = random.Random(runs), ("pretrain", "finetune"), {}, {}
    for verb in verbs:
        status, usual[verb] = live(verb, tmp_path / verb, trained=True)
        assert status == 0
        whole[verb] = (tmp_path / verb / WEIGHTS).read_bytes()
    killed = resumed = 0
    for number in range(runs):
        verb = verbs[number % 2]
        folder = tmp_path / f"{verb}-{number}"
        for kill in range(KILLS):
            # The first may come at any moment, before training too; how long a process takes to begin is the machine's
            # affair, and so the others wait until there is something to go on from.
            if live(verb, folder, rng.uniform(0, usual[verb]), trained=kill > 0)[0] == 0:
                break
            killed += 1
            resumed += has_checkpoint(folder)
        else:
            assert live(verb, folder)[0] == 0
        assert (folder / WEIGHTS).read_bytes() == whole[verb], f"run {number} differs"
        steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(set(steps))
    # Most were killed, and many of them amid their training, or this would show nothing.
    assert killed >= runs
    assert resumed >= runs / 2
