"""What the rows of a training of the bundled model are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

from npukv.evaluation.facts import KINDS


@dataclass(frozen=True)
class Mix:
    """What rows are made of; shares of 1, weights in eighths."""

    plain_rows: float  # rows of nothing but text
    body: int  # weight of the text around facts
    question: int  # weight of a question
    reworded: float  # facts worded freely (bundled_wording); the others as the templates have it
    invented: float  # made-up words beside the real ones
    kin: float  # contexts whose keys share words
    paired: float  # questions for two facts at once
    several: float  # questions for all values of a key
    families: tuple[float, float, float, float, float]  # facts, needles, pairs, variables, common; the rest is coded
    wide: float = 0.0  # of the reworded facts, those in sentences of any form (bundled_wide)
    double: float = 0.0  # values of two words
    misses: float = 0.0  # facts asked for that have near misses and empty sentences in such forms beside them
    written: float = 0.04  # of those sentences, the ones whose forms were written by hand (bundled_wordings)
    varied: float = 0.0  # of those in turn, the ones in which words are exchanged (bundled_substitutes)
    grafted: float = 0.0  # of the written statements, those with other statements' clauses (bundled_clauses)
    spliced: float = 0.0  # likewise, with other statements' clauses that hold the same fields
    coined: float = 0.0  # words of any token and another's end, beside the real ones
    fresh: bool = False  # these anew for every row
    exchanged: tuple[float, ...] = (0.15, 0.4, 0.8)  # of a form's words where they are exchanged, one of these shares
    unlike: float = 0.4  # of the things exchanged, those for any word of the pool
    swapped: float = 0.0  # attributes that could be another kind's
    kinds: tuple[str, ...] = KINDS  # drawn from, each as often as it stands here
    facts: tuple[int, ...] = (1, 1, 1, 2, 3, 4, 6, 8, 8, 12, 16, 20)  # of a context, likewise
    questions: tuple[int, ...] = (1, 1, 2, 4, 6, 8)  # likewise
    ahead: float = 0.0  # documents that also begin with some of their questions
    clipped: float = 0.6  # of these, the ones kept short: few of their answers are to questions before them
    before: tuple[int, ...] = (1, 1, 1, 1, 2, 4)  # questions before such a context, drawn likewise
    short: tuple[int, ...] = (1, 3)  # of every five steps, those whose rows are a quarter as long
    absent: float = 0.13  # questions whose fact is not in the context
    alone: float = 0.0  # of these, those beside which other keys have the attribute asked for
    natural: float = 0.0  # documents of facts as people write them (bundled_natural); the rest by family
    beside: float = 0.0  # other contexts of facts that hold some of these, too


MIXES = {
    "listed": Mix(0.30, 2, 4, 0.0, 0.0, 0.30, 0.10, 0.06, (0.70, 0.12, 0.04, 0.06, 0.04)),
    "free": Mix(0.12, 1, 8, 0.85, 0.25, 0.45, 0.13, 0.08, (0.72, 0.11, 0.03, 0.07, 0.04)),
    "wide": Mix(0.16, 1, 8, 0.92, 0.40, 0.45, 0.12, 0.07, (0.74, 0.10, 0.03, 0.06, 0.04), 0.78, 0.04, 0.30),
    "written": Mix(0.16, 1, 8, 0.95, 0.40, 0.45, 0.12, 0.07, (0.74, 0.10, 0.03, 0.06, 0.04), 0.85, 0.04, 0.30, 0.65),
}
# Most of a row's tokens teach the language, which is there by now: more questions, of what is missed most.
MIXES["dense"] = replace(
    MIXES["written"],
    plain_rows=0.10,
    families=(0.80, 0.08, 0.02, 0.05, 0.03),
    written=0.78,
    kinds=("number", "pass key", "word", "word", "word", "place", "place"),
    facts=(1, 4, 8, 8, 12, 16, 20, 24, 28),
    questions=(1, 4, 12, 24, 32),
)
MIXES["varied"] = replace(MIXES["dense"], varied=0.6)
# Other sentences' clauses, too. No values of two words: where they are shown, a word beside a value is taken along.
MIXES["grafted"] = replace(MIXES["varied"], double=0.0, varied=0.85, grafted=0.5)
# Without coined words, tokens of held-out words are learnt to be no answers; with names of its own, a kind is guessed.
MIXES["coined"] = replace(MIXES["grafted"], coined=0.7, swapped=0.15, facts=(1, 1, 4, 8, 8, 12, 16, 20, 24, 28))
# Nouns beside a value are words of the pool more often: by those of the written forms a model knows what is no answer.
MIXES["fresh"] = replace(MIXES["coined"], fresh=True, written=0.88, varied=0.95, exchanged=(0.3, 0.6, 0.9), unlike=0.7)
# Forms seen in training are read right 97 times in 100, whatever words are exchanged in them, others 82 times: the rest
# of a sentence is learnt by heart.
MIXES["spliced"] = replace(MIXES["fresh"], spliced=0.5)
# Read with the question before it, too, a sentence can be searched for the answer while it is read: a value that comes
# before its key can know whose it is.
MIXES["ahead"] = replace(MIXES["fresh"], spliced=0.25, ahead=0.8)
# Most segments tell at best what other keys have: contexts of few facts without the one asked for. These were seldom
# seen, and the one value of an attribute was given with certainty for any key.
MIXES["absent"] = replace(
    MIXES["ahead"], ahead=0.6, absent=0.35, alone=0.85, facts=(1, 1, 1, 2, 2, 3, 4, 6, 8, 8, 12, 20)
)
# Beside decoys words are missed most, and places fell when contexts became smaller: near misses for half
# of the questions.
MIXES["missed"] = replace(MIXES["absent"], misses=0.5, facts=(1, 1, 2, 3, 4, 6, 8, 8, 12, 16, 20), ahead=0.75)
# What is read right in 384 tokens is missed in 2,048 one time in twenty, most in the first third of them: contexts that
# fill the row, with questions before them, too.
MIXES["long"] = replace(
    MIXES["absent"],
    ahead=0.8,
    clipped=0.1,
    before=(1, 1, 1, 2, 4, 6),
    short=(3,),
    misses=0.4,
    facts=(1, 1, 2, 3, 4, 6, 8, 8, 12, 16, 20, 24),
    questions=(1, 2, 4, 6, 8, 12),
)
# Facts as people write them were read right 16 times in 100: nothing of the kind was in any training.
MIXES["natural"] = replace(MIXES["absent"], natural=0.45, beside=0.15, facts=(1, 1, 1, 2, 3, 4, 6, 8, 8, 12, 16, 20))
