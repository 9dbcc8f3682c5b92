"""Read a run directory from disk, gather what each section of the page needs, and write report.html at once.
A section whose data the run does not have is None here and left out by the template."""

import json
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from pocketvit.errors import UserError
from pocketvit.files import write_whole
from pocketvit.pages import words
from pocketvit.pages.sections import Arrays, Context, page_context
from pocketvit.run.folder import RunFolder
from pocketvit.run.summary import read_summary

MOST_IMAGES = 60  # of a kind: a page that a phone opens at once


def write_report(run_dir: Path) -> Path:
    """Write the page of a run from the files in its directory, replacing an older one in one step; returns its path.

    Raises:
        UserError: the directory has no results, or files that cannot be read.
        OSError: the page cannot be written.
    """
    folder = RunFolder(Path(run_dir))
    summary, metrics = read_summary(folder.root), _read_metrics(folder.metrics)
    arrays = {**_read_arrays(folder.doubted), **_read_arrays(folder.figures)}
    config = folder.config
    settings = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None
    page = _template().render(page_context(summary, metrics, arrays, settings))
    write_whole(folder.report, page.encode("utf-8", errors="replace"))  # file names may hold bytes that are no text
    return folder.report


@cache
def _template() -> Template:
    """Compiled once, for that takes as long as filling it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=words.percent, points=words.points, amount=words.amount, duration=words.duration, method=words.method
    )
    return environment.get_template("template.html.jinja")


def _read_metrics(path: Path) -> list[Context]:
    """The lines of metrics.jsonl that parse: a killed run may leave half a line behind."""
    records = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                records.append(record)
    return records


def _read_arrays(path: Path) -> Arrays:
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name][:MOST_IMAGES] for name in archive.files}
    except (OSError, ValueError, EOFError, IndexError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read as .npz ({error}); delete it for a report without images") from None
