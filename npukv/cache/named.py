"""KV caches by the names the command line and the evaluation use: full, clustered, hashed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from npukv.errors import InputError

if TYPE_CHECKING:
    from transformers import Cache

    from npukv.cache.report import CacheReport
    from npukv.language_model import LanguageModel

NAMES = ("full", "clustered", "hashed")


@dataclass(frozen=True)
class CacheChoice:
    """A kind of cache and how much it may hold or attend to.

    Attributes:
        name: one of `NAMES`.
        amount: int = tokens, float = share of the tokens seen (0 to 1]; None = the cache's own default.
    """

    name: str
    amount: int | float | None = None

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise InputError(f"got cache {self.name!r}, expected one of: {', '.join(NAMES)}")
        if self.amount is None:
            return
        if self.name == "full":
            raise InputError(f"got an amount ({self.amount}) for the full cache, which keeps everything; leave it out")
        if isinstance(self.amount, float) and not 0 < self.amount <= 1:
            raise InputError(f"got {self.amount} as the share to keep, expected more than 0 and at most 1")
        if isinstance(self.amount, int) and self.amount < 1:
            raise InputError(f"got a budget of {self.amount} tokens, expected at least 1")

    def make(self, lm: LanguageModel, capacity: int) -> Cache:
        """A new, empty cache for sequences of at most `capacity` tokens.

        Raises:
            ModelError: the model's attention is not one this cache can stand in for.
            InputError: the amount is too small for the cache's sinks and recent tokens.
        """
        if self.name == "full":
            return lm.new_cache(capacity)
        kind: Any
        if self.name == "clustered":
            from npukv.cache.clustered import ClusteredCache as kind
        else:
            from npukv.cache.hashed import HashedCache as kind
        if self.amount is None:
            return kind(lm.model.config)
        if isinstance(self.amount, float):
            return kind(lm.model.config, keep=self.amount)
        return kind(lm.model.config, budget=self.amount)


def parse_amount(text: str) -> int | float:
    """ "0.25" -> 0.25 (a share), "2048" -> 2048 (tokens).

    Raises:
        InputError: neither.
    """
    if re.fullmatch(r"\d+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        raise InputError(f"got {text!r}, expected a share such as 0.25, or a number of tokens such as 2048") from None


def compress_now(cache: Cache) -> None:
    """Have a cache that waits with compressing do it: what comes next must not see what will be merged."""
    if hasattr(cache, "compress"):
        cache.compress()


def report_of(cache: Cache) -> CacheReport:
    """What any cache holds: by its own report, else by its layers' tensors."""
    from npukv.cache.report import LayerReport, total

    if hasattr(cache, "report"):
        return cache.report()
    layers = []
    for layer in cache.layers:
        if getattr(layer, "is_initialized", False):
            size = sum(tensor.numel() * tensor.element_size() for tensor in (layer.keys, layer.values))
            tokens = layer.get_seq_length()
            layers.append(LayerReport(tokens, min(tokens, layer.keys.shape[2]), size, size))
    return total(layers)


def figures(report: CacheReport) -> dict[str, int]:
    """The figures of a report, JSON-ready; attended_tokens: keys a new token attends to."""
    return {
        "logical_tokens": report.logical_tokens,
        "physical_tokens": report.physical_tokens,
        "attended_tokens": getattr(report, "attended_tokens", report.physical_tokens),
        "logical_bytes": report.logical_bytes,
        "physical_bytes": report.physical_bytes,
    }
