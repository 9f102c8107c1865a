"""What torch_npu's operators take, beyond their schemas: the limits its documentation and users' reports state.

The vendor's own shape functions accept most of what a card then refuses with a bare number (161002, 561002), or takes
and computes wrongly. Each rule says which calls it is about, what is legal, why, and where that is written. Rules are
for the A2 and A3 series (arch 2201). Nothing here has been tried on a card by this project.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_DOCUMENTED = "torch_npu 2.13.0, documentation of {}"
_FUSED_INFER = _DOCUMENTED.format("npu_fused_infer_attention_score")
_FUSION = _DOCUMENTED.format("npu_fusion_attention")
_REPORTED = "github.com/vllm-project/vllm-ascend, {}"

HALF = ("float16", "bfloat16")
FLOATS = (*HALF, "float32")
#: Types of the numbers each operator computes with (its first tensor's), on the A2 and A3 series.
TYPES: dict[str, tuple[str, ...]] = {
    "npu_fused_infer_attention_score": HALF,
    "npu_fusion_attention": FLOATS,
    "npu_attention_update": ("float32",),
    "npu_sign_bits_pack": ("float16", "float32"),
    "npu_rotary_mul": FLOATS,
    "npu_rms_norm": FLOATS,
    "npu_dynamic_quant": HALF,
    "npu_quant_matmul": ("int8",),
    "npu_grouped_matmul": FLOATS,
}


@dataclass(frozen=True)
class Attention:
    """A call of an attention operator, as far as its limits go."""

    dtype: torch.dtype
    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    width: int
    layout: str = "BNSD"
    paged: bool = False
    block_size: int = 0
    page_elements: int = 0
    mask: str = ""
    bias: str = ""
    contiguous: bool = True

    @property
    def number_type(self) -> str:
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Rule:
    """One limit: of the calls it is `about`, those are legal that `holds` says."""

    about: Callable[[Attention], bool]
    holds: Callable[[Attention], bool]
    reason: str
    source: str


def _every(call: Attention) -> bool:
    return True


def _one_query(call: Attention) -> bool:
    return call.queries == 1


def _many_queries(call: Attention) -> bool:
    return call.queries > 1


def _paged(call: Attention) -> bool:
    return call.paged


#: npu_fused_infer_attention_score. `mask` is "", "triangle" or the mask's shape in letters ("1SS", "B1SS").
FUSED_INFER: tuple[Rule, ...] = (
    Rule(
        _every,
        lambda c: c.number_type in TYPES["npu_fused_infer_attention_score"],
        "takes float16 and bfloat16",
        _FUSED_INFER,
    ),
    Rule(
        _every,
        lambda c: c.contiguous,
        "takes contiguous tensors only",
        _FUSED_INFER + "; " + _REPORTED.format("#11834"),
    ),
    Rule(_every, lambda c: c.batch <= 65536, "takes at most 65536 rows", _FUSED_INFER),
    Rule(_every, lambda c: c.heads <= 256, "takes at most 256 heads", _FUSED_INFER),
    Rule(_every, lambda c: c.heads % c.kv_heads == 0, "query heads must be a multiple of KV heads", _FUSED_INFER),
    Rule(_every, lambda c: c.heads // c.kv_heads <= 64, "takes at most 64 query heads per KV head", _FUSED_INFER),
    Rule(_every, lambda c: c.width <= 512, "takes head dimensions up to 512", _FUSED_INFER),
    Rule(_every, lambda c: c.width % 16 == 0, "head dimension must be a multiple of 16", _FUSED_INFER),
    Rule(_one_query, lambda c: c.keys <= 262144, "takes at most 262144 keys for one query", _FUSED_INFER),
    Rule(_many_queries, lambda c: c.keys <= 20971520, "takes at most 20971520 keys", _FUSED_INFER),
    Rule(
        lambda c: c.layout in ("BSH", "BSND") and c.queries > 1,
        lambda c: c.heads * c.width < 65535,
        "in layouts BSH and BSND heads x head dimension must be below 65535",
        _FUSED_INFER,
    ),
    Rule(
        lambda c: c.layout == "TND",
        lambda c: c.width == 192 and c.number_type == "bfloat16",
        "layout TND takes head dimension 192 in bfloat16 only",
        _FUSED_INFER + "; " + _REPORTED.format("#8045"),
    ),
    Rule(
        lambda c: c.layout == "TND",
        lambda c: not c.paged,
        "layout TND takes no paged cache",
        _FUSED_INFER,
    ),
    Rule(
        lambda c: c.layout == "TND",
        lambda c: bool(c.mask),
        "layout TND without a mask gives the plain mean of the values",
        _REPORTED.format("#13699"),
    ),
    Rule(
        lambda c: c.queries == 1 and bool(c.mask),
        lambda c: c.keys <= 512,
        "with one query a mask is ignored past key 512; pse_shift per head is not",
        _REPORTED.format("#15503"),
    ),
    Rule(
        lambda c: bool(c.bias),
        lambda c: c.bias == "BNSS",
        "pse_shift must have all heads: with one for all of them the result is wrong",
        _REPORTED.format("#15503"),
    ),
    Rule(
        lambda c: c.paged and c.queries > 1,
        lambda c: c.block_size % 128 == 0 and 128 <= c.block_size <= 512,
        "with several queries pages hold 128, 256, 384 or 512 tokens",
        _FUSED_INFER,
    ),
    Rule(
        lambda c: c.paged and c.queries == 1,
        lambda c: c.block_size % 16 == 0 and 16 <= c.block_size <= 512,
        "pages hold a multiple of 16 tokens, up to 512",
        _FUSED_INFER,
    ),
    Rule(
        _paged,
        lambda c: c.kv_heads * c.width <= 65535,
        "KV heads x head dimension must be at most 65535 in pages of [block, token, heads x dimension]",
        _FUSED_INFER,
    ),
    Rule(_paged, lambda c: c.page_elements < 2**31, "all key pages together must be below 2^31 numbers", _FUSED_INFER),
)

#: npu_fusion_attention, the training operator: the one that takes float32.
FUSION: tuple[Rule, ...] = (
    Rule(
        _every,
        lambda c: c.number_type in TYPES["npu_fusion_attention"],
        "takes float16, bfloat16 and float32",
        _FUSION,
    ),
    Rule(_every, lambda c: c.heads <= 256, "takes at most 256 heads", _FUSION),
    Rule(_every, lambda c: c.heads % c.kv_heads == 0, "query heads must be a multiple of KV heads", _FUSION),
    Rule(_every, lambda c: 1 <= c.width <= 768, "takes head dimensions up to 768", _FUSION),
    Rule(
        _every,
        lambda c: 1 <= c.queries <= 1 << 20 and 1 <= c.keys <= 1 << 20,
        "takes 1 to 1M queries and keys",
        _FUSION,
    ),
    Rule(_every, lambda c: not c.paged, "takes no paged cache", _FUSION),
    Rule(_every, lambda c: not c.bias or c.bias == "BNSS", "pse must have all heads here", _FUSION),
)


def check(rules: tuple[Rule, ...], call: Attention) -> tuple[bool, str]:
    """Whether an operator takes a call, and the first limit it breaks with its source."""
    for rule in rules:
        if rule.about(call) and not rule.holds(call):
            return False, f"{rule.reason} (got {_facts(call)}; {rule.source})"
    return True, "within the documented limits"


def _takes(operator: str, dtype: torch.dtype) -> bool:
    return str(dtype).removeprefix("torch.") in TYPES[operator]


def rotary(x: torch.Tensor, cos: torch.Tensor) -> tuple[bool, str]:
    """npu_rotary_mul in half mode: x [B, N, S, D], cos [1 or B, 1 or N, S, D]."""
    batch, heads, _, width = x.shape
    source = _DOCUMENTED.format("npu_rotary_mul")
    if not _takes("npu_rotary_mul", x.dtype) or cos.dtype != x.dtype:
        return False, f"takes float16, bfloat16 and float32, all of one type (got {x.dtype} and {cos.dtype}; {source})"
    if width % 2 or width >= 896:
        return False, f"head dimension must be even and below 896 (got {width}; {source})"
    if batch >= 1000 or heads >= 1000:
        return False, f"takes fewer than 1000 rows and heads (got {batch} and {heads}; {source})"
    return True, "within the documented limits"


def rms_norm(x: torch.Tensor, gamma: torch.Tensor) -> tuple[bool, str]:
    """npu_rms_norm over the last dimension."""
    source = _DOCUMENTED.format("npu_rms_norm")
    if not _takes("npu_rms_norm", x.dtype) or gamma.dtype != x.dtype:
        return False, f"takes float16, bfloat16 and float32, weight alike (got {x.dtype}, {gamma.dtype}; {source})"
    if not 2 <= x.dim() <= 8:
        return False, f"takes 2 to 8 dimensions (got {x.dim()}; {source})"
    return True, "within the documented limits"


def sign_bits_pack(dtype: torch.dtype, numbers: int) -> tuple[bool, str]:
    """npu_sign_bits_pack of that many numbers."""
    source = _DOCUMENTED.format("npu_sign_bits_pack")
    if not _takes("npu_sign_bits_pack", dtype):
        return False, f"takes float16 and float32 (got {dtype}; {source})"
    if numbers % 8:
        return False, f"a number of bits that fills no whole bytes is padded (got {numbers}; {source})"
    return True, "within the documented limits"


def attention_update(outs: torch.Tensor, lses: torch.Tensor) -> tuple[bool, str]:
    """npu_attention_update, which is given float32."""
    for name, tensor in (("outputs", outs), ("log-sum-exps", lses)):
        if str(tensor.dtype).removeprefix("torch.") not in FLOATS:
            return False, f"{name} widen to float32 (got {tensor.dtype}; aclnnAttentionUpdate of CANN 8.3)"
    return True, "within the documented limits"


def dynamic_quant(x: torch.Tensor, kind: torch.dtype) -> tuple[bool, str]:
    """npu_dynamic_quant by rows."""
    source = _DOCUMENTED.format("npu_dynamic_quant")
    if str(kind) != "torch.int8":
        return False, f"brings numbers to int8 (got {kind}; {source})"
    if not _takes("npu_dynamic_quant", x.dtype):
        return False, f"takes float16 and bfloat16 (got {x.dtype}; {source})"
    if x.dim() < 2 or not x.numel():
        return False, f"takes 2 dimensions and more, none of them empty (got {list(x.shape)}; {source})"
    return True, "within the documented limits"


def quant_matmul(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, weight_scale: torch.Tensor, dtype: torch.dtype
) -> tuple[bool, str]:
    """npu_quant_matmul of [M, K] and [N, K] with a scale per token."""
    source = _DOCUMENTED.format("npu_quant_matmul")
    if not _takes("npu_quant_matmul", x.dtype) or weight.dtype != x.dtype:
        return False, f"multiplies int8 (got {x.dtype} and {weight.dtype}; {source})"
    if not str(scale.dtype) == str(weight_scale.dtype) == "torch.float32":
        return False, f"takes scales of float32 (got {scale.dtype} and {weight_scale.dtype}; {source})"
    if str(dtype).removeprefix("torch.") not in HALF:
        return False, f"with a scale per token it gives float16 and bfloat16 (got {dtype}; {source})"
    if not x.numel() or not weight.numel():
        return False, f"takes no empty tensors (got {list(x.shape)} and {list(weight.shape)}; {source})"
    if max(weight.shape) > 65535:
        return False, f"takes rows of up to 65535 numbers on either side (got {list(weight.shape)}; {source})"
    return True, "within the documented limits"


def grouped_matmul(x: torch.Tensor, weight: torch.Tensor) -> tuple[bool, str]:
    """npu_grouped_matmul of rows [T, K] by one tensor of weights [E, N, K]."""
    source = _DOCUMENTED.format("npu_grouped_matmul")
    if not _takes("npu_grouped_matmul", x.dtype) or weight.dtype != x.dtype:
        return False, f"takes float16, bfloat16 and float32, weights alike (got {x.dtype}, {weight.dtype}; {source})"
    return _groups(x, weight, source)


def grouped_quant_matmul(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, weight_scale: torch.Tensor, dtype: torch.dtype
) -> tuple[bool, str]:
    """npu_grouped_matmul of int8 rows [T, K] and weights [E, N, K], with scales per token [T] and per output [E, N]."""
    source = _DOCUMENTED.format("npu_grouped_matmul")
    if not str(x.dtype) == str(weight.dtype) == "torch.int8":
        return False, f"multiplies int8 (got {x.dtype} and {weight.dtype}; {source})"
    if not str(scale.dtype) == str(weight_scale.dtype) == "torch.float32":
        return False, f"takes scales of float32 (got {scale.dtype} and {weight_scale.dtype}; {source})"
    if str(dtype).removeprefix("torch.") not in HALF:
        return False, f"with a scale per token it gives float16 and bfloat16 (got {dtype}; {source})"
    if not (scale.is_contiguous() and weight_scale.is_contiguous()):
        return False, f"takes scales without gaps ({source})"
    return _groups(x, weight, source)


def _groups(x: torch.Tensor, weight: torch.Tensor, source: str) -> tuple[bool, str]:
    if weight.shape[0] > 1024:
        return False, f"takes up to 1024 groups (got {weight.shape[0]}; {source})"
    if max(weight.shape[1:]) >= 65536:
        return False, f"takes rows of fewer than 65536 numbers on either side (got {list(weight.shape)}; {source})"
    if not x.numel() or not weight.is_contiguous():
        return False, f"takes rows, and weights without gaps (got {list(x.shape)}, {list(weight.shape)}; {source})"
    return True, "within the documented limits"


def _facts(call: Attention) -> str:
    paged = f", pages of {call.block_size}" if call.paged else ""
    return (
        f"{call.number_type} {call.layout}, {call.batch} rows of {call.heads}/{call.kv_heads} heads, "
        f"{call.queries} queries, {call.keys} keys, dimension {call.width}{paged}"
    )
