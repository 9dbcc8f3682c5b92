"""A process with one runtime and so many threads, which `latency.py` tells what to do: a JSON object a line, both ways.

python -m pocketvit.edge.worker LIBRARY THREADS
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pocketvit.edge.runtimes import Classifying

WARM_UP = 2  # calls before those that are timed, in every turn
CHUNK = 256  # images at a time, where time does not count


def main() -> None:
    """Do what each line of standard input says, until there is none."""
    library, threads = sys.argv[1], int(sys.argv[2])
    # Answers have a stream of their own: libraries print.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import_module(library)
    # All else that is imported for the measuring is no part of what the runtime takes.
    worker = Worker(threads, psutil.Process().memory_info().rss)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(worker, asked.pop("do"))(**asked)
        except Exception as error:  # of any runtime's
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        print(json.dumps(answer), file=answers, flush=True)


class Worker:
    """What can be asked for.

    Args:
        threads: to compute with
        imported: bytes that a process takes with the library imported, and nothing else
    """

    def __init__(self, threads: int, imported: int) -> None:
        self._threads, self._imported = threads, imported
        self._opened: dict[str, Classifying] = {}

    def examine(self, runtime: str, file: str, images: str, labels: str | None, batches: Sequence[int]) -> Any:
        """In a process that has done nothing yet: the time to load, the peak memory and, with labels, the accuracy.

        Args:
            runtime: its name in `pocketvit.edge.runtimes.NAMED`.
            file: that it reads.
            images: file of an array (N, H, W, C) of uint8.
            labels: file of an array (N,); None tests nothing.
            batches: numbers of images at a time.

        Returns:
            "load_seconds", from opening the file to the first answer; "peak_bytes" for each of the batches, of a
            process with Python, NumPy and the runtime alone, or None where the system does not tell; "accuracy".
        """
        import torch

        from pocketvit.edge import runtimes  # noqa: F401  # before memory is looked at
        from pocketvit.training.memory import peak_bytes

        pixels, process, device = np.load(images, mmap_mode="r"), psutil.Process(), torch.device("cpu")
        before, peaks, most = process.memory_info().rss, [], 0
        began = time.perf_counter()
        loaded = 0.0

        def answer(batch: int) -> None:
            nonlocal loaded
            self._runtime(runtime, file).logits(_first(pixels, batch))
            loaded = loaded or time.perf_counter() - began

        for batch in batches:
            start = process.memory_info().rss
            beyond = peak_bytes(partial(answer, batch), device)
            most = max(most, start - before + (beyond or 0))
            peaks.append(None if beyond is None else self._imported + most)
        accuracy = None
        if labels is not None:
            from pocketvit.evaluation.predictor import numbers

            classes, found = np.load(labels), self._runtime(runtime, file)
            parts = (numbers(found.logits(pixels[at : at + CHUNK])) for at in range(0, len(pixels), CHUNK))
            accuracy = float((np.concatenate([part.argmax(axis=1) for part in parts]) == classes).mean())
        return {"load_seconds": loaded, "peak_bytes": peaks, "accuracy": accuracy}

    def turn(self, runtime: str, file: str, images: str, batch: int, calls: int) -> Any:
        """ "seconds" of each of so many calls on the first images, after WARM_UP."""
        pixels, found = _first(np.load(images, mmap_mode="r"), batch), self._runtime(runtime, file)
        seconds = []
        for _ in range(WARM_UP + calls):
            began = time.perf_counter()
            found.logits(pixels)
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds[WARM_UP:]}

    def ceiling(self, precision: str) -> Any:
        """ "flops", FLOP/s of a product of large matrices."""
        import torch

        from pocketvit.training.ceilings import matmul_flops

        torch.set_num_threads(self._threads)
        dtype = {"float32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[precision]
        return {"flops": matmul_flops(torch.device("cpu"), dtype, repeats=3, warm_up=1)}

    def _runtime(self, runtime: str, file: str) -> Classifying:
        from pocketvit.edge.runtimes import NAMED

        if file not in self._opened:
            self._opened[file] = NAMED[runtime].open(Path(file), self._threads)
        return self._opened[file]


def _first(images: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """So many of them, some twice where they are fewer."""
    return images.take(range(count), axis=0, mode="wrap")


if __name__ == "__main__":
    main()
