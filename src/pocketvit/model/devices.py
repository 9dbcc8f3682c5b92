"""Small devices on paper: what fits, and the least time that an image takes on one core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pocketvit.model.costs import ClassifierCosts

KIB = 1024
VALUE_BYTES = {"int8": 1, "float32": 4}


@dataclass(frozen=True)
class Device:
    """A class of device, by one part that stands for it.

    Args:
        core: one of which computes
        part: that has it
        clock: of the core, in Hz
        macs: multiply-accumulates a cycle at best, by the type of what is multiplied
        weights: bytes of the memory that holds the weights, and the program beside them
        activations: bytes of the memory that holds what is computed
        bandwidth: bytes/s at which weights are read, once for each image
        grounds: where the figures come from, in Markdown
    """

    core: str
    part: str
    clock: float
    macs: dict[str, float]
    weights: int
    activations: int
    bandwidth: float
    grounds: str


DEVICES = (
    Device(
        "Cortex-A76", "Raspberry Pi 5", 2.4e9, {"int8": 32, "float32": 8}, 2 * KIB**3, 2 * KIB**3, 17.1e9,
        "two 128-bit pipes that each take one SDOT or FMLA a cycle "
        "([Arm's optimisation guide](https://developer.arm.com/documentation/pjdoc466751330-7215/latest/)); 32 bits of "
        "LPDDR4X-4267 ([product page](https://www.raspberrypi.com/products/raspberry-pi-5/))",
    ),
    Device(
        "Cortex-A53", "Raspberry Pi 3B+", 1.4e9, {"int8": 16 / 3, "float32": 4}, KIB**3, KIB**3, 3.6e9,
        "one 128-bit FMLA a cycle ([ncnn's notes](https://github.com/Tencent/ncnn/blob/master/docs/developer-guide/"
        "arm-a53-a55-dual-issue.md)); Armv8.0 has no dot product, so that sixteen int8 products take SMULL, SMLAL2 and "
        "SADALP; 32 bits of LPDDR2-900",
    ),
    Device(
        "Cortex-M7, 2 MB of flash", "STM32H743", 480e6, {"int8": 2, "float32": 1}, 2048 * KIB, 512 * KIB, 1.54e9,
        "one SMLAD (two products) or VFMA a cycle ([CMSIS-NN](https://arxiv.org/abs/1801.06601)); the largest block of "
        "RAM; 32 bytes of flash in five cycles of 240 MHz "
        "([ST](https://www.st.com/en/microcontrollers-microprocessors/stm32h743-753.html))",
    ),
    Device(
        "Cortex-M7, 1 MB of flash", "STM32F746", 216e6, {"int8": 2, "float32": 1}, 1024 * KIB, 320 * KIB, 0.86e9,
        "the same core; 32 bytes of flash in eight cycles "
        "([ST](https://www.st.com/en/microcontrollers-microprocessors/stm32f7x6.html))",
    ),
)  # fmt: skip


def on_paper(costs: ClassifierCosts) -> list[dict[str, Any]]:
    """For each device and type: whether the network fits, and the seconds that an image takes at least.

    That is a roofline (Williams et al. 2009): as long as the products take at the core's peak, or the reading of the
    weights, whichever is longer. Activations are taken to stay in caches or in the RAM beside the core. A program that
    reaches half of the peak takes twice as long.

    Returns:
        Dicts of "core", "part", "precision", "weights_bytes", "activations_bytes", "fits" and "least_seconds".
    """
    weights = {"int8": 1e6 * costs.weights_int8_mb, "float32": 1e6 * costs.weights_mb}
    found = []
    for device in DEVICES:
        for precision, size in VALUE_BYTES.items():
            held, used = round(weights[precision]), costs.peak_activations * size
            products = costs.macs_computed / (device.clock * device.macs[precision])
            found.append(
                {
                    "core": device.core, "part": device.part, "precision": precision,
                    "weights_bytes": held, "activations_bytes": used,
                    "fits": held <= device.weights and used <= device.activations,
                    "least_seconds": max(products, held / device.bandwidth),
                }
            )  # fmt: skip
    return found
