"""A finished run, for whoever works in Python."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvit.errors import UserError
from pocketvit.pages import words
from pocketvit.pages.notebook import notebook
from pocketvit.pages.sections import arranged, leaderboard
from pocketvit.pages.terminal import plain
from pocketvit.run.folder import MISTAKE, RunFolder
from pocketvit.run.summary import read_summary


@dataclass(frozen=True)
class Run:
    """A finished run: its directory and what `--json` prints of it. In a notebook it shows what it came to."""

    path: Path
    summary: dict[str, Any]

    def __repr__(self) -> str:
        try:
            summary = read_summary(self.path)
        except UserError:  # it was moved or deleted since, or the working folder is another
            return f"<{type(self).__name__} {self.path}>"
        said = words.headline(summary, arranged(summary.get("finetune")), summary["details"].get("label_fraction"))
        return f"<{type(self).__name__} {self.path}: {plain(said)}>"

    def predict(self, paths: list[str] | str, top: int = 3) -> list[dict[str, Any]]:
        """Classes and probabilities of image files, or of a folder's; see `pocketvit.predict`."""
        from pocketvit.verbs.predict import predict

        return predict(paths, model=self.path, top=top)

    def leaderboard(self) -> Any:
        """Every method that was tested, the best first: a pandas data frame, or a list of dicts without pandas.

        Columns: "method", "kind" (an arm, "probe", "pixels" or "chance"), "saved", and an accuracy for each label
        budget, under its words.
        """
        summary = read_summary(self.path)
        entries, fraction = arranged(summary.get("finetune")), summary["details"].get("label_fraction")
        budgets = [plain(words.budget(entry, fraction)) for entry in entries] or ["all labels"]
        return _frame(
            {"method": row["name"], "kind": row["kind"], "saved": row["saved"]}
            | dict(zip(budgets, row["accuracies"], strict=True))
            for row in leaderboard(summary, entries)
        )

    def mistakes(self) -> Any:
        """Test images that the saved classifier gets wrong, the surest first: a data frame, or a list of dicts.

        Columns: "file" (its name in the set), "true", "predicted", "probability".
        """
        file = RunFolder(self.path).mistakes
        if not file.is_file():
            return _frame([], MISTAKE)
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return _frame(({**row, "probability": float(row["probability"])} for row in rows), MISTAKE)

    def _repr_html_(self) -> str:
        return notebook(read_summary(self.path), self.path)


def _frame(rows: Iterable[dict[str, Any]], columns: Sequence[str] | None = None) -> Any:
    """A data frame, or a list of dicts without pandas; `columns` are those of one without rows."""
    found = list(rows)
    try:
        import pandas
    except ImportError:
        return found
    return pandas.DataFrame(found, columns=columns)
