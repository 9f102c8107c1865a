"""`npukv.decode.generate` says what `model.generate` says, however it gets there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, DynamicCache

from npukv import decode, fused
from npukv.backends import CaptureFailed
from npukv.cache.preallocated import Place, PreallocatedCache
from npukv.decode import generate
from npukv.errors import DeviceError, InputError, ModelError
from npukv.step import can_freeze

NEW = 24


def random_ids(lm: Any, rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, len(lm.tokenizer), (rows, length), generator=torch.Generator().manual_seed(seed))


def stock(lm: Any, ids: torch.Tensor, mask: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
    """transformers alone: its own attention, its own cache."""
    model = AutoModelForCausalLM.from_pretrained(lm.name, attn_implementation="sdpa", dtype=torch.float32).eval()
    mask = torch.ones_like(ids) if mask is None else mask
    options = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0} | options
    return model.generate(ids, attention_mask=mask, **options)


def early_end(lm: Any, rows: torch.Tensor, prompt: int) -> int:
    """A token that some row says in the middle, to end at."""
    return int(rows[0, prompt + 5])


@pytest.fixture(params=[False, True], ids=["plain", "frozen"])
def capture(request: pytest.FixtureRequest) -> bool:
    return request.param


def test_greedy(lm: Any, capture: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every architecture: grouped heads, biases, normed heads, sliding windows, learned positions."""
    ids = random_ids(lm, 1, 40)
    advanced = []
    advance = Place.advance
    monkeypatch.setattr(Place, "advance", lambda place: advanced.append(1) or advance(place))
    got = generate(lm, ids, max_new_tokens=NEW, capture=capture, eos=[])
    assert torch.equal(got, stock(lm, ids, eos_token_id=None))
    assert len(advanced) == (NEW - 1 if capture else 0)  # one place for all layers


def test_left_padded_batch(lm: Any, capture: bool, padded_batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    ids, mask = padded_batch
    expected = stock(lm, ids, mask, eos_token_id=None)
    got = generate(lm, ids, attention_mask=mask, max_new_tokens=NEW, capture=capture, prefill_chunk=9, eos=[])
    assert torch.equal(got, expected)


def test_rows_end_on_their_own(llama: Any, capture: bool, padded_batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    ids, mask = padded_batch
    free = stock(llama, ids, mask, eos_token_id=None)
    ends = [int(free[0, 45]), int(free[1, 50]), int(free[2, 43])]
    expected = stock(llama, ids, mask, eos_token_id=ends, pad_token_id=7)
    assert expected.shape[1] < free.shape[1]
    llama.model.generation_config.pad_token_id = 7
    try:
        got = generate(llama, ids, attention_mask=mask, max_new_tokens=NEW, capture=capture, eos=ends)
    finally:
        llama.model.generation_config.pad_token_id = None
    assert torch.equal(got, expected)


@settings(max_examples=12)
@given(data=st.data())
def test_any_chunks_and_any_resumption(llama_session: Any, data: st.DataObject) -> None:
    """A first answer, then a longer prompt over the same cache, in chunks of any size: as read afresh."""
    lm = llama_session
    prompt, more = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 20))
    first, second = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
    options: dict[str, Any] = {"prefill_chunk": data.draw(st.integers(1, 40)), "eos": []}
    cache = PreallocatedCache(2, prompt + first + more + second)
    said = generate(
        lm, random_ids(lm, 1, prompt), cache=cache, max_new_tokens=first, capture=data.draw(st.booleans()), **options
    )
    assert cache.get_seq_length() == prompt + first - 1
    longer = torch.cat([said, random_ids(lm, 1, more, seed=1)], dim=1)
    got = generate(lm, longer, cache=cache, max_new_tokens=second, capture=data.draw(st.booleans()), **options)
    fresh = generate(lm, longer, max_new_tokens=second, capture=False, eos=[])
    assert torch.equal(got, fresh)


@pytest.fixture(scope="module")
def llama_session(load_tiny: Callable[[str], Any]) -> Any:
    return load_tiny("llama")


def test_a_cache_goes_on_in_generate(llama: Any) -> None:
    """What was frozen can be fed by transformers afterwards, and the other way round."""
    cache = PreallocatedCache(2, 100)
    ids = random_ids(llama, 1, 20)
    said = generate(llama, ids, cache=cache, max_new_tokens=6, capture=True, eos=[])
    said = llama.model.generate(said, past_key_values=cache, max_new_tokens=6, do_sample=False, eos_token_id=None)
    said = generate(llama, said, cache=cache, max_new_tokens=6, capture=True, eos=[])
    assert torch.equal(said, stock(llama, ids, max_new_tokens=18, eos_token_id=None))


class QueuedCpu:
    """The CPU as a device that queues: the next step is under way when the last token is looked at."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self.captures = True
        self.steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        def counted() -> None:
            self.steps += 1
            step()

        return counted


@pytest.mark.parametrize("at", [0, 1, 7, NEW - 1])
def test_one_step_ahead_changes_nothing(llama: Any, at: int) -> None:
    """An end found late: nothing more is said, and the cache forgets what it read too much."""
    ids = random_ids(llama, 1, 20)
    free = stock(llama, ids, eos_token_id=None)
    end = int(free[0, 20 + at])
    expected = stock(llama, ids, eos_token_id=end)
    ahead = copy.copy(llama)
    ahead.device = QueuedCpu(llama.device)
    cache = PreallocatedCache(2, 20 + NEW)
    got = generate(ahead, ids, cache=cache, max_new_tokens=NEW, eos=end)
    assert torch.equal(got, expected)
    assert cache.get_seq_length() == expected.shape[1] - 1
    assert ahead.device.steps == min(NEW - 1, expected.shape[1] - 20)
    streamed: list[str] = []
    generate(ahead, ids, max_new_tokens=NEW, eos=end, stream=streamed.append)
    assert "".join(streamed) == llama.decode(expected[0, 20:])


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "mistral-sliding"])
def test_fused_step(load_tiny: Callable[[str], Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven launches per block compute what the model's modules do."""
    lm = load_tiny(name)
    ids = random_ids(lm, 3, 40)
    expected = stock(lm, ids, eos_token_id=None)
    monkeypatch.setattr(fused, "serves", lambda *arguments: (True, "as this test wishes"))
    calls = []
    block = fused._block
    monkeypatch.setattr(fused, "_block", lambda *arguments: calls.append(1) or block(*arguments))
    got = generate(lm, ids, max_new_tokens=NEW, capture=True, eos=[])
    assert len(calls) == 2 * (NEW - 1)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral-sliding"])
@torch.no_grad()
def test_fused_logits(load_tiny: Callable[[str], Any], name: str) -> None:
    lm = load_tiny(name)
    ids = random_ids(lm, 2, 30)
    expected = lm.model(ids).logits[:, -1]
    cache = PreallocatedCache.for_config(lm.model.config, 40)
    decode.prefill(lm.model, ids[:, :-1], cache, [0, 0])
    cache.freeze()
    got = fused.logits(lm.model, cache, ids[:, -1:], torch.full((2, 1), 29))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["ClusteredCache", "HashedCache"])
@pytest.mark.parametrize("budget", [64, 400])
def test_smaller_caches(
    save_model: Callable[..., Any], kind: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted on the host or on the device, fused or not, the prompt read in any chunks: the same tokens; and with room
    for all of them, those of the stock model."""
    import npukv

    lm = npukv.load(save_model("llama", max_position_embeddings=512), device="cpu", dtype="float32")
    ids, mask = random_ids(lm, 2, 150), torch.ones(2, 150, dtype=torch.long)
    mask[1, :70] = 0
    more = {"dense_layers": 0} if kind == "HashedCache" else {}
    caches, said = [], []
    for fuse in (False, True):
        for capture, chunk in ((False, 8192), (True, 8192), (True, 31)):
            if fuse:
                monkeypatch.setattr(fused, "serves", lambda *arguments: (True, "as this test wishes"))
            caches.append(getattr(npukv, kind)(lm.model.config, budget=budget, **more))
            options: dict[str, Any] = {"cache": caches[-1], "capture": capture, "prefill_chunk": chunk}
            said.append(generate(lm, ids, attention_mask=mask, max_new_tokens=200, eos=[], **options))
    assert all(torch.equal(one, said[0]) for one in said)
    expected = stock(lm, ids, mask, max_new_tokens=200, eos_token_id=None)
    assert torch.equal(said[0], expected) == (budget == 400)
    assert len({cache.report().physical_tokens for cache in caches}) == 1
    assert {cache.get_seq_length() for cache in caches} == {349}


def test_fused_refusals(load_tiny: Callable[[str], Any]) -> None:
    model = load_tiny("llama").model
    cache = PreallocatedCache(2, 8)
    on_card = copy.copy(model)
    on_card.__class__ = type("LlamaForCausalLM", (type(model),), {"device": torch.device("meta")})
    on_card.__class__.__module__ = type(model).__module__
    assert fused.serves(on_card, cache, 1) == (True, "blocks of norm, rotated attention, norm and SwiGLU")
    assert "rows" in fused.serves(on_card, cache, fused.MOST_ROWS + 1)[1]
    assert "CPU" in fused.serves(model, cache, 1)[1]
    assert "gpt2" in fused.serves(load_tiny("gpt2").model, cache, 1)[1]
    assert "do not attend" in fused.serves(on_card, DynamicCache(config=model.config), 1)[1]
    handle = model.model.layers[1].mlp.register_forward_hook(lambda *arguments: None)
    assert "mlp has hooks" in fused.serves(on_card, cache, 1)[1]
    handle.remove()


def test_the_model_is_as_before(llama: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama.name, dtype=torch.float32).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    implementation = model.config._attn_implementation
    ids = random_ids(llama, 1, 20)
    got = generate(model, ids, max_new_tokens=5, capture=True, eos=[])
    assert model.config._attn_implementation == implementation != "npukv"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(got, stock(llama, ids, max_new_tokens=5, eos_token_id=None))


def test_any_cache_of_transformers(llama: Any) -> None:
    ids = random_ids(llama, 1, 20)
    cache = DynamicCache(config=llama.model.config)
    assert torch.equal(generate(llama, ids, cache=cache, max_new_tokens=NEW, capture=True), stock(llama, ids))
    assert not can_freeze(llama.model, cache)[0]


def test_dynamic_rotations_are_not_captured(save_model: Callable[..., Any]) -> None:
    """Their frequencies change with the length, which they ask the host for."""
    import npukv

    ropes = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    lm = npukv.load(
        save_model("llama", rope_parameters=ropes, max_position_embeddings=32), device="cpu", dtype="float32"
    )
    ids = random_ids(lm, 1, 25)
    ok, reason = can_freeze(lm.model, PreallocatedCache(2, 8))
    assert not ok
    assert "dynamic" in reason
    assert torch.equal(generate(lm, ids, max_new_tokens=NEW, capture=True, eos=[]), stock(lm, ids, eos_token_id=None))


@torch.no_grad()
def test_sampling_follows_the_distribution(chains: Any) -> None:
    lm = chains.load({": the": 4.0, ": LORD": 3.0, ": God": 2.0})
    start = lm.encode(":")[-1:]
    ids = torch.tensor([start] * 4000)
    torch.manual_seed(0)
    temperature = 1.5
    drawn = generate(lm, ids, max_new_tokens=1, do_sample=True, temperature=temperature)[:, 1]
    expected = (lm.model(ids[:1]).logits[0, -1] / temperature).softmax(-1)
    counts = torch.bincount(drawn, minlength=len(expected)) / 4000
    assert (counts - expected).abs().max() < 0.03
    top = expected.topk(2)
    few = generate(
        lm, ids, max_new_tokens=1, do_sample=True, temperature=temperature, top_p=float(top.values.sum()) - 0.01
    )
    assert set(few[:, 1].tolist()) == set(top.indices.tolist())
    assert torch.equal(
        generate(lm, ids[:3], max_new_tokens=1, do_sample=True, top_p=1e-6), generate(lm, ids[:3], max_new_tokens=1)
    )
    seeded = [generate(lm, ids[:200], max_new_tokens=2, do_sample=True, seed=seed) for seed in (7, 8, 7)]
    assert torch.equal(seeded[0], seeded[2]) and not torch.equal(seeded[0], seeded[1])


def test_not_numbers_are_refused(llama: Any, capture: bool) -> None:
    broken = copy.deepcopy(llama)
    broken.model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(ModelError, match="not numbers"):
        generate(broken, random_ids(llama, 1, 10), max_new_tokens=5, capture=capture)


def test_a_step_that_cannot_be_captured(llama: Any) -> None:
    ids, card = random_ids(llama, 1, 20), QueuedCpu(llama.device)

    def fails() -> None:
        raise CaptureFailed("the step cannot be recorded (it waits)")

    card.capture = lambda step: fails
    on_card = copy.copy(llama)
    on_card.device = card
    cache = PreallocatedCache(2, 60)
    with pytest.raises(DeviceError, match="cannot be recorded"):
        generate(on_card, ids, cache=cache, max_new_tokens=5)
    assert not cache.layers[0].frozen
    got = generate(on_card, ids, max_new_tokens=5, capture=False, eos=[])
    assert torch.equal(got, stock(llama, ids, max_new_tokens=5, eos_token_id=None))


def test_refusals(llama: Any) -> None:
    ids = random_ids(llama, 2, 10)
    holes = torch.ones_like(ids)
    holes[0, 4] = 0
    right = torch.ones_like(ids)
    right[1, -1] = 0
    full = PreallocatedCache(2, 12)
    foreign = DynamicCache(config=llama.model.config)
    llama.model(ids, past_key_values=foreign)
    for match, options in (
        (r"got input_ids of shape \(1, 0\)", {"input_ids": []}),
        ("expected tokens", {"input_ids": torch.zeros(1, 3)}),
        ("max_new_tokens = 0", {"max_new_tokens": 0}),
        ("prefill_chunk = 0", {"prefill_chunk": 0}),
        ("temperature = 0", {"temperature": 0.0}),
        ("top_p = 2", {"top_p": 2.0}),
        ("padding on the left", {"attention_mask": holes}),
        ("padding on the left", {"attention_mask": right}),
        (r"mask \(2, 9\)", {"attention_mask": holes[:, 1:]}),
        ("got 2 sequences with stream", {"stream": print}),
        ("expected a LanguageModel", {"model": llama.model, "input_ids": ids[:1], "stream": print}),
        ("holds 12 tokens, got 10 and up to 4", {"cache": full, "max_new_tokens": 4}),
        ("has seen 10 tokens, got a prompt of 10", {"cache": foreign}),
    ):
        arguments = {"model": llama, "input_ids": ids, "max_new_tokens": 3} | options
        with pytest.raises(InputError, match=match):
            generate(**arguments)
    assert generate(llama, ids, cache=full, max_new_tokens=3).shape == (2, 13)  # the last token is not read


def test_streamer_of_transformers(llama: Any) -> None:
    """The protocol as `model.generate` uses it: the prompt first, then token by token, then the end."""
    calls: list[Any] = []

    class Noted:
        def put(self, value: torch.Tensor) -> None:
            calls.append(value.tolist())

        def end(self) -> None:
            calls.append("end")

    ids = random_ids(llama, 1, 6)
    expected = stock(llama, ids, max_new_tokens=3, streamer=Noted())
    theirs = calls.copy()
    calls.clear()
    assert torch.equal(generate(llama, ids, max_new_tokens=3, streamer=Noted()), expected)
    assert calls == theirs
