"""``python -m npukv.bench.tune``: which block sizes move a decode step's weights fastest on this card.

Prints bytes per second of each fused operator at the Llama-2-7B shape, per choice of weight rows and columns per
program, warps and pipeline stages; the constants of `npukv.ops.decode.triton` are set from it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

#: BLOCK_N, BLOCK_K, num_warps, num_stages
CHOICES = [
    (8, 512, 4, 4), (8, 512, 4, 1), (4, 1024, 4, 1), (4, 1024, 4, 4), (2, 2048, 4, 1), (8, 1024, 8, 1), (4, 512, 4, 1),
    (16, 256, 4, 1), (16, 256, 4, 4), (8, 256, 2, 4), (4, 512, 2, 4), (2, 1024, 2, 1), (16, 512, 8, 3), (1, 2048, 4, 1),
]  # fmt: skip
SHAPES = {
    "query, key, value": ([(4096, 4096)] * 3, 4096),
    "output": ([(4096, 4096)], 4096),
    "gate and up": ([(11008, 4096)] * 2, 4096),
    "down": ([(4096, 11008)], 11008),
    "head": ([(32000, 4096)], 4096),
}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m npukv.bench.tune", description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, default=1, help="tokens, 1 to 16")
    parser.add_argument("--copies", type=int, default=6, help="weights of each shape, so that none stays in a cache")
    parser.add_argument("--seconds", type=float, default=90)
    options = parser.parse_args(given)
    import torch

    from npukv.backends import select
    from npukv.ops.decode import triton

    device = select(options.device)
    started = time.perf_counter()
    constants = "SINGLE" if options.rows == 1 else "SEVERAL"
    print(f"{'rows x columns, warps, stages':32}" + "".join(f"{name:>20}" for name in SHAPES))
    weights = {
        name: [
            [torch.randn(shape, dtype=torch.bfloat16, device=device.torch_device) for shape in shapes]
            for _ in range(options.copies)
        ]
        for name, (shapes, _) in SHAPES.items()
    }
    for choice in CHOICES:
        if time.perf_counter() - started > options.seconds:
            break
        setattr(triton, constants, dict(zip(("BLOCK_N", "BLOCK_K", "num_warps", "num_stages"), choice, strict=True)))
        line = f"{choice[0]:>4} x {choice[1]:<5} {choice[2]} warps, {choice[3]} stages   "
        for name, (_, width) in SHAPES.items():
            x = torch.randn(options.rows, width, dtype=torch.bfloat16, device=device.torch_device)
            try:
                rate = _rate(device, weights[name], x)
            except Exception as error:  # a choice that does not fit the card
                line += f"{type(error).__name__:>20}"
                continue
            line += f"{rate / 1e12:>15.2f} TB/s"
        print(line, flush=True)


def _rate(device: Any, groups: list[list[Any]], x: Any) -> float:
    """Bytes of weights per second."""
    from npukv.ops.decode import triton

    def work() -> None:
        for group in groups:
            if len(group) == 2:
                gate, up = group
                triton.gated(x, gate, up, x[0], 1e-6)
            else:
                triton.project(x, group, [], x[0] if x.shape[1] == 4096 else None, 1e-6)

    replay: Callable[[], None] = device.capture(work)
    for _ in range(4):
        replay()
    times = []
    for _ in range(7):
        device.synchronize()
        began = time.perf_counter()
        replay()
        replay()
        device.synchronize()
        times.append((time.perf_counter() - began) / 2)
    return sum(one.numel() * one.element_size() for group in groups for one in group) / statistics.median(times)


if __name__ == "__main__":
    main()
