"""Every operator of torch_npu that npukv calls, each in one place, so that all of them can be checked.

tests/ascend binds every call below against the schemas of real releases (`contract/`): name, arguments and types, so
arguments here are annotated names and literals only. Nothing is decided here: legality is in `legality.py`, shapes and
preparation in the kernels of `npukv.ops`. Runtime calls (memory, streams) are in `device.py`.

Constants are those of torch_npu's own documentation of each operator.
"""

from __future__ import annotations

import torch

#: What torch calls these cards.
DEVICE = "npu"
#: sparse_mode of the attention operators: no mask, or one given in full.
FULL_MASK = 0
#: sparse_mode: causal from the bottom right, through the fixed triangle of `causal_triangle`.
BOTTOM_RIGHT = 3
#: Side of that triangle, whatever the sequences' lengths.
TRIANGLE = 2048


def capturing() -> bool:
    """Whether a graph is being captured, in which the host may wait for nothing."""
    return torch.npu.is_current_stream_capturing()  # type: ignore[attr-defined]


def causal_triangle(device: torch.device) -> torch.Tensor:
    """bool [2048, 2048], True above the diagonal (= hidden): the mask that sparse_mode 3 wants, for any lengths."""
    return torch.ones(TRIANGLE, TRIANGLE, dtype=torch.bool, device=device).triu_(1)


def fused_infer_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    triangle: torch.Tensor | None,
    lengths: list[int] | None,
    heads: int,
    kv_heads: int,
    scale: float,
    sparse_mode: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of [B, Hq, S, D] queries over [B, Hkv, C, D] keys, with log-sum-exp [B, Hq, S, 1].

    Args:
        bias: pse_shift, [B, Hq, S, C] in the query's type, finite; None = none.
        triangle: `causal_triangle` where sparse_mode is `BOTTOM_RIGHT`, else None.
        lengths: keys that count in each row; None = all.
    """
    return torch.ops.npu.npu_fused_infer_attention_score(
        query,
        key,
        value,
        pse_shift=bias,
        atten_mask=triangle,
        actual_seq_lengths_kv=lengths,
        num_heads=heads,
        num_key_value_heads=kv_heads,
        scale=scale,
        input_layout="BNSD",
        sparse_mode=sparse_mode,
        softmax_lse_flag=True,
    )


def fused_infer_paged_attention(
    query: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    bias: torch.Tensor | None,
    block_table: torch.Tensor,
    lengths: list[int],
    heads: int,
    kv_heads: int,
    scale: float,
    block_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As above over a paged cache: [P, block_size, Hkv D] pages, block_table int32 [B, N], pages in order."""
    return torch.ops.npu.npu_fused_infer_attention_score(
        query,
        key_pages,
        value_pages,
        pse_shift=bias,
        block_table=block_table,
        actual_seq_lengths_kv=lengths,
        num_heads=heads,
        num_key_value_heads=kv_heads,
        scale=scale,
        input_layout="BNSD",
        block_size=block_size,
        softmax_lse_flag=True,
    )


def fusion_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    heads: int,
    scale: float,
    sparse_mode: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The training operator, which also takes float32: output [B, Hq, S, D], softmax's maximum and sum [B, Hq, S, 8].

    Args:
        bias: [B, Hq, S, C] in the query's type, added to the products before they are scaled; None = none.
        mask: True = hidden: bool [B, 1, S, C] for `FULL_MASK`, `causal_triangle` for `BOTTOM_RIGHT`, or None.
    """
    outputs = torch.ops.npu.npu_fusion_attention(
        query, key, value, heads, "BNSD", pse=bias, atten_mask=mask, scale=scale, sparse_mode=sparse_mode
    )
    return outputs[0], outputs[1], outputs[2]


def attention_update(lses: list[torch.Tensor], outs: list[torch.Tensor]) -> torch.Tensor:
    """Merge partial attentions: lses float32 [N] each and outs float32 [N, D] each give [N, D].

    Its second output, the merged log-sum-exp, is reserved in CANN 8.3 (aclnnAttentionUpdate).
    """
    return torch.ops.npu.npu_attention_update(lses, outs, 0)[0]


def sign_bits_pack(x: torch.Tensor) -> torch.Tensor:
    """uint8 [1, n / 8] of a 1-D float32 or float16 tensor: bit j of byte b is x[8 b + j] >= 0."""
    return torch.ops.npu.npu_sign_bits_pack(x, 1)


def rotary_mul(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x cos + rotate_half(x) sin; x: [B, N, S, D], cos and sin: [B or 1, 1, S, D]."""
    return torch.ops.npu.npu_rotary_mul(x, cos, sin)


def rms_norm(x: torch.Tensor, gamma: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """x / rms(x) gamma over the last dimension, and 1 / rms."""
    return torch.ops.npu.npu_rms_norm(x, gamma, epsilon)


def dynamic_quant(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[M, K] -> int8 [M, K] and its scale, float32 [M]: largest absolute value of a row / 127."""
    return torch.ops.npu.npu_dynamic_quant(x)


def quant_matmul(
    x: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """int8 [M, K] times int8 [K, N], which may be a transposed view, times float32 scales [M] and [N], in `dtype`."""
    return torch.ops.npu.npu_quant_matmul(x, weight, weight_scale, pertoken_scale=scale, output_dtype=dtype)


def grouped_matmul(x: list[torch.Tensor], weight: list[torch.Tensor], ends: torch.Tensor) -> torch.Tensor:
    """Rows up to ends[0] of [T, K] times weight[0] of [E, K, N], and so on: [T, N]. One tensor in each list.

    Args:
        weight: may be a transposed view.
        ends: int64 [E], where the groups end.
    """
    products = torch.ops.npu.npu_grouped_matmul(
        x, weight, group_list=ends, split_item=2, group_type=0, group_list_type=0
    )
    return products[0]


def grouped_quant_matmul(
    x: list[torch.Tensor],
    weight: list[torch.Tensor],
    weight_scale: list[torch.Tensor],
    scale: list[torch.Tensor],
    ends: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`grouped_matmul` of int8 rows and weights, times float32 scales [E, N] and [T], in `dtype`."""
    products = torch.ops.npu.npu_grouped_matmul(
        x,
        weight,
        scale=weight_scale,
        per_token_scale=scale,
        group_list=ends,
        split_item=2,
        group_type=0,
        group_list_type=0,
        output_dtype=dtype,
    )
    return products[0]


def hamming_blocks(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor,
    blocks: int,
    sink_blocks: int,
    recent_blocks: int,
) -> torch.Tensor:
    """The custom operator HammingBlocks (ops/ascendc)."""
    return torch.ops.npukv_ascendc.hamming_blocks(query_codes, key_codes, length, blocks, sink_blocks, recent_blocks)


def centroid_merge(
    keys: torch.Tensor,
    values: torch.Tensor,
    degrees: torch.Tensor,
    places: torch.Tensor,
    chunks: int,
    chunk: int,
    merges: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The custom operator CentroidMerge (ops/ascendc)."""
    return torch.ops.npukv_ascendc.centroid_merge(keys, values, degrees, places, chunks, chunk, merges)
