"""Typed, frozen settings. Recipes are YAML files that fill them; flags and keyword arguments override recipes.

Nothing here imports torch, so that the command line starts at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from pocketvit.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """Images: their size, and which of them (and of their labels) are used for what.

    Args:
        size: side in pixels (36) or HEIGHTxWIDTH ("28x40") that images are scaled to; null keeps the native size
        val_fraction: share of the train images held out for validation, stratified by class
        test_fraction: share of the images held out for testing when the source brings no test split
        split_seed: seed of these two splits
        labels_per_class: labels to keep for fine-tuning: a count, "all", or several separated by commas ("5,all")
        label_fraction: share of the labels to keep for fine-tuning, stratified by class (instead of labels_per_class)
        skip_bad: leave out images that cannot be decoded, and list them, instead of stopping
    """

    size: int | str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    labels_per_class: int | str = "all"
    label_fraction: float | None = None
    skip_bad: bool = False

    @property
    def shape(self) -> tuple[int, int] | None:
        """(height, width) asked for, or None for the native size."""
        if self.size is None:
            return None
        parts = str(self.size).lower().split("x")
        if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise UserError(f"--size: '{self.size}' is neither a side (36) nor HEIGHTxWIDTH (28x40)")
        return int(parts[0]), int(parts[-1])

    @property
    def label_budgets(self) -> tuple[int | None, ...]:
        """Labels kept per class, one entry an experiment; None keeps them all (or `label_fraction` of them)."""
        budgets: list[int | None] = []
        for part in str(self.labels_per_class).split(","):
            part = part.strip()
            if part == "all":
                budgets.append(None)
            elif part.isdecimal() and int(part) > 0:
                budgets.append(int(part))
            else:
                raise UserError(f"--labels-per-class: '{part}' is neither a count above 0 nor 'all'")
        if self.label_fraction is not None:
            if budgets != [None]:
                raise UserError("--labels-per-class and --label-fraction exclude each other: give one of them")
            if not 0 < self.label_fraction <= 1:
                raise UserError(f"--label-fraction: {self.label_fraction} is not above 0 and at most 1")
        return tuple(budgets)
