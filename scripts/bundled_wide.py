"""Training facts in sentences of any form: a grammar over phrases of real texts and words of the pool.

A form has the fields of npukv.evaluation.templates. What is constant in it is nearness: the value stands where a reader
looks for it. Every filled form is compared with the held-out ones and drawn again if it is one of them.
"""

from __future__ import annotations

import random
from dataclasses import replace

import bundled_variety as lists
from bundled_clauses import Clauses, Parts
from bundled_mixes import Mix
from bundled_phrases import Phrases
from bundled_pieces import BE
from bundled_statements import Statements
from bundled_substitutes import Substitutes
from bundled_wordings import read_forms, shows_held_out

from npukv.evaluation.facts import Fact


class Wide(Statements):
    """Words facts freely; ``words`` are the pool (train split), ``mix`` says how often forms written by hand are taken
    and what is exchanged in them."""

    def __init__(self, phrases: Phrases, words: list[str], mix: Mix):
        super().__init__(phrases, words)
        self.forms, self.written, self.varied, self.grafted = read_forms(), mix.written, mix.varied, mix.grafted
        stated = [form for name in self.forms if name.endswith("STATEMENTS") for form in self.forms[name]]
        self.clauses, self.spliced = Clauses(stated), mix.spliced
        self.parts = Parts(stated if mix.spliced else ())
        fillable = (name for name in self.forms if not name.startswith(("ATTRIBUTES", "VERBS")))
        fillable_forms = (form for name in fillable for form in self.forms[name])
        self.substitutes = Substitutes(fillable_forms, words, mix.exchanged, mix.unlike)

    def reword(self, rng: random.Random, fact: Fact) -> Fact:
        """The same fact, stated, asked for and answered in other words."""
        return replace(
            fact,
            statement=self._allowed(rng, fact, "STATEMENTS"),
            question=self._allowed(rng, fact, "QUESTIONS"),
            prefix=self._allowed(rng, fact, "PREFIXES"),
        )

    def _allowed(self, rng: random.Random, fact: Fact, part: str) -> str:
        """A text that shows none of the held-out forms; after ten tries the fact's own of the templates."""
        make = {"STATEMENTS": self._state, "QUESTIONS": self._ask, "PREFIXES": self._begin}[part]
        own = {"STATEMENTS": fact.statement, "QUESTIONS": fact.question, "PREFIXES": fact.prefix}
        kind = "PLACE_" if fact.kind == "place" else "" if fact.key else "LONE_"
        for _ in range(10):
            text = self._written(rng, fact, kind + part) if rng.random() < self.written else make(rng, fact)
            if rng.random() < 0.9 and not text.startswith(fact.value):  # an answer keeps its letters
                text = text[:1].upper() + text[1:]
            if not shows_held_out(fact, part, text):
                return text
        return own[part]

    def _written(self, rng: random.Random, fact: Fact, name: str) -> str:
        """By a form written by hand; every fourth statement with something around it."""
        text = self._fill(fact, self._form(rng, name))
        return self._around(rng, text, fact) if name.endswith("STATEMENTS") and rng.random() < 0.25 else text

    def _form(self, rng: random.Random, name: str) -> str:
        form, stated = rng.choice(self.forms[name]), name.endswith("STATEMENTS")
        if self.grafted and stated and rng.random() < self.grafted:
            form = self.clauses(rng, form)
        if self.spliced and stated and rng.random() < self.spliced:
            form = self.parts(rng, form)
        varied = self.varied if stated else self.varied / 2  # a question is short: it loses its sense sooner
        return self.substitutes(rng, form) if varied and rng.random() < varied else form

    # Questions and the beginnings of answers

    def _ask(self, rng: random.Random, fact: Fact) -> str:
        draw = rng.random()
        if draw < 0.5:
            text = fact.question
        elif fact.kind == "place":
            be = rng.choice(("{third}", "{past}", "had {participle}"))
            does = rng.choice(("did", "does", "would", "might", "could"))
            whose = rng.choice(("{participle} by {K}", "of {K}", "that {K} " + be))
            text = self._fill(
                fact,
                rng.choice(
                    (
                        f"where{self._aside(rng, 0.2)} {does} {{K}} {{base}} the {{t}}?",
                        f"{rng.choice(lists.REQUESTS)} where {{K}} {be} the {{t}}?",
                        f"the {{t}} that {{K}} {be}, where is it?",
                        f"{self._clause(rng)} where {{K}} {be} the {{t}}?",
                        f"where is the {{t}} {{K}} {be}?",
                        f"where {rng.choice(('was', 'is', 'has been'))} the {{t}} {whose}?",
                    )
                ),
            )
        else:
            subject = self._subject(rng, fact.key)
            if fact.key and rng.random() < 0.35:
                subject = rng.choice(
                    (
                        f"{rng.choice(('the', 'what'))} {{a}} {self._past(rng)} {self._tie(rng, 'ak').strip()} {{k}}",
                        f"the {{a}}{self._tie(rng, 'ak')}{{k}}",
                        f"{{a}}{self._tie(rng, 'ak')}{{k}}",
                    )
                )
            if fact.key and rng.random() < 0.25:
                who, its = self._who(rng), rng.choice(("its", "the"))
                was, does = rng.choice(("is", "was", "would be")), rng.choice(("does", "did", "would", "could"))
                text = self._fill(
                    fact,
                    rng.choice(
                        (
                            f"{self._front(rng, 'k')}{{k}}{rng.choice((',', ':', ''))} what {was} {its} {{a}}?",
                            f"which {{a}}{self._tie(rng, 'ak')}{{k}}?",
                            f"{self._front(rng, 'k')}{{k}}, which {{a}} {self._be(rng)} {self._past(rng)}?",
                            f"{{k}}{self._tie(rng, 'ka')}which {{a}}?",
                            f"what {{a}} {does} {{k}} {rng.choice(self.words)}?",
                            f"if {who} {self._past(rng)} {{k}}, what {was} its {{a}}?",
                        )
                    ),
                )
                return text
            text = self._fill(
                fact,
                rng.choice(
                    (
                        f"what{self._aside(rng, 0.1)} {rng.choice(('is', 'was', 'might be', 'would be'))} {subject}?",
                        f"{rng.choice(lists.REQUESTS)} {subject}.",
                        f"which {rng.choice(('one', 'of them', 'word', 'thing'))} {self._be(rng)} {subject}?",
                        f"{self._adverb(rng)} {rng.choice(self.words)} {subject}.",
                        f"{subject}, what {rng.choice(('is', 'was'))} it?",
                    )
                ),
            )
        if rng.random() < 0.3:
            lead = rng.choice(lists.QUESTION_LEADS) if rng.random() < 0.4 else self._clause(rng) + ","
            text = f"{lead} {self._lower(rng, text, fact)}"
        return text

    def _begin(self, rng: random.Random, fact: Fact) -> str:
        draw = rng.random()
        if draw < 0.35:
            text = fact.prefix
        elif draw < 0.5:
            text = rng.choice(
                (*lists.PREFIXES, "it", "well, it is", "my answer is", "they say", "so it must be", "that is")
            )
            if fact.kind == "place":
                text = rng.choice((f"{text} in the", "in the", "the", "it lies in the"))
        elif fact.kind == "place":
            does = rng.choice(("{third}", "{past}", "has {participle}"))
            text = self._fill(
                fact,
                f"{{K}} {does} {rng.choice(('the {t}', 'it'))}{self._aside(rng, 0.1)} in the",
            )
        else:
            text = self._fill(fact, f"{self._subject(rng, fact.key)}{self._aside(rng, 0.15)} {rng.choice(BE)}")
        if rng.random() < 0.35:
            text = f"{self._lead(rng)} {self._lower(rng, text, fact)}"
        return text

    # Sentences with a question's words and no answer

    def empty(self, rng: random.Random, fact: Fact) -> str:
        """A sentence about what is asked that does not tell it."""
        kind = "PLACE_EMPTY" if fact.kind == "place" else "EMPTY"
        if fact.key and kind in self.forms and rng.random() < self.written:
            return self._fill(fact, self._form(rng, kind))
        if fact.kind == "place":
            form = rng.choice(
                (
                    f"{{K}} never {{third}} the {{t}} {self._adverb(rng)}.",
                    "nobody knew where {K} {past} the {t}.",
                    f"{self._who(rng)} {self._past(rng)} where {{K}} {{third}} the {{t}}.",
                    "where did {K} {base} the {t}?",
                    f"{{K}} {self._past(rng)} the {{t}} {self._adverb(rng)}.",
                    f"the {{t}} of {{K}} was {self._past(rng)}.",
                    f"{self._clause(rng)}, the {{t}} that {{K}} {{past}}.",
                    f"{{K}} {self._past(rng)} {self._who(rng)} about the {{t}}.",
                    "{K} may {base} the {t} or not.",
                    f"will {{K}} {{base}} the {{t}}, {self._clause(rng)}?",
                )
            )
        else:
            subject = self._subject(rng, fact.key)
            did = rng.choice(("asked for", "talked about", "lost", "hated", "forgot"))
            form = rng.choice(
                (
                    f"{self._who(rng)} {self._past(rng)} {subject}.",
                    f"nobody {self._past(rng)} {subject}, {self._clause(rng)}.",
                    f"{subject} was {self._adverb(rng)} forgotten.",
                    f"what {rng.choice(('is', 'was'))} {subject}?",
                    f"{self._who(rng)} {did} {subject}.",
                    f"{subject} {rng.choice(('was unknown', 'is a secret', 'never came up', 'was long lost'))}.",
                    f"there is no {{a}}{' for {k}' if fact.key else ''}.",
                    f"{self._clause(rng)} {subject}, {self._clause(rng)}.",
                )
            )
        return self._around(rng, self._fill(fact, form), fact)
