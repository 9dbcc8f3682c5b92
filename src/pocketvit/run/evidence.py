"""What a published number must name: command, commit, date, versions and machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PROGRAM = "pocketvit"
PACKAGES = ("pocketvit", "torch", "numpy", "pillow", "scikit-learn", "lion-pytorch", "schedulefree")


def evidence(verb: str, resumed: bool = False) -> dict[str, Any]:
    """Command, commit, date, versions and machine of this process, as JSON; `verb` is what was called from Python."""
    return {
        "command": command(verb),
        "resumed": resumed,
        **commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | _versions(),
        "environment": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system()},
    }


def command(verb: str) -> str:
    """The command as it was typed; of Python code that called a verb, the call."""
    program, *words = sys.argv
    name = Path(program).stem
    if name not in (PROGRAM, "__main__", "cli"):
        return f"{PROGRAM}.{verb}(...)"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if "TORCHELASTIC_RUN_ID" in os.environ or processes > 1:
        return shlex.join(["torchrun", f"--nproc-per-node={processes}", "-m", f"{PROGRAM}.cli", *words])
    return shlex.join([PROGRAM, *words])


def commit() -> dict[str, str | None]:
    """The checkout's commit, and the difference from it where there is one; None in an installed package."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        # This file's own: an installed package may lie in somebody else's checkout.
        asked = [*git, "rev-parse", "HEAD", f"HEAD:./{Path(__file__).name}"]
        head, _ = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
        diff = subprocess.run([*git, "diff", "HEAD", "--", str(here.parent)], capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        # A tree that travels without .git, to a machine that is borrowed, takes it along in the environment.
        return {"commit": os.environ.get("POCKETVIT_COMMIT"), "diff": None}
    return {"commit": f"{head}+changes" if diff else head, "diff": diff or None}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
