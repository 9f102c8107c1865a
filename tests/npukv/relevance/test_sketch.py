"""The sketch against slow and plain ways of saying it; built once, by any number of ranks, whatever is killed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import npukv
from npukv.errors import InputError, ModelError, RunError
from npukv.parallel.tokens import open_tokens
from npukv.prompt import build_prompt
from npukv.relevance import sketch as module
from npukv.relevance.fast_forward import FastForward
from npukv.relevance.plan import make_plan
from npukv.relevance.shortlist import bm25_distances, shortlist_size, shortlists
from npukv.relevance.sketch import BITS, early_keys, open_sketch, search
from npukv.text import tokenize

QUESTION = "Who went up?"


def signs(codes: torch.Tensor) -> torch.Tensor:
    """uint8 [..., BITS / 8] -> bool [..., BITS]."""
    return torch.from_numpy(np.unpackbits(codes.numpy(), axis=-1, bitorder="little").astype(bool))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW", 64)
    monkeypatch.setattr(module, "PART", 4)
    monkeypatch.setattr(module, "CHUNK", 160)


@pytest.fixture
def deep(save_model: Callable[..., Path]) -> Any:
    return npukv.load(save_model("llama", num_hidden_layers=5), device="cpu", dtype="float32")


def test_early_keys_are_the_projections_of_the_layer(deep: Any) -> None:
    """Against transformers' own hidden states."""
    ids = np.arange(2, 42).reshape(2, 20)
    with torch.inference_mode():
        states = deep.model(torch.from_numpy(ids), output_hidden_states=True).hidden_states
        for layer in (0, 1, 3):
            block = deep.model.model.layers[layer]
            expected = block.self_attn.k_proj(block.input_layernorm(states[layer])).view(2, 20, 2, 16)
            torch.testing.assert_close(early_keys(deep, ids, layer, ()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral"])
def test_fused_layers_give_the_same_keys(save_model: Callable[..., Path], name: str) -> None:
    lm = npukv.load(save_model(name, num_hidden_layers=3), device="cpu", dtype="float32")
    forward = FastForward(lm, compiled=False)
    ids = np.arange(2, 62).reshape(3, 20)
    for layer in (0, 1, 2):
        found = forward.keys(torch.from_numpy(ids), layer)
        torch.testing.assert_close(found, early_keys(lm, ids, layer, ()), rtol=1e-4, atol=1e-4)


def test_a_sketch_by_fused_layers_is_the_same_but_for_rounding(deep: Any, text: str) -> None:
    """Also its last, shorter batch."""
    tokens = tokenize(deep.tokenizer, text)
    plain = open_sketch(deep, tokens, forward="plain")
    fused = open_sketch(deep, replace(tokens, sketches={}), forward=FastForward(deep, compiled=False))
    one, other = (signs(sketch.codes(0, len(tokens))) for sketch in (plain, fused))
    assert (one != other).float().mean() < 1e-3


def test_later_layers_do_not_run(deep: Any) -> None:
    ran: list[int] = []
    hooks = [
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(deep.model.model.layers)
    ]
    early_keys(deep, np.array([[5, 6, 7]]), 1)
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1]


def test_codes_are_signs(deep: Any, text: str) -> None:
    tokens = tokenize(deep.tokenizer, text)
    sketch = open_sketch(deep, tokens)
    assert sketch.layer == 1
    codes = sketch.codes(0, len(tokens))
    assert codes.shape == (len(tokens), 2, BITS // 8)
    assert codes.dtype == torch.uint8
    for start, end in ((0, 64), (64, 128), (len(tokens) // 64 * 64, len(tokens))):
        keys = early_keys(deep, tokens.ids[None, start:end], 1)[0].float()
        assert torch.equal(signs(codes[start:end]), (keys - sketch.mean) @ sketch.rotation > 0)
    gram = sketch.rotation[:, :16].T @ sketch.rotation[:, :16]
    torch.testing.assert_close(gram, torch.eye(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("length", "overlap"), [(51, 8), (64, 0), (30, 29), (1, 0)])
def test_search_adds_up_how_unusually_near_each_token_is(deep: Any, text: str, length: int, overlap: int) -> None:
    tokens = tokenize(deep.tokenizer, text[:2500])
    plan = make_plan(deep, tokens, (QUESTION,), segment=length, overlap=overlap)
    sketch = open_sketch(deep, tokens)
    prompt = plan.prompts[0]
    found = search(deep, sketch, prompt, plan.segments)
    asked = sketch.encode(early_keys(deep, np.array([prompt.after]), 1, prompt.head)[0]).numpy()
    own = len(deep.encode("\nQuestion:")), len(asked) - len(deep.encode("\nAnswer:"))
    codes = sketch.codes(0, len(tokens)).numpy()
    nearest = []
    for segment in plan.segments:
        inside = codes[segment.start : segment.end]
        flips = np.unpackbits(inside[:, None] ^ asked[None, slice(*own)], axis=-1).sum(-1)  # [tokens, asked, heads]
        nearest.append(flips.min(0))
    far = np.array(nearest, np.float64)
    unusual = (far.mean(0) - far) / np.maximum(far.std(0), 0.01 * BITS)
    expected = -1000 * np.maximum(unusual, 0).sum((1, 2))
    np.testing.assert_allclose(found, expected, atol=far[0].size)  # each is rounded to a thousandth


def test_the_prompts_own_words_are_left_out(deep: Any) -> None:
    for question in ("Who went up?", "?", "a", "Question: Answer:"):
        prompt = build_prompt(deep.tokenizer, question)
        assert [prompt.question[i] for i in module._own(deep, prompt)] == deep.encode(" " + question)
    prompt = build_prompt(deep.tokenizer, "Who went up?", "It was")
    assert deep.decode([prompt.question[i] for i in module._own(deep, prompt)]).endswith("It was")


def test_kept_beside_the_tokens_and_found_again(
    deep: Any, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_tokens(deep.tokenizer, text, tmp_path)
    built = open_sketch(deep, first)
    assert open_sketch(deep, first) is built
    again = open_tokens(deep.tokenizer, text, tmp_path)
    monkeypatch.setattr(module, "_build_part", lambda *_: pytest.fail("built again"))
    monkeypatch.setattr(module, "_mean_key", lambda *_: pytest.fail("built again"))
    found = open_sketch(deep, again)
    assert torch.equal(found.codes(0, len(again)), built.codes(0, len(first)))


def test_another_model_has_a_sketch_of_its_own(deep: Any, llama: Any, text: str, tmp_path: Path) -> None:
    tokens = open_tokens(deep.tokenizer, text, tmp_path)
    assert open_sketch(deep, tokens).folder != open_sketch(llama, tokens).folder


def test_a_killed_build_goes_on(deep: Any, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = open_sketch(deep, tokenize(deep.tokenizer, text))
    tokens = open_tokens(deep.tokenizer, text, tmp_path)
    real, built = module._build_part, []

    def dying(lm: Any, tokens: Any, sketch: Any, part: int, *rest: Any) -> Any:
        if len(built) == 3:
            raise KeyboardInterrupt
        built.append(part)
        return real(lm, tokens, sketch, part, *rest)

    monkeypatch.setattr(module, "_build_part", dying)
    with pytest.raises(KeyboardInterrupt):
        open_sketch(deep, tokens)
    again: list[int] = []
    monkeypatch.setattr(module, "_build_part", lambda *args: again.append(args[3]) or real(*args))
    found = open_sketch(deep, tokens)
    assert len(built) == 3
    assert again
    assert not set(built) & set(again)
    assert torch.equal(found.codes(0, len(tokens)), expected.codes(0, len(tokens)))


def test_a_damaged_part_is_refused(deep: Any, text: str, tmp_path: Path) -> None:
    sketch = open_sketch(deep, open_tokens(deep.tokenizer, text, tmp_path))
    path = sketch.file(1)
    path.write_bytes(path.read_bytes()[:-1])
    found = open_sketch(deep, open_tokens(deep.tokenizer, text, tmp_path))
    with pytest.raises(RunError, match="is damaged"):
        found.codes(0, 600)


def test_a_model_without_key_projections_is_refused(load_tiny: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ModelError, match=r"is a gpt2 model.*--mode exact"):
        npukv.score_segments(load_tiny("gpt2"), text, QUESTION, mode="sketch")


def test_bm25_counts_the_questions_tokens(llama: Any, text: str) -> None:
    """Against the formula, segment by segment."""
    tokens = tokenize(llama.tokenizer, text)
    plan = make_plan(llama, tokens, (QUESTION,), segment=40, overlap=10)
    asked = {*llama.encode(QUESTION), *llama.encode(" " + QUESTION)}
    held = [list(tokens.ids[part.start : part.end]) for part in plan.segments]
    expected = []
    for ids in held:
        total = 0.0
        for token in asked:
            frequency, documents = ids.count(token), sum(token in other for other in held)
            weight = math.log(1 + (len(held) - documents + 0.5) / (documents + 0.5))
            total += weight * frequency * 2.5 / (frequency + 1.5)
        expected.append(-total)
    np.testing.assert_allclose(bm25_distances(llama, plan), expected, rtol=1e-9)


@pytest.mark.parametrize("mode", ["sketch", "words", "bm25", "8bit"])
def test_the_shortlist_is_scored_exactly(deep: Any, text: str, tmp_path: Path, mode: str) -> None:
    options: dict[str, Any] = {"segment": 40, "horizon": 2}
    every = npukv.score_segments(deep, text, QUESTION, **options)
    short = npukv.score_segments(deep, text, QUESTION, mode=mode, shortlist=7, run=tmp_path, **options)
    rows = short.shortlist
    assert len(rows) == short.scored == 7
    assert list(rows) == sorted(rows)
    np.testing.assert_allclose(short.values[rows], every.values[rows], atol=1e-3)
    assert np.isinf(short.values).sum() == len(every) - 7
    assert set(short.ranking()[:7]) == set(rows)
    assert [record["segment"] for record in short.records()] == list(rows)
    # the exact mode takes over what there is
    rest = npukv.score_segments(deep, text, QUESTION, run=tmp_path, **options)
    assert rest.scored == len(every) - 7
    np.testing.assert_allclose(rest.values, every.values, atol=1e-3)


@pytest.mark.parametrize("mode", ["sketch", "words", "bm25", "8bit"])
def test_several_questions_have_a_shortlist_each(deep: Any, text: str, mode: str) -> None:
    asked = [QUESTION, "What is the name of the place, then?"]
    tokens = tokenize(deep.tokenizer, text)
    # 13: between it and the next, 8-bit scores differ by 0.09 nats and more; questions asked together are read in
    # products of other shapes, which moves 8-bit scores by up to 0.01
    both = npukv.score_segments(deep, tokens, asked, mode=mode, shortlist=13, segment=40)
    for scores, question in zip(both, asked, strict=True):
        alone = npukv.score_segments(deep, tokens, question, mode=mode, shortlist=13, segment=40)
        assert np.array_equal(scores.shortlist, alone.shortlist)
        assert np.array_equal(scores.values, alone.values)
    assert not np.array_equal(both[0].shortlist, both[1].shortlist)


def test_an_answer_never_rests_on_what_was_not_scored_but_as_a_neighbour(deep: Any, text: str) -> None:
    options: dict[str, Any] = {"segment": 20, "overlap": 0, "max_new_tokens": 4, "mode": "sketch", "shortlist": 3}
    given = npukv.answer(deep, text, QUESTION, keep="fill", **options)
    assert len(given.segments) == 3
    assert all(part.score is not None for part in given.segments)
    wide = npukv.answer(deep, text, QUESTION, keep=1, neighbours=1, **options)
    assert sorted(part.score is None for part in wide.segments) in ([False, True, True], [False, False, True])


@pytest.mark.parametrize(
    ("wanted", "count"),
    [("5%", 50), ("1%", 16), ("0.01%", 16), ("200", 200), (7, 7), ("1", 1), ("100%", 1000), (5000, 1000)],
)
def test_shortlist_sizes(wanted: Any, count: int) -> None:
    assert shortlist_size(wanted, 1000) == count


@pytest.mark.parametrize("wanted", ["0", "0%", "-1", "few", "1.5", "%", "nan%", "inf%"])
def test_wrong_shortlists_are_refused(llama: Any, text: str, wanted: str) -> None:
    with pytest.raises(InputError, match="expected a share such as 1% or a number of segments"):
        npukv.score_segments(llama, text, QUESTION, mode="sketch", shortlist=wanted)
    with pytest.raises(InputError, match="expected a share such as 1% or a number of segments"):
        npukv.answer(llama, text, QUESTION, mode="sketch", shortlist=wanted)


def test_wrong_modes_are_refused(llama: Any, text: str) -> None:
    for call in (npukv.score_segments, npukv.answer):
        with pytest.raises(InputError, match="got mode 'quick', expected one of: exact, sketch, words, bm25, 8bit"):
            call(llama, text, QUESTION, mode="quick")


def test_the_bundled_model_finds_its_needles(monkeypatch: pytest.MonkeyPatch, bible: str) -> None:
    """Two facts among rivals: in the best tenth, and answered as by scoring everything."""
    monkeypatch.undo()
    lm = npukv.load(device="cpu", dtype="float32")
    rng = random.Random(3)
    lines = bible[:60_000].splitlines(keepends=True)
    for name in ("heron", "anchor", *rng.sample(["copper", "walnut", "meadow", "saddle", "garden", "lantern"], 6)):
        lines.insert(
            rng.randrange(len(lines)),
            f"One of the special magic numbers for {name} is: {len(name)}82{name.count('e')}7.\n",
        )
    tokens = tokenize(lm.tokenizer, "".join(lines))
    for name in ("heron", "anchor"):
        question = f"What is the special magic number for {name}?"
        plan = make_plan(lm, tokens, (question,), segment=256, overlap=32)
        held = {
            segment.index
            for segment in plan.segments
            if f"for {name} is: {len(name)}82" in "".join(lines)[segment.char_start : segment.char_end]
        }
        [chosen] = shortlists(lm, plan, "sketch", "10%")
        assert held & set(chosen)
