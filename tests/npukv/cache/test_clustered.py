"""The clustered cache: exact where it must be, smaller where it says so, the same however tokens come."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

import npukv
from npukv.cache import clustered_layer
from npukv.cache.clustered_layer import Clustering
from npukv.cache.rotary import Rotary
from npukv.errors import InputError
from tests.npukv.cache.test_contract import GREEDY, close, padded, positions, read, some_ids

SMALL: dict[str, Any] = {"chunk": 16, "sink": 2, "recent": 8, "step": 24}


@pytest.fixture(scope="module")
def model(load_tiny: Callable[[str], Any]) -> Any:
    """In float64: which keys merge is a choice, which rounding must not turn."""
    return deepcopy(load_tiny("llama").model).double()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding compresses after a few tokens."""
    monkeypatch.setattr(clustered_layer, "SLACK", 10)


def degrees(layer: Any, row: int = 0) -> torch.Tensor:
    """[Hkv, kept] of one row."""
    return layer.bias[row, :, : layer.rows[row].kept].exp().round()


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "granite", "gpt2"])
def test_keeping_everything_is_the_stock_cache(load_tiny: Callable[[str], Any], name: str) -> None:
    """keep = 1, and a budget that is not reached: the same numbers, by the same kernels."""
    lm = load_tiny(name)
    ids = some_ids(2, 90)
    expected = read(lm.model, DynamicCache(config=lm.model.config), ids, 50, 1, 39)
    for choice in ({"keep": 1.0}, {"budget": 90}):
        cache = npukv.ClusteredCache(lm.model.config, **choice, **SMALL)
        assert torch.equal(read(lm.model, cache, ids, 50, 1, 39), expected)
        assert cache.report().physical_tokens == 90


@pytest.mark.parametrize("choice", [{"keep": 0.25}, {"budget": 40}])
def test_degrees_sum_to_the_tokens_seen(model: Any, soon: None, choice: dict[str, Any]) -> None:
    cache = npukv.ClusteredCache(model.config, **choice, **SMALL)
    ids = some_ids(2, 200)
    for cuts in ((90,), (30, 1, 1, 1, 1, 1, 1, 1, 1), (40,)):
        read(model, cache, ids[:, : sum(cuts)], *cuts)
        for layer in cache.layers:
            for row in range(2):
                assert (degrees(layer, row).sum(-1) == layer.seen).all()
                assert not layer.bias[row, :, layer.rows[row].kept :].any()


def test_sinks_and_recent_tokens_are_not_merged(model: Any) -> None:
    cache = npukv.ClusteredCache(model.config, keep=0.5, **SMALL)
    read(model, cache, some_ids(1, 100))
    cache.compress()
    for layer in cache.layers:
        assert (degrees(layer)[:, :2] == 1).all()
        assert (degrees(layer)[:, -8:] == 1).all()
        assert (degrees(layer) > 1).any()
        assert layer.kept == 50


def test_the_last_tokens_are_exact(model: Any) -> None:
    """Keys and values that were not merged are the stock cache's."""
    ids, stock = some_ids(1, 100), DynamicCache(config=model.config)
    read(model, stock, ids)
    cache = npukv.ClusteredCache(model.config, keep=0.5, **SMALL | {"step": 200})
    read(model, cache, ids)
    cache.compress()
    for mine, theirs in zip(cache.layers, stock.layers, strict=True):
        close(mine.keys[:, :, 42:50], theirs.keys[:, :, -8:])
        close(mine.values[:, :, :2], theirs.values[:, :, :2])


@pytest.mark.parametrize("choice", [{"keep": 0.25}, {"keep": 0.6}, {"budget": 40}])
@given(data=st.data())
def test_chunked_equals_one_shot(model: Any, choice: dict[str, Any], data: st.DataObject) -> None:
    """However a prompt of 150 tokens is cut into pieces of two and more."""
    cuts, left = [], 150
    while left:
        cut = data.draw(st.integers(2, 60))
        cuts.append(left if left - cut < 2 else cut)
        left -= cuts[-1]
    ids = some_ids(1, 150)
    one, other = (npukv.ClusteredCache(model.config, **choice, **SMALL) for _ in range(2))
    close(read(model, other, ids, *cuts), read(model, one, ids))
    assert one.layers[0].rows == other.layers[0].rows


def test_never_more_than_the_goal_and_a_step(model: Any) -> None:
    cache = npukv.ClusteredCache(model.config, budget=40, **SMALL)
    for piece in some_ids(1, 250).split(10, dim=1):
        read(model, cache, piece)
        assert cache.layers[0].kept <= 40 + 24
        assert cache.layers[0].room <= 40 + 24 + 24


def test_decoding_stays_small(model: Any, soon: None) -> None:
    cache = npukv.ClusteredCache(model.config, budget=40, **SMALL)
    model.generate(some_ids(1, 60), past_key_values=cache, max_new_tokens=60, **GREEDY)
    assert cache.layers[0].seen == 119
    assert cache.layers[0].kept <= 50
    report = cache.report()
    assert report.compressed
    assert report.physical_bytes < 0.8 * report.logical_bytes


def test_the_question_meets_a_compressed_context(model: Any) -> None:
    """`compress` by hand between context and question, to the token."""
    cache = npukv.ClusteredCache(model.config, keep=0.25, **SMALL | {"step": 999})
    read(model, cache, some_ids(1, 200))
    assert cache.layers[0].kept == 200
    cache.compress()
    assert cache.layers[0].kept == 50
    read(model, cache, some_ids(1, 9, seed=1))
    assert cache.layers[0].kept == 59


def test_a_cache_that_has_not_compressed_says_so(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    cache = npukv.ClusteredCache(model.config, keep=0.25, step=999)
    read(model, cache, some_ids(1, 230))
    with caplog.at_level(logging.WARNING, "npukv"):
        report = cache.report()
    assert not report.compressed
    assert "NOT COMPRESSED" in str(report)
    assert "230 tokens held of 230 seen" in caplog.text
    read(model, cache, some_ids(1, 1))
    caplog.clear()
    report = cache.report()
    assert report.compressed and "NOT" not in str(report) and not caplog.text
    assert report.physical_tokens == 59
    assert report.physical_bytes < 0.5 * report.logical_bytes


def test_what_is_merged_is_what_the_operators_say(model: Any) -> None:
    """One compression, done by hand from the stock cache's keys."""
    from npukv.ops.clustering import cluster, merge_centroids, merge_degrees, merge_plan

    ids, stock = some_ids(1, 120), DynamicCache(config=model.config)
    read(model, stock, ids)
    cache = npukv.ClusteredCache(model.config, keep=0.25, **SMALL | {"step": 999})
    read(model, cache, ids)
    cache.compress()
    recent = 8
    span = slice(2, 120 - recent)
    for index, layer in enumerate(stock.layers):
        plain = Rotary(model.config, index).undo(layer.keys[:, :, span], torch.arange(2, 120 - recent), 120)
        ones = torch.ones(plain.shape[:3])
        goal = 30 - 2 - recent
        places = cluster(plain, ones, merge_plan(120 - recent - 2, goal, 16))
        mine = cache.layers[index]
        close(mine.keys[:, :, 2 : 2 + goal], merge_centroids(layer.keys[:, :, span], ones, places, goal))
        close(mine.values[:, :, 2 : 2 + goal], merge_centroids(layer.values[:, :, span], ones, places, goal))
        assert torch.equal(degrees(mine)[:, 2 : 2 + goal], merge_degrees(ones, places, goal)[0])


@pytest.mark.parametrize("choice", [{"keep": 0.25}, {"budget": 40}])
def test_frozen_decoding_is_the_same(model: Any, soon: None, choice: dict[str, Any]) -> None:
    """Static buffers, lengths on the device, compressions between steps; rows of different lengths."""
    ids, mask = padded(100, 37)
    following = [some_ids(2, 1, seed=seed) for seed in range(40)]
    logits: list[list[torch.Tensor]] = []
    for frozen in (False, True):
        cache = npukv.ClusteredCache(model.config, **choice, **SMALL)
        read(model, cache, ids, attention_mask=mask, position_ids=positions(mask))
        if frozen:
            cache.reserve(140)
            cache.maintain()
            cache.freeze()
            places = [(layer.keys.data_ptr(), layer.bias.data_ptr()) for layer in cache.layers]
        steps = []
        for step, token in enumerate(following):
            where = torch.tensor([[100 + step], [63 + step]])
            grown = torch.cat([mask, torch.ones(2, step + 1, dtype=mask.dtype)], dim=1)
            steps.append(read(model, cache, token, attention_mask=None if frozen else grown, position_ids=where))
            if frozen:
                cache.advanced(1)
                cache.maintain()
        logits.append(steps)
        if frozen:
            assert places == [(layer.keys.data_ptr(), layer.bias.data_ptr()) for layer in cache.layers]
            assert cache.layers[0].length.tolist() == [row.kept for row in cache.layers[0].rows]
            cache.thaw()
            read(model, cache, some_ids(2, 3), position_ids=torch.tensor([[140, 141, 142], [103, 104, 105]]))
        assert [
            (degrees(cache.layers[0], row).sum(-1) - (140 - pad + 3 * frozen)).abs().max()
            for row, pad in ((0, 0), (1, 37))
        ] == [0, 0]
    at = next((i for i in range(40) if not torch.allclose(logits[0][i], logits[1][i], atol=1e-9)), 40)
    assert at == 40, f"step {at}"


def test_npukv_generate(model: Any, soon: None) -> None:
    ids = some_ids(1, 100)
    expected = model.generate(
        ids, past_key_values=npukv.ClusteredCache(model.config, keep=0.25, **SMALL), max_new_tokens=30, **GREEDY
    )
    for capture in (False, True):
        cache = npukv.ClusteredCache(model.config, keep=0.25, **SMALL)
        got = npukv.generate(model, ids, cache=cache, max_new_tokens=30, eos=[], capture=capture)
        assert torch.equal(got, expected)
        assert cache.report().physical_tokens < 50


def test_one_share_per_layer(model: Any) -> None:
    cache = npukv.ClusteredCache(model.config, keep=[1.0, 0.25], **SMALL)
    read(model, cache, some_ids(1, 200))
    cache.compress()
    assert [layer.kept for layer in cache.layers] == [200, 50]


@given(
    keep=st.one_of(st.none(), st.floats(0.01, 1.0)), seen=st.integers(0, 500), more=st.integers(0, 300),
    slack=st.integers(1, 300),
)  # fmt: skip
def test_until_is_when_the_slack_is_used_up(keep: float | None, seen: int, more: int, slack: int) -> None:
    settings = Clustering(keep, None if keep else 60, 64, 4, 8, 100, 0.25, 1.0)
    kept = settings.goal(seen) + min(more, slack - 1, seen - settings.goal(seen))
    tokens = settings.until(kept, seen, slack)
    if tokens < 1 << 60:
        assert kept + tokens - settings.goal(seen + tokens) >= slack
        assert tokens == 1 or kept + tokens - 1 - settings.goal(seen + tokens - 1) < slack
    else:
        assert keep is not None and keep == 1.0


ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    "yarn": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16,
    },
    "llama3": {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 16,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    },
}  # fmt: skip


def cosines(x: torch.Tensor) -> torch.Tensor:
    x = torch.nn.functional.normalize(x.float(), dim=-1)
    return x @ x.transpose(-1, -2)


@pytest.mark.parametrize("rope", ROPES)
def test_keys_are_turned_back(rope: str) -> None:
    """By the model's own embedding: angles between keys are those before RoPE. Beyond the trained length, too."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 16},
        **{"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64},
        rope_parameters=ROPES[rope],
    )
    check_turned_back(LlamaForCausalLM(config).eval(), 80)


@pytest.mark.parametrize("kind", ["Cohere", "Glm", "StableLm", "GPTNeoX", "SmolLM3", "Phi", "Gemma3"])
def test_keys_are_turned_back_in_other_models(kind: str) -> None:
    """Neighbouring pairs, parts of a head, layers without."""
    import transformers

    config = getattr(transformers, f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config")(
        **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4, "pad_token_id": 0},
        **{"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128},
        **({"head_dim": 16} if kind in ("Glm", "Gemma3") else {}),
    )
    check_turned_back(getattr(transformers, f"{kind}ForCausalLM")(config).eval(), 40)


def check_turned_back(model: Any, length: int) -> None:
    """Every layer is fed the same token everywhere: before RoPE its keys are equal, after it they are not."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.full((1, length), 5), past_key_values=cache)
    for index, layer in enumerate(cache.layers):
        if type(layer).__name__ != "DynamicLayer":
            continue
        rotary = Rotary(model.config, index)
        plain = rotary.undo(layer.keys, torch.arange(length), length)
        assert cosines(plain).min() > 0.9999
        assert plain.dtype == layer.keys.dtype
        if rotary.frequencies(layer.keys.shape[-1], length, layer.keys.device) is not None:
            assert cosines(layer.keys).min() < 0.99


def test_without_rotary_embedding_keys_stay(load_tiny: Callable[[str], Any]) -> None:
    keys = torch.randn(1, 2, 5, 16)
    assert Rotary(load_tiny("gpt2").model.config, 0).undo(keys, torch.arange(5), 5) is keys


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"keep": 0.5, "budget": 64}, "one of them"),
        ({"keep": 0.0}, "more than 0"),
        ({"keep": 1.5}, "at most 1"),
        ({"keep": [0.5]}, "one per layer"),
        ({"budget": 10}, "at least 32"),
        ({"keep": 0.5, "chunk": 1}, "chunk=1"),
        ({"keep": 0.5, "recent": 0}, "recent=0"),
        ({"keep": 0.5, "share": 0.7}, "share=0.7"),
    ],
)
def test_refusals(llama: Any, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        npukv.ClusteredCache(llama.model.config, **choice)
