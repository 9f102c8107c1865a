"""The hashing operators and the kernels that serve them; arguments, shapes and meaning are in `reference`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from npukv.ops.attention import indexed_attention
from npukv.ops.attention.operators import _triton_serves_one
from npukv.ops.hashing import cpu, reference
from npukv.ops.registry import Operator, define

_APPEND = (
    "Tensor key, Tensor value, Tensor weights, Tensor(a!) keys, Tensor(b!) values, Tensor(c!) codes, Tensor length"
)
#: What the counts of a row that one program adds up are sized for.
MOST_SCORE, MOST_TOKENS = 4096, 1 << 21
_PAIR = "Tensor query_codes, Tensor key_codes"
_BOUNDS = "Tensor? length=None, Tensor? start=None"
_CHOOSE = "int budget, int sink, int recent, Tensor? start=None"
_SELECT = f"Tensor length, {_CHOOSE}"


def _define(schema: str, specification: Callable[..., Any], shape: Callable[..., Any]) -> Operator:
    """The fake has the specification's signature, and `shape` of its arguments as the result."""

    @wraps(specification)
    def fake(*args: Any, **kwargs: Any) -> Any:
        return shape(*args, **kwargs)

    return define(f"npukv::{specification.__name__}({schema}", reference=specification, fake=fake)


def _codes(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return x.new_empty(*x.shape[:3], weights.shape[-1] // 32, dtype=torch.int32)


def _query_codes(query: torch.Tensor, *cache: torch.Tensor) -> torch.Tensor:
    return _codes(query, cache[2])


def _scores(query_codes: torch.Tensor, key_codes: torch.Tensor, *bounds: Any) -> torch.Tensor:
    return key_codes.new_empty(key_codes.shape[:3])


def _indices(scores: torch.Tensor, length: torch.Tensor, budget: int, *rest: Any, **options: Any) -> torch.Tensor:
    return scores.new_empty(*scores.shape[:2], budget)


def _selected(query_codes: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
    return _indices(*rest, **options)


def _attended(query: torch.Tensor, *rest: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    wide = torch.promote_types(query.dtype, torch.float32)
    return query.new_empty(query.shape), query.new_empty(query.shape[:3], dtype=wide)


hash_encode = _define("Tensor x, Tensor weights) -> Tensor", reference.hash_encode, _codes)
hash_append = _define(f"{_APPEND}) -> ()", reference.hash_append, lambda *tensors: None)
hash_step = _define(f"Tensor query, {_APPEND}) -> Tensor", reference.hash_step, _query_codes)
hamming_scores = _define(f"{_PAIR}, {_BOUNDS}) -> Tensor", reference.hamming_scores, _scores)
hamming_scores_matmul = _define(f"{_PAIR}, {_BOUNDS}) -> Tensor", reference.hamming_scores_matmul, _scores)
select_top_k = _define(f"Tensor scores, {_SELECT}, int largest=0) -> Tensor", reference.select_top_k, _indices)
hamming_select = _define(f"{_PAIR}, {_SELECT}) -> Tensor", reference.hamming_select, _selected)
hashed_attention = _define(
    f"Tensor query, {_PAIR}, Tensor key, Tensor value, {_SELECT}, float? scale=None) -> (Tensor, Tensor)",
    reference.hashed_attention,
    _attended,
)
hash_decode = _define(
    f"Tensor query, {_APPEND}, {_CHOOSE}, float? scale=None) -> (Tensor, Tensor)",
    reference.hash_decode,
    _attended,
)
select_blocks = _define(
    "Tensor scores, Tensor length, int blocks, int sink_blocks, int recent_blocks, int largest=0) -> Tensor",
    reference.select_blocks,
    _indices,
)

for _operator in (hamming_scores, select_top_k, hamming_select):
    _operator.kernel("cpu", "numpy", check=lambda *args, **kwargs: cpu.available())(getattr(cpu, _operator.name))


def _triton(operator: Operator, module: str, check: Callable[..., tuple[bool, str]]) -> None:
    """Register a Triton kernel; Triton is imported at its first call."""

    def installed(*args: Any, **kwargs: Any) -> tuple[bool, str]:
        if find_spec("triton") is None:
            return False, "triton is not installed"
        return check(*args, **kwargs)

    @wraps(operator.reference)
    def run(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(f"npukv.ops.hashing.{module}"), operator.name)(*args, **kwargs)

    operator.kernel("cuda", "triton", check=installed)(run)


def _takes_encode(x: torch.Tensor, weights: torch.Tensor) -> tuple[bool, str]:
    words = weights.shape[-1] // 32
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return False, f"takes float32, float16 and bfloat16, not {x.dtype}"
    if x.shape[-1] > 256:
        return False, f"takes heads of up to 256, not {x.shape[-1]}"
    return _takes_words(words) if weights.is_contiguous() else (False, "takes contiguous weights")


def _takes_words(words: int) -> tuple[bool, str]:
    if words not in (1, 2, 4, 8, 16):
        return False, f"takes codes of 32, 64, 128, 256 or 512 bits, not {32 * words}"
    return True, "bits are packed and counted in registers"


def _takes_append(*args: torch.Tensor) -> tuple[bool, str]:
    key, value, weights, keys, values, codes, _ = args
    if not (keys.is_contiguous() and values.is_contiguous() and codes.is_contiguous()):
        return False, "takes contiguous buffers"
    if key.shape != value.shape or key.dtype != keys.dtype or value.dtype != values.dtype:
        return False, "takes keys and values of one shape, in the buffers' types"
    return _takes_encode(key, weights)


def _takes_step(query: torch.Tensor, *args: torch.Tensor) -> tuple[bool, str]:
    if query.shape[2] != 1 or args[0].shape[2] != 1:
        return False, f"takes one token, not {query.shape[2]}"
    ok, reason = _takes_encode(query, args[2])
    return _takes_append(*args) if ok else (ok, reason)


def _takes_codes(query_codes: torch.Tensor, key_codes: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[bool, str]:
    if not key_codes.is_contiguous():
        return False, "takes contiguous codes"
    largest = query_codes.shape[1] // key_codes.shape[1] * 32 * key_codes.shape[3]
    if largest >= 2**15 - 1:
        return False, f"takes scores below {2**15 - 1}, not {largest}"
    return _takes_words(key_codes.shape[3])


def _takes_hashed(
    query: torch.Tensor,
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    length: torch.Tensor,
    *args: Any,
    **kwargs: Any,
) -> tuple[bool, str]:
    ok, reason = _takes_codes(query_codes, key_codes)
    if not ok:
        return ok, reason
    if query.shape[0] != key.shape[0] or key.shape[:3] != key_codes.shape[:3]:
        return False, f"shapes {list(query.shape)}, {list(key.shape)}, {list(key_codes.shape)} do not go together"
    largest, tokens = query_codes.shape[1] // key_codes.shape[1] * 32 * key_codes.shape[3], key_codes.shape[2]
    if largest > MOST_SCORE or tokens > MOST_TOKENS:
        return False, f"counts scores up to {MOST_SCORE} of {MOST_TOKENS} tokens, not {largest} of {tokens}"
    return _triton_serves_one(query, key, value, key.shape[1])


def _takes_decode(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    weights: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    codes: torch.Tensor,
    length: torch.Tensor,
    budget: int,
    sink: int,
    recent: int,
    *args: Any,
    **kwargs: Any,
) -> tuple[bool, str]:
    group, words = query.shape[1] // codes.shape[1], codes.shape[3]
    if words != 4 or group > 8 or recent < 1:
        return False, f"takes 128 bits, up to 8 queries a group and recent tokens, not {32 * words}, {group}, {recent}"
    ok, reason = _takes_step(query, key, value, weights, keys, values, codes, length)
    asked = codes.new_empty((*query.shape[:3], words), device="meta")
    return _takes_hashed(query, asked, codes, keys, values, length) if ok else (ok, reason)


def _takes_scores(*args: Any, **kwargs: Any) -> tuple[bool, str]:
    largest = kwargs.get("largest", args[-1] if len(args) in (6, 7) and isinstance(args[-1], int) else 0)
    if not 0 < largest < 2**15 - 1:
        return False, f"counts scores, and needs their largest value (below {2**15 - 1}), got {largest}"
    return True, "scores are counted, not sorted"


for _operator, _module, _check in (
    (hash_encode, "triton", _takes_encode),
    (hash_append, "triton", _takes_append),
    (hash_step, "triton", _takes_step),
    (hamming_scores, "triton", _takes_codes),
    (hamming_select, "triton_select", _takes_codes),
    (hashed_attention, "triton_attend", _takes_hashed),
    (hash_decode, "triton_decode", _takes_decode),
    (select_top_k, "triton_select", _takes_scores),
    (select_blocks, "triton_select", _takes_scores),
):
    _triton(_operator, _module, _check)


def select_and_attend(
    query: torch.Tensor,
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    length: torch.Tensor,
    budget: int,
    sink: int,
    recent: int,
    start: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """By the two operators, each of which the device's own kernels serve."""
    indices = hamming_select(query_codes, key_codes, length, budget, sink, recent, start)
    return indexed_attention(query, key, value, indices, None, scale)


hashed_attention.kernel("cpu", "select, then attend")(select_and_attend)
hashed_attention.kernel("cuda", "select, then attend")(select_and_attend)


def step_and_attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    weights: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    codes: torch.Tensor,
    length: torch.Tensor,
    budget: int,
    sink: int,
    recent: int,
    start: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Likewise by two operators."""
    asked = hash_step(query, key, value, weights, keys, values, codes, length - 1)
    return hashed_attention(query, asked, codes, keys, values, length, budget, sink, recent, start, scale)


hash_decode.kernel("cpu", "step, then attend")(step_and_attend)
hash_decode.kernel("cuda", "step, then attend")(step_and_attend)
