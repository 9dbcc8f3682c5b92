"""The published tables equal their evidence, and benchmarks/tables.py notices where they don't."""

from __future__ import annotations

import importlib.util
import json
import re
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[1]
README = (
    "# Title\n\n<!-- table:run -->\n<!-- /table -->\n\nbetween\n\n<!-- table:budget -->\nold\n<!-- /table -->\nend\n"
)


def entry(per_class: int | None, mae: float, random: float) -> dict[str, Any]:
    return {
        "labels_per_class": per_class,
        "mae": {"accuracy": mae, "std": 0.0123, "seeds": [0, 1, 2]},
        "random": {"accuracy": random, "std": 0.02, "seeds": [0, 1, 2]},
        "pixels": {"name": "svm", "accuracy": 0.8767},
        "gain": mae - random,
    }


def pixels(per_class: int | None, std: float) -> dict[str, Any]:
    return {"labels_per_class": per_class, "svm": {"accuracy": 0.8767, "std": std}}


SUMMARY: dict[str, Any] = {
    "dataset": {
        "name": "glyphs", "classes": ["a", "b"], "train": 1294, "val": 144, "test": 359, "shape": [8, 8, 1],
    },
    "model": {"preset": "digits", "params": 205898, "macs": 1, "macs_without_attention": 1},
    "pretrain": {"epochs": 20, "seconds": 90.0, "verdict": "still falling"},
    "probe": {"mae": {"knn": 0.9, "linear": 0.91}, "random": {"knn": 0.8, "linear": 0.81}},
    "finetune": [entry(5, 0.897, 0.803), entry(None, 0.98, 0.99)],
    "details": {
        "command": "pocketvit fit glyphs",
        "commit": "6ce6312358e78023d2b893addc348831dcaba63e+changes",
        "date": "2026-01-02T03:04:05+00:00",
        "versions": {},
        "environment": {"cpu": "Some CPU", "cores": 2, "system": "Linux"},
        "seconds": 330.0,
        "device": "cpu",
        "precision": "float32",
        "label_fraction": None,
        "runs": [{"labels_per_class": 5, "labels": 10}, {"labels_per_class": None, "labels": 1294}],
        "pixels": [pixels(5, 0.01), pixels(None, 0.0)],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", REPO / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def write(root: Path, summary: dict[str, Any]) -> None:
    (root / "results" / "run.json").write_text(json.dumps(summary))


def test_published_tables_equal_the_evidence(tables: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--check"]) == 0, capsys.readouterr().err


def test_rows_and_origin(tables: ModuleType, root: Path) -> None:
    write(root, SUMMARY)
    assert tables.main(["--root", str(root)]) == 0
    text = (root / "README.md").read_text()
    assert "| 5 labels per class (10 images) | 89.7 ± 1.2 % | 80.3 ± 2.0 % | 87.7 ± 1.0 % (SVM) | +9.4 |" in text
    # On all labels the raw-pixel baseline is fitted once, so there is no deviation to state.
    assert "| all labels (1,294 images) | 98.0 ± 1.2 % | 99.0 ± 2.0 % | 87.7 % (SVM) | \u22121.0 |" in text
    for part in (
        "`pocketvit fit glyphs`", "cpu (Some CPU), 2 cores", "5.5 min in all, 1.5 min of them", "Seeds 0, 1, 2",
        "commit 6ce6312 with changes", "2026-01-02", "kNN 90.0 % (80.0 %), linear probe 91.0 % (81.0 %)",
    ):  # fmt: skip
        assert part in text
    assert text.startswith("# Title\n\n<!-- table:run -->\n|")
    assert "\nbetween\n" in text
    assert text.endswith("<!-- /table -->\nend\n")


def test_a_single_budget_and_a_share_of_the_labels(tables: ModuleType, root: Path) -> None:
    summary = deepcopy(SUMMARY)
    details = summary["details"]
    details |= {"label_fraction": 0.02, "pixels": [pixels(None, 0.01)], "runs": details["runs"][1:]}
    # `fit` leaves the budget's name out of a table that stands alone.
    summary["finetune"] = {k: v for k, v in entry(None, 0.897, 0.803).items() if k != "labels_per_class"}
    write(root, summary)
    assert tables.main(["--root", str(root)]) == 0
    assert "| 2 % of the labels (1,294 images) | 89.7 ± 1.2 % |" in (root / "README.md").read_text()


def test_one_seed_has_no_deviation(tables: ModuleType) -> None:
    summary = deepcopy(SUMMARY)
    for row in summary["finetune"]:
        row["mae"]["seeds"] = row["random"]["seeds"] = [7]
    text = tables.result_table(summary)
    assert "±" not in text
    assert "Seed 7;" in text


def test_check_notices_a_changed_number_and_mends_nothing(tables: ModuleType, root: Path) -> None:
    write(root, SUMMARY)
    tables.main(["--root", str(root)])
    assert tables.main(["--root", str(root), "--check"]) == 0
    forged = (root / "README.md").read_text().replace("89.7", "92.7")
    (root / "README.md").write_text(forged)
    assert tables.main(["--root", str(root), "--check"]) == 1
    assert (root / "README.md").read_text() == forged
    assert tables.main(["--root", str(root)]) == 0
    assert "89.7" in (root / "README.md").read_text()


def test_check_notices_changed_evidence(tables: ModuleType, root: Path) -> None:
    write(root, SUMMARY)
    tables.main(["--root", str(root)])
    changed = deepcopy(SUMMARY)
    changed["finetune"][0]["mae"]["accuracy"] = 0.91
    write(root, changed)
    assert tables.main(["--root", str(root), "--check"]) == 1


def test_docs_are_filled_too(tables: ModuleType, root: Path) -> None:
    (root / "docs").mkdir()
    (root / "docs" / "a.md").write_text(README)
    write(root, SUMMARY)
    assert tables.main(["--root", str(root)]) == 0
    assert "+9.4" in (root / "docs" / "a.md").read_text()


def test_no_evidence_is_said(tables: ModuleType, root: Path) -> None:
    assert tables.main(["--root", str(root)]) == 0
    assert "<!-- table:run -->\n*not measured yet*\n<!-- /table -->" in (root / "README.md").read_text()


def test_budget_is_counted(tables: ModuleType) -> None:
    text = tables.table("budget", REPO / "results")
    assert re.search(r"`paper` \| 36×36×3 \| 145 \| 3\.60 M \| 611 M \| 257 M \|", text)


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_bad_evidence_is_named(
    tables: ModuleType, root: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "results" / "run.json").write_text(content)
    assert tables.main(["--root", str(root)]) == 2
    assert "results/run.json" in capsys.readouterr().err


def test_a_table_without_end_is_refused(tables: ModuleType, root: Path) -> None:
    (root / "README.md").write_text(README.replace("<!-- /table -->", "", 1))
    assert tables.main(["--root", str(root)]) == 2


def test_published_commands_name_no_path_of_one_machine() -> None:
    for file in sorted((REPO / "results").glob("*.json")):
        details = json.loads(file.read_text()).get("details", {})
        assert not re.search(r"(^|[ =])[/~]", details.get("command", "")), f"{file.name}: {details['command']}"
