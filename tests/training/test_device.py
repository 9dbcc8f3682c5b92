"""The process that trains: what it asks of the C library."""

from __future__ import annotations

import platform
import resource
from types import SimpleNamespace

import pytest
import torch

from pocketvit.training import device
from pocketvit.training.device import make_accelerator


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep freed memory")
def test_freed_memory_is_not_faulted_in_again() -> None:
    make_accelerator("cpu", "float32")
    count, size = 12, 8 * 2**20

    def faults() -> int:
        """Of a network's kind of use: several large tensors, all of them freed at the end."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        kept = [torch.ones(size // 4) for _ in range(count)]
        del kept
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    again = sorted(faults() for _ in range(5))
    assert again[2] < count * size / resource.getpagesize() / 4


@pytest.mark.parametrize(("multiplies", "precision"), [(True, "bf16"), (False, "no")])
def test_a_gpu_that_emulates_bf16_trains_in_float32(
    monkeypatch: pytest.MonkeyPatch, multiplies: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or multiplies
    )
    monkeypatch.setattr(device, "Accelerator", SimpleNamespace)
    assert make_accelerator("cuda").mixed_precision == precision
