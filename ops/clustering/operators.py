"""The clustering operators: schemas, shapes, and which kernels serve them where."""

from __future__ import annotations

from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from npukv.ops.clustering import cpu, reference
from npukv.ops.registry import Check, Operator, define


def _match_fake(
    keys: torch.Tensor, centre: torch.Tensor, chunks: int, chunk: int, merges: int, typical: float = 1.0
) -> torch.Tensor:
    return keys.new_empty(keys.shape[:3], dtype=torch.int32)


def _merge_fake(x: torch.Tensor, degrees: torch.Tensor, places: torch.Tensor, kept: int) -> torch.Tensor:
    return x.new_empty(*x.shape[:2], kept, x.shape[3])


def _cluster_fake(
    keys: torch.Tensor,
    degrees: torch.Tensor,
    plan: list[int],
    typical: float = 1.0,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
) -> torch.Tensor:
    return keys.new_empty(keys.shape[:3], dtype=torch.int32)


def _pair_fake(
    keys: torch.Tensor, values: torch.Tensor, degrees: torch.Tensor, places: torch.Tensor, kept: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    means = (x.new_empty(*x.shape[:2], kept, x.shape[3]) for x in (keys, values))
    return (*means, degrees.new_empty(*degrees.shape[:2], kept))  # type: ignore[return-value]


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
    "npukv::cluster(Tensor keys, Tensor degrees, int[] plan, float typical=1.0, Tensor? cos=None, Tensor? sin=None) "
    "-> Tensor",
    reference=reference.cluster,
    fake=_cluster_fake,
)

merge_pair = define(
    "npukv::merge_pair(Tensor keys, Tensor values, Tensor degrees, Tensor places, int kept) -> "
    "(Tensor, Tensor, Tensor)",
    reference=reference.merge_pair,
    fake=_pair_fake,
)

merge_pair.kernel("cpu", "rows added")(cpu.merge_pair)
merge_centroids.kernel("cpu", "rows added")(cpu.merge_centroids)
cluster.kernel("cpu", "float32 once")(cpu.cluster)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _triton_serves(x: torch.Tensor, degrees: torch.Tensor) -> tuple[bool, str]:
    if not _has_triton():
        return False, "triton is not installed"
    if x.dtype not in (torch.bfloat16, torch.float16, torch.float32) or degrees.dtype is not torch.float32:
        return False, f"numbers of {x.dtype} and degrees of {degrees.dtype}; it takes 16 or 32 bits, and float32"
    if x.stride(-1) != 1 or x.shape[-1] > 256 or not x.numel():
        return False, f"shape {list(x.shape)}, strides {list(x.stride())}; it takes up to 256 numbers side by side"
    return True, "bfloat16, float16 or float32, heads up to 256 wide"


def _serves_cluster(
    keys: torch.Tensor,
    degrees: torch.Tensor,
    plan: list[int],
    typical: float = 1.0,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
) -> tuple[bool, str]:
    if max(plan[1::3], default=0) > 4096:
        return False, f"chunks of {max(plan[1::3])} keys; it takes up to 4096"
    return _triton_serves(keys, degrees)


def _serves_products(
    keys: torch.Tensor,
    degrees: torch.Tensor,
    plan: list[int],
    typical: float = 1.0,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
) -> tuple[bool, str]:
    if keys.element_size() != 2 or keys.shape[-1] % 2 or keys.shape[-1] > 128:
        return False, f"heads of {keys.shape[-1]} {keys.dtype}; it takes an even number of 16 bits, up to 128"
    return _serves_cluster(keys, degrees, plan, typical, cos, sin)


def _serves_sorted(x: torch.Tensor, degrees: torch.Tensor, places: torch.Tensor, kept: int) -> tuple[bool, str]:
    if x.shape[-1] > 128:
        return False, f"heads of {x.shape[-1]} numbers; it takes up to 128"
    return _triton_serves(x, degrees)


def _serves_merge(x: torch.Tensor, degrees: torch.Tensor, places: torch.Tensor, kept: int) -> tuple[bool, str]:
    return _triton_serves(x, degrees)


def _serves_pair(
    keys: torch.Tensor, values: torch.Tensor, degrees: torch.Tensor, places: torch.Tensor, kept: int
) -> tuple[bool, str]:
    ok, reason = _serves_sorted(keys, degrees, places, kept)
    return _serves_sorted(values, degrees, places, kept) if ok else (ok, reason)


def _two_merges(
    keys: torch.Tensor, values: torch.Tensor, degrees: torch.Tensor, places: torch.Tensor, kept: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    key_means, value_means = (merge_centroids(x, degrees, places, kept) for x in (keys, values))
    return key_means, value_means, reference.merge_degrees(degrees, places, kept)


def _register_triton(operator: Operator, module: str, name: str, check: Check) -> None:
    @operator.kernel("cuda", name, check=check)
    @wraps(operator.reference)
    def run(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(f"npukv.ops.clustering.{module}"), operator.name)(*args, **kwargs)


_register_triton(merge_centroids, "triton_merge", "triton, sorted", _serves_sorted)
_register_triton(merge_centroids, "triton", "triton", _serves_merge)
_register_triton(merge_pair, "triton_merge", "triton, sorted", _serves_pair)
merge_pair.kernel("cuda", "composed")(_two_merges)
_register_triton(cluster, "triton_passes", "triton, 16-bit products", _serves_products)
_register_triton(cluster, "triton", "triton", _serves_cluster)
