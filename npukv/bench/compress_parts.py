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
    from npukv.ops.clustering import cluster, merge_centroids, merge_degrees, merge_plan

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
    plain = rotary.undo(keys, positions, tokens)
    places = cluster(plain, degrees, plan)
    held, merged = keys.numel() * keys.element_size(), goal * heads * width * keys.element_size()
    small = 4 * heads * tokens  # degrees, or places

    def everything() -> None:
        found = cluster(rotary.undo(keys, positions, tokens), degrees, plan)
        for x in (keys, values):
            merge_centroids(x, degrees, found, goal)
        merge_degrees(degrees, found, goal).log()

    timer = Timer(device, samples=10)
    steps: dict[str, tuple[Any, int]] = {
        "keys before RoPE": (lambda: rotary.undo(keys, positions, tokens), 2 * held),
        "matching": (lambda: cluster(plain, degrees, plan), held + 2 * small),
        "merging keys": (lambda: merge_centroids(keys, degrees, places, goal), held + merged + 2 * small),
        "merging values": (lambda: merge_centroids(values, degrees, places, goal), held + merged + 2 * small),
        "merging degrees": (lambda: merge_degrees(degrees, places, goal).log(), 2 * small + 4 * heads * goal),
        "all": (everything, 2 * (held + merged) + 4 * heads * goal),
    }
    found: dict[str, dict[str, float]] = {
        name: {"seconds": timer(step).median, "least_bytes": least} for name, (step, least) in steps.items()
    }
    products = sum(chunks * (size // 2) ** 2 for chunks, size in zip(plan[0::3], plan[1::3], strict=True))
    found["matching"]["multiplications"] = products * heads * width
    return found
