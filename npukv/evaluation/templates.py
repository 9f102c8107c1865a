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
        "docket number",
        "customs code",
        "tonnage figure",
        "land survey number",
        "subscriber number",
        "folio code",
    ),
    },
    "pass key": {
        "train": ("pass key", "passkey", "access key", "entry code", "pass code", "key code", "password", "door code"),
        "held-out": (
        "alarm code",
        "turnstile key",
        "strongbox password",
        "hatch code",
        "unlocking key",
        "night watch password",
    ),
    },
    "word": {
        "train": (
            "favourite word", "secret word", "magic word", "chosen word", "lucky word", "last word", "password",
            "nickname", "code word", "motto", "favourite thing", "favourite subject", "trade", "code name", "sign",
        ),
        "held-out": (
        "rallying word",
        "stage name",
        "dialect term",
        "parting word",
        "tavern name",
        "sailors' term",
    ),
    },
}  # fmt: skip

STATEMENTS: dict[str, tuple[str, ...]] = {
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
        "{K} was given {v} as its {a} before the winter was out.",
        "By common agreement, {v} would serve as the {a} for {k}.",
        "In the margin someone had pencilled {v}, the {a} belonging to {k}.",
        "They settled on {v} when the time came to choose the {a} of {k}.",
        "Under {k}, in the column headed {a}, the register shows {v}.",
        "The old steward still remembers {v} as the {a} of {k}.",
        "As for {k}, the {a} written down there has always been {v}.",
        "If you look up {k}, you will find {v} entered as its {a}.",
        "{K} has only ever had one {a}, and it is {v}.",
        "Nobody doubted that {v} was the {a} assigned to {k}.",
        "The {a} that goes with {k} turned out to be {v}.",
        "{K}'s {a}, so the letter said, was {v}.",
        "I have it on good authority that {k} uses {v} for its {a}.",
    ),
}  # fmt: skip

QUESTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "What is the {a} for {k}?", "What is the {a} of {k}?", "What was the {a} of {k}?", "What {a} does {k} have?",
        "Which {a} belongs to {k}?", "Which {a} was assigned to {k}?", "Tell me the {a} for {k}.",
        "Give the {a} of {k}.", "Do you know the {a} of {k}?", "Can you tell me the {a} for {k}?",
        "What is {k}'s {a}?", "I need the {a} of {k}. What is it?", "According to the text, what is the {a} for {k}?",
        "What does the text give as the {a} of {k}?", "{K} has which {a}?", "What is the {a} that belongs to {k}?",
    ),
    "held-out": (
        "Can you tell me the {a} that belongs to {k}?",
        "For {k}, what does the {a} happen to be?",
        "Please give the {a} recorded for {k}.",
        "When it comes to {k}, which {a} is mentioned in the text?",
        "I need to know {k}'s {a}.",
        "If someone asked you for the {a} of {k}, what would you say?",
        "State the {a} that goes with {k}.",
        "According to the story, what was {k} given as its {a}?",
        "Looking back over the passage, which {a} does {k} have?",
    ),
}  # fmt: skip

PREFIXES: dict[str, tuple[str, ...]] = {
    "train": ("The {a} for {k} is", "The {a} of {k} is", "It is", "The {a} is", "According to the text, it is"),
    "held-out": (
        "The text gives {k}'s {a} as",
        "For {k}, the {a} was said to be",
        "According to the passage, it is",
        "The {a} you are asking about is",
    ),
}

# Pass keys without a key: a text has only one.
LONE_STATEMENTS: dict[str, tuple[str, ...]] = {
    "train": (
        "The {a} is {v}. Remember it. {v} is the {a}.", "The {a} is {v}.", "Remember the {a}: {v}.",
        "Here is the {a}: {v}.", "Do not forget that the {a} is {v}.", "{v} is the {a}.", "The {a} was {v}.",
        "He whispered that the {a} was {v}.", "Note: the {a} is {v}.", "Keep it to yourself: the {a} is {v}.",
    ),
    "held-out": (
        "You will want to remember that the {a} is {v}.",
        "After a long debate they made {v} the {a}.",
        "There is only one {a} that matters here, namely {v}.",
        "On the back of the envelope she had written {v}, which was the {a}.",
        "Should anyone inquire about the {a}, the answer is {v}.",
        "He leaned closer and whispered that {v} was the {a}.",
        "As everyone in the house knew by heart, the {a} was {v}.",
        "Make a note of {v}, since it is the {a} you will be asked for.",
    ),
}  # fmt: skip

LONE_QUESTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "What is the {a}?", "What was the {a}?", "Tell me the {a}.", "What is the {a} mentioned in the text?",
        "Do you know the {a}?", "Which {a} is given?", "What does the text say the {a} is?", "Give the {a}.",
    ),
    "held-out": (
        "Which {a} does the text mention?",
        "Can you recall the {a} that was given earlier?",
        "Please repeat the {a} from the passage.",
        "If you had to supply the {a}, what would you answer?",
        "Somewhere in the story there is a line about the {a}; what does it say?",
        "Tell me the {a} that the reader was asked to remember.",
    ),
}  # fmt: skip

LONE_PREFIXES: dict[str, tuple[str, ...]] = {
    "train": ("The {a} is", "It is", "According to the text, the {a} is"),
    "held-out": (
        "The text gives the {a} as",
        "As stated in the passage, the {a} was",
        "I remember that the {a} is",
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
        ("set", "sets", "set", "set"),
        ("lodge", "lodges", "lodged", "lodged"),
        ("conceal", "conceals", "concealed", "concealed"),
    ),
}  # fmt: skip

PLACE_STATEMENTS: dict[str, tuple[str, ...]] = {
    "train": (
        "{K} {third} the {t} in the {p}.", "{K} {past} the {t} in the {p}.", "In the {p}, {K} {third} the {t}.",
        "The {t} was {participle} in the {p} by {K}.", "It is in the {p} that {K} {third} the {t}.",
        "You must know that {K} {third} the {t} in the {p}.", "{K} always {third} the {t} in the {p}.",
        "Last night {K} {past} the {t} in the {p}.", "It was {K} who {past} the {t} in the {p}.",
        "The {t} of {K} is {participle} in the {p}.", "{K} has {participle} the {t} in the {p}.",
        "Nobody knew that {K} {past} the {t} in the {p}.", "{K} {past} the {t} carefully in the old {p}.",
    ),
    "held-out": (
        "{K} has {participle} the {t} in the {p}, or so the neighbours say.",
        "The {t} had been {participle} in the {p} by {K} that same evening.",
        "Before supper {K} {past} the {t} in the {p} and said nothing more about it.",
        "Whenever visitors come, {K} {third} the {t} in the {p}.",
        "With no better plan in mind, {K} decided to {base} the {t} in the {p}.",
        "Having {participle} the {t} in the {p}, {K} walked home through the rain.",
        "Somewhere in the {p} is the {t} that {K} {past} there.",
        "No one saw {K} {base} the {t} in the {p}, yet there it was.",
        "As for the {t}, {K} had {participle} it in the {p} some days before.",
    ),
}  # fmt: skip

PLACE_QUESTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "Where does {K} {base} the {t}?", "Where did {K} {base} the {t}?", "Where is the {t} of {K}?",
        "Where has {K} {participle} the {t}?", "Tell me where {K} {third} the {t}.", "In what place is {K}'s {t}?",
        "Do you know where {K} {past} the {t}?", "In which place did {K} {base} the {t}?",
        "According to the text, where did {K} {base} the {t}?", "Where was the {t} {participle} by {K}?",
    ),
    "held-out": (
        "Can you say where the {t} was {participle} by {K}?",
        "Tell me where {K} {past} the {t}.",
        "Where would one have to look for the {t} that {K} {past}?",
        "Which spot did {K} choose when the {t} had to be {participle}?",
        "According to the story, where has {K} {participle} the {t}?",
        "If the {t} is where {K} {past} it, where is it?",
        "Name the place where the {t} had been {participle} by {K}.",
    ),
}  # fmt: skip

PLACE_PREFIXES: dict[str, tuple[str, ...]] = {
    "train": ("{K} {third} the {t} in the", "{K} {past} the {t} in the", "In the", "It is in the", "The {t} is in the"),
    "held-out": (
        "The {t} was {participle} by {K} in the",
        "According to the story, {K} {past} it in the",
        "It should be somewhere in the",
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
