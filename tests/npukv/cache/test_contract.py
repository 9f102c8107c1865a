"""What goes silently wrong when a cache holds fewer keys than the model has seen: each pitfall, for each cache."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import DynamicCache

import npukv
from npukv import attention
from npukv.cache.layer import AttendingCache, AttendingLayer
from npukv.errors import InputError, ModelError

Make = Callable[[Any], Any]

CACHES: dict[str, Make] = {
    "clustered": lambda config: npukv.ClusteredCache(config, keep=0.5, chunk=16, sink=2, recent=8, step=24),
    "clustered-budget": lambda config: npukv.ClusteredCache(config, budget=40, chunk=16, sink=2, recent=8, step=24),
    "hashed": lambda config: npukv.HashedCache(config, budget=24),
}
COMPRESSING = ("clustered", "clustered-budget")
GREEDY: dict[str, Any] = {"do_sample": False, "pad_token_id": 1, "eos_token_id": None}


@pytest.fixture(params=CACHES)
def make(request: pytest.FixtureRequest) -> Make:
    return CACHES[request.param]


@pytest.fixture(params=COMPRESSING)
def compressing(request: pytest.FixtureRequest) -> Make:
    return CACHES[request.param]


@pytest.fixture(scope="module")
def model(load_tiny: Callable[[str], Any]) -> Any:
    """In float64: which keys merge is a choice, which rounding must not turn."""
    return deepcopy(load_tiny("llama").model).double()


def some_ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, 500, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def read(model: Any, cache: Any, ids: torch.Tensor, *cuts: int, **more: Any) -> torch.Tensor:
    """Logits of a sequence fed in pieces."""
    pieces = ids.split(list(cuts), dim=1) if cuts else (ids,)
    return torch.cat([model(piece, past_key_values=cache, **more).logits for piece in pieces], dim=1)


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_seen_and_kept(model: Any, compressing: Make) -> None:
    """1. Positions follow the tokens seen; masks are sized by the keys held."""
    cache = compressing(model.config)
    read(model, cache, some_ids(1, 150))
    layer = cache.layers[0]
    assert cache.get_seq_length() == layer.seen == 150
    assert layer.kept < 110
    assert layer.get_mask_sizes(3) == (layer.kept + 3, 150 - layer.kept)
    assert not cache.is_croppable
    assert layer.get_max_length() == -1


def test_positions_follow_the_tokens_seen(model: Any, compressing: Make) -> None:
    """1. The next token stands where it stands, also when a cache holds half of what came before."""
    ids, following = some_ids(1, 150), some_ids(1, 1, seed=1)
    by_default, told, wrong = (compressing(model.config) for _ in range(3))
    for cache in (by_default, told, wrong):
        read(model, cache, ids)
    where = torch.tensor([[150]])
    logits = read(model, by_default, following)
    close(logits, read(model, told, following, position_ids=where))
    kept = torch.tensor([[wrong.layers[0].kept]])
    assert (logits - read(model, wrong, following, position_ids=kept)).abs().max() > 1e-3


def test_generate_again_with_all_ids_feeds_only_the_new_ones(model: Any, make: Make) -> None:
    """1. Resumed equals fresh: 6 tokens and then 6 more are the 12 of one call."""
    ids = some_ids(1, 120)
    expected = model.generate(ids, past_key_values=make(model.config), max_new_tokens=12, **GREEDY)
    cache, fed = make(model.config), []
    first = model.generate(ids, past_key_values=cache, max_new_tokens=6, **GREEDY)
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        second = model.generate(first, past_key_values=cache, max_new_tokens=6, **GREEDY)
    finally:
        hook.remove()
    assert torch.equal(second, expected)
    assert fed == [1] * 6


def test_the_cache_switches_the_attention_and_its_mask_on(model: Any, make: Make) -> None:
    """2. Without a word from the user, the model attends by npukv's function and gets its masks."""
    model.set_attn_implementation("sdpa")
    make(model.config)
    assert model.config._attn_implementation == attention.NAME
    from transformers import AttentionInterface, AttentionMaskInterface

    assert attention.NAME in AttentionInterface() and attention.NAME in AttentionMaskInterface()


def test_a_model_that_does_not_ask_the_cache_is_refused(model: Any, compressing: Make) -> None:
    """2. An attention that reads the returned keys by itself would see only the last piece."""
    cache = compressing(model.config)
    model.set_attn_implementation("sdpa")
    try:
        read(model, cache, some_ids(1, 20))
        with pytest.raises(InputError, match="attends without asking"):
            read(model, cache, some_ids(1, 20))
    finally:
        model.set_attn_implementation(attention.NAME)


@pytest.mark.parametrize("cuts", [(100, 7), (60, 40, 7), (100, 1, 6), (100, 1, 1, 1, 4)])
def test_several_queries_over_more_keys(model: Any, make: Make, cuts: tuple[int, ...]) -> None:
    """3. Each of the 7 last tokens sees what is held and those before it: as if they came one by one."""
    ids = some_ids(2, 107)
    whole, pieces = make(model.config), make(model.config)
    if isinstance(whole, npukv.HashedCache) and 1 in cuts:
        pytest.skip("a hashed cache selects keys for single tokens, and only for them")
    read(model, whole, ids[:, :100])
    one = read(model, whole, ids[:, 100:])
    other = read(model, pieces, ids, *cuts)[:, 100:]
    assert [layer.kept for layer in whole.layers] == [layer.kept for layer in pieces.layers]
    close(other, one)


def test_no_mask_of_queries_by_keys(model: Any, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """4. Layers that hold different numbers share a mask: there is none, or one that says which tokens are padding."""
    made: list[Any] = []
    real = attention.mask
    monkeypatch.setattr(attention, "mask", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    attention.register()
    try:
        read(model, make(model.config), some_ids(2, 100), 60, 30, 10)
        assert made == [None] * 3
        ids, mask = padded(100, 30)
        read(model, make(model.config), ids, attention_mask=mask, position_ids=positions(mask))
        assert made[-1].shape == (2, 100)
    finally:
        monkeypatch.undo()
        attention.register()


def test_layers_that_hold_different_numbers(model: Any) -> None:
    """4. Half of the tokens in one layer, a quarter in the other; several queries are still causal in both."""
    ids = some_ids(1, 140)

    def made() -> Any:
        cache = npukv.ClusteredCache(model.config, keep=[0.5, 0.25], chunk=16, sink=2, recent=8, step=24)
        read(model, cache, ids[:, :130])
        return cache

    cache = made()
    assert cache.layers[0].kept > cache.layers[1].kept + 20
    together = read(model, cache, ids[:, 130:])
    changed = ids.clone()
    changed[:, 136:] += 1
    close(read(model, made(), changed[:, 130:])[:, :6], together[:, :6])


def padded(length: int, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows, the second begins with padding."""
    ids = some_ids(2, length)
    mask = torch.ones_like(ids)
    ids[1, :padding], mask[1, :padding] = 1, 0
    return ids, mask


def positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


@pytest.mark.parametrize("padding", [1, 47, 119])
def test_padded_rows_are_as_if_alone(model: Any, make: Make, padding: int) -> None:
    """5. A row's cache knows nothing of its padding, nor of the other row."""
    ids, mask = padded(120, padding)
    cache = make(model.config)
    together = read(model, cache, ids, attention_mask=mask, position_ids=positions(mask))
    for row, begin in ((0, 0), (1, padding)):
        alone = read(model, make(model.config), ids[row : row + 1, begin:])
        close(together[row, begin:], alone[0])


def test_padded_generation_is_as_if_alone(model: Any, make: Make) -> None:
    """5. Through decoding, with all that is compressed there."""
    ids, mask = padded(120, 47)
    together = model.generate(ids, attention_mask=mask, past_key_values=make(model.config), max_new_tokens=10, **GREEDY)
    for row, begin in ((0, 0), (1, 47)):
        own = ids[row : row + 1, begin:]
        alone = model.generate(
            own, attention_mask=torch.ones_like(own), past_key_values=make(model.config), max_new_tokens=10, **GREEDY
        )
        assert torch.equal(together[row, begin:], alone[0])


def test_padding_in_the_middle_is_refused(model: Any, compressing: Make) -> None:
    """5. Holes and padding on the right."""
    ids, mask = padded(40, 0)
    mask[1, 20:23] = 0
    with pytest.raises(InputError, match="left"):
        read(model, compressing(model.config), ids, attention_mask=mask)


def test_padding_that_changes_is_refused(model: Any, compressing: Make) -> None:
    ids, mask = padded(40, 5)
    cache = compressing(model.config)
    read(model, cache, ids, attention_mask=mask)
    later = torch.cat([mask, torch.ones(2, 3, dtype=mask.dtype)], dim=1)
    later[0, :2] = 0
    with pytest.raises(InputError, match="at first"):
        read(model, cache, some_ids(2, 3), attention_mask=later)


def test_offloading_and_cropping_are_refused(model: Any, make: Make) -> None:
    """6. Both would silently read the wrong keys."""
    cache = make(model.config)
    read(model, cache, some_ids(1, 10))
    with pytest.raises(InputError, match="not offloaded"):
        cache.layers[0].offload()
    with pytest.raises(InputError, match="DynamicCache"):
        cache.crop(-2)


def test_only_full_attention_layers_attend(load_tiny: Callable[[str], Any], make: Make) -> None:
    """7. Sliding layers of a hybrid model stay transformers' own, and the whole equals the stock model's windows."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        **{"vocab_size": 512, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4, "head_dim": 16},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 16, "use_sliding_window": True},
        max_window_layers=2,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).eval()
    cache = make(model.config)
    kinds = [isinstance(layer, AttendingLayer) for layer in cache.layers]
    assert kinds == [kind == "full_attention" for kind in config.layer_types]
    assert True in kinds and False in kinds
    ids = some_ids(1, 30)
    with torch.no_grad():
        stock = model(ids, past_key_values=DynamicCache(config=config)).logits
        exact = npukv.ClusteredCache(config, keep=1.0)
        torch.testing.assert_close(read(model, exact, ids, 11, 1, 18), stock, rtol=1e-4, atol=1e-4)
    read(model, cache, some_ids(1, 120), 60, 59, 1)
    assert cache.report().other_layers == 2


def test_nothing_to_compress_is_said(load_tiny: Callable[[str], Any], make: Make) -> None:
    """7. A model all of whose layers slide."""
    with pytest.raises(ModelError, match="no full-attention layer"):
        make(load_tiny("mistral-sliding").model.config)


def test_unsupported_attention_is_refused(make: Make) -> None:
    from transformers import Gemma2Config

    with pytest.raises(ModelError, match="softcap"):
        make(Gemma2Config(attn_logit_softcapping=2.0))


def test_reset_forgets(model: Any, make: Make) -> None:
    cache, ids = make(model.config), some_ids(1, 100)
    first = read(model, cache, ids)
    cache.reset()
    assert cache.get_seq_length() == 0
    close(read(model, cache, ids), first)


def test_beams(model: Any, make: Make) -> None:
    """Rows are reordered with all that belongs to them: beams of two prompts are those of each alone."""
    ids = some_ids(2, 60)
    options = GREEDY | {"num_beams": 3, "max_new_tokens": 8}
    together = model.generate(ids, past_key_values=make(model.config), **options)
    for row in range(2):
        alone = model.generate(ids[row : row + 1], past_key_values=make(model.config), **options)
        assert torch.equal(together[row], alone[0])


def test_contract_needs_no_more_than_it_says(llama: Any) -> None:
    """The least a layer must do: here, keep everything."""

    class Everything(AttendingLayer):
        def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
            self.is_initialized = True

        def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            self.keys = torch.cat([self.keys, key_states], dim=2)
            self.values = torch.cat([self.values, value_states], dim=2)
            self.seen = self.kept = self.keys.shape[2]
            return self.handle(self.keys), self.values

        def attend(self, query: torch.Tensor, scaling: float | None, mask: torch.Tensor | None) -> torch.Tensor:
            assert self.pad(mask, len(query)) == [0] * len(query)
            out, _ = attention.attend(torch.nn.Module(), query, self.keys, self.values, None, scaling=scaling)
            return out.transpose(1, 2)

        def report(self) -> Any:
            raise NotImplementedError

    ids = some_ids(2, 50)
    cache = AttendingCache(llama.model.config, lambda index: Everything())
    with torch.no_grad():
        expected = llama.model(ids, past_key_values=DynamicCache(config=llama.model.config)).logits
    torch.testing.assert_close(read(llama.model, cache, ids, 20, 1, 29), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="fixed buffers"):
        cache.freeze()
