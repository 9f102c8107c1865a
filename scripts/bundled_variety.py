"""More ways to state and to ask a training fact than lists of whole sentences hold.

A model that sees a few dozen sentences learns those sentences: asked in other words, it takes the fact for absent. So
the attribute, the verb, the participle and what stands before and after vary freely here, often with words that make no
sense: what remains the same is that statement and question share key and attribute. None of it is a held-out form.
"""

from __future__ import annotations

import random
from dataclasses import replace

from npukv.evaluation import templates
from npukv.evaluation.facts import Fact

SPLIT = "train"
ADJECTIVES = (
    "new", "old", "first", "second", "true", "false", "hidden", "sacred", "former", "royal", "common", "spare", "final",
    "usual", "early", "public", "silent", "golden", "broken", "own", "current", "next", "great", "main", "personal",
)  # fmt: skip
NOUNS = {
    "number": ("number", "number", "code", "figure", "sum", "price", "weight", "count", "total", "score", "index",
               "balance", "debt", "distance", "address", "rank", "size", "value"),
    "pass key": ("key", "code", "pass", "pin", "combination", "cipher", "pass key", "key number", "lock number"),
    "word": ("word", "name", "title", "colour", "animal", "song", "book", "drink", "game", "friend", "flower", "answer",
             "town", "tool", "food", "dream", "reply", "symbol", "phrase", "subject"),
}  # fmt: skip
PARTICIPLES = (
    "known", "held", "used", "kept", "reserved", "printed", "issued", "allotted", "registered", "meant", "left", "set",
    "found", "shown", "listed", "claimed", "entered", "marked", "fixed", "proposed", "sold", "granted", "named",
)  # fmt: skip
STATEMENTS = (
    "The {a} {r} for {k} is {v}.", "The {a} {r} by {k} is {v}.", "{v} is the {a} {r} for {k}.",
    "{v} was {r} as the {a} for {k}.", "The {a} of {k} had been {r}: it is {v}.", "With {k} goes the {a} {v}.",
    "{k}, {a}: {v}.", "They {r} the {a} of {k}, which is {v}.", "The {a} that {k} {r} was {v}.",
    "{v}, that is the {a} of {k}.", "And what is the {a} of {k}? It is {v}.", "Take {v} as the {a} for {k}.",
    "I have {r} the {a} for {k}, namely {v}.", "No {a} but {v} would do for {k}.", "Of {k} the {a} is {v}.",
)  # fmt: skip
QUESTIONS = (
    "What is the {a} {r} for {k}?", "What is the {a} {r} by {k}?", "Which {a} was {r} for {k}?", "The {a} of {k}?",
    "{a} of {k}?", "What did they call the {a} of {k}?", "Name the {a} for {k}.", "Find the {a} of {k}.",
    "For {k}, what is the {a}?", "Who knows the {a} of {k}?", "Show me the {a} that {k} has.", "Say the {a} for {k}.",
)  # fmt: skip
LONE_STATEMENTS = (
    "The {a} {r} is {v}.", "{v} was {r} as the {a}.", "I have {r} the {a}, namely {v}.", "Use {v} as the {a}.",
    "The {a}? It is {v}.", "A new {a} was {r}: {v}.", "No {a} but {v} will do.", "{v}, that is the {a}.",
)  # fmt: skip
LONE_QUESTIONS = (
    "The {a}?", "Name the {a}.", "Find the {a}.", "What {a} was {r}?", "Who knows the {a}?", "Say the {a}.",
    "Which is the {a} that was {r}?", "Show me the {a}.",
)  # fmt: skip
PLACE_STATEMENTS = (
    "The {t} is in the {p}, for {K} {past} it there.", "{K} {third} it in the {p}: the {t}.",
    "To the {p} went {K} and {past} the {t} there.", "Into the {p} {K} {past} the {t}.", "{K}, {t}: in the {p}.",
    "Inside the {p} is the {t} that {K} {past}.", "{K} will {base} the {t} in the {p}.",
    "The {p} is where {K} {past} the {t}.",
    "Look in the {p} for the {t} that {K} {third}.", "{K} used to {base} the {t} in the {p}.",
)  # fmt: skip
PLACE_QUESTIONS = (
    "Where is the {t} that {K} {past}?", "Where had {K} {participle} the {t}?",
    "Find the place where {K} {past} the {t}.",
    "Where will {K} {base} the {t}?", "Who knows where {K} {third} the {t}?", "The {t} of {K} is where?",
    "Name the place where {K} {third} the {t}.", "In what place must {K} {base} the {t}?",
)  # fmt: skip
VERBS = (
    ("carry", "carries", "carried", "carried"), ("find", "finds", "found", "found"), ("hang", "hangs", "hung", "hung"),
    ("lose", "loses", "lost", "lost"), ("throw", "throws", "threw", "thrown"), ("sell", "sells", "sold", "sold"),
    ("build", "builds", "built", "built"), ("break", "breaks", "broke", "broken"), ("make", "makes", "made", "made"),
    ("draw", "draws", "drew", "drawn"), ("wash", "washes", "washed", "washed"), ("read", "reads", "read", "read"),
    ("burn", "burns", "burned", "burned"), ("forget", "forgets", "forgot", "forgotten"), ("see", "sees", "saw", "seen"),
    ("pack", "packs", "packed", "packed"), ("shut", "shuts", "shut", "shut"), ("spread", "spreads", "spread", "spread"),
    ("steal", "steals", "stole", "stolen"), ("plant", "plants", "planted", "planted"),
    ("buy", "buys", "bought", "bought"),
    ("deposit", "deposits", "deposited", "deposited"),
)  # fmt: skip
LEADS = (
    "He said that", "She whispered that", "We know that", "It is true that", "Some believe that", "As I told you,",
    "By the way,", "In those days,", "Once more:", "Listen:", "After all,", "Of course,", "To be exact,", "So",
    "But", "For", "Then", "Yet", "Indeed,", "Meanwhile,", "The letter said that", "My uncle told me that", "Hear this:",
    "On the wall stood the words:", "Nobody doubts that", "I am sure that", "You will remember that", "In short,",
    "It happened that", "The clerk wrote:", "In truth,", "If I am right,", "The record states that",
    "Suddenly he cried:",
)  # fmt: skip
TAILS = (
    "as everybody knew", "he said", "and that was all", "so they told me", "I believe", "to my surprise", "it seems",
    "and nothing else", "in those days", "my dear", "for a long time", "according to the clerk", "at least for now",
)  # fmt: skip
QUESTION_LEADS = (
    "Tell me, please:", "Well,", "Now,", "My friend,", "I wonder:", "I ask you:", "From the text:", "Think back:",
    "Quickly:", "Sir,", "One question:", "Look again:", "By the way,", "I forgot:", "Help me:", "Answer this:", "So",
    "From what you have read,", "As far as the text goes,", "If you remember,", "Given all this,",
)  # fmt: skip


def attribute(rng: random.Random, kind: str, words: list[str]) -> str | None:
    """A made-up attribute of the kind, or None for one of the lists (half the time)."""
    if kind == "place" or rng.random() < 0.5:
        return None
    noun = rng.choice(NOUNS[kind]) if rng.random() < 0.7 else rng.choice(words)
    draw = rng.random()
    name = noun if draw < 0.3 else f"{rng.choice(ADJECTIVES) if draw < 0.65 else rng.choice(words)} {noun}"
    return None if name in templates.ATTRIBUTES[kind]["held-out"] else name


def verb(rng: random.Random, words: list[str]) -> tuple[str, str, str, str] | None:
    """A verb of the list above, any word inflected as if it were one, or None for the templates' own verbs."""
    draw = rng.random()
    if draw < 0.3:
        return None
    if draw < 0.65:
        return rng.choice(VERBS)
    stem = rng.choice(words)
    if stem in (held[0] for held in templates.VERBS["held-out"]):
        return None
    return stem, stem + "s", stem + "ed", stem + "ed"


def vary(rng: random.Random, fact: Fact, words: list[str]) -> Fact:
    """The same fact in other words: another form, or something before or after, in statement, question and prefix."""
    if fact.kind == "place":
        forms = PLACE_STATEMENTS, PLACE_QUESTIONS
    else:
        forms = (STATEMENTS, QUESTIONS) if fact.key else (LONE_STATEMENTS, LONE_QUESTIONS)
    participle = rng.choice(PARTICIPLES) if rng.random() < 0.6 else rng.choice(words)
    statement, question = fact.statement, fact.question
    if rng.random() < 0.45:
        statement = fact.fill(rng.choice(forms[0]).replace("{r}", participle))
    if rng.random() < 0.35:
        question = fact.fill(rng.choice(forms[1]).replace("{r}", participle))
    if rng.random() < 0.4:
        statement = f"{_lead(rng, LEADS, words)} {_lower(statement, fact)}"
    if rng.random() < 0.15 and statement.count(".") == 1:
        statement = f"{statement[:-1]}, {rng.choice(TAILS)}."
    if rng.random() < 0.35:
        question = f"{_lead(rng, QUESTION_LEADS, words)} {_lower(question, fact)}"
    prefix = fact.prefix
    if rng.random() < 0.3:
        prefix = f"{_lead(rng, LEADS, words)} {_lower(prefix, fact)}"
    elif rng.random() < 0.3:
        prefix = rng.choice(
            ("The answer:", "I think it is", "That would be", "This is", "The text gives", "Here it is:")
        )
    return replace(fact, statement=statement, question=question, prefix=prefix)


def _lead(rng: random.Random, leads: tuple[str, ...], words: list[str]) -> str:
    """One of ``leads``, or (three times in ten) one to four words without sense and a comma, a colon or "that"."""
    if rng.random() < 0.7:
        return rng.choice(leads)
    noise = " ".join(rng.choices(words, k=rng.randint(1, 4))).capitalize()
    return noise + rng.choice((",", ":", " that"))


def _lower(text: str, fact: Fact) -> str:
    """Without the capital that begins a sentence; a name keeps its own."""
    if fact.kind == "place" and text.startswith(fact.key[:1].upper() + fact.key[1:]):
        return text
    return text[:1].lower() + text[1:]
