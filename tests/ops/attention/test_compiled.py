"""The Triton kernels compile for a Hopper card, and their loads overlap with arithmetic."""

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
from compiled import recorded
import torch
from npukv.ops.attention import triton

def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, dtype=dtype, device="meta")

query, key, pages = meta(1, 32, 1, 128), meta(1, 8, 32768, 128), meta(256, 128, 8, 128)
length, bias = meta(1, dtype=torch.int32), meta(1, 8, 32768, dtype=torch.float32)
found = {}
for name, call in {
    "decode": lambda: triton.partial_attention(query, key, key, bias, length),
    "indexed": lambda: triton.indexed_attention(query, key, key, meta(1, 8, 2048, dtype=torch.int32)),
    "paged": lambda: triton.paged_attention(query, pages, pages, meta(1, 256, dtype=torch.int32), length),
    "wide chunk": lambda: triton.partial_attention(*[meta(1, 8, 512, 256)] * 3, bias[:, :, :512], None, None, True),
    "chunk": lambda: triton.partial_attention(meta(1, 32, 512, 128), key, key, bias, length, None, True),
}.items():
    with recorded() as kernels:
        call()
    found[name] = {
        kernel: {"copies": one.asm["ptx"].count("cp.async.cg"), "shared": one.metadata.shared}
        for kernel, one in kernels.items()
    }
print(json.dumps(found))
"""


def test_they_compile_for_a_card_and_load_ahead() -> None:
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")
    program = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(Path(__file__).parent.parent)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name, kernels in found.items():
        main, *merge = kernels
        assert kernels[main]["copies"] > 0, f"{name}: keys and values are not fetched ahead"
        assert kernels[main]["shared"] <= 227 * 1024
        assert merge == ([] if "chunk" in name else ["_merge_kernel"])
