"""A run to export."""

import pytest
from exported import SIZES

import pocketvit as pv


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> pv.Run:
    out = tmp_path_factory.mktemp("fit") / "run"
    about = {**SIZES, "epochs": 12, "finetune.epochs": 4, "finetune.min_steps": 150, "seeds": 1, "device": "cpu"}
    about["arms"] = "mae,random"  # whatever a CNN would do better
    return pv.fit("digits", out=out, labels_per_class="all", quiet=True, **about)
