"""The decode step's operators: references against transformers' modules, kernels against the references in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npukv.ops.decode import gated, operators, project, reference, rotate_append


def normal(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale).to(dtype)


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2}}[dtype]


def wide(arguments: Any) -> Any:
    """The same numbers in float64."""
    if isinstance(arguments, torch.Tensor):
        return arguments.double() if arguments.is_floating_point() else arguments
    if isinstance(arguments, list):
        return [wide(one) for one in arguments]
    return arguments


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral"])
@torch.no_grad()
def test_references_are_the_modules_of_transformers(load_tiny: Any, name: str) -> None:
    """One block of the model, spelled with the operators, over a cache of one token."""
    from transformers import DynamicCache

    model = load_tiny(name).model.model
    block, config = model.layers[0], model.config
    x = normal(2, 1, config.hidden_size, dtype=torch.float32)
    turns = model.rotary_emb(x, torch.tensor([[5], [9]]))
    expected = block(x, position_embeddings=turns, past_key_values=DynamicCache(), attention_mask=None)

    attention, mlp = block.self_attn, block.mlp
    maps = (attention.q_proj, attention.k_proj, attention.v_proj)
    norms = (block.input_layernorm, block.post_attention_layernorm)
    projected = project(
        x[:, 0],
        [one.weight for one in maps],
        [one.bias for one in maps if one.bias is not None],
        norms[0].weight,
        norms[0].variance_epsilon,
    )
    keys, values = torch.zeros(2, 2, config.num_key_value_heads, 1, attention.head_dim)
    heads = [getattr(attention, one).weight if hasattr(attention, one) else None for one in ("q_norm", "k_norm")]
    query = rotate_append(
        projected, turns[0][:, 0], turns[1][:, 0], keys, values, torch.zeros(2, dtype=torch.int32), *heads, 1e-6
    )
    assert query.shape == (2, 4, 1, 16)
    attended = values.repeat_interleave(2, dim=1).reshape(2, -1)  # softmax over one key
    y = project(attended, [attention.o_proj.weight], [], residual=x[:, 0])
    hidden = gated(y, mlp.gate_proj.weight, mlp.up_proj.weight, norms[1].weight, norms[1].variance_epsilon)
    out = project(hidden, [mlp.down_proj.weight], [], residual=y)
    torch.testing.assert_close(out, expected[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=25)
@given(data=st.data())
def test_project(interpreter: None, dtype: torch.dtype, data: st.DataObject) -> None:
    from npukv.ops.decode import triton

    rows = data.draw(st.sampled_from([1, 1, 2, 5, 16]))
    width = data.draw(st.sampled_from([16, 48, 256, 1040]))
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    scale = data.draw(st.sampled_from([1e-2, 1.0, 30.0]))
    weights = [normal(size, width, seed=i, scale=width**-0.5, dtype=dtype) for i, size in enumerate(sizes)]
    biased, normed, added = (data.draw(st.booleans()) for _ in range(3))
    arguments = [
        normal(rows, width, scale=scale, dtype=dtype),
        weights,
        [normal(size, seed=9 + i, dtype=dtype) for i, size in enumerate(sizes)] if biased else [],
        normal(width, seed=5, dtype=dtype) if normed else None,
        1e-5,
        normal(rows, sum(sizes), seed=6, dtype=dtype) if added else None,
    ]
    assert operators._takes_project(*arguments)[0]
    together = data.draw(st.booleans())
    got, expected = triton.project(*arguments, together=together), reference.project(*wide(arguments))
    assert got.dtype == dtype
    size = 1.0 if normed else scale
    torch.testing.assert_close(got.double() / size, expected / size, **tolerance(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width", "size"), [(1, 64, 24), (1, 528, 7), (3, 64, 33), (16, 256, 16)])
@pytest.mark.parametrize("normed", [False, True])
def test_gated(interpreter: None, dtype: torch.dtype, rows: int, width: int, size: int, normed: bool) -> None:
    from npukv.ops.decode import triton

    gate, up = (normal(size, width, seed=seed, scale=2 * width**-0.5, dtype=dtype) for seed in (1, 2))
    norm = normal(width, seed=3, dtype=dtype) if normed else None
    arguments = [normal(rows, width, dtype=dtype), gate, up, norm, 1e-5]
    assert operators._takes_gated(*arguments)[0]
    got, expected = triton.gated(*arguments), reference.gated(*wide(arguments))
    torch.testing.assert_close(got.double(), expected, **tolerance(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 2, 16), (3, 3, 80), (8, 1, 128)])
@pytest.mark.parametrize("normed", [False, True])
def test_rotate_append(
    interpreter: None, dtype: torch.dtype, heads: int, kv_heads: int, width: int, normed: bool
) -> None:
    from npukv.ops.decode import triton

    batch, capacity = 3, 6
    projected = normal(batch, (heads + 2 * kv_heads) * width, dtype=dtype)
    cos, sin = (normal(batch, width, seed=seed, dtype=dtype) for seed in (1, 2))
    slot = torch.tensor([0, 5, 6], dtype=torch.int32)  # the last one has no room
    norms = [normal(width, seed=seed, dtype=dtype) if normed else None for seed in (3, 4)]
    buffers = [normal(batch, kv_heads, capacity, width, seed=seed, dtype=dtype) for seed in (5, 6)]
    before = [buffer.clone() for buffer in buffers]
    expected_buffers = wide(before)
    expected = reference.rotate_append(*wide([projected, cos, sin]), *expected_buffers, slot, *wide(norms), 1e-5)
    assert operators._takes_rotate(projected, cos, sin, *buffers, slot, *norms, 1e-5)[0]
    got = triton.rotate_append(projected, cos, sin, *buffers, slot, *norms, 1e-5)
    torch.testing.assert_close(got.double(), expected, **tolerance(dtype))
    for buffer, other, old in zip(buffers, expected_buffers, before, strict=True):
        torch.testing.assert_close(buffer.double(), other, **tolerance(dtype))
        changed = (buffer != old).any(-1).any(1)  # [B, C]
        assert changed.nonzero().tolist() == [[0, 0], [1, 5]]


@pytest.mark.parametrize("biased", [False, True])
def test_opcheck(biased: bool) -> None:
    f32 = torch.float32
    weights = [normal(8, 16, seed=1, dtype=f32), normal(4, 16, seed=2, dtype=f32)]
    biases = [normal(8, dtype=f32), normal(4, dtype=f32)] if biased else []
    x, norm = normal(2, 16, dtype=f32), normal(16, dtype=f32)
    torch.library.opcheck(project.overload, (x, weights, biases, norm, 1e-5, normal(2, 12, dtype=f32)))
    torch.library.opcheck(project.overload, (x, weights, biases))
    torch.library.opcheck(gated.overload, (x, weights[0], weights[0], norm, 1e-5))
    buffers = [torch.zeros(2, 1, 5, 4), torch.zeros(2, 1, 5, 4)]
    slot = torch.tensor([1, 4], dtype=torch.int32)
    turns = (normal(2, 4, dtype=f32), normal(2, 4, dtype=f32))
    torch.library.opcheck(rotate_append.overload, (normal(2, 16, dtype=f32), *turns, *buffers, slot))


def test_what_the_kernels_refuse() -> None:
    x, weight = torch.zeros(1, 32), torch.zeros(8, 32)
    assert operators._takes_project(x, [weight], [])[0]
    assert "16 rows" in operators._takes_project(torch.zeros(17, 32), [weight], [])[1]
    assert "widths" in operators._takes_project(torch.zeros(1, 40), [torch.zeros(8, 40)], [])[1]
    assert "contiguous" in operators._takes_project(x, [torch.zeros(32, 8).T], [])[1]
    assert "one type" in operators._takes_project(x, [weight.half()], [])[1]
    assert "one to three" in operators._takes_project(x, [weight] * 4, [])[1]
    keys = torch.zeros(1, 1, 4, 8)
    slot = torch.zeros(1, dtype=torch.int32)
    assert "both" in operators._takes_rotate(x, x[:, :8], x[:, :8], keys, keys, slot, torch.zeros(8))[1]
