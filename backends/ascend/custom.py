"""The custom operators of ops/ascendc: whether their binding is loaded, and what they take.

The limits are those that their host sources state (ops/ascendc/op_host/plan.h), for 192 KB of unified buffer.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Names the binding's library.
VARIABLE = "NPUKV_ASCENDC"
NAMESPACE = "npukv_ascendc"

#: Blocks of 128 tokens that are selected from, and selected, at most: what the buffer of a vector core holds.
SCORED_BLOCKS, SELECTED_BLOCKS = 8192, 4096
#: Tokens of a chunk that is merged, at most.
MERGED_TOKENS = 1024


def loaded() -> tuple[bool, str]:
    """Whether torch has the operators, and how to come by them; the library that the variable names is loaded once."""
    import torch

    problem = _load(os.environ.get(VARIABLE, ""))
    if hasattr(getattr(torch.ops, NAMESPACE), "hamming_blocks"):
        return True, "the custom operators are loaded"
    return False, (
        f"the custom operators are not loaded{problem}: build them on the machine with the card (bash "
        f"ops/ascendc/build.sh), then set {VARIABLE} to build/ascendc/binding/npukv_ascendc.so"
    )


@cache
def _load(library: str) -> str:
    """Why the library could not be loaded; empty = it was, or none is named."""
    import torch

    if not library:
        return ""
    try:
        torch.ops.load_library(library)
    except OSError as error:
        return f" ({library}: {error})"
    return ""


def hamming_blocks(query_codes: torch.Tensor, key_codes: torch.Tensor, blocks: int) -> tuple[bool, str]:
    """HammingBlocks of int32 [B, Hq, 1, w] and [B, Hkv, C, w]."""
    group, words, tokens = query_codes.shape[1] // key_codes.shape[1], key_codes.shape[3], key_codes.shape[2]
    if words not in (1, 2, 4, 8):
        return False, f"takes codes of 32, 64, 128 or 256 bits, got {32 * words}"
    if group > 63:
        return False, f"takes up to 63 query heads per KV head, got {group}"
    if tokens > 128 * SCORED_BLOCKS or blocks > SELECTED_BLOCKS:
        return False, (
            f"takes up to {128 * SCORED_BLOCKS} tokens and selects up to {SELECTED_BLOCKS} blocks at once, got "
            f"{tokens} and {blocks}"
        )
    return True, "one launch on all vector cores"


def centroid_merge(keys: torch.Tensor, values: torch.Tensor, degrees: torch.Tensor, chunk: int) -> tuple[bool, str]:
    """CentroidMerge of [B, H, L, D] keys and values."""
    types = ("torch.float16", "torch.bfloat16", "torch.float32")
    if str(keys.dtype) not in types or values.dtype != keys.dtype or str(degrees.dtype) != "torch.float32":
        return False, (
            "takes keys and values of float16, bfloat16 or float32, both alike, with degrees of float32, got "
            f"{keys.dtype}, {values.dtype} and {degrees.dtype}"
        )
    if chunk > MERGED_TOKENS or chunk % 2:
        return False, f"takes chunks of 2, 4, ... {MERGED_TOKENS} tokens, got {chunk}"
    if keys.shape[3] * keys.element_size() % 32:
        return False, f"takes keys that fill whole blocks of 32 bytes, got {keys.shape[3]} of {keys.dtype}"
    return True, "keys, values and degrees read and written once"
