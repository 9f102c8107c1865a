"""Hamming scores and selection on the CPU by numpy's bit counts (numpy >= 2), with tables that stay in the cache."""

from __future__ import annotations

import numpy as np
import torch

from npukv.ops.hashing import reference

#: Tokens scored at once per head: their codes and counts fit a core's second-level cache.
CHUNK = 8192


def available() -> tuple[bool, str]:
    if hasattr(np, "bitwise_count"):
        return True, "numpy counts bits"
    return False, f"numpy {np.__version__} has no bitwise_count: install numpy 2 or later"


def hamming_scores(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor | None = None,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    batch, kv_heads, capacity, _ = key_codes.shape
    scores = torch.full((batch, kv_heads, capacity), reference.ABSENT, dtype=torch.int32)
    out, key = scores.numpy(), _words(key_codes)
    query = _words(query_codes).reshape(batch, kv_heads, -1, key.shape[-1])  # [B, Hkv, G, words]
    for b in range(batch):
        begin = 0 if start is None else int(start[b])
        end = capacity if length is None else min(int(length[b]), capacity)
        for h in range(kv_heads):
            _score(query[b, h], key[b, h], out[b, h], begin, end)
    return scores


def _score(query: np.ndarray, key: np.ndarray, out: np.ndarray, begin: int, end: int) -> None:
    """query: [G, words], key: [C, words] unsigned; out: [C], written from begin to end."""
    narrow = np.int16 if query.size * key.itemsize * 8 < 2**15 else np.int32
    for first in range(begin, end, CHUNK):
        last = min(first + CHUNK, end)
        total = np.zeros(last - first, dtype=narrow)
        for word in range(key.shape[1]):
            column = np.ascontiguousarray(key[first:last, word])
            for one in query[:, word]:
                total += np.bitwise_count(column ^ one)
        out[first:last] = total


def _words(codes: torch.Tensor) -> np.ndarray:
    """Codes as the widest unsigned words they divide into."""
    wide = np.uint64 if codes.shape[-1] % 2 == 0 else np.uint32
    return codes.contiguous().numpy().view(wide)


def select_top_k(
    scores: torch.Tensor,
    length: torch.Tensor,
    budget: int,
    sink: int,
    recent: int,
    start: torch.Tensor | None = None,
    largest: int = 0,
) -> torch.Tensor:
    reference.check_budget(budget, sink, recent)
    batch, kv_heads, capacity = scores.shape
    indices = torch.full((batch, kv_heads, budget), -1, dtype=torch.int32)
    out, given = indices.numpy(), scores.numpy()
    for b in range(batch):
        begin = 0 if start is None else int(start[b])
        end = min(int(length[b]), capacity)
        for h in range(kv_heads):
            chosen = _select(given[b, h], begin, end, budget, sink, recent)
            out[b, h, : chosen.size] = chosen
    return indices


def _select(scores: np.ndarray, begin: int, end: int, budget: int, sink: int, recent: int) -> np.ndarray:
    """Ascending positions of one row."""
    if end - begin <= budget:
        return np.arange(begin, end)
    first, last = begin + sink, end - recent
    need = budget - sink - recent
    candidates = scores[first:last]
    chosen = np.empty(0, dtype=np.int64)
    if need:
        threshold = np.partition(candidates, need - 1)[need - 1]
        equal = np.flatnonzero(candidates == threshold)
        lower = np.flatnonzero(candidates < threshold)
        chosen = np.sort(np.concatenate((lower, equal[lower.size - need :])))
    return np.concatenate((np.arange(begin, first), chosen + first, np.arange(last, end)))


def hamming_select(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor,
    budget: int,
    sink: int,
    recent: int,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    scores = hamming_scores(query_codes, key_codes, length, start)
    return select_top_k(scores, length, budget, sink, recent, start)
