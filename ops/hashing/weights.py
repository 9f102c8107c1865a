"""Projections for hash codes that need no training."""

from __future__ import annotations

import torch


def random_orthogonal(heads: int, width: int, bits: int, seed: int = 0) -> torch.Tensor:
    """float32 [heads, width, bits]: per head, blocks of `width` orthonormal columns from QR of normal numbers.

    Drawn on the CPU, so that a seed means the same on every device. Orthogonal columns waste no bit on a direction
    another one has seen: measured better than independent ones.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = -(-bits // width)
    drawn = torch.randn(heads, blocks, width, width, generator=generator, dtype=torch.float64)
    columns = torch.linalg.qr(drawn)[0]  # [heads, blocks, width, width]
    return columns.transpose(1, 2).reshape(heads, width, blocks * width)[..., :bits].float().contiguous()
