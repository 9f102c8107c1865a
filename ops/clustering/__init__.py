"""Clusters of keys: chunked soft matching, and degree-weighted merging into centroids."""

from npukv.ops.clustering.merge_pass import merge_pass
from npukv.ops.clustering.operators import cluster, merge_centroids, merge_pair, soft_match
from npukv.ops.clustering.plan import merge_plan
from npukv.ops.clustering.reference import merge_degrees

__all__ = ["cluster", "merge_centroids", "merge_degrees", "merge_pair", "merge_pass", "merge_plan", "soft_match"]
