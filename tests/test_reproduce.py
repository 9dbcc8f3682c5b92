"""benchmarks/reproduce.py on 512 images and a shrunken network: parts end where one call does, and a plan fits."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import planner
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

import pocketvit
from pocketvit.errors import UserError
from pocketvit.model import weights
from pocketvit.stages import baselines, context, finetuning, pretraining
from pocketvit.stages.arms import Arm, arms_named
from pocketvit.training import loop

REPO = Path(__file__).resolve().parents[1]
SIZES = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
SHRUNKEN = [
    *(f"--model.{name}={value}" for name, value in SIZES.items()),
    *("--pretrain.batch-size=64", "--finetune.batch-size=64", "--device=cpu", "--precision=float32"),
]
BRIEF = [*SHRUNKEN, "--pretrain.epochs=2", "--finetune.epochs=1"]
RECIPE = "small-cifar10.yaml"


@pytest.fixture(scope="session")
def reproduce() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reproduce", REPO / "benchmarks" / "reproduce.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reproduce"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, shared_data: Callable[[str], Path]) -> Path:
    """512 train and 64 test images of CIFAR-10 in its layout; where it is not at hand, digits in the same layout."""
    folder = tmp_path_factory.mktemp("data") / "cifar10"
    folder.mkdir()
    counts = {"train": 512, "test": 64}
    try:
        source = shared_data("cifar10")
    except pytest.skip.Exception:
        digits, start = load_digits(), 0
        for split, count in counts.items():
            rows = []
            for index in range(start, start + count):
                stream = io.BytesIO()
                Image.fromarray((digits.images[index] * 15).astype(np.uint8)).resize((32, 32)).convert("RGB").save(
                    stream, "PNG"
                )
                rows.append({"bytes": stream.getvalue(), "path": f"{index}.png"})
            table = pa.table({"image": rows, "label": digits.target[start : start + count]})
            pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
            start += count
    else:
        for split, count in counts.items():
            file = sorted(source.glob(f"{split}-*.parquet"))[0]
            rows = next(pq.ParquetFile(file).iter_batches(count))
            pq.write_table(pa.Table.from_batches([rows]), folder / f"{split}-00000-of-00001.parquet")
    return folder


class Clock:
    """Time that passes only when it is asked for, 1,000 s a time: a time limit is then a number of steps."""

    perf_counter = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1000
        return self.now


@pytest.mark.slow
def test_slices_end_with_the_same_bits_as_one_call(
    reproduce: ModuleType,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = ["lite-cifar10", "--data", str(images), *BRIEF]
    whole, sliced = tmp_path / "whole", tmp_path / "sliced"
    for place in (whole, sliced):
        place.mkdir()
    monkeypatch.setattr(reproduce.finish, "REPO", tmp_path / "checkout")
    monkeypatch.chdir(whole)
    assert reproduce.main(args) == 0
    # Losses are read in every step, for the deadline to be looked at as often.
    monkeypatch.setattr(loop, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "time", Clock())
    for module in (context, reproduce):
        monkeypatch.setattr(module, "time", loop.time)
    monkeypatch.chdir(sliced)
    calls, folder = 0, reproduce.Job.parse(args).folder
    assert re.fullmatch(r"runs/lite-cifar10-0-changed-\w{6}", str(folder))
    while not (folder / "reproduction.json").exists():
        assert reproduce.main([*args, "--pause-after", "15000s"]) == 0
        calls += 1
        assert calls < 20
    assert calls >= 3
    assert "not finished: the same command goes on" in capsys.readouterr().err
    for file in ("model.safetensors", "mae.safetensors", "lite-cifar10.safetensors"):
        first, second = ((place / folder / file).read_bytes() for place in (whole, sliced))
        assert first == second, file
    one, several = (json.loads((place / folder / "reproduction.json").read_text()) for place in (whole, sliced))
    assert one["finetune"] == several["finetune"]
    assert [len(found["reproduction"]["calls"]) for found in (one, several)] == [1, calls]
    assert [call["finished"] for call in several["reproduction"]["calls"]] == [False] * (calls - 1) + [True]
    # Settings were changed: that is no evidence for the recipe.
    assert not (tmp_path / "checkout").exists()


@pytest.fixture(scope="session")
def finished(reproduce: ModuleType, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe that has been run as it stands, and with what that publishes in a checkout."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "data").mkdir()
    (folder / "data" / "cifar10").symlink_to(images)
    settings = {
        "model": SIZES, "precision": "float32",
        "pretrain": {"epochs": 2, "batch_size": 64}, "finetune": {"epochs": 1, "batch_size": 64},
    }  # fmt: skip
    (folder / RECIPE).write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKETVIT_CACHE", str(folder / "cache"))
        patch.setattr(reproduce.finish, "REPO", folder / "checkout")
        patch.chdir(folder)
        assert reproduce.main([RECIPE, "--device=cpu"]) == 0
    return folder


def evidence(finished: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((finished / "checkout" / "results" / "small-cifar10-cpu-0.json").read_text())
    return found


def test_evidence_says_how_fast_and_how_near_to_the_devices_best(finished: Path) -> None:
    summary = evidence(finished)
    found = summary["reproduction"]
    assert summary["details"]["command"] == f"python benchmarks/reproduce.py {RECIPE} --seed 0 --arms mae,random"
    assert str(finished) not in json.dumps(summary)
    train = summary["dataset"]["train"]
    assert (found["pretrain"]["epochs"], found["finetune"]["epochs"]) == (2, 1)
    parameters = summary["model"]["params"]
    for stage in ("pretrain", "finetune"):
        pace, step = found[stage], found[stage]["step"]
        assert pace["batch_size"] == 64
        steps = train // 64
        assert pace["seconds_per_epoch"] == pytest.approx(steps * 64 / pace["images_per_second"])
        assert step["seconds"] == pytest.approx(pace["seconds_per_epoch"] / steps)
        assert step["matmul_seconds"] == pytest.approx(step["flops"] / found["ceilings"]["matmul_flops"])
        assert step["utilisation"] == pytest.approx(step["matmul_seconds"] / step["seconds"])
        assert step["roofline"] == max(step["utilisation"], step["copy_seconds"] / step["seconds"])
        # AdamW alone reads four numbers a parameter and writes three; the images are read as well.
        assert step["bytes"] > 7 * 4 * parameters + 64 * 32 * 32 * 3
    cost = pocketvit.budget(size=32, channels=3, **{f"model.{name}": value for name, value in SIZES.items()})
    assert cost["macs"] == summary["model"]["macs"]
    assert found["finetune"]["step"]["flops"] == 6 * cost["macs_computed"] * 64
    assert found["peak_memory_mb"] is None


def test_the_weights_are_half_as_large_and_the_card_tells_of_them(finished: Path) -> None:
    models = finished / "checkout" / "models"
    module, meta = weights.load(models / "small-cifar10.safetensors")
    full, same = weights.load(finished / "runs" / "small-cifar10-0")
    assert meta == same
    for name, value in module.state_dict().items():
        assert torch.equal(value, full.state_dict()[name].half().float())
    encoder, _ = weights.load(models / "small-cifar10-mae.safetensors")
    before, _ = weights.load(finished / "runs" / "small-cifar10-0" / "mae.safetensors")
    assert all(
        torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), before.state_dict().values(), strict=True)
    )
    assert "linear probe" in (models / "small-cifar10-mae.md").read_text()
    summary, card = evidence(finished), (models / "small-cifar10.md").read_text()
    for part in (
        f"{100 * summary['reproduction']['float16_accuracy']:.2f} % of this file on the 64 test images",
        f"`{summary['details']['command']}`",
        str(summary["details"]["commit"]),
        "## Data",
        "no licence",
        "## Limits",
    ):
        assert part in card


def test_a_finished_run_is_not_run_again(
    reproduce: ModuleType, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("it was run again")

    for module, name in ((pretraining, "train"), (finetuning, "train"), (baselines, "metric")):
        monkeypatch.setattr(module, name, never)
    monkeypatch.setattr(reproduce.finish, "REPO", finished / "checkout")
    assert reproduce.main([RECIPE, "--device=cpu"]) == 0
    # What it wrote can still be had elsewhere.
    assert reproduce.main([RECIPE, "--device=cpu", "--out=elsewhere"]) == 0
    for file in ("results/small-cifar10-cpu-0.json", "models/small-cifar10.safetensors", "models/small-cifar10.md"):
        assert (finished / "elsewhere" / file).read_bytes() == (finished / "checkout" / file).read_bytes()


@pytest.mark.slow
def test_arms_add_up_to_one_evidence_file_with_equal_steps(
    reproduce: ModuleType, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One arm on a machine that is lent, the other later, and the rest where the run came home to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planner, "AROUND", 3.0)
    args = ["lite-cifar10", "--data", str(images), *SHRUNKEN]
    folder = reproduce.Job.parse(args).folder
    assert reproduce.main([*args, "--arms", "mae", "--time-limit", "9s"]) == 0
    plan = json.loads((folder / "plan.json").read_text())
    assert not (folder / "summary.json").exists()
    kept = {file.name for file in (folder / "stages").glob("*.json")}
    assert kept == {"clock.json", "finetune-mae-all-0.json", "origin.json", "pretrain-mae.json"}
    assert not list((folder / "checkpoints").iterdir())
    assert reproduce.main([*args, "--arms", "random", "--time-limit", "9s"]) == 0
    assert json.loads((folder / "plan.json").read_text()) == plan
    finish = [sys.executable, str(REPO / "benchmarks" / "finish.py"), str(folder)]
    elsewhere = tmp_path / "home"
    elsewhere.mkdir()
    folder.rename(elsewhere / folder.name)
    finish[-1] = folder.name
    subprocess.run([*finish, "--data", str(images), "--out", "out"], cwd=elsewhere, check=True, capture_output=True)
    (file,) = (elsewhere / "out" / "results").glob("*.json")
    summary = json.loads(file.read_text())
    (table,) = summary["finetune"]
    assert set(table["arms"]) == {"mae", "random"}
    assert [(gain["arm"], gain["over"]) for gain in table["gains"]] == [("mae", "random")]
    runs = {run["init"]: run for run in summary["details"]["runs"]}
    assert runs["mae"]["steps"] == runs["random"]["steps"] > 0
    planned = plan["epochs"]["pretrain"] * (summary["dataset"]["train"] // 64)
    assert summary["pretrain"]["mae"]["planned_steps"] == planned
    predictions = np.load(elsewhere / folder.name / "stages" / "predictions-mae.npy")
    assert predictions.shape == (64, 10)
    labels = [int(row) for row in pq.read_table(next(images.glob("test-*")))["label"].to_pylist()]
    assert (predictions.argmax(1) == labels).mean() == pytest.approx(table["arms"]["mae"]["accuracy"])
    kept = np.load(file.with_suffix(".npz"))
    assert set(kept) == {"mae", "random"}
    assert np.abs(kept["mae"] - predictions).max() < 1e-3
    # The card names the call that the weights came from, and not the last.
    shipped = summary["details"]["shipped"]
    call = next(call for call in summary["reproduction"]["calls"] if call["arms"] == [shipped])
    card = (elsewhere / folder.name / "lite-cifar10.md").read_text()
    assert f"| command | `{call['command']}` |" in card
    # With what is published, a run goes on elsewhere.
    published = elsewhere / "out" / "results" / "runs" / folder.name
    assert (published / "stages" / "finetune-mae-all-0.json").is_file()
    assert (published / "config.yaml").read_bytes() == (elsewhere / folder.name / "config.yaml").read_bytes()


@pytest.mark.slow
def test_one_arm_alone_is_evidence_without_the_other(
    reproduce: ModuleType, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reproduce.main(["lite-cifar10", "--data", str(images), *BRIEF, "--arms", "random", "--out", "out"]) == 0
    (file,) = (tmp_path / "out" / "results").glob("*.json")
    summary = json.loads(file.read_text())
    (table,) = summary["finetune"]
    assert (summary["pretrain"], table["gains"]) == ({}, [])
    assert table["arms"]["random"]["accuracy"] >= 0
    assert set(summary["probe"]) == {"random"}
    assert "from MAE" not in (tmp_path / "out" / "models" / "lite-cifar10.md").read_text()


def test_a_time_limit_is_kept_however_fast_the_pace_was_said_to_be(
    reproduce: ModuleType, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planner, "AROUND", 3.0)
    for stage in ("pretrain", "finetune"):
        pace = {"seconds_per_step": 1e-4, "first_seconds": 0.1, "train_loss": 1.0, "compiled": False}
        (tmp_path / f"{stage}.json").write_text(json.dumps({"eager": pace}))
    args = ["lite-cifar10", "--data", str(images), *SHRUNKEN, "--arms", "mae", "--pace", ".", "--time-limit", "12s"]
    began = time.monotonic()
    assert reproduce.main(args) == 0
    assert time.monotonic() - began < 1.05 * 12
    folder = reproduce.Job.parse(args).folder
    for stage in ("pretrain-mae", "finetune-mae-all-0"):
        found = json.loads((folder / "stages" / f"{stage}.json").read_text())
        assert 0 < found["steps"] < found["planned_steps"]


def paces(pretrain: float, finetune: float, compiled: float | None = None, loss: float = 2.0) -> dict[str, Any]:
    """Seconds of a step of both stages, and how many times as long it takes compiled."""
    found: dict[str, Any] = {}
    for stage, seconds in (("pretrain", pretrain), ("finetune", finetune)):
        eager = {"seconds_per_step": seconds, "first_seconds": 1.0, "train_loss": 2.0, "compiled": False}
        found[stage] = {"eager": eager}
        if compiled:
            fast = {"seconds_per_step": compiled * seconds, "train_loss": loss, "compiled": True, "first_seconds": 15.0}
            found[stage]["compiled"] = eager | fast
    return found


STEPS = {"pretrain": 47, "finetune": 95}
MAE: tuple[Arm, ...] = arms_named(["mae"])


@pytest.mark.parametrize("total", [600.0, 1500.0])
@pytest.mark.parametrize("arms", [["mae"], ["mae", "random"], ["random"]])
def test_what_is_planned_fits_into_the_time(reproduce: ModuleType, total: float, arms: list[str]) -> None:
    plan = planner.make_plan(total, 40.0, paces(0.01, 0.014), STEPS, arms_named(arms))
    times = {
        "pretrain": plan["epochs"].get("pretrain", 0) * 47 * 0.01,
        "finetune": plan["epochs"]["finetune"] * 95 * 0.014 * len(arms),
    }
    assert 0.9 * (total - 40 - planner.AROUND) < sum(times.values()) < total - 40 - planner.AROUND
    share = times["pretrain"] / sum(times.values())
    assert share == pytest.approx(planner.PRETRAIN_SHARE if "mae" in arms else 0.0, abs=0.02)
    keys = ["pretrain-mae"] * ("mae" in arms) + [f"finetune-{arm}-all-0" for arm in arms]
    timetable, moment = planner.timetable(arms_named(arms), keys, total), 40.0
    for number, key in enumerate(keys):
        moment += timetable.seconds_for(key, moment, keys[:number].__contains__)
        # More than is planned: who is in time never lands.
        assert moment >= 40 + sum([times["pretrain"]] if "mae" in arms else []) * (number == 0)
    assert moment == pytest.approx(total - planner.AROUND)


@pytest.mark.parametrize(
    ("compiled", "loss", "choice"),
    [(0.5, 2.01, "always"), (0.5, 2.1, "never"), (1.1, 2.0, "never"), (None, 2, "never")],
)
def test_compiled_steps_are_chosen_where_they_learn_alike_and_are_faster(
    reproduce: ModuleType, compiled: float | None, loss: float, choice: str
) -> None:
    plan = planner.make_plan(600.0, 40.0, paces(0.01, 0.014, compiled, loss), STEPS, MAE)
    assert plan["compile"] == choice
    slow = planner.make_plan(600.0, 40.0, paces(0.01, 0.014), STEPS, MAE)
    assert (plan["epochs"]["finetune"] > 1.5 * slow["epochs"]["finetune"]) == (choice == "always")


def test_cuda_graphs_are_chosen_where_both_stages_were_measured_with_them(reproduce: ModuleType) -> None:
    for measured, choice in ((["pretrain", "finetune"], "graphs"), (["finetune"], "always")):
        found = paces(0.01, 0.014, 0.3)
        for stage in measured:
            found[stage]["compiled"]["mode"] = "graphs"
        assert planner.make_plan(600.0, 40.0, found, STEPS, MAE)["compile"] == choice


def test_a_time_too_short_names_one_that_is_not(reproduce: ModuleType) -> None:
    make_plan = planner.make_plan
    with pytest.raises(UserError, match=r"give (\d+)s") as error:
        make_plan(60.0, 10.0, paces(0.6, 0.3), STEPS, arms_named(["mae", "random"]))
    enough = float(str(error.value).split("give ")[1].removesuffix("s"))
    plan = make_plan(enough + 1, 10.0, paces(0.6, 0.3), STEPS, arms_named(["mae", "random"]))
    assert min(plan["epochs"].values()) == 1


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["nope"], "no recipe 'nope'"),
        (["lite-cifar10", "--epocs", "3"], "did you mean --epochs?"),
        (["lite-cifar10", "--pretrain.epochs"], "expected --NAME VALUE"),
        (["lite-cifar10", "stray"], "expected --NAME VALUE"),
        (["lite-cifar10", "--data", "nowhere"], "'nowhere' does not exist"),
        (["lite-cifar10", "--time-limit", "soon"], "'soon' is not a duration"),
        (["lite-cifar10", "--images", "0"], "--data.images: 0 is out of range"),
        (["lite-cifar10", "--time-limit", "9m", "--pretrain.epochs", "3"], "leave one of the two out"),
        (["lite-cifar10", "--arms", "mae,cnn"], "expected one or more of mae, contrast, random"),
    ],
)
def test_a_mistake_gets_one_line(
    reproduce: ModuleType,
    args: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reproduce.main([*args, "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_bytes_moved_are_those_of_each_operator(reproduce: ModuleType) -> None:
    a, b = torch.ones(100), torch.ones(100)
    for work, expected in (
        (lambda: a + b, 1200),
        (lambda: a.add_(b), 1200),
        (lambda: torch._foreach_add_([a], [b]), 1200),
        (lambda: a.view(10, 10).t(), 0),
        (lambda: torch.empty(100), 0),
    ):
        with reproduce.finish.roofline.BytesMoved() as moved:
            work()
        assert moved.total == expected


def test_it_runs_from_anywhere_without_being_installed(tmp_path: Path) -> None:
    script = str(REPO / "benchmarks" / "reproduce.py")
    done = subprocess.run([sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    for flag in (
        "--data",
        "--time-limit",
        "--pause-after",
        "--pace",
        "--arms",
        "--images",
        "--seed",
        "--out",
        "--overwrite",
    ):
        assert flag in done.stdout
