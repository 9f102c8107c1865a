"""Launches on CUDA that begin before the one before them has ended: programmatic dependent launch.

A kernel takes EARLY as a constant, waits for the launch before where it first needs what that wrote, and says when the
next one may begin. Where EARLY is false neither is compiled.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl


def early(device: torch.device) -> dict[str, Any]:
    """Options of such a launch where the device can (compute capability 9 and up), else of one that waits its turn."""
    can = device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device)[0] >= 9
    return {"EARLY": True, "launch_pdl": True} if can else {"EARLY": False}


@triton.jit
def wait():
    """What the launches before wrote may be read after this alone."""
    tl.extra.cuda.gdc_wait()


@triton.jit
def let_the_next_begin():
    """Near a program's end: the next launch's programs go where there is room.

    Begun at once they crowd on the multiprocessors that are done first.
    """
    tl.extra.cuda.gdc_launch_dependents()
