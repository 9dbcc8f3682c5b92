"""Files are whole or not there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pocketvit.files import copy_whole


def test_a_copy_that_is_cut_off_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "new", tmp_path / "weights"
    source.write_text("new weights")
    target.write_text("weights")

    def cut_off(source: Path, target: Path) -> None:
        target.write_text("new")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", cut_off)
        with pytest.raises(KeyboardInterrupt):
            copy_whole(source, target)
    assert target.read_text() == "weights"
    copy_whole(source, target)
    assert target.read_text() == "new weights"
    assert sorted(tmp_path.iterdir()) == [source, target]
