"""Where an exported network spends its time: operators of its ONNX file in int8, by ONNX Runtime's own profile.

    python benchmarks/operators.py lite-cifar10 --data cifar10

One image at a time on one thread, as the latencies of `pocketvit bench` are taken. The evidence is
results/operators-NAME.json, by the model's name.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
from common import REPO, write_evidence
from numpy.typing import NDArray

from pocketvit.edge.format import INPUT, OUTPUTS
from pocketvit.edge.onnx import Onnx
from pocketvit.errors import UserError
from pocketvit.training.device import make_accelerator
from pocketvit.verbs.export import calibrating, images_of
from pocketvit.verbs.models import classifier_of, path_of

WARM_UP, CALLS = 20, 200


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(prog="operators.py", description=__doc__.split("\n")[0], allow_abbrev=False)
    made.add_argument("model", help="run, weights or name of a shipped model")
    made.add_argument("--data", help="images that it came from; default: those that the run was begun with")
    return made


def main(argv: list[str] | None = None) -> int:
    """Profile, and write the evidence; returns the exit status."""
    given, began = parser().parse_args(argv), time.perf_counter()
    try:
        path = path_of(given.model)
        network, meta = classifier_of(path)
        dataset = images_of(path, meta, given.data)
    except UserError as error:
        print(f"operators: {error}", file=sys.stderr)
        return 2
    images, _ = dataset.labelled("test")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        Onnx.write(file, network.cpu().eval(), meta, calibrating(dataset))
        found = profiled(file, images[:CALLS].transpose(0, 3, 1, 2))
    given.data = given.data and Path(given.data).name  # no places
    given.out = REPO / "results" / f"operators-{path.stem}.json"
    words = [path.stem, *(["--data", given.data] if given.data else [])]
    write_evidence("operators", given, words, make_accelerator("cpu"), began, {"calls": CALLS, "microseconds": found})
    return 0


def profiled(file: Path, images: NDArray[np.uint8]) -> dict[str, float]:
    """Mean microseconds of a call by operator, the longest first.

    Args:
        file: ONNX.
        images: (N, C, H, W) uint8, one a call.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.profile_file_prefix = str(file.with_suffix(""))
    options.enable_profiling = True
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    for number in range(WARM_UP + len(images)):
        session.run([OUTPUTS[0]], {INPUT: images[[number % len(images)]]})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [one for one in events if one["cat"] == "Node" and one["name"].endswith("_kernel_time")]
    nodes = len(kernels) // (WARM_UP + len(images))  # of a call, in their order
    spent: Counter[str] = Counter()
    for one in kernels[WARM_UP * nodes :]:
        spent[one["args"]["op_name"]] += one["dur"]
    return {name: round(total / len(images), 1) for name, total in spent.most_common()}


if __name__ == "__main__":
    sys.exit(main())
