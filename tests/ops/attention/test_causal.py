"""Causal attention: the reference against first principles and torch, the kernels against the reference in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from npukv.ops.attention import causal_attention, cpu, explain, reference

AROUND_A_BLOCK = (1, 2, 3, 31, 127, 128, 129, 200, 255, 256, 257, 300)


@dataclass(frozen=True)
class Case:
    query: torch.Tensor  # [B, Hq, S, D]
    key: torch.Tensor  # [B, Hkv, L, D]
    value: torch.Tensor
    scale: float | None

    @property
    def factor(self) -> float:
        return self.query.shape[-1] ** -0.5 if self.scale is None else self.scale

    def exact(self) -> torch.Tensor:
        return reference.causal_attention(self.query.double(), self.key.double(), self.value.double(), self.scale)

    def bound(self) -> float:
        """What rounding alone may do to the output.

        Scores carry a relative error of some units in the last place; the softmax turns that into a relative error of
        the weights; weights and output are rounded once more. The output is an average of values.
        """
        group = self.query.shape[1] // self.key.shape[1]
        key = self.key.double().abs().repeat_interleave(group, dim=1)
        largest = (self.query.double().abs() @ key.transpose(-1, -2)).max().item() * abs(self.factor)
        unit = torch.finfo(self.query.dtype).eps
        of_scores = unit * largest * (1 if self.query.dtype is torch.bfloat16 else 4) + 1e-30
        return self.value.double().abs().max().item() * (math.expm1(2 * of_scores) + 4 * unit)


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype) -> Case:
    batch, kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    queries = draw(st.one_of(st.sampled_from(AROUND_A_BLOCK), st.integers(1, 300)))
    past = draw(st.one_of(st.just(0), st.integers(0, 140)))
    width = draw(st.sampled_from((1, 3, 16, 33, 64)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    largest = draw(st.sampled_from((0.01, 1.0, 6.0))) if dtype is torch.bfloat16 else draw(st.sampled_from((0.01, 40)))
    scale = draw(st.one_of(st.none(), st.floats(0.01, 2.0)))

    def tensor(heads: int, length: int, size: float) -> torch.Tensor:
        numbers = torch.randn(batch, length, heads, width, generator=generator, dtype=torch.float64)
        # both layouts that occur: a transposed projection, and a view into a larger cache
        if draw(st.booleans()):
            return (numbers * size).to(dtype).transpose(1, 2)
        room = torch.full((batch, heads, length + 5, width), float("nan"), dtype=dtype)
        room[:, :, :length] = (numbers * size).to(dtype).transpose(1, 2)
        return room[:, :, :length]

    factor = width**-0.5 if scale is None else scale
    size = math.sqrt(largest / (factor * (3 * width)))  # products sum to about `largest`
    return Case(
        tensor(kv_heads * group, queries, size),
        tensor(kv_heads, past + queries, size),
        tensor(kv_heads, past + queries, draw(st.sampled_from((0.1, 3.0)))),
        scale,
    )


def test_reference_is_the_definition() -> None:
    """Spelled out, one number at a time: query head h reads key head h // group; query i sees keys 0 .. past + i."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 3, 2, generator=generator, dtype=torch.float64)
    key = torch.randn(2, 2, 5, 2, generator=generator, dtype=torch.float64)
    value = torch.randn(2, 2, 5, 2, generator=generator, dtype=torch.float64)
    out = reference.causal_attention(query, key, value, 0.7)
    for b in range(2):
        for h in range(4):
            for i in range(3):
                seen = range(5 - 3 + i + 1)
                scores = [0.7 * sum(float(query[b, h, i, d] * key[b, h // 2, j, d]) for d in range(2)) for j in seen]
                total = sum(map(math.exp, scores))
                for d in range(2):
                    expected = sum(
                        math.exp(s) / total * float(value[b, h // 2, j, d]) for s, j in zip(scores, seen, strict=True)
                    )
                    assert float(out[b, h, i, d]) == pytest.approx(expected, rel=1e-12)


@given(cases(torch.float64))
def test_reference_agrees_with_torch(case: Case) -> None:
    queries, keys = case.query.shape[2], case.key.shape[2]
    group = case.query.shape[1] // case.key.shape[1]
    seen = torch.tensor([[j <= keys - queries + i for j in range(keys)] for i in range(queries)])
    expected = scaled_dot_product_attention(
        case.query,
        case.key.repeat_interleave(group, dim=1),
        case.value.repeat_interleave(group, dim=1),
        attn_mask=seen,
        scale=case.factor,
    )
    assert (case.exact() - expected).abs().max() <= case.bound()


def test_reference_computes_in_float32_at_least_and_keeps_the_type() -> None:
    query = torch.full((1, 1, 1, 64), 0.1).bfloat16()
    key = torch.ones(1, 1, 300, 64).bfloat16()
    value = torch.ones(1, 1, 300, 64).bfloat16()
    out = reference.causal_attention(query, key, value)
    assert out.dtype is torch.bfloat16
    assert torch.equal(out, torch.ones_like(out))  # 300 weights of 1/300 do not add up to 1 in bfloat16


@given(cases(torch.float64))
def test_blocked_kernel_is_the_reference(case: Case) -> None:
    """In float64 any slip in blocks, heads or the diagonal stands out by ten orders of magnitude."""
    out = cpu.causal_attention(case.query, case.key, case.value, case.scale)
    assert out.shape == case.query.shape
    assert (out - case.exact()).abs().max() <= case.bound()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(data=st.data())
def test_kernels_are_within_rounding_of_the_reference(dtype: torch.dtype, data: st.DataObject) -> None:
    case = data.draw(cases(dtype))
    inputs = (case.query, case.key, case.value)
    before = [tensor.clone() for tensor in inputs]
    bound = case.bound()
    for kernel in (cpu.causal_attention, causal_attention):
        out = kernel(*inputs, case.scale)
        assert out.dtype is dtype
        assert out.shape == case.query.shape
        assert (out.double() - case.exact()).abs().max() <= bound
    assert all(torch.equal(now, then) for now, then in zip(inputs, before, strict=True))


@pytest.mark.parametrize("kernel", [reference.causal_attention, cpu.causal_attention, causal_attention])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_query_never_sees_later_keys(kernel, dtype: torch.dtype) -> None:
    """Keys and values that a query may not see can be anything at all, and change no bit of its output."""
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(1, 4, 260, 16, generator=generator).to(dtype)
    key, value = (torch.randn(1, 2, 300, 16, generator=generator).to(dtype) for _ in range(2))
    out = kernel(query, key, value)
    for i in (0, 1, 126, 127, 128, 200, 255, 256, 258):
        later = 300 - 260 + i + 1
        other_key, other_value = key.clone(), value.clone()
        other_key[:, :, later:], other_value[:, :, later:] = 1e3, -1e3
        assert torch.equal(kernel(query, other_key, other_value)[:, :, : i + 1], out[:, :, : i + 1])
        other_value[:, :, later - 1] = 1e4  # the last one it does see
        assert not torch.equal(kernel(query, key, other_value)[:, :, i], out[:, :, i])


@pytest.mark.parametrize(
    ("device", "dtype", "kernel"),
    [
        ("cpu", torch.bfloat16, "blocked"),
        ("cpu", torch.float16, "blocked"),
        ("cpu", torch.float32, "sdpa"),
        ("cuda", torch.bfloat16, "sdpa"),
        ("npu", torch.float16, "sdpa"),
    ],
)
def test_explain_names_the_kernel_and_a_reason(device: str, dtype: torch.dtype, kernel: str) -> None:
    named, reason = explain(device, dtype)
    assert named == kernel
    assert len(reason) > 10


def test_dispatch_does_what_explain_says(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[torch.dtype] = []
    real = cpu.causal_attention

    def spy(query: torch.Tensor, *rest: object) -> torch.Tensor:
        served.append(query.dtype)
        return real(query, *rest)

    monkeypatch.setattr(cpu, "causal_attention", spy)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        tensor = torch.ones(1, 1, 2, 4, dtype=dtype)
        causal_attention(tensor, tensor, tensor)
    assert served == [
        dtype for dtype in (torch.float32, torch.bfloat16, torch.float16) if explain("cpu", dtype)[0] == "blocked"
    ]


def test_scores_of_any_size_stay_numbers() -> None:
    query = torch.full((1, 1, 140, 8), 50.0).bfloat16()
    key = torch.full((1, 1, 140, 8), 50.0).bfloat16()
    key[:, :, ::2] *= -1
    out = cpu.causal_attention(query, key, torch.ones_like(key))
    assert torch.isfinite(out).all()
    assert torch.allclose(out.float(), torch.ones(()), atol=0.01)
