"""Every block of code in README and docs is run, in document order, in one folder of small data for each document.

The convention:
- bash and console blocks hold one command a line (in console blocks, after `$ `; other lines there are output).
  `pocketvit ...` and `python benchmarks/reproduce.py ...` are run in this process and must succeed. `make TARGET`,
  `pip install .` and the activation of .venv are not run: the target, the extras and the folder's name must exist. Nor
  are the other programs of benchmarks/, which take hours: their flags and settings must be right. Of `torchrun ...` and
  `accelerate launch ...` the launcher's flags must be right, and what it launches is run in this process alone.
- a python block is run as it stands; a yaml block begins with `# NAME.yaml` and is written to that file.
- text blocks are not code. A block or a line of any other kind fails.
- commands that train get the values of SMALL for what they don't set themselves.
"""

from __future__ import annotations

import functools
import importlib
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path

import numpy as np
import planner
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from accelerate.commands.launch import launch_command_parser as accelerate_parser
from PIL import Image
from sklearn.datasets import load_digits
from torch.distributed.run import get_args_parser as torchrun_parser

import pocketvit
from pocketvit.cli import VERBS, main
from pocketvit.config import flat_names

REPO = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((REPO / "docs").glob("*.md")))]
LONG = ("docs/edge.md", "docs/method.md", "docs/reproduce.md", "docs/scaling.md")  # to run
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
TRAINING = ("fit", "pretrain", "finetune")
LAUNCHERS = {"torchrun": torchrun_parser, "accelerate": accelerate_parser}
SMALL = {
    "model.width": 32,
    "model.depth": 1,
    "model.heads": 2,
    "model.decoder_width": 32,
    "model.decoder_heads": 2,
    "resnet.depth": 8,
    "pretrain.epochs": 1,
    "finetune.epochs": 1,
    "finetune.min_steps": 0,
    "seeds": 1,
}


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """(language, code) of each fenced block; a fence that doesn't close or is indented would go unrun, and fails."""
    found = FENCED.findall(text)
    assert text.count("```") == 2 * len(found), "a block of code is indented or lacks its end"
    yield from found


def make_data(folder: Path) -> None:
    """The files that the documents speak of: 36 labelled images in three layouts, and the same without labels."""
    digits = load_digits()
    rows: dict[str, list[object]] = {"image": [], "label": []}
    for label, name in enumerate(("zero", "one", "two")):
        for number, index in enumerate(np.flatnonzero(digits.target == label)[:12]):
            image = Image.fromarray((digits.images[index] * 15).astype(np.uint8)).resize((16, 16)).convert("RGB")
            split = "train" if number < 8 else "test"
            for stem in (f"my_images/{name}/", f"split_images/{split}/{name}/", f"unlabelled/{name}-"):
                file = f"{stem}{number}.png"
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                image.save(folder / file)
            content = (folder / f"my_images/{name}/{number}.png").read_bytes()
            rows["image"].append({"bytes": content, "path": f"{number}.png"})
            rows["label"].append(label)
    for name in ("cifar10", "cifar100"):
        (folder / "data" / name).mkdir(parents=True)
        for split in ("train", "test"):
            pq.write_table(pa.table(rows), folder / "data" / name / f"{split}-00000-of-00001.parquet")
    new = folder / "new_images"
    new.mkdir()
    for place in (new / "a.png", folder / "truck.png", folder / "dog.png"):
        image.save(place)
    pq.write_table(pa.table(rows), folder / "my_images.parquet")


def run_line(line: str) -> None:
    """Run or check one command; fails for a command of an unknown kind."""
    words = shlex.split(line, comments=True)
    if not words:
        return
    if words[0] in LAUNCHERS:
        words = ["pocketvit", *launched(words)]
    if words[0] == "pocketvit":
        try:
            status = main([*words[1:], *small_flags(words[1:])])
        except SystemExit as end:  # --help and --print_config
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        assert status == 0, f"{line}: exit status {status}"
    elif words[:2] == ["python", "benchmarks/reproduce.py"]:
        # --time-limit chooses the epochs; `workplace` sees to it that they are few.
        flags = small_flags(["fit", *words[3:]])
        flags = [flag for flag in flags if not ("--time-limit" in words and "epochs" in flag)]
        assert importlib.import_module("reproduce").main([*words[2:], *flags]) == 0, line
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
        assert len(words) > 1, line
        assert set(words[1:]) <= set(targets), f"{line}: no such target in the Makefile"
    elif words[:2] == ["pip", "install"]:
        extras = re.fullmatch(r"\.(?:\[(\w+(?:,\w+)*)\])?", words[2])
        assert extras, f"{line}: neither . nor .[extras]"
        assert set((extras[1] or "track").split(",")) <= set(metadata("pocketvit").get_all("Provides-Extra", []))
    elif words[0] == "python" and Path(words[1]).parent == Path("benchmarks"):
        assert (REPO / words[1]).is_file(), f"{line}: no such script"
        script = importlib.import_module(Path(words[1]).stem)
        try:
            (script.plan if hasattr(script, "plan") else script.parser().parse_args)(words[2:])
        except SystemExit:
            pytest.fail(f"{line}: not its flags")
    elif words == [".", ".venv/bin/activate"]:
        assert "VENV = .venv\n" in (REPO / "Makefile").read_text()
    else:
        pytest.fail(f"a command of an unknown kind: {line}")


def launched(words: list[str]) -> list[str]:
    """What a launcher of several processes gives to `pocketvit`; fails for flags that it does not have."""
    try:
        given = LAUNCHERS[words[0]]().parse_args(words[1 if words[0] == "torchrun" else 2 :])
    except SystemExit:
        pytest.fail(f"{shlex.join(words)}: not the launcher's flags")
    assert given.module, "launch it with -m"
    assert given.training_script == "pocketvit.cli"
    return list(given.training_script_args)


def small_flags(words: list[str]) -> list[str]:
    """Flags that keep a training command quick, but for the settings that it names itself."""
    if words[0] not in TRAINING:
        return []
    flat = flat_names("finetune" if words[0] == "finetune" else "pretrain")
    named = [word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")]
    given = {flat.get(name, name) for name in named}
    return [f"--{name}={value}" for name, value in SMALL.items() if name not in given]


def run_block(language: str, code: str) -> None:
    """Run one block in the current folder; fails for a block of an unknown kind."""
    if language == "bash":
        for line in code.replace("\\\n", " ").splitlines():
            run_line(line)
    elif language == "console":
        commands = [line[2:] for line in code.replace("\\\n", " ").splitlines() if line.startswith("$ ")]
        assert commands, f"a console block without a command: {code}"
        for line in commands:
            run_line(line)
    elif language == "python":
        exec(compile(code, "<block>", "exec"), {"__name__": "__main__"})
    elif language == "yaml":
        name = re.match(r"# ([\w-]+\.yaml)\n", code)
        assert name, f"a yaml block that does not begin with `# NAME.yaml`: {code}"
        Path(name[1]).write_text(code)
    elif language != "text":
        pytest.fail(f"a block of an unknown kind '{language}': {code}")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the documents' data, which is the current one; what trains from Python defaults to SMALL."""
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in TRAINING:
        monkeypatch.setattr(pocketvit, name, functools.partial(getattr(pocketvit, name), **SMALL))
    # Which has its own arguments for epochs, and one seed.
    brief = {name: value for name, value in SMALL.items() if name != "seeds" and not name.endswith("epochs")}
    estimator = functools.partial(pocketvit.PocketViTClassifier, settings=brief)
    monkeypatch.setattr(pocketvit, "PocketViTClassifier", estimator)
    monkeypatch.setenv("POCKETVIT_DATA", str(tmp_path / "data"))  # no downloads
    monkeypatch.setattr(planner, "measure", lambda *_: {})
    plan = {"epochs": {"pretrain": 1, "finetune": 1}, "compile": "never", "lands": []}
    monkeypatch.setattr(planner, "make_plan", lambda *given: plan | {"arms": [arm.name for arm in given[-1]]})
    return tmp_path


@pytest.mark.parametrize(
    "document", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in DOCUMENTS]
)
def test_every_block_runs(document: str, workplace: Path) -> None:
    found = list(blocks((REPO / document).read_text(encoding="utf-8")))
    assert found or document != "README.md"
    for language, code in found:
        run_block(language, code)


@pytest.mark.parametrize("source", ["my_images.parquet", "my_images/", "split_images/"])
def test_sources_that_the_readme_lists(source: str, workplace: Path) -> None:
    run_line(f"pocketvit finetune {source} --out run")


def test_unlabelled_images_are_for_pretraining_only(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "unlabelled/"]) == 2
    assert "labels are needed" in capsys.readouterr().err


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    file = REPO / document
    missing = [link for link in LINK.findall(file.read_text(encoding="utf-8")) if not (file.parent / link).exists()]
    assert not missing


def test_readme_lists_every_verb() -> None:
    listed = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", (REPO / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in listed if name != "digits"] == list(VERBS)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("bash", "pocketvit fit nowhere/\n"),
        ("bash", "pocketvit pretrain my_images/ --no-such-flag 1\n"),
        ("bash", "make nonsense\n"),
        ("bash", "curl example.org\n"),
        ("bash", "python benchmarks/nonsense.py\n"),
        ("bash", "torchrun --no-such-flag 1 -m pocketvit.cli fit my_images/\n"),
        ("bash", "accelerate launch -m another.program\n"),
        ("bash", "python benchmarks/throughput.py --no-such-flag 1\n"),
        ("console", "no command\n"),
        ("ruby", "puts 1\n"),
    ],
)
def test_what_cannot_be_run_fails(language: str, code: str, workplace: Path) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_block(language, code)
