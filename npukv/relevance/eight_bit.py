"""Matrix products in 8 bits, for scoring: weights scaled per output column, activations per row, as they come.

The scales are applied after the product: x W' = s_x s_w (x / s_x) (W / s_w)'. So the product itself needs no scaling of
its own kind, and runs in whichever 8-bit type the device multiplies fastest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from npukv.errors import DeviceError

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Weight(NamedTuple):
    """A linear layer's weight [N, K]: its numbers, and in 8 bits the scale of each row, float32 [N]."""

    codes: torch.Tensor
    scale: torch.Tensor | None = None

    def rows(self, start: int, stop: int) -> Weight:
        """Some of the outputs."""
        return Weight(self.codes[start:stop], None if self.scale is None else self.scale[start:stop])


def largest(kind: torch.dtype) -> float:
    """The largest number of an 8-bit type that is used."""
    return 127.0 if kind == torch.int8 else torch.finfo(kind).max


def quantise(x: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """[..., K] -> (codes [..., K] of the type, scale float32 [..., 1]) with x = codes * scale, nearly."""
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp(min=1e-12) / largest(kind)
    scaled = wide / scale
    return (scaled.round() if kind == torch.int8 else scaled).to(kind), scale


def quantise_weight(weight: torch.Tensor, kind: torch.dtype) -> Weight:
    """[N, K] in a floating type -> 8 bits, each row with a scale of its own."""
    codes, scale = quantise(weight, kind)
    return Weight(codes.contiguous(), scale[:, 0].contiguous())


def linear(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    """x [M, K] times weight' -> [M, N], in x's type."""
    if weight.scale is None:
        return x @ weight.codes.t()
    codes, scale = quantise(x, weight.codes.dtype)
    product = _int8(codes, weight.codes) if codes.dtype == torch.int8 else _fp8(codes, weight.codes)
    return (product.float() * scale * weight.scale).to(x.dtype)


def _fp8(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[M, K] x [N, K]' -> bfloat16 [M, N]."""
    if x.device.type == "cpu":  # the reference: what the products mean
        return (x.float() @ weight.float().t()).to(torch.bfloat16)
    one = torch.ones((), dtype=torch.float32, device=x.device)
    return torch._scaled_mm(x, weight.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)


def _int8(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[M, K] x [N, K]' -> int32 [M, N]."""
    if x.device.type == "cpu":
        return (x.double() @ weight.double().t()).to(torch.int32)
    return torch._int_mm(x, weight.t())


def usable(device: torch.device) -> list[torch.dtype]:
    """The 8-bit types the device multiplies, the faster first.

    Raises:
        DeviceError: none.
    """
    found, reasons = [], []
    for kind in (torch.float8_e4m3fn, torch.int8):
        try:
            linear(torch.ones(32, 64, device=device, dtype=torch.bfloat16), _ones(kind, device))
            found.append(kind)
        except (RuntimeError, NotImplementedError) as error:
            reasons.append(f"{str(kind).removeprefix('torch.')}: {str(error).splitlines()[0]}")
    if not found:
        raise DeviceError(f"this device multiplies no 8-bit numbers ({'; '.join(reasons)}); take --forward fused")
    return found


def _ones(kind: torch.dtype, device: torch.device) -> Weight:
    return quantise_weight(torch.ones(32, 64, device=device), kind)
