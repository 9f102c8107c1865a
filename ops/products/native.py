"""Products in 8 bits and by groups through torch's own calls, on CPUs and on CUDA cards."""

from __future__ import annotations

import torch

#: Rows that torch._int_mm wants at least on a card.
FEWEST = 17


def scaled_product(
    codes: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    return (unscaled_product(codes, weight).float() * scale[:, None] * weight_scale).to(dtype)


def unscaled_product(codes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[M, K] x [N, K]' -> [M, N] in the type the sums come in."""
    return _int8(codes, weight) if codes.dtype == torch.int8 else _fp8(codes, weight)


def _int8(codes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[M, K] x [N, K]' -> int32 [M, N], exact."""
    rows = codes.shape[0]
    if codes.device.type != "cpu" and rows < FEWEST:
        codes = torch.nn.functional.pad(codes, (0, 0, 0, FEWEST - rows))
    return torch._int_mm(codes, weight.t())[:rows]


def _fp8(codes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[M, K] x [N, K]' -> bfloat16 [M, N] on a card, summed in what its fast path sums in; float32 on a CPU."""
    if codes.device.type == "cpu":
        return codes.float() @ weight.float().t()
    one = torch.ones((), dtype=torch.float32, device=codes.device)
    return torch._scaled_mm(codes, weight.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)


def check_cpu(*arguments: object) -> tuple[bool, str]:
    return True, "int8 by torch._int_mm; float8 widened to float32"


def check_cuda(
    codes: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, dtype: torch.dtype
) -> tuple[bool, str]:
    step = 8 if codes.dtype == torch.int8 else 16
    if weight.shape[0] % step or weight.shape[1] % step:
        return False, f"takes weights of multiples of {step}, got {list(weight.shape)}"
    if codes.dtype != torch.int8 and torch.get_device_module(codes.device).get_device_capability() < (8, 9):
        return False, "this card multiplies no float8 (it needs compute capability 8.9)"
    return True, "by the card's 8-bit tensor cores"


def grouped_linear(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.grouped_mm(x, weight.transpose(1, 2), offs=ends)


def check_grouped(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> tuple[bool, str]:
    if not x.dtype == weight.dtype == torch.bfloat16:
        return False, f"takes bfloat16, got {x.dtype} and {weight.dtype}"
    if weight.shape[1] % 8 or weight.shape[2] % 8 or not (x.is_contiguous() and weight.is_contiguous()):
        return False, f"takes contiguous rows of multiples of 8 numbers, got {list(x.shape)} and {list(weight.shape)}"
    return True, "all groups in one launch; where they end stays on the card"


def scaled_groups(
    codes: torch.Tensor,
    scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    ends: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    product = torch._scaled_grouped_mm(
        codes, weight.transpose(1, 2), scale, weight_scale, offs=ends, out_dtype=torch.bfloat16, use_fast_accum=True
    )
    return product.to(dtype)


def check_scaled_groups(
    codes: torch.Tensor,
    scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    ends: torch.Tensor,
    dtype: torch.dtype,
) -> tuple[bool, str]:
    if codes.dtype != torch.float8_e4m3fn or dtype != torch.bfloat16:
        return False, f"multiplies float8_e4m3fn into bfloat16, got {codes.dtype} into {dtype}"
    if weight.shape[1] % 16 or weight.shape[2] % 16 or not (codes.is_contiguous() and weight.is_contiguous()):
        return False, f"takes contiguous rows of multiples of 16, got {list(codes.shape)} and {list(weight.shape)}"
    if torch.get_device_module(codes.device).get_device_capability()[0] != 9:
        return False, "torch multiplies float8 by groups on cards of compute capability 9.0 alone"
    return True, "all groups in one launch; where they end stays on the card"


def group_by_group(
    codes: torch.Tensor,
    scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    ends: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Waits for a card, to learn where the groups end."""
    out = codes.new_empty(codes.shape[0], weight.shape[1], dtype=dtype)
    start = 0
    for group, end in enumerate(ends.tolist()):
        if end > start:
            rows = slice(start, end)
            out[rows] = scaled_product(codes[rows], scale[rows], weight[group], weight_scale[group], dtype)
        start = end
    return out


def check_groups(
    codes: torch.Tensor,
    scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    ends: torch.Tensor,
    dtype: torch.dtype,
) -> tuple[bool, str]:
    """That of the product of one group."""
    check = check_cpu if codes.device.type == "cpu" else check_cuda
    return check(codes, scale, weight[0], weight_scale[0], dtype)
