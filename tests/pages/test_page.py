"""The report page: verdict, sections, omissions, escaping, and how it behaves in a real browser.
Every run directory here is synthetic, so nothing is trained."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from windows import chromium_or_skip

from pocketvit.errors import UserError
from pocketvit.pages import words
from pocketvit.pages.page import write_report

SECTIONS = [
    *("results", "sound", "probe", "data", "pretraining", "gallery", "finetuning", "evaluation", "mistakes", "costs"),
    *("settings", "environment"),
]


def summary_of(classes: list[str]) -> dict[str, Any]:
    """A full summary, as `fit` leaves it."""
    rng = np.random.default_rng(0)
    confusion = rng.poisson(0.4, (len(classes), len(classes))) + 30 * np.eye(len(classes), dtype=int)
    rates = (np.diag(confusion) / confusion.sum(1)).tolist()

    def result(accuracy: float) -> dict[str, Any]:
        return {"accuracy": accuracy, "std": 0.012, "seeds": [0, 1, 2]}

    def entry(labels: int | None, mae: float, random: float) -> dict[str, Any]:
        pixels = {"name": "svm", "accuracy": random + 0.01}
        gain = mae - random
        return {
            "labels_per_class": labels, "mae": result(mae), "random": result(random), "pixels": pixels, "gain": gain,
            "gain_interval": {"low": gain - 0.003, "high": gain + 0.003, "seeds": 3, "images": 360},
        }  # fmt: skip

    baselines = {name: {"accuracy": value, "std": 0.01} for name, value in
                 (("svm", 0.813), ("logistic regression", 0.78), ("knn", 0.76))}  # fmt: skip
    return {
        "dataset": {
            "name": "digits", "classes": classes, "train": 1293, "val": 144, "test": 360, "shape": [8, 8, 1],
        },
        "model": {"preset": "digits", "params": 812_234, "macs": 13_400_000, "macs_without_attention": 9_100_000},
        "pretrain": {
            "epochs": 100, "seconds": 80.1, "images_per_second": 15000.0, "train_loss": 0.2, "heldout_loss": 0.21,
            "verdict": "still falling",
        },
        "probe": {"mae": {"knn": 0.9, "linear": 0.91}, "random": {"knn": 0.7, "linear": 0.8}},
        "finetune": [entry(5, 0.897, 0.803), entry(None, 0.985, 0.981)],
        "files": {"weights": "model.safetensors", "report": "report.html", "config": "config.yaml"},
        "details": {
            "command": "pocketvit fit digits", "commit": None, "date": "2026-11-23T10:00:00+00:00", "seconds": 300.0,
            "device": "cpu", "precision": "float32", "recipe": "digits", "label_fraction": None,
            "versions": {"python": "3.11.7", "torch": "2.13.0"},
            "environment": {"cpu": "A processor with a rather long name, 2.60 GHz", "cores": 2, "memory_gib": 24},
            "notes": ["2 test images also occur in train."],
            "pixels": [{"labels_per_class": 5, **baselines}, {"labels_per_class": None, **baselines}],
            "evaluation": {
                "accuracy": 0.985, "ece": 0.01, "per_class": dict(zip(classes, rates, strict=True)),
                "confusion": confusion.tolist(),
            },
        },
    }  # fmt: skip


def metrics_of() -> list[dict[str, Any]]:
    """Curves of both stages, with the gaps that real ones have."""
    lines: list[dict[str, Any]] = []
    for epoch in range(1, 101):
        line = {"stage": "pretrain", "epoch": epoch, "step": 10 * epoch, "train_loss": 0.2 + 1 / epoch, "lr": 1e-3}
        if epoch % 2 == 0:
            line["heldout_loss"] = 0.21 + 1 / epoch
        if epoch % 20 == 0:
            line["knn"] = 0.9 - 2 / epoch
        lines.append(line)
    for labels in (5, None):
        for rank, init in enumerate(("mae", "random")):
            for seed in range(3):
                for epoch in range(1, 31):
                    value = 0.9 - 0.09 * rank - (0.6 + 0.05 * seed) / epoch
                    lines.append(
                        {"stage": "finetune", "init": init, "labels_per_class": labels, "seed": seed, "epoch": epoch,
                         "step": 10 * epoch, "train_loss": 1 / epoch, "val_accuracy": value}
                    )  # fmt: skip
    return lines


def write_run(directory: Path, summary: dict[str, Any], shape: tuple[int, int, int] = (8, 8, 1)) -> Path:
    """Everything the contract lists, in `directory`."""
    rng = np.random.default_rng(1)

    def images(count: int) -> np.ndarray:
        return rng.integers(0, 256, (count, *shape), dtype=np.uint8)

    (directory / "summary.json").write_text(json.dumps(summary))
    lines = [json.dumps(line) for line in metrics_of()]
    (directory / "metrics.jsonl").write_text("\n".join([*lines, '{"stage": "finetune", "init": "ma']))
    (directory / "config.yaml").write_text(f"epochs: 100  # <b>verbatim</b> & whole\nlong: {'x' * 300}\n")
    np.savez(
        directory / "figures.npz",
        samples=images(20), sample_labels=np.arange(20) % 3,
        gallery_input=images(6), gallery_visible=images(6), gallery_reconstruction=images(6),
        mistakes=images(5), mistakes_true=np.arange(5) % 3, mistakes_predicted=(np.arange(5) + 1) % 3,
        mistakes_confidence=np.linspace(0.99, 0.6, 5),
    )  # fmt: skip
    return directory


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="([\w-]+)"', page)


@pytest.fixture
def full_run(tmp_path: Path) -> Path:
    """A run with all sections and class names made to break things."""
    classes = ["<script>alert(1)</script>", "$5 & up", "a class with a very long name " * 4]
    return write_run(tmp_path, summary_of(classes))


def test_all_sections_and_the_verdict(full_run: Path) -> None:
    target = write_report(full_run)
    assert target == full_run / "report.html"
    page = target.read_text(encoding="utf-8").replace(words.NBSP, " ")
    assert sorted(sections(page)) == sorted(SECTIONS)
    assert "Pre-training helped: 89.7 % against 80.3 % from random init, at 5 labels per class" in page
    for text in ("+9.4", "SVM", "Logistic regression", "convention that reproduces the paper", "still falling"):
        assert text in page
    assert not list(full_run.glob(".report*")), "the draft must not stay behind"


def test_the_page_is_a_function_of_the_directory(full_run: Path) -> None:
    first = write_report(full_run).read_bytes()
    assert write_report(full_run).read_bytes() == first


def test_nothing_is_loaded_from_elsewhere(full_run: Path) -> None:
    page = write_report(full_run).read_text(encoding="utf-8")
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    for reference in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert reference.startswith(("data:", "#")), reference
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers)), "figures must not share ids"
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(identifiers)


def test_user_text_is_escaped(full_run: Path) -> None:
    page = write_report(full_run).read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;verbatim&lt;/b&gt; &amp; whole" in page


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        (("finetune", "probe", "details"), {"results", "sound", "probe", "evaluation", "environment"}),
        (("pretrain", "probe"), {"probe"}),
        (("model",), {"costs"}),
    ],
)
def test_absent_data_leave_no_section(tmp_path: Path, missing: tuple[str, ...], gone: set[str]) -> None:
    summary: dict[str, Any] = {**summary_of(["a", "b"]), **dict.fromkeys(missing)}
    page = write_report(write_run(tmp_path, summary)).read_text(encoding="utf-8")
    assert set(sections(page)) == set(SECTIONS) - gone


def test_summary_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    assert sections(write_report(tmp_path).read_text(encoding="utf-8")) == []


def test_unlabelled_pretraining(tmp_path: Path) -> None:
    summary = {**summary_of(["a", "b"]), "finetune": None, "probe": None, "details": {"notes": []}}
    summary["dataset"] = {"name": "photos", "classes": None, "train": 900, "val": 100, "test": None, "shape": [8, 8, 1]}
    write_run(tmp_path, summary)
    with np.load(tmp_path / "figures.npz") as archive:
        kept = {key: archive[key] for key in archive.files if key.startswith(("samples", "gallery"))}
    np.savez(tmp_path / "figures.npz", **kept)
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in metrics_of()[:100]))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert sections(page) == ["data", "pretraining", "gallery", "costs", "settings"]
    assert "Pre-trained for 100 epochs: held-out loss 0.21, still falling" in page


def test_finetune_of_one_init(tmp_path: Path) -> None:
    summary = summary_of(["a", "b"])
    only = {"accuracy": 0.9, "std": 0.0, "seeds": [0]}
    summary |= {"finetune": {"mae": None, "random": only, "pixels": None, "gain": None}, "probe": None}
    page = write_report(write_run(tmp_path, summary)).read_text(encoding="utf-8").replace(words.NBSP, " ")
    assert "90.0 % test accuracy with all labels, trained from random init" in page


@pytest.mark.parametrize("shape", [(8, 12, 1), (9, 8, 2), (32, 32, 3), (16, 24, 5), (120, 300, 3)])
def test_images_of_any_shape(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    page = write_report(write_run(tmp_path, summary_of(["a", "b"]), shape)).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 20 + 3 * 6 + 5


@pytest.mark.parametrize("classes", [2, 12, 21, 100])
def test_confusion_matrix_of_any_size(tmp_path: Path, classes: int) -> None:
    summary = summary_of([f"class {i}" for i in range(classes)])
    page = write_report(write_run(tmp_path, summary)).read_text(encoding="utf-8")
    assert f"Confusion matrix of {classes} classes" in page


@pytest.mark.parametrize("text", [None, "", '{"dataset": ', "[]", '{"finetune": "high"}', "\x00\xff"])
def test_damaged_summary_is_one_line_that_names_the_file(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "summary.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as caught:
        write_report(tmp_path)
    assert str(tmp_path / "summary.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_figures_name_the_file(full_run: Path) -> None:
    (full_run / "figures.npz").write_bytes((full_run / "figures.npz").read_bytes()[:500])
    with pytest.raises(UserError, match=r"figures\.npz"):
        write_report(full_run)


PROBE = """<!doctype html><body>
<iframe src="report.html" style="width:{width}px;height:900px;border:0"></iframe>
<script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument.documentElement;
  document.title = "scrollWidth " + page.scrollWidth;
}});
</script>"""


@pytest.mark.parametrize("width", [390, 1280])
def test_no_console_error_and_no_sideways_scroll(full_run: Path, tmp_path: Path, width: int) -> None:
    chromium = chromium_or_skip()
    write_report(full_run)
    # a headless window has a minimum width above a phone's, hence the frame
    (full_run / "probe.html").write_text(PROBE.format(width=width))
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1400,1000", "--enable-logging=stderr", "--v=0", "--dump-dom",
        (full_run / "probe.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    found = re.search(r"scrollWidth (\d+)</title>", done.stdout)
    assert found, done.stderr[-2000:]
    assert int(found[1]) <= width


def checks(page: str) -> dict[str, bool]:
    """What the page says of its verdict: a sentence, and whether it speaks for it."""
    found = re.findall(r'<li class="(for|against)"><b>\w+</b><span>(.*?)</span>', page, re.DOTALL)
    return {text.replace(words.NBSP, " "): way == "for" for way, text in found}


def test_the_page_says_what_its_verdict_rests_on(tmp_path: Path) -> None:
    summary = summary_of(["a", "b"])
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    copies = "2 of 360 test images are identical to train images: accuracy on them says nothing of new ones"
    summary["details"]["notes"] = [copies, "3 images are of a single colour"]
    summary["details"]["runs"] = [{"init": name, "steps": 600} for name in ("mae", "random")]
    found = checks(write_report(write_run(tmp_path / "good", summary)).read_text())
    assert [text for text, good in found.items() if not good] == [
        "Pre-training by MAE: the held-out loss is still falling.", f"{copies}."
    ]  # fmt: skip
    assert "3 seeds of each arm; three are the least that tell chance." in found
    assert "All arms were fine-tuned for as many steps." in found
    for entry in summary["finetune"]:
        entry["mae"]["seeds"] = entry["random"]["seeds"] = [0]
        entry["gain_interval"]["low"] = -0.1
    summary["dataset"]["test"], summary["details"]["runs"][1]["steps"] = 40, 450
    summary["probe"]["mae"]["linear"] = 0.999
    found = checks(write_report(write_run(tmp_path / "bad", summary)).read_text())
    against = " ".join(text for text, good in found.items() if not good)
    for said in ("1 seed of", "40 test images", "unequal steps", "below the 99.9 %", "confidence"):
        assert said in against


def test_a_class_has_recall_precision_and_f1(tmp_path: Path) -> None:
    summary = summary_of(["cat", "dog"])
    # Of 10 cats 8 are found, and 4 dogs are taken for cats.
    summary["details"]["evaluation"] |= {"confusion": [[8, 2], [4, 26]], "per_class": {"cat": 0.8, "dog": 26 / 30}}
    page = write_report(write_run(tmp_path, summary)).read_text().replace(words.NBSP, " ")
    rows = re.findall(r'<tr><th scope="row" class="long">(\w+)</th>((?:<td>[^<]*</td>)+)', page)
    cells = {name: re.findall(r"<td>(.*?)</td>", row) for name, row in rows}
    assert cells["cat"] == ["80.0 %", "66.7 %", "72.7 %", "10"]
    assert cells["dog"] == ["86.7 %", "92.9 %", "89.7 %", "30"]


def test_the_page_shows_plan_beside_truth_and_what_was_saved(tmp_path: Path) -> None:
    summary = summary_of(["a", "b"])
    stage = {"stage": "probe", "title": "probe", "planned": 12.0, "took": 15.0}
    summary["details"] |= {
        "plan": {"seconds": 600, "limit": 620, "opening": 2.5, "stages": [stage]}, "shipped": "mae", "frozen": False,
        "chosen_by": "by accuracy on 144 validation labels", "doubtful_labels": 0,
    }  # fmt: skip
    summary["details"]["evaluation"]["kept"] = [{"share": s, "accuracy": 1 - 0.1 * s} for s in (0.25, 0.5, 1.0)]
    page = write_report(write_run(tmp_path, summary)).read_text().replace(words.NBSP, " ")
    assert "The network from MAE was saved, by accuracy on 144 validation labels." in page
    assert "<td>12 s</td><td>15 s</td>" in page
    assert "It ended 5 min 20 s before its limit" in page
    assert "the surest first" in page


def test_what_was_saved_stands_among_the_results_also_where_it_is_a_frozen_encoder(tmp_path: Path) -> None:
    summary = summary_of(["a", "b"])
    summary["details"]["shipped"] = "mae"
    for frozen, name, reached in ((False, "MAE, fine-tuned", "98.5 %"), (True, "MAE, frozen: linear probe", "91.0 %")):
        summary["details"]["frozen"] = frozen
        page = write_report(write_run(tmp_path, summary)).read_text(encoding="utf-8").replace(words.NBSP, " ")
        (row,) = (line for line in page.splitlines() if ", <b>saved</b>" in line)
        assert f">{name}<" in row
        assert reached in row


def test_a_column_of_gains_is_there_only_where_there_is_one(tmp_path: Path) -> None:
    summary = summary_of(["a", "b"])
    assert "Gain, points" in write_report(write_run(tmp_path, summary)).read_text(encoding="utf-8")
    for entry in summary["finetune"]:
        entry |= {"random": None, "gain": None, "gain_interval": None}
    page = write_report(write_run(tmp_path, summary)).read_text(encoding="utf-8")
    assert "Best on raw pixels" in page
    assert "Gain, points" not in page
    assert "<b>n/a</b>" not in page


def test_one_reading_makes_no_chart(tmp_path: Path) -> None:
    folder = write_run(tmp_path, summary_of(["a", "b"]))
    first = (folder / "metrics.jsonl").read_text().splitlines()[0]
    (folder / "metrics.jsonl").write_text(first + "\n")
    page = write_report(folder).read_text()
    assert "Loss of pre-training by epoch" not in page
    assert "finetuning" not in sections(page)
