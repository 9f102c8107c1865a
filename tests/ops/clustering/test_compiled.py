"""The Triton kernels compile for a Hopper card, within its shared memory."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import compiled
import torch
from npukv.ops.clustering import merge_plan, triton, triton_merge, triton_passes

def meta(*shape, dtype):
    return torch.empty(*shape, dtype=dtype, device="meta")

found = {}
for dtype in (torch.bfloat16,):
    with compiled.recorded() as kernels:
        keys, degrees = meta(1, 32, 2048, 128, dtype=dtype), meta(1, 32, 2048, dtype=torch.float32)
        triton.cluster(keys, degrees, merge_plan(2048, 1300, 512))
        triton.merge_centroids(keys, degrees, meta(1, 32, 2048, dtype=torch.int32), 1300)
        table = meta(2048, 64, dtype=dtype)
        old = dict(kernels)
    with compiled.recorded() as kernels:
        triton_passes.cluster(keys, degrees, merge_plan(2048, 1300, 512), 1.0, table, table)
        triton_merge.merge_pair(keys, keys, degrees, meta(1, 32, 2048, dtype=torch.int32), 1300)
    every = [*old.items(), *((f"products {name}", kernel) for name, kernel in kernels.items())]
    found[str(dtype)] = {n: [kernel.metadata.shared, "ld.local" in kernel.asm["ptx"]] for n, kernel in every}
    assert "wgmma" in kernels["_pass_kernel"].asm["ptx"]
print(json.dumps(found))
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_compiles() -> None:
    folder = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for kernels in json.loads(done.stdout).values():
        old = {"_start_kernel", "_match_kernel", "_join_kernel", "_place_kernel", "_add_kernel"}
        new = ("start", "centre", "pass", "follow", "count", "begin", "list", "merge")
        assert old | {f"products _{name}_kernel" for name in new} == set(kernels)
        for name, (shared, spilled) in kernels.items():
            assert shared <= 100_000, f"{name} takes {shared} bytes of shared memory"
            assert not spilled, f"{name} spills registers"
