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
        "held-out": (
        "routing code",
        "census figure",
        "invoice number",
        "catalogue code",
    ),
    },
    "pass key": {
        "train": ("pass key", "passkey", "access key", "entry code", "pass code", "key code", "password", "door code"),
        "held-out": (
        "vault key",
        "login password",
        "gate passcode",
    ),
    },
    "word": {
        "train": (
            "favourite word", "secret word", "magic word", "chosen word", "lucky word", "last word", "password",
            "nickname", "code word", "motto", "favourite thing", "favourite subject", "trade", "code name", "sign",
        ),
        "held-out": (
        "signal word",
        "pet name",
        "trade term",
    ),
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
        "{K} has been given the {a} {v}.",
        "According to the clerk, the {a} of {k} was {v}.",
        "Anyone asking about {k} should be told that its {a} is {v}.",
        "They settled on {v} as the {a} for {k}.",
        "In the ledger, beside the entry for {k}, the {a} reads {v}.",
        "Please remember that {v} is the {a} that belongs to {k}.",
        "{K} goes by the {a} {v}.",
        "As far as {k} is concerned, the correct {a} is {v}.",
        "When the list was drawn up, {k} received {v} as its {a}.",
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
        "Which {a} was given to {k}?",
        "Can you tell me the {a} of {k}?",
        "According to the text, what {a} does {k} have?",
        "Please state the {a} that belongs to {k}.",
        "If someone asked about {k}, what would you say its {a} is?",
        "Find the {a} mentioned in connection with {k}.",
        "Do you remember which {a} goes with {k}?",
    ),
}  # fmt: skip

PREFIXES = {
    "train": ("The {a} for {k} is", "The {a} of {k} is", "It is", "The {a} is", "According to the text, it is"),
    "held-out": (
        "According to the text, the {a} for {k} is",
        "The {a} given to {k} was",
        "For {k}, the {a} mentioned is",
    ),
}

# Pass keys without a key: a text has only one.
LONE_STATEMENTS = {
    "train": (
        "The {a} is {v}. Remember it. {v} is the {a}.", "The {a} is {v}.", "Remember the {a}: {v}.",
        "Here is the {a}: {v}.", "Do not forget that the {a} is {v}.", "{v} is the {a}.", "The {a} was {v}.",
        "He whispered that the {a} was {v}.", "Note: the {a} is {v}.", "Keep it to yourself: the {a} is {v}.",
    ),
    "held-out": (
        "They finally agreed that {v} would be the {a}.",
        "On the back of the envelope someone had written the {a}, {v}.",
        "From this day on, {v} is to serve as the {a}.",
        "You will be asked for the {a}, and the right answer is {v}.",
    ),
}  # fmt: skip

LONE_QUESTIONS = {
    "train": (
        "What is the {a}?", "What was the {a}?", "Tell me the {a}.", "What is the {a} mentioned in the text?",
        "Do you know the {a}?", "Which {a} is given?", "What does the text say the {a} is?", "Give the {a}.",
    ),
    "held-out": (
        "Which {a} is mentioned in the text?",
        "Please tell me the {a} that was given earlier.",
        "Can you recall what the {a} was?",
    ),
}  # fmt: skip

LONE_PREFIXES = {
    "train": ("The {a} is", "It is", "According to the text, the {a} is"),
    "held-out": (
        "The {a} mentioned in the text is",
        "As stated earlier, the {a} was",
    ),
}

# base, third person, past, participle
VERBS = {
    "train": (
        ("keep", "keeps", "kept", "kept"), ("hide", "hides", "hid", "hidden"), ("store", "stores", "stored", "stored"),
        ("leave", "leaves", "left", "left"), ("put", "puts", "put", "put"), ("bury", "buries", "buried", "buried"),
        ("lock", "locks", "locked", "locked"), ("lay", "lays", "laid", "laid"),
        ("guard", "guards", "guarded", "guarded"),
    ),
    "held-out": (
        ("stash", "stashes", "stashed", "stashed"),
        ("stow", "stows", "stowed", "stowed"),
        ("tuck", "tucks", "tucked", "tucked"),
    ),
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
        "Before supper, {K} {past} the {t} in the {p}.",
        "Every evening {K} {third} the {t} in the {p}.",
        "It was in the {p} that {K} {past} the {t}.",
        "Nobody else knew that {K} had {participle} the {t} in the {p}.",
        "To be on the safe side, {K} decided to {base} the {t} in the {p}.",
        "As for the {t}, {K} {past} it in the {p}.",
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
        "In which place was the {t} {participle} by {K}?",
        "Can you tell me where {K} {past} the {t}?",
        "What place did {K} choose to {base} the {t} in?",
        "Name the place where the {t} was {participle} by {K}.",
    ),
}  # fmt: skip

PLACE_PREFIXES = {
    "train": ("{K} {third} the {t} in the", "{K} {past} the {t} in the", "In the", "It is in the", "The {t} is in the"),
    "held-out": (
        "According to the text, the {t} was {participle} by {K} in the",
        "The place where {K} {past} the {t} was the",
    ),
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
