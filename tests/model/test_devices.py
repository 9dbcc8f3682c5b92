"""What small devices would take: activations counted by hand, the roofline's two sides, and what fits."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from pocketvit.cli import main
from pocketvit.config import ModelConfig
from pocketvit.model.costs import Costs, costs, peak_activations
from pocketvit.model.devices import DEVICES, on_paper

PRESETS = {"paper": (36, 36, 3), "lite": (32, 32, 3), "tiny": (32, 32, 3), "digits": (8, 8, 1)}


def of_preset(name: str) -> Costs:
    return costs(ModelConfig(name), PRESETS[name], 10)


def test_activations_are_in_use_from_the_first_to_the_last_operator_that_has_them() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 4))
        x = torch.empty(3, 4)

    def residual() -> Tensor:
        return x + network(x)

    def reshaped() -> Tensor:
        return network(x).view(2, 6).t()

    # GELU reads 48 values and makes 48 others.
    assert peak_activations(network, lambda: network(x)) == 96
    # The input waits for the sum.
    assert peak_activations(network, residual) == 96 + 12
    # A view is no memory of its own.
    assert peak_activations(network, reshaped) == 96


def test_attention_holds_its_weights_beside_queries_keys_and_values() -> None:
    cost, tokens, width, heads = of_preset("lite"), 65, 192, 3
    held = 4 * tokens * width  # the residual stream, and queries, keys and values in one
    assert held + heads * tokens**2 < cost.peak_activations < held + 3 * (tokens * width + heads * tokens**2)


def test_int8_takes_a_byte_for_a_value_of_a_matrix_and_four_for_the_rest() -> None:
    for name in PRESETS:
        cost = of_preset(name)
        vectors = (4 * cost.params - 1e6 * cost.weights_mb, 1e6 * cost.weights_int8_mb - cost.params)
        assert vectors[0] == pytest.approx(0)
        assert 0 < vectors[1] < 0.07 * cost.params  # three bytes more for each bias and norm


def test_the_least_time_is_that_of_the_products_or_of_reading_the_weights() -> None:
    device = DEVICES[0]
    cost = of_preset("lite")
    found = on_paper(cost)[0]
    assert found["least_seconds"] == pytest.approx(cost.macs_computed / (device.clock * device.macs["int8"]))
    idle = on_paper(dataclasses.replace(cost, macs_computed=1))[0]
    assert idle["least_seconds"] == pytest.approx(1e6 * cost.weights_int8_mb / device.bandwidth)


def test_lite_does_not_fit_two_megabytes_of_flash_and_tiny_does() -> None:
    def fitting(preset: str) -> set[tuple[str, str]]:
        return {(one["part"], one["precision"]) for one in on_paper(of_preset(preset)) if one["fits"]}

    assert ("STM32H743", "int8") not in fitting("lite")
    assert ("STM32H743", "int8") in fitting("tiny")
    assert {part for part, _ in fitting("tiny")} == {"Raspberry Pi 5", "Raspberry Pi 3B+", "STM32H743"}
    assert ("STM32F746", "int8") in fitting("digits")
    # Activations have to fit too.
    large = on_paper(dataclasses.replace(of_preset("digits"), peak_activations=10**6))
    assert {one["part"] for one in large if one["fits"]} == {"Raspberry Pi 5", "Raspberry Pi 3B+"}


def test_budget_says_so_in_a_table_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["budget", "--preset", "tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("") + 1].startswith("on paper, one core, ms an image at least ")
    flash = next(line for line in lines if "STM32H743" in line)
    assert flash.endswith("does not fit")
    assert flash.count("does not fit") == 1
    assert max(map(len, lines)) <= 80
