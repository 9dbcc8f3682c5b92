"""ONNX files: what they compute is what the network computes, or they are not left behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import pocketvit as pv
from pocketvit.cli import main
from pocketvit.config import ModelConfig
from pocketvit.edge.deployed import Deployed
from pocketvit.edge.onnx import OnnxRuntime, write_int8, write_onnx
from pocketvit.evaluation.predictor import Predictor
from pocketvit.model.weights import WeightsMeta
from pocketvit.verbs import export as verb

SIZES = {"model.width": 32, "model.depth": 2, "model.heads": 2, "model.decoder_width": 16, "model.decoder_heads": 2}


def meta(pool: str = "token", std: tuple[float, ...] = (0.2, 0.25, 0.3)) -> WeightsMeta:
    return WeightsMeta(
        "classifier", ModelConfig("digits", patch=4, pool=pool), (8, 12, 3), (0.4, 0.5, 0.6), std,
        ("cat", "dog", "élan"), temperature=1.7, bits=12, background=0,
    )  # fmt: skip


def classifier(about: WeightsMeta) -> Any:
    """With weights of the size that training leaves, positions and head included."""
    torch.manual_seed(0)
    vit = about.build()
    for parameter in vit.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return vit.eval()


def images(count: int = 20) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 8, 12, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pv.Run:
    out = tmp_path_factory.mktemp("fit") / "run"
    about = {**SIZES, "epochs": 12, "finetune.epochs": 4, "finetune.min_steps": 150, "seeds": 1, "device": "cpu"}
    return pv.fit("digits", out=out, labels_per_class="all", quiet=True, **about)


@pytest.mark.parametrize("pool", ["token", "mean"])
@pytest.mark.parametrize("std", [(0.2, 0.25, 0.3), (0.2, 1e-3, 0.3)], ids=["folded", "constant channel"])
def test_an_exported_file_is_the_network(pool: str, std: tuple[float, ...], tmp_path: Path) -> None:
    about = meta(pool, std)
    vit = classifier(about)
    assert Deployed(vit, about).folded == (min(std) > 0.01)
    write_onnx(tmp_path / "m.onnx", vit, about)
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


def test_int8_has_its_products_with_weights_in_int8_and_no_others(tmp_path: Path) -> None:
    about = meta()
    vit = classifier(about)
    write_onnx(tmp_path / "m.onnx", vit, about)
    write_int8(tmp_path / "q.onnx", tmp_path / "m.onnx", images(64))
    graph = onnx.load(tmp_path / "q.onnx").graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    quantised = [node for node in products if makers.get(node.input[0]) == "DequantizeLinear"]
    # An embedding, four in each layer, and a head; the last layer, for the class token alone, has queries apart.
    assert len(quantised) == 1 + 4 * vit.shape.depth + 1 + 1
    # Of attention's two, none.
    assert len(products) - len(quantised) == 2 * vit.shape.depth
    for node in graph.node:
        if node.op_type in ("Softmax", "LayerNormalization", "Erf", "Gelu"):
            assert makers.get(node.input[0]) != "DequantizeLinear" or node.op_type != "Softmax"
    runtime = OnnxRuntime(tmp_path / "q.onnx")
    assert runtime.meta == about
    exact = Predictor.of(vit, about, "cpu").logits(images())
    assert 0 < np.abs(runtime.logits(images()) - exact).max() < 0.25 * np.abs(exact).max()
    # An image's answer does not depend on its neighbours.
    np.testing.assert_allclose(runtime.logits(images())[:1], runtime.logits(images()[:1]), atol=1e-5)
    small, large = ((tmp_path / name).stat().st_size for name in ("q.onnx", "m.onnx"))
    assert small < 0.6 * large


@pytest.mark.parametrize("int8", [False, True])
def test_the_verb_verifies_on_the_runs_own_test_images(run: pv.Run, int8: bool, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    # So small a network, briefly trained, loses much in int8.
    found = pv.export(run, out=tmp_path / "m.onnx", int8=int8, max_drop=20 if int8 else 0.3)
    assert found["images"] == run.summary["dataset"]["test"]
    details = json.loads((run.path / "summary.json").read_text())["details"]
    assert found["accuracy"] == pytest.approx(details["evaluation"]["accuracy"], abs=1e-6)
    assert found["exported_accuracy"] >= found["accuracy"] - (0.2 if int8 else 1 / found["images"])
    assert found["agreement"] > (0.7 if int8 else 0.995)
    card = (tmp_path / "m.onnx.md").read_text()
    # What a person has there already stays.
    assert (tmp_path / "README.md").read_text() == "mine"
    assert f"{100 * found['exported_accuracy']:.2f} %" in card
    assert "uint8 (N, 1, 8, 8)" in card
    # It is a model like any other.
    model, own = pv.load(tmp_path / "m.onnx"), pv.load(run)
    probabilities = model.predict_proba(np.zeros((3, 8, 8), np.uint8))
    np.testing.assert_allclose(
        probabilities, own.predict_proba(np.zeros((3, 8, 8), np.uint8)), atol=0.3 if int8 else 1e-4
    )
    assert model.classes_.tolist() == own.classes_.tolist()
    with pytest.raises(pv.UserError, match="logits and no features"):
        model.embed(np.zeros((3, 8, 8), np.uint8))


def test_what_is_worse_is_not_left_behind(run: pv.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(OnnxRuntime):
        def logits(self, images: np.ndarray) -> np.ndarray:
            return -super().logits(images)

    monkeypatch.setattr("pocketvit.edge.onnx.OnnxRuntime", Wrong)
    with pytest.raises(pv.UserError, match=r"not written: its test accuracy is .* max_drop \d+") as error:
        pv.export(run, out=tmp_path / "new" / "m.onnx")
    assert list((tmp_path / "new").iterdir()) == []
    allowed = float(str(error.value).split("max_drop ")[1].split()[0])
    assert pv.export(run, out=tmp_path / "new" / "m.onnx", max_drop=allowed)["bytes"] > 0


def test_the_data_have_to_be_those_of_the_run(run: pv.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "alone.safetensors"
    weights.write_bytes((run.path / "model.safetensors").read_bytes())
    with pytest.raises(pv.UserError, match="it is not known which images it came from: give data"):
        pv.export(weights, out=tmp_path / "m.onnx")
    assert main(["export", str(weights), "--data", "digits", "--out", str(tmp_path / "m.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(tmp_path / "m.onnx")
    other = np.zeros((40, 8, 8), np.uint8)
    other[::2, :4] = 200
    elsewhere = pv.finetune((other, np.arange(40) % 2), out=tmp_path / "o", device="cpu", **SIZES, epochs=1)
    with pytest.raises(pv.UserError, match="give data"):
        pv.export(elsewhere, out=tmp_path / "n.onnx")
    with pytest.raises(pv.UserError, match="not the images that the model learnt from"):
        pv.export(elsewhere, data="digits", out=tmp_path / "n.onnx")


def test_foreign_and_damaged_files_get_one_line(
    run: pv.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    pv.export(run, out=tmp_path / "m.onnx")
    (tmp_path / "half.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[:5000])
    foreign = onnx.load(tmp_path / "m.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    for name, words in (
        ("text", "not an ONNX file, or a damaged one"), ("half", "not an ONNX file, or a damaged one"),
        ("foreign", "that PocketViT did not write"), ("missing", "no such file"),
    ):  # fmt: skip
        assert main(["predict", str(tmp_path), "--model", str(tmp_path / f"{name}.onnx")]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert main(["export", str(run.path), "--to", "toaster", "--out", str(tmp_path / "m")]) == 2
    assert "--to toaster: expected one of onnx" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(run.path), "--out", str(tmp_path / "n.onnx")]) == 2
    assert 'pip install "pocketvit[onnx]"' in capsys.readouterr().err
    assert verb.KINDS == ("onnx", "html")
