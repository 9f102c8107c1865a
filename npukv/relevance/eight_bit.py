"""Matrix products in 8 bits, for scoring: weights scaled per output column, activations per row, as they come."""

from __future__ import annotations

from typing import NamedTuple

import torch

from npukv.errors import DeviceError
from npukv.ops.products import KINDS, grouped_linear, grouped_scaled_product, quantise_rows, scaled_product
from npukv.ops.registry import REFERENCE, explain


class Weight(NamedTuple):
    """A linear layer's weight [N, K]: its numbers, and in 8 bits the scale of each row, float32 [N].

    Or those of several experts: [E, N, K], and [E, N].
    """

    codes: torch.Tensor
    scale: torch.Tensor | None = None

    def rows(self, start: int, stop: int) -> Weight:
        """Some of the outputs."""
        return Weight(self.codes[start:stop], None if self.scale is None else self.scale[start:stop])


def quantise_weight(weight: torch.Tensor, kind: torch.dtype) -> Weight:
    """[N, K], or [E, N, K], in a floating type -> 8 bits, each row with a scale of its own."""
    codes, scale = quantise_rows(weight.flatten(0, -2), kind)
    return Weight(codes.view(weight.shape), scale.view(weight.shape[:-1]))


def linear(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    """x [M, K] times weight' -> [M, N], in x's type."""
    if weight.scale is None:
        return x @ weight.codes.t()
    codes, scale = quantise_rows(x, weight.codes.dtype)
    return scaled_product(codes, scale, weight.codes, weight.scale, x.dtype)


def grouped(x: torch.Tensor, rows: torch.Tensor | None, weight: Weight, ends: torch.Tensor) -> torch.Tensor:
    """Groups of rows times the weights [E, N, K] of their experts -> [T, N], in x's type.

    Args:
        x: [M, K].
        rows: int64 [T], which of x, sorted by group; None = all of them, as they are.
        ends: int32 [E], where the groups end.
    """
    if weight.scale is None:
        return grouped_linear(x if rows is None else x[rows], weight.codes, ends)
    codes, scale = quantise_rows(x, weight.codes.dtype)
    if rows is not None:
        codes, scale = codes[rows], scale[rows]
    return grouped_scaled_product(codes, scale, weight.codes, weight.scale, ends, x.dtype)


def usable(device: torch.device) -> list[torch.dtype]:
    """The 8-bit types the device multiplies, the faster first.

    Raises:
        DeviceError: none.
    """
    found, reasons = [], []
    for kind in KINDS:
        name = str(kind).removeprefix("torch.")
        ones = torch.ones(32, 64, device=device, dtype=torch.bfloat16)
        codes, scale = torch.empty(32, 64, device=device, dtype=kind), torch.ones(32, device=device)
        try:
            choices = explain("scaled_product", codes, scale, codes, scale, ones.dtype)
            if choices[-1].kernel == REFERENCE and choices[-1].chosen:
                reasons.append(f"{name}: {'; '.join(choice.reason for choice in choices[:-1]) or 'no kernel'}")
                continue
            linear(ones, quantise_weight(ones, kind))
            found.append(kind)
        except (RuntimeError, NotImplementedError) as error:
            reasons.append(f"{name}: {str(error).splitlines()[0]}")
    if not found:
        raise DeviceError(f"this device multiplies no 8-bit numbers ({'; '.join(reasons)}); take --forward fused")
    return found
