"""Causal attention over un-repeated key and value heads."""

from npukv.ops.attention.dispatch import causal_attention, explain

__all__ = ["causal_attention", "explain"]
