"""``npukv bench attention``: the attention kernels of this device, parity first, beside torch's own attention.

Every registered kernel is compared with the reference (float64, or float32 where the keys are too many) before it is
timed; one that differs gets no time. The table gives medians and, for kernels bound by memory, bytes over time against
the rate at which the same device copies in the same run; the JSON keeps all samples and the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Batch, KV heads and keys of the decode shapes: 32 query heads, 128 wide.
DECODE = (
    (1, 8, 32768),
    (1, 8, 131072),
    (1, 8, 524288),
    (1, 32, 32768),
    (1, 32, 131072),
    (1, 32, 524288),
    (8, 8, 32768),
    (8, 32, 32768),
)
#: The same at toy sizes, for a CPU.
DECODE_TOY = ((1, 2, 2048), (1, 8, 2048), (2, 2, 1024))
#: Keys that an index list names, tokens per page, queries of a prompt's chunk.
NAMED, PAGE, CHUNK = 2048, 128, 2048
#: Odd shapes, compared and not timed: query heads, KV heads, queries, keys, width, type (None = the device's), bias,
#: length, causal.
ODD = (
    (4, 4, 1, 201, 64, None, False, True, False),
    (8, 1, 1, 129, 128, None, True, True, False),
    (4, 2, 3, 130, 80, None, True, True, True),
    (6, 2, 40, 166, 64, None, True, True, True),
    (2, 1, 140, 100, 128, None, False, False, True),
    (4, 2, 131, 262, 256, None, True, False, True),
    (8, 2, 1, 333, 128, "float16", True, True, False),
    (8, 2, 1, 333, 128, "float32", True, True, False),
    (4, 2, 50, 99, 64, "float32", True, True, True),
)
#: Keys up to which the other operators are measured too.
LONGEST = 131072
#: Bytes of keys and values beyond which the reference computes in float32.
EXACT = 1 << 29


@dataclass
class Case:
    """One operator on some arguments: what its kernels must move, and what a user would call instead."""

    name: str
    operator: Any
    arguments: tuple[Any, ...]
    bytes: int
    flops: int
    stock: Callable[[], Any] | None = None


def main(given: Sequence[str] | None = None) -> None:
    options = _arguments(given)
    from npukv.backends import select

    device = select(options.device)
    found = run(device, options.sizes or (DECODE if device.captures else DECODE_TOY), options.samples, options.tune)
    if options.out:
        temporary = options.out.with_name(options.out.name + ".part")
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, options.out)
    if not all(row.get("parity", True) for row in found["rows"]) or any("error" in row for row in found["rows"]):
        sys.exit(1)


def run(
    device: Any, sizes: Sequence[tuple[int, int, int]], samples: int = 20, tune: bool = False, heads: int | None = None
) -> dict[str, Any]:
    """Measure all attention kernels of a device and print a table.

    Args:
        device: a npukv.backends Device.
        sizes: (batch, KV heads, keys) of the decode shapes.
        samples: launches timed per kernel.
        tune: also try other block sizes, warps and stages of the decode kernel.
        heads: query heads; None = 32 on a card, 8 on a CPU.

    Returns:
        {"environment", "device", "dtype", "copy_rate" (bytes/s), "rows"}; a row has case, kernel, parity, difference,
        seconds (all samples), and for those that passed share (of the copy rate) or flops per second.
    """
    from npukv.bench.timing import Timer
    from npukv.environment import environment

    timer = Timer(device, samples)
    rate = timer.copy_rate()
    found: dict[str, Any] = {
        "environment": environment(),
        "device": device.description(),
        "dtype": str(device.default_dtype()).removeprefix("torch."),
        "copy_rate": rate,
        "rows": [],
    }
    print(f"{found['device']}, {found['dtype']}, copies {rate / 1e12:.2f} TB/s")
    print(f"{'case':44} {'kernel':>16} {'ms':>9} {'of copy':>8} {'TFLOP/s':>8}  parity")
    heads = heads or (32 if device.captures else 8)
    for make in _cases(device, sizes, heads):
        try:
            case = make()
            for row in _measure(case, device, timer, rate):
                found["rows"].append(row)
                _print(row)
        except Exception as error:  # the other cases still run; the row says what happened here
            found["rows"].append({"case": getattr(make, "label", "?"), "error": f"{type(error).__name__}: {error}"})
            print(f"{found['rows'][-1]['case']:44} failed: {found['rows'][-1]['error'][:300]}")
        device.release_memory()
    if tune:
        found["tuning"] = _tune(device, timer, rate, heads)
    return found


def _cases(device: Any, sizes: Sequence[tuple[int, int, int]], heads: int) -> Iterator[Callable[[], Case]]:
    for batch, kv_heads, keys in sizes:
        size = f"{batch} x {keys}, {kv_heads} KV heads"
        shape = (device, batch, kv_heads, keys, heads)
        yield _labelled(f"decode {size}", _decode, *shape)
        if keys <= LONGEST:
            yield _labelled(f"decode with bias {size}", _decode, *shape, True)
            yield _labelled(f"indexed {min(NAMED, keys)} of {size}", _indexed, *shape)
            yield _labelled(f"paged {size}", _paged, *shape)
    kv_heads = sizes[0][1]
    longest = max(keys for _, _, keys in sizes) if device.captures else 256
    past, chunk = min(4096, longest), min(CHUNK, longest)
    yield _labelled(f"chunk {chunk} over itself", _chunk, device, kv_heads, chunk, 0, heads, False)
    yield _labelled(f"chunk {chunk} over {past} centroids", _chunk, device, kv_heads, chunk, past, heads, True)
    yield _labelled("merge of 16 partials", _merge, device, heads)
    for odd in ODD:
        label = f"{odd[0]}/{odd[1]} heads, {odd[2]} x {odd[3]}, {odd[4]} wide {odd[5] or ''}"
        yield _labelled(label, _odd, device, *odd)


def _labelled(label: str, make: Callable[..., Case], *arguments: Any) -> Callable[[], Case]:
    def made() -> Case:
        return make(label, *arguments)

    made.label = label  # type: ignore[attr-defined]
    return made


def _normal(device: Any, *shape: int) -> Any:
    import torch

    return torch.randn(*shape, dtype=device.default_dtype(), device=device.torch_device)


def _decode(name: str, device: Any, batch: int, kv_heads: int, keys: int, heads: int, biased: bool = False) -> Case:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from npukv.ops.attention import partial_attention

    query = _normal(device, batch, heads, 1, 128)
    key, value = (_normal(device, batch, kv_heads, keys, 128) for _ in range(2))
    length = torch.full((batch,), keys, dtype=torch.int32, device=device.torch_device)
    bias = torch.randn(batch, kv_heads, keys, device=device.torch_device) if biased else None
    size = 2 * key.numel() * key.element_size() + (bias.numel() * 4 if bias is not None else 0)

    def stock() -> Any:
        return scaled_dot_product_attention(query, key, value, enable_gqa=True)

    arguments = (query, key, value, bias, length)
    return Case(name, partial_attention, arguments, size, 0, None if biased else stock)


def _odd(
    name: str,
    device: Any,
    heads: int,
    kv_heads: int,
    queries: int,
    keys: int,
    width: int,
    dtype: str | None,
    *how: bool,
) -> Case:
    """Tails, rows that see nothing, absent keys, garbage behind the length, a view into a larger cache."""
    import torch

    from npukv.ops.attention import partial_attention

    kind = getattr(torch, dtype) if dtype else device.default_dtype()
    query = _normal(device, 2, heads, queries, width).to(kind)
    key, value = (_normal(device, 2, kv_heads, keys + 7, width).to(kind)[:, :, :keys] for _ in range(2))
    biased, with_length, causal = how
    bias = torch.randn(2, kv_heads, keys, device=device.torch_device) if biased else None
    if bias is not None:
        bias[0, 0, ::3] = bias[1, -1, : keys // 2] = float("-inf")
    length = torch.tensor([keys - 1, 5], dtype=torch.int32, device=device.torch_device) if with_length else None
    if length is not None:
        key[1, :, 5:] = value[1, :, 5:] = float("nan")
    return Case(name, partial_attention, (query, key, value, bias, length, None, causal), 0, 0)


def _indexed(name: str, device: Any, batch: int, kv_heads: int, keys: int, heads: int) -> Case:
    import torch

    from npukv.ops.attention import indexed_attention

    query = _normal(device, batch, heads, 1, 128)
    key, value = (_normal(device, batch, kv_heads, keys, 128) for _ in range(2))
    named = min(NAMED, keys)
    order = torch.rand(batch, kv_heads, keys, device=device.torch_device).topk(named).indices.sort(-1).values
    size = 2 * batch * kv_heads * named * 128 * key.element_size()
    return Case(name, indexed_attention, (query, key, value, order.int()), size, 0)


def _paged(name: str, device: Any, batch: int, kv_heads: int, keys: int, heads: int) -> Case:
    import torch

    from npukv.ops.attention import paged_attention

    query = _normal(device, batch, heads, 1, 128)
    pages = keys // PAGE
    key, value = (_normal(device, batch * pages, PAGE, kv_heads, 128) for _ in range(2))
    table = torch.randperm(batch * pages, device=device.torch_device).view(batch, pages).int()
    length = torch.full((batch,), keys - 5, dtype=torch.int32, device=device.torch_device)
    size = 2 * key.numel() * key.element_size()
    return Case(name, paged_attention, (query, key, value, table, length), size, 0)


def _chunk(name: str, device: Any, kv_heads: int, queries: int, past: int, heads: int, biased: bool) -> Case:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from npukv.ops.attention import partial_attention

    query = _normal(device, 1, heads, queries, 128)
    key, value = (_normal(device, 1, kv_heads, past + queries, 128) for _ in range(2))
    bias = None
    if biased:
        bias = torch.zeros(1, kv_heads, past + queries, device=device.torch_device)
        bias[..., :past] = torch.randint(1, 9, (1, kv_heads, past), device=device.torch_device).float().log()
    seen = queries * past + queries * (queries + 1) // 2

    def stock() -> Any:  # without a past the same; with one, all keys and no bias: what a mask-free call can do
        return scaled_dot_product_attention(query, key, value, enable_gqa=True, is_causal=not past)

    return Case(name, partial_attention, (query, key, value, bias, None, None, True), 0, 4 * heads * 128 * seen, stock)


def _merge(name: str, device: Any, heads: int) -> Case:
    import torch

    from npukv.ops.attention import merge_partials

    outs = torch.randn(16, 8, heads, 1, 128, device=device.torch_device)
    lses = torch.randn(16, 8, heads, 1, device=device.torch_device)
    return Case(name, merge_partials, (outs, lses), outs.numel() * 4, 0)


def _measure(case: Case, device: Any, timer: Any, rate: float) -> Iterator[dict[str, Any]]:
    exact = _exact(case)
    tuned = case.operator.kernels.get(device.torch_device.type, [])
    refused = False
    for kernel in tuned:
        ok, reason = kernel.check(*case.arguments)
        row: dict[str, Any] = {"case": case.name, "kernel": kernel.name}
        if not ok:
            refused = True
            yield row | {"refused": reason}
            continue
        difference, bound = _difference(kernel.run(*case.arguments), exact, case.arguments[0].dtype)
        row |= {"difference": difference, "parity": difference <= bound}
        if row["parity"] and (case.bytes or case.flops):
            row |= _timed(case, timer(lambda kernel=kernel: kernel.run(*case.arguments)), rate)
        yield row
    if refused and device.captures and case.bytes:
        yield _captured(case, timer, rate, exact)
    if not tuned and (case.bytes or case.flops):
        yield {"case": case.name, "kernel": "reference"} | _timed(
            case, timer(lambda: case.operator.reference(*case.arguments)), rate
        )
    if case.stock is not None:
        yield {"case": case.name, "kernel": "torch's sdpa"} | _timed(case, timer(case.stock), rate)


def _captured(case: Case, timer: Any, rate: float, exact: tuple[Any, Any]) -> dict[str, Any]:
    """The operator in a captured graph, where another kernel may serve than outside."""
    got: list[Any] = []
    samples = timer(lambda: got.append(case.operator(*case.arguments)))
    difference, bound = _difference(got[-1], exact, case.arguments[0].dtype)
    row = {"case": case.name, "kernel": "captured", "difference": difference, "parity": difference <= bound}
    return row | (_timed(case, samples, rate) if row["parity"] else {})


def _exact(case: Case) -> tuple[Any, Any]:
    """The reference's answer in float64, or in float32 for many keys."""
    import torch

    size = sum(t.numel() * t.element_size() for t in case.arguments if isinstance(t, torch.Tensor))
    wide = torch.float64 if size <= EXACT else torch.float32
    kept = (t.to(wide) if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in case.arguments)
    return case.operator.reference(*kept)


def _difference(got: tuple[Any, Any], exact: tuple[Any, Any], dtype: Any) -> tuple[float, float]:
    """Largest difference of the outputs relative to their own size, or of the log-sum-exps; and what is allowed."""
    import torch

    (out, lse), (exact_out, exact_lse) = got, exact
    nothing = exact_lse == float("-inf")
    if not torch.equal(lse == float("-inf"), nothing) or out.isnan().any():
        return float("inf"), 0.0
    lse, exact_lse = lse.masked_fill(nothing, 0), exact_lse.masked_fill(nothing, 0)
    scale = exact_out.abs().amax().clamp(min=1e-6)
    of_out = ((out.to(exact_out.dtype) - exact_out).abs().amax() / scale).item()
    of_lse = (lse.to(exact_lse.dtype) - exact_lse).abs().amax().item()
    # scores rounded to half precision move a weight, and so the sum, by a few per cent at most
    return max(of_out, of_lse), 6 * torch.finfo(dtype).eps if dtype.itemsize == 2 else 1e-4


def _timed(case: Case, samples: Any, rate: float) -> dict[str, Any]:
    row: dict[str, Any] = {"seconds": list(samples.seconds), "median": samples.median}
    if samples.uncaptured:
        row["uncaptured"] = samples.uncaptured
    if case.bytes:
        row["share"] = case.bytes / samples.median / rate
    if case.flops:
        row["flops"] = case.flops / samples.median
    return row


def _tune(device: Any, timer: Any, rate: float, heads: int) -> list[dict[str, Any]]:
    """Other shapes of the decode kernel's programs, on 8 and on 32 KV heads."""
    from npukv.ops.attention import triton

    found = []
    kept = dict(triton.SPLIT), triton.PROGRAMS
    cases = [_decode(f"{n} KV heads", device, 1, n, 131072, heads) for n in (8, 32)]
    try:
        for block, warps, stages, programs in (
            (64, 4, 3, 528), (64, 4, 3, 264), (64, 4, 3, 1056), (64, 4, 2, 528), (64, 4, 4, 396), (64, 2, 3, 528),
            (32, 4, 4, 528), (32, 2, 4, 1056), (128, 4, 2, 396), (128, 4, 3, 264), (128, 8, 3, 264), (128, 8, 2, 528),
        ):  # fmt: skip
            triton.SPLIT.update(BLOCK=block, num_warps=warps, num_stages=stages)
            triton.PROGRAMS = programs
            shares = []
            for case in cases:
                try:
                    samples = timer(lambda case=case: triton.partial_attention(*case.arguments))
                    shares.append(case.bytes / samples.median / rate)
                except Exception as error:  # too much shared memory, say: recorded
                    shares.append(f"{type(error).__name__}: {error}"[:200])
            found.append({"block": block, "warps": warps, "stages": stages, "programs": programs, "shares": shares})
            print(f"tune: block {block}, {warps} warps, {stages} stages, {programs} programs: {shares}")
    finally:
        triton.SPLIT.update(kept[0])
        triton.PROGRAMS = kept[1]
    return found


def _print(row: dict[str, Any]) -> None:
    line = f"{row['case']:44} {row['kernel']:>16} "
    if "refused" in row:
        line += f"refused: {row['refused']}"
    elif row.get("parity") is False:
        line += f"PARITY FAILED: {row['difference']:.1e}"
    elif "median" not in row:
        line += " " * 27 + f"  {row['difference']:.1e}"
    else:
        share = f"{row['share']:8.0%}" if "share" in row else " " * 8
        rate = f"{row['flops'] / 1e12:8.1f}" if "flops" in row else " " * 8
        parity = f"{row['difference']:.1e}" if "difference" in row else "-"
        line += f"{row['median'] * 1e3:9.4f} {share} {rate}  {parity}"
        line += "  called: it cannot be captured" if "uncaptured" in row else ""
    print(line, flush=True)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="npukv bench attention", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto", help="npu, cuda, cpu or auto")
    parser.add_argument("--sizes", type=_size, nargs="+", help="batch x KV heads x keys, e.g. 1x8x131072")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--tune", action="store_true", help="also try other settings of the decode kernel")
    parser.add_argument("--out", type=Path, help="JSON file with all samples and the environment")
    return parser.parse_args(given)


def _size(text: str) -> tuple[int, int, int]:
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected batch x KV heads x keys, e.g. 1x8x131072")
    return int(parts[0]), int(parts[1]), int(parts[2])


if __name__ == "__main__":
    main()
