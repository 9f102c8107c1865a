"""The custom operators in Ascend C, once ops/ascendc/build.sh has installed them, against their references.

python -m tests.ascend.card.custom build/ascendc/binding/npukv_ascendc.so
"""

from __future__ import annotations

import json
import sys

import torch

from npukv.backends import select
from npukv.ops.clustering.reference import merge_centroids, merge_degrees, soft_match
from npukv.ops.hashing.reference import hamming_scores, select_blocks
from tests.ascend.cases import Draw, difference


def blocks(device: torch.device) -> str:
    draw = Draw(3, torch.float32)
    query, held = (draw.whole(-(2**31), 2**31 - 1, 2, 2 * g, n, 4) for g, n in ((4, 1), (1, 5000)))
    length = torch.tensor([5000, 3333], dtype=torch.int32)
    expected = select_blocks(hamming_scores(query, held, length), length, 12, 1, 4)
    placed = (x.to(device) for x in (query, held, length))
    return difference(torch.ops.npukv_ascendc.hamming_blocks(*placed, 12, 1, 4), expected, torch.float32)


def merge(device: torch.device, dtype: torch.dtype) -> str:
    draw = Draw(4, dtype)
    keys, values = (draw.normal(2, 2, 260, 128) for _ in range(2))
    degrees = draw.whole(1, 5, 2, 2, 260).float()
    places = soft_match(keys, torch.zeros(2, 2, 128), 4, 64, 60)
    kept = 200
    expected = (
        *(merge_centroids(x, degrees, places, kept) for x in (keys, values)),
        merge_degrees(degrees, places, kept),
    )
    placed = (x.to(device) for x in (keys, values, degrees, places))
    got = torch.ops.npukv_ascendc.centroid_merge(*placed, 4, 64, 60)
    return "; ".join(filter(None, (difference(a, b, dtype) for a, b in zip(got, expected, strict=True))))


def main(library: str) -> int:
    device = select("npu").torch_device
    torch.ops.load_library(library)
    calls = {"hamming_blocks": lambda: blocks(device)}
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        calls[f"centroid_merge {dtype}"] = lambda dtype=dtype: merge(device, dtype)
    failed = False
    for name, call in calls.items():
        try:
            problem = call()
        except Exception as error:  # whatever a card says is what the report is for
            problem = f"{type(error).__name__}: {str(error)[:1500]}"
        failed = failed or bool(problem)
        print(json.dumps({"operator": name, "kernel": "Ascend C", "problem": problem}), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
