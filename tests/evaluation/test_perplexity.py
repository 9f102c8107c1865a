"""Perplexity and bits per byte against values known in closed form, and through a cache."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npukv.errors import InputError, ModelError
from npukv.evaluation.perplexity import measure_perplexity


def test_a_uniform_model(chains: Any, text: str) -> None:
    """All logits 0: every token costs log V, whatever the windows."""
    lm = chains.load({})
    found = measure_perplexity(lm, text)
    assert found.perplexity == pytest.approx(len(lm.tokenizer), rel=1e-5)
    assert found.tokens == len(lm.encode(text)) and found.bytes == len(text.encode())
    assert found.bits_per_byte == pytest.approx(
        found.tokens * math.log2(len(lm.tokenizer)) / len(text.encode()), rel=1e-5
    )


def test_one_window_is_the_models_own_loss(llama: Any, text: str) -> None:
    short = text[:200]
    ids = torch.tensor([[llama.tokenizer.bos_token_id, *llama.encode(short)]])
    with torch.inference_mode():
        loss = float(llama.model(ids, labels=ids).loss)
    found = measure_perplexity(llama, short)
    assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-4)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(3, 64), st.data())
def test_every_token_counts_once_whatever_the_windows(chains: Any, text: str, window: int, data: st.DataObject) -> None:
    """A model that looks at the last token alone gives the same sum for all windows."""
    lm = _looks_back_once(chains)
    stride = data.draw(st.integers(1, window - 2))
    short = text[:300]
    whole = measure_perplexity(lm, short)
    assert whole.tokens <= 255  # a single window
    found = measure_perplexity(lm, short, window=window, stride=stride, batch=data.draw(st.integers(1, 5)))
    assert found.tokens == whole.tokens and found.nats == pytest.approx(whole.nats, rel=1e-4)


_made: dict[str, Any] = {}


def _looks_back_once(chains: Any) -> Any:
    if "lm" not in _made:
        _made["lm"] = chains.load({" the": 4.0, "and ": 3.0, "the LORD": 5.0})
    return _made["lm"]


@pytest.mark.parametrize("chunk", [1, 7, 300])
def test_a_full_cache_changes_nothing(llama: Any, text: str, chunk: int) -> None:
    short = text[:900]
    plain = measure_perplexity(llama, short)
    cached = measure_perplexity(llama, short, cache=lambda: llama.new_cache(256), chunk=chunk)
    assert cached.tokens == plain.tokens and cached.nats == pytest.approx(plain.nats, rel=1e-4)


def test_a_cache_that_forgets_shows(llama: Any, text: str) -> None:
    """The hook is real: a cache that keeps nothing of the past gives another likelihood."""
    from transformers import DynamicCache

    class Forgetful(DynamicCache):
        def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
            keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
            past = keys.shape[2] - key_states.shape[2]
            return torch.cat([keys[:, :, :past] * 0, key_states], 2), torch.cat(
                [values[:, :, :past] * 0, value_states], 2
            )

    plain = measure_perplexity(llama, text[:900])
    forgetful = measure_perplexity(llama, text[:900], cache=lambda: Forgetful(config=llama.model.config), chunk=16)
    assert abs(forgetful.nats - plain.nats) > 1e-2 * plain.nats


def test_bad_input(llama: Any, text: str) -> None:
    for window, stride in ((2, None), (257, None), (64, 63), (64, 0), (64, -1)):
        with pytest.raises(InputError, match="window"):
            measure_perplexity(llama, text, window=window, stride=stride)
    with pytest.raises(InputError, match="empty"):
        measure_perplexity(llama, "  ")


def test_damaged_weights_are_an_error(save_model: Any, text: str) -> None:
    import npukv

    lm = npukv.load(save_model("llama", seed=7), device="cpu", dtype="float32")
    lm.model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="not a number"):
        measure_perplexity(lm, text[:300])
