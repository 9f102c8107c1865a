"""The clustering operators: schemas, shapes, and which kernels serve them where."""

from __future__ import annotations

import torch

from npukv.ops.clustering import cpu, reference
from npukv.ops.registry import define


def _match_fake(
    keys: torch.Tensor, centre: torch.Tensor, chunks: int, chunk: int, merges: int, typical: float = 1.0
) -> torch.Tensor:
    return keys.new_empty(keys.shape[:3], dtype=torch.int32)


def _merge_fake(x: torch.Tensor, degrees: torch.Tensor, places: torch.Tensor, kept: int) -> torch.Tensor:
    return x.new_empty(*x.shape[:2], kept, x.shape[3])


def _cluster_fake(keys: torch.Tensor, degrees: torch.Tensor, plan: list[int], typical: float = 1.0) -> torch.Tensor:
    return keys.new_empty(keys.shape[:3], dtype=torch.int32)


soft_match = define(
    "npukv::soft_match(Tensor keys, Tensor centre, int chunks, int chunk, int merges, float typical=1.0) -> Tensor",
    reference=reference.soft_match,
    fake=_match_fake,
)
merge_centroids = define(
    "npukv::merge_centroids(Tensor x, Tensor degrees, Tensor places, int kept) -> Tensor",
    reference=reference.merge_centroids,
    fake=_merge_fake,
)
cluster = define(
    "npukv::cluster(Tensor keys, Tensor degrees, int[] plan, float typical=1.0) -> Tensor",
    reference=reference.cluster,
    fake=_cluster_fake,
)

merge_centroids.kernel("cpu", "rows added")(cpu.merge_centroids)
cluster.kernel("cpu", "float32 once")(cpu.cluster)
