"""The attention operators: schemas, shapes, and which kernels serve them where."""

from __future__ import annotations

from functools import cache, wraps
from importlib.util import find_spec
from typing import Any

import torch

from npukv.ops.attention import cpu, reference
from npukv.ops.registry import Check, Operator, define


def _fake(query: torch.Tensor, *rest: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    wide = torch.promote_types(query.dtype, torch.float32)
    return query.new_empty(query.shape), query.new_empty(query.shape[:3], dtype=wide)


def _merge_fake(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return outs.new_empty(outs.shape[1:]), lses.new_empty(lses.shape[1:])


partial_attention = define(
    "npukv::partial_attention(Tensor query, Tensor key, Tensor value, Tensor? bias=None, Tensor? length=None, "
    "float? scale=None, bool causal=False) -> (Tensor, Tensor)",
    reference=reference.partial_attention,
    fake=wraps(reference.partial_attention)(_fake),
)
indexed_attention = define(
    "npukv::indexed_attention(Tensor query, Tensor key, Tensor value, Tensor indices, Tensor? bias=None, "
    "float? scale=None) -> (Tensor, Tensor)",
    reference=reference.indexed_attention,
    fake=wraps(reference.indexed_attention)(_fake),
)
paged_attention = define(
    "npukv::paged_attention(Tensor query, Tensor key_pages, Tensor value_pages, Tensor block_table, Tensor length, "
    "float? scale=None) -> (Tensor, Tensor)",
    reference=reference.paged_attention,
    fake=wraps(reference.paged_attention)(_fake),
)
merge_partials = define(
    "npukv::merge_partials(Tensor outs, Tensor lses) -> (Tensor, Tensor)",
    reference=reference.merge_partials,
    fake=_merge_fake,
)

partial_attention.kernel("cpu", "blocked")(cpu.partial_attention)
indexed_attention.kernel("cpu", "rows copied")(cpu.indexed_attention)
paged_attention.kernel("cpu", "pages copied")(cpu.paged_attention)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _triton_serves(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kv_heads: int) -> tuple[bool, str]:
    """What all the Triton kernels ask of queries and keys; `key` and `value` may be pages."""
    if not _has_triton():
        return False, "triton is not installed"
    if query.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return False, f"the queries are {query.dtype}, it takes bfloat16, float16 and float32"
    if not query.dtype == key.dtype == value.dtype:
        return False, f"queries, keys and values are {query.dtype}, {key.dtype}, {value.dtype}, it takes one type"
    width, most = query.shape[-1], 128 if query.dtype is torch.float32 else 256
    if not width == key.shape[-1] == value.shape[-1] or width > most:
        return False, f"heads {width}, {key.shape[-1]}, {value.shape[-1]} wide, it takes one width <= {most}"
    if query.shape[1] % kv_heads or key.shape != value.shape:
        return False, f"shapes {list(query.shape)}, {list(key.shape)}, {list(value.shape)} do not go together"
    if not query.stride(-1) == key.stride(-1) == value.stride(-1) == 1:
        return False, "the numbers of a head do not lie side by side"
    if not query.numel() or not key.numel():
        return False, "there are no queries or no keys"
    return True, "2-byte numbers, heads up to 256 wide; float32, up to 128"


def _triton_serves_one(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kv_heads: int) -> tuple[bool, str]:
    if query.shape[2] != 1 or query.shape[1] > 64 * kv_heads:
        return (
            False,
            f"{query.shape[2]} queries of {query.shape[1]} heads, it takes one, of at most 64 heads per KV head",
        )
    return _triton_serves(query, key, value, kv_heads)


def _triton_serves_partial(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None = None,
    length: torch.Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
) -> tuple[bool, str]:
    if bias is not None and (bias.dtype is not torch.float32 or bias.shape != key.shape[:3]):
        return False, f"the bias is {bias.dtype} {list(bias.shape)}, it takes float32 {list(key.shape[:3])}"
    if length is not None and (length.dtype is not torch.int32 or length.shape != key.shape[:1]):
        return False, f"the length is {length.dtype} {list(length.shape)}, it takes int32 {list(key.shape[:1])}"
    if query.shape[0] != key.shape[0]:
        return False, f"batches of {query.shape[0]} and {key.shape[0]}"
    return _triton_serves(query, key, value, key.shape[1])


def _triton_serves_indexed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    indices: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[bool, str]:
    if indices.dtype is not torch.int32 or indices.shape[:2] != key.shape[:2] or not indices.shape[2]:
        return (
            False,
            f"the indices are {indices.dtype} {list(indices.shape)}, it takes int32 {list(key.shape[:2])} + [K]",
        )
    ok, reason = _triton_serves_partial(query, key, value, bias)
    return _triton_serves_one(query, key, value, key.shape[1]) if ok else (ok, reason)


def _triton_serves_paged(
    query: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    block_table: torch.Tensor,
    length: torch.Tensor,
    scale: float | None = None,
) -> tuple[bool, str]:
    page, kv_heads = key_pages.shape[1:3]
    if page < 16 or page & (page - 1):
        return False, f"pages of {page} tokens, it takes powers of two from 16"
    if block_table.dtype is not torch.int32 or length.dtype is not torch.int32:
        return False, f"the table is {block_table.dtype}, the length {length.dtype}, it takes int32"
    rows, per_head = (query.shape[0],), (query.shape[0], kv_heads)
    if length.shape != rows or tuple(block_table.shape[:-1]) not in (rows, per_head) or not block_table.shape[-1]:
        return False, f"table {list(block_table.shape)} and length {list(length.shape)} for {query.shape[0]} rows"
    return _triton_serves_one(query, key_pages, value_pages, kv_heads)


def _triton_serves_merge(outs: torch.Tensor, lses: torch.Tensor) -> tuple[bool, str]:
    if not _has_triton():
        return False, "triton is not installed"
    if outs.dtype is torch.float64 or lses.dtype is not torch.float32 or outs.shape[:-1] != lses.shape:
        return False, f"outputs {outs.dtype} {list(outs.shape)} with sums {lses.dtype} {list(lses.shape)}"
    return outs.numel() > 0 and outs.shape[-1] <= 1024, f"{outs.shape[-1]} numbers per row; it takes 1 to 1024"


def _register_triton(operator: Operator, check: Check) -> None:
    @operator.kernel("cuda", "triton", check=check)
    @wraps(operator.reference)
    def run(*args: Any, **kwargs: Any) -> Any:
        from npukv.ops.attention import triton

        return getattr(triton, operator.name)(*args, **kwargs)


_register_triton(partial_attention, _triton_serves_partial)
_register_triton(indexed_attention, _triton_serves_indexed)
_register_triton(paged_attention, _triton_serves_paged)
_register_triton(merge_partials, _triton_serves_merge)
