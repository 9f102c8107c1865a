"""The CPU: always there, and the reference for every other device."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from npukv.backends.base import Device

if TYPE_CHECKING:
    import torch


#: glibc's M_MMAP_THRESHOLD (at its maximum), M_TRIM_THRESHOLD and M_TOP_PAD.
_MALLOC = {-3: 32 << 20, -1: 512 << 20, -2: 64 << 20}


class Cpu(Device):
    name = "cpu"
    collectives = "gloo"
    batch_tokens = 12288

    @classmethod
    def available(cls) -> tuple[bool, str]:
        return True, f"{os.cpu_count()} cores"

    @property
    def torch_device(self) -> torch.device:
        import torch

        return torch.device("cpu")

    def free_memory(self) -> int:
        free = _meminfo("MemAvailable")
        limit = _cgroup_free()
        return min(free, limit) if limit is not None else free

    def peak_memory(self) -> int:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def description(self) -> str:
        cpuinfo = Path("/proc/cpuinfo")
        if cpuinfo.exists():
            for line in cpuinfo.read_text(errors="replace").splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
        return platform.processor() or platform.machine()

    def default_dtype(self) -> torch.dtype:
        """bfloat16 where the processor multiplies it in hardware, else float32 (emulated bfloat16 is slower)."""
        import torch

        in_hardware = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if in_hardware else torch.float32

    def units(self) -> dict[str, int]:
        return {"cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1}

    def seed(self, seed: int) -> None:
        import torch

        torch.default_generator.manual_seed(seed)

    def prepare(self) -> None:
        """Let the C library keep freed blocks of up to 32 MB for the next batch.

        By default it hands each activation tensor back to the system and faults its pages in again: at 16 rows of 400
        tokens that took as long as the arithmetic. Only glibc has this switch; elsewhere nothing changes.
        """
        library = ctypes.CDLL(None)
        if sys.platform == "linux" and hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version"):
            for parameter, value in _MALLOC.items():
                library.mallopt(parameter, value)

    def is_out_of_memory(self, error: BaseException) -> bool:
        # torch's CPU allocator raises a bare RuntimeError
        return super().is_out_of_memory(error) or "DefaultCPUAllocator" in str(error)


def _meminfo(field: str) -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _cgroup_free() -> int | None:
    """Bytes left under the container's memory limit (cgroup v2), None without one."""
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if not (limit.exists() and used.exists()):
        return None
    text = limit.read_text().strip()
    return None if text == "max" else max(0, int(text) - int(used.read_text()))
