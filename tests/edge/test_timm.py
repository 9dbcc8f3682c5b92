"""Weights under timm's names, which are a model like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from exported import classifier, images, meta
from safetensors.torch import load_file

import pocketvit as pv
from pocketvit.edge.timm import Timm, TimmRoundTrip
from pocketvit.evaluation.predictor import Predictor
from pocketvit.model import to_timm


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_the_round_trip_is_the_network(pool: str, tmp_path: Path) -> None:
    about = meta(pool)
    vit = classifier(about)
    Timm.write(tmp_path / "m.safetensors", vit, about)
    runtime = TimmRoundTrip(tmp_path / "m.safetensors")
    assert runtime.meta == about
    assert np.array_equal(runtime.logits(images()), Predictor.of(vit, about, "cpu").logits(images()))
    stored, expected = load_file(tmp_path / "m.safetensors"), to_timm(vit.state_dict(), vit.shape)
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in expected.items())
    assert pv.load(tmp_path / "m.safetensors").classes_.tolist() == list(about.classes)
    assert f'global_pool="{"token" if pool == "token" else "avg"}"' in Timm.loading("m.safetensors", about)
