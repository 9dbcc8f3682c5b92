"""A smoke run: how fast each stage of a recipe trains here, eager and compiled, what waits, and the device's best.

    python benchmarks/pace.py lite-cifar10 pretrain --out pace &
    python benchmarks/pace.py lite-cifar10 finetune --out pace & wait
    python benchmarks/reproduce.py lite-cifar10 --pace pace --time-limit 15m

A part's file is written as soon as eager steps are known, and again after the compiled ones: whoever is short of time
takes what is there. The compiler's cache stays, so that the run itself compiles in seconds. The parts may run at once:
the compilers work side by side, and the timings wait for each other.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "src"), str(REPO / "benchmarks")]  # a clone runs as it is

import planner  # noqa: E402
import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from common import default_source, settings_in  # noqa: E402
from roofline import Ceilings  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

from pocketvit.config import recipe_path, resolve  # noqa: E402
from pocketvit.data import load  # noqa: E402
from pocketvit.errors import UserError  # noqa: E402
from pocketvit.files import write_whole  # noqa: E402
from pocketvit.stages.images import patching_of  # noqa: E402
from pocketvit.training.ceilings import fastest  # noqa: E402
from pocketvit.training.device import describe, make_accelerator  # noqa: E402

PARTS = (*planner.STAGES, "device")
KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION,
           "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}  # fmt: skip
# (images, heads, tokens, width of a head): the encoder on a quarter of the patches, on all of them, and the decoder; of
# several batches at once, for the kernels to take longer than their launches.
SHAPES = {"encoder, masked": (16_384, 3, 17, 64), "encoder": (8192, 3, 65, 64), "decoder": (16_384, 3, 65, 32)}


def parser() -> argparse.ArgumentParser:
    """The flags; any other --NAME VALUE is a setting."""
    made = argparse.ArgumentParser(prog="pace.py", description=__doc__.split("\n")[0], allow_abbrev=False)
    made.add_argument("recipe", help="name of a recipe, or a YAML file")
    made.add_argument("part", choices=PARTS, help="a stage, or the device itself")
    made.add_argument("--data", help="source of images (default: cifar10 for a recipe named X-cifar10)")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    made.add_argument("--out", type=Path, default=Path("pace"), help="folder for PART.json (default: pace)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Measure one part; returns the exit status."""
    given, rest = parser().parse_known_args(argv)
    try:
        settings = resolve(given.recipe, **{**settings_in(rest), "device": given.device})
        accelerator = make_accelerator(settings.device, settings.precision, settings.deterministic)
        given.out.mkdir(parents=True, exist_ok=True)
        if given.part == "device":
            with alone(given.out):
                keep(given, measure_device(accelerator))
            return 0
        data = given.data or default_source(recipe_path(given.recipe).stem)
        dataset = load(data, settings.data, patching=patching_of(settings), need_labels=True)
    except UserError as error:
        print(f"pace: {error}", file=sys.stderr)
        return 2
    found = {"recipe": given.recipe, "stage": given.part, **describe(accelerator)}
    with alone(given.out), waits() as waited:
        found["eager"] = planner.measure(given.part, dataset, settings, accelerator, "never")
    keep(given, found | {"waits": waited})
    found["waits"] = waited
    for mode in ("graphs", "always") if accelerator.device.type == "cuda" else ("always",):
        cold = planner.measure(given.part, dataset, settings, accelerator, mode)
        torch.compiler.reset()
        with alone(given.out):
            warm = planner.measure(given.part, dataset, settings, accelerator, mode)
        found["compiled"] = warm | {"mode": mode, "cold_seconds": cold["first_seconds"]}
        keep(given, found)
        if planner.pays(found):
            break
    return 0


def keep(given: argparse.Namespace, found: dict[str, Any]) -> None:
    """Write what is known of a part, and say it."""
    write_whole(given.out / f"{given.part}.json", json.dumps(found, indent=1) + "\n")
    print(given.part, json.dumps(found), flush=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within it, no other part measures."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def waits() -> Iterator[list[str]]:
    """Collects the places where the host waits for a CUDA device; the reading of losses is one that is meant."""
    found: list[str] = []
    if not torch.cuda.is_available():
        yield found
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [f"{'/'.join(Path(w.filename).parts[-2:])}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    found += [f"{place} ({places.count(place)} times)" for place in sorted(set(places))]


def measure_device(accelerator: Accelerator) -> dict[str, Any]:
    """What the device does at best, and the milliseconds of attention by each kernel, forward and backward."""
    device, bf16 = accelerator.device, accelerator.mixed_precision == "bf16"
    ceilings = Ceilings.measure(device, torch.bfloat16 if bf16 else torch.float32)
    attention: dict[str, float | str] = {}
    for name, shape in SHAPES.items() if device.type == "cuda" else ():
        q, k, v = torch.randn(3, *shape, device=device, dtype=torch.bfloat16, requires_grad=True).unbind()
        for kernel, backend in KERNELS.items():
            try:
                with sdpa_kernel(backend):
                    took = fastest(lambda: scaled_dot_product_attention(q, k, v).sum().backward(), device)  # noqa: B023
                attention[f"{name} {shape}, {kernel}"] = round(1000 * took, 3)
            except RuntimeError as error:
                attention[f"{name} {shape}, {kernel}"] = str(error).splitlines()[0]
    return {
        **describe(accelerator), "date": time.strftime("%Y-%m-%d"), "attention_ms": attention,
        "ceilings": {"matmul_flops": ceilings.flops, "copy_bytes": ceilings.bytes},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
