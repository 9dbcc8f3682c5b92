"""Which layers int8 harms."""

import copy

import torch
from exported import classifier, images, meta

from pocketvit.edge.sensitivity import sensitivities


def test_a_layer_whose_range_one_input_takes_is_named_first() -> None:
    about = meta()
    vit = classifier(about)
    before = sensitivities(vit, about, images(64))
    # An embedding, four in each layer, the last layer's queries, and a head.
    assert len(before) == 1 + 4 * vit.shape.depth + 1 + 1
    assert all(0 < change < 0.3 for change in before.values())
    # The same function of the image: one input of the layer is a thousand times as large, its weights as much smaller.
    changed = copy.deepcopy(vit)
    mlp, scale = changed.blocks[1], torch.ones(32)
    scale[3] = 1000
    mlp.norm2.weight.data *= scale
    mlp.norm2.bias.data *= scale
    mlp.mlp.fc1.weight.data /= scale
    after = sensitivities(changed, about, images(64))
    assert next(iter(after)) == "blocks.1.mlp.fc1"
    assert after["blocks.1.mlp.fc1"] > 10 * before["blocks.1.mlp.fc1"]
    # Nothing is left quantised.
    assert after["head"] == sensitivities(changed, about, images(64))["head"]
