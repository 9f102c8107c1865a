"""The hashing operators as torch sees them: schemas, shapes, compiling, and which kernel serves what."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from npukv.ops import hashing
from npukv.ops.hashing import operators as operators_module
from npukv.ops.hashing import reference
from npukv.ops.registry import explain, operators
from tests.ops.hashing.test_reference import draw_codes, drawn

LENGTH = torch.tensor([30, 21], dtype=torch.int32)
START = torch.tensor([0, 4], dtype=torch.int32)


def arguments() -> dict[str, tuple[Any, ...]]:
    """Arguments for every operator."""
    weights = hashing.random_orthogonal(2, 16, 64)
    cache = drawn(1, 2, 2, 40, 16), drawn(2, 2, 2, 40, 16), draw_codes(3, 2, 2, 40, 2)
    token = drawn(4, 2, 2, 1, 16), drawn(5, 2, 2, 1, 16)
    codes = draw_codes(6, 2, 4, 1, 2), cache[2]
    scores = reference.hamming_scores(*codes, LENGTH)
    return {
        "hash_encode": (drawn(0, 2, 4, 3, 16), weights),
        "hash_append": (*token, weights, *cache, LENGTH),
        "hash_step": (drawn(0, 2, 4, 1, 16), *token, weights, *cache, LENGTH),
        "hamming_scores": (*codes, LENGTH, START),
        "hamming_scores_matmul": (*codes, LENGTH),
        "select_top_k": (scores, LENGTH, 12, 2, 3, START),
        "hamming_select": (*codes, LENGTH, 12, 2, 3),
        "hashed_attention": (drawn(0, 2, 4, 1, 16), *codes, *cache[:2], LENGTH, 12, 2, 3, START, 0.3),
        "hash_decode": (drawn(0, 2, 4, 1, 16), *token, weights, *cache, LENGTH, 12, 2, 3, START, 0.3),
        "select_blocks": (scores.repeat(1, 1, 9), LENGTH * 9, 2, 1, 1),
    }


@pytest.mark.parametrize("name", arguments())
def test_opcheck(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.npukv, name).default, arguments()[name])


@pytest.mark.parametrize("name", arguments())
def test_operator_equals_reference(name: str) -> None:
    mine, theirs = arguments()[name], arguments()[name]
    got = getattr(hashing, name)(*mine)
    expected = getattr(reference, name)(*theirs)
    if isinstance(got, tuple):  # attention, which sums in another order
        torch.testing.assert_close(got, expected)
    else:
        assert got is None if expected is None else torch.equal(got, expected)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_a_decode_step_compiles_without_graph_breaks() -> None:
    weights = hashing.random_orthogonal(2, 16, 64)

    def step(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *cache: torch.Tensor) -> torch.Tensor:
        *held, length = cache
        asked = hashing.hash_step(query, key, value, weights, *held, length)
        out, lse = hashing.hashed_attention(query, asked, held[2], *held[:2], length + 1, 12, 2, 3)
        return out * lse[..., None]

    def fresh() -> tuple[torch.Tensor, ...]:
        return arguments()["hash_step"][:3] + arguments()["hash_step"][4:]

    eager, compiled = fresh(), fresh()
    expected = step(*eager)
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(*compiled)
    assert torch.equal(got, expected)
    assert all(torch.equal(one, other) for one, other in zip(eager, compiled, strict=True))


def test_every_operator_says_which_kernels_serve_it() -> None:
    listed = operators()
    for name in arguments():
        expected = {"hash_encode", "hash_append", "hash_step", "select_blocks", "hashed_attention", "hash_decode"}
        assert ("numpy" in listed[name].get("cpu", [])) == (name not in expected | {"hamming_scores_matmul"})
        assert ("triton" in listed[name].get("cuda", [])) == (name != "hamming_scores_matmul")


def test_numpy_serves_the_cpu() -> None:
    chosen = [choice.kernel for choice in explain("hamming_select", *arguments()["hamming_select"]) if choice.chosen]
    assert chosen == ["numpy"]


def test_attention_is_composed_where_no_kernel_takes_it() -> None:
    listed = operators()["hashed_attention"]
    assert [listed[device][-1] for device in ("cpu", "cuda", "npu")] == ["select, then attend"] * 3
    query, asked, codes, *rest = arguments()["hashed_attention"]
    takes = operators_module._takes_hashed
    assert takes(query, asked, codes, *rest)[0]
    assert not takes(query.double(), asked, codes, *rest)[0]
    assert not takes(query, asked.repeat(1, 33, 1, 1), codes, *rest)[0]
    assert not takes(query, asked, codes[:, :, 1:].contiguous(), *rest)[0]
    long = torch.empty(2, 2, 2**21 + 1, 2, dtype=torch.int32, device="meta")
    key = torch.empty(2, 2, 2**21 + 1, 16, device="meta")
    assert "2097152 tokens" in takes(query, asked, long, key, key, *rest[2:])[1]


def test_attention_in_float64() -> None:
    query, asked, codes, key, value, *rest = arguments()["hashed_attention"]
    exact = reference.hashed_attention(query.double(), asked, codes, key.double(), value.double(), *rest)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        got = hashing.hashed_attention(
            *(x.to(dtype) for x in (query,)), asked, codes, key.to(dtype), value.to(dtype), *rest
        )
        for one, other in zip(got, exact, strict=True):
            torch.testing.assert_close(one.double(), other, atol=tolerance, rtol=tolerance)


def test_triton_refuses_what_it_cannot_count() -> None:
    scores = torch.zeros(1, 1, 8, dtype=torch.int32)
    assert operators_module._takes_scores(scores, LENGTH, 4, 0, 1, None, 128)[0]
    assert operators_module._takes_scores(scores, LENGTH, 4, 0, 1, largest=128)[0]
    assert not operators_module._takes_scores(scores, LENGTH, 4, 0, 1)[0]
    assert not operators_module._takes_scores(scores, LENGTH, 4, 0, 1, START)[0]
    assert not operators_module._takes_codes(draw_codes(0, 1, 4, 1, 3), draw_codes(0, 1, 2, 9, 3))[0]
    assert not operators_module._takes_codes(draw_codes(0, 1, 4, 1, 4), draw_codes(0, 1, 9, 2, 4).transpose(1, 2))[0]
    assert not operators_module._takes_encode(drawn(0, 1, 1, 1, 16, dtype=torch.float64), drawn(0, 1, 16, 32))[0]
