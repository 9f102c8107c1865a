"""The CPU's figures are measured ones."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest
import torch

from npukv.backends.cpu import Cpu

MIB = 1 << 20


def test_always_available() -> None:
    assert Cpu.available()[0]
    assert torch.zeros(1, device=Cpu().torch_device).device.type == "cpu"


def test_units_and_seeds() -> None:
    assert Cpu().units() == {"cores": len(os.sched_getaffinity(0))}
    drawn = []
    for seed in (5, 6, 5):
        Cpu().seed(seed)
        drawn.append(torch.randn(4))
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])


def test_free_memory_is_below_what_the_machine_has() -> None:
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 16 * MIB < Cpu().free_memory() < everything


def test_peak_memory_grows_with_use_and_stays() -> None:
    device = Cpu()
    before = device.peak_memory()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert before >= resident * 0.9
    size = before - resident + 64 * MIB
    block = mmap.mmap(-1, size)  # fresh pages: an allocator might hand out some that are resident already
    for page in range(0, size, mmap.PAGESIZE):
        block[page] = 1
    grown = device.peak_memory()
    assert before + 32 * MIB < grown < before + size + 32 * MIB
    block.close()
    assert device.peak_memory() >= grown


def test_allocation_that_cannot_fit_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 56, dtype=torch.uint8)
    assert Cpu().is_out_of_memory(error.value)


def test_describes_the_processor() -> None:
    assert Cpu().description().strip()


def test_default_type_has_eight_exponent_bits() -> None:
    assert Cpu().default_dtype() in (torch.bfloat16, torch.float32)


def test_nothing_to_wait_for_or_release() -> None:
    Cpu().synchronize()
    Cpu().release_memory()
