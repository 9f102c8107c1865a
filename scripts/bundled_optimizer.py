"""Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon), all layers' matrices of one shape at a time.

torch.optim.Muon treats matrices one by one; of a model this small that is thousands of launches per step, more time
than forward and backward take.
"""

from __future__ import annotations

from collections import defaultdict

import torch


@torch.no_grad()
def orthogonalize(update: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest semi-orthogonal matrices, roughly, by a quintic Newton-Schulz iteration. update: [N, R, C]"""
    x = update.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT  # [N, R, R]
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; for the matrices of attention and feed-forward layers alone.

    ``lr`` is a step in spectral norm (times sqrt(rows / columns) for tall matrices); ``weight_decay`` is decoupled.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.01):  # type: ignore[no-untyped-def]
        shapes = defaultdict(list)
        for param in params:
            shapes[tuple(param.shape)].append(param)
        groups = [{"params": same} for same in shapes.values()]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[no-untyped-def,override]
        for group in self.param_groups:
            params = group["params"]
            grads = torch.stack([param.grad for param in params])  # [N, R, C]
            state = self.state[params[0]]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(grads)
            state["momentum"].lerp_(grads, 1 - group["momentum"])
            update = orthogonalize(grads.lerp(state["momentum"], group["momentum"])).float()
            scale = max(1.0, grads.shape[1] / grads.shape[2]) ** 0.5
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, list(update.unbind()), alpha=-group["lr"] * scale)
