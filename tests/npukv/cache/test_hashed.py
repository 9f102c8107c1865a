"""The hashed cache: what it attends to, that it is exact where it must be, and the pitfalls of cache layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from npukv.cache.hash_weights import HashWeights
from npukv.cache.hashed import HashedCache, HashedLayer, Selection
from npukv.errors import InputError, ModelError
from npukv.ops.hashing import hash_encode, reference


def prompt(lm: Any, tokens: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, len(lm.tokenizer), (1, tokens), generator=generator)


@torch.no_grad()
def steps(lm: Any, cache: Any, ids: torch.Tensor, first: int, chunk: int = 1000) -> torch.Tensor:
    """Logits [B, S - first, V] of the tokens from `first` on, fed one by one behind a prompt in chunks."""
    for start in range(0, first, chunk):
        lm.model(ids[:, start : min(start + chunk, first)], past_key_values=cache)
    return torch.cat([lm.model(ids[:, i : i + 1], past_key_values=cache).logits for i in range(first, ids.shape[1])], 1)


def stock(lm: Any) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=lm.model.config)


def small(lm: Any, **options: Any) -> HashedCache:
    return HashedCache(lm.model.config, **({"budget": 24, "sink": 2, "recent": 6, "dense_layers": 1} | options))


@pytest.mark.parametrize("options", [{"budget": 80}, {"keep": 1.0}, {"budget": 24, "dense_layers": 99}])
def test_attending_to_all_is_the_stock_cache_exactly(lm: Any, options: dict[str, Any]) -> None:
    if getattr(lm.model.config, "sliding_window", None):
        pytest.skip("all of its layers are sliding windows")
    ids = prompt(lm, 80)
    cache = HashedCache(lm.model.config, **options)
    assert torch.equal(steps(lm, cache, ids, 70), steps(lm, stock(lm), ids, 70))
    assert cache.get_seq_length() == 80


def test_generate_with_a_full_budget_says_what_the_stock_cache_says(llama: Any) -> None:
    ids = prompt(llama, 60)
    options = dict(max_new_tokens=12, do_sample=False)
    expected = llama.model.generate(ids, **options)
    got = llama.model.generate(ids, past_key_values=HashedCache(llama.model.config, 200), **options)
    assert torch.equal(got, expected)


def test_a_small_budget_changes_what_is_said(llama: Any) -> None:
    """So that the other tests do not compare a cache that selects nothing."""
    ids = prompt(llama, 120)
    full, selected = steps(llama, stock(llama), ids, 110), steps(llama, small(llama), ids, 110)
    assert not torch.allclose(full, selected, atol=1e-3)
    nearly = steps(llama, small(llama, budget=110), ids, 110)
    assert (nearly - full).norm() < (selected - full).norm() / 2


def fill(layer: HashedLayer, tokens: int, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(batch, 2, tokens, 16, generator=generator) for _ in range(2))
    layer.update(keys, values)
    layer.attend(torch.randn(batch, 4, tokens, 16, generator=generator), None, None)
    return keys, values


def new_layer(**selection: Any) -> HashedLayer:
    chosen = Selection(**({"budget": 20, "keep": None, "sink": 3, "recent": 5} | selection))
    return HashedLayer(chosen, lambda heads, width: HashWeights(64).layer(0, heads, width))


def test_a_token_attends_to_the_closest_codes_sinks_and_recent() -> None:
    layer = new_layer()
    keys, values = fill(layer, 90)
    key, value, query = (torch.randn(2, heads, 1, 16) for heads in (2, 2, 4))
    layer.update(key, value)
    out = layer.attend(query, None, None)
    keys, values = torch.cat((keys, key), 2), torch.cat((values, value), 2)
    weights = HashWeights(64).layer(0, 2, 16)
    signs = torch.einsum("bhsd,hdr->bhsr", keys, weights) > 0
    asked = torch.einsum("bhgd,hdr->bhgr", query.view(2, 2, 2, 16), weights) > 0
    for b in range(2):
        for h in range(2):
            distance = sum((signs[b, h] != asked[b, h, g]).sum(-1) for g in range(2)).tolist()
            order = sorted(range(91), key=lambda s, d=distance: (not (s < 3 or s >= 86), d[s], -s))[:20]
            for g in range(2):
                scores = keys[b, h, order] @ query[b, 2 * h + g, 0] / 4
                expected = scores.softmax(0) @ values[b, h, order]
                assert torch.allclose(out[b, 2 * h + g, 0], expected, atol=1e-5)


def test_codes_are_those_of_the_keys(llama: Any) -> None:
    cache = small(llama)
    steps(llama, cache, prompt(llama, 90), 70, chunk=33)
    for layer in cache.layers:
        assert (layer.codes is None) == (layer is cache.layers[0])
        if layer.codes is not None:
            expected = hash_encode(layer.keys[:, :, :90], layer.weights)
            assert torch.equal(layer.codes[:, :, :90], expected)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_a_prompt_in_chunks_is_the_prompt_at_once(llama: Any, chunk: int) -> None:
    """Also token by token, as long as the budget reaches."""
    ids = prompt(llama, 100)
    budget = 90 if chunk == 1 else 24
    at_once = steps(llama, small(llama, budget=budget), ids, 90)
    assert torch.allclose(steps(llama, small(llama, budget=budget), ids, 90, chunk), at_once, atol=2e-4)


def test_padded_rows_say_what_they_say_alone(llama: Any, padded_batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    ids, mask = padded_batch
    options = dict(max_new_tokens=8, do_sample=False, output_logits=True, return_dict_in_generate=True)
    options |= {"eos_token_id": None}
    cache = small(llama, budget=12)
    together = llama.model.generate(ids, attention_mask=mask, past_key_values=cache, **options)
    assert cache.layers[1].padding == [0, 7, 39]
    for row, padding in enumerate((0, 7, 39)):
        alone = llama.model.generate(ids[row : row + 1, padding:], past_key_values=small(llama, budget=12), **options)
        assert torch.equal(together.sequences[row, ids.shape[1] :], alone.sequences[0, ids.shape[1] - padding :])
        for one, other in zip(together.logits, alone.logits, strict=True):
            assert torch.allclose(one[row], other[0], atol=1e-3)


def test_other_masks_are_refused(llama: Any) -> None:
    ids = prompt(llama, 30)
    mask = torch.ones_like(ids)
    mask[0, 20:] = 0
    with pytest.raises(InputError, match="padding_side"):
        llama.model(ids, attention_mask=mask, past_key_values=small(llama))


def test_positions_follow_all_tokens_when_generation_resumes(llama: Any) -> None:
    ids = prompt(llama, 90)
    cache = small(llama)
    options = dict(do_sample=False, eos_token_id=None)
    first = llama.model.generate(ids, past_key_values=cache, max_new_tokens=6, **options)
    assert cache.get_seq_length() == 95
    more = llama.model.generate(first, past_key_values=cache, max_new_tokens=6, **options)
    once = llama.model.generate(ids, past_key_values=small(llama), max_new_tokens=12, **options)
    assert torch.equal(more, once)


def test_beam_search(llama: Any) -> None:
    ids = prompt(llama, 60)
    options = dict(num_beams=3, max_new_tokens=10, do_sample=False)
    expected = llama.model.generate(ids, **options)
    assert torch.equal(llama.model.generate(ids, past_key_values=small(llama, budget=99), **options), expected)
    cache = small(llama, budget=14)
    llama.model.generate(ids, past_key_values=cache, **options)
    layer = cache.layers[1]
    assert layer.keys.shape[0] == 3
    expected_codes = hash_encode(layer.keys[:, :, : layer.kept], layer.weights)
    assert torch.equal(layer.codes[:, :, : layer.kept], expected_codes)


def test_rows_are_picked_with_their_codes_and_padding() -> None:
    layer = new_layer()
    keys, _ = fill(layer, 30)
    layer.padding = [0, 4]
    layer.reorder_cache(torch.tensor([1, 1]))
    assert torch.equal(layer.keys[0, :, :30], keys[1])
    assert layer.padding == [4, 4]
    layer.batch_repeat_interleave(2)
    layer.batch_select_indices(torch.tensor([0, 3]))
    assert torch.equal(layer.codes[:, :, :30], hash_encode(layer.keys[:, :, :30], layer.weights))


@pytest.mark.parametrize("selection", [{"budget": 24}, {"budget": 500}, {"budget": None, "keep": 0.25}])
@pytest.mark.parametrize("padded", [False, True])
def test_frozen_steps_equal_eager_ones(llama: Any, selection: dict[str, Any], padded: bool) -> None:
    ids = prompt(llama, 100).repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, :30] = 0 if padded else 1

    def run(freeze: bool) -> tuple[torch.Tensor, HashedCache]:
        cache = small(llama, **selection)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = []
        with torch.no_grad():
            llama.model(ids[:, :90], attention_mask=mask[:, :90], position_ids=positions[:, :90], past_key_values=cache)
            if freeze:
                cache.freeze()
            for i in range(90, 100):
                seen = None if freeze else mask[:, : i + 1]
                asked = dict(attention_mask=seen, position_ids=positions[:, i : i + 1], past_key_values=cache)
                out.append(llama.model(ids[:, i : i + 1], **asked).logits)
                if freeze:
                    cache.advanced(1)
                    cache.maintain()
        return torch.cat(out, 1), cache

    frozen, cache = run(True)
    if selection.get("keep"):  # a frozen share stays that of the prompt
        assert cache.layers[1]._fixed == 23
        assert torch.isfinite(frozen).all()
        return
    assert torch.allclose(frozen, run(False)[0], atol=1e-3)
    assert cache.get_seq_length() == 100
    assert cache.layers[1].length.tolist() == [100, 100]
    cache.thaw()
    with torch.no_grad():
        llama.model(ids[:, :1], attention_mask=torch.cat((mask, mask[:, -1:]), 1), past_key_values=cache)
    assert cache.get_seq_length() == 101


def test_npukv_generate_takes_it(llama: Any) -> None:
    from npukv.decode import generate

    ids = prompt(llama, 90)
    expected = llama.model.generate(ids, past_key_values=small(llama), max_new_tokens=8, do_sample=False)
    for capture in (True, False):
        got = generate(llama, ids, cache=small(llama), max_new_tokens=8, capture=capture, prefill_chunk=40)
        assert torch.equal(got, expected)


def test_a_frozen_cache_is_full_at_its_room() -> None:
    layer = new_layer()
    fill(layer, 10)
    layer.freeze()
    assert layer.room >= 10 + 1024
    layer.advanced(layer.room - 10 - 1)
    layer.maintain()
    layer.advanced(1)
    with pytest.raises(InputError, match=r"full at 1280 tokens.*reserve"):
        layer.maintain()


def test_buffers_grow_geometrically_and_can_be_reserved(llama: Any) -> None:
    layer = new_layer()
    fill(layer, 1000)
    rooms = set()
    for _ in range(600):
        layer.update(torch.zeros(2, 2, 1, 16), torch.zeros(2, 2, 1, 16))
        rooms.add(layer.room)
    assert len(rooms) <= 3
    cache = small(llama)
    steps(llama, cache, prompt(llama, 40), 39)
    cache.reserve(3000)
    where = cache.layers[1].keys.data_ptr()
    assert cache.layers[1].room >= 3000
    steps(llama, cache, prompt(llama, 40), 39)
    assert cache.layers[1].keys.data_ptr() == where


def test_sliding_layers_stay_transformers_own(llama: Any) -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, sliding_window=24, max_position_embeddings=256,
        layer_types=["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(config).eval()
    cache = HashedCache(config, 200)
    kinds = [type(layer).__name__ for layer in cache.layers]
    assert kinds == ["HashedLayer", "DynamicSlidingWindowLayer", "DynamicSlidingWindowLayer", "HashedLayer"]
    ids = torch.randint(3, 300, (1, 70))
    options = dict(max_new_tokens=8, do_sample=False, eos_token_id=None)
    expected = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, past_key_values=cache, **options), expected)
    selecting = HashedCache(config, 24, dense_layers=1)
    assert model.generate(ids, past_key_values=selecting, **options).shape == (1, 78)
    assert selecting.layers[0].codes is None
    assert selecting.layers[3].codes is not None


def test_a_model_of_sliding_windows_alone_is_refused(load_tiny: Any) -> None:
    with pytest.raises(ModelError, match="no full-attention layer"):
        HashedCache(load_tiny("mistral-sliding").model.config)


def test_the_report_says_that_nothing_is_dropped(llama: Any) -> None:
    cache = small(llama)
    assert cache.report().physical_bytes == 0
    steps(llama, cache, prompt(llama, 100), 90)
    report = cache.report()
    assert (report.logical_tokens, report.physical_tokens, report.attended_tokens) == (100, 100, 24)
    layers = len(cache.layers)
    config = llama.model.config
    width = config.hidden_size // config.num_attention_heads
    assert report.logical_bytes == layers * 2 * config.num_key_value_heads * 100 * width * 4
    assert report.code_bytes == (layers - 1) * config.num_key_value_heads * cache.layers[1].room * 16
    assert report.physical_bytes > report.logical_bytes + (layers - 1) * config.num_key_value_heads * 100 * 16 - 1
    assert "attends to 24 of them" in str(report)
    assert "not smaller" in str(report)


def test_reset_forgets(llama: Any) -> None:
    ids = prompt(llama, 90)
    cache = small(llama)
    first = steps(llama, cache, ids, 80)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert torch.equal(steps(llama, cache, ids, 80), first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 19}, "budget of 19 tokens for 4 sink and 16 recent"),
        ({"budget": 64, "keep": 0.5}, "expected one of them"),
        ({"keep": 1.5}, "keep = 1.5"),
        ({"keep": 0.0}, "keep = 0.0"),
        ({"recent": 0}, "recent = 0"),
        ({"bits": 100}, "100 bits"),
        ({"weights": "nowhere.safetensors"}, "no such file"),
    ],
)
def test_what_does_not_fit_is_refused(llama: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HashedCache(llama.model.config, **options)


def test_the_budget_of_a_share() -> None:
    assert Selection(None, 0.25, 4, 16).tokens(1000) == 250
    assert Selection(None, 0.001, 4, 16).tokens(1000) == 20
    assert Selection(None, 0.5, 4, 16).tokens(10) == 10
    assert Selection(2048, None, 4, 16).tokens(100) == 100


def test_the_selection_is_the_references(llama: Any) -> None:
    """Through the operator, whichever kernel serves it."""
    layer = new_layer(budget=30)
    fill(layer, 200)
    layer.update(torch.randn(2, 2, 1, 16), torch.randn(2, 2, 1, 16))
    query = torch.randn(2, 4, 1, 16)
    out = layer.attend(query, None, None)
    length = torch.tensor([201, 201], dtype=torch.int32)
    codes = layer.codes[:, :, :201].contiguous()
    chosen = reference.hamming_select(reference.hash_encode(query, layer.weights), codes, length, 30, 3, 5).long()
    for b in range(2):
        for head in range(4):
            picked = chosen[b, head // 2]
            scores = layer.keys[b, head // 2, picked] @ query[b, head, 0] / 4
            expected = scores.softmax(0) @ layer.values[b, head // 2, picked]
            assert torch.allclose(out[b, head, 0], expected, atol=1e-5)
