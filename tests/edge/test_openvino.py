"""OpenVINO files, one archive each, and ONNX files that OpenVINO runs."""

from __future__ import annotations

import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from exported import classifier, images, meta

from pocketvit.edge.onnx import Onnx
from pocketvit.edge.openvino import OpenVino, OpenVinoIr
from pocketvit.errors import UserError
from pocketvit.evaluation.predictor import Predictor

# Looked for and not imported: that would bring its telemetry before it is switched off.
if not (find_spec("openvino") and find_spec("nncf")):
    pytest.skip('needs the extra: pip install "pocketvit[openvino]"', allow_module_level=True)


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_an_archive_is_the_network_in_float32(pool: str, tmp_path: Path) -> None:
    about = meta(pool)
    vit = classifier(about)
    OpenVinoIr.write(tmp_path / "m.zip", vit, about)
    runtime, expected = OpenVino(tmp_path / "m.zip", threads=1), Predictor.of(vit, about, "cpu")
    assert runtime.meta == about
    for count in (1, 300):
        # Neither half-precision weights nor bf16 products would come so near.
        np.testing.assert_allclose(runtime.logits(images(count)), expected.logits(images(count)), atol=2e-5, rtol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["m.zip"]
    # Nothing reports its use.
    assert sys.modules["openvino_telemetry"] is None


def test_int8_comes_near(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    about = meta()
    vit = classifier(about)
    OpenVinoIr.write(tmp_path / "q.zip", vit, about, images(64))
    # What --json prints on stdout is JSON alone.
    assert capfd.readouterr().out == ""
    runtime, exact = OpenVino(tmp_path / "q.zip"), Predictor.of(vit, about, "cpu").logits(images())
    assert runtime.meta == about
    assert 0 < np.abs(runtime.logits(images()) - exact).max() < 0.25 * np.abs(exact).max()
    assert b'element_type="i8"' in zipfile.ZipFile(tmp_path / "q.zip").read("model.xml")


def test_it_runs_onnx_files(tmp_path: Path) -> None:
    about = meta()
    vit = classifier(about)
    Onnx.write(tmp_path / "m.onnx", vit, about)
    runtime = OpenVino(tmp_path / "m.onnx")
    assert runtime.meta == about
    np.testing.assert_allclose(runtime.logits(images()), Predictor.of(vit, about, "cpu").logits(images()), atol=2e-5)


def test_foreign_and_damaged_archives_are_told(tmp_path: Path) -> None:
    about = meta()
    OpenVinoIr.write(tmp_path / "m.zip", classifier(about), about)
    whole = (tmp_path / "m.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.zip").write_text("no model")
    with zipfile.ZipFile(tmp_path / "m.zip") as archive:
        start = archive.getinfo("model.bin").header_offset + 30 + len("model.bin")
    (tmp_path / "stream.zip").write_bytes(whole[:start] + b"\xff" + whole[start + 1 :])
    with zipfile.ZipFile(tmp_path / "m.zip") as archive, zipfile.ZipFile(tmp_path / "foreign.zip", "w") as foreign:
        foreign.writestr("model.xml", archive.read("model.xml").replace(b"pocketvit", b"another"))
        foreign.writestr("model.bin", archive.read("model.bin"))
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.png", b"")
    for name, words in (
        ("half", "not an OpenVINO model"), ("stream", "not an OpenVINO model"), ("text", "write it anew with `export`"),
        ("photos", "not an OpenVINO model"),
        ("foreign", "no metadata of PocketViT's"), ("missing", "no such file"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words) as error:
            OpenVino(tmp_path / f"{name}.zip")
        assert "\n" not in str(error.value)
