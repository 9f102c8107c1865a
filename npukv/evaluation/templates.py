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
            "locker number",
            "berth number",
            "licence number",
            "parcel number",
            "hymn number",
            "library shelf number",
        ),
    },
    "pass key": {
        "train": ("pass key", "passkey", "access key", "entry code", "pass code", "key code", "password", "door code"),
        "held-out": (
            "vault combination",
            "cellar lock code",
            "strongbox code",
            "keypad sequence",
            "release code",
        ),
    },
    "word": {
        "train": (
            "favourite word", "secret word", "magic word", "chosen word", "lucky word", "last word", "password",
            "nickname", "code word", "motto", "favourite thing", "favourite subject", "trade", "code name", "sign",
        ),
        "held-out": (
            "childhood nickname",
            "trade name",
            "closing word",
            "harbour name",
            "verse heading",
            "household word",
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
        "After two evenings of argument, the trustees settled on {v} as the {a} of {k}, and supper was served.",
        "{K} has had the same {a} since the year of the flood, namely {v}.",
        "In the parish book, the {a} given for {k} is {v}, and the vicar has signed beneath it.",
        'The clerk first pencilled in "orchard", but the {a} that truly belongs to {k} is {v}.',
        "It is {v}, whatever you may have heard in the tavern, that serves {k} as its {a}.",
        "Dear Sister, you asked me about {k}: the {a} turned out to be {v}, just as Father always claimed.",
        "If anyone at the gate enquires about {k}, tell them that {v} is the {a}.",
        "{K}: first listed in April; {a}, {v}; present keeper, a widow of the town.",
        "We found {v} chalked on the wall beside {k}, and the porter assured us that this was its {a}.",
        "Nobody has ever changed the {a}: it was {v} when {k} was new, and it remains so today.",
        '"What is the {a} of {k}?" asked the boy, and his teacher replied that it was {v}.',
        'Under the heading "{a}", the ledger shows {v} in the row belonging to {k}.',
        "By the will of the late miller, {v} shall for ever be the {a} of {k}.",
        'Correction to page nine: for {k}, please read {v} in the column marked "{a}", and ignore the old entry.',
        "Had the {a} not been {v}, the inspector would never have believed that this was {k}.",
        "Snow on the pass stop {a} of {k} is {v} stop home by Friday with the horses.",
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
        "Could you remind me what the {a} of {k} is?",
        "Which {a}, according to the records, belongs to {k}?",
        "{K} has only one {a}; what is it?",
        "If a stranger asked you for {k}'s {a}, what would you answer?",
        "I have forgotten the {a} of {k} again. Would you tell me, please?",
        "In the case of {k}, what has been recorded as the {a}?",
        "State in full the {a} that was assigned to {k}.",
        'What, then, should one write beside {k} in the column headed "{a}"?',
        "Among the facts you were told about {k} was its {a}. What was it?",
        "The {a} of {k} is wanted at the front desk; what shall I tell them?",
    ),
}  # fmt: skip

PREFIXES: dict[str, tuple[str, ...]] = {
    "train": ("The {a} for {k} is", "The {a} of {k} is", "It is", "The {a} is", "According to the text, it is"),
    "held-out": (
        "The {a} of {k}, as far as anyone remembers, is",
        "You asked for {k}'s {a}, and the answer is",
        "{K} has an easily remembered {a}, namely",
        "Anyone who knows {k} will tell you that its {a} is",
        "In the column for the {a}, the entry beside {k} reads",
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
        "For tonight's watch the {a} will be {v}; yesterday's is no longer valid.",
        "Please note that {v} has been chosen as the {a} by a vote of nine to four.",
        "The old sailor bent close and whispered that the {a} was {v}.",
        "You will need the {a}, which is {v}, before the ferry leaves at noon.",
        "Let it be known that {v}, and nothing else, is the {a}.",
        'Not "pepper", as the cook supposed, but {v} turned out to be the {a}.',
        "Remember the {a}. It is {v}, and my grandfather carved it over the fireplace.",
        "When the judge demanded the {a}, the witness correctly answered {v} without a moment's pause.",
        "Engraved inside the lid we read {v}, the very {a} that everyone had been looking for.",
    ),
}  # fmt: skip

LONE_QUESTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "What is the {a}?", "What was the {a}?", "Tell me the {a}.", "What is the {a} mentioned in the text?",
        "Do you know the {a}?", "Which {a} is given?", "What does the text say the {a} is?", "Give the {a}.",
    ),
    "held-out": (
        "What was the {a} that I told you earlier?",
        "Can you still recall the {a}? Say it, please.",
        "The guard is asking for the {a}; how should one reply?",
        "Which {a} is mentioned in the text above?",
        "Tell me, please, what the {a} turned out to be.",
        "I seem to have lost the {a}. What was it?",
        "Given everything stated so far, what must the {a} be?",
    ),
}  # fmt: skip

LONE_PREFIXES: dict[str, tuple[str, ...]] = {
    "train": ("The {a} is", "It is", "According to the text, the {a} is"),
    "held-out": (
        "Yes, I remember it well: the {a} is",
        "As was stated earlier, the {a} to be used is",
        "When asked for the {a}, one should answer",
        "There is only one {a}, and that is",
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
        ("wedge", "wedges", "wedged", "wedged"),
        ("unload", "unloads", "unloaded", "unloaded"),
        ("prop", "props", "propped", "propped"),
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
        "{K} {past} the {t} in the {p}, as the housekeeper confirmed on Tuesday.",
        "Look inside the {p}, for that is where {K} has {participle} the {t}.",
        "The {t} has been {participle} in the {p} by {K}, although the stable seemed the likelier choice.",
        "Whenever a storm threatens, {K} {third} the {t} under the {p}.",
        "It was behind the {p}, not behind the chapel, that {K} {past} the {t}.",
        '"Where is the {t}?" cried the cook. "{K} {past} it near the {p}," said the maid.',
        "Having {participle} the {t} in the {p}, {K} wrote a short note to the gardener.",
        "Fearing thieves, {K} decided to {base} the {t} in the {p} rather than in the kitchen.",
        "The {t}, which {K} had {participle} inside the {p}, was found there unharmed by two children.",
        "Inside the {p}, {participle} there by {K} on Monday, the {t} still waits for its owner.",
        'From the lodger\'s diary: "I know now that {K} {third} the {t} in the {p}, beside an old saddle."',
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
        "Which is the place where {K} {past} the {t}?",
        "If I wanted to find the {t} that {K} {past}, where should I look?",
        "What spot did {K} choose when deciding where to {base} the {t}?",
        "{K} has {participle} the {t} somewhere. Where, precisely?",
        "Tell me, please, where it is that {K} {third} the {t}.",
        "The {t} is missing from the table; where has {K} {participle} it?",
        "Of all the places mentioned, in which one was the {t} {participle} by {K}?",
    ),
}  # fmt: skip

PLACE_PREFIXES: dict[str, tuple[str, ...]] = {
    "train": ("{K} {third} the {t} in the", "{K} {past} the {t} in the", "In the", "It is in the", "The {t} is in the"),
    "held-out": (
        "{K} {past} the {t}, if I remember correctly, in the",
        "To answer your question, the {t} was {participle} by {K} in the",
        "You will find that {K} has {participle} the {t} in the",
        "As everybody here knows, {K} likes to {base} the {t} in the",
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
