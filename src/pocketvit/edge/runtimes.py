"""What `bench` times: each kind of file, and the runtime that computes it. A new one is a line of TIMED."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pocketvit.edge.executorch import Program, Pte
from pocketvit.edge.format import Format
from pocketvit.edge.formats import FORMATS, runtime_of
from pocketvit.edge.onnx import Onnx, OnnxRuntime
from pocketvit.edge.openvino import OpenVino, OpenVinoIr
from pocketvit.errors import UserError
from pocketvit.model import weights
from pocketvit.model.network import Network
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


def _exported(kind: type[Format], int8: bool = False) -> Callable[[Path, Network, WeightsMeta, Pixels], None]:
    return lambda file, network, meta, images: kind.write(file, network, meta, images if int8 else None)


EAGER = Runtime(
    "PyTorch", "float32", "torch", ".safetensors", _weights(torch.float32), _bare(torch.float32)
)  # fmt: skip
TIMED = (
    EAGER,
    Runtime("PyTorch", "bf16", "torch", ".safetensors", _weights(torch.bfloat16), _bare(torch.bfloat16),
            runs=cpu_multiplies_bf16),
    Runtime("ONNX Runtime", "float32", "onnxruntime", Onnx.suffix, _exported(Onnx), OnnxRuntime, "onnx"),
    Runtime("ONNX Runtime", "int8", "onnxruntime", Onnx.suffix, _exported(Onnx, int8=True), OnnxRuntime, "onnx"),
    Runtime("OpenVINO", "float32", "openvino", OpenVinoIr.suffix, _exported(OpenVinoIr), OpenVino, "openvino"),
    Runtime("OpenVINO", "bf16", "openvino", OpenVinoIr.suffix, _exported(OpenVinoIr),
            partial(OpenVino, precision="bf16"), "openvino", cpu_multiplies_bf16),
    Runtime("OpenVINO", "int8", "openvino", OpenVinoIr.suffix, _exported(OpenVinoIr, int8=True), OpenVino, "openvino"),
    Runtime("ExecuTorch", "float32", "executorch", Pte.suffix, _exported(Pte), Program, "executorch"),
)  # fmt: skip
NAMED = {str(runtime): runtime for runtime in TIMED}


def reader_of(file: Path) -> Runtime:
    """Of an exported file. Raises UserError for one that none of TIMED reads."""
    fitting = [one for one in TIMED if one.suffix == file.suffix and one.name != EAGER.name]
    if not fitting:
        raise UserError(f"{file}: a file of a kind that no runtime here reads")
    runtime_of(file)(file, 1)  # type: ignore[misc]  # refuses what is no such file
    (kind,) = (kind for kind in FORMATS.values() if kind.suffix == file.suffix)
    precision = kind.precision(file)
    return next(one for one in fitting if one.precision == precision)
