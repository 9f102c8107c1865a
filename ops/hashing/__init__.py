"""Hash codes of keys and queries, their Hamming scores, and the selection of the closest keys (HATA)."""

from __future__ import annotations

from npukv.ops.hashing import ascend as _ascend  # noqa: F401 - its kernels register themselves
from npukv.ops.hashing.blocks import hamming_blocks
from npukv.ops.hashing.operators import (
    hamming_scores,
    hamming_scores_matmul,
    hamming_select,
    hash_append,
    hash_decode,
    hash_encode,
    hash_step,
    hashed_attention,
    select_blocks,
    select_top_k,
)
from npukv.ops.hashing.weights import random_orthogonal

__all__ = [
    "hamming_blocks",
    "hamming_scores",
    "hamming_scores_matmul",
    "hamming_select",
    "hash_append",
    "hash_decode",
    "hash_encode",
    "hash_step",
    "hashed_attention",
    "random_orthogonal",
    "select_blocks",
    "select_top_k",
]
