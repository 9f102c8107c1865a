"""Attention over un-repeated key and value heads: causal, and partial over chosen keys with an exact merge."""

from npukv.ops.attention import ascend as _ascend  # noqa: F401 - its kernels register themselves
from npukv.ops.attention.dispatch import causal_attention, explain
from npukv.ops.attention.operators import indexed_attention, merge_partials, paged_attention, partial_attention

__all__ = [
    "causal_attention",
    "explain",
    "indexed_attention",
    "merge_partials",
    "paged_attention",
    "partial_attention",
]
