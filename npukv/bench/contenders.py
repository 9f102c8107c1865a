"""Ways to take one decode step over a cache of some length, to be timed side by side."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

#: Steps a cache has room for beyond the length measured at.
ROOM = 256
#: Tokens fed at once to a cache that compresses.
CHUNK = 4096


class Contender:
    """A step that can be repeated, over a cache filled with random keys and values.

    Attributes:
        cache: its cache.
        layers: the layers of the model it goes through.
    """

    def __init__(self, network: Any, cache: Any, layers: int) -> None:
        self.cache = cache
        self.layers = layers
        self._network = network
        self._undo = ExitStack()

    def step(self) -> None:
        raise NotImplementedError

    def _fill(self, length: int) -> None:
        try:
            fill(self.cache, self._network, length)
        except BaseException:
            self.close()  # a cache that does not fit must not leave the model as it was for it
            raise

    def close(self) -> None:
        """Give the model back as it was, and the cache's memory."""
        self._undo.close()
        self.cache = None


class Stock(Contender):
    """transformers' growing cache and its own attention, launch by launch."""

    def __init__(self, network: Any, device: Any, length: int) -> None:
        from transformers import DynamicCache

        cache = DynamicCache(config=network.config)
        super().__init__(network, cache, len(cache.layers) or network.config.num_hidden_layers)
        fill(cache, network, length)
        self._token = torch.zeros(1, 1, dtype=torch.long, device=device.torch_device)

    def step(self) -> None:
        position = torch.full_like(self._token, self.cache.get_seq_length())
        logits = self._network(
            self._token, position_ids=position, past_key_values=self.cache, use_cache=True, logits_to_keep=1
        ).logits
        self._token = logits[:, -1].argmax(-1, keepdim=True)


class Compiled(Contender):
    """transformers' static cache under torch.compile: what a user of CUDA would pick. The first `layers` layers only,
    since each adds seconds of compiling."""

    def __init__(self, network: Any, device: Any, length: int, layers: int) -> None:
        from transformers import StaticCache

        whole, count = network.model.layers, network.config.num_hidden_layers

        def restore() -> None:
            network.model.layers, network.config.num_hidden_layers = whole, count
            torch._dynamo.reset()

        torch._dynamo.reset()
        network.model.layers, network.config.num_hidden_layers = whole[:layers], layers
        cache = StaticCache(config=network.config, max_cache_len=length + ROOM)
        super().__init__(network, cache, layers)
        self._undo.callback(restore)
        self._fill(length)
        self._compiled = torch.compile(network.forward, mode="reduce-overhead")
        self._token = torch.zeros(1, 1, dtype=torch.long, device=device.torch_device)
        self._position = torch.full_like(self._token, length)

    def step(self) -> None:
        torch.compiler.cudagraph_mark_step_begin()
        logits = self._compiled(
            self._token, position_ids=self._position, past_key_values=self.cache, use_cache=True, logits_to_keep=1
        ).logits
        self._token.copy_(logits[:, -1].argmax(-1, keepdim=True))
        self._position.add_(1)


class Npukv(Contender):
    """The step of `npukv.generate`: frozen and captured where the device captures.

    Args:
        make: makes the cache; called with the model's configuration and the tokens it needs room for.
        fuse: through the fused launches; None = where they serve.
    """

    def __init__(
        self, network: Any, device: Any, length: int, make: Callable[[Any, int], Any], fuse: bool | None = None
    ) -> None:
        from npukv.step import Chooser, Step, attending, thaw

        before = network.config._attn_implementation
        cache = make(network.config, length + ROOM)
        super().__init__(network, cache, network.config.num_hidden_layers)
        self._undo.callback(network.set_attn_implementation, before)  # making a cache may have switched it
        self._undo.enter_context(attending(network, cache))
        self._fill(length)
        self.frozen = device.captures
        ids = torch.zeros(1, 1, dtype=torch.long, device=device.torch_device)
        chooser = Chooser(ids, [0], [], 0, None)
        chooser.position.fill_(length)
        if self.frozen:
            if hasattr(cache, "reserve"):
                cache.reserve(length + ROOM)
            cache.freeze()
            self._undo.callback(thaw, cache)
        self.whole_step = Step(network, cache, chooser, frozen=self.frozen, fuse=fuse)
        self._replay = device.capture(self.whole_step) if self.frozen else self.whole_step

    def step(self) -> None:
        self._replay()
        if self.frozen:
            self.cache.advanced(1)
            self.cache.maintain()


def fill(cache: Any, network: Any, length: int) -> None:
    """Random keys and values as if `length` tokens had been read; what compresses, compresses as it would then."""
    from npukv.cache.clustered_layer import ClusteredLayer
    from npukv.cache.layer import AttendingLayer

    config = network.config
    heads = config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    generator = torch.Generator(network.device).manual_seed(0)
    layers = cache.layers if cache.layers else [None] * config.num_hidden_layers
    for index, layer in enumerate(layers):
        chunk = CHUNK if isinstance(layer, AttendingLayer) else length
        for start in range(0, length, chunk):
            size = (1, heads, min(chunk, length - start), width)
            keys, values = (
                torch.empty(size, dtype=network.dtype, device=network.device).normal_(generator=generator)
                for _ in range(2)
            )
            cache.update(keys, values, index)
            if isinstance(layer, ClusteredLayer):  # it stores what it is asked to attend to
                query = keys.new_ones(1, config.num_attention_heads, *keys.shape[2:])
                layer.attend(query, None, None)
            if start == 0 and hasattr(layer, "reserve"):
                layer.reserve(length + ROOM)


def bytes_per_step(contender: Contender, network: Any) -> int:
    """What a step cannot but move once: its weights, and what it attends to of the cache."""
    from npukv.cache.clustered_layer import ClusteredLayer
    from npukv.cache.hashed import HashedLayer

    blocks = network.model.layers[: contender.layers]
    modules = [*blocks, network.model.norm, network.lm_head]
    total = sum(weight.numel() * weight.element_size() for module in modules for weight in module.parameters())
    for layer in contender.cache.layers:
        keys, values = layer.keys, layer.values
        token = sum(held.shape[0] * held.shape[1] * held.shape[3] * held.element_size() for held in (keys, values))
        held = int(getattr(layer, "kept", 0) or layer.get_seq_length())
        if isinstance(layer, HashedLayer) and layer.codes is not None:
            total += held * layer.codes[:, :, :1].numel() * layer.codes.element_size()
            held = layer.selection.tokens(held)
        elif isinstance(layer, ClusteredLayer):
            total += held * keys.shape[0] * keys.shape[1] * 4  # log degrees
        total += held * token
    return total
