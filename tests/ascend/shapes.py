"""Example calls of every function in calls.py, and what the vendor's Meta kernels say they return."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RECORDED = Path(__file__).parent / "vendor_shapes.json"

Make = Callable[..., torch.Tensor]


def examples(make: Make) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """{label: (function of calls.py, arguments)}; make(*shape, dtype=) gives a tensor."""
    half, brain, single = torch.float16, torch.bfloat16, torch.float32

    def attend(
        queries: int, keys: int, width: int, dtype: torch.dtype, bias: bool, causal: bool, lengths: Any
    ) -> tuple:
        shift = make(2, 8, queries, keys, dtype=dtype) if bias else None
        triangle = make(2048, 2048, dtype=torch.bool) if causal else None
        tensors = (make(2, heads, length, width, dtype=dtype) for heads, length in ((8, queries), (2, keys), (2, keys)))
        return (*tensors, shift, triangle, lengths, 8, 2, 0.125, 3 if causal else 0)

    pages = (make(9, 128, 128, dtype=half), make(9, 128, 128, dtype=half))
    mask = make(2, 1, 5, 33, dtype=torch.bool)
    single_heads = tuple(make(2, heads, length, 64, dtype=single) for heads, length in ((8, 5), (2, 33), (2, 33)))
    return {
        "one query": ("fused_infer_attention", attend(1, 300, 64, half, False, False, None)),
        "one query, bias": ("fused_infer_attention", attend(1, 300, 128, brain, True, False, None)),
        "one query, lengths": ("fused_infer_attention", attend(1, 300, 64, half, False, False, [200, 0])),
        "chunk, causal": ("fused_infer_attention", attend(40, 300, 64, brain, False, True, None)),
        "chunk, causal, lengths": ("fused_infer_attention", attend(40, 300, 64, half, False, True, [300, 40])),
        "pages": (
            "fused_infer_paged_attention",
            (
                *(make(2, 4, 1, 64, dtype=half), *pages, make(2, 4, 1, 512, dtype=half)),
                *(make(2, 4, dtype=torch.int32), [300, 100], 4, 2, 0.125, 128),
            ),
        ),
        "training": ("fusion_attention", (*single_heads, None, mask, 8, 0.125, 0)),
        "training, bias": ("fusion_attention", (*single_heads, make(2, 8, 5, 33, dtype=single), mask, 8, 0.125, 0)),
        "merge": (
            "attention_update",
            ([make(24, dtype=single) for _ in range(3)], [make(24, 64, dtype=single) for _ in range(3)]),
        ),
        "signs": ("sign_bits_pack", (make(1024, dtype=single),)),
        "rotation": ("rotary_mul", (make(2, 6, 1, 64, dtype=brain), *(make(2, 1, 1, 64, dtype=brain) for _ in "cs"))),
        "norm": ("rms_norm", (make(3, 64, dtype=half), make(64, dtype=half), 1e-5)),
        "codes": ("dynamic_quant", (make(40, 96, dtype=brain),)),
        "product of codes": (
            "quant_matmul",
            (
                *(make(40, 96, dtype=torch.int8), make(48, 96, dtype=torch.int8).t()),
                *(make(48, dtype=single), make(40, dtype=single), brain),
            ),
        ),
        "groups": (
            "grouped_matmul",
            (
                [make(40, 96, dtype=brain)],
                [make(3, 48, 96, dtype=brain).transpose(1, 2)],
                make(3, dtype=torch.int64),
            ),
        ),
        "groups of codes": (
            "grouped_quant_matmul",
            (
                [make(40, 96, dtype=torch.int8)],
                [make(3, 48, 96, dtype=torch.int8).transpose(1, 2)],
                [make(3, 48, dtype=single)],
                *([make(40, dtype=single)], make(3, dtype=torch.int64), brain),
            ),
        ),
        "norm of heads": ("rms_norm", (make(3, 4, 1, 64, dtype=brain), make(64, dtype=brain), 1e-6)),
    }


def described(results: Any) -> list[list[Any]]:
    """[[shape, type], ...] of tensors."""
    results = results if isinstance(results, tuple | list) else (results,)
    return [[list(part.shape), str(part.dtype).removeprefix("torch.")] for part in results]


def recorded() -> dict[str, Any]:
    return json.loads(RECORDED.read_text())
