"""`export` and what reads its files again: every kind of file is verified, and is a model like any other."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import exports
import numpy as np
import onnx
import pytest
import tables
import torch
from exported import SIZES, images, meta
from PIL import Image
from sklearn.datasets import load_digits

import pocketvit as pv
from pocketvit.cli import main
from pocketvit.config import DataConfig, ResNetConfig
from pocketvit.data import load
from pocketvit.edge.format import CannotRun, module, quiet
from pocketvit.edge.formats import FORMATS, RUNTIMES
from pocketvit.edge.onnx import OnnxRuntime
from pocketvit.evaluation.predictor import Predictor
from pocketvit.model.weights import KEY, WeightsMeta
from pocketvit.pages.words import amount
from pocketvit.verbs.export import images_of

NEEDED = {"onnx": "onnxruntime", "openvino": "nncf", "executorch": "executorch", "timm": "safetensors"}
SLOW = {"executorch": pytest.mark.slow}  # half a minute to write a program, however small
KINDS = [
    pytest.param(name, int8, marks=SLOW.get(name, ()))
    for name, kind in FORMATS.items()
    if name != "html"  # which people open
    for int8 in ((False, True) if kind.int8 else (False,))
]


def test_evidence_has_every_kind_and_a_table(run: pv.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "FORMATS", {name: FORMATS[name] for name in ("onnx", "timm")})
    (tmp_path / "results").mkdir()
    file = tmp_path / "results" / "exports-small.json"
    assert exports.main([str(run.path), "--out", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [(row["to"], row["int8"]) for row in rows] == [("onnx", False), ("onnx", True), ("timm", False)]
    assert rows[0]["verified"], rows
    written = sum("refused" not in row for row in rows)  # in int8 so small a network may lose too much
    table = tables.table("exports-small", tmp_path / "results")
    assert table.count("\n| `") == written
    assert all(row["refused"][1:] in table for row in rows if "refused" in row)


@pytest.fixture(scope="module")
def onnx_file(run: pv.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "m.onnx"
    for _ in range(2):  # the first is replaced
        pv.export(run, out=file)
    return file


@pytest.mark.parametrize(("to", "int8"), KINDS)
def test_every_kind_is_verified_and_read_again(
    run: pv.Run, to: str, int8: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec(NEEDED[to]) is None:
        pytest.skip(f'needs the extra: pip install "pocketvit[{to}]"')
    (tmp_path / "README.md").write_text("mine")
    file = tmp_path / f"m{FORMATS[to].suffix}"
    # So small a network, briefly trained, loses much in int8.
    found = pv.export(run, to=to, out=file, int8=int8, max_drop=20 if int8 else 0.3)
    if not found["verified"]:
        assert to == "executorch"
        pytest.skip(found["reason"])
    assert found["images"] == run.summary["dataset"]["test"]
    details = json.loads((run.path / "summary.json").read_text())["details"]
    assert found["accuracy"] == pytest.approx(details["evaluation"]["accuracy"], abs=1e-6)
    assert found["exported_accuracy"] >= found["accuracy"] - (0.2 if int8 else 1 / found["images"])
    assert found["agreement"] > (0.7 if int8 else 0.995)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["README.md", file.name, f"{file.name}.md"])
    # What a person has there already stays.
    assert (tmp_path / "README.md").read_text() == "mine"
    model, own = pv.load(file), pv.load(run)
    some = (load_digits().images[:50] * 15).astype(np.uint8)
    changed = np.abs(model.predict_proba(some) - own.predict_proba(some))
    assert changed.mean() < 0.05 if int8 else changed.max() < 1e-4
    assert model.classes_.tolist() == own.classes_.tolist()
    Image.fromarray(some[0]).save(tmp_path / "a.png")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "a.png"), "--model", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["top"][0]["class"] in own.classes_
    assert main(["evaluate", "digits", "--model", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(found["exported_accuracy"], abs=1e-6)
    assert main(["evaluate", str(_folders(tmp_path / "set")), "--model", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test"] == 4


@pytest.mark.parametrize("to", ["onnx", "openvino", pytest.param("executorch", marks=pytest.mark.slow)])
def test_the_lines_of_the_card_load_the_file(
    run: pv.Run, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec(NEEDED[to]) is None:
        pytest.skip(f'needs the extra: pip install "pocketvit[{to}]"')
    file = tmp_path / f"m{FORMATS[to].suffix}"
    found = pv.export(run, to=to, out=file)
    card = file.with_name(f"{file.name}.md").read_text()
    assert "uint8 (N, 1, 8, 8)" in card
    if not found["verified"]:
        pytest.skip(found["reason"])
    assert f"{100 * found['exported_accuracy']:.2f} %" in card
    about = run.summary["model"]
    assert f"{about['params']:,} parameters, {amount(about['macs'])} multiply-accumulates an image" in card
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, np.ndarray] = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    expected = pv.load(run).predict_proba(pixels)
    np.testing.assert_allclose(np.asarray(names["probabilities"]), expected, atol=1e-4)


def test_a_runtime_is_chosen_by_the_files_name_or_asked_for(
    run: pv.Run, onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    told = {}
    for name in (None, "onnxruntime", "openvino"):
        rows = pv.predict(tmp_path / "a.png", model=onnx_file, runtime=name)
        told[name] = [guess["probability"] for guess in rows[0]["top"]]
    assert told["openvino"] == pytest.approx(told[None], abs=1e-4)
    given = ["predict", str(tmp_path / "a.png"), "--model", str(onnx_file), "--runtime"]
    for name, words in (
        ("toaster", "--runtime toaster: expected one of onnxruntime, openvino, executorch"),
        ("executorch", "use onnxruntime or openvino"),
    ):
        assert main([*given, name]) == 2
        assert words in capsys.readouterr().err
    assert main([*given[:3], str(run.path), "--runtime", "openvino"]) == 2
    assert "export it to .zip or .onnx first" in capsys.readouterr().err
    for name, library, extra in (("openvino", "openvino", "openvino"), ("onnxruntime", "onnxruntime", "onnx")):
        monkeypatch.setitem(sys.modules, library, None)
        assert main([*given, name]) == 2
        error = capsys.readouterr().err
        assert f'{library} is not installed: pip install "pocketvit[{extra}]"' in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("int8", [False, True])
def test_what_is_worse_is_not_left_behind(
    run: pv.Run, int8: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: OnnxRuntime, images: np.ndarray) -> np.ndarray:
        return -right(self, images)

    right = OnnxRuntime.logits
    monkeypatch.setattr(OnnxRuntime, "logits", wrong)
    with pytest.raises(pv.UserError, match=r"not written: its test accuracy is .* max_drop \d+") as error:
        pv.export(run, out=tmp_path / "new" / "m.onnx", int8=int8)
    assert list((tmp_path / "new").iterdir()) == []
    # Layers are to blame where int8 is the cause.
    assert ("int8 changes the logits most in" in str(error.value)) == int8
    allowed = float(str(error.value).split("max_drop ")[1].split()[0])
    assert pv.export(run, out=tmp_path / "new" / "m.onnx", max_drop=allowed)["bytes"] > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_leaves_nothing_half_written(run: pv.Run, number: signal.Signals, tmp_path: Path) -> None:
    given = ["export", str(run.path), "--out", str(tmp_path / "m.onnx")]
    child = subprocess.Popen([sys.executable, "-m", "pocketvit.cli", *given], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.iterdir()) and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(number)
    assert child.communicate()[1] == ""
    assert child.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_none_is_known_before_the_work(
    run: pv.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("worked in vain")

    for kind in FORMATS.values():
        monkeypatch.setattr(kind, "write", never)
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").write_text("mine")
    places = {"folder": "a folder is there", "file/m": "cannot be written", "m" * 300: "cannot be written"}
    if os.geteuid():  # to the superuser all is open
        (tmp_path / "closed").mkdir(mode=0o500)
        places["closed/m"] = "cannot be written (Permission denied)"
    for name, words in places.items():
        for verb, suffix in (("export", ".onnx"), ("bench", ".json")):
            out = str(tmp_path / f"{name}{suffix}")
            assert main([verb, str(run.path), "--out", out]) == 2
            error = capsys.readouterr().err
            assert f"--out {out}: {words}" in error
            assert error.count("\n") == 1
    weights, notes = run.path / "model.safetensors", tmp_path / "n.onnx.md"
    notes.write_text("mine")
    for to, file, there in (("timm", weights, weights), ("onnx", tmp_path / "n.onnx", notes)):
        before = there.read_bytes()
        assert main(["export", str(run.path), "--to", to, "--out", str(file)]) == 2
        assert f"--out {file}: {there.name} is there, and no export wrote it" in capsys.readouterr().err
        assert there.read_bytes() == before


def test_a_file_that_cannot_run_here_is_kept_and_said_not_to_be_verified(
    run: pv.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def faulty(self: OnnxRuntime, images: np.ndarray) -> np.ndarray:
        raise CannotRun("no such instructions")

    monkeypatch.setattr(OnnxRuntime, "logits", faulty)
    assert main(["export", str(run.path), "--out", str(tmp_path / "m.onnx")]) == 0
    assert "exported, not verified here: no such instructions" in capsys.readouterr().out
    assert "Not verified" in (tmp_path / "m.onnx.md").read_text()


def test_the_data_have_to_be_those_of_the_run(run: pv.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "alone.safetensors"
    weights.write_bytes((run.path / "model.safetensors").read_bytes())
    with pytest.raises(pv.UserError, match="it is not known which images it came from: give data"):
        pv.export(weights, out=tmp_path / "m.onnx")
    assert main(["export", str(weights), "--data", "digits", "--out", str(tmp_path / "m.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(tmp_path / "m.onnx")
    other = np.zeros((40, 8, 8), np.uint8)
    other[::2, :4] = 200
    lengths = {"epochs": 1, "finetune.min_steps": 0}
    elsewhere = pv.finetune((other, np.arange(40) % 2), out=tmp_path / "o", device="cpu", **SIZES, **lengths)
    with pytest.raises(pv.UserError, match="give data"):
        pv.export(elsewhere, out=tmp_path / "n.onnx")
    with pytest.raises(pv.UserError, match="not the images that the model learnt from"):
        pv.export(elsewhere, data="digits", out=tmp_path / "n.onnx")
    found = pv.export(elsewhere, data=(other, np.arange(40) % 2), out=tmp_path / "n.onnx")
    assert found["images"] == elsewhere.summary["dataset"]["test"]


def test_weights_alone_are_tested_on_what_their_run_held_out(tmp_path: Path) -> None:
    splits = {"data.split_seed": 1, "data.test_fraction": 0.3}
    lengths = {"epochs": 1, "finetune.min_steps": 0, "seeds": 1, "device": "cpu"}
    run = pv.finetune("digits", out=tmp_path / "run", **SIZES, **lengths, **splits)
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((run.path / "model.safetensors").read_bytes())
    pv.export(alone, data="digits", out=tmp_path / "m.onnx")
    held_out, _ = load("digits", DataConfig(split_seed=1, test_fraction=0.3)).labelled("test")
    for file in (alone, tmp_path / "m.onnx"):
        found, _ = images_of(file, pv.load(file).meta, "digits").labelled("test")
        assert np.array_equal(found, held_out)


def test_a_card_says_whether_probabilities_are_calibrated() -> None:
    assert "calibrated (temperature 1.700)" in FORMATS["onnx"].about(meta())
    assert "not calibrated" in FORMATS["onnx"].about(replace(meta(), temperature=1.0))


def test_wrong_words_and_foreign_files_get_one_line(
    run: pv.Run, onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "half.onnx").write_bytes(onnx_file.read_bytes()[:5000])
    # The name of an operator, which runtimes repeat in what they say.
    (tmp_path / "letter.onnx").write_bytes(onnx_file.read_bytes().replace(b"Gelu", b"\xffelu"))
    foreign = onnx.load(onnx_file)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    for name, about in (("size", {"shape": [16, 16, 1]}), ("classes", {"classes": ["a", "b"]})):
        other = onnx.load(onnx_file)
        entry = next(entry for entry in other.metadata_props if entry.key == KEY)
        entry.value = json.dumps(json.loads(entry.value) | about)
        onnx.save(other, tmp_path / f"{name}.onnx")
    for name in ("page.html", "model.xml", "model.bin"):
        (tmp_path / name).write_text("<html>")
    for runtime in ("onnxruntime", "openvino"):
        for name, words in (
            ("text", "write it anew with `export`"), ("half", "or a damaged one"), ("missing", "no such file"),
            ("letter", "or a damaged one"),
            ("foreign", "that PocketViT did not write"), ("size", "its `pixels` is of shape"),
            ("classes", "its `logits` is of shape"),
        ):  # fmt: skip
            given = ["--model", str(tmp_path / f"{name}.onnx"), "--runtime", runtime]
            assert main(["predict", str(tmp_path), *given]) == 2
            told, error = capsys.readouterr()
            assert not told
            assert words in error
            assert error.count("\n") == 1
            assert "Exception from" not in error  # places in OpenVINO's source
    for name, words in (
        ("page.html", "a page for browsers: open it in one"), ("model.xml", "half of an OpenVINO model: give the .zip"),
        ("model.bin", "half of an OpenVINO model: give the .zip"),
    ):  # fmt: skip
        for verb in (["predict", str(tmp_path), "--model"], ["bench"]):
            assert main([*verb, str(tmp_path / name)]) == 2
            assert words in capsys.readouterr().err
    for more, words in (
        (["--to", "toaster"], "--to toaster: expected one of onnx, openvino, executorch, html, timm"),
        (["--to", "openvino"], "expected a name that ends in .zip for --to openvino"),
        (["--to", "timm", "--out", "m.safetensors", "--int8"], "use --to onnx or openvino"),
        (["--max-drop", "-1"], "--max-drop -1: expected points of accuracy, 0 or more"),
        (["--max-drop", "some"], "--max-drop some: expected a number"),
    ):
        assert main(["export", str(run.path), "--out", str(tmp_path / "n.onnx"), *more]) == 2
        assert words in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(run.path), "--out", str(tmp_path / "n.onnx")]) == 2
    assert 'pip install "pocketvit[onnx]"' in capsys.readouterr().err
    assert not (tmp_path / "n.onnx").exists()
    assert {suffix for runtime in RUNTIMES.values() for suffix in runtime.reads} == {".onnx", ".zip", ".pte"}


def _folders(root: Path) -> Path:
    """Two images of each of two classes."""
    for name in ("0", "1"):
        (root / name).mkdir(parents=True)
        for number in range(2):
            pixels = np.full((8, 8), 40 * number + 90 * int(name), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize(("to", "int8"), [("onnx", False), ("onnx", True), ("openvino", False), ("openvino", True)])
def test_a_cnn_goes_the_same_way(to: str, int8: bool, tmp_path: Path) -> None:
    """Its own operators, convolutions among them, and normalisation before the first."""
    torch.manual_seed(0)
    about = WeightsMeta(
        "classifier", ResNetConfig(8), (8, 12, 3), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), ("cat", "dog"), network="resnet",
        temperature=1.7,
    )  # fmt: skip
    network = about.build()
    network(torch.randn(64, 3, 8, 12))  # so that its norms have seen something
    file = tmp_path / f"cnn{FORMATS[to].suffix}"
    FORMATS[to].write(file, network.eval(), about, images() if int8 else None)
    assert FORMATS[to].precision(file) == ("int8" if int8 else "float32")
    model, own = pv.load(file), Predictor.of(network, about, "cpu")
    assert model.meta == about
    changed = np.abs(model.predict_proba(images()) - own.probabilities(images()))
    assert changed.mean() < 0.05 if int8 else changed.max() < 1e-5


def test_what_is_imported_within_a_quiet_part_leaves_it_quiet() -> None:
    with quiet():
        module("json", "any")
        assert not logging.getLogger("nncf").isEnabledFor(logging.WARNING)
    assert logging.getLogger("nncf").isEnabledFor(logging.WARNING)


def test_timm_has_no_place_for_a_cnn(tmp_path: Path) -> None:
    about = WeightsMeta("classifier", ResNetConfig(8), (8, 8, 1), (0.4,), (0.2,), ("a", "b"), network="resnet")
    with pytest.raises(pv.UserError, match="to timm: a ResNet has no place in timm's VisionTransformer"):
        FORMATS["timm"].write(tmp_path / "m.safetensors", about.build(), about)
