"""Pictures for README of what a person sees at the end of a run: the terminal, as SVG, and the page, as PNG.

    python benchmarks/pictures.py runs/demo --command "pocketvit fit digits"

The page needs Chromium, and is left out where there is none.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
from pathlib import Path

from browser import chromium
from common import REPO
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI

from pocketvit.errors import UserError
from pocketvit.files import write_whole
from pocketvit.pages.terminal import ending
from pocketvit.run.summary import read_summary

COLUMNS = 92


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="benchmarks/pictures.py", description=__doc__.split("\n")[0], allow_abbrev=False
    )  # fmt: skip
    made.add_argument("run", type=Path, help="directory of a finished run")
    made.add_argument("--command", required=True, help="that made it, as the picture shows it")
    made.add_argument("--out", type=Path, default=REPO / "docs", help="folder for terminal.svg and report.png")
    return made


def main(argv: list[str] | None = None) -> int:
    """Write them; returns the exit status."""
    given = parser().parse_args(argv)
    try:
        summary = read_summary(given.run)
    except UserError as error:
        print(f"pictures: {error}", file=sys.stderr)
        return 2
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False, force_terminal=True)
    console.print(f"[green]$[/green] {given.command}")
    console.print(ending(summary, str(given.run)), soft_wrap=True)
    # Without the fonts that rich would have fetched from elsewhere: the reader's own do.
    form = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    form = form.replace("Fira Code", "ui-monospace, Menlo, Consolas")
    write_whole(given.out / "terminal.svg", console.export_svg(title="PocketViT", code_format=form, theme=MONOKAI))
    browser = chromium()
    if browser is None:
        print("pictures: no Chromium here: report.png is left as it is", file=sys.stderr)
        return 0
    page = (given.run / "report.html").resolve().as_uri()
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")
    target = f"--screenshot={given.out / 'report.png'}"
    subprocess.run([browser, *flags, "--window-size=1100,1500", target, page], check=True, capture_output=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
