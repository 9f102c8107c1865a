"""``npukv bench compress``: what compressing a cache costs, beside the prefill it belongs to, and what it frees.

Parity comes first: a cache that keeps everything must give the full cache's logits. Every round reads the same random
tokens into every cache, one after the other; the table gives medians, the JSON all samples and the environment.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def main(given: Sequence[str] | None = None) -> None:
    options = _arguments(given)
    began = time.perf_counter()
    import torch

    from npukv.backends import select
    from npukv.environment import as_given, environment

    device = select(options.device)
    dtype = getattr(torch, options.dtype) if options.dtype else device.default_dtype()
    network = _network(options.model, device, dtype)
    found: dict[str, Any] = {
        "environment": environment(),
        "device": device.description(),
        "model": options.model,
        "dtype": str(dtype).removeprefix("torch."),
        "options": as_given(options),
        "parity": _parity(network, device, options),
        "lengths": [],
    }
    for length in options.lengths:
        try:
            if time.perf_counter() - began > options.seconds:
                print(f"{length:,} tokens: left out, time was up (--seconds)", file=sys.stderr)
                continue
            found["lengths"].append(_measure(network, device, length, options, began + options.seconds))
        except Exception as error:
            if not device.is_out_of_memory(error):
                raise
            device.release_memory()
            print(f"{length:,} tokens do not fit this device's memory", file=sys.stderr)
    _print(found)
    if options.out is not None:
        from npukv.evaluation.summary import write_json

        write_json(options.out, found)
        print(f"written: {options.out}")


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    from npukv.bench.models import SHAPES

    parser = argparse.ArgumentParser(
        prog="npukv bench compress", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled", choices=["bundled", *SHAPES])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: the device's fastest")
    parser.add_argument("--lengths", type=_numbers, default=[2048, 8192], help="tokens read, comma-separated")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--keep", type=float, default=0.25, help="share of the tokens kept")
    parser.add_argument("--step", type=int, default=2048, help="tokens held beyond the goal before compressing")
    parser.add_argument("--chunk", type=int, default=4096, help="tokens read at a time, where not all at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=300, help="after that many, no further round begins")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser.parse_args(given)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _network(name: str, device: Any, dtype: Any) -> Any:
    """A model on the device, with npukv's attention."""
    if name == "bundled":
        from npukv.language_model import load

        return load(None, device, dtype).model
    from npukv import attention
    from npukv.bench.models import random_network

    attention.register()
    network = random_network(name, device, dtype)
    network.set_attn_implementation(attention.NAME)
    return network


def _caches(network: Any, options: argparse.Namespace) -> dict[str, tuple[Callable[[int], Any], int | None]]:
    """Name -> (makes a cache for so many tokens, tokens read at a time; None = all)."""
    import npukv
    from npukv.decode import full_cache

    def clustered(length: int) -> Any:
        return npukv.ClusteredCache(network.config, keep=options.keep, step=options.step)

    return {
        "full": (lambda length: full_cache(network, length), None),
        "clustered": (clustered, None),
        f"full, {options.chunk} at a time": (lambda length: full_cache(network, length), options.chunk),
        f"clustered, {options.chunk} at a time": (clustered, options.chunk),
    }


def _read(network: Any, ids: Any, cache: Any, chunk: int | None) -> Any:
    """The last token's logits, [B, V]."""
    import torch

    from npukv.cache.named import compress_now
    from npukv.decode import prefill

    with torch.no_grad():
        logits = prefill(network, ids, cache, [0] * ids.shape[0], chunk=chunk or ids.shape[1])
        compress_now(cache)
    return logits


def _parity(network: Any, device: Any, options: argparse.Namespace) -> dict[str, float]:
    """Keeping everything changes nothing. Raises SystemExit where it does."""
    import torch

    import npukv
    from npukv.decode import full_cache

    ids = torch.randint(network.config.vocab_size, (2, 300), generator=torch.Generator().manual_seed(0))
    ids = ids.to(device.torch_device)
    logits = [
        _read(network, ids, cache, 100)
        for cache in (full_cache(network, 300), npukv.ClusteredCache(network.config, keep=1.0))
    ]
    largest = float((logits[0].float() - logits[1].float()).abs().max())
    scale = float(logits[0].float().abs().max())
    found = {"largest_difference": largest, "largest_logit": scale}
    if largest > scale * (1e-4 if network.dtype == torch.float32 else 5e-2):
        sys.exit(f"a cache that keeps everything differs from the full one, so no speed is given: {json.dumps(found)}")
    return found


def _measure(network: Any, device: Any, length: int, options: argparse.Namespace, until: float) -> dict[str, Any]:
    import torch

    from npukv.bench.compress_parts import layer_parts
    from npukv.cache.named import figures, report_of

    ids = torch.randint(
        network.config.vocab_size, (options.batch, length), generator=torch.Generator().manual_seed(length)
    )
    ids = ids.to(device.torch_device)
    caches = _caches(network, options)
    seconds: dict[str, list[float]] = {name: [] for name in caches}
    sizes: dict[str, dict[str, int]] = {}
    for round_number in range(options.rounds + 1):
        if round_number > 1 and time.perf_counter() > until:
            break
        for name, (make, chunk) in caches.items():
            cache = make(length)
            device.synchronize()
            started = time.perf_counter()
            _read(network, ids, cache, chunk)
            device.synchronize()
            if round_number:  # the first one compiles and allocates
                seconds[name].append(time.perf_counter() - started)
            sizes[name] = figures(report_of(cache))
            del cache  # before the next one takes its room
    compressed = sizes["clustered"]
    if compressed["physical_tokens"] >= compressed["logical_tokens"]:
        sys.exit(f"nothing was compressed: {compressed}; read more tokens (--lengths), or lower --keep")
    return {
        "tokens": length,
        "batch": options.batch,
        "seconds": seconds,
        "size": sizes,
        "layers": network.config.num_hidden_layers,
        "parts": layer_parts(network, device, length, options.keep),
    }


def _print(found: dict[str, Any]) -> None:
    print(f"{found['model']}, {found['dtype']}, {found['device']}; parity: {found['parity']}")
    print(f"{'tokens':>9}  {'cache':32} {'prefill ms':>11} {'of full':>8}  tokens held, bytes")
    for entry in found["lengths"]:
        medians = {name: statistics.median(values) for name, values in entry["seconds"].items()}
        for name, median in medians.items():
            base = medians[name.replace("clustered", "full")]
            size = entry["size"][name]
            held, taken = size["physical_tokens"], size["physical_bytes"]
            print(
                f"{entry['tokens']:>9,}  {name:32} {1e3 * median:>11.1f} {median / base:>8.3f}  "
                f"{held:,} ({held / size['logical_tokens']:.1%}), {taken / 2**20:,.1f} MiB "
                f"({taken / size['logical_bytes']:.1%})"
            )
        whole = entry["parts"]["all"]["seconds"] * entry["layers"]
        print(
            f"{entry['tokens']:>9,}  compressing alone, all layers {1e3 * whole:.1f} ms: {whole / medians['full']:.2%}"
        )
        for name, part in entry["parts"].items():
            rate = part["least_bytes"] / part["seconds"] / 1e9
            print(f"{'':>9}  one layer, {name:20} {1e3 * part['seconds']:8.3f} ms, {rate:,.0f} GB/s of least bytes")


if __name__ == "__main__":
    main()
