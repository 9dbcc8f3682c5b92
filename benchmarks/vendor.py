"""Renews the runtime that exported pages carry: onnxruntime-web, and the licence and notices of onnxruntime.

    python benchmarks/vendor.py 1.30.0

It needs npm and pip, and writes to src/pocketvit/edge/onnxruntime_web/.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from common import REPO

from pocketvit.files import write_whole

FOLDER = REPO / "src" / "pocketvit" / "edge" / "onnxruntime_web"
# The module with its loader in it, and the program for one thread or several: the page uses one.
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
NOTICES = ("LICENSE", "ThirdPartyNotices.txt")


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="benchmarks/vendor.py", description=__doc__.split("\n")[0], allow_abbrev=False
    )  # fmt: skip
    made.add_argument("version", help="of both packages, as 1.30.0")
    return made


def main(argv: list[str] | None = None) -> int:
    """Fetch, compress and write; returns the exit status."""
    version = parser().parse_args(argv).version
    with TemporaryDirectory() as folder:
        try:
            contents = fetched(version, Path(folder))
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"vendor: {version} could not be fetched: {error}", file=sys.stderr)
            return 1
    about = {"package": "onnxruntime-web", "version": version, "sha256": {}}
    for name, content in contents.items():
        if name == "LICENSE":  # small, and to be found by whoever looks for it
            write_whole(FOLDER / name, content)
            continue
        # Without a time in it, equal content gives equal files.
        packed = gzip.compress(content, 9, mtime=0)
        write_whole(FOLDER / f"{name}.gz", packed)
        about["sha256"][f"{name}.gz"] = hashlib.sha256(packed).hexdigest()
    write_whole(FOLDER / "about.json", json.dumps(about, indent=2) + "\n")
    return 0


def fetched(version: str, folder: Path) -> dict[str, bytes]:
    """Content by name of FILES and NOTICES."""
    subprocess.run(["npm", "pack", "--silent", f"onnxruntime-web@{version}"], cwd=folder, check=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "."]
    subprocess.run([*pip, f"onnxruntime=={version}"], cwd=folder, check=True)
    with tarfile.open(next(folder.glob("*.tgz"))) as package, zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        found = {}
        for name in FILES:
            member = package.extractfile(f"package/dist/{name}")
            assert member is not None
            found[name] = member.read()
        return found | {name: wheel.read(f"onnxruntime/{name}") for name in NOTICES}


if __name__ == "__main__":
    sys.exit(main())
