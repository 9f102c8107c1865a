"""Sentences of the bundled model's training, written by hand: their fields, and what is exchanged in them."""

from __future__ import annotations

import random
import re
import string
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import bundled_clauses
import bundled_substitutes
import bundled_wordings

from npukv.evaluation.facts import KINDS, draw_fact

FEW = (0.15, 0.4, 0.8), 0.4  # what a mix says of exchanged words unless it says more


def test_written_forms_have_the_fields_of_their_section() -> None:
    """A statement says all of a fact; a question and the beginning of an answer never hold the value."""
    verb = {"base", "third", "past", "participle"}
    kept_back = bundled_wordings.read_forms(kept_back=True)
    for section, forms in bundled_wordings.read_forms().items():
        assert forms, section
        assert not set(forms) & set(kept_back.get(section, ()))
        forms += kept_back.get(section, ())
        if section.startswith(("ATTRIBUTES", "VERBS")):
            continue
        place, alone = section.startswith("PLACE_"), section.startswith("LONE_")
        value = {"p"} if place else {"v"}
        allowed = {"k", "K", "t"} | verb if place else {"a"} if alone else {"k", "K", "a"}
        for form in forms:
            fields = [name for _, name, _, _ in string.Formatter().parse(form) if name]
            told = section.endswith("STATEMENTS")
            assert set(fields) <= (allowed | value if told else allowed), form
            if told:
                assert fields.count("v") + fields.count("p") == 1, form
            if not section.endswith("PREFIXES"):
                assert "t" in fields if place else "a" in fields, form
                assert alone or {"k", "K"} & set(fields), form


def test_held_out_forms_are_known_in_any_text() -> None:
    rng = random.Random(0)
    for i in range(200):
        kind = KINDS[i % 4]
        held, other = (
            draw_fact(rng, kind, ["oak", "river", "stone", "gate", "lamp", "rope"], split)
            for split in ("held-out", "train")
        )
        for part, text in (("STATEMENTS", held.statement), ("QUESTIONS", held.question), ("PREFIXES", held.prefix)):
            assert bundled_wordings.shows_held_out(held, part, f"Well, {text.upper()} and so on"), text
            assert not bundled_wordings.shows_held_out(other, part, "nothing of the kind")


def test_exchanged_words_leave_fields_and_build() -> None:
    common = ["every word of this form will stand often"] * 400
    forms = [*common, "The {a} of {k}, painted quickly on 12 barrels, {past} {v}!", "a walrus sang loudly"]
    substitutes = bundled_substitutes.Substitutes(forms, ["walked", "gladly", "stones"], *FEW)
    substitutes.kept = {"every", "word"}
    rng, seen = random.Random(0), set()
    for _ in range(300):
        text = substitutes(rng, forms[-2])
        seen.add(text)
        head, rest = text.split("{k}, ")
        assert head == "The {a} of " and rest.endswith(" {past} {v}!")
        first, second, on, number, last, *_ = rest.split()
        assert first in ("painted", "walked") and second in ("quickly", "loudly", "gladly") and on == "on"
        assert len(number) == 2 and number.isdigit() and last in ("barrels,", "stones,", "walrus,")
    assert len(seen) > 50
    assert all(substitutes(rng, "every word") == "every word" for _ in range(50))


def test_an_exchanged_word_is_the_same_throughout_and_things_are_always_exchanged() -> None:
    forms = [*["the lantern is here and every word stays"] * 400, "not a zebra, says he: the zebra is a dog"]
    substitutes = bundled_substitutes.Substitutes(forms, ["pebble", "stones", "walked"], *FEW)
    assert "lantern" not in substitutes.kept and "every" in substitutes.kept
    substitutes.kept = {"says"}
    rng, seen = random.Random(0), set()
    for _ in range(300):
        first, second = (
            substitutes(rng, forms[-1]).removeprefix("not a ").removesuffix(" is a dog").split(", says he: the ")
        )
        assert first == second
        seen.add(first)
    assert seen == {"zebra", "lantern", "pebble", "stones", "walked"}


FORMS = (
    "Though the porter says lantern, the {a} of {k} is {v}.",
    "In winter, {k}, whom nobody knew, had the {a} {v}, and no other.",
    '"No," said he, "the {a} of {k} is {v}."',
    "The {a} of {k} is {v}.",
)


def test_clauses_of_other_sentences_leave_what_is_told() -> None:
    clauses = bundled_clauses.Clauses(FORMS)
    assert clauses.first == ["In winter,", "Though the porter says lantern,"]
    assert clauses.middle == ["whom nobody knew,"] and clauses.last == ["and no other."]
    rng = random.Random(0)
    texts = {form: {clauses(rng, form) for _ in range(400)} for form in FORMS}
    for form, found in texts.items():
        for text in found:  # all fields, in their order
            assert re.findall(r"\{.\}", text) == re.findall(r"\{.\}", form), text
    assert "In winter, the {a} of {k} is {v}, and no other." in texts[FORMS[0]] & texts[FORMS[3]]
    assert (
        "The {a} of {k} is {v}." in texts[FORMS[0]]
        and "Though the porter says lantern, the {a} of {k} is {v}." in texts[FORMS[3]]
    )
    assert {
        text.removeprefix("In winter, ").removeprefix("Though the porter says lantern, ") for text in texts[FORMS[2]]
    } == {FORMS[2]}


def test_clauses_that_tell_a_part_are_exchanged_for_such_that_tell_the_same_part() -> None:
    forms = (
        "On the {a} of {k}, they wrote {v}.",
        "Of the {a} of {k}, I know it is {v}.",
        "It is {v}, the {a} of {k}.",
        '"The {a} of {k}," said he, "is {v}."',
    )
    parts, rng = bundled_clauses.Parts(forms, share=0.5), random.Random(0)
    texts = {form: {parts(rng, form) for _ in range(200)} for form in forms}
    mixed = {"On the {a} of {k}, I know it is {v}.", "Of the {a} of {k}, they wrote {v}."}
    assert texts[forms[0]] == texts[forms[1]] == {*forms[:2], *mixed}
    assert texts[forms[2]] == {forms[2]} and texts[forms[3]] == {forms[3]}  # no partner; direct speech


def test_exchanged_parts_leave_every_written_form_its_fields() -> None:
    forms = bundled_wordings.read_forms()
    stated = [form for name in forms if name.endswith("STATEMENTS") for form in forms[name]]
    parts, rng, changed = bundled_clauses.Parts(stated), random.Random(0), 0
    some = rng.sample(stated, 3000)
    for form in some:
        text = parts(rng, form)
        changed += text != form
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", form)), text
    assert changed > len(some) / 3
