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


LLVM = "https://github.com/llvm/llvm-project/blob/main/llvm/lib/Target"
CHIBIOS = "https://github.com/ChibiOS/ChibiOS/blob/master/os/hal/ports/STM32"
DEVICES = (
    Device(
        "Cortex-A76", "Raspberry Pi 5", 2.4e9, {"int8": 32, "float32": 8}, 2 * KIB**3, 2 * KIB**3, 17e9,
        "two 128-bit pipes that each take one SDOT or FMLA a cycle ([Arm's optimisation guide]"
        "(https://developer.arm.com/documentation/pjdoc466751330-7215/latest/); LLVM has its sibling, "
        f"[Neoverse N1]({LLVM}/AArch64/AArch64SchedNeoverseN1.td), alike); 32 bits of LPDDR4X, 17 GB/s ([Raspberry Pi]"
        "(https://www.raspberrypi.com/documentation/computers/processors.html#bcm2712))",
    ),
    Device(
        "Cortex-A53", "Raspberry Pi 3B+", 1.4e9, {"int8": 16 / 3, "float32": 4}, KIB**3, KIB**3, 3.6e9,
        "one 128-bit FMLA a cycle ([ncnn's notes](https://github.com/Tencent/ncnn/blob/master/docs/developer-guide/"
        f"arm-a53-a55-dual-issue.md); [LLVM's model]({LLVM}/AArch64/AArch64SchedA53.td) gives every 128-bit operation "
        "two, which would double these times); Armv8.0 has no dot product: assumed is that sixteen int8 products take "
        "SMULL, SMLAL2 and SADALP, a cycle each; assumed is LPDDR2 at 900 MT/s on 32 bits",
    ),
    Device(
        "Cortex-M7, 2 MB of flash", "STM32H743", 480e6, {"int8": 2, "float32": 1}, 2048 * KIB, 512 * KIB, 1.54e9,
        f"one SMLAD (two products) or VFMA a cycle ([LLVM's model]({LLVM}/ARM/ARMScheduleM7.td)), and nothing for "
        "widening int8 to the 16 bits that SMLAD takes ([CMSIS-NN](https://arxiv.org/abs/1801.06601)); the largest "
        "block of RAM; a flash word of 32 bytes ([ST](https://www.st.com/en/microcontrollers-microprocessors/"
        "stm32h743-753.html)) in five cycles of 240 MHz, four of them wait states "
        f"([ChibiOS]({CHIBIOS}/STM32H7xx/hal_lld_type1.h))",
    ),
    Device(
        "Cortex-M7, 1 MB of flash", "STM32F746", 216e6, {"int8": 2, "float32": 1}, 1024 * KIB, 320 * KIB, 0.86e9,
        "the same core; a line of flash of 32 bytes ([ST](https://www.st.com/en/microcontrollers-microprocessors/"
        f"stm32f7x6.html)) in eight cycles, seven of them wait states ([ChibiOS]({CHIBIOS}/STM32F7xx/hal_lld.h))",
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
