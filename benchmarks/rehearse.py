"""Rehearse a quarter of an hour on a borrowed machine: its very calls, with what travels and nothing else, on a CPU.

    python benchmarks/rehearse.py --python ../py312/bin/python --data data/cifar10 --wheels wheels

In four forms: as planned; with a clock three times too slow; stopped amid fine-tuning; with a compiler that fails. Each
has to end with a tested model whose evidence names the commit. PYTHON is an environment with the borrowed machine's
versions (Python 3.12, torch 2.11.0, numpy 2.5.2, accelerate 1.15.0) and without what the wheels bring. A twentieth of
the images travels; that all of them fit into the calls is checked besides.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "src"), str(REPO / "benchmarks")]

import pyarrow.parquet as pq  # noqa: E402
import quarter  # noqa: E402

from pocketvit.files import write_whole  # noqa: E402

RECIPE, ARMS = "lite-cifar10", "mae"
FORMS = ("as planned", "slow clock", "stopped", "failing compiler")
SHARE = 20  # of the images, one in so many
CALL_MIB, FILES, FILE_MIB, ALL_MIB = 62, 8, 16, 64  # what a call carries in; what comes home, each and together
MIB = quarter.MIB

Json = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(prog="rehearse.py", description=__doc__.split("\n")[0], allow_abbrev=False)
    made.add_argument("--python", type=Path, required=True, help="interpreter with the borrowed machine's versions")
    made.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10's Parquet files")
    made.add_argument("--wheels", type=Path, required=True, help="wheels that the machine lacks")
    made.add_argument("--seconds", type=int, default=150, help="of the last call (default: 150)")
    made.add_argument("--smoke", type=int, default=300, help="that the first call waits for paces (default: 300)")
    made.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="which to rehearse")
    made.add_argument("--out", type=Path, default=REPO / "results" / "rehearsal.json", help="evidence file")
    return made


def main(argv: list[str] | None = None) -> int:
    """Rehearse, and write results/rehearsal.json, beside the forms that it holds already; returns the exit status."""
    given = parser().parse_args(argv)
    sizes = [size for size, _ in calls(given, given.data, 555)]
    known = json.loads(given.out.read_text())["forms"] if given.out.exists() else {}
    found: Json = {"calls_mib": sizes, "forms": known}
    with tempfile.TemporaryDirectory() as place:
        thinned = thin(given.data, Path(place) / "data")
        for form in given.forms:
            print(f"--- {form}", flush=True)
            began = time.monotonic()
            result = rehearse(form, given, thinned, Path(place) / form.replace(" ", "-"))
            found["forms"][form] = result | {"commit": quarter.commit(), "seconds": round(time.monotonic() - began)}
            print(json.dumps(found["forms"][form]), flush=True)
            write_whole(given.out, json.dumps(found, indent=1) + "\n")
    return 0


def calls(given: argparse.Namespace, data: Path, seconds: int) -> list[tuple[float, str]]:
    """MiB and command of each call, as quarter.py prints them; its parts are then in .quarter."""
    printed = io.StringIO()
    words = [RECIPE, "--arms", ARMS, "--data", str(data), "--wheels", str(given.wheels), "--seconds", str(seconds)]
    with contextlib.redirect_stdout(printed):
        status = quarter.main([*words, "--limit", str(CALL_MIB)])
    lines = printed.getvalue().splitlines()
    if status or len(lines) < 4:
        raise SystemExit("rehearse: the calls cannot be made up")
    found = [(float(said.split(": ")[1].split()[0]), call) for said, call in zip(lines[::2], lines[1::2], strict=True)]
    assert all(size <= CALL_MIB and len(call) <= 2000 for size, call in found), found
    return found


def thin(data: Path, into: Path) -> Path:
    """A twentieth of each Parquet file."""
    into.mkdir()
    for file in sorted(data.glob("*.parquet")):
        table = pq.read_table(file)
        pq.write_table(table.slice(0, len(table) // SHARE), into / file.name)
    return into


def rehearse(form: str, given: argparse.Namespace, data: Path, place: Path) -> Json:
    """One form, from an empty folder to evidence; AssertionError where something is not as it must be."""
    tree, out, home = place / "tree", place / "out", place / "home"
    for folder in (tree, out, home):
        folder.mkdir(parents=True)
    parts = calls(given, data, given.seconds)
    commit = (REPO / ".quarter" / "1" / "COMMIT").read_text().strip()
    tracked = ["git", "-C", str(REPO), "archive", commit.partition("+")[0]]
    archive = subprocess.run(tracked, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    python = place / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{given.python.absolute()}" "$@"\n')
    python.chmod(0o755)
    smoke = (
        given.smoke if form in ("as planned", "failing compiler") else given.smoke // 3
    )  # the others need no compiler
    environment = {
        "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "OUT": str(out),
        "QUARTER_PLACE": str(place / "quarter"), "QUARTER_SMOKE": str(smoke), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    if form == "failing compiler":
        environment |= {"CXX": "/bin/false"}
    for number, (_, call) in enumerate(parts, start=1):
        shutil.rmtree(tree / ".quarter", ignore_errors=True)
        shutil.copytree(REPO / ".quarter" / str(number), tree / ".quarter" / str(number))
        shutil.rmtree(out)
        out.mkdir()
        if number == len(parts):
            set_paces(form, place / "quarter" / "pace")
            environment |= {"QUARTER_GRACE": str(-given.seconds // 4)} if form == "stopped" else {}
        print(call, flush=True)
        subprocess.run(["bash", "-c", call], cwd=tree, env=environment, check=True, timeout=900)
    files = {file.name: file.stat().st_size for file in out.iterdir()}
    assert 0 < len(files) <= FILES, files
    assert max(files.values()) <= FILE_MIB * MIB, files
    assert sum(files.values()) <= ALL_MIB * MIB, files
    stopped = come_home(out, home, tree, place / "quarter" / "data", environment, given)
    evidence = json.loads((home / "published" / "results" / "lite-cifar10-cpu-0.json").read_text())
    arm, details = evidence["finetune"][-1]["arms"][ARMS], evidence["details"]
    pretrained = evidence["pretrain"][ARMS]
    assert details["commit"] == commit
    assert stopped == (form == "stopped"), "no tested model came home"
    runs = details["runs"][0]
    assert runs["steps"] > 0
    assert 0 <= arm["accuracy"] <= 1
    assert form != "slow clock" or pretrained["steps"] < pretrained["planned_steps"], "no landing"
    assert form != "slow clock" or runs["steps"] < runs["planned_steps"], "no landing"
    return {
        "home_mib": {name: round(size / MIB, 1) for name, size in files.items()}, "stopped_before_its_end": stopped,
        "promised_seconds": given.seconds, "took_seconds": details["seconds"], "accuracy": arm["accuracy"],
        "pretrain_steps": [pretrained[name] for name in ("steps", "planned_steps")],
        "finetune_steps": [runs["steps"], runs["planned_steps"]], "compiled": runs["compiled"],
        "torch": details["versions"]["torch"],
    }  # fmt: skip


def set_paces(form: str, pace: Path) -> None:
    """What makes a form: paces three times too fast, or a compiler that is believed to work."""
    for stage in ("pretrain", "finetune") if form in ("slow clock", "failing compiler") else ():
        file = pace / f"{stage}.json"
        while not file.exists():  # a test gives up in the end
            time.sleep(1)
        found = json.loads(file.read_text())
        if form == "slow clock":
            found.pop("compiled", None)
            found["eager"]["seconds_per_step"] /= 3
        elif form == "failing compiler":
            fast = found["eager"]["seconds_per_step"] * 0.9
            found["compiled"] = found["eager"] | {"compiled": True, "seconds_per_step": fast}
        file.write_text(json.dumps(found))


def come_home(
    out: Path, home: Path, tree: Path, data: Path, environment: dict[str, str], given: argparse.Namespace
) -> bool:
    """Unpack what came home, go on where it was stopped, and finish; returns whether it was stopped."""
    parts = b"".join(file.read_bytes() for file in sorted(out.glob("run.tar.*")))
    subprocess.run(["tar", "-x", "-C", str(home)], input=parts, check=True)
    site = Path(environment["QUARTER_PLACE"]) / "site"
    commit = (REPO / ".quarter" / "1" / "COMMIT").read_text().strip()
    here = environment | {"PYTHONPATH": str(site), "POCKETVIT_COMMIT": commit}
    run = home / "runs" / "lite-cifar10-0"
    stopped = not (run / "stages" / f"classifier-{ARMS}.safetensors").is_file()
    if stopped:
        again = ["python3", str(tree / "benchmarks" / "reproduce.py"), RECIPE, "--arms", ARMS, "--pace", "pace"]
        again += ["--time-limit", f"{given.seconds}s", "--data", str(data / "cifar10")]
        subprocess.run(again, cwd=home, env=here, check=True)
    finish = ["python3", str(tree / "benchmarks" / "finish.py"), str(run), "--data", str(data / "cifar10")]
    subprocess.run([*finish, "--pace", "pace", "--out", "published"], cwd=home, env=here, check=True)
    return stopped


if __name__ == "__main__":
    sys.exit(main())
