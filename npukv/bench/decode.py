"""``npukv bench decode``: one decode step, by cache and length, beside transformers' own and the bytes it must move.

Parity comes first: on a small random model the captured step, plain and fused, must say the tokens that the stock model
says, and its logits in the card's type must be the stock model's up to rounding. Then every way of taking a step is
timed over caches filled with random keys, and given beside its byte limit: the bytes of its weights and of what it
attends to, at the rate this device copies memory, measured in the same run. The JSON holds all samples.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

#: Steps per sample and samples per contender; more where some steps compress, so that all of that is in their mean.
STEPS, SAMPLES, COMPRESSING_SAMPLES = 5, 7, 44
WARM_UP = 4
#: Layers the compiled stock step is measured with: each adds seconds of compiling, and the whole step follows from two.
COMPILED_LAYERS = (2, 6)


def main(given: Sequence[str] | None = None) -> None:
    options = _arguments(given)
    import torch

    from npukv.backends import select
    from npukv.bench.models import random_network
    from npukv.bench.products import product_rates
    from npukv.environment import environment

    device = select(options.device)
    on_card = device.captures
    options.model = options.model or ("llama-2-7b" if on_card else "bundled")
    dtype = getattr(torch, options.dtype) if options.dtype else device.default_dtype()
    found: dict[str, Any] = {
        "environment": environment(),
        "device": device.description(),
        "model": options.model,
        "dtype": str(dtype).removeprefix("torch."),
        "steps_per_sample": STEPS,
        "failed": {},
        "entries": [],
    }
    run = _Run(options, found)
    device.prepare()
    with torch.no_grad():
        found["parity"] = run.section("parity", lambda: parity(device, dtype, options.parity_model))
        if found["parity"] is None or not found["parity"]["ok"]:
            run.write()
            sys.exit(
                "the captured step differs from the stock model, so no speed is given: " + json.dumps(found["parity"])
            )
        found["copy_bytes_per_second"] = run.section("copy rate", lambda: copy_rate(device))
        if options.model == "bundled":
            from npukv.language_model import load

            network = load(None, device, dtype).model
            network.set_attn_implementation("sdpa")
        else:
            network = random_network(options.model, device, dtype)
        lengths = options.lengths or ([32768, 131072, 8192] if on_card else [1500])
        if on_card:
            found["kernels"] = run.section("kernels", lambda: product_rates(network, device))
        for name, length, make in contenders(network, device, lengths, options):
            entry = run.section(
                f"{name} at {length:,}",
                partial(measure, name, make, network, device, length, found["copy_bytes_per_second"]),
            )
            gc.collect()  # the next one needs the room
            device.release_memory()
            if entry is not None:
                found["entries"].append(entry)
                run.write()
                print(_line(entry, found["entries"]), flush=True)
        found["compiled"] = whole_compiled(found["entries"], network.config.num_hidden_layers)
    run.write()
    _print(found)


class _Run:
    """Sections under one limit of time: an error in one is kept and told, the others run."""

    def __init__(self, options: argparse.Namespace, found: dict[str, Any]) -> None:
        self._options, self._found = options, found
        self._started = time.perf_counter()

    def section(self, name: str, work: Callable[[], Any]) -> Any:
        elapsed = time.perf_counter() - self._started
        if elapsed > self._options.seconds:
            self._found["failed"][name] = f"left out: {elapsed:.0f} s had passed (--seconds)"
            return None
        try:
            return work()
        except DoesNotFit as error:
            self._found["failed"][name] = str(error)
            print(f"{name}: {error}", flush=True)
            return None
        except Exception as error:
            self._found["failed"][name] = f"{type(error).__name__}: {error}"
            print(f"{name}: {traceback.format_exc()}", file=sys.stderr)
            return None
        finally:
            self._found.setdefault("seconds", {})[name] = time.perf_counter() - self._started - elapsed
            self.write()

    def write(self) -> None:
        if self._options.out is not None:
            from npukv.evaluation.summary import write_json

            write_json(self._options.out, self._found)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="npukv bench decode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["bundled", "llama-2-7b", "llama-3-8b", "small", "tiny"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: the device's fastest")
    parser.add_argument("--lengths", type=lambda text: [int(part) for part in text.split(",")], help="comma-separated")
    parser.add_argument("--only", help="contenders whose names begin so, comma-separated")
    parser.add_argument("--keep", type=float, default=0.25, help="share of the tokens the clustered cache keeps")
    parser.add_argument("--select", type=float, default=0.015625, help="share the hashed cache attends to")
    parser.add_argument("--compiled-at", type=int, default=32768, help="length the compiled stock step is measured at")
    parser.add_argument("--parity-model", default="tiny", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=140, help="begin no section after that many")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser.parse_args(given)


def contenders(
    network: Any, device: Any, lengths: Sequence[int], options: argparse.Namespace
) -> list[tuple[str, int, Callable[[], Any]]]:
    """(name, length, makes a Contender), in the order measured."""
    from npukv.bench.contenders import Compiled, Npukv, Stock
    from npukv.cache.clustered import ClusteredCache
    from npukv.cache.hashed import HashedCache
    from npukv.cache.preallocated import PreallocatedCache

    def at(length: int) -> list[tuple[str, int, Callable[[], Any]]]:
        def ours(make: Any, fuse: bool | None = None) -> Callable[[], Any]:
            return lambda: Npukv(network, device, length, make, fuse)

        budget = max(64, round(options.select * length))
        found = [
            ("full", ours(PreallocatedCache.for_config)),
            (f"hashed, {options.select:.2%}", ours(lambda config, room: HashedCache(config, budget=budget))),
            (f"clustered, {options.keep:.0%}", ours(lambda config, room: ClusteredCache(config, keep=options.keep))),
            ("stock", lambda: Stock(network, device, length)),
        ]
        if device.captures:
            found.insert(1, ("full, modules as they are", ours(PreallocatedCache.for_config, False)))
        return [(name, length, make) for name, make in found]

    found = []
    for length in lengths:
        found += at(length)
        if device.captures and length == options.compiled_at:
            found += [
                (f"stock static compiled, {layers} layers", length, partial(Compiled, network, device, length, layers))
                for layers in COMPILED_LAYERS
                if layers <= network.config.num_hidden_layers
            ]
    wanted = tuple(options.only.split(",")) if options.only else ("",)
    return [contender for contender in found if contender[0].startswith(wanted)]


def measure(name: str, make: Any, network: Any, device: Any, length: int, copy_rate: float | None) -> dict[str, Any]:
    """Time the contender's steps, in seconds per step, and weigh its cache."""
    from npukv.bench.contenders import bytes_per_step

    device.synchronize()
    device.release_memory()
    free = device.free_memory()
    needed = bytes_needed(name, network, length)
    if needed > free:
        raise DoesNotFit(f"left out: it needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free")
    steps = COMPRESSING_SAMPLES * STEPS if name.startswith("clustered") else 0
    contender = make()
    try:
        for _ in range(WARM_UP + steps):  # merging is compiled when it is first due
            contender.step()
        if steps:
            contender.close()
            contender = make()
            for _ in range(WARM_UP):
                contender.step()
        device.synchronize()
        taken = free - device.free_memory()
        samples = []
        for _ in range(COMPRESSING_SAMPLES if name.startswith("clustered") else SAMPLES):
            started = time.perf_counter()
            for _ in range(STEPS):
                contender.step()
            device.synchronize()
            samples.append((time.perf_counter() - started) / STEPS)
        needed = bytes_per_step(contender, network)
        entry: dict[str, Any] = {
            "name": name,
            "length": length,
            "layers": contender.layers,
            "seconds": samples,
            "median": statistics.median(samples),
            "mean": statistics.fmean(samples),
            "bytes": needed,
            "memory_taken": taken,
        }
        if copy_rate:
            entry["limit"] = needed / copy_rate
        step = getattr(contender, "whole_step", None)
        if step is not None:
            entry |= {"fused": step.fused, "fused_reason": step.reason, "frozen": contender.frozen}
            report = contender.cache.report()
            entry["report"] = {
                field: getattr(report, field)
                for field in ("logical_tokens", "physical_tokens", "logical_bytes", "physical_bytes")
            }
        return entry
    finally:
        contender.close()


class DoesNotFit(Exception):
    """A contender that is not tried, because the device lacks the memory for it."""


def bytes_needed(name: str, network: Any, length: int) -> int:
    """Memory a contender takes beside the weights: its keys and values, and one layer's copy where the cache grows."""
    config = network.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layer = 2 * (length + 256) * config.num_key_value_heads * width * network.dtype.itemsize
    layers = config.num_hidden_layers
    if name.startswith("stock static"):
        layers = int(name.split()[-2])
    held = layers * layer
    if name.startswith("clustered"):
        held = int(held * float(name.rstrip("%").split()[-1]) / 100)
    return held + 2 * layer  # a layer as it comes, and as it grows


def whole_compiled(entries: Sequence[dict[str, Any]], layers: int) -> dict[str, float]:
    """Seconds per layer of the compiled stock step, and of a step through all layers, from two numbers of layers."""
    found = sorted((one["layers"], one["median"]) for one in entries if one["name"].startswith("stock static"))
    if len(found) != 2:
        return {}
    (few, first), (more, second) = found
    each = (second - first) / (more - few)
    return {"per_layer": each, "whole": second + (layers - more) * each}


def copy_rate(device: Any) -> float:
    """Bytes read and written per second by a copy too large for any cache."""
    import torch

    size = (1 << 31) if device.captures else (1 << 27)
    source = torch.ones(size, dtype=torch.uint8, device=device.torch_device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(6):
        device.synchronize()
        started = time.perf_counter()
        for _ in range(4):
            target.copy_(source)
        device.synchronize()
        best = min(best, (time.perf_counter() - started) / 4)
    return 2 * size / best


def parity(device: Any, dtype: Any, shape: str) -> dict[str, Any]:
    """Tokens in float32, and logits in `dtype`, of captured steps beside the stock model's."""
    import torch
    from transformers import DynamicCache

    from npukv.bench.models import random_network
    from npukv.cache.preallocated import PreallocatedCache
    from npukv.decode import prefill
    from npukv.step import Chooser, Step, attending

    prompt, new = 150, 12
    found: dict[str, Any] = {"tokens_equal": {}, "logits": {}}
    for kind in dict.fromkeys([torch.float32, dtype]):
        network = random_network(shape, device, kind)
        for weight in network.parameters():
            weight.mul_(2.5) if weight.dim() > 1 else None  # decided enough to tell tokens apart
        ids = torch.randint(512, (1, prompt), generator=torch.Generator().manual_seed(1)).to(device.torch_device)
        stock = DynamicCache(config=network.config)
        logits = network(ids, past_key_values=stock).logits[:, -1]
        expected = [logits]
        for _ in range(new):
            expected.append(network(expected[-1].argmax(-1)[:, None], past_key_values=stock).logits[:, -1])
        tokens = [int(one.argmax(-1)) for one in expected]
        for fuse in (False, True):
            cache = PreallocatedCache.for_config(network.config, prompt + new + 8)
            with attending(network, cache):
                chooser = Chooser(ids, [0], [], 0, None)
                chooser(prefill(network, ids, cache, [0]))
                cache.freeze()
                step = Step(network, cache, chooser, fuse=fuse)
                replay = device.capture(step)
                said, largest = [int(chooser.said)], 0.0
                for i in range(new):
                    chooser.token.fill_(tokens[i])  # whatever it said: the same token to both
                    replay()
                    said.append(int(chooser.said))
                    difference = (step.logits.float() - expected[i + 1].float()).abs().max()
                    largest = max(largest, float(difference / expected[i + 1].float().std()))
            name = f"{str(kind).removeprefix('torch.')}, {'fused' if fuse else 'modules'}"
            found["tokens_equal"][name] = said == tokens
            found["logits"][name] = largest
    bounds = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.05}
    found["ok"] = all(
        found["logits"][name] <= bounds[name.partition(",")[0]]
        and (found["tokens_equal"][name] or not name.startswith("float32"))
        for name in found["logits"]
    )
    return found


def _line(entry: dict[str, Any], entries: Sequence[dict[str, Any]]) -> str:
    stock = [one for one in entries if one["length"] == entry["length"] and one["name"] == "stock"]
    limit = f"{1e3 * entry['limit']:8.2f} {entry['median'] / entry['limit']:6.2f}" if "limit" in entry else " " * 15
    faster = f"{stock[0]['median'] / entry['median']:6.2f}" if stock else " " * 6
    held = ""
    if "report" in entry:
        report = entry["report"]
        held = f"{report['physical_tokens']:,} tokens, {report['physical_bytes'] / 2**30:.2f} GiB"
        if entry["name"].startswith("clustered"):
            held += f"; mean {1e3 * entry['mean']:.2f} ms, compressing included"
    return (
        f"{entry['length']:>8,}  {entry['name']:34} {1e3 * entry['median']:8.2f} {limit} {faster}  "
        f"{entry['memory_taken'] / 2**30:7.2f}  {held}"
    )


def _print(found: dict[str, Any]) -> None:
    rate = found["copy_bytes_per_second"]
    print(f"\n{found['model']}, {found['dtype']}, {found['device']}; copies {(rate or 0) / 1e12:.2f} TB/s")
    for name, rates in (found.get("kernels") or {}).items():
        print(f"  {name:20} " + ", ".join(f"{way} {value / 1e12:.2f} TB/s" for way, value in rates.items()))
    print(f"{'length':>8}  {'cache':34} {'ms':>8} {'limit':>8} {'ratio':>6} {'faster':>6}  {'GiB':>7}  held")
    for entry in sorted(found["entries"], key=lambda one: one["length"]):
        print(_line(entry, found["entries"]))
    if found["compiled"]:
        whole, each = found["compiled"]["whole"], found["compiled"]["per_layer"]
        print(f"stock static compiled: {1e3 * each:.3f} ms per layer, {1e3 * whole:.2f} ms for all layers")
    for name in dict.fromkeys(entry["name"] for entry in found["entries"]):
        faster = [
            entry["length"]
            for entry in found["entries"]
            for stock in found["entries"]
            if entry["name"] == name and stock["name"] == "stock" and stock["length"] == entry["length"]
            if entry["mean"] < stock["mean"]
        ]
        if name.startswith(("full", "hashed", "clustered")):
            print(f"{name}: faster than stock at " + (", ".join(f"{one:,}" for one in sorted(faster)) or "no length"))
    for name, reason in found["failed"].items():
        print(f"not measured: {name}: {reason}")


if __name__ == "__main__":
    main()
