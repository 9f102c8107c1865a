"""How fast a model's products with one token go: the fused operators beside torch's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def product_rates(network: Any, device: Any) -> dict[str, dict[str, float]]:
    """Bytes per second of each fused operator over the weights of all layers, captured, one token."""
    import torch

    from npukv.ops.decode import gated, project

    def run(work: Callable[[], Any]) -> float:
        replay = device.capture(work)
        for _ in range(4):
            replay()
        times = []
        for _ in range(5):
            device.synchronize()
            started = time.perf_counter()
            replay()
            device.synchronize()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    blocks = network.model.layers
    narrow, wide = (
        torch.randn(1, width, dtype=network.dtype, device=network.device)
        for width in (network.config.hidden_size, network.config.intermediate_size)
    )
    norm = network.model.norm.weight

    def of(*names: str) -> list[list[Any]]:
        return [[block.get_submodule(name).weight for name in names] for block in blocks]

    parts = {
        "query, key, value": (of("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), narrow),
        "output": (of("self_attn.o_proj"), narrow),
        "gate and up": (of("mlp.gate_proj", "mlp.up_proj"), narrow),
        "down": (of("mlp.down_proj"), wide),
        "head": ([[network.lm_head.weight]], narrow),
    }

    def rates(weights: list[list[Any]], x: Any) -> dict[str, float]:
        def fused(group: list[Any]) -> Any:
            return gated(x, *group, norm, 1e-6) if len(group) == 2 else project(x, group, [], before, 1e-6)

        def stock(group: list[Any]) -> Any:
            return [torch.nn.functional.linear(x, one) for one in group]

        before = norm if x is narrow else None
        size = sum(one.numel() * one.element_size() for group in weights for one in group)
        return {
            way: size / run(lambda call=call: [call(group) for group in weights])  # type: ignore[misc]
            for way, call in (("fused", fused), ("torch", stock))
        }

    return {name: rates(weights, x) for name, (weights, x) in parts.items()}
