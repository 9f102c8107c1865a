"""The fused forward pass against the model's own; 8-bit products against their meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import npukv
from npukv.errors import DeviceError, InputError, ModelError, RunError
from npukv.relevance import eight_bit, fast_forward
from npukv.relevance.eight_bit import linear, quantise_weight, usable
from npukv.relevance.fast_forward import FastForward, choose_forward, supports
from npukv.relevance.measure import measure_batch
from npukv.relevance.plan import make_plan
from npukv.text import tokenize

QUESTIONS = ["Who went up?", "What is the name of the place, then?"]
SUPPORTED = ["llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3-moe", "chat"]


@pytest.fixture(params=SUPPORTED)
def fused(request: pytest.FixtureRequest, load_tiny: Callable[[str], Any]) -> tuple[Any, FastForward]:
    lm = load_tiny(request.param)
    return lm, FastForward(lm, compiled=False)


def own(lm: Any, ids: torch.Tensor, cache: Any, keep: int) -> torch.Tensor:
    with torch.inference_mode():
        return lm.model(ids, past_key_values=cache, logits_to_keep=keep).logits


@pytest.mark.parametrize("keep", [1, 7, 40])
def test_logits_are_the_models_own(fused: tuple[Any, FastForward], keep: int) -> None:
    lm, forward = fused
    ids = torch.arange(2, 122).reshape(3, 40)
    expected = own(lm, ids, None, keep)
    for cache in (None, lm.new_cache(60)):
        torch.testing.assert_close(forward(ids, cache, keep), expected, rtol=1e-4, atol=1e-4)


def test_it_goes_on_from_a_cache(fused: tuple[Any, FastForward]) -> None:
    """A segment, then a question, then single tokens; and the cache serves either forward."""
    lm, forward = fused
    ids = torch.arange(2, 162).reshape(2, 80)
    caches = [lm.new_cache(80) for _ in range(3)]
    for start, end, keep in ((0, 50, 1), (50, 70, 20), (70, 71, 1), (71, 72, 1)):
        part = ids[:, start:end]
        expected = own(lm, part, caches[0], keep)
        torch.testing.assert_close(forward(part, caches[1], keep), expected, rtol=1e-4, atol=1e-4)
        mixed = own(lm, part, caches[2], keep) if start == 50 else forward(part, caches[2], keep)
        torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-4)
    keys = [layer.keys[:, :, :72] for layer in (caches[0].layers[-1], caches[1].layers[-1])]
    torch.testing.assert_close(keys[1], keys[0], rtol=1e-4, atol=1e-4)


def test_the_models_own_weights_are_views_of_the_fused(save_model: Callable[..., Path]) -> None:
    lm = npukv.load(save_model("llama"), device="cpu", dtype="float32")
    ids = torch.arange(2, 42)[None]
    before, fingerprint = own(lm, ids, None, 40), {k: v.clone() for k, v in lm.model.state_dict().items()}
    forward = FastForward(lm, compiled=False)
    layer = lm.model.model.layers[0]
    assert layer.self_attn.q_proj.weight.data_ptr() == forward.layers[0].qkv.codes.data_ptr()
    assert all(torch.equal(value, fingerprint[name]) for name, value in lm.model.state_dict().items())
    assert torch.equal(own(lm, ids, None, 40), before)


@pytest.mark.parametrize("questions", [QUESTIONS[:1], QUESTIONS])
@pytest.mark.parametrize("horizon", [1, 4])
def test_scores_are_the_same(fused: tuple[Any, FastForward], text: str, questions: list[str], horizon: int) -> None:
    lm, forward = fused
    options: dict[str, Any] = {"segment": 50, "overlap": 10, "horizon": horizon, "batch": 7}
    plain = npukv.score_segments(lm, text[:2000], questions, forward="plain", **options)
    found = npukv.score_segments(lm, text[:2000], questions, forward=forward, **options)
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_allclose(one.question, other.question, atol=2e-4)
        np.testing.assert_allclose(one.first, other.first, atol=2e-4)


def test_every_batch_has_one_shape(llama: Any, text: str) -> None:
    """Also the last one: what is compiled is compiled once."""
    shapes: set[tuple[int, ...]] = set()

    class Spy(FastForward):
        def __call__(self, ids: torch.Tensor, cache: Any, keep: int) -> torch.Tensor:
            shapes.add(tuple(ids.shape))
            return super().__call__(ids, cache, keep)

    forward = Spy(llama, compiled=False)
    scores = npukv.score_segments(llama, text, QUESTIONS[0], segment=50, batch=7, horizon=2, forward=forward)
    assert len(scores) % 7
    assert len(shapes) == 2
    assert {rows for rows, _ in shapes} == {7}


def test_compiled_blocks_compute_the_same(llama: Any) -> None:
    forward = FastForward(llama)
    ids = torch.arange(2, 122).reshape(3, 40)
    torch.testing.assert_close(forward(ids, None, 5), own(llama, ids, None, 5), rtol=1e-4, atol=1e-4)
    assert forward._cross is not fast_forward._cross


def test_a_compiler_that_fails_is_reported_and_done_without(
    llama: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def fail(*_: Any) -> None:
        raise TorchDynamoException("no compiler here")

    forward = FastForward(llama)
    forward._cross = fail
    ids = torch.arange(2, 42)[None]
    torch.testing.assert_close(forward(ids, None, 5), own(llama, ids, None, 5), rtol=1e-4, atol=1e-4)
    assert "no compiler here" in caplog.text


@pytest.mark.parametrize("name", ["granite", "gpt2", "mistral-sliding"])
def test_other_models_are_refused(load_tiny: Callable[[str], Any], text: str, name: str) -> None:
    lm = load_tiny(name)
    assert not supports(lm.model)[0]
    with pytest.raises(ModelError, match=r"cannot be read by fused blocks .*--forward plain"):
        npukv.score_segments(lm, text[:900], QUESTIONS[0], forward="fused")


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
def test_experts_in_eight_bits(load_tiny: Callable[[str], Any], text: str, name: str, kind: torch.dtype) -> None:
    """All weights but the router's; every layer's MLP is near transformers' own, and the scores belong to the text."""
    lm = load_tiny(name)
    forward = FastForward(lm, eight_bit=kind, compiled=False)
    x = torch.randn(1, 50, 64, generator=torch.Generator().manual_seed(1))
    most = 0.15 if kind.is_floating_point else 0.05
    for layer, block in zip(forward.layers, lm.model.model.layers, strict=True):
        assert layer.mlp.gate_up.codes.dtype == layer.mlp.down.codes.dtype == kind
        assert layer.mlp.router.dtype == torch.float32
        with torch.no_grad():
            got, exact = fast_forward._mlp(x, layer), block.mlp(x)
        assert ((got - exact).norm(dim=-1) <= most * exact.norm(dim=-1)).all()
    options: dict[str, Any] = {"segment": 60, "horizon": 2}
    plain = npukv.score_segments(lm, text[:900], QUESTIONS[0], forward="plain", **options).values
    eight = npukv.score_segments(lm, text[:900], QUESTIONS[0], forward=forward, **options).values
    assert abs(eight - plain).max() < 0.5  # a token near the edge between two experts goes to the other one
    assert not np.array_equal(eight, plain)


def test_eight_bit_weights_are_made_once(save_model: Callable[..., Path]) -> None:
    lm = npukv.load(save_model("llama"), device="cpu")
    first = fast_forward.choose_forward(lm, "8bit", 10)
    assert first is fast_forward.choose_forward(lm, "8bit", 10)
    compiled = fast_forward.choose_forward(lm, "8bit", 10**18)
    assert compiled is not first and compiled.compiled  # worth compiling now, and at hand from here on
    assert compiled is fast_forward.choose_forward(lm, "8bit", 10)


def test_unknown_forwards_are_refused(llama: Any, text: str) -> None:
    with pytest.raises(InputError, match="got forward 'fast', expected one of: auto, plain, fused, 8bit"):
        npukv.score_segments(llama, text, QUESTIONS[0], forward="fast")


def test_auto_is_plain_on_the_cpu(llama: Any) -> None:
    assert choose_forward(llama, "auto", 10**18) is None


def test_blocks_are_compiled_where_there_is_work_for_it(llama: Any) -> None:
    few, many = (choose_forward(llama, "fused", tokens) for tokens in (10**4, 10**15))
    assert few is not None
    assert many is not None
    assert (few.compiled, many.compiled) == (False, True)


def test_a_run_belongs_to_one_way_of_reading(llama: Any, text: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"segment": 50, "horizon": 1, "run": tmp_path}
    npukv.score_segments(llama, text[:900], QUESTIONS[0], **options)
    with pytest.raises(RunError, match="its settings differs"):
        npukv.score_segments(llama, text[:900], QUESTIONS[0], forward=FastForward(llama, compiled=False), **options)


KINDS = [torch.float8_e4m3fn, torch.int8]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_eight_bit_products_are_near(kind: torch.dtype, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(33, 96, generator=generator) * scale
    x[3] *= 50  # rows have scales of their own
    x[5] = 0
    weight = torch.randn(48, 96, generator=generator) * torch.logspace(-3, 2, 48)[:, None]
    expected = x.double() @ weight.double().t()
    found = linear(x, quantise_weight(weight, kind))
    size = x.double().norm(dim=1)[:, None] * weight.double().norm(dim=1)
    assert ((found - expected).abs() <= 0.03 * size).all()
    assert (found[5] == 0).all()


def test_usable_types_on_this_device() -> None:
    assert usable(torch.device("cpu")) == KINDS


def test_a_device_without_8_bit_products_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("not on this card")

    monkeypatch.setattr(eight_bit, "linear", refuse)
    with pytest.raises(DeviceError, match=r"multiplies no 8-bit numbers .*not on this card"):
        usable(torch.device("cpu"))


@pytest.mark.parametrize("kind", KINDS)
def test_eight_bit_scores_of_the_bundled_model_choose_the_same(kind: torch.dtype, bible: str) -> None:
    lm = npukv.load(device="cpu", dtype="float32")
    text = bible[:4000] + " One of the special magic numbers for heron is: 48213. " + bible[4000:8000]
    tokens = tokenize(lm.tokenizer, text)
    plan = make_plan(lm, tokens, ("What is the special magic number for heron?",), segment=256, overlap=64, horizon=4)
    ids = np.stack([tokens.ids[part.start : part.end] for part in plan.segments])
    plain = measure_batch(lm, ids, plan.prompts, 4)[0]
    eight = measure_batch(lm, ids, plan.prompts, 4, 0, FastForward(lm, eight_bit=kind, compiled=False))[0]
    totals = [np.nanmean(found.entropies, axis=1) + found.question for found in (plain, eight)]
    assert totals[0].argmin() == totals[1].argmin()
    assert np.corrcoef(totals)[0, 1] > 0.95
    assert not np.array_equal(*totals)


def test_8bit_mode_chooses_what_exact_scores_choose(bible: str, tmp_path: Path) -> None:
    """Everything in 8 bits, then the promising exactly; an interrupted run keeps both."""
    lm = npukv.load(device="cpu", dtype="float32")
    text = bible[:4000] + " One of the special magic numbers for heron is: 48213. " + bible[4000:8000]
    options: dict[str, Any] = {"segment": 128, "horizon": 4}
    question = "What is the special magic number for heron?"
    every = npukv.score_segments(lm, text, question, **options)
    found = npukv.score_segments(lm, text, question, mode="8bit", shortlist=3, run=tmp_path, **options)
    assert found.ranking()[0] == every.ranking()[0]
    assert np.array_equal(found.values[found.shortlist], every.values[found.shortlist])  # to the bit
    assert np.isinf(found.values).sum() == len(every) - 3
    again = npukv.score_segments(lm, text, question, mode="8bit", shortlist=3, run=tmp_path, **options)
    assert again.scored == 0
    assert np.array_equal(again.values, found.values)
    assert (tmp_path / "8bit").is_dir()


def test_ranks_take_one_attention_kernel(llama: Any) -> None:
    forward = FastForward(llama, compiled=False)
    assert forward.kernel(2, 8) == ""  # the CPU has no choice
    forward.settle("")
    assert forward.backend is None
    forward.settle("FLASH_ATTENTION")
    assert forward.backend is torch.nn.attention.SDPBackend.FLASH_ATTENTION
