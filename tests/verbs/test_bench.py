"""What `bench` measures of real files; no time is compared with another, for the machine may be busy."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

import pocketvit as pv
from pocketvit.cli import main
from pocketvit.config import ResNetConfig
from pocketvit.edge.runtimes import EAGER, NAMED, TIMED, reader_of
from pocketvit.model import weights
from pocketvit.model.weights import WeightsMeta
from pocketvit.pages.speed import HEADS, bench_text
from pocketvit.training.device import cpu_multiplies_bf16

SIZES = {"model.width": 32, "model.depth": 1, "model.heads": 2}
BRIEF: dict[str, Any] = {
    **SIZES, "device": "cpu", "finetune.epochs": 1, "finetune.min_steps": 200, "labels_per_class": "all",
}  # fmt: skip
# An ExecuTorch program takes half a minute to write, and does not run everywhere.
QUICK = tuple(one for one in TIMED if one.name != "ExecuTorch")
FEW = (EAGER, NAMED["ONNX Runtime float32"], NAMED["ONNX Runtime int8"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pv.Run:
    return pv.finetune("digits", out=tmp_path_factory.mktemp("run") / "mine", **BRIEF)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketvit.verbs.bench.thread_counts", lambda: [1])


@pytest.fixture(scope="module")
def measured(run: pv.Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("out") / "new" / "b.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pocketvit.verbs.bench.thread_counts", lambda: [1])
        patch.setattr("pocketvit.verbs.bench.TIMED", FEW)
        return pv.bench(run, out=out, rounds=2, quiet=True), out


@pytest.mark.slow
def test_every_runtime_has_a_row_for_one_image_and_for_many(run: pv.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketvit.verbs.bench.TIMED", QUICK)
    found = pv.bench(run, rounds=2, quiet=True)
    expected = {(one.name, one.precision, batch) for one in QUICK if one.runs() for batch in (1, 32)}
    assert {(row["runtime"], row["precision"], row["batch"]) for row in found["rows"]} == expected
    assert ("PyTorch", "bf16", 1) in expected or not cpu_multiplies_bf16()
    assert found["details"]["runtimes"].keys() == {"onnxruntime", "openvino", "torch"}
    assert_rows_say_what_calls_took(found)


def test_a_row_says_what_its_calls_took(measured: tuple[dict[str, Any], Path]) -> None:
    found, out = measured
    assert len(found["rows"]) == len(FEW) * 2
    assert_rows_say_what_calls_took(found)
    assert json.loads(out.read_text()) == found
    assert {"command", "commit", "date", "versions", "environment"} < found["details"].keys()


def assert_rows_say_what_calls_took(found: dict[str, Any]) -> None:
    rows = found["rows"]
    assert [row["seconds"]["median"] for row in rows] == sorted(row["seconds"]["median"] for row in rows)
    peaks = {peak["precision"]: peak["flops"] for peak in found["peaks"]}
    for row in rows:
        assert row["seconds"]["calls"] == 20
        assert 0 < row["seconds"]["median"] <= row["seconds"]["p99"]
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["seconds"]["median"])
        share = 2 * row["macs"] * row["images_per_second"] / peaks[row["precision"]]
        assert row["share_of_peak"] == pytest.approx(share)
        assert row["load_seconds"] > 0
        if row["precision"] == "float32":
            assert row["over_float32"] == 1
            assert (row["over_eager"] == 1) == (row["runtime"] == "PyTorch")


def test_accuracy_is_that_of_the_whole_test_split(measured: tuple[dict[str, Any], Path], run: pv.Run) -> None:
    told = json.loads((run.path / "summary.json").read_text())["details"]["evaluation"]["accuracy"]
    by_runtime = {(row["runtime"], row["precision"]): row["accuracy"] for row in measured[0]["rows"]}
    assert told > 0.5
    assert by_runtime["PyTorch", "float32"] == pytest.approx(told, abs=1e-6)
    assert by_runtime["ONNX Runtime", "float32"] == pytest.approx(told, abs=1.01 / run.summary["dataset"]["test"])
    assert by_runtime["ONNX Runtime", "int8"] == pytest.approx(told, abs=0.2)


def test_memory_and_size_are_each_runtimes_own(measured: tuple[dict[str, Any], Path]) -> None:
    rows = {(row["runtime"], row["precision"]): row for row in measured[0]["rows"] if row["batch"] == 32}
    files = {name: row["file_bytes"] for name, row in rows.items()}
    assert files["ONNX Runtime", "int8"] < files["ONNX Runtime", "float32"]
    assert files["PyTorch", "float32"] == pytest.approx(4 * 11_000, rel=0.5)
    if rows["PyTorch", "float32"]["peak_bytes"] is None:
        pytest.skip("this system does not tell a process's peak")
    # PyTorch is not in the memory of what runs without it.
    assert rows["ONNX Runtime", "float32"]["peak_bytes"] < 0.6 * rows["PyTorch", "float32"]["peak_bytes"]


def test_the_table_fits_a_terminal_and_says_what_it_holds_for(measured: tuple[dict[str, Any], Path]) -> None:
    found, out = measured
    lines = bench_text(found).splitlines()
    assert max(map(len, lines)) <= 100
    at = next(number for number, line in enumerate(lines) if line.startswith("1 image, 1 thread "))
    heads = [" ".join(pair).strip() for pair in zip(lines[at - 1].split()[-4:], lines[at].split()[-4:], strict=True)]
    assert heads == list(HEADS[-4:])
    assert lines[at + 1].split()[-1] == f"{100 * found['rows'][0]['accuracy']:.2f}"
    text = " ".join(lines)
    assert f"{found['details']['environment']['cpu']} with " in text
    assert all(name in text for name in found["instructions"])
    picture = ElementTree.parse(out.with_suffix(".svg")).getroot()
    texts = {element.text for element in picture.iter() if element.text}
    assert {"PyTorch", "ONNX Runtime", "float32", "int8", "test accuracy"} <= texts


def test_each_network_that_a_run_has_kept_is_a_row(
    run: pv.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "several"
    shutil.copytree(run.path, folder)
    stages = folder / "stages"
    for file in stages.glob("*.safetensors"):
        file.unlink()
    shutil.copy(folder / "model.safetensors", stages / "frozen-mae.safetensors")
    torch.manual_seed(0)
    _, meta = weights.load(folder)
    cnn = WeightsMeta(
        "classifier", ResNetConfig(8), meta.shape, meta.mean, meta.std, meta.classes, network="resnet",
        source=meta.source,
    )  # fmt: skip
    weights.save(stages / "classifier-resnet.safetensors", cnn.build(), cnn)
    monkeypatch.setattr("pocketvit.verbs.bench.TIMED", (EAGER,))
    assert main(["bench", str(folder), "--rounds", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["network"] for row in rows} == {"mae, frozen (saved)", "resnet"}
    assert len({row["macs"] for row in rows}) == 2
    assert {row["over_eager"] for row in rows} == {1}
    assert re.search(r"^resnet: PyTorch float32 ", bench_text({**BARE, "rows": rows}), re.MULTILINE)


BARE: dict[str, Any] = {"peaks": [], "instructions": [], "notes": [], "details": {"environment": {"cpu": "a CPU"}}}


def test_an_exported_file_is_measured_in_its_own_runtime(run: pv.Run, tmp_path: Path) -> None:
    file = tmp_path / "q.onnx"
    pv.export(run, out=file, int8=True, max_drop=30)
    assert reader_of(file).precision == "int8"
    found = pv.bench(file, data="digits", rounds=1, quiet=True)
    assert {(row["network"], row["runtime"], row["precision"]) for row in found["rows"]} == {
        ("q.onnx", "ONNX Runtime", "int8")
    }
    assert all(row["over_eager"] is None and row["over_float32"] is None for row in found["rows"])
    assert "q.onnx" in bench_text({**found, "rows": [*found["rows"], {**found["rows"][0], "network": "another"}]})


def test_what_is_missing_or_wrong_gets_one_line(
    run: pv.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / "alone.safetensors"
    shutil.copy(run.path / "model.safetensors", alone)
    (tmp_path / "foreign.onnx").write_text("no model")
    for words, flags in (
        ("it is not known which images it came from: give --data", [str(alone)]),
        ("not an ONNX file, or a damaged one", [str(tmp_path / "foreign.onnx")]),
        ("no such file", [str(tmp_path / "nothing.safetensors")]),
        ("--rounds 0: expected at least 1", [str(run.path), "--rounds", "0"]),
        ("expected a file that ends in .json", [str(run.path), "--out", str(tmp_path / "b.png")]),
    ):
        assert main(["bench", *flags]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    with pytest.raises(pv.UserError, match="give a run"):
        pv.bench()
    # Without a runtime, the others are measured, and a note says what to install.
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("pocketvit.verbs.bench.TIMED", (EAGER, NAMED["ONNX Runtime int8"]))
    assert main(["bench", str(run.path), "--rounds", "1"]) == 0
    text = capsys.readouterr().out
    assert 'ONNX Runtime is not installed: pip install "pocketvit[onnx]"' in text
    assert "PyTorch float32" in text
