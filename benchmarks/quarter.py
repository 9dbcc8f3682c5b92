"""Make up the calls of a quarter of an hour on a borrowed machine, to which little can be carried at a time.

    python benchmarks/quarter.py lite-cifar10 --arms mae --data data/cifar10 --wheels wheels

What is to be carried (images, wheels of packages that the machine lacks, a run to go on with) is laid into .quarter/1,
.quarter/2, ..., each small enough for one call beside the repository itself; then the calls are printed. Each is run at
the machine's root of this repository, with its folder carried. docs/reproduce.md tells the rest.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
MIB = 2**20


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(prog="quarter.py", description=__doc__.split("\n")[0], allow_abbrev=False)
    made.add_argument("recipe", help="name of a recipe")
    made.add_argument("--arms", default="mae", help="what to fine-tune (default: mae)")
    made.add_argument("--data", type=Path, required=True, help="folder of Parquet files")
    made.add_argument("--wheels", type=Path, help="folder of wheels that the machine lacks")
    made.add_argument("--run", type=Path, help="run directory to go on with")
    made.add_argument("--limit", type=int, default=62, help="MiB that a call carries at most (default: 62)")
    made.add_argument("--seconds", type=int, default=555, help="of the last call (default: 555)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Lay out the parts and print the calls; returns the exit status."""
    given = parser().parse_args(argv)
    own = sum(path.stat().st_size for path in tracked())
    cargo = [*under(given.wheels, "wheels"), *under(given.data, f"data/{given.recipe.split('-')[-1]}")]
    cargo += under(given.run, f"runs/{given.run.name}") if given.run else []
    try:
        parts = packed(cargo, given.limit * MIB - own)
    except ValueError as error:
        print(f"quarter: {error}", file=sys.stderr)
        return 2
    place = REPO / ".quarter"
    shutil.rmtree(place, ignore_errors=True)
    for number, part in enumerate(parts, start=1):
        for source, target in part:
            (place / str(number) / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place / str(number) / target)
        (place / str(number) / "COMMIT").write_text(commit() + "\n")
        words = {1: f"first {given.recipe}", len(parts): f"last {given.recipe} {given.arms} {given.seconds}"}
        size = (own + sum(source.stat().st_size for source, _ in part)) / MIB
        print(
            f"# call {number} of {len(parts)} carries .quarter/{number}: {size:.1f} MiB, the repository's own included"
        )
        print(f"bash benchmarks/quarter.sh {words.get(number, 'more')}")
    return 0


def packed(cargo: list[tuple[Path, str]], room: float) -> list[list[tuple[Path, str]]]:
    """The files in their order, in as few parts as hold `room` bytes each, two at least; ValueError where one does not.

    A first part measures while the last is on its way, so that one part alone would be no saving.
    """
    parts: list[list[tuple[Path, str]]] = [[]]
    for item in cargo:
        if item[0].stat().st_size > room:
            raise ValueError(f"{item[0]}: {item[0].stat().st_size / MIB:.1f} MiB, and a call has {room / MIB:.1f} left")
        if sum(source.stat().st_size for source, _ in [*parts[-1], item]) > room:
            parts.append([])
        parts[-1].append(item)
    return parts if len(parts) > 1 else [parts[0][:-1], parts[0][-1:]]


def under(folder: Path | None, name: str) -> Iterator[tuple[Path, str]]:
    """Files below a folder, the training images before the others, with their paths on the machine."""
    files = sorted(folder.rglob("*"), key=lambda path: (not path.name.startswith("train"), path)) if folder else []
    return ((path, f"{name}/{path.relative_to(folder)}") for path in files if path.is_file())  # type: ignore[arg-type]


def tracked() -> list[Path]:
    """What travels by itself: the files of the repository, and those that it does not ignore."""
    command = ["git", "-C", str(REPO), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return [path for name in names if name and (path := REPO / name).is_file()]


def commit() -> str:
    """The tree's commit, marked where it is changed."""
    from pocketvit.run import evidence

    return str(evidence.commit()["commit"])


if __name__ == "__main__":
    sys.path.insert(0, str(REPO / "src"))
    sys.exit(main())
