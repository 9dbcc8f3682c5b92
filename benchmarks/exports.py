"""Whether a run is the same in every kind of file: written, verified on the whole test split, and counted in bytes.

    python benchmarks/exports.py runs/demo

The evidence is results/exports-NAME.json, by the run's name. Nothing is timed: that is `pocketvit bench`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import REPO, write_evidence

import pocketvit as pv
from pocketvit.edge.formats import FORMATS
from pocketvit.training.device import make_accelerator


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(prog="benchmarks/exports.py", description=__doc__.split("\n")[0], allow_abbrev=False)
    made.add_argument("run", type=Path, help="run or weights")
    made.add_argument("--data", help="images that the run came from; default: those that it was begun with")
    made.add_argument("--keep", type=Path, help="folder for the files; default: none is kept")
    made.add_argument("--out", type=Path, help="evidence file (default: results/exports-NAME.json)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Export, and write the evidence; returns the exit status."""
    given, started = parser().parse_args(argv), time.perf_counter()
    given.out = given.out or REPO / "results" / f"exports-{given.run.stem}.json"
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        for name, kind in FORMATS.items():
            for int8 in (False, True) if kind.int8 else (False,):
                file = (given.keep or Path(folder)) / f"{given.run.stem}{'-int8' if int8 else ''}{kind.suffix}"
                try:
                    found = pv.export(given.run, to=name, out=file, int8=int8, data=given.data)
                except pv.UserError as error:
                    found = {"to": name, "int8": int8, "refused": str(error).replace(str(file), file.name)}
                rows.append(found | {"file": file.name})
                print(rows[-1], file=sys.stderr)
    if all("refused" in row for row in rows):
        return 2
    given.run, given.data, given.keep = given.run.name, given.data and Path(given.data).name, None
    words = [given.run, *(["--data", given.data] if given.data else [])]  # no places
    write_evidence("exports", given, words, make_accelerator("cpu"), started, {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
