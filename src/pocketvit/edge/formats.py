"""The tables: kinds of files that `export` writes, and the runtimes that read them. A new one is a file and a line."""

from __future__ import annotations

from pathlib import Path

from pocketvit.edge.executorch import ExecuTorch, Pte
from pocketvit.edge.format import FileRuntime, Format
from pocketvit.edge.html import Html
from pocketvit.edge.onnx import Onnx, OnnxRuntime
from pocketvit.edge.openvino import OpenVino, OpenVinoIr
from pocketvit.edge.timm import Timm
from pocketvit.errors import UserError

FORMATS: dict[str, type[Format]] = {"onnx": Onnx, "openvino": OpenVinoIr, "executorch": Pte, "html": Html, "timm": Timm}
# Of those that read a kind of file, the first is taken unless another is asked for.
RUNTIMES: dict[str, type[FileRuntime]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino, "executorch": ExecuTorch}
# What else lies beside exported files, and is taken for one.
_HALF = "half of an OpenVINO model: give the .zip that `export` wrote, or model.xml and model.bin in one"
ELSEWHERE = {
    Html.suffix: "a page for browsers: open it in one, and give a run directory or a weights file here",
    **dict.fromkeys((".xml", ".bin"), _HALF),
}


def format_of(name: str, file: Path, int8: bool) -> type[Format]:
    """A kind of file; raises UserError where there is none, or `file` or int8 do not fit it."""
    if name not in FORMATS:
        raise UserError(f"--to {name}: expected one of {', '.join(FORMATS)}")
    found = FORMATS[name]
    if file.suffix != found.suffix:
        raise UserError(f"--out {file}: expected a name that ends in {found.suffix} for --to {name}")
    if int8 and not found.int8:
        able = " or ".join(other for other, kind in FORMATS.items() if kind.int8)
        raise UserError(f"--int8: not with --to {name}, whose weights stay in float32: use --to {able}")
    return found


def runtime_of(file: Path, name: str | None = None) -> type[FileRuntime] | None:
    """What runs an exported file; None for weights that PyTorch runs.

    Raises:
        UserError: no runtime of that name, or one that does not read such files.
    """
    if name is not None and name not in RUNTIMES:
        raise UserError(f"--runtime {name}: expected one of {', '.join(RUNTIMES)}")
    able = {other: runtime for other, runtime in RUNTIMES.items() if file.suffix in runtime.reads}
    if name is not None and name not in able:
        which = f"use {' or '.join(able)}" if able else f"export it to {' or '.join(RUNTIMES[name].reads)} first"
        raise UserError(f"--runtime {name}: does not read {file}: {which}")
    if not able and file.suffix in ELSEWHERE and file.is_file():
        raise UserError(f"{file}: {ELSEWHERE[file.suffix]}")
    return RUNTIMES[name] if name else next(iter(able.values()), None)
