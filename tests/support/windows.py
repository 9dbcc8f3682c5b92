"""Chromium for tests: CI must have it, elsewhere its absence skips."""

from __future__ import annotations

import os

import pytest
from browser import chromium


def chromium_or_skip() -> str:
    """Its path."""
    path = chromium()
    if path is None and not os.environ.get("CI"):
        pytest.skip("chromium is not installed: the page was not opened in a browser")
    assert path is not None, "CI must install chromium"
    return path
