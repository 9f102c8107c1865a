"""The Triton kernels compile for a Hopper card; bits are counted by its own instruction, wide loads stay wide."""

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
from npukv.ops.hashing import triton, triton_attend, triton_decode, triton_select

compiled.POINTERS[torch.int16] = "*i16"

def meta(*shape, dtype=torch.int32):
    return torch.empty(*shape, dtype=dtype, device="meta")

def vector(heads, tokens):
    return meta(2, heads, tokens, 128, dtype=torch.bfloat16)

weights = meta(8, 128, 128, dtype=torch.bfloat16)
length, start, scores = meta(2), meta(2), meta(2, 8, 131071)
cache = vector(8, 4096), vector(8, 4096), meta(2, 8, 4096, 4), length

def select(group, start):
    asked, codes = meta(2, 8 * group, 1, 4), meta(2, 8, 131072, 4)
    return triton_select.hamming_select(asked, codes, length, 2048, 4, 16, start)

def attend(group, start):
    asked, codes = meta(2, 8 * group, 1, 4), meta(2, 8, 131072, 4)
    held = vector(8, 131072), vector(8, 131072), length
    return triton_attend.hashed_attention(vector(8 * group, 1), asked, codes, *held, 2048, 4, 16, start)

triton_decode.early = lambda device: {"EARLY": True, "launch_pdl": True}

def decode(group, start):
    token, held = (vector(8, 1), vector(8, 1)), (vector(8, 131072), vector(8, 131072), meta(2, 8, 131072, 4))
    return triton_decode.hash_decode(vector(8 * group, 1), *token, weights, *held, length, 2048, 4, 16, start)

found = {}
for name, call in {
    "select 1": lambda: select(1, None),
    "select 4": lambda: select(4, start),
    "attend 1": lambda: attend(1, start),
    "attend 4": lambda: attend(4, None),
    "decode 1": lambda: decode(1, None),
    "decode 4": lambda: decode(4, start),
    "decode 8": lambda: decode(8, None),
    "blocks": lambda: triton_select.select_blocks(scores, length, 64, 1, 4, 512),
    "scores": lambda: triton.hamming_scores(meta(2, 8, 1, 4), meta(2, 8, 131072, 4), length),
    "encode": lambda: triton.hash_encode(vector(8, 4096), weights),
    "append": lambda: triton.hash_append(vector(8, 300), vector(8, 300), weights, *cache),
    "step": lambda: triton.hash_step(vector(32, 1), vector(8, 1), vector(8, 1), weights, *cache),
}.items():
    with compiled.recorded() as kernels:
        call()
    found[name] = kernels
print(json.dumps({
    case: {
        name: {
            "counts": one.asm["ptx"].count("popc.b32"),
            "wide": one.asm["ptx"].count("ld.global.v4") + one.asm["ptx"].count("st.global.v4"),
            "shared": one.metadata.shared,
            "waits": one.asm["ptx"].count("griddepcontrol.wait"),
        }
        for name, one in kernels.items()
    }
    for case, kernels in found.items()
}))
"""


def test_they_compile_for_a_card() -> None:
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")
    program = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(Path(__file__).parent.parent)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert max(one["shared"] for kernels in found.values() for one in kernels.values()) <= 227 * 1024
    for group in (1, 4):
        assert list(found[f"select {group}"]) == ["_score_kernel", "_fine_kernel", "_compact_kernel"]
        score = found[f"select {group}"]["_score_kernel"]
        # 8 tokens of a thread, in steps with and without masks; of 4 words 3 counts are left, of 8 in two planes 5
        assert score["counts"] >= 2 * 8 * {1: 3, 4: 5}[group]
        assert score["wide"] >= 8
        attend = found[f"attend {group}"]
        assert list(attend) == ["_sift_kernel", "_attend_kernel", "_merge_kernel"]
        assert attend["_sift_kernel"]["counts"] >= 3 * 8 * {1: 3, 4: 5}[group]  # of the sample, and as above
        assert attend["_sift_kernel"]["wide"] >= 3 * 8
        assert attend["_attend_kernel"]["wide"] >= 4
    for group in (1, 4, 8):  # each launch waits, once, for the one before it
        decode = found[f"decode {group}"]
        assert list(decode) == ["begin_kernel", "sift_kernel", "attend_kernel", "merge_kernel"]
        assert [one["waits"] for one in decode.values()] == [1, 1, 1, 1]
        assert decode["sift_kernel"]["wide"] >= 2 * 8 and decode["attend_kernel"]["wide"] >= 4
    assert found["attend 1"]["_merge_kernel"]["waits"] == 0
    assert list(found["blocks"]) == ["_lowest_kernel", "_coarse_kernel", "_fine_kernel", "_compact_kernel"]
    assert list(found["step"]) == ["_step_kernel"]
