"""ONNX: files in float32 and in int8, and the runtime that reads them (extra "onnx")."""

from __future__ import annotations

from collections.abc import Iterator
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
from pocketvit.errors import UserError
from pocketvit.model import weights
from pocketvit.model.network import Network
from pocketvit.model.weights import WeightsMeta

OPSET = 23  # the first with attention as one operator
EXTRA = "onnx"


class OnnxRuntime(LogitsOnly):
    """Runs a file by ONNX Runtime (see `FileRuntime`)."""

    reads: ClassVar[tuple[str, ...]] = (".onnx",)

    def __init__(self, file: Path, threads: int = 0) -> None:
        onnxruntime = module("onnxruntime", EXTRA)
        check_file(file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin while they wait slow down what runs beside them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            with quiet():  # of some damage it prints, and tries once more
                self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own kinds, which have no common one
            raise UserError(f"{file}: not an ONNX file, or a damaged one ({first_line(error)}): {ANEW}") from None
        text = self._session.get_modelmeta().custom_metadata_map.get(weights.KEY)
        self.meta = described(text, file)
        both = (self._session.get_inputs(), self._session.get_outputs())
        check_ports(file, self.meta, *({port.name: port.shape for port in ports} for ports in both))

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, C) to (N, K)."""
        found: list[NDArray[np.float32]] = [
            self._session.run([OUTPUTS[0]], {INPUT: part})[0] for part in batches(images)
        ]
        return np.concatenate(found)


class Onnx(Format):
    """See `Format`."""

    suffix = ".onnx"
    runtime = OnnxRuntime
    int8 = True

    @staticmethod
    def deployed(network: Network, meta: WeightsMeta) -> Deployed:
        """What the file computes."""
        return Deployed(network, meta, for_onnx=True)

    @classmethod
    def write(
        cls, file: Path, network: Network, meta: WeightsMeta, calibration: NDArray[np.uint8] | None = None
    ) -> None:
        """Of any batch; softmax, LayerNorm, GELU and the products of attention stay in float."""
        onnx = module("onnx", EXTRA)
        height, width, channels = meta.shape
        example = torch.zeros(2, channels, height, width, dtype=torch.uint8)
        deployed = cls.deployed(network, meta)
        with quiet():
            program = torch.onnx.export(
                deployed, (example,), dynamo=True, opset_version=OPSET,
                dynamic_shapes={"pixels": {0: torch.export.Dim("N", min=1)}}, input_names=[INPUT],
                output_names=list(deployed.outputs), external_data=False, verbose=False,
            )  # fmt: skip
        assert program is not None
        model = program.model_proto if calibration is None else _quantised(onnx, program.model_proto, calibration)
        del model.metadata_props[:]
        for key, value in ((weights.KEY, weights.as_text(meta)), ("preset", meta.model.preset)):
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
        onnx.checker.check_model(model)
        file.write_bytes(model.SerializeToString())

    @staticmethod
    def about(meta: WeightsMeta) -> str:
        """Pixels in."""
        return f"""{about_pixels(meta)}
- Operators of opset {OPSET}: ONNX Runtime 1.23 or newer."""

    @staticmethod
    def loading(name: str, meta: WeightsMeta) -> str:
        """By ONNX Runtime."""
        return f"""import numpy as np, onnxruntime
pixels = np.atleast_3d(image).transpose(2, 0, 1)[None]
logits, probabilities = onnxruntime.InferenceSession("{name}").run(None, {{"{INPUT}": pixels}})"""

    @staticmethod
    def precision(file: Path) -> str:
        """By its operators."""
        graph = module("onnx", EXTRA).load(file, load_external_data=False).graph
        return "int8" if any(node.op_type == "DequantizeLinear" for node in graph.node) else "float32"


def described(text: str | None, file: Path) -> WeightsMeta:
    """What an ONNX file's metadata say; UserError where they are not ours."""
    if text is None:
        raise UserError(
            f"{file}: an ONNX file that PocketViT did not write, of unknown classes and image size: give one that "
            "`export` wrote"
        )
    return weights.from_text(text, file)


def _quantised(onnx: Any, model: Any, images: NDArray[np.uint8]) -> Any:
    """A model whose products with weights are in int8: weights by channel, their inputs by what images make of them.

    What they give is left in float: nothing but attention, GELU and sums reads it, and these would convert it back.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as folder, quiet():
        source, ready, done = (Path(folder) / f"{name}.onnx" for name in ("source", "ready", "done"))
        source.write_bytes(model.SerializeToString())
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready), str(done), _Calibration(images), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm", "Conv"], activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )  # fmt: skip
        return onnx.load(done)


class _Calibration:
    """Train images for the quantiser, some at a time."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._parts: Iterator[NDArray[np.uint8]] = iter(np.array_split(planar(images), max(1, len(images) // 32)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        part = next(self._parts, None)
        return None if part is None else {INPUT: part}

    def set_range(self, start_index: int, end_index: int) -> None:
        raise NotImplementedError
