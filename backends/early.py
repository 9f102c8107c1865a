"""Launches that begin while the one before them ends (programmatic dependent launch, compute capability 9.0 on)."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def follow():
    """Wait for the launch before this one, and let the next one get ready. The launch says launch_pdl=True."""
    tl.extra.cuda.gdc_wait()
    tl.extra.cuda.gdc_launch_dependents()
