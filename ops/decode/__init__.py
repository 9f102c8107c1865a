"""What surrounds attention in a decode step: projections with their norm, residual and gate, and the rotation."""

from npukv.ops.decode import ascend as _ascend  # noqa: F401 - its kernels register themselves
from npukv.ops.decode.operators import gated, project, rotate_append

__all__ = ["gated", "project", "rotate_append"]
