"""How well `fit` keeps to its plan and to its time limit: plan, and truth by the clock, for some sets and limits.

    python benchmarks/plans.py --set digits digits 3m --set tiles eurosat_32 10m

Each --set is a name, a source and a time limit, or "none"; other flags are settings of all of them. On a machine that
does other work the times say little. The evidence is results/plans.json, and tables.py makes a table of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import REPO, flags_of, settings_in, write_evidence

from pocketvit.config import seconds_of
from pocketvit.errors import UserError
from pocketvit.training.device import make_accelerator


def parser() -> argparse.ArgumentParser:
    """The flags; any other --NAME VALUE is a setting."""
    made = argparse.ArgumentParser(
        prog="benchmarks/plans.py", description=__doc__.split("\n")[0], allow_abbrev=False,
        epilog="Any other --NAME VALUE is a setting of all sets, as for `pocketvit fit`.",
    )  # fmt: skip
    made.add_argument(
        "--set", nargs=3, action="append", required=True, metavar=("NAME", "DATA", "LIMIT"), dest="sets",
        help='name, source and time limit (10m, or "none")',
    )  # fmt: skip
    made.add_argument("--out", type=Path, default=REPO / "results" / "plans.json", help="evidence file")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run them one after the other; returns the exit status."""
    given, rest = parser().parse_known_args(argv)
    try:
        settings = settings_in(rest)
        for _, _, limit in given.sets:
            if limit != "none":
                seconds_of(limit)
    except UserError as error:
        print(f"plans: {error}", file=sys.stderr)
        return 2
    began = time.perf_counter()
    flags = flags_of(settings)
    found = []
    for name, data, limit in list(given.sets):
        found.append(measured(name, data, None if limit == "none" else limit, flags))
        print(json.dumps({key: value for key, value in found[-1].items() if key != "stages"}), file=sys.stderr)
        sets = [word for one in found for word in ("--set", one["name"], one["name"], one["limit"] or "none")]
        given.sets = [[one["name"], one["name"], one["limit"] or "none"] for one in found]  # no places
        write_evidence("plans", given, [*sets, *flags], make_accelerator("cpu"), began, {"sets": found})
    return 0


def measured(name: str, data: str, limit: str | None, flags: list[str]) -> dict[str, Any]:
    """What was planned for one set, and what it took."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "pocketvit.cli", "fit", data, *flags, "--out", str(out)]
        command += ["--time-limit", limit] if limit else []
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        took = time.perf_counter() - began
        summary = json.loads((out / "summary.json").read_text())
    details, dataset = summary["details"], summary["dataset"]
    plan = details["plan"]
    arms = summary["finetune"][-1]["arms"]
    return {
        "name": name, "limit": limit, "seconds": round(took, 1), "planned": plan["seconds"],
        "preset": summary["model"]["preset"], "images": dataset["train"] + dataset["val"] + dataset["test"],
        "shape": dataset["shape"], "arms": {name: arm["accuracy"] for name, arm in arms.items()},
        "seeds": len(next(iter(arms.values()))["seeds"]), "notes": plan["notes"], "stages": plan["stages"],
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
