"""The decode step's operators: schemas, shapes, and which kernels serve them where."""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from npukv.ops.decode import reference
from npukv.ops.registry import define

#: Rows (tokens of different sequences) the tuned kernels take.
MOST_ROWS = 16

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def _project_fake(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    norm: torch.Tensor | None = None,
    eps: float = 0.0,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    return x.new_empty(x.shape[0], sum(weight.shape[0] for weight in weights))


def _gated_fake(
    x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, norm: torch.Tensor | None = None, eps: float = 0.0
) -> torch.Tensor:
    return x.new_empty(x.shape[0], gate.shape[0])


def _rotate_fake(
    projected: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slot: torch.Tensor,
    query_norm: torch.Tensor | None = None,
    key_norm: torch.Tensor | None = None,
    eps: float = 0.0,
) -> torch.Tensor:
    batch, kv_heads, _, width = keys.shape
    return projected.new_empty(batch, projected.shape[1] // width - 2 * kv_heads, 1, width)


project = define(
    "npukv::project(Tensor x, Tensor[] weights, Tensor[] biases, Tensor? norm=None, float eps=0.0, "
    "Tensor? residual=None) -> Tensor",
    reference=reference.project,
    fake=_project_fake,
)
gated = define(
    "npukv::gated(Tensor x, Tensor gate, Tensor up, Tensor? norm=None, float eps=0.0) -> Tensor",
    reference=reference.gated,
    fake=_gated_fake,
)
rotate_append = define(
    "npukv::rotate_append(Tensor projected, Tensor cos, Tensor sin, Tensor(a!) keys, Tensor(b!) values, Tensor slot, "
    "Tensor? query_norm=None, Tensor? key_norm=None, float eps=0.0) -> Tensor",
    reference=reference.rotate_append,
    fake=_rotate_fake,
)


def _takes(x: torch.Tensor, others: Sequence[torch.Tensor]) -> tuple[bool, str]:
    if find_spec("triton") is None:
        return False, "triton is not installed"
    if x.dtype not in _FLOATS or any(other.dtype != x.dtype for other in others):
        return False, f"takes tensors of one type, float32, float16 or bfloat16, not {x.dtype} with others"
    if not all(tensor.is_contiguous() for tensor in (x, *others)):
        return False, "takes contiguous tensors"
    return True, "every weight is read once, at the memory's rate"


def _takes_rows(x: torch.Tensor, others: Sequence[torch.Tensor]) -> tuple[bool, str]:
    if x.shape[0] > MOST_ROWS:
        return False, f"takes up to {MOST_ROWS} rows, not {x.shape[0]}: more are worth a matrix product"
    if x.shape[1] % 16:
        return False, f"takes widths that 16 divides, not {x.shape[1]}"
    return _takes(x, others)


def _takes_project(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    norm: torch.Tensor | None = None,
    eps: float = 0.0,
    residual: torch.Tensor | None = None,
) -> tuple[bool, str]:
    if not 1 <= len(weights) <= 3 or len(biases) not in (0, len(weights)):
        return False, f"takes one to three weights and as many biases or none, not {len(weights)} and {len(biases)}"
    return _takes_rows(x, [*weights, *biases, *(one for one in (norm, residual) if one is not None)])


def _takes_gated(
    x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, norm: torch.Tensor | None = None, eps: float = 0.0
) -> tuple[bool, str]:
    return _takes_rows(x, [gate, up] if norm is None else [gate, up, norm])


def _takes_rotate(
    projected: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slot: torch.Tensor,
    query_norm: torch.Tensor | None = None,
    key_norm: torch.Tensor | None = None,
    eps: float = 0.0,
) -> tuple[bool, str]:
    if keys.stride(-1) != 1 or values.stride(-1) != 1 or keys.dtype != values.dtype:
        return False, "takes keys and values of one type, each token's numbers side by side"
    if (query_norm is None) != (key_norm is None):
        return False, "takes norms for both queries and keys, or for neither"
    return _takes(projected, [cos, sin, *(one for one in (query_norm, key_norm) if one is not None)])


for _operator, _check in ((project, _takes_project), (gated, _takes_gated), (rotate_append, _takes_rotate)):

    def _run(*args: Any, _name: str = _operator.name, **kwargs: Any) -> Any:
        return getattr(import_module("npukv.ops.decode.triton"), _name)(*args, **kwargs)

    _operator.kernel("cuda", "triton", check=_check)(wraps(_operator.reference)(_run))
