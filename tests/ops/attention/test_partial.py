"""Partial attention: the references against first principles, against each other, and what torch checks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from npukv.ops import registry
from npukv.ops.attention import indexed_attention, merge_partials, paged_attention, partial_attention, reference

INFINITY = float("inf")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def spelled_out(query, key, value, scores_of) -> tuple[torch.Tensor, torch.Tensor]:
    """One number at a time; scores_of(b, kv head, i) gives {key position: what is added to the product}."""
    batch, heads, queries, width = query.shape
    group = heads // key.shape[1]
    out, lse = torch.zeros_like(query), torch.full(query.shape[:3], -INFINITY, dtype=query.dtype)
    for b in range(batch):
        for h in range(heads):
            for i in range(queries):
                products = [
                    (
                        j,
                        0.6 * math.fsum(float(query[b, h, i, d] * key[b, h // group, j, d]) for d in range(width))
                        + add,
                    )
                    for j, add in scores_of(b, h // group, i)
                ]
                total = math.fsum(math.exp(score) for _, score in products)
                if total > 0:
                    lse[b, h, i] = math.log(total)
                    for d in range(width):
                        terms = (math.exp(score) * float(value[b, h // group, j, d]) for j, score in products)
                        out[b, h, i, d] = math.fsum(terms) / total
    return out, lse


def assert_close(got, expected, tolerance: float = 1e-12) -> None:
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        assert torch.equal(one == -INFINITY, other == -INFINITY)
        assert (one - other).nan_to_num(0).abs().max() <= tolerance
        assert not one.isnan().any()


@pytest.mark.parametrize("causal", [False, True])
def test_partial_is_the_definition(causal: bool) -> None:
    query, key, value = normal(2, 4, 3, 2), normal(2, 2, 7, 2, seed=1), normal(2, 2, 7, 2, seed=2)
    bias = normal(2, 2, 7, seed=3).float()
    bias[0, 1, 2] = bias[1, 0, 0] = -INFINITY
    length = torch.tensor([5, 2], dtype=torch.int32)  # row 1: its first of three causal queries sees nothing
    key[0, :, 5:] = value[0, :, 5:] = key[1, :, 2:] = value[1, :, 2:] = math.nan

    def seen(b: int, h: int, i: int) -> list[tuple[int, float]]:
        stop = int(length[b]) - (2 - i if causal else 0)
        return [(j, float(bias[b, h, j])) for j in range(max(0, stop)) if bias[b, h, j] > -INFINITY]

    got = partial_attention(query, key, value, bias, length, 0.6, causal)
    assert_close(got, spelled_out(query, key, value, seen))
    assert (got[1][1, :, 0] == -INFINITY).all() == causal
    if causal:
        assert (got[0][1, :, 0] == 0).all()


def test_indexed_is_the_definition() -> None:
    query, key, value = normal(2, 6, 1, 2), normal(2, 2, 9, 2, seed=1), normal(2, 2, 9, 2, seed=2)
    bias = normal(2, 2, 9, seed=3).float()
    indices = torch.tensor([[[0, 3, 8, -1], [7, -1, -1, -1]], [[-1, 5, 5, 2], [-1, -1, -1, -1]]], dtype=torch.int32)
    key[:, :, 1] = value[:, :, 1] = math.nan  # not named by any

    def seen(b: int, h: int, i: int) -> list[tuple[int, float]]:
        return [(j, float(bias[b, h, j])) for j in indices[b, h].tolist() if j >= 0]

    got = indexed_attention(query, key, value, indices, bias, 0.6)
    assert_close(got, spelled_out(query, key, value, seen))
    assert (got[1][1, 3:] == -INFINITY).all()
    without = indexed_attention(query, key, value, indices, None, 0.6)
    zero = indexed_attention(query, key, value, indices, torch.zeros_like(bias), 0.6)
    assert torch.equal(without[0], zero[0])


@pytest.mark.parametrize("per_head", [False, True])
def test_pages_hold_what_a_dense_cache_holds(per_head: bool) -> None:
    """Keys scattered over pages in any order give what the same keys in a row give, absent pages what a hole gives."""
    batch, kv_heads, tokens, width, blocks, pages = 2, 3, 4, 8, 5, 40
    query = normal(batch, 6, 1, width)
    key, value = normal(batch, kv_heads, blocks * tokens, width, seed=1), normal(batch, kv_heads, 20, width, seed=2)
    key_pages, value_pages = (torch.full((pages, tokens, kv_heads, width), math.nan).double() for _ in range(2))
    shape = (batch, kv_heads, blocks) if per_head else (batch, blocks)
    order = torch.randperm(pages, generator=torch.Generator().manual_seed(3))[: math.prod(shape)]
    table = order.view(shape).int()
    for b in range(batch):
        for h in range(kv_heads):
            for n in range(blocks):
                page = table[b, h, n] if per_head else table[b, n]
                key_pages[page, :, h] = key[b, h, n * tokens : (n + 1) * tokens]
                value_pages[page, :, h] = value[b, h, n * tokens : (n + 1) * tokens]
    table[..., 1] = -1
    bias = torch.zeros(batch, kv_heads, blocks * tokens)
    bias[..., tokens : 2 * tokens] = -INFINITY
    length = torch.tensor([18, 3], dtype=torch.int32)
    got = paged_attention(query, key_pages, value_pages, table, length, 0.7)
    assert_close(got, partial_attention(query, key, value, bias, length, 0.7))


@given(st.data())
def test_any_split_of_the_keys_merges_to_the_whole(data: st.DataObject) -> None:
    """Contiguous or scattered, with parts that nobody sees, at any scale; also parts of parts."""
    batch, kv_heads, group = (data.draw(st.integers(1, most)) for most in (2, 3, 4))
    queries, keys, parts = (data.draw(st.integers(1, most)) for most in (3, 40, 5))
    seed, size = data.draw(st.integers(0, 2**31)), data.draw(st.sampled_from((0.01, 1.0, 30.0)))
    query = normal(batch, kv_heads * group, queries, 8, seed=seed) * size
    key, value = normal(batch, kv_heads, keys, 8, seed=seed + 1), normal(batch, kv_heads, keys, 8, seed=seed + 2)
    owner = torch.randint(0, parts, (batch, kv_heads, keys), generator=torch.Generator().manual_seed(seed))
    if data.draw(st.booleans()):
        owner = owner.sort(-1).values
    bias = normal(batch, kv_heads, keys, seed=seed + 3).float()
    causal = data.draw(st.booleans())
    partials = [
        partial_attention(query, key, value, bias.masked_fill(owner != part, -INFINITY), None, None, causal)
        for part in range(parts)
    ]
    whole = partial_attention(query, key, value, bias, None, None, causal)
    outs, lses = (torch.stack(tensors) for tensors in zip(*partials, strict=True))
    assert_close(merge_partials(outs, lses), whole, 1e-10)
    cut = data.draw(st.integers(1, parts))
    nested = [merge_partials(outs[:cut], lses[:cut])]
    if cut < parts:
        nested.append(merge_partials(outs[cut:], lses[cut:]))
    assert_close(merge_partials(*(torch.stack(tensors) for tensors in zip(*nested, strict=True))), whole, 1e-10)


@given(st.data())
def test_the_operators_agree(data: st.DataObject) -> None:
    """Keys named by an index list, and the same keys chosen by a bias."""
    kv_heads, group, keys = (data.draw(st.integers(1, most)) for most in (3, 4, 50))
    seed = data.draw(st.integers(0, 2**31))
    query = normal(2, kv_heads * group, 1, 16, seed=seed)
    key, value = normal(2, kv_heads, keys, 16, seed=seed + 1), normal(2, kv_heads, keys, 16, seed=seed + 2)
    named = torch.rand(2, kv_heads, keys, generator=torch.Generator().manual_seed(seed)) < 0.4
    indices = torch.where(named, torch.arange(keys), -1).int()
    chosen = torch.zeros(2, kv_heads, keys).masked_fill(~named, -INFINITY)
    assert_close(indexed_attention(query, key, value, indices), partial_attention(query, key, value, chosen))


@pytest.mark.parametrize("causal", [False, True])
def test_plain_partial_attention_is_torchs(causal: bool) -> None:
    query, key, value = normal(2, 6, 5, 16), normal(2, 2, 33, 16, seed=1), normal(2, 2, 33, 16, seed=2)
    out, _ = partial_attention(query, key, value, causal=causal)
    if causal:
        expected = reference.causal_attention(query, key, value)
    else:
        expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    assert torch.allclose(out, expected, rtol=0, atol=1e-12)


def test_types_of_outputs() -> None:
    for dtype, wide in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        out, lse = partial_attention(*(normal(1, 2, 4, 16, dtype=dtype) for _ in range(3)))
        assert (out.dtype, lse.dtype) == (dtype, wide)


def samples(dtype: torch.dtype) -> list[tuple[registry.Operator, tuple]]:
    query, key, value = (
        normal(2, 4, 1, 16, dtype=dtype),
        normal(2, 2, 9, 16, dtype=dtype),
        normal(2, 2, 9, 16, dtype=dtype),
    )
    bias, length = normal(2, 2, 9, dtype=torch.float32), torch.tensor([9, 4], dtype=torch.int32)
    indices = torch.tensor([[[0, 3, -1], [8, 8, 1]]] * 2, dtype=torch.int32)
    pages, table = normal(6, 4, 2, 16, dtype=dtype), torch.tensor([[0, 3], [5, -1]], dtype=torch.int32)
    chunk = normal(2, 4, 5, 16, dtype=dtype)
    return [
        (partial_attention, (query, key, value)),
        (partial_attention, (query, key, value, bias, length, 0.3)),
        (partial_attention, (chunk, key, value, bias, length, None, True)),
        (indexed_attention, (query, key, value, indices)),
        (indexed_attention, (query, key, value, indices, bias, 0.3)),
        (paged_attention, (query, pages, pages, table, length)),
        (paged_attention, (query, pages, pages, table[:, None].expand(2, 2, 2), length, 0.3)),
        (merge_partials, (chunk[None].expand(3, -1, -1, -1, -1), normal(3, 2, 4, 5, dtype=torch.float32))),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", range(8))
def test_torch_accepts_the_operators(dtype: torch.dtype, which: int) -> None:
    operator, args = samples(dtype)[which]
    torch.library.opcheck(operator.overload, args)


def test_they_compile_in_one_graph() -> None:
    cases = samples(torch.float32)

    def step(*inputs) -> list[torch.Tensor]:
        return [tensor for (operator, _), args in zip(cases, inputs, strict=True) for tensor in operator(*args)]

    arguments = [args for _, args in cases]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(*arguments)
    assert all(torch.equal(one, other) for one, other in zip(compiled, step(*arguments), strict=True))
