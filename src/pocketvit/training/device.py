"""Where and how precisely to compute: accelerate's device and autocast, with "auto" resolved."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import platform
from datetime import timedelta
from typing import TypeVar

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list

from pocketvit.errors import UserError

T = TypeVar("T")
MMAP_THRESHOLD = 32 * 2**20  # bytes; glibc itself comes to it as soon as so large a piece is freed
# By torch's names; those of x86, then those of ARM.
INSTRUCTIONS = {
    "avx2": "AVX2", "avx512_f": "AVX-512", "avx_vnni": "AVX-VNNI", "avx512_vnni": "AVX512-VNNI",
    "avx512_bf16": "AVX512-BF16", "amx_int8": "AMX-INT8", "amx_bf16": "AMX-BF16",
    "neon": "NEON", "dot": "DotProd", "i8mm": "I8MM", "bf16": "BF16", "sve": "SVE", "sme": "SME",
}  # fmt: skip
WAIT = timedelta(hours=12)  # for the main process, while it alone evaluates or decodes


def make_accelerator(device: str = "auto", precision: str = "auto", deterministic: bool = False) -> Accelerator:
    """An Accelerator on `device` ("auto", "cpu", "cuda", "mps"); raises UserError where that device is not there.

    Precision "auto" is bf16 where the hardware multiplies it: CUDA from Ampere on, and CPUs with AMX or AVX512-BF16.
    With `deterministic`, torch uses in the whole process only kernels that give the same bits each time.
    """
    if deterministic:
        # cuBLAS reads it when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device not in ("auto", *there):
        raise UserError(f"--device {device}: expected one of auto, {', '.join(there)}")
    if not there.get(device, True):
        raise UserError(f"--device {device}: none found here; use --device auto")
    kind = device if device != "auto" else next(name for name in ("cuda", "mps", "cpu") if there[name])
    if precision == "auto":
        # Older GPUs only emulate it.
        on_cuda = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if on_cuda or (kind == "cpu" and cpu_multiplies_bf16()) else "float32"
    if kind == "cpu":
        keep_freed_memory()
    elif kind == "cuda":
        # Tried first on Hopper, it has lost to flash attention at lengths under 1,024 tokens elsewhere, and plans each
        # shape anew. Here all kernels' launches took longer than they did: benchmarks/pace.py has yet to tell.
        torch.backends.cuda.enable_cudnn_sdp(False)
    # accelerate keeps one state a process, and refuses another precision until it is reset.
    AcceleratorState._reset_state(reset_partial_state=True)
    # A process that ends amid the group's threads is aborted now and then, after all its work is done.
    atexit.unregister(_leave_group)
    atexit.register(_leave_group)
    return Accelerator(
        cpu=kind == "cpu",
        mixed_precision="no" if precision == "float32" else precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
    )


def keep_freed_memory(keep: bool = True) -> None:
    """Have glibc keep what is freed, where the C library is that one, or not.

    It would give memory back to the system and fault it in again, page by page, in each step: with float32 a tenth of
    the time of fine-tuning. Pieces beyond MMAP_THRESHOLD, the most that it can be, go back as before. Both thresholds
    without `keep` are those that glibc comes to by itself.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, MMAP_THRESHOLD)
        mallopt(trim_threshold, -1 if keep else 2 * MMAP_THRESHOLD)


def _leave_group() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Sharded networks, which refer to themselves, hold the group, and its threads with it.
        gc.collect()
        torch.distributed.destroy_process_group()


def from_main(accelerator: Accelerator, value: T) -> T:
    """The main process's `value`, in every process."""
    if accelerator.num_processes > 1:
        (value,) = broadcast_object_list([value])
    return value


def free_bytes(device: torch.device) -> int:
    """Memory that this process may still take on a device, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    except ImportError:  # not Unix
        return free
    if limit == resource.RLIM_INFINITY:
        return free
    return min(free, limit - int(psutil.Process().memory_info().vms))


def cpu_multiplies_bf16() -> bool:
    """Whether the CPU has instructions for it, of x86."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def cpu_instructions() -> list[str]:
    """Those of the CPU that products are made of, in words, as far as PyTorch tells; speeds in int8 hold for them."""
    told = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return [words for name, words in INSTRUCTIONS.items() if told.get(name)]


def describe(accelerator: Accelerator) -> dict[str, str]:
    """Device and precision in words, as evidence states them."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "precision": "float32" if accelerator.mixed_precision == "no" else "bf16"}
