"""``npukv bench hashing``: one layer's decode attention by hash codes, beside dense attention over the same cache.

Parity comes first: codes, scores and selections must be the reference's exactly (codes: where the projection in float64
is not zero up to rounding), attention within rounding. Then, for each shape, the whole of it (encode the query, append
key, value and code, score, select, attend to the selected) is timed as it runs in a model: captured where the device
captures, over several layers' caches in turn, so that no layer finds its codes in the card's cache. Dense attention is
torch's scaled_dot_product_attention with each backend, timed the same way; the best one counts. At every shape the
selections (that of attention too) and the output are compared with the reference once more. The JSON holds all samples.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from npukv.bench.hashing_parity import RECENT, SINK, check, parity
from npukv.ops import hashing
from npukv.ops.attention import indexed_attention

SAMPLES = 7
#: Seconds one sample takes at least.
LONG_ENOUGH = {"captured": 0.008, "plain": 0.05}
#: Bytes of codes of all layers together, more than a card's own cache holds, and of keys and values at most.
CODES, ROOM = 160 << 20, 24 << 30


@dataclass(frozen=True)
class Shape:
    """A layer's attention while it decodes; `budget` of `tokens` are attended to."""

    batch: int
    heads: int
    kv_heads: int
    tokens: int
    width: int = 128
    bits: int = 128
    aim: float | None = None  # times faster than dense

    @property
    def budget(self) -> int:
        """1.56% of the tokens, the share of the paper's speed figures."""
        return max(self.tokens // 64, SINK + RECENT)

    @property
    def name(self) -> str:
        return f"{self.kv_heads} KV heads ({self.heads}), {self.batch} x {self.tokens:,}"


ON_CARD = (
    Shape(1, 32, 8, 131072, aim=5),
    Shape(1, 32, 32, 131072, aim=8),
    Shape(1, 32, 8, 524288, aim=10),
    Shape(8, 32, 32, 32768, aim=8),
    Shape(1, 32, 32, 32768),
)
ON_CPU = (Shape(1, 8, 2, 2048, 64), Shape(1, 8, 2, 8192, 64), Shape(1, 8, 2, 32768, 64), Shape(1, 8, 8, 8192, 64))
TOY = (Shape(1, 4, 2, 600, 32), Shape(2, 2, 2, 300, 32))


class Layers:
    """Random queries and caches of several layers, and what one decode step does in each."""

    def __init__(self, shape: Shape, count: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        generator = torch.Generator(device).manual_seed(0)

        def normal(*size: int) -> torch.Tensor:
            return torch.empty(size, dtype=dtype, device=device).normal_(generator=generator)

        batch, heads, kv_heads, width = shape.batch, shape.heads, shape.kv_heads, shape.width
        weights = hashing.random_orthogonal(kv_heads, width, shape.bits)
        self.weights = weights.to(device, dtype)
        self.queries = [normal(batch, heads, 1, width) for _ in range(count)]
        self.tokens = [(normal(batch, kv_heads, 1, width), normal(batch, kv_heads, 1, width)) for _ in range(count)]
        self.keys = [normal(batch, kv_heads, shape.tokens, width) for _ in range(count)]
        self.values = [normal(batch, kv_heads, shape.tokens, width) for _ in range(count)]
        self.codes = [hashing.hash_encode(keys, self.weights) for keys in self.keys]
        self.slot = torch.full((batch,), shape.tokens - 1, dtype=torch.int32, device=device)
        self.length = self.slot + 1
        self.asked = [hashing.hash_encode(query, self.weights) for query in self.queries]
        self.scores: list[torch.Tensor] = []
        self.indices = [self.select(layer) for layer in range(count)]

    def step(self, layer: int) -> torch.Tensor:
        """All of it."""
        cache = self.keys[layer], self.values[layer], self.codes[layer], self.length
        bounds = self.shape.budget, SINK, RECENT
        return hashing.hash_decode(self.queries[layer], *self.tokens[layer], self.weights, *cache, *bounds)[0]

    def encode(self, layer: int) -> torch.Tensor:
        key, value = self.tokens[layer]
        cache = self.keys[layer], self.values[layer], self.codes[layer], self.slot
        return hashing.hash_step(self.queries[layer], key, value, self.weights, *cache)

    def select(self, layer: int, asked: torch.Tensor | None = None) -> torch.Tensor:
        asked = self.asked[layer] if asked is None else asked
        return hashing.hamming_select(asked, self.codes[layer], self.length, self.shape.budget, SINK, RECENT)

    def selected(self, layer: int, asked: torch.Tensor | None = None) -> torch.Tensor:
        """Attention to what the codes select, as the cache calls it."""
        asked = self.asked[layer] if asked is None else asked
        held = self.codes[layer], self.keys[layer], self.values[layer], self.length
        return hashing.hashed_attention(self.queries[layer], asked, *held, self.shape.budget, SINK, RECENT)[0]

    def score(self, layer: int) -> torch.Tensor:
        return hashing.hamming_scores(self.asked[layer], self.codes[layer], self.length)

    def pick(self, layer: int) -> torch.Tensor:
        shape = self.shape
        largest = shape.heads // shape.kv_heads * shape.bits
        return hashing.select_top_k(self.scores[layer], self.length, shape.budget, SINK, RECENT, None, largest)

    def attend(self, layer: int, indices: torch.Tensor | None = None) -> torch.Tensor:
        indices = self.indices[layer] if indices is None else indices
        return indexed_attention(self.queries[layer], self.keys[layer], self.values[layer], indices)[0]

    def dense(self, layer: int) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            self.queries[layer], self.keys[layer], self.values[layer], enable_gqa=True
        )


def measure(shape: Shape, device: Any, dtype: torch.dtype, copied: float | None) -> dict[str, Any]:
    """Seconds per layer of all parts, and of dense attention."""
    where = device.torch_device
    held = 2 * shape.batch * shape.kv_heads * shape.tokens * shape.width * dtype.itemsize
    coded = shape.batch * shape.kv_heads * shape.tokens * shape.bits // 8
    count = max(1, min(-(-CODES // coded), ROOM // held)) if device.captures else 2
    layers = Layers(shape, count, dtype, where)
    entry: dict[str, Any] = {"shape": shape.__dict__ | {"budget": shape.budget}, "name": shape.name, "layers": count}
    entry["checked"] = check(layers, dtype)
    if not entry["checked"]["ok"]:
        raise ArithmeticError(f"{shape.name}: differs from the reference: {entry['checked']}")
    rows = shape.batch * shape.kv_heads
    gathered = 2 * rows * shape.budget * shape.width * dtype.itemsize
    encoded = layers.weights.numel() * dtype.itemsize
    parts: dict[str, tuple[Callable[[int], Any], int]] = {
        "whole": (layers.step, encoded + coded + gathered),
        "encode and append": (layers.encode, encoded),
        "select and attend": (layers.selected, coded + gathered),
        "score and select": (layers.select, coded + 4 * rows * shape.budget),
        "gather and attend": (layers.attend, gathered),
        "score alone": (layers.score, coded + 4 * rows * shape.tokens),
    }
    for name, (work, moved) in parts.items():
        entry[name] = timed(work, count, device, moved, copied)
    layers.scores = [layers.score(layer) for layer in range(count)]
    entry["select alone"] = timed(layers.pick, count, device, 4 * rows * shape.tokens, copied)
    entry["dense"] = dense(layers, count, device, held, copied)
    entry["speed-up"] = entry["dense"]["seconds"] / entry["whole"]["seconds"]
    return entry


def dense(layers: Layers, count: int, device: Any, held: int, copied: float | None) -> dict[str, Any]:
    """The fastest of torch's backends; what each took, or why it did not run."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    tried: dict[str, Any] = {}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):

        def work(layer: int, backend: Any = backend) -> torch.Tensor:
            with sdpa_kernel(backend):
                return layers.dense(layer)

        try:
            tried[backend.name.lower()] = timed(work, count, device, held, copied)
        except RuntimeError as error:
            tried[backend.name.lower()] = {"failed": str(error).strip().splitlines()[0][:200]}
    tried["default"] = timed(layers.dense, count, device, held, copied)
    ran = {name: entry for name, entry in tried.items() if "seconds" in entry}
    best = min(ran, key=lambda name: ran[name]["seconds"])
    return ran[best] | {"backend": best, "tried": tried}


def timed(work: Callable[[int], Any], count: int, device: Any, moved: int, copied: float | None) -> dict[str, Any]:
    """Seconds per layer (the median), all samples, and the rate at which it moves the bytes it cannot but move."""

    def all_layers() -> None:
        for layer in range(count):
            work(layer)

    replay = device.capture(all_layers)
    for _ in range(4):
        replay()
    device.synchronize()

    def sample(repeats: int) -> float:
        started = time.perf_counter()
        for _ in range(repeats):
            replay()
        device.synchronize()
        return (time.perf_counter() - started) / repeats / count

    enough = LONG_ENOUGH["captured" if device.captures else "plain"]
    repeats = max(1, min(1000, round(enough / max(sample(2) * count, 1e-7))))
    samples = [sample(repeats) for _ in range(SAMPLES)]
    seconds = statistics.median(samples)
    entry = {"seconds": seconds, "samples": samples, "repeats": repeats, "bytes": moved, "rate": moved / seconds}
    return entry | ({"of copy": moved / seconds / copied} if copied else {})


def kernels(shape: Shape, device: Any, dtype: torch.dtype) -> list[dict[str, Any]]:
    """What each launch of one step takes on the device, by torch's profiler."""
    layers = Layers(shape, 1, dtype, device.torch_device)
    for _ in range(3):
        layers.step(0)
    device.synchronize()
    with torch.profiler.profile() as profile:
        for _ in range(10):
            layers.step(0)
        device.synchronize()
    averages = [e for e in profile.key_averages() if e.device_time > 0 and "::" not in e.key]
    return [{"kernel": e.key[:80], "microseconds": e.device_time, "calls": e.count / 10} for e in averages]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="npukv bench hashing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--toy", action="store_true", help="sizes that only try the flow")
    parser.add_argument("--only", help="shapes whose names hold this")
    parser.add_argument("--seconds", type=float, default=75, help="begin no section after that many")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args(given)

    from npukv.backends import select
    from npukv.bench.decode import copy_rate
    from npukv.environment import environment

    device = select(options.device)
    device.prepare()
    dtype = getattr(torch, options.dtype) if options.dtype else device.default_dtype()
    started = time.perf_counter()
    found: dict[str, Any] = {"environment": environment(), "device": device.description(), "dtype": str(dtype)}
    found |= {"seconds": {}, "failed": {}, "entries": []}

    def write() -> None:
        if options.out is not None:
            from npukv.evaluation.summary import write_json

            write_json(options.out, found)

    def section(name: str, work: Callable[[], Any]) -> Any:
        """An error in one section is kept and told; the others run."""
        began = time.perf_counter()
        if began - started > options.seconds:
            found["failed"][name] = f"left out: {began - started:.0f} s had passed (--seconds)"
            return None
        try:
            return work()
        except Exception as error:
            found["failed"][name] = f"{type(error).__name__}: {error}"
            print(f"{name}: {traceback.format_exc()}", file=sys.stderr)
            return None
        finally:
            found["seconds"][name] = time.perf_counter() - began
            device.release_memory()
            write()

    with torch.no_grad():
        found["parity"] = section("parity", lambda: parity(device, dtype))
        if not (found["parity"] or {}).get("ok"):
            write()
            sys.exit(f"the kernels differ from the reference, so no speed is given: {json.dumps(found['parity'])}")
        print(f"parity: {json.dumps(found['parity'])}", flush=True)
        copied = None if options.toy else section("copy rate", lambda: copy_rate(device))
        found["copy_bytes_per_second"] = copied
        shapes = TOY if options.toy else ON_CARD if device.captures else ON_CPU
        for shape in (shape for shape in shapes if (options.only or "") in shape.name):
            entry = section(shape.name, partial(measure, shape, device, dtype, copied))
            if entry is not None:
                found["entries"].append(entry)
                print(line(entry), flush=True)
        found["kernels"] = {}
        for shape in shapes[:2]:
            found["kernels"][shape.name] = section(f"kernels, {shape.name}", partial(kernels, shape, device, dtype))
            for kernel in found["kernels"][shape.name] or []:
                print(f"  {kernel['microseconds']:8.1f} us x {kernel['calls']:g}  {kernel['kernel']}")
    write()
    for name, reason in found["failed"].items():
        print(f"failed: {name}: {reason}")


def line(entry: dict[str, Any]) -> str:
    """One shape: microseconds of the whole and of its parts, and the speed-up."""
    parts = (
        "encode and append",
        "select and attend",
        "score and select",
        "gather and attend",
        "score alone",
        "select alone",
    )
    text = f"{entry['name']}: {1e6 * entry['whole']['seconds']:.1f} us"
    text += f", dense {1e6 * entry['dense']['seconds']:.1f} us ({entry['dense']['backend']}): {entry['speed-up']:.2f}x"
    aim = entry["shape"]["aim"]
    text += f" (aim {aim:g}x)" if aim else ""
    for part in parts:
        share = f", {entry[part]['of copy']:.0%} of copy" if "of copy" in entry[part] else ""
        text += f"\n    {part:<18}{1e6 * entry[part]['seconds']:9.1f} us{share}"
    return text


if __name__ == "__main__":
    main()
