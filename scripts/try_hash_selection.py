"""Try launches of decode attention by hash codes on a card: exactness first, then microseconds of every setting.

    PYTHONPATH=$PWD:$PWD/scripts python scripts/try_hash_selection.py --out FILE --seconds 120

`hash_launches` beside the operators and dense attention. Kernels are compiled by several processes at once, then timed
by one, captured, over several layers' caches in turn. Each axis of settings is tried by itself, then the best of each
together. `--toy` runs the whole flow on a CPU, with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hash_launches
import torch

from npukv.backends import select as select_device
from npukv.bench import hashing as bench
from npukv.bench.hashing import Layers, Shape
from npukv.bench.hashing_parity import RECENT, SINK
from npukv.ops import hashing
from npukv.ops.attention import reference as attention
from npukv.ops.hashing import reference

SHAPES = (
    Shape(1, 32, 8, 131072, aim=5),
    Shape(1, 32, 8, 524288, aim=10),
    Shape(1, 32, 32, 131072, aim=8),
    Shape(8, 32, 32, 32768, aim=8),
)
TOY = (Shape(1, 2, 1, 300, 32, aim=5),)
#: Settings by axis.
AXES: dict[str, dict[str, dict[str, Any]]] = {
    "attend": {
        "1056": {"ATTEND": {"PROGRAMS": 1056}},
        "2 stages": {"ATTEND": {"STAGES": 2}},
        "tile 128": {"ATTEND": {"TILE": 128}},
        "2 warps, tile 128": {"ATTEND": {"TILE": 128, "num_warps": 2}},
        "1 warp, tile 64": {"ATTEND": {"TILE": 64, "num_warps": 1}},
        "1056, 1 warp, tile 32": {"ATTEND": {"PROGRAMS": 1056, "TILE": 32, "num_warps": 1}},
        "264, 8 warps": {"ATTEND": {"PROGRAMS": 264, "num_warps": 8, "BLOCK": 64}},
    },
    "sample": {
        "16 pieces of 512": {"BEGIN": {"PIECES": 16, "PART": 512}},
        "32 pieces of 512, margin 5": {"BEGIN": {"PART": 512}, "MARGIN": 5.0},
        "margin 5": {"MARGIN": 5.0},
    },
    "sift": {"atomics": {"SIFT": {"COUNT": "atomics"}}},
}
ODD: tuple[dict[str, Any], ...] = (
    {}, {"MARGIN": -8.0}, {"WINDOW": 4}, {"SIFT": {"COUNT": "atomics"}}, {"ATTEND": {"TILE": 64, "num_warps": 1}},
)  # fmt: skip


@contextlib.contextmanager
def setting(options: dict[str, Any]) -> Iterator[None]:
    kept = {name: getattr(hash_launches, name) for name in options}
    try:
        for name, value in options.items():
            setattr(hash_launches, name, kept[name] | value if isinstance(value, dict) else value)
        yield
    finally:
        for name, value in kept.items():
            setattr(hash_launches, name, value)


def joined(*several: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for options in several:
        for name, value in options.items():
            found[name] = found.get(name, {}) | value if isinstance(value, dict) else value
    return found


def decode(layers: Layers, layer: int, stop: str | None = None) -> torch.Tensor:
    cache = layers.keys[layer], layers.values[layer], layers.codes[layer]
    bounds = layers.shape.budget, SINK, RECENT
    return hash_launches.hash_decode(
        layers.queries[layer], layers.tokens[layer], layers.weights, cache, layers.slot, layers.length, bounds,
        stop=stop,
    )[0]  # fmt: skip


def sees(
    query: torch.Tensor,
    weights: torch.Tensor,
    codes: torch.Tensor,
    length: torch.Tensor,
    bounds: tuple[int, int, int],
    start: torch.Tensor | None,
    chosen: torch.Tensor,
) -> bool:
    """Whether exactly the `chosen` positions [B, Hkv, K] are attended to: with equal weights the output counts them."""
    (batch, kv_heads, capacity), width = codes.shape[:3], query.shape[3]
    group, held = query.shape[1] // kv_heads, chosen >= 0
    position, place = torch.arange(capacity, device=codes.device), 1
    nowhere = torch.full_like(length, capacity)  # nothing is appended
    while place < capacity:
        digit = position // place % width
        value = torch.eye(width, dtype=query.dtype, device=codes.device)[digit].expand(batch, kv_heads, -1, -1)
        token = value[:, :, :1], value[:, :, :1]
        out = hash_launches.hash_decode(
            query, token, weights, (value, value, codes), nowhere, length, bounds, start, 0.0
        )[0]  # fmt: skip
        counted = torch.zeros(batch, kv_heads, width, dtype=torch.float64, device=codes.device)
        counted.scatter_add_(2, digit[chosen.clamp(min=0).long()], held.double())
        counted = counted.repeat_interleave(group, 1)
        got = out[:, :, 0].double() * held.sum(-1, keepdim=True).repeat_interleave(group, 1)
        if not bool(((got - counted).abs() <= (counted * torch.finfo(query.dtype).eps / 2).clamp(min=0.45)).all()):
            return False
        place *= width
    return True


def close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    return float((got.double() - expected).abs().max()) <= 2e-2 * max(1.0, float(expected.abs().max()))


def odd(choices: tuple[dict[str, Any], ...], device: torch.device, toy: bool = False) -> dict[str, Any]:
    """Odd lengths, padding, ties, budgets: which cases differ from the reference."""
    found: dict[str, Any] = {"compared": 0, "wrong": []}
    generator = torch.Generator(device).manual_seed(0)
    dtype, width = (torch.float32, 32) if toy else (torch.bfloat16, 128)

    def codes_of(*size: int) -> torch.Tensor:
        return torch.randint(-(2**31), 2**31, size, dtype=torch.int32, device=device, generator=generator)

    def normal(*size: int) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device=device).normal_(generator=generator)

    for group, tokens, starts in ((1, 503 if toy else 5003, None), (4, 701 if toy else 70001, [0, 37])):
        weights = hashing.random_orthogonal(2, width, 128).to(device, dtype)
        query, token = normal(2, 2 * group, 1, width), (normal(2, 2, 1, width), normal(2, 2, 1, width))
        asked, codes = reference.hash_encode(query, weights), codes_of(2, 2, tokens, 4)
        key, value = normal(2, 2, tokens, width), normal(2, 2, tokens, width)
        codes[0, 0, tokens // 2 :] = codes[0, 0, tokens // 2, None]  # nothing but ties
        near = torch.rand(2, 2, tokens, device=device, generator=generator) < 0.01
        codes[near] = asked[:, ::group].expand(2, 2, tokens, 4)[near] ^ 5
        codes[1, 1, 50:400] = asked[1, group] ^ 3  # the closest side by side
        start = None if starts is None else torch.tensor(starts, dtype=torch.int32, device=device)
        for lengths in ((tokens, tokens // 3), (tokens - 7, 41), (2100, tokens))[: 1 if toy else 3]:
            length = torch.tensor(lengths, dtype=torch.int32, device=device)
            held = [x.clone() for x in (key, value, codes)]
            reference.hash_step(query, *token, weights, *held, length - 1)
            for budget in (tokens // 64 + 20, SINK + RECENT, tokens - 5, tokens + 9)[: 1 if toy else 4]:
                bounds = budget, SINK, RECENT
                chosen = reference.hamming_select(asked, held[2], length, *bounds, start)
                exact = attention.indexed_attention(query.double(), held[0].double(), held[1].double(), chosen)[0]
                for options in choices:
                    mine = [x.clone() for x in (key, value, codes)]
                    found["compared"] += 1
                    right: Any
                    try:
                        with setting(options):
                            out = hash_launches.hash_decode(
                                query, token, weights, tuple(mine), length - 1, length, bounds, start
                            )[0]  # fmt: skip
                            right = [torch.equal(a, b) for a, b in zip(mine, held, strict=True)]
                            right += [close(out, exact), sees(query, weights, held[2], length, bounds, start, chosen)]
                    except Exception as error:
                        right = [False, f"{type(error).__name__}: {str(error)[:200]}"]
                    if not all(one is True for one in right):
                        found["wrong"].append([group, lengths, budget, options, right])
    return found


def count_of(shape: Shape, toy: bool) -> int:
    held = 2 * shape.batch * shape.kv_heads * shape.tokens * shape.width * 2
    coded = shape.batch * shape.kv_heads * shape.tokens * shape.bits // 8
    return 1 if toy else max(1, min(-(-bench.CODES // coded), bench.ROOM // held))


def axes_of(toy: bool = False) -> dict[str, dict[str, dict[str, Any]]]:
    if toy:
        return {"attend": {"tile 128": AXES["attend"]["tile 128"]}}
    return AXES


def warm(which: int, part: int, parts: int) -> None:
    """Compile by launching once; in a process of its own."""
    device = torch.device("cuda")
    if which == len(SHAPES):
        odd(ODD[part::parts], device)
        return
    layers = Layers(SHAPES[which], 1, torch.bfloat16, device)
    calls = [{}, *(options for axis in axes_of().values() for options in axis.values())]
    for options in calls[part::parts]:
        try:
            with setting(options):
                decode(layers, 0)
            torch.cuda.synchronize()
        except Exception as error:
            print(which, options, type(error).__name__, str(error)[:300], flush=True)


def shape_entry(which: int, shape: Shape, device: Any, toy: bool, leave: Callable[[], bool]) -> dict[str, Any]:
    count = count_of(shape, toy)
    layers = Layers(shape, count, torch.float32 if toy else torch.bfloat16, device.torch_device)
    for layer in range(count):
        layers.encode(layer)  # a later one writes the same again
    bounds = shape.budget, SINK, RECENT
    expected = reference.hamming_select(layers.asked[0], layers.codes[0], layers.length, *bounds)
    exact = attention.indexed_attention(layers.queries[0], layers.keys[0], layers.values[0], expected)[0].double()
    seen = layers.queries[0], layers.weights, layers.codes[0], layers.length, bounds, None, expected

    def time_of(options: dict[str, Any], stop: str | None = None) -> float | str:
        """Microseconds, or why there are none."""
        try:
            with setting(options):
                if not (close(decode(layers, 0), exact) and sees(*seen)):
                    return "not exact"
                return 1e6 * bench.timed(lambda layer: decode(layers, layer, stop), count, device, 1, None)["seconds"]
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:200]}"

    entry: dict[str, Any] = {"name": shape.name, "layers": count, "aim": shape.aim, "whole": {}}
    entry["dense"] = 1e6 * bench.dense(layers, count, device, 1, None)["seconds"]
    entry["operators"] = 1e6 * bench.timed(layers.step, count, device, 1, None)["seconds"]
    whole = entry["whole"]
    whole["default"] = time_of({})
    entry["begin"], entry["begin and sift"] = time_of({}, "begin"), time_of({}, "sift")
    best: list[dict[str, Any]] = []
    for choices in axes_of(toy).values():
        ran = {}
        for label, options in choices.items():
            if not leave():
                whole[label] = time_of(options)
                ran |= {label: whole[label]} if isinstance(whole[label], float) else {}
        if ran and isinstance(whole["default"], float):
            label = min(ran, key=lambda one: ran[one])
            best += [choices[label]] if ran[label] < whole["default"] - 0.2 else []
    if len(best) > 1 and not leave():
        whole["the best of each"] = time_of(joined(*best))
        entry["joined"] = joined(*best)
        entry["joined: begin"], entry["joined: begin and sift"] = (time_of(joined(*best), s) for s in ("begin", "sift"))
    times = {label: value for label, value in whole.items() if isinstance(value, float)}
    if times:
        entry["best"] = min(times, key=lambda one: times[one])
        entry["speed-up"] = entry["dense"] / times[entry["best"]]
    return entry


def compile_all(out: Path, started: float) -> dict[str, str]:
    jobs = [f"{which},{part},3" for which in range(4) for part in range(3)]
    jobs += [f"{len(SHAPES)},{part},{len(ODD)}" for part in range(len(ODD))]
    program = [sys.executable, "-W", "ignore", __file__, "--out", str(out), "--warm"]
    running = [
        subprocess.Popen([*program, job], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for job in jobs
    ]
    said: dict[str, str] = {}
    for job, process in zip(jobs, running, strict=True):
        try:
            said[job] = process.communicate(timeout=max(1.0, 100 - (time.perf_counter() - started)))[0][-1500:]
        except subprocess.TimeoutExpired:
            process.kill()
            said[job] = "took too long"
        if said[job].strip():
            print(f"warm {job}: {said[job][-600:]}", flush=True)
    print(f"compiled after {time.perf_counter() - started:.0f} s", flush=True)
    return said


def table(entry: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        return f"{value:.1f}" if isinstance(value, float) else str(value)

    parts = ("begin", "begin and sift", "joined: begin", "joined: begin and sift", "operators", "dense")
    lines = [entry["name"], "  " + ", ".join(f"{part} {shown(entry[part])}" for part in parts if part in entry)]
    lines += ["  " + ", ".join(f"{label}: {shown(value)}" for label, value in entry["whole"].items())]
    best = f"  best: {entry.get('best')}, {entry.get('speed-up', 0):.2f} times dense, aim {entry['aim']:g}"
    return "\n".join([*lines, f"{best}, operators {entry['dense'] / entry['operators']:.2f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--toy", action="store_true", help="a small shape on the CPU, to try the flow")
    parser.add_argument("--warm", help="for the processes this starts")
    options = parser.parse_args()
    with torch.no_grad():
        if options.warm:
            warm(*map(int, options.warm.split(",")))
            return
        started = time.perf_counter()
        os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp())
        found: dict[str, Any] = {"warm": {} if options.toy else compile_all(options.out, started), "entries": []}
        device = select_device("cpu" if options.toy else "auto")
        if options.toy:
            hash_launches.BEGIN["PIECES"] = 1
        device.prepare()

        def passed() -> bool:
            return time.perf_counter() - started > options.seconds

        def write() -> None:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(found, indent=1, default=str))

        try:
            found["odd"] = odd(ODD[:1] if options.toy else ODD, device.torch_device, options.toy)
        except Exception:
            found["odd"] = traceback.format_exc()
        print("odd cases:", found["odd"], flush=True)
        for which, shape in enumerate(TOY if options.toy else SHAPES):
            if passed():
                print(f"left out: {shape.name}")
                continue
            try:
                entry = shape_entry(which, shape, device, options.toy, passed)
                found["entries"].append(entry)
                print(table(entry), flush=True)
            except Exception:
                print(f"{shape.name}: {traceback.format_exc()}", flush=True)
            finally:
                device.release_memory()
                write()
        found["seconds"] = time.perf_counter() - started
        write()
        print(f"{found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
