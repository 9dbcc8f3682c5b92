"""Fixtures that every test folder shares: a private image cache, and real data sets where they are at hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def image_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own, so that no test sees another's entries or the user's."""
    folder = tmp_path_factory.mktemp("image-cache")
    monkeypatch.setenv("POCKETVIT_CACHE", str(folder))
    monkeypatch.delenv("POCKETVIT_DATA", raising=False)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Look up a real data set by name in $POCKETVIT_TEST_DATA, where it must be, or in ../shared/data or shared/data.

    Without the variable, a test whose data set is absent is skipped.
    """

    def find(name: str) -> Path:
        named = os.environ.get("POCKETVIT_TEST_DATA")
        roots = [Path(named)] if named else [folder / "shared" / "data" for folder in (REPO.parent, REPO)]
        for root in roots:
            if (root / name).exists():
                return root / name
        absent = f"data set '{name}' not found in {' or '.join(str(root) for root in roots)}"
        if named:
            pytest.fail(f"{absent}, which POCKETVIT_TEST_DATA names")
        pytest.skip(f"{absent} (set POCKETVIT_TEST_DATA)")

    return find
