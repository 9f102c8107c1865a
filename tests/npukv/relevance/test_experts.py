"""The experts' MLP beside transformers' own blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from npukv.ops.products import KINDS
from npukv.relevance.eight_bit import Weight, quantise_weight
from npukv.relevance.experts import Experts, experts_of, mixture


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("tokens", [1, 7, 64])
@torch.no_grad()
def test_it_is_the_block_of_transformers(load_tiny: Callable[[str], Any], tokens: int, normalised: bool) -> None:
    block = load_tiny("qwen3-moe").model.model.layers[1].mlp
    router = block.gate
    before, router.norm_topk_prob = router.norm_topk_prob, normalised
    x = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(tokens))
    try:
        experts = experts_of(block)
        assert experts is not None and experts.normalised is normalised and experts.chosen == 2
        torch.testing.assert_close(mixture(x, experts), block(x[None])[0], rtol=1e-5, atol=1e-5)
    finally:
        router.norm_topk_prob = before


@torch.no_grad()
def test_experts_that_nobody_chooses(load_tiny: Callable[[str], Any]) -> None:
    block = load_tiny("mixtral").model.model.layers[0].mlp
    experts = experts_of(block)
    assert experts is not None and experts.normalised
    x = torch.randn(1, 64, generator=torch.Generator().manual_seed(3)).expand(9, -1)
    torch.testing.assert_close(mixture(x, experts), block(x[None])[0], rtol=1e-5, atol=1e-5)


def test_other_mlps_have_none(load_tiny: Callable[[str], Any]) -> None:
    assert experts_of(load_tiny("llama").model.model.layers[0].mlp) is None


def some_experts(made: torch.Generator) -> Experts:
    router, gate_up, down = (torch.randn(*shape, generator=made) * 0.2 for shape in ((4, 32), (4, 48, 32), (4, 32, 24)))
    return Experts(router, Weight(gate_up), Weight(down), 2, True)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_eight_bits_are_near(kind: torch.dtype) -> None:
    """Tokens of very different sizes, each scaled by itself; one of zeros stays one."""
    made = torch.Generator().manual_seed(6)
    experts = some_experts(made)
    x = torch.randn(40, 32, generator=made) * torch.logspace(-2, 1, 40)[:, None]
    x[7] = 0
    eight = experts._replace(
        gate_up=quantise_weight(experts.gate_up.codes, kind), down=quantise_weight(experts.down.codes, kind)
    )
    assert eight.gate_up.codes.dtype == kind and eight.gate_up.scale.shape == (4, 48)
    exact, got = mixture(x, experts), mixture(x, eight)
    most = 0.15 if kind.is_floating_point else 0.05  # three bits behind the point in three products, or seven
    assert ((got - exact).norm(dim=1) <= most * exact.norm(dim=1)).all()
    assert (got[7] == 0).all() and not torch.equal(got, exact)


@pytest.mark.parametrize("kind", [None, *KINDS])
@torch.no_grad()
def test_it_is_one_graph_for_a_compiler(kind: torch.dtype | None) -> None:
    """Where the groups end is not read by the host."""
    made = torch.Generator().manual_seed(5)
    experts = some_experts(made)
    if kind is not None:
        gate_up, down = (quantise_weight(weight.codes, kind) for weight in (experts.gate_up, experts.down))
        experts = experts._replace(gate_up=gate_up, down=down)
    x = torch.randn(10, 32, generator=made)
    torch._dynamo.reset()
    compiled = torch.compile(mixture, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, experts), mixture(x, experts))
