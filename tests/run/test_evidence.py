"""Evidence names the command as it was typed."""

from __future__ import annotations

import pytest

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
