"""One pass of merging as one operator: keys, values and degrees after `soft_match` has said where they go."""

from __future__ import annotations

import torch

from npukv.backends.ascend import calls, custom
from npukv.ops.clustering import operators, reference
from npukv.ops.registry import define

Merged = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def specification(
    keys: torch.Tensor,
    values: torch.Tensor,
    degrees: torch.Tensor,
    places: torch.Tensor,
    chunks: int,
    chunk: int,
    merges: int,
) -> Merged:
    """Degree-weighted means of keys and of values that go to the same place, and the sums of their degrees.

    Args:
        keys, values: [B, H, L, D] of one type; degrees: [B, H, L] float32.
        places: int32 [B, H, L], as `soft_match` gives it for the same chunks and merges.
        chunks, chunk, merges: of that pass.

    Returns:
        keys and values [B, H, L - merges, D] in their type, degrees [B, H, L - merges].
    """
    kept = keys.shape[2] - merges
    key_means, value_means = (reference.merge_centroids(x, degrees, places, kept) for x in (keys, values))
    return key_means, value_means, reference.merge_degrees(degrees, places, kept)


def composed(
    keys: torch.Tensor,
    values: torch.Tensor,
    degrees: torch.Tensor,
    places: torch.Tensor,
    chunks: int,
    chunk: int,
    merges: int,
) -> Merged:
    """The operator of one tensor, twice."""
    kept = keys.shape[2] - merges
    key_means, value_means = (operators.merge_centroids(x, degrees, places, kept) for x in (keys, values))
    return key_means, value_means, reference.merge_degrees(degrees, places, kept)


def in_one(
    keys: torch.Tensor,
    values: torch.Tensor,
    degrees: torch.Tensor,
    places: torch.Tensor,
    chunks: int,
    chunk: int,
    merges: int,
) -> Merged:
    """ops/ascendc's CentroidMerge: everything read and written once."""
    return calls.centroid_merge(keys, values, degrees, places, chunks, chunk, merges)


def check_in_one(
    keys: torch.Tensor,
    values: torch.Tensor,
    degrees: torch.Tensor,
    places: torch.Tensor,
    chunks: int,
    chunk: int,
    merges: int,
) -> tuple[bool, str]:
    ok, reason = custom.loaded()
    return custom.centroid_merge(keys, values, degrees, chunk) if ok else (ok, reason)


def _shape(
    keys: torch.Tensor,
    values: torch.Tensor,
    degrees: torch.Tensor,
    places: torch.Tensor,
    chunks: int,
    chunk: int,
    merges: int,
) -> Merged:
    rows = (*keys.shape[:2], keys.shape[2] - merges)
    return keys.new_empty(*rows, keys.shape[3]), values.new_empty(*rows, keys.shape[3]), degrees.new_empty(rows)


merge_pass = define(
    "npukv::merge_pass(Tensor keys, Tensor values, Tensor degrees, Tensor places, int chunks, int chunk, int merges) "
    "-> (Tensor, Tensor, Tensor)",
    reference=specification,
    fake=_shape,
)
merge_pass.kernel("cpu", "composed")(composed)
merge_pass.kernel("cuda", "composed")(composed)
merge_pass.kernel(calls.DEVICE, "custom", check_in_one)(in_one)
merge_pass.kernel(calls.DEVICE, "composed")(composed)
