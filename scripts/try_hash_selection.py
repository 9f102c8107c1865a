"""Try the ways of selecting by hash codes on a card: exactness first, then microseconds of each setting and shape.

    PYTHONPATH=$PWD python scripts/try_hash_selection.py --out FILE --seconds 60

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
from npukv.bench.hashing import Layers, Shape
from npukv.bench.hashing_parity import RECENT, SINK, attended
from npukv.ops.attention import reference as attention
from npukv.ops.hashing import reference, triton_attend

SHAPES = (
    Shape(1, 32, 8, 131072, aim=5),
    Shape(1, 32, 32, 131072, aim=8),
    Shape(1, 32, 8, 524288, aim=10),
    Shape(8, 32, 32, 32768, aim=8),
)
SIFTS = {
    "default": {},
    "1 stage": {"SIFT": {"STAGES": 1}},
    "3 stages": {"SIFT": {"STAGES": 3}},
    "512 programs": {"SIFT": {"PROGRAMS": 512}},
    "512 programs, 3 stages": {"SIFT": {"PROGRAMS": 512, "STAGES": 3}},
    "sample of 512": {"SIFT": {"SAMPLE": 512}},
    "block 512, 3 stages": {"SIFT": {"BLOCK": 512, "STAGES": 3}},
}
WHOLES = SIFTS | {
    "attend: 264 programs": {"ATTEND": {"PROGRAMS": 264}},
    "attend: 1056 programs": {"ATTEND": {"PROGRAMS": 1056}},
    "attend: tile 256": {"ATTEND": {"TILE": 256}},
    "attend: 2 warps": {"ATTEND": {"num_warps": 2}},
    "attend: 264, block 64, 2 stages": {"ATTEND": {"PROGRAMS": 264, "BLOCK": 64, "STAGES": 2}},
    "attend: 2 stages": {"ATTEND": {"STAGES": 2}},
    "early": {"PDL": True},
    "early, 3 stages": {"PDL": True, "SIFT": {"STAGES": 3}},
    "early, 512 programs, 3 stages": {"PDL": True, "SIFT": {"PROGRAMS": 512, "STAGES": 3}},
    "early, attend: 264 programs": {"PDL": True, "ATTEND": {"PROGRAMS": 264}},
}
ODD: tuple[dict[str, Any], ...] = ({}, {"MARGIN": -8.0}, {"WINDOW": 4}, {"PDL": True})


@contextlib.contextmanager
def setting(options: dict[str, Any]) -> Iterator[None]:
    kept = {name: getattr(triton_attend, name) for name in options}
    try:
        for name, value in options.items():
            setattr(triton_attend, name, kept[name] | value if isinstance(value, dict) else value)
        yield
    finally:
        for name, value in kept.items():
            setattr(triton_attend, name, value)


class Sifted(Exception):
    """Raised in place of the launch that would attend."""


class NoLaunch:
    def __getitem__(self, grid: Any) -> Any:
        raise Sifted


def sift(layers: Layers, layer: int) -> None:
    """The first launch alone."""
    kept, triton_attend._attend_kernel = triton_attend._attend_kernel, NoLaunch()
    try:
        fused(layers, layer)
    except Sifted:
        pass
    finally:
        triton_attend._attend_kernel = kept


def fused(layers: Layers, layer: int, asked: torch.Tensor | None = None) -> torch.Tensor:
    asked = layers.asked[layer] if asked is None else asked
    held = layers.codes[layer], layers.keys[layer], layers.values[layer], layers.length
    return triton_attend.hashed_attention(layers.queries[layer], asked, *held, layers.shape.budget, SINK, RECENT)[0]


def whole_fused(layers: Layers, layer: int) -> torch.Tensor:
    return fused(layers, layer, layers.encode(layer))


def whole_lists(layers: Layers, layer: int) -> torch.Tensor:
    """As the operator does it now."""
    return layers.step(layer)


def count_of(shape: Shape) -> int:
    held = 2 * shape.batch * shape.kv_heads * shape.tokens * shape.width * 2
    coded = shape.batch * shape.kv_heads * shape.tokens * shape.bits // 8
    return max(1, min(-(-bench.CODES // coded), bench.ROOM // held))


def warm(which: int, part: int, parts: int) -> None:
    """Compile by launching once; in a process of its own."""
    if which == len(SHAPES):
        wrong = odd(ODD[part::parts])["wrong"]
        print(f"wrong: {wrong}" if wrong else "", end="")
        return
    layers = Layers(SHAPES[which], 1, torch.bfloat16, torch.device("cuda"))
    calls = [(whole_fused, one) for one in WHOLES.values()]
    calls += [(whole_lists, {})]
    for call, options in calls[part::parts]:
        try:
            with setting(options):
                call(layers, 0)
            torch.cuda.synchronize()
        except Exception as error:
            print(which, call.__name__, options, type(error).__name__, str(error)[:300], flush=True)


def odd(choices: tuple[dict[str, Any], ...]) -> dict[str, Any]:
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
                for options in choices:
                    with setting(options):
                        out = triton_attend.hashed_attention(query, asked, keys, key, value, *asked_for)[0]
                        error = float((out - expected).abs().max())
                        exact = attended(
                            asked, keys, length, chosen, (budget, SINK, RECENT), 128, torch.bfloat16, start
                        )
                    found["compared"] += 1
                    if not exact or not error <= 2e-2 * max(1.0, float(expected.abs().max())):
                        found["wrong"].append([group, lengths, budget, options, exact, error])
    return found


def shape_entry(shape: Shape, device: Any, copied: float) -> dict[str, Any]:
    count = count_of(shape)
    layers = Layers(shape, count, torch.bfloat16, device.torch_device)
    entry: dict[str, Any] = {"name": shape.name, "layers": count, "aim": shape.aim}
    layers.encode(0)  # a later one writes the same again
    bounds = shape.budget, SINK, RECENT
    expected = reference.hamming_select(layers.asked[0], layers.codes[0], layers.length, *bounds)
    exact = attention.indexed_attention(layers.queries[0], layers.keys[0], layers.values[0], expected)[0].float()

    def right(options: dict[str, Any]) -> bool:
        with setting(options):
            if float((fused(layers, 0).float() - exact).abs().max()) > 1e-2 * max(1.0, float(exact.abs().max())):
                return False
            return attended(
                layers.asked[0], layers.codes[0], layers.length, expected, bounds, shape.width, torch.bfloat16
            )

    def time_of(call: Callable[..., Any], options: dict[str, Any]) -> float:
        with setting(options):
            return 1e6 * bench.timed(lambda layer: call(layers, layer), count, device, 1, None)["seconds"]

    def sweep(name: str, call: Callable[..., Any], choices: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Times of every choice that is exact; returns the fastest."""
        entry[name] = {}
        for label, options in choices.items():
            try:
                entry[name][label] = time_of(call, options) if right(options) else "not exact"
            except Exception as error:
                entry[name][label] = f"{type(error).__name__}: {str(error)[:200]}"
        best = min((t, label) for label, t in entry[name].items() if isinstance(t, float))[1]
        entry[name]["best"] = best
        return choices[best]

    entry["exact by default"] = right({})
    sweep("sift", sift, SIFTS)
    best = sweep("whole", whole_fused, WHOLES)
    entry["settings"] = best
    entry["encode"] = time_of(lambda layers, layer: layers.encode(layer), {})
    entry["whole, lists"] = time_of(whole_lists, {})
    entry["whole, best"] = time_of(whole_fused, best)
    entry["dense"] = 1e6 * bench.dense(layers, count, device, 1, None)["seconds"]
    entry["speed-up"] = entry["dense"] / entry["whole, best"]
    entry["kernels"] = kernels(layers, count, {})
    return entry


def kernels(layers: Layers, count: int, options: dict[str, Any]) -> dict[str, float]:
    """Microseconds of each launch, by torch's profiler, over all layers' caches in turn."""
    with setting(options):
        whole_fused(layers, 0)
        torch.cuda.synchronize()
        with torch.profiler.profile() as profile:
            for i in range(max(10, count)):
                whole_fused(layers, i % count)
            torch.cuda.synchronize()
    averages = profile.key_averages()
    return {e.key[:40]: round(e.device_time, 2) for e in averages if e.device_time > 0 and "::" not in e.key}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--warm", help="for the processes this starts")
    options = parser.parse_args()
    if options.warm:
        which, part, parts = map(int, options.warm.split(","))
        with torch.no_grad():
            warm(which, part, parts)
        return
    started = time.perf_counter()
    os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp())
    jobs = [f"{which},{part},3" for which in range(len(SHAPES)) for part in range(3)] + [
        f"{len(SHAPES)},{part},{len(ODD)}" for part in range(len(ODD))
    ]
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
            found["odd"] = odd(ODD)
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
            for name in ("sift", "whole"):
                times = {k: round(v, 1) if isinstance(v, float) else v for k, v in entry[name].items()}
                print(f"  {name}: {times}", flush=True)
            parts = ("encode", "whole, lists", "whole, best", "speed-up", "aim")
            print("  " + ", ".join(f"{part} {entry[part]:.2f}" for part in parts), flush=True)
            print(f"  {entry['kernels']}", flush=True)
    found["seconds"] = time.perf_counter() - started
    write()
    print(f"{found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
