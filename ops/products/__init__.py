"""Matrix products in 8 bits, with a scale per row on both sides; and by groups of rows, as experts are."""

from __future__ import annotations

import torch

from npukv.ops.products import ascend as _ascend  # noqa: F401 - its kernels register themselves
from npukv.ops.products import native, operators, reference
from npukv.ops.products.operators import grouped_linear, grouped_scaled_product
from npukv.ops.products.reference import KINDS

__all__ = ["KINDS", "bare_product", "grouped_linear", "grouped_scaled_product", "quantise_rows", "scaled_product"]

#: Types of devices whose kernels are torch's own calls: a compiler is shown them, to fuse with what stands around them.
NATIVE = {
    device
    for device, kernels in operators.scaled_product.kernels.items()
    if any(kernel.run is native.scaled_product for kernel in kernels)
}


def quantise_rows(x: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The operator; see `reference.quantise_rows`."""
    if x.device.type in NATIVE and torch.compiler.is_compiling():
        return reference.quantise_rows(x, kind)
    return operators.quantise_rows(x, kind)


def scaled_product(
    codes: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """The operator; see `reference.scaled_product`."""
    if codes.device.type in NATIVE and torch.compiler.is_compiling():
        return native.scaled_product(codes, scale, weight, weight_scale, dtype)
    return operators.scaled_product(codes, scale, weight, weight_scale, dtype)


def bare_product(
    codes: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """As much of `scaled_product` as is one call of the device's library, for benchmarks: the bound on the whole."""
    if codes.device.type in NATIVE:
        return native.unscaled_product(codes, weight)
    return operators.scaled_product(codes, scale, weight, weight_scale, dtype)
