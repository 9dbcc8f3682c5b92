"""What is on the screen while a run works, and at its end: in a terminal, without one, and in a notebook."""

from __future__ import annotations

import csv
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from pocketvit.cli import main
from pocketvit.verbs.progress import PART, in_parts

REPO = Path(__file__).resolve().parents[2]
BRIEF = (
    *("--device=cpu", "--precision=float32", "--epochs=12", "--finetune.epochs=1", "--finetune.min_steps=60"),
    *("--seeds=1", "--labels-per-class=5", "--model.width=32", "--model.depth=2", "--model.heads=2"),
    *("--model.decoder_width=16", "--model.decoder_heads=2", "--resnet.depth=8"),
)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_a_terminal(args: list[str], columns: int, rows: int, folder: Path) -> str:
    """All that a command has written to a terminal of that size, escapes and all."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "pocketvit.cli", *args], cwd=folder, stdin=side, stdout=side, stderr=side,
        env=environment | {"TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(side)
    written = b""
    while True:
        try:
            some = os.read(main, 65536)
        except OSError:  # Linux says so when nobody holds the other side any more
            break
        if not some:
            break
        written += some
    os.close(main)
    assert process.wait() == 0, written.decode()
    return written.decode()


@pytest.mark.parametrize(("columns", "rows"), [pytest.param(110, 30, marks=pytest.mark.slow), (80, 24)])
def test_a_terminal_shows_plan_progress_and_end(columns: int, rows: int, tmp_path: Path) -> None:
    written = in_a_terminal(["fit", "digits", *BRIEF, "--out", "r"], columns, rows, tmp_path)
    assert "\x1b[1m" in written  # the verdict is bold
    assert "measuring how long each stage takes" in written
    lines = [line for part in ESCAPES.sub("", written).replace("\r", "\n").splitlines() if (line := part.rstrip())]
    assert max(map(len, lines)) <= columns
    heads = [line.split()[0] for line in lines if not line.startswith(" ")]
    order = [
        heads.index(head) for head in ("Data", "Model", "Plan", "Run", "raw", "pretrain:", "probe", "Saved", "Next")
    ]
    assert order == sorted(order)
    assert any(re.search(r"2/\d  pre-training \(MAE\).*\d+ s left", line) for line in lines)
    assert any(re.search(r"validation \d+\.\d%", line) for line in lines)
    for words in ("ends near", "test accuracy", "Weakest", "Time", "pocketvit predict IMAGES --model r"):
        assert any(words in line for line in lines), words


def test_without_a_terminal_there_is_a_line_for_each_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "digits", *BRIEF, "--out", "r"]) == 0
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err
    assert max(map(len, out.splitlines())) <= 100
    assert len(err.splitlines()) < 30
    for words in (
        "Data ",
        "measuring how long each stage takes",
        "Plan ",
        "raw pixels with",
        "pretrain: 12 epochs",
        "probe of mae",
        "fine-tuning from MAE",
    ):
        assert words in err
    assert "Saved " in out


def outputs(cell: Any, kind: str) -> str:
    """What a cell has shown, of one kind."""
    return "".join(str(out.get("data", {}).get(kind, "")) for out in cell.get("outputs", []))


@pytest.mark.slow
def test_the_tour_runs_from_import_to_a_csv(tmp_path: Path) -> None:
    """docs/tour.ipynb, in a kernel of its own; one widget shows a stage at work."""
    notebook = nbformat.read(REPO / "docs" / "tour.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) == 10
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = dict(enumerate(code))
    assert "pre-training (MAE)" in outputs(shown[2], "text/plain")
    fitted = "".join(str(out) for out in shown[3]["outputs"])
    assert "application/vnd.jupyter.widget-view+json" in fitted
    html = outputs(shown[4], "text/html")
    assert "MAE, fine-tuned" in html
    assert "report.html" in html
    assert "SVM on raw pixels" in outputs(shown[5], "text/plain")
    assert "10 classes" in outputs(shown[7], "text/plain")
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1798
    assert {row[1] for row in rows[1:]} <= {str(digit) for digit in range(10)}


def test_a_bar_moves_while_images_are_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.arange(5000, dtype=np.uint8).reshape(-1, 1, 1, 1)
    sizes: list[int] = []

    def compute(part: np.ndarray) -> np.ndarray:
        sizes.append(len(part))
        return part[:, 0, 0].astype(np.float32)

    found = in_parts(compute, images, "test images")
    assert (sizes, found.shape) == ([PART, PART, 5000 - 2 * PART], (5000, 1))
    assert (found[:, 0] == images[:, 0, 0, 0]).all()
    assert capsys.readouterr().err == ""  # no terminal
    monkeypatch.setenv("FORCE_COLOR", "1")  # which makes one of anything
    in_parts(compute, images, "test images")
    assert "test images" in capsys.readouterr().err
