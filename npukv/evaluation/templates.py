"""How facts are stated and asked for: forms for training, and other forms that no training sequence holds.

In a form, {k} is the key, {a} the attribute, {v} the value, {t} a thing, {p} a place; verbs stand as {base}, {third},
{past} and {participle}. Kinds "number", "pass key" and "word" share the forms of attributes.
"""

from __future__ import annotations

ATTRIBUTES = {
    "number": {
        "train": (
            "special magic number", "magic number", "secret number", "lucky number", "account number",
            "registration number", "serial number", "code number", "ticket number", "house number", "secret code",
            "telephone number", "reference number", "membership number", "winning number", "number", "case number",
        ),
        "held-out": ("badge number", "private number", "ledger number", "order number", "special code"),
    },
    "pass key": {
        "train": ("pass key", "passkey", "access key", "entry code", "pass code", "key code", "password", "door code"),
        "held-out": ("access code", "secret pass key", "entry key", "gate code"),
    },
    "word": {
        "train": (
            "favourite word", "secret word", "magic word", "chosen word", "lucky word", "last word", "password",
            "nickname", "code word", "motto", "favourite thing", "favourite subject", "trade", "code name", "sign",
        ),
        "held-out": ("private word", "best word", "special word", "secret name", "favourite name"),
    },
}  # fmt: skip

STATEMENTS = {
    "train": (
        "The {a} for {k} is {v}.", "The {a} of {k} is {v}.", "The {a} for {k} is: {v}.", "The {a} of {k} was {v}.",
        "One of the {a}s for {k} is: {v}.", "{v} is the {a} of {k}.", "{v} is the {a} for {k}.",
        "Remember that the {a} for {k} is {v}.", "The {a} assigned to {k} was {v}.", "For {k}, the {a} is {v}.",
        "{K} has the {a} {v}.", "The {a} that belongs to {k} is {v}.", "Note: the {a} for {k} is {v}.",
        "As for {k}, the {a} is {v}.", "Everyone knows that the {a} of {k} is {v}.", "{a} of {k}: {v}.",
        "The {a} for {k} is {v}. Remember it. {v} is the {a} for {k}.", "I tell you that {k} has the {a} {v}.",
        "In the old book the {a} of {k} was given as {v}.", "The {a} is {v} for {k}, and nobody else has it.",
        "It is well known that {v} is the {a} of {k}.", "Now the {a} of {k}, if you must know, is {v}.",
    ),
    "held-out": (
        "It turned out that the {a} of {k} is {v}.", "Be assured that {v} is the {a} for {k}.",
        "The {a} entered beside {k} is {v}.", "By common consent the {a} for {k} is {v}.",
        "The {a} of {k}, I remember, is {v}.", "Even today the {a} for {k} remains {v}.",
    ),
}  # fmt: skip

QUESTIONS = {
    "train": (
        "What is the {a} for {k}?", "What is the {a} of {k}?", "What was the {a} of {k}?", "What {a} does {k} have?",
        "Which {a} belongs to {k}?", "Which {a} was assigned to {k}?", "Tell me the {a} for {k}.",
        "Give the {a} of {k}.", "Do you know the {a} of {k}?", "Can you tell me the {a} for {k}?",
        "What is {k}'s {a}?", "I need the {a} of {k}. What is it?", "According to the text, what is the {a} for {k}?",
        "What does the text give as the {a} of {k}?", "{K} has which {a}?", "What is the {a} that belongs to {k}?",
    ),
    "held-out": (
        "Kindly give the {a} for {k}.", "From this account, what is the {a} of {k}?", "Which one is the {a} for {k}?",
        "Would you look up the {a} of {k}?", "What is the {a} listed for {k}?",
    ),
}  # fmt: skip

PREFIXES = {
    "train": ("The {a} for {k} is", "The {a} of {k} is", "It is", "The {a} is", "According to the text, it is"),
    "held-out": ("The {a} for {k}, as I read, is", "The reply is that the {a} of {k} is"),
}

# Pass keys without a key: a text has only one.
LONE_STATEMENTS = {
    "train": (
        "The {a} is {v}. Remember it. {v} is the {a}.", "The {a} is {v}.", "Remember the {a}: {v}.",
        "Here is the {a}: {v}.", "Do not forget that the {a} is {v}.", "{v} is the {a}.", "The {a} was {v}.",
        "He whispered that the {a} was {v}.", "Note: the {a} is {v}.", "Keep it to yourself: the {a} is {v}.",
    ),
    "held-out": (
        "Bear in mind that the {a} is {v}.", "The {a}, they told us, is {v}.", "From today the {a} is {v}.",
        "Whoever asks, the {a} is {v}.",
    ),
}  # fmt: skip

LONE_QUESTIONS = {
    "train": (
        "What is the {a}?", "What was the {a}?", "Tell me the {a}.", "What is the {a} mentioned in the text?",
        "Do you know the {a}?", "Which {a} is given?", "What does the text say the {a} is?", "Give the {a}.",
    ),
    "held-out": ("Kindly give the {a}.", "From this account, what is the {a}?", "Would you look up the {a}?"),
}  # fmt: skip

LONE_PREFIXES = {
    "train": ("The {a} is", "It is", "According to the text, the {a} is"),
    "held-out": ("The {a}, as I read, is", "The reply is that the {a} is"),
}

# base, third person, past, participle
VERBS = {
    "train": (
        ("keep", "keeps", "kept", "kept"), ("hide", "hides", "hid", "hidden"), ("store", "stores", "stored", "stored"),
        ("leave", "leaves", "left", "left"), ("put", "puts", "put", "put"), ("bury", "buries", "buried", "buried"),
        ("lock", "locks", "locked", "locked"), ("lay", "lays", "laid", "laid"),
        ("guard", "guards", "guarded", "guarded"),
    ),
    "held-out": (("place", "places", "placed", "placed"), ("drop", "drops", "dropped", "dropped")),
}  # fmt: skip

PLACE_STATEMENTS = {
    "train": (
        "{K} {third} the {t} in the {p}.", "{K} {past} the {t} in the {p}.", "In the {p}, {K} {third} the {t}.",
        "The {t} was {participle} in the {p} by {K}.", "It is in the {p} that {K} {third} the {t}.",
        "You must know that {K} {third} the {t} in the {p}.", "{K} always {third} the {t} in the {p}.",
        "Last night {K} {past} the {t} in the {p}.", "It was {K} who {past} the {t} in the {p}.",
        "The {t} of {K} is {participle} in the {p}.", "{K} has {participle} the {t} in the {p}.",
        "Nobody knew that {K} {past} the {t} in the {p}.", "{K} {past} the {t} carefully in the old {p}.",
    ),
    "held-out": (
        "It is certain that {K} {third} the {t} in the {p}.", "Early one morning {K} {past} the {t} in the {p}.",
        "We watched as {K} {past} the {t} in the {p}.", "The {t}, which {K} {past} in the {p}, was heavy.",
    ),
}  # fmt: skip

PLACE_QUESTIONS = {
    "train": (
        "Where does {K} {base} the {t}?", "Where did {K} {base} the {t}?", "Where is the {t} of {K}?",
        "Where has {K} {participle} the {t}?", "Tell me where {K} {third} the {t}.", "In what place is {K}'s {t}?",
        "Do you know where {K} {past} the {t}?", "In which place did {K} {base} the {t}?",
        "According to the text, where did {K} {base} the {t}?", "Where was the {t} {participle} by {K}?",
    ),
    "held-out": (
        "Would you say where {K} {third} the {t}?", "Where in the world did {K} {base} the {t}?",
        "From this account, where does {K} {base} the {t}?",
    ),
}  # fmt: skip

PLACE_PREFIXES = {
    "train": ("{K} {third} the {t} in the", "{K} {past} the {t} in the", "In the", "It is in the", "The {t} is in the"),
    "held-out": ("I read that {K} {past} the {t} in the", "The reply is the"),
}

# Sentences that repeat a question's words and hold no answer to it.
EMPTY = (
    "Everybody asked about the {a} for {k}, but nobody knew the {a} for {k}.",
    "What was the {a} for {k}? It was long forgotten.",
    "They talked of the {a} of {k} all evening, and {k} said nothing.",
    "Is there a {a} for {k}?",
)
LONE_EMPTY = (
    "Everybody asked about the {a}, but nobody knew the {a}.",
    "What was the {a}? It was long forgotten.",
    "They talked of the {a} all evening.",
)
PLACE_EMPTY = (
    "Everybody asked where {K} {third} the {t}, but nobody knew.",
    "{K} never {third} the {t} for long.",
    "Where did {K} {base} the {t}? It was long forgotten.",
)
