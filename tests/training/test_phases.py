"""Fine-tuning on part of the patches: phases by time, labels that follow what is seen, evaluation on all patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pocketvit.config import FinetuneConfig, resolve
from pocketvit.data import Dataset, Patching, load
from pocketvit.errors import UserError
from pocketvit.model.vit import ViT, ViTShape
from pocketvit.training.augment import mix
from pocketvit.training.device import make_accelerator
from pocketvit.training.finetune import finetuning
from pocketvit.training.log import RunLog
from pocketvit.training.loop import train
from pocketvit.training.phases import Phases, forward_macs

SETTINGS = {
    "model.width": 16, "model.depth": 2, "model.heads": 2, "model.decoder_width": 16, "model.decoder_heads": 2,
    "finetune.epochs": 2, "finetune.batch_size": 64, "finetune.min_steps": 0, "finetune.cutmix": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", resolve("digits").data, patching=Patching(2))


@pytest.mark.parametrize(
    ("value", "phases"),
    [
        (1.0, ((1.0, 1.0),)),
        ("0.5", ((1.0, 0.5),)),
        ("0.5:0.5,0.2:0.75,0.3:1", ((0.5, 0.5), (0.2, 0.75), (0.3, 1.0))),
    ],
)
def test_the_grammar_of_phases(value: float | str, phases: tuple[tuple[float, float], ...]) -> None:
    assert FinetuneConfig(patch_share=value).patch_phases == phases


@pytest.mark.parametrize("value", ["0", 1.5, "half", "0.5:0.5", "0.5:0.5,0.6:1", "0.5:0.5,0.5", "1:2:3", ""])
def test_what_is_no_share_is_refused(value: float | str) -> None:
    with pytest.raises(UserError, match=r"--finetune\.patch_share: .* is neither a share"):
        FinetuneConfig(patch_share=value)


def test_a_phase_of_fewer_patches_has_more_of_the_steps() -> None:
    vit = ViT(ViTShape((32, 32, 3), patch=4, width=128, depth=8, heads=4, mlp_ratio=2.0), 10)
    half, whole = forward_macs(vit, 0.5), forward_macs(vit, 1.0)
    assert 0.45 < half / whole < 0.55
    phases = Phases([(0.5, 0.5), (0.5, 1.0)], vit)
    end = (1 / half) / (1 / half + 1 / whole)  # of the steps: about two thirds
    assert 0.6 < end < 0.7
    shares = [phases.share_at(place) for place in (0.0, end - 0.01, end + 0.01, 1.0)]
    assert shares == [0.5, 0.5, 1.0, 1.0]


def test_a_cut_images_label_follows_the_patches_that_are_seen() -> None:
    torch.manual_seed(0)
    images = torch.zeros(4, 1, 8, 8)
    images[1::2] = 1  # the neighbours of 0 and 2
    mixed, targets = mix(images, torch.eye(4), 0.0, 1.0, seen=lambda mask: torch.tensor([[0.0], [1.0], [0.25], [0.5]]))
    assert 0 < mixed[0].mean() < 1
    expected = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0.75, 0.25], [0, 0, 0.5, 0.5]])
    torch.testing.assert_close(targets, expected)


def test_training_sees_part_of_the_patches_and_evaluation_all_of_them(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, int]] = []
    encode = ViT.encode

    def recorded(self: ViT, images: torch.Tensor, visible: torch.Tensor | None = None, **more: bool) -> torch.Tensor:
        if images.device.type != "meta":
            seen.append((self.training, 16 if visible is None else visible.shape[1]))
        return encode(self, images, visible, **more)

    monkeypatch.setattr(ViT, "encode", recorded)
    settings = resolve("digits", **SETTINGS, **{"finetune.patch_share": "0.5:0.5,0.5:1"})
    step = finetuning(
        digits, np.arange(len(digits.train)), settings, make_accelerator("cpu", "float32"), seed=0, init=None
    )
    result = train(step, RunLog(quiet=True), {"stage": "finetune"})
    trained = [patches for training, patches in seen if training]
    assert trained == sorted(trained)
    assert set(trained) == {8, 16}
    assert trained.count(8) > 1.4 * trained.count(16)
    assert {patches for training, patches in seen if not training} == {16}
    assert result.steps == len(trained)
