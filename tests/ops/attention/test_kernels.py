"""Every tuned kernel against the reference in float64. The Triton kernels run under Triton's interpreter."""

from __future__ import annotations

import itertools
import math
from types import ModuleType

import pytest
import torch

from npukv.ops.attention import cpu, indexed_attention, merge_partials, paged_attention, partial_attention, reference

INFINITY = float("inf")
HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture(params=["cpu", "triton"])
def kernels(request: pytest.FixtureRequest) -> ModuleType:
    if request.param == "cpu":
        return cpu
    request.getfixturevalue("interpreter")
    from npukv.ops.attention import triton

    return triton


@pytest.fixture(params=[1, 528])
def programs(request: pytest.FixtureRequest, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> int:
    """Few programs with many steps each, and many with one."""
    if kernels is cpu:
        monkeypatch.setattr(cpu, "SCORES", 600 if request.param == 1 else 1 << 24)
    else:
        monkeypatch.setattr(kernels, "PROGRAMS", request.param)
    return request.param


def numbers(*shape: int, seed: int, dtype: torch.dtype, size: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * size).to(dtype)


def cache_view(tensor: torch.Tensor, seed: int) -> torch.Tensor:
    """The same numbers as users' caches hold them: in a larger buffer, heads first or tokens first."""
    if seed % 3 == 0:
        return tensor
    batch, heads, length, width = tensor.shape
    if seed % 3 == 1:
        room = torch.full((batch + 1, heads, length + 9, width), math.nan, dtype=tensor.dtype)
        room[:batch, :, :length] = tensor
        return room[:batch, :, :length]
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def assert_within_rounding(got, exact, query, key, value, scale, rounded_scores: bool) -> None:
    """Rounding of the scores turns into a relative error of the weights; weights and output are rounded as well."""
    (out, lse), (exact_out, exact_lse) = got, exact
    assert out.dtype is query.dtype
    assert lse.dtype is torch.float32
    assert out.shape == exact_out.shape
    assert torch.equal(lse == -INFINITY, exact_lse == -INFINITY)
    assert not out.isnan().any()
    unit = torch.finfo(query.dtype).eps
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    largest = query.double().norm(dim=-1).max().item() * key.double().nan_to_num(0).norm(dim=-1).max().item() * scale
    of_scores = 2e-6 * (1 + largest) + (unit * largest if rounded_scores and query.dtype in HALVES else 0)
    most = value.double().nan_to_num(0).abs().max().item()
    assert (out.double() - exact_out).abs().max() <= most * (math.expm1(2 * of_scores) + 2 * unit + 1e-6)
    assert (lse.double() - exact_lse).nan_to_num(0).abs().max() <= 2 * of_scores + 1e-5
    assert (out[lse == -INFINITY] == 0).all()


#: query heads, KV heads, queries, keys, width
SHAPES = [
    (4, 4, 1, 200, 64),
    (4, 1, 1, 129, 128),
    (8, 1, 1, 63, 64),
    (4, 2, 3, 130, 80),
    (6, 2, 40, 166, 64),  # the first query's last key is the last but one of a step
    (4, 4, 131, 131, 128),
    (2, 1, 140, 100, 64),  # more queries than keys: the first see nothing
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("number", "shape"), list(enumerate(SHAPES)))
def test_partial(kernels: ModuleType, programs: int, dtype: torch.dtype, number: int, shape: tuple[int, ...]) -> None:
    heads, kv_heads, queries, keys, width = shape
    if kernels is not cpu and programs > 1 and heads // kv_heads * queries > kernels.SPLIT_ROWS:
        pytest.skip("the chunk kernel's programs depend on the queries alone")
    for trial, (with_bias, with_length, causal) in enumerate(itertools.product((False, True), repeat=3)):
        if kernels is not cpu and trial % 4 != (number + programs) % 4:  # the interpreter is slow
            continue
        seed, size = 100 * number + trial, (0.02, 1.0, 3.0)[(number + trial) % 3]
        query = numbers(2, heads, queries, width, seed=seed, dtype=dtype, size=size)
        key = cache_view(numbers(2, kv_heads, keys, width, seed=seed + 1, dtype=dtype, size=size), seed)
        value = cache_view(numbers(2, kv_heads, keys, width, seed=seed + 2, dtype=dtype, size=5.0), seed + 1)
        bias = numbers(2, kv_heads, keys, seed=seed + 3, dtype=torch.float32, size=2.0) if with_bias else None
        if bias is not None:
            bias[0, 0, ::3] = bias[1, -1, : keys // 2] = -INFINITY
        length = torch.tensor([keys - 1, 5 if trial % 4 else 0], dtype=torch.int32) if with_length else None
        if length is not None:
            for row, valid in enumerate(length.tolist()):
                key[row, :, valid:] = value[row, :, valid:] = math.nan
        scale = None if trial % 2 else 0.31 * width**-0.5
        wide = (query.double(), key.double(), value.double())
        exact = reference.partial_attention(*wide, bias, length, scale, causal)
        got = kernels.partial_attention(query, key, value, bias, length, scale, causal)
        assert_within_rounding(got, exact, query, key, value, scale, kernels is cpu)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("group", [1, 4, 8])
def test_indexed(kernels: ModuleType, programs: int, dtype: torch.dtype, group: int) -> None:
    for trial, named in enumerate((1, 70, 128)):
        seed, width = 10 * group + trial, (64, 128, 80)[trial]
        query = numbers(2, 2 * group, 1, width, seed=seed, dtype=dtype, size=2.0)
        key = cache_view(numbers(2, 2, 150, width, seed=seed + 1, dtype=dtype), seed)
        value = cache_view(numbers(2, 2, 150, width, seed=seed + 2, dtype=dtype), seed + 1)
        key[:, :, 0] = value[:, :, 0] = math.nan  # where an index of -1 is clamped to
        indices = torch.randint(1, 150, (2, 2, named), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
        indices[0, :, named // 2 :] = indices[1, 0] = indices[1, 1, ::3] = -1
        bias = numbers(2, 2, 150, seed=seed + 3, dtype=torch.float32) if trial else None
        exact = reference.indexed_attention(query.double(), key.double(), value.double(), indices, bias)
        got = kernels.indexed_attention(query, key, value, indices, bias)
        assert (got[1][1, :group] == -INFINITY).all()
        assert_within_rounding(got, exact, query, key, value, None, kernels is cpu)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [16, 128])
def test_paged(kernels: ModuleType, programs: int, dtype: torch.dtype, tokens: int) -> None:
    for seed, (group, per_head) in enumerate(((1, False), (4, True))):
        query = numbers(2, 3 * group, 1, 64, seed=seed, dtype=dtype, size=2.0)
        key, value = (numbers(9, tokens, 3, 64, seed=seed + n, dtype=dtype) for n in (1, 2))
        key[0] = value[0] = math.nan  # where a page of -1 is clamped to
        table = torch.randint(1, 9, (2, 3, 3) if per_head else (2, 3), dtype=torch.int32)
        table[0, ..., 1] = -1
        length = torch.tensor([3 * tokens - 3, tokens // 2 + 1], dtype=torch.int32)
        exact = reference.paged_attention(query.double(), key.double(), value.double(), table, length)
        got = kernels.paged_attention(query, key, value, table, length)
        assert_within_rounding(got, exact, query, key, value, None, kernels is cpu)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parts", [1, 37, 64, 131])
def test_triton_merges(interpreter: None, dtype: torch.dtype, parts: int) -> None:
    from npukv.ops.attention import triton

    outs = numbers(parts, 2, 3, 2, 80, seed=parts, dtype=dtype)
    lses = numbers(parts, 2, 3, 2, seed=parts + 1, dtype=torch.float32, size=20.0)
    lses[:, 1, 2, 1] = -INFINITY  # seen by no part
    outs[:, 1, 2, 1] = 0
    lses[: parts // 2, 0] = -INFINITY
    outs[: parts // 2, 0] = 0
    exact_out, exact_lse = reference.merge_partials(outs.double(), lses.double())
    outs[: parts // 2, 0] = math.nan
    out, lse = triton.merge_partials(outs, lses)
    assert torch.equal(lse == -INFINITY, exact_lse == -INFINITY)
    assert (lse.double() - exact_lse).nan_to_num(0).abs().max() < 2e-5
    assert (out.double() - exact_out).abs().max() < (2e-2 if dtype is torch.bfloat16 else 1e-5)


def test_a_chunk_over_centroids_and_itself_is_one_call(kernels: ModuleType) -> None:
    """Chunked prefill over a compressed past: centroids with their log degrees, then the chunk, causally."""
    query, chunk = (numbers(1, 4, 50, 64, seed=seed, dtype=torch.float32) for seed in (1, 2))
    past, value = numbers(1, 4, 40, 64, seed=3, dtype=torch.float32), numbers(1, 4, 90, 64, seed=4, dtype=torch.float32)
    bias = torch.cat((torch.randint(1, 9, (1, 4, 40)).float().log(), torch.zeros(1, 4, 50)), -1)
    one = kernels.partial_attention(query, torch.cat((past, chunk), 2), value, bias, None, None, True)
    parts = [
        reference.partial_attention(query, past, value[:, :, :40], bias[:, :, :40]),
        reference.partial_attention(query, chunk, value[:, :, 40:], causal=True),
    ]
    merged = reference.merge_partials(*(torch.stack(tensors) for tensors in zip(*parts, strict=True)))
    for got, expected in zip(one, merged, strict=True):
        assert (got - expected).abs().max() < 2e-5


def test_inputs_are_left_alone(kernels: ModuleType) -> None:
    query, key = (numbers(1, 2, n, 64, seed=n, dtype=torch.float32) for n in (3, 70))
    bias = numbers(1, 2, 70, seed=5, dtype=torch.float32)
    before = [tensor.clone() for tensor in (query, key, bias)]
    kernels.partial_attention(query, key, key, bias, None, None, True)
    assert all(torch.equal(now, then) for now, then in zip((query, key, bias), before, strict=True))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"query": torch.zeros(2, 4, 1, 64, dtype=torch.float64)}, "float64"),
        ({"value": torch.zeros(2, 2, 9, 64, dtype=torch.float16)}, "one type"),
        ({"value": torch.zeros(2, 2, 8, 64)}, "do not go together"),
        ({name: torch.zeros(2, 2, 9, 256) for name in ("query", "key", "value")}, "one width <= 128"),
        ({"key": torch.zeros(2, 2, 64, 9).transpose(2, 3)}, "side by side"),
        ({"bias": torch.zeros(2, 2, 9, dtype=torch.float16)}, "bias"),
        ({"length": torch.zeros(2, dtype=torch.int64)}, "length"),
        ({"query": torch.zeros(1, 4, 1, 64)}, "batches"),
        ({"query": torch.zeros(2, 4, 0, 64)}, "no queries"),
    ],
)
def test_triton_refuses_with_a_reason(change: dict[str, torch.Tensor], reason: str) -> None:
    arguments = {"query": torch.zeros(2, 4, 1, 64), "key": torch.zeros(2, 2, 9, 64), "value": torch.zeros(2, 2, 9, 64)}
    (kernel,) = partial_attention.kernels["cuda"]
    assert kernel.check(**arguments)[0]
    ok, said = kernel.check(**arguments | change)
    assert not ok
    assert reason in said


def test_operators_go_to_the_cpu_kernels() -> None:
    query, key = torch.zeros(1, 2, 1, 16), torch.zeros(1, 2, 4, 16)
    indices, pages = torch.zeros(1, 2, 3, dtype=torch.int32), torch.zeros(2, 16, 2, 16)
    table, length = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    for operator, arguments, kernel in (
        (partial_attention, (query, key, key), "blocked"),
        (indexed_attention, (query, key, key, indices), "rows copied"),
        (paged_attention, (query, pages, pages, table, length), "pages copied"),
        (merge_partials, (query[None], torch.zeros(1, 1, 2, 1)), "reference"),
    ):
        assert [choice.kernel for choice in operator.explain(*arguments) if choice.chosen] == [kernel]
