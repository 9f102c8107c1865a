"""The nearest blocks of 128 tokens, from codes to a block table: scores and selection as one operator."""

from __future__ import annotations

import torch

from npukv.backends.ascend import calls, custom
from npukv.ops.hashing import operators, reference
from npukv.ops.registry import define


def specification(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor,
    blocks: int,
    sink_blocks: int,
    recent_blocks: int,
) -> torch.Tensor:
    """`select_blocks` of `hamming_scores`, for engines that page the cache.

    Args:
        query_codes: int32 [B, Hq, 1, w]; key_codes: int32 [B, Hkv, C, w]; length: int32 [B].
        blocks: to select, the first `sink_blocks` and the last `recent_blocks` among them.

    Returns:
        int32 [B, Hkv, blocks], numbers of blocks, ascending, -1 after the last.
    """
    scores = reference.hamming_scores(query_codes, key_codes, length)
    return reference.select_blocks(scores, length, blocks, sink_blocks, recent_blocks)


def composed(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor,
    blocks: int,
    sink_blocks: int,
    recent_blocks: int,
) -> torch.Tensor:
    """The two operators, one after the other."""
    scores = operators.hamming_scores(query_codes, key_codes, length)
    largest = query_codes.shape[1] // key_codes.shape[1] * 32 * key_codes.shape[3]
    return operators.select_blocks(scores, length, blocks, sink_blocks, recent_blocks, largest)


def in_one(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor,
    blocks: int,
    sink_blocks: int,
    recent_blocks: int,
) -> torch.Tensor:
    """ops/ascendc's HammingBlocks: one launch on all vector cores."""
    return calls.hamming_blocks(query_codes, key_codes, length, blocks, sink_blocks, recent_blocks)


def check_in_one(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor,
    blocks: int,
    sink_blocks: int,
    recent_blocks: int,
) -> tuple[bool, str]:
    ok, reason = custom.loaded()
    return custom.hamming_blocks(query_codes, key_codes, blocks) if ok else (ok, reason)


def _shape(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor,
    blocks: int,
    sink_blocks: int,
    recent_blocks: int,
) -> torch.Tensor:
    return key_codes.new_empty(*key_codes.shape[:2], blocks)


hamming_blocks = define(
    "npukv::hamming_blocks(Tensor query_codes, Tensor key_codes, Tensor length, int blocks, int sink_blocks, "
    "int recent_blocks) -> Tensor",
    reference=specification,
    fake=_shape,
)
hamming_blocks.kernel("cpu", "composed")(composed)
hamming_blocks.kernel("cuda", "composed")(composed)
hamming_blocks.kernel(calls.DEVICE, "custom", check_in_one)(in_one)
hamming_blocks.kernel(calls.DEVICE, "composed")(composed)
