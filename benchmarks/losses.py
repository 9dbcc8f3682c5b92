"""Losses of 20 steps of each kind of training, to show that a change of the code has changed none of them.

    python benchmarks/losses.py --out before.json
    python benchmarks/losses.py --against before.json

They are equal bit for bit on one machine, weights included. The suite compares the first ones with
tests/training/losses.json to a ten-thousandth, so that another CPU passes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
STEPS = 20
# A step is an epoch, and so few images validate that each epoch has a reading.
COMMON: dict[str, Any] = {
    "compile": "never", "precision": "float32", "device": "cpu", "data.images": 128, "data.val_fraction": 0.02,
    "data.split_seed": 0, "epochs": STEPS, "batch_size": 128, "seeds": 1, "labels_per_class": "all",
    "pretrain.knn_every": 0, "finetune.min_steps": 0,
    # Whatever the recipe is tuned to since.
    "pretrain.lr": 2e-3, "finetune.lr": 1.5e-3, "finetune.scratch_rate": 2.0,
}  # fmt: skip
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "pretrain": ("pretrain", {}),
    "pretrain-bf16": ("pretrain", {"precision": "bf16"}),
    "pretrain-parts": ("pretrain", {"pretrain.accumulate": 2, "pretrain.repeats": 2}),
    "pretrain-cross": ("pretrain", {"model.decoder_attention": "cross", "decode_share": 0.5}),
    "finetune": ("finetune", {"finetune.drop_path": 0.1, "finetune.cutmix": 1.0}),
    "finetune-bf16": ("finetune", {"precision": "bf16"}),
    "augmented": ("finetune", {"finetune.augment.policy": "randaugment", "finetune.augment.erase": 0.25}),
    "reconstruction": ("finetune", {"finetune.reconstruction": 0.5}),
    "muon": ("finetune", {"finetune.optimizer": "muon"}),
    "patches": ("finetune", {"finetune.cutmix": 1.0, "finetune.patch_share": "0.5:0.5,0.5:1"}),
    "ema": ("finetune", {"finetune.ema": 0.9}),
}
PARALLEL = ("pretrain", "finetune", "ema")


def main(argv: list[str] | None = None) -> int:
    """Record or compare; the exit status is 1 where a run differs."""
    parser = argparse.ArgumentParser(prog="benchmarks/losses.py", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="file to write")
    parser.add_argument("--against", type=Path, help="file that --out wrote before")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        train(options.child, options.out)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        losses = {name: record(name, Path(folder) / name) for name in RUNS}
        losses |= {f"{name}-parallel": record(name, Path(folder) / f"{name}-2", 2) for name in PARALLEL}
    if options.out:
        options.out.write_text(json.dumps(losses, indent=1) + "\n")
    if not options.against:
        return 0
    before = json.loads(options.against.read_text())
    changed = [name for name, run in before.items() if losses.get(name) != run]
    print(f"{len(before)} runs, changed: {', '.join(changed) or 'none'}")
    return 1 if changed else 0


def record(name: str, folder: Path, processes: int = 1) -> dict[str, Any]:
    """A run of RUNS in `processes` processes of its own: the readings of each step, and a digest of its weights."""
    script = [str(Path(__file__)), "--child", name, "--out", str(folder)]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO / "src")}
    subprocess.run([sys.executable, *launcher, *script], check=True, env=environment, stderr=subprocess.DEVNULL)
    return read(folder)


def train(name: str, folder: Path) -> None:
    """One run of RUNS into `folder`, in this process."""
    import pocketvit

    verb, changes = RUNS[name]
    options: Mapping[str, Any] = {**COMMON, **changes}
    getattr(pocketvit, verb)("digits", recipe="digits", out=folder, **options)


def read(folder: Path) -> dict[str, Any]:
    """Losses and readings of a run, and a digest of its weights."""
    from safetensors.numpy import load_file

    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = {"train_loss", "heldout_loss", "val_accuracy"}
    digest = hashlib.blake2b(digest_size=16)
    for key, tensor in sorted(load_file(folder / "model.safetensors").items()):
        digest.update(key.encode() + tensor.tobytes())
    return {
        "readings": [{key: value for key, value in record.items() if key in kept} for record in records],
        "weights": digest.hexdigest(),
    }


if __name__ == "__main__":
    sys.exit(main())
