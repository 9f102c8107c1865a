"""Parity of the hashing operators with their references, on the device: what ``npukv bench hashing`` asks for first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from npukv.ops import hashing
from npukv.ops.hashing import reference

SINK, RECENT = 4, 16

Attend = Callable[[torch.Tensor], torch.Tensor]


def check(layers: Any, dtype: torch.dtype) -> dict[str, Any]:
    """One step of the benchmark's first layer against the reference: selections exactly, output up to rounding."""
    shape = layers.shape
    out = layers.step(0)
    asked = layers.encode(0)
    budget = shape.budget, SINK, RECENT
    expected = reference.hamming_select(asked, layers.codes[0], layers.length, *budget)
    rows = expected.clamp(min=0).long()[..., None].expand(-1, -1, -1, shape.width)
    keys, values = (held[0].gather(2, rows).double() for held in (layers.keys, layers.values))
    query = layers.queries[0].double().unflatten(1, (shape.kv_heads, -1))[:, :, :, 0]
    scores = query @ keys.transpose(-1, -2) * shape.width**-0.5
    exact = (scores.masked_fill((expected < 0)[:, :, None], float("-inf")).softmax(-1) @ values).flatten(1, 2)
    error = float((out[:, :, 0].double() - exact).abs().max())
    allowed = (1e-4 if dtype is torch.float32 else 2e-2) * max(1.0, float(exact.abs().max()))
    found: dict[str, Any] = {"error": error, "allowed": allowed}
    found["selection"] = bool(torch.equal(layers.select(0, asked), expected))
    step = decoding(layers.queries[0], layers.tokens[0][0], layers.weights, layers.codes[0], layers.length, budget)
    found["attended"] = attended(step, layers.codes[0], expected, layers.queries[0])
    found["appended"] = bool(torch.equal(layers.tokens[0][0][:, :, 0], layers.keys[0][:, :, -1]))
    return found | {"ok": found["selection"] and found["attended"] and found["appended"] and error <= allowed}


def attended(attend: Attend, codes: torch.Tensor, expected: torch.Tensor, query: torch.Tensor) -> bool:
    """Whether `attend`, of values [B, Hkv, C, D] and with equal weights, sees exactly the `expected` [B, Hkv, K].

    Its output [B, Hq, 1, D] counts them, by the digits of the positions in base D. query: only its shape and type.
    """
    (batch, kv_heads, capacity), width = codes.shape[:3], query.shape[3]
    group, chosen = query.shape[1] // kv_heads, expected >= 0
    position, place = torch.arange(capacity, device=codes.device), 1
    while place < capacity:
        digit = position // place % width
        value = torch.eye(width, dtype=query.dtype, device=codes.device)[digit].expand(batch, kv_heads, -1, -1)
        out = attend(value)
        counted = torch.zeros(batch, kv_heads, width, dtype=torch.float64, device=codes.device)
        counted.scatter_add_(2, digit[expected.clamp(min=0).long()], chosen.double())
        counted = counted.repeat_interleave(group, 1)
        got = out[:, :, 0].double() * chosen.sum(-1, keepdim=True).repeat_interleave(group, 1)
        allowed = (counted * torch.finfo(query.dtype).eps / 2).clamp(min=0.45)
        if bool(((got - counted).abs() > allowed).any()):
            return False
        place *= width
    return True


def attending(query: torch.Tensor, asked: torch.Tensor, codes: torch.Tensor, *bounds: Any) -> Attend:
    """`hashed_attention` with equal weights."""

    def attend(value: torch.Tensor) -> torch.Tensor:
        return hashing.hashed_attention(torch.zeros_like(query), asked, codes, value, value, *bounds)[0]

    return attend


def decoding(
    query: torch.Tensor,
    key: torch.Tensor,
    weights: torch.Tensor,
    codes: torch.Tensor,
    length: torch.Tensor,
    budget: tuple[int, int, int],
    start: torch.Tensor | None = None,
) -> Attend:
    """`hash_decode` with equal weights, and codes that hold the token's own already."""

    def attend(value: torch.Tensor) -> torch.Tensor:
        values, rows = value.contiguous(), torch.arange(len(length), device=length.device)
        token = values[rows, :, (length - 1).clamp(max=values.shape[2] - 1).long()][:, :, None]
        held = torch.empty_like(values), values, codes.clone()
        return hashing.hash_decode(query, key, token, weights, *held, length, *budget, start, 0.0)[0]

    return attend


def parity(device: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Every operator against its reference: odd sizes, unequal lengths, padding, ties, groups, all budgets."""
    where = device.torch_device
    generator = torch.Generator(where).manual_seed(1)
    found: dict[str, Any] = {"codes": 0, "unclear signs": 0, "wrong codes": 0, "compared": 0, "wrong": []}

    def normal(*size: int) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device=where).normal_(generator=generator)

    def equal(name: str, got: torch.Tensor, expected: torch.Tensor) -> None:
        found["compared"] += 1
        if not torch.equal(got, expected):
            found["wrong"].append(name)

    for group, width, tokens in ((1, 128, 5003), (4, 128, 2051)):
        weights = hashing.random_orthogonal(2, width, 128).to(where, dtype)
        keys, values, query = normal(2, 2, tokens, width), normal(2, 2, tokens, width), normal(2, 2 * group, 1, width)
        codes, asked = hashing.hash_encode(keys, weights), hashing.hash_encode(query, weights)
        for x, got in ((keys, codes), (query, asked)):
            grouped = x.double().reshape(2, 2, -1, width)
            projected = grouped @ weights.double()
            clear = projected.abs() > 1e-5 * width**0.5
            signs = reference.unpack(got).view(projected.shape) > 0
            found["codes"] += signs.numel()
            found["unclear signs"] += int((~clear).sum())
            found["wrong codes"] += int(((signs != (projected > 0)) & clear).sum())
        codes[0, 0, tokens // 2 :] = codes[0, 0, tokens // 2, None]  # nothing but ties
        length = torch.tensor([tokens, tokens // 3], dtype=torch.int32, device=where)
        start = torch.tensor([0, 37], dtype=torch.int32, device=where)
        largest = group * 128
        for first in (None,) if group == 1 else (None, start):  # each combination is compiled anew
            where_from = f"group {group}, {'padded' if first is not None else 'plain'}"
            scores = reference.hamming_scores(asked, codes, length, first)
            equal(f"scores, {where_from}", hashing.hamming_scores(asked, codes, length, first), scores)
            for budget in (SINK + RECENT, tokens // 64 + 20, tokens - 5, tokens + 9):
                bounds = (length, budget, SINK, RECENT, first)
                expected = reference.select_top_k(scores, *bounds)
                equal(f"select {budget}, {where_from}", hashing.select_top_k(scores, *bounds, largest), expected)
                name = f"score and select {budget}, {where_from}"
                equal(name, hashing.hamming_select(asked, codes, *bounds), expected)
                found["compared"] += 1
                if not attended(attending(query, asked, codes, *bounds), codes, expected, query):
                    found["wrong"].append(f"attention to {budget}, {where_from}")
                found["compared"] += 1
                key = keys[torch.arange(2, device=where), :, (length - 1).long()][:, :, None].contiguous()
                mine = codes.clone()  # with the token's own
                hashing.hash_step(query, key, key, weights, keys.clone(), values.clone(), mine, length - 1)
                chosen = reference.hamming_select(asked, mine, *bounds)
                step = decoding(query, key, weights, mine, length, (budget, SINK, RECENT), first)
                if not attended(step, mine, chosen, query):
                    found["wrong"].append(f"decode step with {budget}, {where_from}")
        scores = reference.hamming_scores(asked, codes, length)
        blocks = reference.select_blocks(scores, length, 6, 1, 2)
        equal(f"blocks, group {group}", hashing.select_blocks(scores, length, 6, 1, 2, largest), blocks)
        matmul = hashing.hamming_scores_matmul(asked, codes, length)
        equal(f"matmul form, group {group}", matmul, scores)
        for added in (1, 3):
            mine, theirs = ([held.clone() for held in (keys, values, codes)] for _ in range(2))
            key, value = normal(2, 2, added, width), normal(2, 2, added, width)
            at = torch.tensor([tokens - added, 5], dtype=torch.int32, device=where)
            hashing.hash_append(key, value, weights, mine[0], mine[1], mine[2], at)
            reference.hash_append(key, value, weights, theirs[0], theirs[1], theirs[2], at)
            for name, got, expected in zip(("keys", "values"), mine, theirs, strict=False):
                equal(f"appended {name}, {added} tokens", got, expected)
            equal(f"appended codes, {added} tokens", mine[2], _same_where_unclear(mine[2], theirs[2]))
    found["ok"] = not found["wrong"] and found["wrong codes"] == 0
    return found


def _same_where_unclear(got: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Codes of a new token may differ in a sign or two that only rounding decides; elsewhere they may not."""
    differing = reference.popcount(got ^ expected).sum(-1)
    return torch.where((differing <= 1)[..., None], got, expected)
