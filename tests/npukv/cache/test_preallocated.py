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
from npukv.errors import InputError, ModelError


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


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("padding", [[0, 0], [3, 0]])
def test_frozen_steps_attend_like_the_definition(window: int | None, padding: list[int]) -> None:
    """Two layers that share a place, three steps beyond the prompt; what lies beyond the length is garbage."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    cache = PreallocatedCache(2, 20, [window, window])
    keys, values = normal(2, 2, 2, 15, 8), normal(2, 2, 2, 15, 8)  # [layer, B, Hkv, S, D]
    for index, layer in enumerate(cache.layers):
        layer.update(keys[index][:, :, :12], values[index][:, :, :12])
        layer.keys[:, :, 12:], layer.values[:, :, 12:] = 1e4, float("nan")
    cache.pad(padding)
    cache.freeze()
    addresses = [tensor.data_ptr() for layer in cache.layers for tensor in (layer.keys, layer.length)]
    for length in range(13, 16):
        query = normal(2, 2, 4, 1, 8)  # [layer, B, Hq, 1, D]
        for index, layer in enumerate(cache.layers):
            token = slice(length - 1, length)
            handed, _ = layer.update(keys[index][:, :, token], values[index][:, :, token])
            assert handed.npukv_layer is layer
            got = layer.attend(query[index], 0.3, None)
            for row in range(2):
                first = max(padding[row], 0 if window is None else length - window)
                seen = keys[index][row, :, first:length].repeat_interleave(2, dim=0)  # [Hq, L, D]
                weights = (query[index][row] @ seen.mT * 0.3).softmax(-1)
                expected = weights @ values[index][row, :, first:length].repeat_interleave(2, dim=0)
                torch.testing.assert_close(got[row], expected, rtol=1e-5, atol=1e-5)
        cache.advanced(1)
        assert [layer.length.tolist() for layer in cache.layers] == [[length] * 2] * 2
        assert cache.get_seq_length() == length
    assert addresses == [tensor.data_ptr() for layer in cache.layers for tensor in (layer.keys, layer.length)]
    assert cache.layers[0].length is cache.layers[1].length
    cache.thaw()
    views, _ = cache.layers[0].update(normal(2, 2, 1, 8), normal(2, 2, 1, 8))
    assert views.shape[2] == 16
    assert not hasattr(views, "npukv_layer")


def test_windows_of_one_cache_have_places_of_their_own() -> None:
    cache = PreallocatedCache(3, 20, [4, None, 4])
    for layer in cache.layers:
        layer.update(torch.zeros(1, 1, 10, 4), torch.zeros(1, 1, 10, 4))
    cache.freeze()
    first, second, third = (layer.place for layer in cache.layers)
    assert first is third is not second
    for layer in cache.layers:
        layer.slots()
    assert [layer.length.tolist() for layer in cache.layers] == [[11]] * 3
    assert first.bias[0, 0].isneginf().nonzero().flatten().tolist() == list(range(7))
    assert second.bias is None


def test_nothing_is_frozen_before_it_is_there(llama: Any) -> None:
    cache = make(llama, 10)
    with pytest.raises(InputError, match="feed the prompt first"):
        cache.freeze()
    with pytest.raises(InputError, match="not frozen"):
        cache.layers[0].slots()
    with pytest.raises(InputError, match="not frozen"):
        cache.layers[0].attend(torch.zeros(1, 4, 1, 16), None, None)


def test_report(llama: Any) -> None:
    cache = make(llama, 40)
    assert cache.report().logical_tokens == 0
    read(llama, cache, random_ids(llama, 3, 10))
    report = cache.report()
    assert (report.logical_tokens, report.physical_tokens) == (10, 10)
    token = 2 * 3 * 2 * 16 * 4  # keys and values, rows, heads, width, float32
    assert report.physical_bytes == 2 * 40 * token
    assert report.logical_bytes == 2 * 10 * token


def test_for_config() -> None:
    from transformers import FalconH1Config, Gemma3TextConfig, LlamaConfig

    gemma = PreallocatedCache.for_config(Gemma3TextConfig(num_hidden_layers=6, sliding_window=32), 50)
    assert [layer.window for layer in gemma.layers] == [32] * 5 + [None]
    assert [layer.window for layer in PreallocatedCache.for_config(LlamaConfig(num_hidden_layers=3), 50).layers] == [
        None
    ] * 3
    with pytest.raises(ModelError, match="other kinds"):
        PreallocatedCache.for_config(FalconH1Config(num_hidden_layers=2), 50)


def test_generate_of_transformers_does_not_compile_it(llama: Any) -> None:
    """Its lengths are counted on the host: a compiled step would be compiled anew for every token."""
    cache = make(llama, 40)
    assert not cache.is_compileable
    assert not cache.is_croppable
