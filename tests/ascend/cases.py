"""Arguments for every operator: grouped heads, several rows, odd lengths, tails, rows that see nothing, both halves."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from npukv.ops.clustering.reference import soft_match

INFINITY = float("inf")


@dataclass(frozen=True)
class Case:
    """One call of an operator, on the CPU; `written` says which arguments it writes to."""

    operator: str
    label: str
    arguments: tuple[Any, ...]
    written: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.operator}-{self.label}"


class Draw:
    """Numbers from a seed."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype

    def normal(self, *shape: int, size: float = 1.0, dtype: torch.dtype | None = None) -> torch.Tensor:
        return (torch.randn(shape, generator=self.generator) * size).to(dtype or self.dtype)

    def whole(self, low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=self.generator, dtype=torch.int32)


def cases(dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16, torch.float32)) -> Iterator[Case]:
    """All of them; operators without floating numbers have one of each kind."""
    for dtype in dtypes:
        word = str(dtype).removeprefix("torch.")
        for maker in (attention, clustering, decode, hashing, products):
            for operator, label, arguments, *written in maker(Draw(7, dtype)):
                yield Case(operator, f"{label}-{word}", tuple(arguments), tuple(*written))
    for operator, label, arguments, *written in codes(Draw(11, torch.float32)):
        yield Case(operator, label, tuple(arguments), tuple(*written))


def attention(draw: Draw) -> Iterator[tuple]:
    for batch, heads, kv_heads, queries, keys, width in (
        (2, 8, 2, 1, 137, 64),
        (1, 4, 4, 1, 700, 128),
        (3, 4, 2, 5, 33, 32),
    ):
        query = draw.normal(batch, heads, queries, width)
        key, value = (draw.normal(batch, kv_heads, keys, width) for _ in range(2))
        label = f"{batch}x{heads}:{kv_heads}x{queries}x{keys}x{width}"
        length = torch.tensor([keys - 3, 0, keys][:batch], dtype=torch.int32)
        bias = draw.whole(1, 9, batch, kv_heads, keys).float().log()
        bias[:, :, 5::7] = -INFINITY
        spoilt = [x.clone() for x in (key, value)]
        for row, end in enumerate(length.tolist()):
            for x in spoilt:
                x[row, :, end:] = math.nan
        room = [torch.nn.functional.pad(x, (0, 0, 0, 19), value=math.nan)[:, :, :keys] for x in (key, value)]
        yield "partial_attention", label, (query, key, value, None, None, None, queries > 1)
        yield "partial_attention", label + "-view", (query, *room, None, None, 0.3, queries > 1)
        yield "partial_attention", label + "-length", (query, *spoilt, None, length, None, False)
        yield "partial_attention", label + "-causal-length", (query, *spoilt, None, length, 0.2, True)
        yield "partial_attention", label + "-bias", (query, key, value, bias, None, 0.2, False)
        yield "partial_attention", label + "-bias-length", (query, key, value, bias, length, None, queries > 1)
        nothing = torch.full_like(bias, -INFINITY)
        yield "partial_attention", label + "-nothing", (query, key, value, nothing, None, None, False)
        if queries == 1:
            indices = draw.whole(0, keys, batch, kv_heads, 37)
            indices[:, :, 30:] = -1
            indices[0, 0] = -1
            yield "indexed_attention", label, (query, key, value, indices, None, 0.2)
            yield "indexed_attention", label + "-bias", (query, key, value, indices, bias, None)
    for batch, kv_heads, pages in ((2, 2, 7), (1, 1, 5)):
        query = draw.normal(batch, 4, 1, 64)
        store = [draw.normal(pages, 128, kv_heads, 64) for _ in range(2)]
        length = torch.tensor([300, 129][:batch], dtype=torch.int32)
        table = torch.stack([torch.randperm(pages, generator=draw.generator)[:4].int() for _ in range(batch)])
        table[:, 3] = -1
        yield "paged_attention", f"{batch}x{kv_heads}", (query, *store, table, length, None)
        own = torch.stack([table.roll(head, -1) for head in range(kv_heads)], 1)
        yield "paged_attention", f"{batch}x{kv_heads}-own", (query, *store, own.contiguous(), length, 0.2)
    outs, lses = draw.normal(3, 2, 4, 2, 32), draw.normal(3, 2, 4, 2, dtype=torch.float32)
    lses[1, 0] = -INFINITY
    lses[:, 1, 1] = -INFINITY
    outs = outs.masked_fill((lses == -INFINITY)[..., None], 0)
    yield "merge_partials", "3", (outs, lses)


def clustering(draw: Draw) -> Iterator[tuple]:
    keys, values = (draw.normal(2, 2, 61, 32) for _ in range(2))
    degrees = draw.whole(1, 6, 2, 2, 61).float()
    centre = torch.nn.functional.normalize(keys.float(), dim=-1).mean(2)
    yield "soft_match", "61", (keys, centre, 3, 20, 17, 1.0)
    places = torch.cat([torch.arange(40), draw.whole(0, 40, 21)]).int().expand(2, 2, -1).contiguous()
    yield "merge_centroids", "61", (values, degrees, places, 40)
    yield "merge_pair", "61", (keys, values, degrees, places, 40)
    for tokens, chunks, chunk, merges in ((130, 2, 64, 53), (600, 1, 512, 150)):
        keys, values = (draw.normal(2, 2, tokens, 64) for _ in range(2))
        degrees = draw.whole(1, 6, 2, 2, tokens).float()
        centre = torch.nn.functional.normalize(keys.float(), dim=-1).mean(2)
        into = soft_match(keys, centre, chunks, chunk, merges)
        yield "merge_pass", str(tokens), (keys, values, degrees, into, chunks, chunk, merges)
    keys = draw.normal(2, 2, 61, 32)
    degrees = draw.whole(1, 6, 2, 2, 61).float()
    yield "cluster", "61", (keys, degrees, [3, 20, 15, 2, 22, 11], 1.0)


def decode(draw: Draw) -> Iterator[tuple]:
    x, norm = draw.normal(3, 64), draw.normal(64) + 1
    weights = [draw.normal(rows, 64, size=0.1) for rows in (48, 32, 32)]
    biases = [draw.normal(weight.shape[0]) for weight in weights]
    yield "project", "norm", (x, weights, [], norm, 1e-5, None)
    yield "project", "biases-residual", (x, weights, biases, None, 0.0, draw.normal(3, 112))
    yield "gated", "norm", (x, weights[1], weights[2], norm, 1e-6)
    yield "gated", "plain", (x, weights[1], weights[2], None, 0.0)
    cos, sin = draw.normal(3, 32).cos(), draw.normal(3, 32).sin()
    held = [draw.normal(3, 2, 9, 32) for _ in range(2)]
    slot = torch.tensor([4, 9, 0], dtype=torch.int32)  # the second row's cache is full
    projected = draw.normal(3, (4 + 2 * 2) * 32)
    yield "rotate_append", "plain", (projected, cos, sin, *held, slot, None, None, 0.0), (3, 4)
    norms = (draw.normal(32) + 1, draw.normal(32) + 1)
    yield "rotate_append", "norms", (projected, cos, sin, *held, slot, *norms, 1e-6), (3, 4)


def hashing(draw: Draw) -> Iterator[tuple]:
    weights = draw.normal(2, 32, 64, dtype=torch.float32)
    for tokens in (1, 5):
        key, value = (draw.normal(2, 2, tokens, 32) for _ in range(2))
        key[0, 0, 0] = 0  # every projection exactly 0
        yield "hash_encode", f"{tokens}", (key, weights)
        keys, values = (draw.normal(2, 2, 40, 32) for _ in range(2))
        held = draw.whole(-(2**31), 2**31 - 1, 2, 2, 40, 2)
        length = torch.tensor([35, 3], dtype=torch.int32)
        yield "hash_append", f"{tokens}", (key, value, weights, keys, values, held, length), (3, 4, 5)
    query = draw.normal(2, 4, 1, 32)
    key, value = (draw.normal(2, 2, 1, 32) for _ in range(2))
    yield "hash_step", "1", (query, key, value, weights, keys, values, held, length), (4, 5, 6)
    asked = draw.whole(-(2**31), 2**31 - 1, 2, 4, 1, 2)
    start = torch.tensor([0, 2], dtype=torch.int32)
    step = (query, key, value, weights, keys, values, held, length, 12, 2, 3)
    yield "hash_decode", "plain", (*step, None, None), (4, 5, 6)
    yield "hashed_attention", "plain", (query, asked, held, keys, values, length, 12, 2, 3, None, None)
    yield "hashed_attention", "padding", (query, asked, held, keys, values, length, 12, 2, 3, start, 0.2)


def products(draw: Draw) -> Iterator[tuple]:
    for ends, width, outputs in (([5, 5, 31, 40], 96, 48), ([1], 17, 3), ([0, 0, 9], 64, 80)):
        x, weight = draw.normal(ends[-1], width), draw.normal(len(ends), outputs, width, size=width**-0.5)
        places = torch.tensor(ends, dtype=torch.int32)
        yield "grouped_linear", f"{len(ends)}x{ends[-1]}x{width}x{outputs}", (x, weight, places)
    if draw.dtype is torch.float32:
        return  # cards multiply 8 bits into halves
    for rows, width, outputs in ((37, 96, 48), (1, 1111, 7)):
        x = draw.normal(rows, width) * torch.logspace(-2, 1, rows)[:, None].to(draw.dtype)
        yield "quantise_rows", f"{rows}x{width}", (x, torch.int8)
        whole = [draw.whole(-127, 128, count, width).to(torch.int8) for count in (rows, outputs)]
        scales = [draw.normal(count, dtype=torch.float32).abs() / 127 for count in (rows, outputs)]
        label = f"{rows}x{width}x{outputs}"
        yield "scaled_product", label, (whole[0], scales[0], whole[1], scales[1], draw.dtype)
    for ends, width, outputs in (([5, 5, 31, 40], 96, 48), ([0, 0, 9], 33, 7)):
        shapes = ((ends[-1], width), (len(ends), outputs, width))
        rows, weight = (draw.whole(-127, 128, *shape).to(torch.int8) for shape in shapes)
        scale, by_output = (draw.normal(*shape[:-1], dtype=torch.float32).abs() / 127 for shape in shapes)
        label = f"{len(ends)}x{ends[-1]}x{width}x{outputs}"
        places = torch.tensor(ends, dtype=torch.int32)
        yield "grouped_scaled_product", label, (rows, scale, weight, by_output, places, draw.dtype)


def codes(draw: Draw) -> Iterator[tuple]:
    for keys, words in ((140, 4), (1000, 8)):
        query = draw.whole(-(2**31), 2**31 - 1, 2, 8, 1, words)
        held = draw.whole(-(2**31), 2**31 - 1, 2, 2, keys, words)
        length = torch.tensor([keys, keys - 77], dtype=torch.int32)
        start = torch.tensor([0, 9], dtype=torch.int32)
        label = f"{keys}x{32 * words}"
        for operator in ("hamming_scores", "hamming_scores_matmul"):
            yield operator, label, (query, held, length, start)
            yield operator, label + "-all", (query, held, None, None)
        yield "hamming_select", label, (query, held, length, 40, 3, 5, start)
        scores = draw.whole(0, 256, 2, 2, keys)
        yield "select_top_k", label, (scores, length, 40, 3, 5, start, 256)
        yield "hamming_blocks", label, (query, held, length, 4, 1, 2)
        yield "select_blocks", label, (scores, length, 4, 1, 2, 256)


def on(case: Case, device: str | torch.device) -> list[Any]:
    """The arguments on a device, copied; views keep their strides and what lies around them."""

    def moved(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [moved(part) for part in value]
        if not isinstance(value, torch.Tensor):
            return copy.copy(value)
        if value.is_contiguous():
            return value.to(device, copy=True)
        whole = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage())
        return whole.to(device, copy=True).as_strided(value.shape, value.stride(), value.storage_offset())

    return [moved(argument) for argument in case.arguments]


def exactly(case: Case, reference: Callable[..., Any]) -> tuple[list[Any], list[Any]]:
    """The reference in float64 from the same numbers: its results and what it wrote."""

    def widened(value: Any) -> Any:
        if isinstance(value, list):
            return [widened(part) for part in value]
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value.double()
        return value

    arguments = [widened(argument) for argument in on(case, "cpu")]
    results = reference(*arguments)
    return flat(results), [arguments[index] for index in case.written]


def flat(results: Any) -> list[torch.Tensor]:
    if results is None:
        return []
    return list(results) if isinstance(results, list | tuple) else [results]


#: Relative to the largest number of a result. The halves are rounded on the way in (a scaled query) and out.
TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 2e-5}


def difference(got: torch.Tensor, exact: torch.Tensor, coarsest: torch.dtype) -> str:
    """Why a result is not the exact one within rounding; empty = it is."""
    got = got.cpu()
    if got.shape != exact.shape:
        return f"shape {tuple(got.shape)}, expected {tuple(exact.shape)}"
    if got.dtype is torch.int8:  # rounded to the nearest: where that is nearly a tie, either is right
        off = (got.int() - exact.int()).abs()
        wrong, worst = float((off > 0).float().mean()), int(off.max())
        return f"{wrong:.1%} of the codes differ, by up to {worst}" if worst > 1 or wrong > 0.01 else ""
    if not got.is_floating_point():
        wrong = int((got != exact).sum())
        return f"{wrong} of {got.numel()} whole numbers differ" if wrong else ""
    exact = exact.to(torch.float64)
    if not torch.equal(got == -INFINITY, exact == -INFINITY):
        return "-inf is elsewhere"
    finite = exact.isfinite()
    error = (got.double() - exact)[finite].abs()
    if not error.numel():
        return ""
    largest = max(1.0, float(exact[finite].abs().max()))
    worst = float(error.max()) if not error.isnan().any() else math.nan
    limit = TOLERANCE[coarsest] * largest
    return "" if worst <= limit else f"differs by {worst:.2e}, at most {limit:.2e} is rounding"


def coarsest(case: Case) -> torch.dtype:
    """The type that limits a case's precision."""
    found = {value.dtype for value in case.arguments if isinstance(value, torch.Tensor) and value.is_floating_point()}
    found |= {value for value in case.arguments if isinstance(value, torch.dtype)}
    return next((dtype for dtype in (torch.bfloat16, torch.float16) if dtype in found), torch.float32)
