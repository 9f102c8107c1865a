"""Facts as people write them: the written forms, what fills them, and the rows made of them."""

from __future__ import annotations

import random
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

SCRIPTS = Path(__file__).parents[2] / "scripts"
if not (SCRIPTS / "train_bundled.py").exists():
    pytest.skip("needs the checkout's scripts folder", allow_module_level=True)
sys.path.insert(0, str(SCRIPTS))

import bundled_mixes  # noqa: E402
import bundled_natural as natural  # noqa: E402
import bundled_natural_rows  # noqa: E402
import bundled_sequences  # noqa: E402

from npukv.evaluation import templates  # noqa: E402
from npukv.evaluation.words import held_out  # noqa: E402

WORDS = [word for word in ("harbour", "lantern", "weaver", "copper", "thistle", "marble") if not held_out(word)]
FILES = sorted(path for path in natural.FOLDER.glob("*.txt") if path.name != natural.POOLS)
NATURAL = replace(bundled_mixes.MIXES["natural"], natural=1.0, plain_rows=0.0, absent=0.0, ahead=0.0)


def test_every_relation_can_be_told_and_asked() -> None:
    pools = natural.read_pools()
    relations = [relation for path in FILES for relation in natural.read_file(path)]
    assert len(relations) > 1000
    for relation in relations:
        assert not natural.faults(relation, pools), relation.where
    assert len(natural.read_relations()[0]) == len(relations)


def test_no_held_out_word_fills_a_slot_and_no_held_out_attribute_is_told() -> None:
    relations, pools = natural.read_relations()
    for lists in [pools] + [relation.lists for relation in relations]:
        for values in lists.values():
            assert not [v for v in values for word in re.findall("[a-z]{4,10}", v.lower()) if held_out(word)]
    held = [name.lower() for forms in templates.ATTRIBUTES.values() for name in forms["held-out"]]
    named = re.compile(rf"\b({'|'.join(map(re.escape, held))})\b")
    for relation in relations:
        for text in relation.statements + [text for _, text in relation.questions]:
            assert not named.search(text.lower()), relation.where


def test_every_answer_stands_in_every_statement() -> None:
    relations, pools = natural.read_relations()
    fillers, rng = natural.Fillers(pools, WORDS), random.Random(0)
    for relation in relations:
        filled = fillers.fill(rng, relation)
        for text in relation.statements:
            told = natural.put_in(text, filled).lower()
            assert "{" not in told and "}" not in told
            assert all(filled[slot].lower() in told for slot, _ in relation.questions), relation.where
        assert all("{" not in natural.put_in(text, filled) for _, text in relation.questions)


@pytest.mark.parametrize(
    "text, told",
    [
        ("{job} came.", "Night porter came."),
        ("The {job} came. {job}, he was called.", "The night porter came. Night porter, he was called."),
        ('"{job} I was," he said.', '"Night porter I was," he said.'),
        ('He said, "{job} or not." {job}!', 'He said, "night porter or not." Night porter!'),
    ],
)
def test_a_sentence_begins_with_a_capital(text: str, told: str) -> None:
    assert natural.put_in(text, {"job": "night porter"}) == told


@given(st.integers(1, 99))
def test_numbers_in_words_are_each_another(n: int) -> None:
    assert [natural.number_word(i) for i in range(1, 100)].index(natural.number_word(n)) == n - 1


def test_what_is_wrong_with_a_relation_is_named() -> None:
    pools = {"colour": ("red", "blue", "green")}
    relation = natural.Relation(
        ["{colour} is liked in {town}.", "{colour} it is."],
        [("colour", "What is liked in {town}?"), ("colour", "Is {colour} liked?"), ("town", "Where?")],
    )
    named = natural.faults(relation, pools)
    assert [each.partition(":")[0] for each in named] == [
        "no list of 'town'", "no list of 'town'", "town not in every statement", "the answer stands in the question",
        "'town' is not in every statement",
    ]  # fmt: skip


def test_a_file_says_where_it_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "forms.txt"
    path.write_text("S {person} sat.\nQ person: Who sat?\n\nX what\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="line 4: expected S, Q, L or #"):
        natural.read_file(path)


def test_a_relation_at_fault_is_named_and_none_is_left_out_unsaid(tmp_path: Path) -> None:
    (tmp_path / natural.POOLS).write_text("L colour: red | blue | green\n", encoding="utf-8")
    (tmp_path / "forms.txt").write_text("S {colour} in {town}.\nQ colour: What is there?\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"forms\.txt, line 1: no list of 'town'"):
        natural.read_relations(tmp_path)
    (tmp_path / "forms.txt").write_text("L colour: a | b | c\nS {colour}.\nQ colour: What?\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="'colour' is a type of all relations"):
        natural.read_relations(tmp_path)
    (tmp_path / "forms.txt").write_text("L thing: a | b\nS {thing}.\nQ thing: What?\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="list of 'thing' has 2 values, expected 5 or more"):
        natural.read_relations(tmp_path)


def test_a_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bundled_natural.py", "--check", "nowhere.txt"])
    with pytest.raises(SystemExit):
        natural.main()
    assert "no file nowhere.txt" in capsys.readouterr().err


def test_what_is_asked_for_and_absent_stands_nowhere(sequences: bundled_sequences.Sequences) -> None:
    absent = replace(NATURAL, absent=1.0, alone=0.0, facts=(1,))
    made = bundled_sequences.Sequences(sequences.tokens, sequences.tokenizer, sequences.words, absent)
    for seed in range(40):
        ids, _ = made._natural(random.Random(seed), 512)
        context = made.tokenizer.decode(ids).split("\nQuestion: ")[0]
        assert not any(_is_told(text, context) for relation in made.relations for text in relation.statements)


def test_rows_ask_for_what_their_context_tells(sequences: bundled_sequences.Sequences) -> None:
    made = bundled_sequences.Sequences(sequences.tokens, sequences.tokenizer, sequences.words, NATURAL)
    asked = 0
    for seed in range(60):
        ids, _ = made._natural(random.Random(seed), 1024)
        context, *questions = made.tokenizer.decode(ids).split("\nQuestion: ")
        for text in questions:
            question, _, answer = text.partition("\nAnswer: ")
            assert answer.rstrip(".").lower() in context.lower(), question
            asked += 1
    assert asked > 60


def test_a_question_is_not_meant_for_two(sequences: bundled_sequences.Sequences) -> None:
    made = bundled_sequences.Sequences(sequences.tokens, sequences.tokenizer, sequences.words, NATURAL)
    relation = natural.Relation(
        ["{person} likes {colour} in {town}."], [("colour", "What does {person} like?")], {}, "here"
    )
    tell = bundled_natural_rows.Told
    one = tell(relation, {"person": "Ann", "colour": "red", "town": "Rye"}, "")
    assert one.asks_the_same("What does {person} like?", tell(relation, one.filled | {"colour": "blue"}, ""))
    assert not one.asks_the_same("What does {person} like?", tell(relation, one.filled | {"person": "Bob"}, ""))
    assert not one.asks_the_same("What does {person} like in {town}?", tell(relation, one.filled | {"town": "Ely"}, ""))
    rng = random.Random(1)
    made.relations = [relation]
    several = made._draw_told(rng, 30)
    assert len({told.filled["person"] for told in several}) > 10


def test_statements_of_the_kind_stand_beside_other_facts(sequences: bundled_sequences.Sequences) -> None:
    with_them = replace(bundled_mixes.MIXES["absent"], beside=1.0)
    made = bundled_sequences.Sequences(sequences.tokens, sequences.tokenizer, sequences.words, with_them)
    for seed in range(20):
        ids, _ = made._facts(random.Random(seed), 900)
        context = made.tokenizer.decode(ids)
        assert any(_is_told(text, context) for relation in made.relations for text in relation.statements)


def _is_told(form: str, context: str) -> bool:
    pieces = [piece for piece in re.split(natural.SLOT, form)[::2] if len(piece) > 8]
    return bool(pieces) and all(piece in context for piece in pieces)
