"""What the pieces of one layer's compressing cost, beside the bytes each cannot but move."""

from __future__ import annotations

from typing import Any


def layer_parts(network: Any, device: Any, tokens: int, keep: float) -> dict[str, dict[str, float]]:
    """Seconds of each piece of `ClusteredLayer._compress` over `tokens` fresh keys of one layer, and its least bytes.

    "all" is every piece together; its least bytes are those of one fused pass: keys and values read once, centroids
    and their log degrees written once. "multiplications" are those of the matching's products.
    """
    import torch

    from npukv.bench.timing import Timer
    from npukv.cache.rotary import Rotary
    from npukv.ops.clustering import cluster, merge_pair, merge_plan

    config = network.config
    heads = config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    generator = torch.Generator(device.torch_device).manual_seed(0)
    keys, values = (
        torch.empty(1, heads, tokens, width, dtype=network.dtype, device=device.torch_device).normal_(
            generator=generator
        )
        for _ in range(2)
    )
    degrees = torch.ones(1, heads, tokens, device=device.torch_device)
    positions = torch.arange(tokens, device=device.torch_device)
    rotary, goal = Rotary(config, 0), max(1, round(keep * tokens))
    plan = merge_plan(tokens, goal, 512)
    turned, *table = rotary.halves(keys, positions, tokens)
    places = cluster(turned, degrees, plan, 1.0, *table)
    held, merged = keys.numel() * keys.element_size(), goal * heads * width * keys.element_size()
    small = 4 * heads * tokens  # degrees, or places

    def everything() -> None:
        turned, *table = rotary.halves(keys, positions, tokens)
        found = cluster(turned, degrees, plan, 1.0, *table)
        merge_pair(keys, values, degrees, found, goal)[2].log()

    timer = Timer(device, samples=10)
    steps: dict[str, tuple[Any, int]] = {
        "angles": (lambda: rotary.halves(keys, positions, tokens), 2 * tokens * width * keys.element_size() // 2),
        "matching": (lambda: cluster(turned, degrees, plan, 1.0, *table), held + 2 * small),
        "merging": (
            lambda: merge_pair(keys, values, degrees, places, goal),
            2 * (held + merged) + 2 * small + 4 * heads * goal,
        ),
        "all": (everything, 2 * (held + merged) + 4 * heads * goal),
    }
    found: dict[str, dict[str, float]] = {
        name: {"seconds": timer(step).median, "least_bytes": least} for name, (step, least) in steps.items()
    }
    products = sum(chunks * (size // 2) ** 2 for chunks, size in zip(plan[0::3], plan[1::3], strict=True))
    found["matching"]["multiplications"] = products * heads * width
    return found
