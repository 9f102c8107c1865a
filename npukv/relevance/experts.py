"""The MLP of a mixture of experts for whole batches: tokens sorted by expert, one product by groups per weight."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.functional import silu

from npukv.relevance.eight_bit import Weight, grouped


class Experts(NamedTuple):
    """The weights of such a layer: of the router [E, H], of all experts [E, 2 I, H] (gate, up) and [E, H, I]."""

    router: torch.Tensor
    gate_up: Weight
    down: Weight
    chosen: int  # experts per token
    normalised: bool  # whether the weights of those chosen add up to 1


def experts_of(mlp: Any) -> Experts | None:
    """Those of a block of transformers (Mixtral's, Qwen3-MoE's); None = it is another kind of MLP."""
    router: Any = getattr(mlp, "gate", None)
    experts = getattr(mlp, "experts", None)
    gate_up, down = (getattr(experts, name, None) for name in ("gate_up_proj", "down_proj"))
    if not (isinstance(gate_up, torch.Tensor) and isinstance(down, torch.Tensor) and hasattr(router, "top_k")):
        return None
    normalised = getattr(router, "norm_topk_prob", True)
    return Experts(router.weight.detach(), Weight(gate_up.detach()), Weight(down.detach()), router.top_k, normalised)


def mixture(x: torch.Tensor, experts: Experts) -> torch.Tensor:
    """The weighted sum of what each token's experts say (arXiv 2401.04088, section 2.1).

    Args:
        x: [T, H].

    Returns:
        [T, H], in x's type; summed in float32.
    """
    share, expert = (x @ experts.router.t()).float().softmax(-1).topk(experts.chosen, dim=-1)  # [T, k]
    if experts.normalised:
        share = share / share.sum(-1, keepdim=True)
    sorted_experts, order = expert.flatten().sort(stable=True)  # [T k]
    numbers = torch.arange(len(experts.router), device=x.device)
    ends = torch.searchsorted(sorted_experts, numbers, right=True).int()
    gate, up = grouped(x, order // experts.chosen, experts.gate_up, ends).chunk(2, dim=-1)
    said = grouped(silu(gate) * up, None, experts.down, ends)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
    return (said[back].unflatten(0, expert.shape).float() * share[..., None]).sum(1).to(x.dtype)
