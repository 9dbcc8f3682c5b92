"""How sure an accuracy, or a difference of two, is."""

from collections.abc import Sequence

import numpy as np


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample (divided by n - 1), 0 where there is but one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
