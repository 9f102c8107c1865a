"""Rows of the bundled model's training: what stands in them, and what of it is learnt."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

SCRIPTS = Path(__file__).parents[2] / "scripts"
if not (SCRIPTS / "train_bundled.py").exists():
    pytest.skip("needs the checkout's scripts folder", allow_module_level=True)
sys.path.insert(0, str(SCRIPTS))

import bundled_documents  # noqa: E402
import bundled_misses  # noqa: E402
import bundled_mixes  # noqa: E402
import bundled_sequences  # noqa: E402
import bundled_variety  # noqa: E402
import bundled_wording  # noqa: E402

from npukv.evaluation import templates  # noqa: E402
from npukv.evaluation.facts import KINDS, Fact, draw_fact  # noqa: E402
from npukv.evaluation.words import held_out  # noqa: E402
from npukv.prompt import build_prompt  # noqa: E402


def test_tokens_are_the_works_and_each_is_closed(data: Path, sequences: bundled_sequences.Sequences) -> None:
    ends = np.flatnonzero(sequences.tokens == 1)
    assert len(ends) == 4 and ends[-1] == len(sequences.tokens) - 1
    assert not (sequences.tokens == 0).any()
    tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
    assert len(tokenizer.encode("12345").ids) == 5
    assert tokenizer.decode(tokenizer.encode("It's 3 o'clock.\n\nÉté").ids) == "It's 3 o'clock.\n\nÉté"


@pytest.mark.parametrize("length", [512, 2048])
def test_rows_have_their_length_and_follow_from_the_seed(sequences: bundled_sequences.Sequences, length: int) -> None:
    for seed in range(40):
        ids, weights = sequences.row(random.Random(seed), length)
        assert ids.shape == weights.shape == (length + 1,)
        assert ids[0] == 0
        for at in np.flatnonzero(weights == 0):  # the beginning of an answer, and nothing else
            before = sequences.tokenizer.decode(ids[max(0, at - 200) : at].tolist())
            assert before.rpartition("\n")[2].startswith("Answer:")
        again, _ = sequences.row(random.Random(seed), length)
        assert (ids == again).all()


def test_the_heaviest_tokens_are_the_answers(sequences: bundled_sequences.Sequences) -> None:
    found = 0
    for seed in range(60):
        ids, weights = sequences.row(random.Random(seed), 512)
        text = sequences.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        heavy = weights > bundled_documents.PLAIN
        starts = np.flatnonzero(heavy & ~np.roll(heavy, 1))
        stops = np.flatnonzero(heavy & ~np.roll(heavy, -1)) + 1
        for start, stop in zip(starts, stops, strict=True):
            answer = sequences.tokenizer.decode(ids[start:stop].tolist())
            before = sequences.tokenizer.decode(ids[max(0, start - 200) : start].tolist())
            assert answer.startswith(" ") and answer.endswith(".")
            assert "\nAnswer:" in before and "\n" not in before.rpartition("\nAnswer:")[2]
            found += 1
        assert ("\nQuestion:" in text) == bool(heavy.any())
    assert found > 50


def test_beginnings_of_answers_are_given_and_not_learnt(sequences: bundled_sequences.Sequences) -> None:
    """A model that had learnt them began its answers so wherever it was unsure, and asked for nothing but the value."""
    asked = [bundled_documents.Asked("Which?", "It is the", "oak"), bundled_documents.Asked("And where?", "", "hall")]
    ids, weights = sequences._tail(asked)
    text = sequences.tokenizer.decode(ids, skip_special_tokens=False)
    assert text == "\nQuestion: Which?\nAnswer: It is the oak.\nQuestion: And where?\nAnswer: hall.<|eos|>"
    learnt = [i for i, weight in zip(ids, weights, strict=True) if weight]
    assert sequences.tokenizer.decode(learnt) == text.replace(" It is the", "").replace("<|eos|>", "")


def test_training_never_shows_held_out_forms_or_words(sequences: bundled_sequences.Sequences) -> None:
    held_attributes = {name for group in templates.ATTRIBUTES.values() for name in group["held-out"]}
    held_verbs = {verb[0] for verb in templates.VERBS["held-out"]}
    rng = random.Random(1)
    for _ in range(400):
        fact = sequences._fact(rng, rng.choice(KINDS))
        if fact.kind != "place":
            assert fact.attribute not in held_attributes
        if fact.verb:
            assert fact.verb[0] not in held_verbs
        for word in (*fact.key.split("-"), fact.value):
            assert not (word.isalpha() and held_out(word))
    own = {form for name in dir(bundled_variety) if name.isupper() for form in getattr(bundled_variety, name)}
    for name in ("STATEMENTS", "QUESTIONS", "LONE_STATEMENTS", "LONE_QUESTIONS", "PLACE_STATEMENTS", "PLACE_QUESTIONS"):
        assert not own & set(getattr(templates, name)["held-out"])


@pytest.mark.parametrize("kind", KINDS)
def test_variations_keep_the_fact(sequences: bundled_sequences.Sequences, kind: str) -> None:
    rng = random.Random(2)
    for _ in range(300):
        fact = draw_fact(rng, kind, sequences.words, "train", key="oak-river")
        varied = bundled_wording.reword(rng, fact, sequences.words)
        assert varied.value in varied.statement and "oak-river" in varied.statement.lower()
        assert "oak-river" in varied.question.lower() and fact.attribute in varied.question.lower()
        assert "{" not in varied.statement + varied.question + varied.prefix


@pytest.mark.parametrize(
    "mix", ["wide", "written", "grafted", "coined", "fresh", "spliced", "ahead", "absent", "missed", "long"]
)
def test_wide_rows_keep_the_fact_and_show_no_held_out_form(sequences: bundled_sequences.Sequences, mix: str) -> None:
    wide = bundled_sequences.Sequences(sequences.tokens, sequences.tokenizer, sequences.words, bundled_mixes.MIXES[mix])
    held_attributes = {name for group in templates.ATTRIBUTES.values() for name in group["held-out"]}
    rng = random.Random(3)
    for i in range(600):
        fact = wide._fact(rng, KINDS[i % 4])
        assert fact.value in fact.statement and fact.key.lower() in fact.statement.lower()
        assert fact.key.lower() in fact.question.lower() and fact.attribute in fact.question.lower()
        assert "{" not in fact.statement + fact.question + fact.prefix
        group = "PLACE_" if fact.kind == "place" else "" if fact.key else "LONE_"
        for name, text in (("STATEMENTS", fact.statement), ("QUESTIONS", fact.question), ("PREFIXES", fact.prefix)):
            for form in getattr(templates, group + name)["held-out"]:
                assert fact.fill(form).lower() not in text.lower()
        assert fact.kind == "place" or fact.attribute not in held_attributes
        assert fact.verb is None or fact.verb not in templates.VERBS["held-out"]
        assert not any(word.isalpha() and held_out(word) for word in (*fact.key.split("-"), fact.value))
    for seed in range(30):
        ids, _ = wide.row(random.Random(seed), 512)
        assert len(ids) == 513


def test_coined_words_begin_with_any_token_and_none_is_held_out(sequences: bundled_sequences.Sequences) -> None:
    """A model never shown a token as an answer took it for none: "afternoon" for a held-out "morning"."""
    tokenizer = sequences.tokenizer
    begins = {
        t[1:] for t in tokenizer.get_vocab() if t[0] == "Ġ" and t[1:].isascii() and t[1:].isalpha() and len(t) > 3
    }
    assert bundled_wording.beginnings(tokenizer) == sorted(b for b in begins if b.islower())
    begins = set(bundled_wording.beginnings(tokenizer))
    made = bundled_wording.coin(random.Random(0), tokenizer, sorted(begins), sequences.words, 4 * len(begins))
    shown = {tokenizer.encode(f" {word}").tokens[0][1:] for word in made}
    whole = {begin for begin in begins if held_out(begin)}
    assert shown <= begins and len(shown) > 0.8 * len(begins) and len(shown & whole) > 0.8 * len(whole) > 0
    assert not any(held_out(word) for word in made)
    assert bundled_wording.coin(random.Random(0), tokenizer, sorted(begins), sequences.words, 0) == []


def test_fresh_coined_words_are_a_rows_own(sequences: bundled_sequences.Sequences) -> None:
    """Of the same coined words all the time a model learns how each goes on; a row still follows from its seed."""
    made = []
    for _ in range(2):
        fresh = bundled_sequences.Sequences(
            sequences.tokens, sequences.tokenizer, sequences.words, bundled_mixes.MIXES["fresh"]
        )
        fixed, count = fresh.words[: fresh.given], len(fresh.words)
        rows, coined = [], []
        for seed in (5, 6) if not made else (6,):
            rows.append(fresh.row(random.Random(seed), 512)[0].tolist())
            coined.append(set(fresh.words[fresh.given :]))
        assert fresh.words[: fresh.given] == fixed and len(fresh.words) == count
        assert not any(held_out(word) for word in fresh.words)
        made.append((rows[-1], coined))
    assert made[0][0] == made[1][0]
    first, second = made[0][1]
    assert len(first) > 10 and len(first & second) < len(first) / 2


def test_questions_ahead_are_the_first_asked_behind_and_nothing_else_changes(
    sequences: bundled_sequences.Sequences,
) -> None:
    asked = [bundled_documents.Asked(f"Which {name}?", "It is", name) for name in ("oak", "elm", "ash")]
    plain, weights = sequences._join([5, 6, 7], asked)
    sequences.ahead = 2
    ids, heavy = sequences._join([5, 6, 7], asked)
    sequences.ahead = 0
    added = len(ids) - len(plain)
    assert sequences.tokenizer.decode(ids[1 : 1 + added]) == "Question: Which oak?\nQuestion: Which elm?\n"
    assert [ids[0], *ids[1 + added :]] == plain
    assert heavy == [weights[0], *[0] * added, *weights[1:]]
    wrapped = PreTrainedTokenizerFast(tokenizer_object=sequences.tokenizer, bos_token="<|bos|>", eos_token="<|eos|>")
    sequences.ahead = 1
    ids, _ = sequences._join([5, 6, 7], asked)
    sequences.ahead = 0
    prompt = build_prompt(wrapped, "Which oak?", "It is", ahead=True)  # learnt as it is asked
    assert ids[: len(prompt) + 3] == [*prompt.head, 5, 6, 7, *prompt.after]


def test_rows_with_questions_ahead_have_their_length_and_learn_no_question_twice(
    sequences: bundled_sequences.Sequences,
) -> None:
    mix = replace(bundled_mixes.MIXES["ahead"], ahead=1.0, plain_rows=0.0)
    made = bundled_sequences.Sequences(sequences.tokens, sequences.tokenizer, sequences.words, mix)
    found = 0
    for seed in range(30):
        ids, weights = made.row(random.Random(seed), 1024)
        assert ids.shape == weights.shape == (1025,)
        text = made.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        for document in text.split("<|bos|>"):
            if document.startswith("Question: ") and document.endswith("<|eos|>"):
                first = document[len("Question: ") :].partition("\n")[0]
                assert document.count(f"\nQuestion: {first}\nAnswer:") >= 1
                assert document.index(f"\nQuestion: {first}\nAnswer:") == document.index("\nAnswer:") - len(
                    f"\nQuestion: {first}"
                )
                found += 1
    assert found > 20


@pytest.mark.parametrize("alone", [0.0, 1.0])
def test_beside_an_absent_fact_other_keys_have_what_is_asked_for(
    sequences: bundled_sequences.Sequences, alone: float
) -> None:
    """Where they seldom did, a model gave the one value of an attribute for any key, with certainty."""
    mix = replace(
        bundled_mixes.MIXES["absent"], absent=1.0, alone=alone, ahead=0.0, misses=0.0, kinds=("number",), facts=(1,)
    )
    made = bundled_sequences.Sequences(sequences.tokens, sequences.tokenizer, sequences.words, mix)
    beside = 0
    for seed in range(60):
        rng, seen = random.Random(seed), []

        def fact(*given: object, seen: list[Fact] = seen, **more: object) -> Fact:
            seen.append(bundled_sequences.Sequences._fact(made, *given, **more))
            return seen[-1]

        made._fact = fact
        context, _, answers = made.tokenizer.decode(made._facts(rng, 400)[0]).partition("\nQuestion: ")
        asked, *others = seen
        assert asked.value not in context and f"{asked.value}." in answers
        assert len(others) <= 3 * alone and asked.key not in [other.key for other in others]
        assert all(other.attribute == asked.attribute and other.value in context for other in others)
        beside += bool(others)
    assert beside > 50 if alone else beside == 0


def test_swapped_attributes_are_those_of_other_kinds() -> None:
    """Where a kind has names of its own, a name the model does not know is answered by its sound, not by the text."""
    held = {name for group in templates.ATTRIBUTES.values() for name in group["held-out"]}
    rng = random.Random(0)
    own = {bundled_wording.attribute(rng, "word", ["oak"]) for _ in range(2000)} - {None}
    names = {bundled_wording.attribute(rng, "word", ["oak"], 1.0) for _ in range(2000)} - {None}
    numbers = {name for name in names if name.rpartition(" ")[2] in bundled_variety.NOUNS["number"]}
    assert len(numbers) > 50 and not numbers & own and not names & held
    assert bundled_wording.attribute(rng, "place", ["oak"], 1.0) is None


def test_every_value_of_a_key_is_worded_freely(
    sequences: bundled_sequences.Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all but the first stood in the templates' own forms, a model named two of three in other forms."""
    mix = replace(bundled_mixes.MIXES["coined"], several=1.0, kinds=("number",), facts=(1,))
    several = bundled_sequences.Sequences(sequences.tokens, sequences.tokenizer, sequences.words, mix)

    def restate(rng: random.Random, fact: Fact, value: str, split: str) -> Fact:
        return replace(fact, value=value, statement=f"Restated as it was: {value}.")

    monkeypatch.setattr(bundled_sequences, "restate", restate)
    further = plain = 0
    for seed in range(80):
        ids, _ = several._facts(random.Random(seed), 512)
        text = sequences.tokenizer.decode(ids)
        if "What are all the" in text:
            further += text.rpartition("Answer:")[2].count(",")
            plain += text.lower().count("restated as it was")
    assert further > 50 and plain < 0.3 * further


def test_documents_end_anywhere(sequences: bundled_sequences.Sequences) -> None:
    """Where they all filled their row, places told whether an answer's beginning was given; the model learnt that."""
    rng = random.Random(5)
    sizes = [sequences._size(rng, 2049) for _ in range(2000)]
    assert max(sizes) <= 2049
    assert max(sizes.count(size) for size in {*sizes} - {1024}) < 100
    assert sum(size > 1950 for size in sizes) > 800


def test_near_misses_are_about_others(sequences: bundled_sequences.Sequences) -> None:
    rng = random.Random(4)
    for kind in KINDS:
        fact = draw_fact(rng, kind, sequences.words, "train", key="oak-river")
        for _ in range(200):
            assert bundled_misses.near_key(rng, fact.key, {"oak"}, sequences.words) not in ("oak", "oak-river")
            name = bundled_misses.near_attribute(rng, fact, sequences.words)
            assert name != fact.attribute and (kind == "place" or name not in fact.attribute)
