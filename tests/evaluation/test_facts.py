"""Facts, pairs and variables: evidence lies where it is said to, splits never mix, seeds reproduce."""

from __future__ import annotations

import random
import re
from string import Formatter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npukv.errors import InputError
from npukv.evaluation import templates
from npukv.evaluation.facts import KINDS, decoys, draw_fact, draw_rival, needles
from npukv.evaluation.pairs import key_values, several_values, two_facts
from npukv.evaluation.splice import gaps, splice
from npukv.evaluation.variables import variable_chain
from npukv.evaluation.words import draw_key, held_out, split_words, word_pool

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def made_up_text(sentences: int = 120, seed: int = 3) -> str:
    rng = random.Random(seed)
    words = ["".join(rng.choices(LETTERS, k=rng.randint(4, 9))) for _ in range(3000)]
    return " ".join(" ".join(rng.choices(words, k=12)).capitalize() + "." for _ in range(sentences))


TEXT = made_up_text()
WORDS = word_pool(TEXT, "held-out")
OTHER_WORDS = word_pool(made_up_text(2000, seed=9), "held-out")  # so many that no two draws fall together here


def form_pattern(form: str) -> re.Pattern[str]:
    """What a form looks like with any words in its fields."""
    return re.compile(
        "".join(re.escape(text) + (".+?" if name else "") for text, name, _, _ in Formatter().parse(form))
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_evidence_is_the_statement_and_holds_the_answer(kind: str, seed: int) -> None:
    sample = needles(TEXT, kind, facts=3, rivals=2, with_decoys=True, seed=seed)
    ((start, end),) = sample.evidence
    statement = sample.context[start:end]
    assert sample.answers[0] in statement
    forms = templates.PLACE_STATEMENTS if kind == "place" else templates.STATEMENTS
    assert any(form_pattern(form).fullmatch(statement) for form in forms["held-out"])
    assert sample.context[start - 1] == " "
    assert sample.context.count(statement) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_sample_and_other_seed_another(kind: str) -> None:
    assert needles(TEXT, kind, facts=2, seed=1) == needles(TEXT, kind, facts=2, seed=1)
    assert needles(TEXT, kind, facts=2, seed=1) != needles(TEXT, kind, facts=2, seed=2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_fact_leaves_no_trace_of_its_answer(kind: str) -> None:
    for seed in range(20):
        sample = needles(TEXT, kind, rivals=3, absent=True, seed=seed, words=OTHER_WORDS)
        assert sample.evidence == ()
        assert not re.search(rf"\b{sample.answers[0]}\b", sample.context)


def test_the_text_is_kept_whole_around_the_needle() -> None:
    sample = needles(TEXT, "number", seed=4)
    ((start, end),) = sample.evidence
    assert sample.context[: start - 1] + sample.context[end:] == TEXT


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
def test_depth_places_the_needle(depth: float) -> None:
    sample = needles(TEXT, "word", depth=depth, facts=4, seed=2)
    ((start, _),) = sample.evidence
    assert abs(start / len(sample.context) - depth) < 0.1


def test_splits_share_no_word_and_no_form() -> None:
    train, held = word_pool(TEXT, "train"), word_pool(TEXT, "held-out")
    assert train and held and not set(train) & set(held)
    assert all(held_out(word) for word in held)
    for name in ("STATEMENTS", "QUESTIONS", "LONE_STATEMENTS", "LONE_QUESTIONS", "PLACE_STATEMENTS", "PLACE_QUESTIONS",
                 "PREFIXES", "LONE_PREFIXES", "PLACE_PREFIXES", "VERBS"):  # fmt: skip
        group = getattr(templates, name)
        assert not set(group["train"]) & set(group["held-out"]), name
    for kind, group in templates.ATTRIBUTES.items():
        assert not set(group["train"]) & set(group["held-out"]), kind


@pytest.mark.parametrize("split", ["train", "held-out"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_can_be_filled_and_states_key_and_value(kind: str, split: str) -> None:
    rng = random.Random(0)
    words = word_pool(TEXT, split)
    for _ in range(300):
        fact = draw_fact(rng, kind, words, split, key=draw_key(rng, words))
        assert fact.value in fact.statement
        assert fact.key in fact.statement.lower() and fact.attribute in fact.statement
        assert "{" not in fact.statement + fact.question + fact.prefix
        # "It is" restates nothing; a question always names what is asked for.
        assert fact.attribute in fact.question and fact.key in fact.question.lower()
        assert fact.value not in fact.question.split() and fact.value not in fact.prefix.split()


@pytest.mark.parametrize("kind", KINDS)
def test_rivals_and_decoys_never_answer_the_question(kind: str) -> None:
    rng = random.Random(5)
    for _ in range(100):
        fact = draw_fact(rng, kind, WORDS)
        rival = draw_rival(rng, fact, WORDS, near=True)
        assert rival.key != fact.key and rival.value != fact.value and rival.attribute == fact.attribute
        assert fact.value not in rival.statement.split()
        sentences = decoys(rng, fact, WORDS)
        assert len(sentences) == 4 and fact.statement not in sentences


def test_a_near_rival_shares_a_word_of_the_key() -> None:
    rng = random.Random(6)
    for _ in range(50):
        fact = draw_fact(rng, "number", WORDS)
        rival = draw_rival(rng, fact, WORDS, near=True)
        assert set(fact.key.split("-")) & set(rival.key.split("-"))


def test_two_facts_state_both_answers() -> None:
    for seed in range(20):
        sample = two_facts(TEXT, rivals=2, seed=seed)
        assert len(sample.evidence) == 2
        stated = " ".join(sample.context[start:end] for start, end in sample.evidence)
        assert all(answer in stated for answer in sample.answers)
        assert ", and " in sample.question


def test_several_values_stand_in_the_order_of_the_text() -> None:
    for seed in range(10):
        sample = several_values(TEXT, values=4, seed=seed)
        for (start, end), answer in zip(sample.evidence, sample.answers, strict=True):
            assert answer in sample.context[start:end]
        assert list(sample.evidence) == sorted(sample.evidence)


@pytest.mark.parametrize("uuids", [False, True])
def test_key_values_evidence(uuids: bool) -> None:
    sample = key_values(WORDS, pairs=20, uuids=uuids, depth=0.5, seed=1)
    ((start, end),) = sample.evidence
    line = sample.context[start:end]
    assert line.endswith(f'"{sample.answers[0]}"') and line.split('"')[1] in sample.question
    assert sample.context.count("\n") == 20


def test_a_chain_is_read_in_order() -> None:
    for seed in range(20):
        sample = variable_chain(TEXT, variables=5, chains=2, seed=seed)
        statements = [sample.context[start:end] for start, end in sample.evidence]
        assert len(statements) == 5
        held = {re.search(r"\d{5}", sample.question).group()}  # type: ignore[union-attr]
        for statement, name in zip(statements, sample.answers, strict=True):
            match = re.fullmatch(r"VAR (\w+) = (?:VAR )?(\w+)\.", statement)
            assert match and match.group(1) == name and match.group(2) in held
            held.add(name)


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(alphabet="ab .!?\n\"'é☃", max_size=200),
    sentences=st.lists(st.text(alphabet="xyz .", min_size=1, max_size=12), max_size=5),
    depth=st.one_of(st.none(), st.floats(0, 1)),
    seed=st.integers(0, 1000),
)
def test_splice_keeps_text_and_sentences(text: str, sentences: list[str], depth: float | None, seed: int) -> None:
    result, spans = splice(text, sentences, random.Random(seed), [depth])
    assert [result[start:end] for start, end in spans] == sentences
    rest = result
    for start, end in sorted(spans, reverse=True):
        assert rest[start - 1] == " "
        rest = rest[: start - 1] + rest[end:]
    assert rest == text


def test_gaps_are_ends_of_sentences() -> None:
    text = 'He said "No." Then? Nothing, 3.5 at most'
    assert [text[:gap] for gap in gaps(text)] == ['He said "No."', 'He said "No." Then?']
    assert gaps("one two") == [3] and gaps("") == [0]


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="one of number, pass key, word, place"):
        needles(TEXT, "colour")
    with pytest.raises(InputError, match="all of them in the question"):  # and does not draw for ever
        draw_fact(random.Random(0), "word", ["oak", "river"], key="oak-river")
    with pytest.raises(InputError, match="split 'test' is unknown"):
        needles(TEXT, "number", split="test")
    with pytest.raises(InputError, match="at least 32"):
        needles("Too short.", "number")
    with pytest.raises(InputError, match="at least 1"):
        needles(TEXT, "number", facts=0)
    with pytest.raises(InputError):
        several_values(TEXT, values=1)
    with pytest.raises(InputError):
        key_values(WORDS, pairs=0)
    with pytest.raises(InputError):
        variable_chain(TEXT, variables=0)


def test_word_pool_takes_plain_lower_case_words_only() -> None:
    text = "The well-known Captain didn't shout; naïve sailors whispered extraordinarily quietly"
    pool = set(word_pool(text, "train")) | set(word_pool(text, "held-out"))
    assert pool == {"shout", "sailors", "whispered", "quietly"}
    assert split_words(["oak", "oak"], "train") + split_words(["oak"], "held-out") == ["oak"]
