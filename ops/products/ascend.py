"""Products through torch_npu: npu_dynamic_quant, npu_quant_matmul with a scale per token, npu_grouped_matmul."""

from __future__ import annotations

import torch

from npukv.backends.ascend import calls, legality
from npukv.ops.products.operators import grouped_linear, quantise_rows, scaled_product


def quantise_dynamic(x: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return calls.dynamic_quant(x.contiguous())


def product_quant(
    codes: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    return calls.quant_matmul(codes.contiguous(), weight.t(), weight_scale, scale, dtype)


def check_quantise(x: torch.Tensor, kind: torch.dtype) -> tuple[bool, str]:
    return legality.dynamic_quant(x, kind)


def check_product(
    codes: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, dtype: torch.dtype
) -> tuple[bool, str]:
    return legality.quant_matmul(codes, weight, scale, weight_scale, dtype)


def grouped_matmul(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return calls.grouped_matmul([x.contiguous()], [weight.transpose(1, 2)], ends.long())


def check_grouped(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> tuple[bool, str]:
    return legality.grouped_matmul(x, weight)


def register() -> None:
    quantise_rows.kernel(calls.DEVICE, "dynamic_quant", check_quantise)(quantise_dynamic)
    scaled_product.kernel(calls.DEVICE, "quant_matmul", check_product)(product_quant)
    grouped_linear.kernel(calls.DEVICE, "grouped_matmul", check_grouped)(grouped_matmul)


register()
