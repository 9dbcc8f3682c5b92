"""Several processes train as one does: the same draws, the same batches, the same losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketvit.draws import share, sharing, uniform
from pocketvit.errors import UserError
from pocketvit.training.batches import Batches

# Everything that draws: crop, flip, rotation, RandAugment, erasing, mixup, cutmix, drop-path, masks and what is masked.
SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from torch.distributed.tensor import DTensor
from pocketvit.config import resolve
from pocketvit.data import Patching, load
from pocketvit.training import loop
from pocketvit.training import stage as stages
from pocketvit.training.batches import Batches
from pocketvit.training.device import make_accelerator
from pocketvit.training.finetune import finetuning
from pocketvit.training.log import RunLog
from pocketvit.training.pretrain import pretraining
from pocketvit.training.schedule import Deadlines
from pocketvit.training.step import GradientStep
from pocketvit.training.stops import Paused

names, out, accumulate, interrupted = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), bool(int(sys.argv[4]))
settings = resolve("digits", **{
    "model.width": 16, "model.depth": 2, "model.heads": 2, "model.decoder_width": 16, "model.decoder_heads": 2,
    "pretrain.epochs": 2, "pretrain.batch_size": 128, "pretrain.accumulate": accumulate,
    "finetune.epochs": 2, "finetune.min_steps": 0, "finetune.batch_size": 128, "finetune.accumulate": accumulate,
    "finetune.drop_path": 0.3, "finetune.cutmix": 1.0, "finetune.ema": 0.9, "finetune.reconstruction": 0.5,
    "finetune.augment.policy": "randaugment", "finetune.augment.erase": 0.5, "device": "cpu", "precision": "float32",
    **json.loads(sys.argv[5]),
})
accelerator = make_accelerator("cpu", "float32")
dataset = load("digits", settings.data, patching=Patching(2))
read, at, capture = GradientStep.read_losses, Batches.at, GradientStep.capture

def reading(*args):
    values = read(*args)
    losses.extend(values)
    return values

def taking(self, step, part=0, parts=1):
    found = at(self, step, part, parts)
    used.append([step, part, found[2].tolist()])
    return found

def capturing(*args):
    kept = capture(*args)
    parts.update(name.split("/")[0] for name, tensor in kept.tensors.items() if isinstance(tensor, DTensor))
    return kept

GradientStep.read_losses, Batches.at, GradientStep.capture = reading, taking, capturing
log = RunLog(quiet=True)

def train(stage, **when):
    if stage == "pretrain":
        step = pretraining(dataset, settings, accelerator, "mae" if settings.arms == "all" else settings.arms)
    else:
        count = len(dataset.train) if settings.finetune.unlabelled == "none" else 256
        step = finetuning(dataset, np.arange(count), settings, accelerator, seed=3, init=None)
    return loop.train(step, log, {"stage": stage}, **when)

found = []
for stage in names.split(","):
    losses, used, parts = [], [], set()
    if interrupted:
        # The main process's clock alone decides when to save, or the others would wait for each other's weights.
        loop.SETTLE_SECONDS, stages.CHECKPOINT_SECONDS = 0.0, 1000.0 * accelerator.process_index
        try:
            train(stage, folder=out / "checkpoints", deadlines=Deadlines(pause=0.0))
        except Paused:
            assert 0 < len(losses) < 20, losses
        result = train(stage, folder=out / "checkpoints")
    else:
        result = train(stage)
    weights = sum(float(p.detach().double().abs().sum()) for p in result.model.parameters())
    about = {"images": len(dataset.train), "weights": weights, "parts": sorted(parts)}
    found.append({"losses": losses, "used": used, **about})
(out / f"rank{accelerator.process_index}.json").write_text(json.dumps(found))
"""

TEACHER = {"finetune.unlabelled": "teacher", "finetune.reconstruction": 0.0, "finetune.epochs": 6}


def trained(folder: Path, stage: str, processes: int, **more: Any) -> list[dict]:
    """What each process records of a short training; further arguments are those of `trained_each`."""
    (found,) = trained_each(folder, [stage], processes, **more)
    return found


def trained_each(
    folder: Path, stages: list[str], processes: int, accumulate: int = 1, interrupted: bool = False, **settings: object
) -> list[list[dict]]:
    """For each stage, what each process records of a short training of it."""
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    launch += ["--nproc-per-node", str(processes)]
    done = subprocess.run(
        [
            sys.executable, *(launch if processes > 1 else []), str(script),
            ",".join(stages), str(folder), str(accumulate), str(int(interrupted)), json.dumps(settings),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]
    return [list(each) for each in zip(*found, strict=True)]


def test_two_gloo_processes_train_as_one_does(tmp_path: Path) -> None:
    stages = ["pretrain", "finetune"]
    alone, shared = trained_each(tmp_path / "one", stages, 1), trained_each(tmp_path / "two", stages, 2)
    for (one,), two in zip(alone, shared, strict=True):
        assert len(one["losses"]) == 20
        for process in two:
            np.testing.assert_allclose(process["losses"], one["losses"], rtol=0, atol=1e-5)
            assert process["weights"] == pytest.approx(one["weights"], rel=1e-5)
        # The steps of one epoch take each image once, whichever process takes it.
        taken = [i for process in two for step, _, indices in process["used"] if step < 10 for i in indices]
        assert len(taken) == len(set(taken)) == 10 * 128 <= one["images"]
        assert {tuple(sorted(i)) for _, _, i in one["used"]} == {
            tuple(sorted(a + b)) for (_, _, a), (_, _, b) in zip(two[0]["used"], two[1]["used"], strict=True)
        }


@pytest.mark.slow
@pytest.mark.parametrize("way", ["teacher", "graph"])
def test_images_without_a_label_are_shared_by_two_processes(tmp_path: Path, way: str) -> None:
    (one,) = trained(tmp_path / "one", "finetune", 1, **TEACHER | {"finetune.unlabelled": way})
    for process in trained(tmp_path / "two", "finetune", 2, **TEACHER | {"finetune.unlabelled": way}):
        np.testing.assert_allclose(process["losses"], one["losses"], rtol=0, atol=1e-5)
        assert process["weights"] == pytest.approx(one["weights"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "settings", "tolerance"),
    [
        ("pretrain", {"pretrain.ema": 0.9}, 1e-5),
        # Muon orthogonalises in bf16, where sums in another order differ by more.
        ("pretrain", {"pretrain.ema": 0.9, "pretrain.optimizer": "muon"}, 1e-3),
        # The contrast itself is each process's own.
        ("pretrain", {"pretrain.ema": 0.9, "arms": "contrast", "contrast.weight": 0.0}, 1e-5),
        ("finetune", {}, 1e-5),
        ("finetune", TEACHER, 1e-5),
    ],
)
def test_sharded_weights_train_as_whole_ones_do_and_resume(
    tmp_path: Path, stage: str, settings: dict, tolerance: float
) -> None:
    (one,) = trained(tmp_path / "one", stage, 1, **settings)
    two = trained(tmp_path / "two", stage, 2, interrupted=True, shard=True, **settings)
    for process in two:
        # Everything that is kept from step to step lay in parts, or this would show nothing.
        assert process["parts"] == ["average", "model", "optimizer"]
        np.testing.assert_allclose(process["losses"], one["losses"], rtol=0, atol=tolerance)
        assert process["weights"] == pytest.approx(one["weights"], rel=tolerance)


@pytest.mark.slow
def test_each_process_contrasts_the_views_of_its_own_images(tmp_path: Path) -> None:
    settings = {"arms": "contrast", "contrast.weight": 1.0}
    (one,) = trained(tmp_path / "one", "pretrain", 1, **settings)
    first, second = trained(tmp_path / "two", "pretrain", 2, **settings)
    assert (first["losses"], first["weights"]) == (second["losses"], second["weights"])
    assert first["losses"][-1] < first["losses"][0]
    # Untrained, they pick by chance, among half as many.
    assert one["losses"][0] - first["losses"][0] == pytest.approx(np.log(255 / 127), abs=0.1)


@pytest.mark.slow
def test_parts_of_a_batch_give_the_gradient_of_the_whole(tmp_path: Path) -> None:
    (parts,) = trained(tmp_path / "parts", "pretrain", 1, accumulate=2)
    assert [len(indices) for _, _, indices in parts["used"]] == [64] * 40
    assert len(parts["losses"]) == 20
    assert parts["losses"][-1] < parts["losses"][0]
    two = trained(tmp_path / "two", "pretrain", 2, accumulate=2)
    assert [len(indices) for _, _, indices in two[0]["used"]] == [32] * 40
    np.testing.assert_allclose(two[0]["losses"], parts["losses"], rtol=0, atol=1e-5)


def test_each_process_draws_its_rows_of_what_one_would_draw() -> None:
    torch.manual_seed(0)
    whole = uniform((3, 8, 1), torch.device("cpu"), images=1)
    after = torch.rand(())
    for rank in range(4):
        with sharing(rank, 4):
            torch.manual_seed(0)
            assert torch.equal(uniform((3, 2, 1), torch.device("cpu"), images=1), whole[:, 2 * rank : 2 * rank + 2])
            assert torch.equal(torch.rand(()), after)
    assert share().world == 1


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    data = Batches(np.zeros((20, 2, 2, 1), np.uint8), None, [0.0], [1.0], batch_size=10, seed=0, device="cpu")
    with sharing(0, 3), pytest.raises(UserError, match=r"--batch-size: 10 images .* 3 processes in 2 parts"):
        data.at(0, 0, 2)
