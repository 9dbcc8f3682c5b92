"""ONNX: files in float32 and in int8, and the runtime that reads them (extra "onnx")."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketvit.edge.deployed import Deployed
from pocketvit.errors import UserError
from pocketvit.model import weights
from pocketvit.model.vit import ViT
from pocketvit.model.weights import WeightsMeta

OPSET = 18
BATCH = 256
INPUT, OUTPUTS = "pixels", Deployed.outputs
WITHOUT_FEATURES = "an exported file has logits and no features: give the run that it came from"
EXTRA = 'onnx is not installed: pip install "pocketvit[onnx]"'


def write_onnx(file: Path, vit: ViT, meta: WeightsMeta, form: type[Deployed] = Deployed) -> None:
    """Write a classifier in float32, of any batch and in the form given; UserError where the extra is missing."""
    onnx = _module("onnx")
    height, width, channels = meta.shape
    example = torch.zeros(2, channels, height, width, dtype=torch.uint8)
    deployed = form(vit.cpu().eval(), meta).eval()
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # of the exporter's own
        program = torch.onnx.export(
            deployed, (example,), dynamo=True, opset_version=OPSET, external_data=False, verbose=False,
            input_names=[INPUT], output_names=list(form.outputs),
            dynamic_shapes={"pixels": {0: torch.export.Dim("N", min=1)}},
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    _describe(model, meta)
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())


def write_int8(file: Path, source: Path, images: NDArray[np.uint8]) -> None:
    """Quantise a file's products with weights: the weights by channel, their inputs by what `images` make of them.

    Softmax, LayerNorm, GELU and the products of attention stay in float.

    Args:
        file: to write.
        source: a file of `write_onnx`.
        images: (N, H, W, C), from train images: what calibrates is not what tests.
    """
    onnx = _module("onnx")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as folder, _quiet():
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        constants, kept = _constants(onnx.load(ready).graph), []
        for node in onnx.load(ready).graph.node:
            if node.op_type == "MatMul" and not constants.intersection(node.input):
                kept.append(node.name)
        quantize_static(
            str(ready), str(file), _Calibration(images), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"], nodes_to_exclude=kept, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
        )  # fmt: skip
    model = onnx.load(file)
    _describe(model, read_meta(source))
    file.write_bytes(model.SerializeToString())


class OnnxRuntime:
    """Runs a file (see `pocketvit.evaluation.predictor.Runtime`), on one thread for each core or as many as given.

    Raises:
        UserError: the extra is missing, or the file is not one of these.
    """

    def __init__(self, file: Path, threads: int = 0) -> None:
        onnxruntime = _module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin while they wait slow down what runs beside them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = _session(onnxruntime, file, options)
        self.meta = _meta_of(self._session, file)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, C) to (N, K)."""
        pixels = np.ascontiguousarray(np.moveaxis(images, 3, 1))
        parts = (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
        found: list[NDArray[np.float32]] = [self._session.run([OUTPUTS[0]], {INPUT: part})[0] for part in parts]
        return np.concatenate(found)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """None are in such a file."""
        raise UserError(WITHOUT_FEATURES)


def read_meta(file: Path) -> WeightsMeta:
    """What a file says of itself. Raises UserError as `OnnxRuntime`."""
    return OnnxRuntime(file, threads=1).meta


def precision_of(file: Path) -> str:
    """What a file multiplies in, "float32" or "int8". Raises UserError as `OnnxRuntime`."""
    read_meta(file)  # refuses what is no such file
    graph = _module("onnx").load(file, load_external_data=False).graph
    return "int8" if any(node.op_type == "DequantizeLinear" for node in graph.node) else "float32"


class _Calibration:
    """Train images for the quantiser, some at a time."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        pixels = np.ascontiguousarray(np.moveaxis(images, 3, 1))
        self._parts: Iterator[NDArray[np.uint8]] = iter(np.array_split(pixels, max(1, len(pixels) // 32)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        part = next(self._parts, None)
        return None if part is None else {INPUT: part}

    def set_range(self, start_index: int, end_index: int) -> None:
        raise NotImplementedError


def _module(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise UserError(EXTRA) from None


def _session(onnxruntime: Any, file: Path, options: Any) -> Any:
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds, which have no common one
        raise UserError(f"{file}: not an ONNX file, or a damaged one ({str(error).splitlines()[0]})") from None


def _meta_of(session: Any, file: Path) -> WeightsMeta:
    text = session.get_modelmeta().custom_metadata_map.get(weights.KEY)
    if text is None:
        raise UserError(f"{file}: an ONNX file that PocketViT did not write: its classes and image size are not known")
    return weights.from_text(text, file)


def _describe(model: Any, meta: WeightsMeta) -> None:
    del model.metadata_props[:]
    for key, value in ((weights.KEY, weights.as_text(meta)), ("preset", meta.model.preset)):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def _constants(graph: Any) -> set[str]:
    """Names of the weights, as they are or transposed."""
    found = {one.name for one in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Constant", "Transpose", "Identity") and found.issuperset(node.input):
            found.update(node.output)
    return found


class _quiet:
    """Exporters and quantisers log what is no news to whoever exports."""

    def __enter__(self) -> None:
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(logging.NOTSET)
