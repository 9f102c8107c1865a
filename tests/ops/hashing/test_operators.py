"""The hashing operators as torch sees them: schemas, shapes, compiling, and which kernel serves what."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from npukv.ops import hashing
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
    assert got is None if expected is None else torch.equal(got, expected)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_a_decode_step_compiles_without_graph_breaks() -> None:
    weights = hashing.random_orthogonal(2, 16, 64)

    def step(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *cache: torch.Tensor) -> torch.Tensor:
        *held, length = cache
        asked = hashing.hash_step(query, key, value, weights, *held, length)
        return hashing.hamming_select(asked, held[2], length + 1, 12, 2, 3)

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
        expected = {"hash_encode", "hash_append", "hash_step", "select_blocks"}
        assert ("numpy" in listed[name].get("cpu", [])) == (name not in expected | {"hamming_scores_matmul"})
        assert ("triton" in listed[name].get("cuda", [])) == (name != "hamming_scores_matmul")


def test_numpy_serves_the_cpu() -> None:
    chosen = [choice.kernel for choice in explain("hamming_select", *arguments()["hamming_select"]) if choice.chosen]
    assert chosen == ["numpy"]


def test_triton_refuses_what_it_cannot_count() -> None:
    from npukv.ops.hashing import operators as kernels

    scores = torch.zeros(1, 1, 8, dtype=torch.int32)
    assert kernels._takes_scores(scores, LENGTH, 4, 0, 1, None, 128)[0]
    assert kernels._takes_scores(scores, LENGTH, 4, 0, 1, largest=128)[0]
    assert not kernels._takes_scores(scores, LENGTH, 4, 0, 1)[0]
    assert not kernels._takes_scores(scores, LENGTH, 4, 0, 1, START)[0]
    assert not kernels._takes_codes(draw_codes(0, 1, 4, 1, 3), draw_codes(0, 1, 2, 9, 3))[0]
    assert not kernels._takes_codes(draw_codes(0, 1, 4, 1, 4), draw_codes(0, 1, 9, 2, 4).transpose(1, 2))[0]
    assert not kernels._takes_encode(drawn(0, 1, 1, 1, 16, dtype=torch.float64), drawn(0, 1, 16, 32))[0]
