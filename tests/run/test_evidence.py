"""Evidence names the command as it was typed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from pocketvit.run import evidence as module
from pocketvit.run.evidence import command, evidence


@pytest.mark.parametrize(
    ("argv", "environment", "expected"),
    [
        (["/venv/bin/pocketvit", "fit", "my images/", "--seeds", "2"], {}, "pocketvit fit 'my images/' --seeds 2"),
        (["notebook.py", "whatever"], {}, "pocketvit.fit(...)"),
        (
            ["/src/pocketvit/cli.py", "pretrain", "digits"],
            {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"},
            "torchrun --nproc-per-node=2 -m pocketvit.cli pretrain digits",
        ),
    ],
)
def test_the_command_is_the_one_typed(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], environment: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr("sys.argv", argv)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert command("fit") == expected


def test_evidence_names_commit_versions_and_machine() -> None:
    found = evidence("fit")
    assert len(str(found["commit"]).partition("+")[0]) == 40
    assert ("+changes" in found["commit"]) == (found["diff"] is not None)
    assert {"python", "torch", "numpy"} <= set(found["versions"])
    assert found["environment"]["cores"] >= 1


def test_a_package_installed_in_a_checkout_of_something_else_has_no_commit_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POCKETVIT_COMMIT", raising=False)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "theirs"]):
        subprocess.run([*git, *words], check=True)
    copy = shutil.copy(module.__file__, tmp_path / "evidence.py")
    spec = importlib.util.spec_from_file_location("installed", copy)
    assert spec is not None
    assert spec.loader is not None
    installed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installed)
    assert installed.commit() == {"commit": None, "diff": None}
