"""The cache written in place is a full cache: same logits as transformers' own, and it can be cut back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from npukv.cache.preallocated import PreallocatedCache


def make(lm: Any, capacity: int) -> PreallocatedCache:
    return PreallocatedCache(lm.model.config.num_hidden_layers, capacity)


def random_ids(lm: Any, rows: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, len(lm.tokenizer), (rows, length), generator=generator)


@torch.no_grad()
def read(lm: Any, cache: Any, ids: torch.Tensor) -> torch.Tensor:
    return lm.model(ids, past_key_values=cache).logits


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "gpt2"])
def test_same_logits_as_a_growing_cache(load_tiny: Callable[[str], Any], name: str) -> None:
    lm = load_tiny(name)
    ids = random_ids(lm, 2, 37)
    ours, stock = make(lm, 50), DynamicCache(config=lm.model.config)
    for begin, end in ((0, 20), (20, 21), (21, 36), (36, 37)):
        mine, theirs = read(lm, ours, ids[:, begin:end]), read(lm, stock, ids[:, begin:end])
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
        assert ours.get_seq_length() == stock.get_seq_length() == end
    for mine, theirs in zip(ours.layers, stock.layers, strict=True):
        torch.testing.assert_close(mine.keys[:, :, :37], theirs.keys)
        torch.testing.assert_close(mine.values[:, :, :37], theirs.values)


def test_writes_in_place(llama: Any) -> None:
    cache = make(llama, 40)
    ids = random_ids(llama, 3, 40)
    read(llama, cache, ids[:, :10])
    places = [(layer.keys.data_ptr(), layer.values.data_ptr()) for layer in cache.layers]
    for i in range(10, 40):
        read(llama, cache, ids[:, i : i + 1])
    cache.rewind(5)
    read(llama, cache, ids[:, 5:])
    assert places == [(layer.keys.data_ptr(), layer.values.data_ptr()) for layer in cache.layers]
    assert cache.layers[0].keys.shape == (3, 2, 40, 16)


def test_update_returns_views_of_what_is_there(llama: Any) -> None:
    layer = make(llama, 8).layers[0]
    first, second = torch.randn(2, 2, 3, 16), torch.randn(2, 2, 2, 16)
    layer.update(first, -first)
    keys, values = layer.update(second, -second)
    assert torch.equal(keys, torch.cat([first, second], dim=2))
    assert torch.equal(values, -keys)
    assert keys.data_ptr() == layer.keys.data_ptr()
    assert layer.get_mask_sizes(4) == (9, 0)
    assert (layer.get_seq_length(), layer.get_max_length()) == (5, 8)


@given(data=st.data())
def test_rewound_and_read_on_is_as_read_afresh(llama_cached: Any, data: st.DataObject) -> None:
    """Whatever was written beyond the cut, by however many cuts, leaves no trace."""
    lm, prefix = llama_cached
    cache = make(lm, 40)
    read(lm, cache, prefix)
    for _ in range(data.draw(st.integers(1, 3))):
        length = data.draw(st.integers(1, 15))
        cut = data.draw(st.integers(0, prefix.shape[1]))
        cache.rewind(cut)
        assert cache.get_seq_length() == cut
        other = random_ids(lm, 2, length, data.draw(st.integers(0, 99)))
        fresh = make(lm, 40)
        if cut:
            read(lm, fresh, prefix[:, :cut])
        torch.testing.assert_close(read(lm, cache, other), read(lm, fresh, other), rtol=1e-5, atol=1e-5)
        cache.rewind(cut)
        if cut < prefix.shape[1]:
            read(lm, cache, prefix[:, cut:])


@pytest.fixture(scope="module")
def llama_cached(load_tiny: Callable[[str], Any]) -> tuple[Any, torch.Tensor]:
    lm = load_tiny("llama")
    return lm, random_ids(lm, 2, 20)


def test_rewinding_forward_does_nothing(llama: Any) -> None:
    cache = make(llama, 20)
    read(llama, cache, random_ids(llama, 1, 7))
    cache.rewind(15)
    assert cache.get_seq_length() == 7


def test_more_than_the_capacity_is_refused(llama: Any) -> None:
    cache = make(llama, 10)
    ids = random_ids(llama, 1, 12)
    read(llama, cache, ids[:, :9])
    with pytest.raises(ValueError, match=r"holds 10 tokens, got token 11: .*capacity"):
        read(llama, cache, ids[:, 9:11])
    assert cache.get_seq_length() == 9
    torch.testing.assert_close(read(llama, cache, ids[:, 9:10])[0, 0], read(llama, make(llama, 10), ids[:, :10])[0, 9])


def test_reset_empties(llama: Any) -> None:
    cache = make(llama, 10)
    ids = random_ids(llama, 1, 10)
    first = read(llama, cache, ids)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert torch.equal(read(llama, cache, ids), first)


def test_beam_search(llama: Any) -> None:
    """Beams are reordered within the cache."""
    ids = random_ids(llama, 1, 12)
    options: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}
    expected = llama.model.generate(ids, **options)
    assert torch.equal(llama.model.generate(ids, past_key_values=make(llama, 40), **options), expected)
