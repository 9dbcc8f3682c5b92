"""What `bench` times: each kind of file, and the runtime that computes it. A new one is a line of RUNTIMES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pocketvit.edge import onnx
from pocketvit.errors import UserError
from pocketvit.model import weights
from pocketvit.model.network import Network
from pocketvit.model.vit import ViT
from pocketvit.model.weights import WeightsMeta
from pocketvit.training.device import cpu_multiplies_bf16, keep_freed_memory

Pixels = NDArray[np.uint8]


class Classifying(Protocol):
    """What is timed."""

    def logits(self, images: Pixels) -> NDArray[np.float32]:
        """(N, H, W, C) to (N, K)."""


@dataclass(frozen=True)
class Runtime:
    """A kind of file and what computes it.

    Args:
        name: of the runtime
        precision: of its products: "float32", "bf16" or "int8"
        library: module of the runtime; what it takes in memory is part of what is measured
        suffix: of the file
        write: writes a classifier to a file; images (N, H, W, C), of the train split, calibrate it where it is in int8
        open: reads the file, for so many threads
        extra: of PocketViT that installs the library; empty where it is always there
        runs: whether this machine has what it takes, beside the library
    """

    name: str
    precision: str
    library: str
    suffix: str
    write: Callable[[Path, Network, WeightsMeta, Pixels], None]
    open: Callable[[Path, int], Classifying]
    extra: str = ""
    runs: Callable[[], bool] = lambda: True

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"

    @property
    def installed(self) -> bool:
        return find_spec(self.library) is not None


class Bare:
    """A network in PyTorch, operator by operator, with nothing around it: what all else is held against."""

    def __init__(self, file: Path, threads: int, dtype: torch.dtype) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        network, meta = weights.load(file)
        self._network, self._dtype = network.eval().to(dtype), dtype
        self._mean, self._std = (torch.tensor(values).view(-1, 1, 1) for values in (meta.mean, meta.std))

    def logits(self, images: Pixels) -> NDArray[np.float32]:
        """(N, H, W, C) to (N, K)."""
        with torch.inference_mode():
            pixels = torch.tensor(images).permute(0, 3, 1, 2) / 255
            found: torch.Tensor = self._network(((pixels - self._mean) / self._std).to(self._dtype))
        return found.float().numpy()


def _bare(dtype: torch.dtype) -> Callable[[Path, int], Classifying]:
    return lambda file, threads: Bare(file, threads, dtype)


def _weights(dtype: torch.dtype) -> Callable[[Path, Network, WeightsMeta, Pixels], None]:
    return lambda file, network, meta, images: weights.save(file, network, meta, dtype)


def _onnx_float32(file: Path, network: Network, meta: WeightsMeta, images: Pixels) -> None:
    if not isinstance(network, ViT):
        raise UserError(f"a {meta.model.preset} cannot be exported yet")
    onnx.write_onnx(file, network, meta)


def _onnx_int8(file: Path, network: Network, meta: WeightsMeta, images: Pixels) -> None:
    _onnx_float32(file, network, meta, images)
    onnx.write_int8(file, file, images)


EAGER = Runtime(
    "PyTorch", "float32", "torch", ".safetensors", _weights(torch.float32), _bare(torch.float32)
)  # fmt: skip
RUNTIMES = (
    EAGER,
    Runtime("PyTorch", "bf16", "torch", ".safetensors", _weights(torch.bfloat16), _bare(torch.bfloat16),
            runs=cpu_multiplies_bf16),
    Runtime("ONNX Runtime", "float32", "onnxruntime", ".onnx", _onnx_float32, onnx.OnnxRuntime, "onnx"),
    Runtime("ONNX Runtime", "int8", "onnxruntime", ".onnx", _onnx_int8, onnx.OnnxRuntime, "onnx"),
)  # fmt: skip
NAMED = {str(runtime): runtime for runtime in RUNTIMES}


def reader_of(file: Path) -> Runtime:
    """Of an exported file. Raises UserError for one that none of RUNTIMES reads."""
    fitting = [one for one in RUNTIMES if one.suffix == file.suffix and one.name != EAGER.name]
    if not fitting:
        raise UserError(f"{file}: a file of a kind that no runtime here reads")
    precision = onnx.precision_of(file)
    return next(one for one in fitting if one.precision == precision)
