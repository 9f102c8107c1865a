"""Try the ways of selecting by hash codes on a card: exactness first, then microseconds of each setting and shape.

    PYTHONPATH=$PWD python scripts/try_hash_selection.py --out FILE --seconds 110

Kernels are compiled by several processes at once, then timed by one, captured, over several layers' caches in turn.
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

import torch

from npukv.backends import select as select_device
from npukv.bench import hashing as bench
from npukv.bench.hashing import RECENT, SINK, Layers, Shape
from npukv.ops.attention import indexed_attention
from npukv.ops.attention import reference as attention
from npukv.ops.hashing import reference, triton_lists, triton_select
from npukv.ops.hashing import triton as scoring

SHAPES = (
    Shape(1, 32, 8, 131072, aim=5),
    Shape(1, 32, 32, 131072, aim=8),
    Shape(1, 32, 8, 524288, aim=10),
    Shape(8, 32, 32, 32768, aim=8),
)
SCORES = {
    "default": {},
    "no carry": {"CARRY": False},
    "2 stages": {"SCORE": {"BLOCK": 1024, "num_warps": 4, "STAGES": 2}},
    "3 stages": {"SCORE": {"BLOCK": 1024, "num_warps": 4, "STAGES": 3}},
    "2048, 8 warps": {"SCORE": {"BLOCK": 2048, "num_warps": 8, "STAGES": 1}},
    "512, 4 warps": {"SCORE": {"BLOCK": 512, "num_warps": 4, "STAGES": 1}},
    "512, 2 warps, 3 stages": {"SCORE": {"BLOCK": 512, "num_warps": 2, "STAGES": 3}},
    "2048 programs": {"PROGRAMS": 2048, "MOST_SPLITS": 128},
    "1024 programs, 128 splits": {"MOST_SPLITS": 128},
}
LISTS = {
    "default": {},
    "16 each": {"LIST_EACH": 16},
    "8 each": {"LIST_EACH": 8},
    "tile 2048": {"LIST_TILE": 2048},
    "tile 2048, 16 each": {"LIST_TILE": 2048, "LIST_EACH": 16},
    "2048 programs": {"PROGRAMS": 2048, "MOST_SPLITS": 128},
}
ATTENDS = {
    "default": {},
    "4 stages": {"ATTEND": {"TILE": 256, "BLOCK": 32, "num_warps": 4, "num_stages": 4}},
    "tile 128": {"ATTEND": {"TILE": 128, "BLOCK": 32, "num_warps": 4, "num_stages": 3}},
    "2 warps": {"ATTEND": {"TILE": 256, "BLOCK": 32, "num_warps": 2, "num_stages": 3}},
    "block 64, 2 stages": {"ATTEND": {"TILE": 256, "BLOCK": 64, "num_warps": 4, "num_stages": 2}},
    "528 programs": {"ATTEND_PROGRAMS": 528},
    "2112 programs": {"ATTEND_PROGRAMS": 2112},
}


@contextlib.contextmanager
def setting(options: dict[str, Any]) -> Iterator[None]:
    places = {name: scoring if name in ("SCORE", "CARRY") else triton_lists for name in options}
    kept = {name: getattr(place, name) for name, place in places.items()}
    try:
        for name, place in places.items():
            setattr(place, name, options[name])
        yield
    finally:
        for name, place in places.items():
            setattr(place, name, kept[name])


def score(layers: Layers, layer: int) -> torch.Tensor:
    codes = layers.codes[layer]
    rows, capacity = codes.shape[0] * codes.shape[1], codes.shape[2]
    chunk, splits = triton_lists.plan(rows, capacity, scoring.SCORE["BLOCK"])
    counts = codes.new_empty(rows, splits, triton_lists.COARSE)
    scores = codes.new_empty(rows, splits * chunk, dtype=torch.int16)
    shift = triton_select.shift_of(layers.shape.heads // layers.shape.kv_heads * layers.shape.bits)
    rest = splits * chunk, SINK, RECENT, chunk, splits, shift
    scoring.launch_scores(layers.asked[layer], codes, layers.length, None, scores, counts, *rest)
    return scores


def listed(layers: Layers, layer: int) -> Any:
    return triton_lists._listed(
        layers.asked[layer], layers.codes[layer], layers.length, layers.shape.budget, SINK, RECENT, None
    )


def picked(layers: Layers, layer: int, asked: torch.Tensor | None = None) -> torch.Tensor:
    asked = layers.asked[layer] if asked is None else asked
    return triton_lists.hamming_select(asked, layers.codes[layer], layers.length, layers.shape.budget, SINK, RECENT)


def fused(layers: Layers, layer: int, asked: torch.Tensor | None = None) -> torch.Tensor:
    asked = layers.asked[layer] if asked is None else asked
    held = layers.codes[layer], layers.keys[layer], layers.values[layer], layers.length
    return triton_lists.hashed_attention(layers.queries[layer], asked, *held, layers.shape.budget, SINK, RECENT)[0]


def whole_now(layers: Layers, layer: int) -> torch.Tensor:
    return layers.step(layer)


def whole_picked(layers: Layers, layer: int) -> torch.Tensor:
    return layers.attend(layer, picked(layers, layer, layers.encode(layer)))


def whole_fused(layers: Layers, layer: int) -> torch.Tensor:
    return fused(layers, layer, layers.encode(layer))


def count_of(shape: Shape) -> int:
    held = 2 * shape.batch * shape.kv_heads * shape.tokens * shape.width * 2
    coded = shape.batch * shape.kv_heads * shape.tokens * shape.bits // 8
    return max(1, min(-(-bench.CODES // coded), bench.ROOM // held))


def warm(which: int, part: int, parts: int) -> None:
    """Compile by launching once; in a process of its own."""
    if which == len(SHAPES):
        print(odd())
        return
    layers = Layers(SHAPES[which], 1, torch.bfloat16, torch.device("cuda"))
    calls = [(score, one) for one in SCORES.values()] + [(listed, one) for one in LISTS.values()]
    calls += [(whole_fused, one) for one in ATTENDS.values()] + [(whole_picked, {}), (whole_now, {})]
    for call, options in calls[part::parts]:
        try:
            with setting(options):
                call(layers, 0)
            torch.cuda.synchronize()
        except Exception as error:
            print(which, call.__name__, options, type(error).__name__, str(error)[:300], flush=True)


def odd() -> dict[str, Any]:
    """Odd lengths, padding, ties, budgets: which cases differ from the reference."""
    found: dict[str, Any] = {"compared": 0, "wrong": []}
    generator = torch.Generator("cuda").manual_seed(0)

    def codes(*size: int) -> torch.Tensor:
        return torch.randint(-(2**31), 2**31, size, dtype=torch.int32, device="cuda", generator=generator)

    def normal(*size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.bfloat16, device="cuda").normal_(generator=generator)

    for group, tokens, starts in ((1, 5003, None), (4, 70001, [0, 37])):
        asked, keys = codes(2, 2 * group, 1, 4), codes(2, 2, tokens, 4)
        query, key, value = normal(2, 2 * group, 1, 128), normal(2, 2, tokens, 128), normal(2, 2, tokens, 128)
        keys[0, 0, tokens // 2 :] = keys[0, 0, tokens // 2, None]  # nothing but ties
        near = torch.rand(2, 2, tokens, device="cuda", generator=generator) < 0.01
        keys[near] = asked[:, ::group].expand(2, 2, tokens, 4)[near] ^ 5
        keys[1, 1, 50:400] = asked[1, group] ^ 3  # the closest side by side
        start = None if starts is None else torch.tensor(starts, dtype=torch.int32, device="cuda")
        for lengths in ((tokens, tokens // 3), (tokens - 7, 41), (2100, tokens)):
            length = torch.tensor(lengths, dtype=torch.int32, device="cuda")
            for budget in (SINK + RECENT, tokens // 64 + 20, tokens - 5, tokens + 9):
                asked_for = (length, budget, SINK, RECENT, start)
                chosen = reference.hamming_select(asked, keys, *asked_for)
                expected = attention.indexed_attention(query.double(), key.double(), value.double(), chosen)[0]
                got = triton_lists.hamming_select(asked, keys, *asked_for)
                attended = triton_lists.hashed_attention(query, asked, keys, key, value, *asked_for)[0]
                error = float((attended - expected).abs().max())
                found["compared"] += 1
                if not torch.equal(got, chosen) or not error <= 2e-2 * max(1.0, float(expected.abs().max())):
                    found["wrong"].append([group, lengths, budget, bool(torch.equal(got, chosen)), error])
    return found


def shape_entry(shape: Shape, device: Any, copied: float) -> dict[str, Any]:
    count = count_of(shape)
    layers = Layers(shape, count, torch.bfloat16, device.torch_device)
    entry: dict[str, Any] = {"name": shape.name, "layers": count, "aim": shape.aim}
    layers.encode(0)  # a later one writes the same again
    expected = reference.hamming_select(layers.asked[0], layers.codes[0], layers.length, shape.budget, SINK, RECENT)
    exact = indexed_attention(layers.queries[0], layers.keys[0], layers.values[0], expected)[0].float()

    def right(options: dict[str, Any]) -> bool:
        with setting(options):
            if not torch.equal(picked(layers, 0), expected):
                return False
            return float((fused(layers, 0).float() - exact).abs().max()) <= 1e-2 * max(1.0, float(exact.abs().max()))

    def time_of(call: Callable[..., Any], options: dict[str, Any]) -> float:
        with setting(options):
            return 1e6 * bench.timed(lambda layer: call(layers, layer), count, device, 1, None)["seconds"]

    def sweep(name: str, call: Callable[..., Any], choices: dict[str, dict[str, Any]], base: dict[str, Any]) -> Any:
        """Times of every choice on top of `base`; returns the fastest that is exact."""
        entry[name] = {}
        for label, options in choices.items():
            try:
                entry[name][label] = time_of(call, base | options)
            except Exception as error:
                entry[name][label] = f"{type(error).__name__}: {str(error)[:200]}"
        timed = sorted((t, label) for label, t in entry[name].items() if isinstance(t, float))
        for _, label in timed:
            if right(base | choices[label]):
                entry[name]["best"] = label
                return base | choices[label]
            entry.setdefault("not exact", []).append([name, label])
        return base

    entry["exact by default"] = right({})
    scored = sweep("score", score, SCORES, {})
    # few programs may suit scoring and many listing: judged by both together
    tops = {"scoring's best": scored} | {f"{label}": one for label, one in LISTS.items()}
    base = sweep("score and list", listed, tops, {key: scored[key] for key in scored if key in ("SCORE", "CARRY")})
    fused_best = sweep("whole, fused", whole_fused, ATTENDS, base)
    entry["whole, picked"] = time_of(whole_picked, base)
    entry["whole, now"] = time_of(whole_now, {})
    entry["encode"] = 1e6 * bench.timed(layers.encode, count, device, 1, None)["seconds"]
    entry["whole, best"] = time_of(whole_fused, fused_best)
    entry["settings"] = fused_best
    entry["dense"] = 1e6 * bench.dense(layers, count, device, 1, None)["seconds"]
    best = min(entry["whole, best"], entry["whole, picked"], entry["whole, now"])
    entry["speed-up"] = entry["dense"] / best
    entry["kernels"] = kernels(lambda: whole_fused(layers, 0), fused_best)
    entry["kernels, picked"] = kernels(lambda: whole_picked(layers, 0), base)
    return entry


def kernels(work: Callable[[], Any], options: dict[str, Any]) -> dict[str, float]:
    """Microseconds of each launch, by torch's profiler."""
    with setting(options):
        work()
        torch.cuda.synchronize()
        with torch.profiler.profile() as profile:
            for _ in range(10):
                work()
            torch.cuda.synchronize()
    averages = profile.key_averages()
    return {e.key[:40]: round(e.device_time, 2) for e in averages if e.device_time > 0 and "::" not in e.key}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=110)
    parser.add_argument("--warm", help="for the processes this starts")
    options = parser.parse_args()
    if options.warm:
        which, part, parts = map(int, options.warm.split(","))
        with torch.no_grad():
            warm(which, part, parts)
        return
    started = time.perf_counter()
    os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp())
    jobs = [f"{which},{part},3" for which in range(len(SHAPES)) for part in range(3)] + [f"{len(SHAPES)},0,1"]
    program = [sys.executable, "-W", "ignore", __file__, "--out", str(options.out), "--warm"]
    running = [
        subprocess.Popen([*program, job], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for job in jobs
    ]
    found: dict[str, Any] = {"warm": {}, "entries": []}
    for job, process in zip(jobs, running, strict=True):
        try:
            said = process.communicate(timeout=max(1.0, 70 - (time.perf_counter() - started)))[0]
        except subprocess.TimeoutExpired:
            process.kill()
            said = "took too long"
        found["warm"][job] = said[-1500:]
        if said.strip():
            print(f"warm {job}: {said[-600:]}", flush=True)
    print(f"compiled after {time.perf_counter() - started:.0f} s", flush=True)
    device = select_device("auto")
    device.prepare()

    def write() -> None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1, default=str))

    with torch.no_grad():
        try:
            found["odd"] = odd()
            print("odd cases:", found["odd"], flush=True)
        except Exception:
            found["odd"] = traceback.format_exc()
            print(found["odd"], flush=True)
        from npukv.bench.decode import copy_rate

        found["copy"] = copy_rate(device)
        for shape in SHAPES:
            if time.perf_counter() - started > options.seconds:
                print(f"left out: {shape.name}")
                continue
            try:
                found["entries"].append(shape_entry(shape, device, found["copy"]))
            except Exception:
                print(f"{shape.name}: {traceback.format_exc()}", flush=True)
                continue
            finally:
                device.release_memory()
                write()
            entry = found["entries"][-1]
            print(f"\n{entry['name']}: exact {entry['exact by default']}, dense {entry['dense']:.1f} us", flush=True)
            for name in ("score", "score and list", "whole, fused"):
                times = {k: round(v, 1) if isinstance(v, float) else v for k, v in entry[name].items()}
                print(f"  {name}: {times}", flush=True)
            parts = ("encode", "whole, now", "whole, picked", "whole, best", "speed-up", "aim")
            print("  " + ", ".join(f"{part} {entry[part]:.2f}" for part in parts), flush=True)
            print(f"  {entry['settings']} not exact: {entry.get('not exact')}", flush=True)
            print(f"  {entry['kernels']}\n  {entry['kernels, picked']}", flush=True)
    found["seconds"] = time.perf_counter() - started
    write()
    print(f"{found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
