"""The attention operators: schemas, shapes, and which kernels serve them where."""

from __future__ import annotations

import torch

from npukv.ops.attention import reference
from npukv.ops.registry import define


def _outputs(query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    wide = torch.promote_types(query.dtype, torch.float32)
    return query.new_empty(query.shape), query.new_empty(query.shape[:3], dtype=wide)


def _partial_fake(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None = None,
    length: torch.Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _outputs(query)


def _indexed_fake(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    indices: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _outputs(query)


def _paged_fake(
    query: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    block_table: torch.Tensor,
    length: torch.Tensor,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _outputs(query)


def _merge_fake(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return outs.new_empty(outs.shape[1:]), lses.new_empty(lses.shape[1:])


partial_attention = define(
    "npukv::partial_attention(Tensor query, Tensor key, Tensor value, Tensor? bias=None, Tensor? length=None, "
    "float? scale=None, bool causal=False) -> (Tensor, Tensor)",
    reference=reference.partial_attention,
    fake=_partial_fake,
)
indexed_attention = define(
    "npukv::indexed_attention(Tensor query, Tensor key, Tensor value, Tensor indices, Tensor? bias=None, "
    "float? scale=None) -> (Tensor, Tensor)",
    reference=reference.indexed_attention,
    fake=_indexed_fake,
)
paged_attention = define(
    "npukv::paged_attention(Tensor query, Tensor key_pages, Tensor value_pages, Tensor block_table, Tensor length, "
    "float? scale=None) -> (Tensor, Tensor)",
    reference=reference.paged_attention,
    fake=_paged_fake,
)
merge_partials = define(
    "npukv::merge_partials(Tensor outs, Tensor lses) -> (Tensor, Tensor)",
    reference=reference.merge_partials,
    fake=_merge_fake,
)
