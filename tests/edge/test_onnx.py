"""ONNX files: what they compute is what the network computes, in the operators that runtimes fuse."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from exported import classifier, images, meta

from pocketvit.edge.deployed import Deployed
from pocketvit.edge.onnx import Onnx, OnnxRuntime
from pocketvit.evaluation.predictor import Predictor


@pytest.mark.parametrize("pool", ["token", "mean"])
@pytest.mark.parametrize("std", [(0.2, 0.25, 0.3), (0.2, 1e-3, 0.3)], ids=["folded", "constant channel"])
def test_an_exported_file_is_the_network(pool: str, std: tuple[float, ...], tmp_path: Path) -> None:
    about = meta(pool, std)
    vit = classifier(about)
    assert Deployed(vit, about).network.folded == (min(std) > 0.01)
    Onnx.write(tmp_path / "m.onnx", vit, about)
    runtime = OnnxRuntime(tmp_path / "m.onnx")
    assert runtime.meta == about
    expected = Predictor.of(vit, about, "cpu")
    for count in (1, 20, 300):
        # A constant channel multiplies what float32 rounds by a thousand.
        np.testing.assert_allclose(runtime.logits(images(count)), expected.logits(images(count)), atol=1e-3, rtol=1e-3)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    pixels = images().transpose(0, 3, 1, 2)
    logits, probabilities = session.run(None, {"pixels": pixels})
    np.testing.assert_allclose(probabilities, expected.calibrated(logits), atol=1e-5)
    (given,) = session.get_inputs()
    assert (given.type, given.shape[1:]) == ("tensor(uint8)", [3, 8, 12])
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]  # no weights beside it


def test_attention_is_one_operator_and_the_patches_take_the_only_transpose(tmp_path: Path) -> None:
    about = meta()
    Onnx.write(tmp_path / "m.onnx", classifier(about), about)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(tmp_path / "m.onnx", options)
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    depth = about.model.sizes().depth
    assert (found["Attention"], found["Gelu"], found["Transpose"]) == (depth, depth, 1)
    # The class token's rows, before and after the last layer's LayerNorm.
    assert found["Gather"] == 2
    # The embedding's bias is added beside positions; every other product has its own inside.
    assert found["MatMul"] == 1


def test_int8_has_its_products_with_weights_in_int8_and_no_others(tmp_path: Path) -> None:
    about = meta()
    vit = classifier(about)
    Onnx.write(tmp_path / "m.onnx", vit, about)
    Onnx.write(tmp_path / "q.onnx", vit, about, images(64))
    graph = onnx.load(tmp_path / "q.onnx").graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    # An embedding, four in each layer, and a head; the last layer, for the class token alone, has queries apart.
    assert len(products) == 1 + 4 * vit.shape.depth + 1 + 1
    assert {makers.get(node.input[0]) for node in products} == {"DequantizeLinear"}
    for node in graph.node:
        if node.op_type in ("Attention", "Softmax", "LayerNormalization", "Gelu"):
            assert "DequantizeLinear" not in {makers.get(name) for name in node.input}
    runtime = OnnxRuntime(tmp_path / "q.onnx")
    assert runtime.meta == about
    exact = Predictor.of(vit, about, "cpu").logits(images())
    assert 0 < np.abs(runtime.logits(images()) - exact).max() < 0.25 * np.abs(exact).max()
    # An image's answer does not depend on its neighbours.
    np.testing.assert_allclose(runtime.logits(images())[:1], runtime.logits(images()[:1]), atol=1e-5)
    small, large = ((tmp_path / name).stat().st_size for name in ("q.onnx", "m.onnx"))
    assert small < 0.8 * large
