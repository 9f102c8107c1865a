"""Cases and planted bugs for the kernels of a decode step."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from npukv.ops.decode import reference, triton
from tests.lowering.suite import Case, Mutation, Suite, expect_close, expect_equal

SINGLE, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16
ROUNDING = {SINGLE: 2e-5, HALF: 5e-3, BRAIN: 3e-2}


def drawn(*shape: int, dtype: torch.dtype = SINGLE) -> torch.Tensor:
    return torch.randn(shape).to(dtype)


def doubled(*tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
    return [None if tensor is None else tensor.double() for tensor in tensors]


def project(
    rows: int, width: int, sizes: list[int], dtype: torch.dtype, bias: bool, norm: bool, residual: bool
) -> None:
    x, weights = drawn(rows, width, dtype=dtype), [drawn(n, width, dtype=dtype) / width**0.5 for n in sizes]
    biases = [drawn(n, dtype=dtype) for n in sizes] if bias else []
    scale = drawn(width, dtype=dtype) if norm else None
    onto = drawn(rows, sum(sizes), dtype=dtype) if residual else None
    expected = reference.project(x.double(), doubled(*weights), doubled(*biases), *doubled(scale), 1e-5, *doubled(onto))  # type: ignore[arg-type]
    got = triton.project(x, weights, biases, scale, 1e-5, onto, together=False)
    expect_close("out", got, expected, ROUNDING[dtype])


def gated(rows: int, width: int, size: int, dtype: torch.dtype, norm: bool) -> None:
    x, gate, up = (
        drawn(rows, width, dtype=dtype),
        drawn(size, width, dtype=dtype) / 8,
        drawn(size, width, dtype=dtype) / 8,
    )
    scale = drawn(width, dtype=dtype) if norm else None
    expected = reference.gated(*doubled(x, gate, up, scale), 1e-5)  # type: ignore[arg-type]
    expect_close("out", triton.gated(x, gate, up, scale, 1e-5), expected, ROUNDING[dtype])


def rotate(heads: tuple[int, int], width: int, slots: list[int], norm: bool, dtype: torch.dtype = SINGLE) -> None:
    batch = len(slots)
    sizes = (batch, (heads[0] + 2 * heads[1]) * width), (batch, width), (batch, width)
    projected, cos, sin = (drawn(*size, dtype=dtype) for size in sizes)
    keys, values = (drawn(batch, heads[1], 9, width, dtype=dtype) for _ in range(2))
    right = keys.double(), values.double()
    scales = (drawn(width, dtype=dtype), drawn(width, dtype=dtype)) if norm else (None, None)
    slot = torch.tensor(slots).int()
    got = triton.rotate_append(projected, cos, sin, keys, values, slot, *scales, 1e-5)
    expected = reference.rotate_append(*doubled(projected, cos, sin), *right, slot, *doubled(*scales), 1e-5)  # type: ignore[arg-type]
    expect_close("queries", got, expected, ROUNDING[dtype])
    expect_close("keys", keys, right[0], ROUNDING[dtype])
    expect_equal("values", values, right[1])


def cases(seed: int) -> Iterator[tuple[str, Case]]:
    named = functools.partial
    yield "project", named(project, 1, 64, [40, 24, 24], SINGLE, True, True, False)
    yield "project several, residual", named(project, 3, 96, [37], HALF, False, False, True)
    yield "gated", named(gated, 1, 64, 40, SINGLE, True)
    yield "gated several", named(gated, 3, 96, 37, SINGLE, True)
    yield "gated halves, no norm", named(gated, 20 - 4, 64, 33, HALF, False)
    yield "gated one half", named(gated, 1, 96, 19, HALF, False)
    yield "project brain floats", named(project, 2, 64, [40, 24], BRAIN, True, True, True)
    yield "gated brain floats", named(gated, 3, 96, 19, BRAIN, True)
    yield "rotate brain floats", named(rotate, (4, 2), 32, [3, 8], True, BRAIN)
    yield "rotate", named(rotate, (4, 2), 32, [3, 8], True)
    yield "rotate, slots outside, odd width", named(rotate, (3, 1), 24, [0, 9, -1], True)
    yield "rotate without norms", named(rotate, (2, 2), 16, [4], False)


MUTATIONS = (
    Mutation(
        "halves turned the same way",
        "turned = first * cos_first - second * sin_first",
        "turned = first * cos_first + second * sin_first",
    ),
    Mutation("slots outside written", "fits = held & (places >= 0) & (places < capacity)", "fits = held"),
    Mutation(
        "norm of the other heads", "scale_first = tl.load(key_norm + safe", "scale_first = tl.load(query_norm + safe"
    ),
    Mutation("columns past the half", "held = column < HALF", "held = column < HALF + 1"),
    Mutation(
        "norm of the rows dropped",
        "tokens = (wide * tl.load(norm + start + column)",
        "tokens = (wide + 0 * tl.load(norm + start + column)",
    ),
    Mutation(
        "sum of squares of the last step",
        "squares += tl.sum(wide * wide, axis=1)",
        "squares = tl.sum(wide * wide, axis=1)",
    ),
    Mutation("sum of the last step", "sums += tl.dot(tokens, tl.trans(w)", "sums = tl.dot(tokens, tl.trans(w)"),
    Mutation(
        "eps dropped, width forgotten",
        "shrink = tl.rsqrt(squares / K + eps)[:, None]\n    ",
        "shrink = tl.rsqrt(squares + eps)[:, None]\n    ",
    ),
    Mutation("weights written over the first's outputs", "    first = before\n", "    first = before * 0\n"),
    Mutation("bias of a projection dropped", "sums += tl.load(bias + n)", "sums += 0 * tl.load(bias + n)"),
    Mutation(
        "residual of a projection dropped", "sums += tl.load(residual + place", "sums += 0 * tl.load(residual + place"
    ),
    Mutation("gate without its sigmoid", "gates = gates / (1.0 + tl.exp(-gates)) * ups", "gates = gates * ups"),
    Mutation("gate of the other sign", "tl.exp(-gates)", "tl.exp(gates)"),
    Mutation(
        "weights' rows past the last",
        "n = tl.minimum(wanted, size - 1)\n    gates, squares",
        "n = wanted\n    gates, squares",
    ),
)

SUITE = Suite("decode", (triton,), cases, MUTATIONS)
