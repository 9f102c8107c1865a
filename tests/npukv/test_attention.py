"""Our attention inside transformers gives the stock attention's logits, wherever a mask could go wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    sliding_window_causal_mask_function,
)

import npukv
from npukv import attention
from npukv.errors import ModelError

ATTENDED = ("llama", "qwen2", "qwen3", "mistral", "mistral-sliding", "granite", "gpt2")
STOCK = ("sdpa", "eager")
CHUNKS = (1, 2, 30, 1, 1, 5)  # 40 tokens: past the sliding window of 24, within a chunk and between them


@pytest.fixture(params=ATTENDED)
def ours(request: pytest.FixtureRequest, load_tiny: Callable[[str], Any]) -> Any:
    lm = load_tiny(request.param)
    assert lm.model.config._attn_implementation == attention.NAME
    return lm


def stock_model(lm: Any, implementation: str = "sdpa") -> Any:
    return AutoModelForCausalLM.from_pretrained(lm.name, attn_implementation=implementation, dtype=torch.float32).eval()


@torch.no_grad()
def in_chunks(model: Any, ids: torch.Tensor, cache: Any, chunks: Sequence[int], mask: Any = None) -> torch.Tensor:
    """Logits [B, S, V] of a sequence read piece by piece."""
    logits, position = [], 0
    positions = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
    for chunk in chunks:
        end = position + chunk
        told = {} if mask is None else {"attention_mask": mask[:, :end], "position_ids": positions[:, position:end]}
        logits.append(model(ids[:, position:end], past_key_values=cache, **told).logits)
        position = end
    assert position == ids.shape[1]
    return torch.cat(logits, dim=1)


def assert_same(ours: torch.Tensor, stock: torch.Tensor) -> None:
    torch.testing.assert_close(ours, stock, rtol=2e-4, atol=2e-4 * stock.abs().max().item())


@pytest.mark.parametrize("implementation", STOCK)
def test_full_prefill(ours: Any, implementation: str, padded_batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    ids = padded_batch[0]
    with torch.no_grad():
        assert_same(ours.model(ids).logits, stock_model(ours, implementation)(ids).logits)


@pytest.mark.parametrize("chunks", [CHUNKS, (40,), (1,) * 40, (39, 1), (10, 30)])
def test_chunked_prefill_and_decode(
    ours: Any, chunks: Sequence[int], padded_batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    ids = padded_batch[0]
    with torch.no_grad():
        expected = stock_model(ours)(ids).logits
    for cache in (DynamicCache(config=ours.model.config), ours.new_cache(40)):
        assert_same(in_chunks(ours.model, ids, cache, chunks), expected)


@pytest.mark.parametrize("chunks", [(40,), CHUNKS, (38, 1, 1)])
def test_left_padded_rows_are_as_if_alone(
    ours: Any, chunks: Sequence[int], padded_batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    ids, mask = padded_batch
    logits = in_chunks(ours.model, ids, ours.new_cache(40), chunks, mask)
    stock = stock_model(ours)
    for row in range(3):
        begin = int((mask[row] == 0).sum())
        with torch.no_grad():
            alone = stock(ids[row : row + 1, begin:]).logits
        assert_same(logits[row, begin:], alone[0])


def test_the_window_matters(load_tiny: Callable[[str], Any], padded_batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Guards the tests above: equal weights, other logits, but only past the window."""
    ids = padded_batch[0]
    with torch.no_grad():
        sliding, full = (load_tiny(name).model(ids).logits for name in ("mistral-sliding", "mistral"))
    assert_same(sliding[:, :24], full[:, :24])
    assert (sliding[:, 30:] - full[:, 30:]).abs().max() > 0.1


@pytest.mark.parametrize("implementation", STOCK)
def test_generate(ours: Any, implementation: str, padded_batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    ids, mask = padded_batch
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 1, "eos_token_id": None}
    stock = stock_model(ours, implementation)
    expected = stock.generate(ids, attention_mask=mask, **options)
    assert torch.equal(ours.model.generate(ids, attention_mask=mask, **options), expected)
    cached = ours.model.generate(ids, attention_mask=mask, past_key_values=ours.new_cache(60), **options)
    assert torch.equal(cached, expected)


def test_packed_sequences_stay_apart(ours: Any, padded_batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """position_ids that begin again mean a new sequence, which must not see the one before."""
    ids = padded_batch[0][:1]
    positions = torch.cat([torch.arange(25), torch.arange(15)])[None]
    with torch.no_grad():
        packed = ours.model(ids, position_ids=positions, use_cache=False).logits
        assert_same(packed, stock_model(ours)(ids, position_ids=positions, use_cache=False).logits)
        assert_same(packed[:, 25:], ours.model(ids[:, 25:]).logits)


def test_no_mask_is_made_where_attention_is_plainly_causal(
    llama: Any, padded_batch: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    real = attention.mask
    monkeypatch.setattr(attention, "mask", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    attention.register()
    try:
        in_chunks(llama.model, padded_batch[0], llama.new_cache(40), CHUNKS)
        assert len(made) == len(CHUNKS)
        assert all(mask is None for mask in made)
        llama.model(*padded_batch[:1], attention_mask=padded_batch[1])
        assert made[-1].shape == (3, 40)
        assert made[-1].dtype is torch.bool
    finally:
        monkeypatch.undo()
        attention.register()


def expected_mask(q: int, kv: int, q_offset: int, visible: Callable[[int, int], bool]) -> list[list[bool]]:
    return [[visible(i + q_offset, j) for j in range(kv)] for i in range(q)]


def test_mask_is_none_for_causal_prefill_chunk_and_decode() -> None:
    for q, kv, offset in ((5, 5, 0), (5, 12, 7), (1, 12, 11)):
        assert attention.mask(1, q, kv, offset, mask_function=causal_mask_function) is None
        seen = torch.ones(1, kv, dtype=torch.bool)
        assert attention.mask(1, q, kv, offset, mask_function=causal_mask_function, attention_mask=seen) is None


def test_mask_is_made_for_everything_else() -> None:
    window = sliding_window_causal_mask_function(3)
    made = attention.mask(1, 4, 9, 5, mask_function=window, local_size=3)
    assert made[0, 0].tolist() == expected_mask(4, 9, 5, lambda i, j: i - 3 < j <= i)
    # the window is wider than the keys: causal by chance, still right
    made = attention.mask(1, 4, 4, mask_function=sliding_window_causal_mask_function(9), local_size=9)
    assert made is None or made[0, 0].tolist() == expected_mask(4, 4, 0, lambda i, j: j <= i)
    # a cache with room behind the last query
    made = attention.mask(1, 2, 8, 3, mask_function=causal_mask_function)
    assert made[0, 0].tolist() == expected_mask(2, 8, 3, lambda i, j: j <= i)
    padded = torch.tensor([[False, False, True, True, True]])
    assert attention.mask(1, 2, 5, 3, mask_function=causal_mask_function, attention_mask=padded).equal(padded)
    holes = torch.tensor([[False, True, False, True, True]])
    made = attention.mask(1, 2, 5, 3, mask_function=causal_mask_function, attention_mask=holes)
    assert made[0, 0].tolist() == expected_mask(2, 5, 3, lambda i, j: j in (1, 3, 4) and j <= i)


def test_left_padding_of_a_compressed_cache_counts_all_tokens_seen() -> None:
    """3 of 9 tokens are held; the mask still says which of all tokens are padding, without queries by keys."""
    padded = torch.tensor([[False, False, True, True, True, True, True, True, True, True]])
    assert attention.mask(1, 1, 4, 9, 6, mask_function=causal_mask_function, attention_mask=padded).equal(padded)


def test_keys_with_a_handle_are_attended_by_their_layer() -> None:
    class Layer:
        def attend(self, query: torch.Tensor, scaling: float | None, mask: torch.Tensor | None) -> torch.Tensor:
            return query * scaling + (0 if mask is None else 1)

    query, key = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 3, 8)
    key.npukv_layer = Layer()
    out, _ = attention.attend(torch.nn.Module(), query, key, key, None, scaling=0.5)
    assert torch.equal(out, (query * 0.5).transpose(1, 2))
    tokens = torch.ones(2, 3, dtype=torch.bool)
    out, _ = attention.attend(torch.nn.Module(), query, key, key, tokens, scaling=0.5)
    assert torch.equal(out, (query * 0.5 + 1).transpose(1, 2))


def test_bidirectional_attention_is_not_taken_for_causal() -> None:
    """transformers may skip the mask of a model that looks both ways: None means causal to us."""
    made = attention.mask(1, 4, 4, mask_function=bidirectional_mask_function, allow_is_bidirectional_skip=True)
    assert made is not None
    assert made.all()


@pytest.mark.parametrize("extra", ["softcap", "s_aux", "position_bias"])
def test_what_is_not_computed_is_refused(extra: str) -> None:
    tensor = torch.ones(1, 2, 3, 4)
    with pytest.raises(ModelError, match=extra) as error:
        attention.attend(torch.nn.Module(), tensor, tensor, tensor, None, **{extra: 30.0})
    if "attention=" in str(error.value):  # the remedy it names must exist
        assert "attention" in inspect.signature(npukv.load).parameters
    out, weights = attention.attend(torch.nn.Module(), tensor, tensor, tensor, None, **{extra: None})
    assert out.shape == (1, 3, 2, 4)
    assert weights is None


def test_a_model_with_capped_scores_keeps_its_own_attention(
    tokenizer: Any, tmp_path: Path, padded_batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        attn_logit_softcapping=2.0,
        sliding_window=24,
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ok, reason = attention.supports(config)
    assert not ok
    assert "softcap" in reason
    lm = npukv.load(tmp_path, device="cpu", dtype="float32")
    with torch.no_grad():
        stock = stock_model(lm, "eager")(padded_batch[0]).logits
    assert_same(in_chunks(lm.model, padded_batch[0], lm.new_cache(40), CHUNKS), stock)


def test_registering_again_changes_nothing(llama: Any, padded_batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    with torch.no_grad():
        before = llama.model(padded_batch[0]).logits
        attention.register()
        assert torch.equal(llama.model(padded_batch[0]).logits, before)
