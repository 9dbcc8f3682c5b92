"""What networks are trained for, one file each; those of PRETRAINING make one encoder each, without labels."""

from __future__ import annotations

from pocketvit.training.objectives.contrast import Contrast
from pocketvit.training.objectives.mae import MaskedAutoencoding
from pocketvit.training.objectives.pretraining import Pretraining

PRETRAINING: dict[str, type[Pretraining]] = {"mae": MaskedAutoencoding, "contrast": Contrast}
