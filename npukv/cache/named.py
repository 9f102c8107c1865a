"""KV caches by the names the command line and the evaluation use: full, clustered, hashed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from npukv.errors import InputError

if TYPE_CHECKING:
    from transformers import Cache

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
        import npukv

        kind: Any = npukv.ClusteredCache if self.name == "clustered" else npukv.HashedCache
        if self.amount is None:
            return kind(lm.model.config)
        if isinstance(self.amount, float):
            return kind(lm.model.config, keep=self.amount)
        return kind(lm.model.config, budget=self.amount)

    def attended(self, held: int) -> int:
        """Tokens a new one attends to, of those held: all of them, but for a cache that selects."""
        if self.name != "hashed" or self.amount is None:
            return held
        return min(held, self.amount if isinstance(self.amount, int) else round(self.amount * held))


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


@dataclass(frozen=True)
class CacheSize:
    """What a cache holds, beside what a full one would.

    Attributes:
        logical_tokens: tokens seen, per sequence.
        physical_tokens: keys held for them.
        logical_bytes: what a full cache of them takes, all layers.
        physical_bytes: what this one takes, codes and unused room included.
    """

    logical_tokens: int
    physical_tokens: int
    logical_bytes: int
    physical_bytes: int

    def __str__(self) -> str:
        tokens, size = self.logical_tokens, self.logical_bytes
        held, taken = self.physical_tokens, self.physical_bytes
        return (
            f"{tokens:,} tokens seen -> {held:,} held ({held / max(1, tokens):.1%}), "
            f"{size / 2**20:,.2f} MiB -> {taken / 2**20:,.2f} MiB ({taken / max(1, size):.1%})"
        )


def measure_size(cache: Any) -> CacheSize:
    """The size of any cache: by its own report, else by its tensors."""
    if hasattr(cache, "report"):
        said = cache.report()
        return CacheSize(said.logical_tokens, said.physical_tokens, said.logical_bytes, said.physical_bytes)
    held = [layer for layer in cache.layers if getattr(layer, "is_initialized", False)]
    size = sum(tensor.numel() * tensor.element_size() for layer in held for tensor in (layer.keys, layer.values))
    tokens = cache.get_seq_length()
    return CacheSize(tokens, max((min(tokens, layer.keys.shape[2]) for layer in held), default=0), size, size)
