"""What compressing costs a prefill, seen from outside: prompts read with it, without it, and with a stand-in for it."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

import npukv
from npukv.cache.clustered_layer import ClusteredLayer, Row
from npukv.cache.named import compress_now, figures, report_of
from npukv.decode import full_cache, prefill

#: Name -> tokens beyond the goal, tokens of the prompt read at a time (None = all), how compressing is done.
CACHES: dict[str, tuple[int, int | None, str]] = {
    "full": (0, None, "full"),
    "clustered": (2048, None, "as it ships"),
    "cut": (2048, None, "cut"),
    "clustered, step 8192": (8192, None, "as it ships"),
    "cut, step 8192": (8192, None, "cut"),
    "clustered, all at the end": (1 << 30, None, "as it ships"),
    "full, 8192 at a time": (0, 8192, "full"),
    "clustered, 8192 at a time": (2048, 8192, "as it ships"),
    "cut, 8192 at a time": (2048, 8192, "cut"),
    "clustered, 8192 at a time, step 8192": (8192, 8192, "as it ships"),
    "cut, 8192 at a time, step 8192": (8192, 8192, "cut"),
    "clustered, 8192 at a time, beside": (2048, 8192, "beside"),
    "clustered, 8192 at a time, step 8192, beside": (8192, 8192, "beside"),
}


def _cut(self: ClusteredLayer, part: slice, row: Row) -> Row:
    """In the place of `_compress`: the first keys stay, the others are dropped. What is read and held has its sizes."""
    settings = self.settings
    wanted = settings.goal(row.seen)
    recent = min(settings.recent, max(1, wanted // 3))
    start, end = max(settings.sink, row.done), row.kept - recent
    goal = max(1, wanted - start - recent)
    if end - start <= goal:
        return row
    kept = start + goal + recent
    for x in (self.keys, self.values):
        x[part, :, start + goal : kept] = x[part, :, end : row.kept].clone()
    return self._set(part, replace(row, kept=kept, done=start + goal))


@contextmanager
def _compressing(device: Any, how: str) -> Iterator[None]:
    """Within, layers compress as they do, by `_cut`, or beside: on a stream of its own, awaited before the next use."""
    kept = {name: getattr(ClusteredLayer, name) for name in ("_compress", "_reserve", "_resize")}
    stream = torch.Stream(device.torch_device) if how == "beside" else None

    def waits(name: str) -> Callable[..., Any]:
        def run(self: ClusteredLayer, *args: Any) -> Any:
            done = self.__dict__.pop("_done", None)
            if done is not None:
                torch.accelerator.current_stream().wait_event(done)
            return kept[name](self, *args)

        return run

    def beside(self: ClusteredLayer, part: slice, row: Row) -> Row:
        assert stream is not None
        stream.wait_event(torch.accelerator.current_stream().record_event())
        with stream:
            row = kept["_compress"](self, part, row)
            self.__dict__["_done"] = stream.record_event()
        return row

    try:
        if how == "cut":
            ClusteredLayer._compress = _cut  # type: ignore[method-assign]
        elif how == "beside":
            ClusteredLayer._compress = beside  # type: ignore[method-assign]
            ClusteredLayer._reserve = waits("_reserve")  # type: ignore[method-assign]
            ClusteredLayer._resize = waits("_resize")  # type: ignore[method-assign]
        yield
    finally:
        for name, function in kept.items():
            setattr(ClusteredLayer, name, function)


def prefill_costs(device: Any, options: argparse.Namespace, until: float) -> dict[str, Any]:
    """Seconds per prompt and cache, raw; how much the last logits differ from round to round, and when beside."""
    from npukv import attention
    from npukv.bench.models import SHAPES, random_network

    SHAPES["measured"] = SHAPES[options.model] | {"num_hidden_layers": options.layers}
    attention.register()
    network = random_network("measured", device, device.default_dtype())
    network.set_attn_implementation(attention.NAME)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(network.config.vocab_size, (1, options.tokens), generator=draw).to(device.torch_device)
    seconds: dict[str, list[float]] = {name: [] for name in CACHES}
    logits: dict[str, torch.Tensor] = {}
    repeated: dict[str, float] = {}
    sizes: dict[str, Any] = {}
    for round_number in range(4):
        for name, (step, chunk, how) in CACHES.items():
            if round_number > 1 and time.perf_counter() > until:
                break
            if how == "beside" and not device.captures:
                continue
            cache: Any = full_cache(network, options.tokens)
            if how != "full":
                cache = npukv.ClusteredCache(network.config, keep=0.25, step=step)
            with _compressing(device, how), torch.no_grad():
                device.synchronize()
                started = time.perf_counter()
                out = prefill(network, ids, cache, [0], chunk=chunk or options.tokens)
                compress_now(cache)
                device.synchronize()
            if round_number:  # the first one compiles and allocates
                seconds[name].append(time.perf_counter() - started)
            if name in logits:
                repeated[name] = max(repeated.get(name, 0.0), _apart(out, logits[name]))
            logits[name] = out
            sizes[name] = figures(report_of(cache))["physical_bytes"]
            del cache
    medians = {name: statistics.median(values) for name, values in seconds.items() if values}
    found: dict[str, Any] = {"layers": options.layers, "seconds": seconds, "bytes": sizes, "of full": {}}
    for name, median in medians.items():
        base = medians["full, 8192 at a time" if "at a time" in name else "full"]
        found["of full"][name] = round(median / base, 4)
        alone = name.replace(", beside", "").replace("clustered", "cut")
        if name.startswith("clustered") and alone in medians:
            share = (median - medians[alone]) / base
            found.setdefault("compressing, of full", {})[name] = round(share, 4)
    found["logits apart"] = {
        "from round to round": repeated,
        "beside": {
            name: _apart(value, logits[name.removesuffix(", beside")])
            for name, value in logits.items()
            if name.endswith(", beside")
        },
        "largest": max(float(value.abs().max()) for value in logits.values()),
    }
    return found


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().max())
