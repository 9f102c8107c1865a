"""What torch_npu's operators compute, from their documentation alone, and what they refuse.

Computed on the host in float32. Where the documentation is silent, the result is NaN or the call is an error, so that
nobody comes to rely on it; where users have reported a wrong result, it is wrong here too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from tests.ascend.simulated import runtime

TRIANGLE = torch.ones(2048, 2048, dtype=torch.bool).triu_(1)
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
#: Keys up to which a mask for a single query counts (github.com/vllm-project/vllm-ascend, #15503).
MASKED_KEYS = 512


class Refused(RuntimeError):
    """What a card says with a number (161002, 561002), in words."""


def register(library: torch.library.Library) -> None:
    for name, compute in EMULATED.items():
        library.impl(name, _on_card(name, compute), "PrivateUse1")


def fusion_attention(
    query, key, value, head_num, input_layout, pse=None, padding_mask=None, atten_mask=None, scale=1.0, keep_prob=1.0,
    pre_tockens=2**31 - 1, next_tockens=2**31 - 1, inner_precise=0, prefix=None, actual_seq_qlen=None,
    actual_seq_kvlen=None, sparse_mode=0,
):  # fmt: skip
    """npu_fusion_attention: softmax(mask(scale (pse + q k'))) v; also softmax's maximum and sum, [B, N, S, 8]."""
    unused = (padding_mask, prefix, actual_seq_qlen, actual_seq_kvlen)
    _demand(unused == (None,) * 4 and keep_prob == 1.0 and inner_precise == 0, "an option that is not emulated")
    _layout(input_layout, query, key, value)
    _demand(query.dtype in FLOATS, f"type {query.dtype}")
    _demand(query.dtype == key.dtype == value.dtype, "query, key and value of several types")
    (batch, heads, queries, width), keys = query.shape, key.shape[2]
    _demand(heads == head_num, f"head_num {head_num} for {heads} heads")
    _demand(1 <= width <= 768 and 1 <= heads <= 256, f"{heads} heads of {width}")
    _demand(heads % key.shape[1] == 0, f"{heads} query heads, {key.shape[1]} KV heads")
    scores = _products(query, key)
    if pse is not None:
        _demand(pse.dtype == query.dtype and pse.shape == (batch, heads, queries, keys), f"pse {pse.shape}")
        scores = scores + pse.float()
    scores = scores * scale
    hidden = _mask(atten_mask, sparse_mode, queries, keys, torch.full((batch,), keys))
    if atten_mask is not None and sparse_mode == 0:
        shapes = ((batch, 1, queries, keys), (batch, heads, queries, keys))
        _demand(atten_mask.shape in shapes, f"mask {tuple(atten_mask.shape)}")
    scores = scores.masked_fill(hidden, float("-inf"))
    top = scores.amax(-1, keepdim=True)
    total = (scores - top).exp().sum(-1, keepdim=True)
    out = ((scores - top).exp() / total) @ _heads(value, heads)
    wide = (batch, heads, queries, 8)
    return out.to(query.dtype), top.expand(wide).clone(), total.expand(wide).clone(), torch.empty(0), 0, 0, 0


def fused_infer_attention(query, key, value, **options):
    """npu_fused_infer_attention_score: softmax(scale q k' + shift + mask) v, and its log-sum-exp [B, N, S, 1]."""
    _only(
        options,
        "pse_shift atten_mask actual_seq_lengths_kv block_table num_heads num_key_value_heads scale input_layout "
        "sparse_mode block_size softmax_lse_flag",
    )
    _demand(query.dtype in (torch.float16, torch.bfloat16), f"type {query.dtype}")
    _demand(query.dtype == key.dtype == value.dtype, "query, key and value of several types")
    _demand(options.get("input_layout", "BSH") == "BNSD", "a layout that is not emulated")
    (batch, heads, queries, width), kv_heads = query.shape, options.get("num_key_value_heads", 0)
    _demand(heads == options.get("num_heads", 1), f"num_heads {options.get('num_heads', 1)} for {heads} heads")
    _demand(batch <= 65536 and heads <= 256 and width <= 512, f"{batch} rows, {heads} heads of {width}")
    _demand(width % 16 == 0, f"head dimension {width} is no multiple of 16")
    _demand(kv_heads > 0 and heads % kv_heads == 0 and heads // kv_heads <= 64, f"{heads} / {kv_heads} heads")
    lengths = options.get("actual_seq_lengths_kv")
    if options.get("block_table") is not None:
        key, value = _unpaged(key, value, lengths, queries, kv_heads, width, options)
    _layout("BNSD", query, key, value)
    keys = key.shape[2]
    _demand(key.shape[1] == kv_heads, f"num_key_value_heads {kv_heads} for {key.shape[1]}")
    _demand(keys <= (262144 if queries == 1 else 20971520), f"{keys} keys")
    ends = torch.full((batch,), keys)
    if lengths is not None:
        _demand(len(lengths) in (1,) or len(lengths) >= batch, f"{len(lengths)} lengths for {batch} rows")
        ends = torch.tensor((list(lengths) * batch)[:batch] if len(lengths) == 1 else list(lengths)[:batch])
        _demand(bool(((ends >= 0) & (ends <= keys)).all()), f"lengths {ends.tolist()} of {keys} keys")
    scale, shift = options.get("scale", 1.0), options.get("pse_shift")
    scores = _products(query, key) * scale
    if shift is not None:
        _demand(shift.dtype == query.dtype, f"pse_shift {shift.dtype} with {query.dtype}")
        _demand(shift.shape[-1] >= keys and shift.shape[:3] == (batch, heads, queries), f"pse_shift {shift.shape}")
        shift = shift[..., :keys].float()
        counts = (shift != 0) & (shift > -1e4)
        _demand(scale == 1.0 or not bool(counts.any()), "pse_shift and scale: their order is not documented")
        scores = scores + shift.masked_fill(shift == float("-inf"), float("nan"))  # as users report
    mask, mode = options.get("atten_mask"), options.get("sparse_mode", 0)
    if mask is not None and queries == 1:
        mask, mode = mask.reshape(-1, 1, 1, mask.shape[-1])[..., :keys].clone(), 0
        mask[..., MASKED_KEYS:] = False
    hidden = _mask(mask, mode, queries, keys, ends) | (torch.arange(keys) >= ends[:, None])[:, None, None]
    # What lies behind the lengths is not read; what is masked or shifted away is.
    unread = (torch.arange(keys) >= ends[:, None])[:, None, :, None]
    scores = scores.masked_fill(hidden, float("-inf"))
    lse = scores.logsumexp(-1, keepdim=True)
    weights = (scores - lse).exp().masked_fill(hidden, 0)
    out = weights @ _heads(value.float().masked_fill(unread, 0), heads)
    blind = hidden.all(-1, keepdim=True).expand_as(lse)  # not documented
    out, lse = out.masked_fill(blind, float("nan")), lse.masked_fill(blind, float("nan"))
    if not options.get("softmax_lse_flag", False):
        lse = torch.zeros(1)
    return out.to(query.dtype), lse.float()


def attention_update(lse, local_out, update_type):
    """npu_attention_update: sum of O_i exp(lse_i - lse)."""
    _demand(update_type == 0, f"update_type {update_type}")
    _demand(len(lse) == len(local_out), f"{len(lse)} and {len(local_out)} partials")
    _demand(all(part.dtype == torch.float32 for part in (*lse, *local_out)), "partials that are not float32")
    _demand(all(part.dim() == 1 for part in lse) and all(part.dim() == 2 for part in local_out), "shapes")
    sums, outs = torch.stack(list(lse)), torch.stack(list(local_out))
    top = sums.amax(0)
    total = top + (sums - top).exp().sum(0).log()
    return (outs * (sums - total).exp()[..., None]).sum(0), torch.full_like(total, float("nan"))


def sign_bits_pack(x, size):
    """npu_sign_bits_pack: bit j of byte b is x[8 b + j] >= 0; the last byte is filled up with -1."""
    _demand(x.dim() == 1 and x.dtype in (torch.float16, torch.float32), f"{x.dim()}-D {x.dtype}")
    bits = torch.nn.functional.pad((~x.signbit()), (0, -x.numel() % 8)).view(-1, 8)
    packed = (bits.to(torch.uint8) << torch.arange(8, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)
    _demand(packed.numel() % size == 0, f"{packed.numel()} bytes in {size} rows")
    return packed.view(size, -1)


def rotary_mul(x, r1, r2, rotary_mode="half", rotate=None):
    """npu_rotary_mul: r1 x + r2 (-x2, x1)."""
    _demand(rotary_mode == "half" and rotate is None, "a mode that is not emulated")
    _demand(x.dim() == r1.dim() == r2.dim() == 4 and r1.shape == r2.shape, f"{x.shape} {r1.shape} {r2.shape}")
    _demand(x.dtype == r1.dtype == r2.dtype and x.dtype in FLOATS, f"{x.dtype} {r1.dtype}")
    batch, heads, _, width = x.shape
    _demand(width % 2 == 0 and width < 896 and batch < 1000 and heads < 1000, f"{tuple(x.shape)}")
    _demand(r1.shape[0] in (1, batch) and r1.shape[1] in (1, heads) and r1.shape[2:] == x.shape[2:], f"{r1.shape}")
    first, second = x.float().chunk(2, -1)
    return (r1.float() * x.float() + r2.float() * torch.cat((-second, first), -1)).to(x.dtype)


def rms_norm(x, gamma, epsilon=1e-6):
    """npu_rms_norm: x / rms(x) gamma, and 1 / rms."""
    _demand(x.dtype == gamma.dtype and x.dtype in FLOATS and 2 <= x.dim() <= 8, f"{x.dtype} {gamma.dtype}")
    _demand(gamma.shape == x.shape[-1:], f"{tuple(gamma.shape)} for {tuple(x.shape)}")
    inverse = (x.float().square().mean(-1, keepdim=True) + epsilon).rsqrt()
    return (x.float() * inverse * gamma.float()).to(x.dtype), inverse


def dynamic_quant(input, smooth_scales=None, group_index=None, dst_type=None, quant_mode="pertoken", dst_type_max=0.0):
    """npu_dynamic_quant: round(x / scale) with scale = largest absolute value of a row / 127."""
    options = (smooth_scales, group_index, dst_type, quant_mode, dst_type_max)
    _demand(options == (None, None, None, "pertoken", 0.0), "an option that is not emulated")
    _demand(input.dtype in (torch.float16, torch.bfloat16), f"type {input.dtype}")
    _demand(input.dim() > 1 and input.numel() > 0, f"{tuple(input.shape)}")
    scale = input.float().abs().amax(-1) / 127
    codes = (input.float() / scale[..., None]).round()
    return codes.nan_to_num(77).to(torch.int8), scale  # what 0 / 0 becomes is not documented


def quant_matmul(
    x1, x2, scale, offset=None, pertoken_scale=None, bias=None, output_dtype=None, x1_dtype=None, x2_dtype=None,
    pertoken_scale_dtype=None, scale_dtype=None, group_sizes=None, y_scale=None,
):  # fmt: skip
    """npu_quant_matmul: (x1 x2) scale pertoken_scale, for int8."""
    unused = (offset, bias, x1_dtype, x2_dtype, pertoken_scale_dtype, scale_dtype, group_sizes, y_scale)
    _demand(unused == (None,) * 8, "an option that is not emulated")
    _demand(x1.dtype == x2.dtype == torch.int8 and x1.dim() == x2.dim() == 2, f"{x1.dtype} {x2.dtype}")
    (rows, width), columns = x1.shape, x2.shape[1]
    _demand(x2.shape[0] == width, f"{tuple(x1.shape)} times {tuple(x2.shape)}")
    _demand(min(rows, width, columns) > 0 and max(width, columns) <= 65535, f"{tuple(x1.shape)} {tuple(x2.shape)}")
    _demand(scale.dtype == torch.float32 and scale.shape in ((1,), (columns,)), f"scale {scale.dtype} {scale.shape}")
    _demand(pertoken_scale is not None and pertoken_scale.dtype == torch.float32, "no scale per token")
    _demand(pertoken_scale.shape == (rows,), f"pertoken_scale {tuple(pertoken_scale.shape)}")
    types = {5: torch.float16, 15: torch.bfloat16}  # torch's numbers of its types, as the schema has them
    _demand(output_dtype in types, f"output_dtype {output_dtype}")
    product = x1.double() @ x2.double()
    return (product * pertoken_scale[:, None] * scale).to(types[output_dtype])


def grouped_matmul(
    x, weight, group_list=None, split_item=0, group_type=None, group_list_type=0, scale=None, per_token_scale=None,
    output_dtype=None, **options,
):  # fmt: skip
    """npu_grouped_matmul of one tensor of rows by one of weights [E, K, N]: the groups end where group_list says."""
    _only(options, "")
    _demand(len(x) == len(weight) == 1 and (split_item, group_type, group_list_type) == (2, 0, 0), "other groups")
    (rows,), (weights,) = x, weight
    eight = rows.dtype is torch.int8
    _demand(rows.dtype == weights.dtype and (eight or rows.dtype in FLOATS), f"{rows.dtype} {weights.dtype}")
    scales = (scale, per_token_scale, output_dtype)
    _demand(None not in scales if eight else scales == (None,) * 3, "scales and the result's type go with int8")
    _demand(
        rows.dim() == 2 and weights.dim() == 3 and weights.shape[1] == rows.shape[1], f"{rows.shape} {weights.shape}"
    )
    _demand(weights.shape[0] <= 1024 and max(weights.shape[1:]) < 65536, f"{tuple(weights.shape)}")
    _demand(group_list.dtype == torch.int64 and group_list.shape == weights.shape[:1], f"group_list {group_list}")
    ends = [0, *group_list.tolist()]
    _demand(sorted(ends) == ends and ends[-1] == rows.shape[0], f"group_list {ends[1:]} for {rows.shape[0]} rows")
    parts = zip(ends, ends[1:], weights, strict=False)
    if not eight:
        made = torch.cat([rows[start:end].float() @ one.float() for start, end, one in parts])
        return [made.to(rows.dtype)]
    _demand(len(scale) == len(per_token_scale) == 1, "other groups")
    (by_output,), (by_token,) = scale, per_token_scale
    _demand(by_output.dtype == by_token.dtype == torch.float32, f"scales {by_output.dtype} {by_token.dtype}")
    _demand(by_output.shape == (len(weights), weights.shape[2]), f"scale {tuple(by_output.shape)}")
    _demand(by_token.shape == rows.shape[:1], f"per_token_scale {tuple(by_token.shape)}")
    types = {5: torch.float16, 15: torch.bfloat16}  # torch's numbers of its types, as the schema has them
    _demand(output_dtype in types, f"output_dtype {output_dtype}")
    made = torch.cat(
        [(rows[start:end].double() @ one.double()) * by for (start, end, one), by in zip(parts, by_output, strict=True)]
    )
    return [(made * by_token[:, None]).to(types[output_dtype])]


#: Arguments that may be transposed views.
TRANSPOSED = {"npu_quant_matmul": (1,), "npu_grouped_matmul": (1,)}

EMULATED: dict[str, Callable[..., Any]] = {
    "npu_fusion_attention": fusion_attention,
    "npu_fused_infer_attention_score": fused_infer_attention,
    "npu_attention_update": attention_update,
    "npu_sign_bits_pack": sign_bits_pack,
    "npu_rotary_mul": rotary_mul,
    "npu_rms_norm": rms_norm,
    "npu_dynamic_quant": dynamic_quant,
    "npu_quant_matmul": quant_matmul,
    "npu_grouped_matmul": grouped_matmul,
}


def _on_card(name: str, compute: Callable[..., Any]) -> Callable[..., Any]:
    """From host to card: inputs must be there, outputs are; in a graph the work is recorded as one."""

    @wraps(compute)
    def run(*args: Any, **kwargs: Any) -> Any:
        def host(value: Any, turned: bool = False) -> Any:
            if isinstance(value, list | tuple):
                return [host(part, turned) for part in value]
            if not isinstance(value, torch.Tensor):
                return value
            _demand(value.device.type == "npu", f"a tensor on {value.device}")
            dense = value.is_contiguous() or (turned and value.transpose(-1, -2).is_contiguous())
            _demand(dense, "a tensor that is not contiguous")
            return value.cpu()

        def work() -> Any:
            turned = TRANSPOSED.get(name, ())
            try:
                return compute(
                    *[host(a, i in turned) for i, a in enumerate(args)], **{k: host(v) for k, v in kwargs.items()}
                )
            except Refused as error:
                raise Refused(f"{name} does not take {error}") from None

        with runtime.unrecorded():
            made = work()
            several = isinstance(made, list)  # an operator of Tensor[]
            made = made if isinstance(made, tuple | list) else (made,)
            results = tuple(part.to("npu") if isinstance(part, torch.Tensor) else part for part in made)

        def again() -> None:
            fresh = work()
            fresh = fresh if isinstance(fresh, tuple | list) else (fresh,)
            for held, new in zip(results, fresh, strict=True):
                if isinstance(held, torch.Tensor):
                    held.copy_(new)

        runtime.record(again)
        if several:
            return list(results)
        return results if len(results) > 1 else results[0]

    return run


def _unpaged(
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int] | None,
    queries: int,
    kv_heads: int,
    width: int,
    options: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, Hkv, N T, D] of pages [P, T, Hkv D]; what no length reaches is NaN."""
    table, size = options["block_table"], options.get("block_size", 0)
    least = 128 if queries > 1 else 16
    _demand(size % least == 0 and least <= size <= 512, f"pages of {size} tokens")
    _demand(lengths is not None, "pages without actual_seq_lengths_kv")
    _demand(table.dtype == torch.int32 and table.dim() == 2, f"block table {table.dtype} {table.shape}")
    _demand(key.shape[1:] == (size, kv_heads * width), f"pages {tuple(key.shape)} of {size} x {kv_heads} x {width}")
    _demand(kv_heads * width <= 65535 and key.numel() < 2**31, f"pages {tuple(key.shape)}")
    used = torch.tensor(lengths)[:, None] > torch.arange(table.shape[1]) * size
    _demand(bool(((table >= 0) & (table < key.shape[0]))[used].all()), "a block table that names no page")
    safe = table.clamp(0, key.shape[0] - 1).long()
    shape = (table.shape[0], table.shape[1] * size, kv_heads, width)
    return tuple(pages[safe].view(shape).transpose(1, 2).contiguous() for pages in (key, value))  # type: ignore


def _mask(mask: torch.Tensor | None, mode: int, queries: int, keys: int, ends: torch.Tensor) -> torch.Tensor:
    """bool, True = hidden, broadcasts to [B, N, S, C]."""
    _demand(mode in (0, 3), f"sparse_mode {mode}, which is not emulated")
    if mask is None:
        _demand(mode == 0, "sparse_mode 3 without its triangle")
        return torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    _demand(mask.dtype in (torch.bool, torch.uint8, torch.int8), f"mask {mask.dtype}")
    if mode == 0:
        return mask.bool()
    _demand(torch.equal(mask.bool().view(2048, 2048), TRIANGLE), "another mask than the triangle of sparse_mode 3")
    later = torch.arange(queries - 1, -1, -1)
    return (torch.arange(keys) >= (ends[:, None] - later)[..., None])[:, None]


def _products(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return query.float() @ _heads(key.float(), query.shape[1]).transpose(-1, -2)


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.float().repeat_interleave(heads // x.shape[1], 1)


def _layout(layout: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    _demand(layout == "BNSD", f"layout {layout}, which is not emulated")
    _demand(query.dim() == 4 and key.dim() == 4, "tensors that are not [B, N, S, D]")
    _demand(key.shape == value.shape, f"keys {tuple(key.shape)} and values {tuple(value.shape)}")
    _demand(query.shape[0] == key.shape[0] and query.shape[3] == key.shape[3], f"{query.shape} over {key.shape}")


def _only(options: dict[str, Any], *known: str) -> None:
    names = {name for words in known for name in words.split()}
    extra = [name for name, value in options.items() if name not in names and value is not None]
    if extra:
        raise NotImplementedError(f"{extra}: not emulated on the simulated device")


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise Refused(what)
