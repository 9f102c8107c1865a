"""What cannot work is refused before the model runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import npukv
from npukv.backends.cuda import Cuda
from npukv.errors import InputError
from npukv.relevance.batches import batch_size, memory_per_row
from npukv.relevance.plan import default_segment, make_plan
from npukv.text import Tokens, tokenize

QUESTION = "Who went up?"


@pytest.fixture
def tokens(tokenizer: Any, text: str) -> Tokens:
    return tokenize(tokenizer, text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, r"got a horizon of 0 tokens, expected at least 1; raise --horizon"),
        ({"horizon": 300}, r"the model's context is 256 tokens"),
        ({"segment": 0}, r"got a segment of 0 tokens, expected at least 1; raise --segment"),
        ({"segment": -7}, r"got a segment of -7 tokens"),
        ({"segment": 250}, r"got segments of 250 tokens, expected at most \d+: .*context of 256.*lower --segment"),
        ({"segment": 40, "overlap": 40}, r"got an overlap of 40 tokens for segments of 40.*lower --overlap"),
        ({"overlap": -1}, r"got an overlap of -1"),
        ({"measure": "entropy"}, r"got measure 'entropy', expected one of: certainty\+question"),
    ],
)
def test_impossible_settings_are_refused(llama: Any, tokens: Tokens, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_plan(llama, tokens, (QUESTION,), **options)


@pytest.mark.parametrize("questions", [(QUESTION, " "), ("",), ()])
def test_questions_must_be_there(llama: Any, tokens: Tokens, questions: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"got (an empty|no) question.*--question"):
        make_plan(llama, tokens, questions)


def test_question_longer_than_the_context_is_refused(llama: Any, tokens: Tokens, text: str) -> None:
    with pytest.raises(InputError, match=r"got a question of \d+ tokens .*expected fewer than 248.*shorten"):
        make_plan(llama, tokens, (QUESTION, text[:1500]))
    with pytest.raises(InputError, match="got a question"):
        make_plan(llama, tokens, (QUESTION,), answer_prefix=text[:1500])


def test_the_largest_segment_fits_exactly(llama: Any, tokens: Tokens) -> None:
    room = 256 - len(make_plan(llama, tokens, (QUESTION,)).prompts[0]) - 8
    plan = make_plan(llama, tokens, (QUESTION,), segment=room)
    assert plan.segments[0].end == room
    npukv.score_segments(llama, tokens, QUESTION, segment=room)  # GPT-2 and llama have no position beyond
    with pytest.raises(InputError, match=f"expected at most {room}"):
        make_plan(llama, tokens, (QUESTION,), segment=room + 1)


def test_learned_positions_suffice_for_the_largest_segment(load_tiny: Callable[[str], Any], text: str) -> None:
    lm = load_tiny("gpt2")
    tokens = tokenize(lm.tokenizer, text)
    room = 256 - len(make_plan(lm, tokens, (QUESTION,)).prompts[0]) - 8
    scores = npukv.score_segments(lm, tokens, QUESTION, segment=room)
    assert len(scores) > 5


def test_defaults(llama: Any, tokens: Tokens, text: str) -> None:
    plan = make_plan(llama, tokens, (QUESTION,))
    assert plan.segments[0].end == 51  # a fifth of 256
    assert plan.segments[1].start == 51 - 51 // 6
    assert plan.horizon == 8
    assert make_plan(llama, tokens, (QUESTION,), measure="first").horizon == 1
    assert plan.segments[-1].end == len(tokens)
    assert "".join(text[s.char_start : s.char_end] for s in plan.segments[:1]) == llama.decode(tokens.ids[:51])


def test_default_segment_gives_way_to_a_long_question(llama: Any, tokens: Tokens, text: str) -> None:
    long = llama.decode(tokens.ids[:195])
    plan = make_plan(llama, tokens, (long,))
    assert 1 <= plan.segments[0].end < 51


@pytest.mark.parametrize(
    ("context", "segment"), [(4, 1), (256, 51), (2048, 384), (4096, 768), (8192, 1024), (131072, 1024)]
)
def test_four_default_segments_fit_the_context(context: int, segment: int) -> None:
    assert default_segment(context) == segment
    assert 4 * segment < context or context < 5


def test_identity_names_what_the_scores_depend_on(llama: Any, tokens: Tokens, tokenizer: Any, text: str) -> None:
    def identity(these: Tokens = tokens, **options: Any) -> dict[str, str]:
        return make_plan(llama, these, (QUESTION,), **options).identity(llama)

    base = identity()
    assert identity() == base
    assert identity(measure="certainty") == base  # the same passes measure both
    assert make_plan(llama, tokens, ("Why?",)).identity(llama) == base  # questions are kept apart by their keys
    for options in ({"segment": 40}, {"overlap": 3}, {"horizon": 3}):
        changed = identity(**options)
        assert {name for name in base if changed[name] != base[name]} == {"settings"}
    changed = identity(tokenize(tokenizer, text[:-1]))
    assert "text" in {name for name in base if changed[name] != base[name]}


def test_identity_tells_passes_that_round_otherwise(
    llama: Any, load_tiny: Callable[[str], Any], tokens: Tokens
) -> None:
    """A segment read once for several questions, or on another device, gives other bits."""
    alone, together = (make_plan(llama, tokens, asked) for asked in (("Why?",), ("Why?", "Who?")))
    assert alone.identity(llama) != together.identity(llama)
    sliding = load_tiny("mistral-sliding")  # cannot share: the same passes either way
    assert alone.identity(sliding) == together.identity(sliding)
    elsewhere = npukv.LanguageModel(llama.model, llama.tokenizer, Cuda(), llama.name, llama.fingerprint)
    assert alone.identity(elsewhere) != alone.identity(llama)


def test_questions_have_keys_of_their_own(llama: Any, tokens: Tokens) -> None:
    keys = [
        *make_plan(llama, tokens, ("Why?", "Who?")).keys(),
        *make_plan(llama, tokens, ("Why?",), answer_prefix="Because").keys(),
    ]
    assert len(set(keys)) == 3
    assert make_plan(llama, tokens, (" Why?\n",)).keys() == keys[:1]


class Room:
    """A device with so much memory."""

    batch_tokens = 8192

    def __init__(self, free: int) -> None:
        self.free = free

    def free_memory(self) -> int:
        return self.free


def with_room(lm: Any, free: int) -> Any:
    return npukv.LanguageModel(lm.model, lm.tokenizer, Room(free), lm.name, "")


def test_batches_saturate_the_device_and_no_more(llama: Any) -> None:
    assert batch_size(with_room(llama, 1 << 50), 100, 20) == 81
    assert batch_size(with_room(llama, 1 << 50), 10_000, 20) == 1


def test_batches_fit_free_memory(lm: Any) -> None:
    row = memory_per_row(lm, 100, 20)
    for free in (0, row, 10 * row, 60 * row):
        size = batch_size(with_room(lm, free), 100, 20)
        assert size == 1 or size * row <= free
        assert 1 <= size <= 81
    assert batch_size(with_room(lm, 60 * row), 100, 20) > 20
    # keys and values of both layers, the least a row can take
    assert row > 100 * 2 * 2 * 2 * 16 * 4
