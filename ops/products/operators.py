"""The operators of products in 8 bits and by groups: schemas, shapes, and which kernels serve them where."""

from __future__ import annotations

import torch

from npukv.ops.products import native, reference
from npukv.ops.registry import define


def _quantised(x: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape, dtype=kind), x.new_empty(x.shape[:1], dtype=torch.float32)


def _multiplied(
    codes: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    return codes.new_empty(codes.shape[0], weight.shape[0], dtype=dtype)


def _grouped(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


def _grouped_scaled(
    codes: torch.Tensor,
    scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    ends: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    return codes.new_empty(codes.shape[0], weight.shape[1], dtype=dtype)


quantise_rows = define(
    "npukv::quantise_rows(Tensor x, ScalarType kind) -> (Tensor, Tensor)",
    reference=reference.quantise_rows,
    fake=_quantised,
)
scaled_product = define(
    "npukv::scaled_product(Tensor codes, Tensor scale, Tensor weight, Tensor weight_scale, ScalarType dtype) -> Tensor",
    reference=reference.scaled_product,
    fake=_multiplied,
)
grouped_linear = define(
    "npukv::grouped_linear(Tensor x, Tensor weight, Tensor ends) -> Tensor",
    reference=reference.grouped_linear,
    fake=_grouped,
)
grouped_scaled_product = define(
    "npukv::grouped_scaled_product(Tensor codes, Tensor scale, Tensor weight, Tensor weight_scale, Tensor ends, "
    "ScalarType dtype) -> Tensor",
    reference=reference.grouped_scaled_product,
    fake=_grouped_scaled,
)

scaled_product.kernel("cpu", "torch", native.check_cpu)(native.scaled_product)
scaled_product.kernel("cuda", "tensor cores", native.check_cuda)(native.scaled_product)
grouped_linear.kernel("cuda", "grouped_mm", native.check_grouped)(native.grouped_linear)
grouped_scaled_product.kernel("cpu", "group by group", native.check_groups)(native.group_by_group)
grouped_scaled_product.kernel("cuda", "scaled_grouped_mm", native.check_scaled_groups)(native.scaled_groups)
grouped_scaled_product.kernel("cuda", "group by group", native.check_groups)(native.group_by_group)
