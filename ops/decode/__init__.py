"""What surrounds attention in a decode step: projections with their norm, residual and gate, and the rotation."""

from npukv.ops.decode.operators import gated, project, rotate_append

__all__ = ["gated", "project", "rotate_append"]
