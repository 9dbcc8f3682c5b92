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


def test_a_plan_stands_beside_what_it_took(tables: ModuleType, root: Path) -> None:
    write(root, {**SUMMARY, "details": {**SUMMARY["details"], "plan": {"seconds": 348.0}}})
    assert tables.main(["--root", str(root)]) == 0
    assert "5.5 min in all (5.8 min planned), 1.5 min of them" in (root / "README.md").read_text()


def test_the_minutes_of_a_resumed_run_are_not_called_all_of_them(tables: ModuleType, root: Path) -> None:
    write(root, {**SUMMARY, "details": {**SUMMARY["details"], "resumed": True}})
    assert tables.main(["--root", str(root)]) == 0
    text = (root / "README.md").read_text()
    assert "1.5 min pre-training" in text
    assert "in all" not in text


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


def test_small_devices_are_on_paper(tables: ModuleType) -> None:
    text = tables.table("devices", REPO / "results")
    assert re.search(r"`lite` \| 3\.67 / 14\.35 \| 88 / 350 \| [\d. /|]+ \| does not fit \| does not fit \|", text)
    assert "Raspberry Pi 5, 2,400 MHz" in text


def reproduced(seed: int, mae: float, recipe: str = "lite-cifar10", **about: object) -> dict[str, Any]:
    """What benchmarks/reproduce.py writes, as far as the table reads it."""
    found: dict[str, Any] = {
        "recipe": recipe,
        "seed": seed,
        "changes": {},
        "pretrain": {"epochs": 800},
        "finetune": {"epochs": 100},
    }
    found["mirrored_accuracy"] = mae
    command = f"python benchmarks/reproduce.py {recipe} --seed {seed}"
    found["calls"] = [{"command": command, "commit": SUMMARY["details"]["commit"]}]
    runs = [{"init": init, "steps": 1000} for init in ("mae", "random")]
    details = {"command": command, "seconds": 600.0, "device": "Chip", "runs": runs}
    return SUMMARY | {
        "finetune": entry(None, mae, 0.91),
        "details": SUMMARY["details"] | details,
        "reproduction": found | about,
    }


def cifar_rows(tables: ModuleType, results: Path) -> list[list[str]]:
    text: str = tables.table("cifar", results)
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| **")]


def test_without_evidence_our_rows_are_not_measured(tables: ModuleType, root: Path) -> None:
    rows = cifar_rows(tables, root / "results")
    assert len(rows) == 9
    assert all(row[4:6] == ["not measured"] * 2 for row in rows)
    assert rows[0][1:3] == ["3.60 M", "611 M; 257 M without attention"]


def test_what_others_published_is_there_with_its_source(tables: ModuleType, root: Path) -> None:
    text = tables.table("cifar", root / "results")
    paper = next(line for line in text.splitlines() if "the paper" in line)
    for part in ("| 0.26 G as published |", "| 96.41 | 78.27 |", "(https://arxiv.org/abs/2402.03752)"):
        assert part in paper
    others = [line for line in text.splitlines()[2:] if line.startswith("| ") and not line.startswith("| **")]
    assert all(re.search(r"\| \[[^]]+\]\(https://\S+\) \|$", line) for line in others)
    assert {line.count("|") for line in text.splitlines() if line} == {9}


def test_seeds_become_a_mean_and_a_deviation(tables: ModuleType, root: Path) -> None:
    for seed, accuracy in enumerate((0.96, 0.97, 0.98)):
        file = root / "results" / f"lite-cifar10-chip-{seed}.json"
        file.write_text(json.dumps(reproduced(seed, accuracy)))
    # Neither a run with changed settings nor another recipe, nor a device with fewer seeds, counts.
    for name, run in {
        "lite-cifar10-chip-0-changed": reproduced(0, 0.1, changes={"pretrain.epochs": "5"}),
        "lite-cifar10-cpu-0": reproduced(0, 0.2) | {"details": SUMMARY["details"] | {"seconds": 1.0}},
        "lite-cifar100-chip-7": reproduced(7, 0.81, "lite-cifar100"),
    }.items():
        (root / "results" / f"{name}.json").write_text(json.dumps(run))
    rows = {row[0]: row for row in cifar_rows(tables, root / "results")}
    assert rows["**`lite`**, MAE, then fine-tuned"][3:7] == [
        "800 + 100",
        "97.00 ± 1.00",
        "81.00 (one run; 76.6–84.7)",
        "10.0 min",
    ]
    assert rows["**`lite`**, random init, equal steps"][4] == "91.00 ± 0.00"
    assert rows["**`lite`**, frozen after pre-training: kNN; linear probe"][4] == "90.00 ± 0.00; 91.00 ± 0.00"
    assert rows["**`paper`**, MAE, then fine-tuned"][4] == "not measured"
    text = tables.table("cifar", root / "results")
    assert "Chip, float32; seeds 0, 1, 2; commit 6ce6312; 2026-01-02. Images averaged" in text


def test_an_arm_that_was_not_trained_is_not_measured(tables: ModuleType, root: Path) -> None:
    run = reproduced(0, 0.95)
    run["finetune"]["random"] = run["finetune"]["gain"] = None
    (root / "results" / "lite-cifar10-chip-0.json").write_text(json.dumps(run))
    rows = {row[0]: row for row in cifar_rows(tables, root / "results")}
    assert rows["**`lite`**, MAE, then fine-tuned"][4].startswith("95.00 (one run; ")
    assert rows["**`lite`**, random init, equal steps"][4] == "not measured"


def test_an_arm_of_fewer_steps_says_so(tables: ModuleType, root: Path) -> None:
    """Its second call, which joined the arm, is named beside the first."""
    run = reproduced(0, 0.95)
    run["details"]["runs"][1]["steps"] = 749
    run["reproduction"]["calls"].append({"command": "joined", "commit": "abcdef0123"})
    (root / "results" / "lite-cifar10-chip-0.json").write_text(json.dumps(run))
    rows = {row[0]: row for row in cifar_rows(tables, root / "results")}
    assert "after" not in rows["**`lite`**, MAE, then fine-tuned"][4]
    assert rows["**`lite`**, random init, equal steps"][4].endswith("; after 75 % of the steps")
    text = tables.table("cifar", root / "results")
    assert "--seed 0`, `joined`: " in text
    assert "commit 6ce6312, abcdef0;" in text


def test_rows_of_a_cpu_have_their_cost_in_core_hours(tables: ModuleType, root: Path) -> None:
    run = reproduced(0, 0.95, "lite-cifar10-cpu")
    run["details"] = run["details"] | {"device": "cpu"}
    run["pretrain"] = run["pretrain"] | {"cpu_seconds": 14_040.0}
    for one, seconds in zip(run["details"]["runs"], (7200.0, 5400.0), strict=True):
        one["cpu_seconds"] = seconds
    (root / "results" / "lite-cifar10-cpu-cpu-0.json").write_text(json.dumps(run))
    rows = {row[0]: row for row in cifar_rows(tables, root / "results")}
    own = "**`lite` on two CPU cores**"
    assert rows[f"{own}, MAE, then fine-tuned"][3:7] == [
        "800 + 100; not measured", "95.00 (one run; 92.2–96.8)", "not measured",
        "3.9 + 2.0 core-hours; not measured",
    ]  # fmt: skip
    assert rows[f"{own}, random init, equal steps"][6] == "1.5 core-hours"
    assert rows["**`lite`**, MAE, then fine-tuned"][4] == "not measured"


def test_the_interval_of_one_run_is_that_of_its_test_images(tables: ModuleType) -> None:
    """Against the exact interval of Clopper and Pearson, which is a little wider."""
    from cifar_table import interval
    from scipy.stats import beta

    for right, images in ((955, 1000), (9550, 10_000), (50, 100)):
        low, high = interval(right / images, images)
        exact = beta.ppf(0.025, right, images - right + 1), beta.ppf(0.975, right + 1, images - right)
        assert exact[0] <= low < right / images < high <= exact[1]
        assert high - low > 0.9 * (exact[1] - exact[0])


def test_evidence_that_reproduce_did_not_write_is_named(tables: ModuleType, root: Path) -> None:
    (root / "results" / "lite-cifar10-chip-0.json").write_text(json.dumps(SUMMARY))
    with pytest.raises(tables.BadEvidence, match=r"lite-cifar10-chip-0\.json is not what"):
        tables.table("cifar", root / "results")


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


def test_what_a_part_adds_is_the_difference_of_runs_that_differ_in_it_alone(tables: ModuleType, root: Path) -> None:
    parts = importlib.import_module("parts_table")
    for _, *pair in parts.PARTS:
        files = [json.loads((REPO / "results" / f"trials-{name}.json").read_text()) for name, _, _ in pair]
        runs = [file["trials"][trial][arm] for file, (_, trial, arm) in zip(files, pair, strict=True)]
        seen = [(file["details"]["seeds"], run["labels"], run["steps"]) for file, run in zip(files, runs, strict=True)]
        assert seen[0] == seen[1]
        for file, (name, _, _) in zip(files, pair, strict=True):
            one, other = ({"all": [x, x + 0.01, x + 0.02], "std": 0.01, "validation_accuracy": x} for x in (0.5, 0.8))
            file["trials"] = [{"changes": {}, **dict.fromkeys(parts.TITLES, one | {"seconds": 60.0})} for _ in range(3)]
            file["trials"][0]["mae"] = other | {"seconds": 120.0}
            file["trials"][0]["pretrain"] = {"seconds": 20.0}
            (root / "results" / f"trials-{name}.json").write_text(json.dumps(file))
    first = tables.table("parts", root / "results").splitlines()[2]
    assert first.endswith("| +30.0 (+30.0 to +30.0) | 1.0 min in place of 0.3 min |")
    with pytest.raises(tables.BadEvidence, match="trials-"):
        tables.table("parts", root)
