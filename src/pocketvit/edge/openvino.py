"""OpenVINO: files in float32 and in int8, and the runtime that reads them and ONNX files (extra "openvino").

Its own format is two files, graph and weights; here they travel in one zip archive, and are read without unpacking.
"""

from __future__ import annotations

import sys
import zipfile
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from pocketvit.edge.deployed import Deployed
from pocketvit.edge.format import (
    ANEW,
    INPUT,
    OUTPUTS,
    Format,
    LogitsOnly,
    about_pixels,
    batches,
    check_file,
    check_ports,
    first_line,
    module,
    planar,
    quiet,
)
from pocketvit.edge.onnx import Onnx, described
from pocketvit.errors import UserError
from pocketvit.model import weights
from pocketvit.model.network import Network
from pocketvit.model.weights import WeightsMeta

EXTRA = "openvino"
GRAPH, WEIGHTS = "model.xml", "model.bin"


class OpenVino(LogitsOnly):
    """Runs a file by OpenVINO (see `FileRuntime`).

    Args:
        file: of `OpenVinoIr`, or an ONNX file.
        threads: 0 for one a core.
        precision: of what is not in int8: "f32", or "bf16" where the CPU has it, which is faster and less exact.
    """

    reads: ClassVar[tuple[str, ...]] = (".zip", ".onnx")

    def __init__(self, file: Path, threads: int = 0, precision: str = "f32") -> None:
        openvino = _module("openvino")
        check_file(file)
        core = openvino.Core()
        model = _read(core, file)
        # Left to itself, it computes in bf16 where the CPU can: what is verified would not be what was written.
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        options |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1} if threads else {}
        self.meta = _meta(model, file)
        check_ports(file, self.meta, _ports(model.inputs), _ports(model.outputs))
        try:
            self._model = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise UserError(f"{file}: a damaged file, or one that OpenVINO cannot run ({_reason(error)})") from None

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, C) to (N, K)."""
        return np.concatenate([self._model([part])[0] for part in batches(images)])


class OpenVinoIr(Format):
    """See `Format`."""

    suffix = ".zip"
    runtime = OpenVino
    int8 = True

    @classmethod
    def write(
        cls, file: Path, network: Network, meta: WeightsMeta, calibration: NDArray[np.uint8] | None = None
    ) -> None:
        """Of any batch; in int8 by NNCF, for transformers: softmax, LayerNorm and GELU stay in float."""
        openvino = _module("openvino")
        height, width, channels = meta.shape
        example = torch.zeros(2, channels, height, width, dtype=torch.uint8)
        with quiet():
            sizes = {INPUT: {0: torch.export.Dim("N", min=1)}}
            model = openvino.convert_model(
                torch.export.export(Deployed(network, meta), (example,), dynamic_shapes=sizes)
            )
            model.reshape([-1, channels, height, width])
            for port, name in zip([*model.inputs, *model.outputs], [INPUT, *OUTPUTS], strict=True):
                port.tensor.set_names({name})
            if calibration is not None:
                model = _quantised(model, calibration)
            model.set_rt_info(weights.as_text(meta), [weights.KEY])
            model.set_rt_info(meta.model.preset, ["preset"])
            with TemporaryDirectory() as folder:
                # Half-precision weights are its default, and not what float32 says.
                openvino.save_model(model, Path(folder) / GRAPH, compress_to_fp16=False)
                with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                    for name in (GRAPH, WEIGHTS):
                        archive.write(Path(folder) / name, name)

    @staticmethod
    def about(meta: WeightsMeta) -> str:
        """Pixels in."""
        return about_pixels(meta)

    @staticmethod
    def loading(name: str, meta: WeightsMeta) -> str:
        """From the archive as it is."""
        return f"""import numpy as np, openvino, zipfile
parts = zipfile.ZipFile("{name}")
core, files = openvino.Core(), [parts.read(part) for part in ("{GRAPH}", "{WEIGHTS}")]
model = core.compile_model(core.read_model(*files), "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
logits, probabilities = model([np.atleast_3d(image).transpose(2, 0, 1)[None]]).values()"""

    @staticmethod
    def precision(file: Path) -> str:
        """By the types in its graph."""
        with zipfile.ZipFile(file) as archive:
            return "int8" if b'element_type="i8"' in archive.read(GRAPH) else "float32"


def _module(name: str) -> Any:
    # It and NNCF report their use by a package that both can do without.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return module(name, EXTRA)


def _read(core: Any, file: Path) -> Any:
    try:
        if file.suffix == Onnx.suffix:
            return core.read_model(file)
        with zipfile.ZipFile(file) as archive:
            return core.read_model(archive.read(GRAPH), archive.read(WEIGHTS))
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{file}: not an OpenVINO model, or a damaged one ({_reason(error)}): {ANEW}") from None


def _reason(error: Exception) -> str:
    """What an error says first, after the places in OpenVINO's source that it came through."""
    lines = (line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from "))
    return next(lines, first_line(error))


def _ports(ports: Any) -> dict[str, list[Any]]:
    """Shapes by names; a port may have several."""
    shapes = [[None if size.is_dynamic else size.get_length() for size in port.partial_shape] for port in ports]
    return {name: shape for port, shape in zip(ports, shapes, strict=True) for name in port.names}


def _meta(model: Any, file: Path) -> WeightsMeta:
    # Of an ONNX file, its metadata are kept apart.
    path = ["framework"] * (file.suffix == Onnx.suffix) + [weights.KEY]
    text = model.get_rt_info(path).astype(str) if model.has_rt_info(path) else None
    return described(text, file) if file.suffix == Onnx.suffix else weights.from_text(text, file)


def _quantised(model: Any, images: NDArray[np.uint8]) -> Any:
    """A model in int8 (NNCF), each range by what images make of it.

    With SmoothQuant (Xiao et al. 2023, arXiv 2211.10438), which helps some networks and ruins others, and without:
    what is taken is what changes the logits of these images less.
    """
    openvino, nncf, pixels = _module("openvino"), _module("nncf"), planar(images)

    def logits(candidate: Any) -> NDArray[np.float32]:
        compiled = openvino.Core().compile_model(candidate, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return np.concatenate([compiled([part])[0] for part in batches(images)])

    exact, found = logits(model), []
    for strength in (0.95, -1):  # NNCF's own, and none
        smooth = nncf.AdvancedSmoothQuantParameters(matmul=strength)
        advanced = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smooth)
        made = nncf.quantize(
            model.clone(), nncf.Dataset([image[None] for image in pixels]), model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(pixels), advanced_parameters=advanced,
        )  # fmt: skip
        found.append((float(np.square(logits(made) - exact).mean()), made))
    return min(found, key=lambda pair: pair[0])[1]
