"""What tests of training share."""

from __future__ import annotations

import pytest

from pocketvit.training import loop, stage


@pytest.fixture
def checkpoint_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are read, and a checkpoint is written, after every step."""
    monkeypatch.setattr(stage, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(loop, "SETTLE_SECONDS", 0.0)
