"""What the command line says of itself: help, answers to slips, and what a shell completes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pocketvit
from pocketvit.cli import ARGUMENTS, VERBS, main
from pocketvit.edge.formats import FORMATS, RUNTIMES


def test_help_starts_at_once_and_without_torch() -> None:
    code = (
        "import sys; from pocketvit.cli import main; status = main(['--help'])\n"
        "print(sorted(sys.modules.keys() & {'torch', 'numpy', 'sklearn', 'matplotlib', 'accelerate'}))\n"
        "sys.exit(status)"
    )
    took = []
    for _ in range(3):  # the fastest of three, because the machine may be busy, and by the processor's time
        before = os.times()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = os.times()
        took.append(sum(after[2:4]) - sum(before[2:4]))
    assert done.stdout.splitlines()[-1] == "[]"
    assert min(took) < 0.3
    assert all(f" {verb} " in done.stdout for verb in VERBS)
    assert len(done.stdout.splitlines()) <= 22


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code in (0, None)
    out = " ".join(capsys.readouterr().out.split())
    assert f"pocketvit {verb}" in out
    assert str(VERBS[verb].__doc__) in out


def test_help_is_also_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["help", "embed"])
    assert capsys.readouterr().out.startswith("usage: pocketvit embed")
    assert main(["help"]) == 0
    assert capsys.readouterr().out.startswith("PocketViT: from a folder of small images")


def test_no_verb_at_all_shows_the_front_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("PocketViT: from a folder of small images")


@pytest.mark.parametrize("columns", [80, 110])
@pytest.mark.parametrize("verb", list(VERBS))
def test_help_is_of_a_screen_and_without_pythons_words(
    verb: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    helped = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            main([verb, flag])
        helped[flag] = capsys.readouterr().out
    lines = helped["--help"].splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= columns
    for word in ("None", "null", "Union", "type:", "<class", "required, type"):
        assert word not in helped["--help"]
    settings = "--help-all lists every setting" in helped["--help"]
    assert settings == (verb in ARGUMENTS)
    assert ("--finetune.augment.crop_scale" in helped["--help-all"]) == settings


@pytest.mark.parametrize(
    ("verb", "lines"),
    [
        ("predict", ("usage: pocketvit predict IMAGES --model X [--FLAG", "  --top N      classes to list for each")),
        ("export", ("usage: pocketvit export RUN --out X [--FLAG VALUE ...]", "  --help        this")),
        ("bench", ("  MODEL       run directory,", "  --rounds N  turns of ten calls")),
        ("probe", ("usage: pocketvit probe [DATA] --model X [--FLAG VALUE ...]",)),
        ("budget", ("  --classes N   outputs of the head; default: 10",)),
        ("fit", ("drawn in training: none, mirror or all",)),
    ],
)  # fmt: skip
def test_help_names_what_is_needed_what_is_a_number_and_what_is_taken_otherwise(
    verb: str, lines: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    out = capsys.readouterr().out
    assert [line for line in lines if line not in out] == []


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--verison"], "no verb '--verison': did you mean --version?"),
        (["fit", "digits", "--recipe", "tinny"], "no recipe 'tinny' (did you mean tiny?): use one of"),
        (["resume"], "missing: RUN (run directory)"),
        (
            ["embed", "a.png", "--model", "lite-cifar10", "--json"],
            "--json: features on standard output are CSV: add --out",
        ),
        (
            ["predict"],
            "missing: IMAGES (image files and folders of images) and --model (run directory, weights file or",
        ),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(
    args: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    assert expected in capsys.readouterr().err


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pocketvit {pocketvit.__version__}\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pocketvit pre", {"pretrain", "predict"}),
        ("pocketvit fit digits --recipe lite-", {"lite-cifar10", "lite-cifar10-cpu", "lite-cifar100"}),
        ("pocketvit fit digits --time-", {"--time-limit"}),
        ("pocketvit fit my", {"my_images/"}),
        ("pocketvit predict a.png --model runs/", {"runs/first"}),
        ("pocketvit finetune digits --finetune.augment.e", {"--finetune.augment.erase"}),
        ("pocketvit resume ru", {"runs/first"}),
        ("pocketvit finetune digits --init ru", {"runs/first"}),
        ("pocketvit predict a.png --", {"--model", "--top", "--runtime", "--skip-bad"}),
        ("pocketvit export runs/first --", {"--to", "--int8", "--max-drop"}),
        ("pocketvit fit /et", {"/etc/"}),
    ],
)
def test_the_shell_is_told_what_may_follow(line: str, expected: set[str], tmp_path: Path) -> None:
    assert told_to_the_shell(line, tmp_path) >= expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pocketvit fit digits --symmetry ", {"none", "mirror", "all"}),
        ("pocketvit predict a.png --device ", {"auto", "cpu", "cuda", "mps"}),
        ("pocketvit fit digits --preset ", {"paper", "lite", "tiny", "digits"}),
        ("pocketvit export runs/first --to ", set(FORMATS)),
        ("pocketvit predict a.onnx --runtime ", set(RUNTIMES)),
    ],
)
def test_the_shell_is_told_the_few_values_of_a_flag_and_nothing_else(
    line: str, expected: set[str], tmp_path: Path
) -> None:
    assert told_to_the_shell(line, tmp_path) == expected


def told_to_the_shell(line: str, tmp_path: Path) -> set[str]:
    """What may follow `line` in a folder with images and a run."""
    (tmp_path / "my_images").mkdir()
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "config.yaml").write_text("seed: 1\n")
    asked = {
        "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9",
        "_ARGCOMPLETE_IFS": "\n",        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "answer"),
    }  # fmt: skip
    program = Path(sys.executable).with_name("pocketvit")
    subprocess.run([program], cwd=tmp_path, env=os.environ | asked, check=True, capture_output=True)
    return {word.strip() for word in (tmp_path / "answer").read_text().split("\n")}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "pocketvit" in capsys.readouterr().out
    assert main(["completion", "tcsh"]) == 2
    assert "expected bash, zsh or fish" in capsys.readouterr().err
