"""Products through torch_npu: npu_dynamic_quant, npu_quant_matmul with a scale per token, npu_grouped_matmul."""

from __future__ import annotations

from typing import Any

import torch

from npukv.backends.ascend import calls, legality
from npukv.ops.products.operators import grouped_linear, grouped_scaled_product, quantise_rows, scaled_product


def quantise_dynamic(a: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return calls.dynamic_quant(a.x.contiguous())


def product_quant(a: Any) -> torch.Tensor:
    return calls.quant_matmul(a.codes.contiguous(), a.weight.t(), a.weight_scale, a.scale, a.dtype)


def check_quantise(a: Any) -> tuple[bool, str]:
    return legality.dynamic_quant(a.x, a.kind)


def check_product(a: Any) -> tuple[bool, str]:
    return legality.quant_matmul(a.codes, a.weight, a.scale, a.weight_scale, a.dtype)


def grouped_matmul(a: Any) -> torch.Tensor:
    return calls.grouped_matmul([a.x.contiguous()], [a.weight.transpose(1, 2)], a.ends.long())


def check_grouped(a: Any) -> tuple[bool, str]:
    return legality.grouped_matmul(a.x, a.weight)


def grouped_quant(a: Any) -> torch.Tensor:
    return calls.grouped_quant_matmul(
        [a.codes.contiguous()], [a.weight.transpose(1, 2)], [a.weight_scale], [a.scale], a.ends.long(), a.dtype
    )


def check_grouped_quant(a: Any) -> tuple[bool, str]:
    return legality.grouped_quant_matmul(a.codes, a.weight, a.scale, a.weight_scale, a.dtype)


def register() -> None:
    quantise_rows.kernel_by_name(calls.DEVICE, "dynamic_quant", check_quantise)(quantise_dynamic)
    scaled_product.kernel_by_name(calls.DEVICE, "quant_matmul", check_product)(product_quant)
    grouped_linear.kernel_by_name(calls.DEVICE, "grouped_matmul", check_grouped)(grouped_matmul)
    grouped_scaled_product.kernel_by_name(calls.DEVICE, "grouped_matmul", check_grouped_quant)(grouped_quant)


register()
