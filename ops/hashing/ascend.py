"""Hashing on Ascend: bits packed by npu_sign_bits_pack, distances as products of +1 and -1 on the cube unit.

The vector units of arch 2201 count no bits, and their And takes 16-bit numbers only; the cube multiplies.
"""

from __future__ import annotations

from typing import Any

import torch

from npukv.backends.ascend import calls, legality
from npukv.ops.hashing.operators import (
    hamming_scores,
    hamming_select,
    hash_append,
    hash_decode,
    hash_encode,
    hash_step,
    hashed_attention,
    select_and_attend,
    step_and_attend,
)
from npukv.ops.hashing.reference import ABSENT, select_top_k, unpack

#: Keys whose codes are unpacked at a time: 128 bits of float16 for 32768 keys are 8 MB per head.
CHUNK = 32768
#: Whole numbers up to here are exact in float16.
EXACT = 2048


def encode_packed(a: Any) -> torch.Tensor:
    return _encoded(a.x, a.weights)


def _encoded(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Projection in float32, then the vendor's packing of signs."""
    batch, heads, tokens, width = x.shape
    kv_heads, _, bits = weights.shape
    grouped = x.float().reshape(batch, kv_heads, heads // kv_heads * tokens, width)
    projected = grouped @ weights.float()
    # The vendor's bit is x >= 0, ours is x > 0: so pack 0 - x, which is never -0, and turn the bits round.
    packed = calls.sign_bits_pack((0.0 - projected).reshape(-1))
    return packed.view(-1).view(torch.int32).bitwise_not().view(batch, heads, tokens, bits // 32)


def append_packed(a: Any) -> None:
    """Encode, then write all three at `length`."""
    batch, heads, tokens, _ = a.key.shape
    place = a.length.long()[:, None] + torch.arange(tokens, device=a.key.device)  # [B, S]
    place = place[:, None, :, None].expand(batch, heads, tokens, 1)
    for held, new in ((a.keys, a.key), (a.values, a.value), (a.codes, _encoded(a.key, a.weights))):
        held.scatter_(2, place.expand(-1, -1, -1, new.shape[-1]), new.to(held.dtype))


def step_packed(a: Any) -> torch.Tensor:
    append_packed(a)
    return _encoded(a.query, a.weights)


def scores_multiplied(a: Any) -> torch.Tensor:
    return _scores(a.query_codes, a.key_codes, a.length, a.start)


def _scores(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor | None,
    start: torch.Tensor | None,
) -> torch.Tensor:
    """(G r - (sum_g q_g) . k) / 2 with codes of +1 and -1, as many keys at a time as fit."""
    batch, kv_heads, keys, words = key_codes.shape
    group = query_codes.shape[1] // kv_heads
    largest = group * 32 * words
    exact = torch.float16 if largest <= EXACT else torch.float32
    query = unpack(query_codes).view(batch, kv_heads, group, 32 * words).sum(2).to(exact)[..., None]  # [B, Hkv, r, 1]
    scores = torch.empty(batch, kv_heads, keys, dtype=torch.int32, device=key_codes.device)
    for first in range(0, keys, CHUNK):
        signs = unpack(key_codes[:, :, first : first + CHUNK]).to(exact)
        products = (signs @ query)[..., 0].to(torch.int32)
        scores[:, :, first : first + CHUNK] = (largest - products) >> 1
    position = torch.arange(keys, device=key_codes.device)
    if length is not None:
        scores.masked_fill_((position >= length[:, None])[:, None], ABSENT)
    if start is not None:
        scores.masked_fill_((position < start[:, None])[:, None], ABSENT)
    return scores


def select_multiplied(a: Any) -> torch.Tensor:
    scores = _scores(a.query_codes, a.key_codes, a.length, a.start)
    return select_top_k(scores, a.length, a.budget, a.sink, a.recent, a.start)


def _packs(x: torch.Tensor, weights: torch.Tensor) -> tuple[bool, str]:
    return legality.sign_bits_pack(torch.float32, x.numel() // x.shape[-1] * weights.shape[-1])


def check_encode(a: Any) -> tuple[bool, str]:
    return _packs(a.x, a.weights)


def check_append(a: Any) -> tuple[bool, str]:
    return _packs(a.key, a.weights)


def check_step(a: Any) -> tuple[bool, str]:
    return _packs(a.query, a.weights)


def register() -> None:
    hash_encode.kernel_by_name(calls.DEVICE, "sign_bits_pack", check_encode)(encode_packed)
    hash_append.kernel_by_name(calls.DEVICE, "sign_bits_pack", check_append)(append_packed)
    hash_step.kernel_by_name(calls.DEVICE, "sign_bits_pack", check_step)(step_packed)
    hamming_scores.kernel_by_name(calls.DEVICE, "signs_matmul")(scores_multiplied)
    hamming_select.kernel_by_name(calls.DEVICE, "signs_matmul")(select_multiplied)
    hashed_attention.kernel(calls.DEVICE, "select, then attend")(select_and_attend)
    hash_decode.kernel(calls.DEVICE, "step, then attend")(step_and_attend)


register()
