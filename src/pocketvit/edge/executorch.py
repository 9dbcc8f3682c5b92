"""ExecuTorch: programs in float32 for phones and boards, and the runtime that reads them (extra "executorch").

A program runs in a process of its own: on some virtual machines its kernels (XNNPACK) end the process that runs them.
    python -m pocketvit.edge.executorch FILE     # images (N, H, W, C) in, logits out, as .npy on its standard streams
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from pocketvit.edge.deployed import Deployed
from pocketvit.edge.format import (
    ANEW,
    CannotRun,
    Format,
    LogitsOnly,
    about_pixels,
    check_file,
    first_line,
    module,
    planar,
    quiet,
)
from pocketvit.errors import UserError
from pocketvit.model import weights
from pocketvit.model.network import Network
from pocketvit.model.weights import WeightsMeta

EXTRA = "executorch"
DAMAGED, UNABLE = 3, 4  # exit statuses


class Program:
    """Runs a file in this process, one image at a time: a fault in it ends the process."""

    def __init__(self, file: Path, threads: int = 0) -> None:
        self._program = module("executorch.runtime", EXTRA).Runtime.get().load_program(file)
        if threads:
            module("executorch.extension.pybindings._portable_lib", EXTRA)._unsafe_reset_threadpool(threads)

    @property
    def description(self) -> str | None:
        """What the file says of itself."""
        named = weights.KEY in self._program.method_names
        return str(self._program.load_method(weights.KEY).execute([])[0]) if named else None

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, C) to (N, K)."""
        forward = self._program.load_method("forward")
        # Copied: the next call writes to the same memory.
        rows = [forward.execute([torch.from_numpy(image[None])])[0].clone() for image in planar(images)]
        return torch.cat(rows).numpy()


class ExecuTorch(LogitsOnly):
    """Runs a file in a process of its own (see `FileRuntime`)."""

    reads: ClassVar[tuple[str, ...]] = (".pte",)

    def __init__(self, file: Path, threads: int = 0) -> None:
        module("executorch.runtime", EXTRA)
        check_file(file)
        self._file, self._threads = file, threads
        self.meta = weights.from_text(self._called().decode() or None, file)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, C) to (N, K)."""
        found: NDArray[np.float32] = _array(self._called(_bytes(images)))
        return found

    def _called(self, images: bytes = b"") -> bytes:
        """Logits of images; of none, the file's description."""
        command = [sys.executable, "-m", __name__, str(self._file), str(self._threads)]
        paths = os.pathsep.join(path for path in sys.path if path)
        done = subprocess.run(command, input=images, capture_output=True, env={**os.environ, "PYTHONPATH": paths})
        if done.returncode == DAMAGED:
            raise UserError(f"{self._file}: not an ExecuTorch program, or a damaged one: {ANEW}")
        if done.returncode == UNABLE or done.returncode < 0:
            reason = f"signal {-done.returncode}" if done.returncode < 0 else done.stderr.decode().splitlines()[-1]
            raise CannotRun(f"{self._file}: ExecuTorch cannot run it on this machine ({reason})")
        if done.returncode:
            raise RuntimeError(done.stderr.decode())
        return done.stdout


class Pte(Format):
    """See `Format`."""

    suffix = ".pte"
    runtime = ExecuTorch

    @classmethod
    def write(
        cls, file: Path, network: Network, meta: WeightsMeta, calibration: NDArray[np.uint8] | None = None
    ) -> None:
        """Of one image at a time: memory is planned when it is written, and small devices have little."""
        exir = module("executorch.exir", EXTRA)
        xnnpack = module("executorch.backends.xnnpack.partition.xnnpack_partitioner", EXTRA)
        height, width, channels = meta.shape
        example = torch.zeros(1, channels, height, width, dtype=torch.uint8)
        with quiet():
            program = torch.export.export(Deployed(network, meta), (example,))
            lowered = exir.to_edge_transform_and_lower(
                program,
                partitioner=[xnnpack.XnnpackPartitioner()],
                constant_methods={weights.KEY: weights.as_text(meta)},
            )
            file.write_bytes(lowered.to_executorch().buffer)

    @staticmethod
    def about(meta: WeightsMeta) -> str:
        """Pixels in."""
        return about_pixels(meta, "one image at a time, N = 1")

    @staticmethod
    def loading(name: str, meta: WeightsMeta) -> str:
        """In Python; other languages call it alike."""
        return f"""import numpy as np, torch
from executorch.runtime import Runtime
program = Runtime.get().load_program("{name}").load_method("forward")
pixels = torch.from_numpy(np.atleast_3d(image).transpose(2, 0, 1)[None].copy())
logits, probabilities = program.execute([pixels])"""


def main(file: str, threads: str) -> int:
    """Answer on the standard streams; returns the exit status."""
    answers: Any = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what its libraries print is no answer
    status = DAMAGED
    try:
        program = Program(Path(file), int(threads))
        status, images = UNABLE, sys.stdin.buffer.read()
        answer = _bytes(program.logits(_array(images))) if images else (program.description or "").encode()
    except Exception as error:  # its own, which have no common kind
        print(first_line(error), file=sys.stderr)
        return status
    with answers:
        answers.write(answer)
    return 0


def _bytes(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _array(stored: bytes) -> Any:
    return np.load(io.BytesIO(stored), allow_pickle=False)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
