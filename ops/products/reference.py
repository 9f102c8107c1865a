"""The specification of matrix products in 8 bits, and of products by groups of rows, in plain torch.

A row of numbers is a scale times codes in 8 bits: x = scale codes, nearly. The scales of both sides are applied after
the product: x W' = s_x s_w (codes_x codes_w'). So the product itself needs no scaling of its own kind, and runs in
whichever 8-bit type a device multiplies fastest.
"""

from __future__ import annotations

import torch

#: The 8-bit types there are.
KINDS = (torch.float8_e4m3fn, torch.int8)


def quantise_rows(x: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row in 8 bits, the largest number of a row at the end of the type's range.

    Args:
        x: [M, K], any floating type.
        kind: torch.int8, of which -127 to 127 are used, rounded to the nearest; or torch.float8_e4m3fn.

    Returns:
        codes [M, K] of that type and scale [M] float32; x = codes scale[:, None], nearly. Of a row of zeros the scale
        is 0 or next to it, and the codes may be anything.
    """
    wide = x.float()
    scale = wide.abs().amax(-1).clamp(min=1e-12) / largest(kind)
    scaled = wide / scale[:, None]
    return (scaled.round() if kind == torch.int8 else scaled).to(kind), scale


def largest(kind: torch.dtype) -> float:
    """The largest number of an 8-bit type that is used."""
    return 127.0 if kind == torch.int8 else torch.finfo(kind).max


def scaled_product(
    codes: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """(codes weight') scale[:, None] weight_scale.

    Args:
        codes: [M, K], one of `KINDS`; weight: [N, K], of the same type.
        scale: [M]; weight_scale: [N], float32.
        dtype: of the result.

    Returns:
        [M, N]; summed in at least float32.
    """
    wide = torch.promote_types(scale.dtype, torch.float32)
    product = codes.to(wide) @ weight.to(wide).t()
    return (product * scale[:, None] * weight_scale).to(dtype)


def grouped_linear(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Every group of rows through a linear map of its own: rows ends[e - 1] to ends[e] of x times weight[e]'.

    Args:
        x: [T, K]; weight: [E, N, K], of x's type.
        ends: int32 [E], never falling, the last one T; a group may be empty.

    Returns:
        [T, N] in x's type.
    """
    out = x.new_empty(x.shape[0], weight.shape[1])
    start = 0
    for group, end in enumerate(ends.tolist()):
        out[start:end] = x[start:end] @ weight[group].t()
        start = end
    return out


def grouped_scaled_product(
    codes: torch.Tensor,
    scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    ends: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`scaled_product` of every group of rows with a weight of its own, as in `grouped_linear`.

    Args:
        codes: [T, K], one of `KINDS`; weight: [E, N, K], of the same type.
        scale: [T]; weight_scale: [E, N], float32.
        ends: int32 [E], never falling, the last one T; a group may be empty.
        dtype: of the result.

    Returns:
        [T, N]; summed in at least float32.
    """
    out = codes.new_empty(codes.shape[0], weight.shape[1], dtype=dtype)
    start = 0
    for group, end in enumerate(ends.tolist()):
        rows = slice(start, end)
        out[rows] = scaled_product(codes[rows], scale[rows], weight[group], weight_scale[group], dtype)
        start = end
    return out
