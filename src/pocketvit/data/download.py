"""A file from the network, once: with progress, gone on with where it was cut off, and checked."""

from __future__ import annotations

import hashlib
import http.client
import sys
import urllib.error
import urllib.request
from pathlib import Path

from pocketvit.errors import UserError

BLOCK = 1 << 20  # bytes
PATIENCE = 30  # seconds without an answer


def downloaded(url: str, sha256: str, folder: Path, name: str) -> Path:
    """The file at `url`, in `folder`; what is there already is taken, and a part of it is gone on with.

    Args:
        url: ends in the file's name
        sha256: hexadecimal
        folder: is made
        name: of the set, for messages

    Raises:
        UserError: no network, a transfer that was cut off, or other bytes than expected.
    """
    file = folder / url.rpartition("/")[2]
    if file.is_file():
        return file
    part = file.with_name(f"{file.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, name)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise UserError(
            f"{name}: {url} cannot be downloaded ({reason}): run again to go on, or put {file.name} or a folder "
            f"'{name}' of Parquet files into $POCKETVIT_DATA"
        ) from None
    if not has_checksum(part, sha256):
        part.unlink()
        raise UserError(f"{name}: what {url} gave is not the authors' archive, for its SHA-256 is another: run again")
    return part.replace(file)


def has_checksum(file: Path, sha256: str) -> bool:
    """Whether a file's SHA-256 is that, hexadecimal."""
    content = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            content.update(block)
    return content.hexdigest() == sha256


def _fetch(url: str, part: Path, name: str) -> None:
    """Append to `part` what it lacks of the file at `url`."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is whole
            return
        raise
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    quiet = not sys.stderr.isatty()
    if quiet:
        print(f"{name}: downloading {url}", file=sys.stderr)
    with answer, Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as progress:
        have = have if answer.status == 206 else 0  # a server may send all of it again
        total = have + int(answer.headers.get("Content-Length") or 0)
        task = progress.add_task(f"downloading {name}", total=total or None, completed=have)
        with part.open("ab" if have else "wb") as stream:
            while block := answer.read(BLOCK):
                stream.write(block)
                progress.advance(task, len(block))
            end = stream.tell()
    if total and end < total:
        raise ConnectionError(f"cut off after {end:,} of {total:,} bytes")
