"""A run to export."""

import pytest
from exported import SIZES

import pocketvit as pv


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> pv.Run:
    out = tmp_path_factory.mktemp("fit") / "run"
    about = {**SIZES, "epochs": 4, "finetune.min_steps": 300, "labels_per_class": "all", "seeds": 1, "device": "cpu"}
    return pv.finetune("digits", out=out, **about)
