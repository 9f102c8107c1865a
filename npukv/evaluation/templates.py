"""How facts are stated and asked for: forms for training, and other forms that no training sequence holds.

In a form, {k} is the key, {a} the attribute, {v} the value, {t} a thing, {p} a place; verbs stand as {base}, {third},
{past} and {participle}. Kinds "number", "pass key" and "word" share the forms of attributes.
"""

from __future__ import annotations

ATTRIBUTES: dict[str, dict[str, tuple[str, ...]]] = {
    "number": {
        "train": (
            "special magic number", "magic number", "secret number", "lucky number", "account number",
            "registration number", "serial number", "code number", "ticket number", "house number", "secret code",
            "telephone number", "reference number", "membership number", "winning number", "number", "case number",
        ),
        "held-out": (
            "pew number", "ledger folio", "cabin number", "hospital bed number", "turnpike tally",
            "seed-drawer number", "winning ballot number", "sworn weight",
        ),
    },
    "pass key": {
        "train": ("pass key", "passkey", "access key", "entry code", "pass code", "key code", "password", "door code"),
        "held-out": (
            "vault cipher", "gate countersign", "strongbox combination", "courier recognition code",
            "attic alarm code", "signal-room passphrase", "boathouse entry key", "night-watch challenge reply",
        ),
    },
    "word": {
        "train": (
            "favourite word", "secret word", "magic word", "chosen word", "lucky word", "last word", "password",
            "nickname", "code word", "motto", "favourite thing", "favourite subject", "trade", "code name", "sign",
        ),
        "held-out": (
            "telegraphic address", "embroidered motto", "chosen emblem", "racing name", "nursery byword",
            "favourite toast", "christening nickname",
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
        "{K}'s {a} is {v}.",
        "The {a} belonging to {k} is {v}.",
        "The {a} given to {k} was {v}.",
        "{K} was assigned the {a} {v}.",
        "Everybody in the village knew {k}'s {a} to be {v}.",
        "The clerk entered {v} as the {a} of {k}.",
        "In the parish register the {a} for {k} stands as {v}.",
        "The records give {k} the {a} {v}.",
        "We were informed that the {a} of {k} was {v}.",
        "The committee has fixed {v} as {k}'s {a}.",
        "{K} received {v} as {a} in the spring.",
        "According to the steward, the {a} of {k} is {v}.",
        "The {a} that {k} uses is {v}.",
        "It is well known that {k} has {v} for {a}.",
        "The {a} now held by {k} is {v}.",
        "Please note that {k}'s {a} is {v}.",
        "They had settled on {v} as the {a} for {k}.",
        "The report states that {k} bears the {a} {v}.",
        "My aunt wrote that the {a} of {k} was {v}.",
        "At that time {k}'s {a} was {v}.",
        "The {a} chosen for {k} is {v}.",
        "{K} still has {v} for {a}.",
        "The porter told me that {v} was the {a} of {k}.",
        "The office confirmed {v} as {k}'s {a} this morning.",
        "As {a}, {k} has {v}.",
        "Under {k} in the index, the {a} is given as {v}.",
        "The family always remembered that {k}'s {a} was {v}.",
        "The {a} listed for {k} is {v}.",
        "On the first page one reads that the {a} of {k} is {v}.",
        '"The {a} of {k}, if you must know, is {v}," said the doctor, reaching for his hat.',
        "\"Do you not recollect?\" she cried. \"{K}'s {a} is {v}!\"",
        "Though much else was forgotten in after years, it was never forgotten that the {a} of {k} was {v}.",
        "To {k}, after a good deal of talk among the trustees, was granted the {a} {v}.",
        "The old gardener, who was seldom wrong in such matters, maintained that {v} was the {a} of {k}.",
        "While the others had nothing of the kind, {k} had {v} for {a}.",
        "It was {v}, as the magistrate afterwards learned, that had been adopted as the {a} of {k}.",
        "By common consent {v} was made the {a} of {k}, and so it remained until the end.",
        "When the rain had stopped and the lamps were lit, he told us that {k}'s {a} was {v}.",
        '"I have it from the housekeeper herself," whispered Edmund, "that the {a} of {k} is {v}."',
        "Of {k} I can say very little, except that the {a} is {v}.",
        "Had you asked anyone on the quay, you would have been told that {v} was {k}'s {a}.",
        "The letter, which was badly stained with sea water, said plainly that {k}'s {a} was {v}.",
        "What the schoolmaster wrote upon the board that morning was the {a} of {k}, namely {v}.",
        "Mrs Pargeter did not care for {k}, but she knew quite well that the {a} was {v}.",
        "There is no secret about it any longer: {k}'s {a}, which so many had wished to learn, is {v}.",
        '"And the {a} of {k}?" asked the inspector. "It is {v}, sir," replied the constable.',
        "Before the meeting closed, {v} was read aloud by the chairman as the {a} of {k}.",
        "Long after the house was sold, people in the town could tell you that {k} had had the {a} {v}.",
        "Whatever may be said of the neighbours, the {a} of {k} is, beyond all dispute, {v}.",
        "Nobody had troubled to tell the new curate that {v} was the {a} of {k}, and so I told him.",
        "Item, for {k}: {a}, {v}; examined and found correct.",
        "Telegram received at noon: {a} of {k} is {v} stop letter follows stop.",
        "Erratum: in the entry for {k}, the {a} should read {v}.",
        "Memorandum for the night staff. Subject: {k}. The {a}: {v}.",
        "{K} - {a} - {v} - signed for by the bailiff.",
        "Pencilled in the margin, in my grandfather's hand: \"{K}, {a} {v}, do not lose this.\"",
        "Notice is hereby given that from Michaelmas next the {a} of {k} shall be {v}.",
        "P.S. You wanted {k}'s {a}. It is {v}. Burn this when you have read it.",
        "On a luggage label tied to the door handle were the words: {a} of {k}, {v}.",
        "Minutes, fourth item: resolved, that {v} be recorded as the {a} of {k}.",
        "Name of entrant: {k}. Declared {a}: {v}. Fee paid.",
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
        "What was the {a} given to {k}?",
        "What does the book say the {a} of {k} is?",
        "What is stated as the {a} of {k}?",
        "Please give the {a} of {k}.",
        "What is the {a} recorded for {k}?",
        "Which {a} does the story mention for {k}?",
        "What would you answer if asked for {k}'s {a}?",
        "Do you remember what the {a} of {k} is?",
        "What {a} is attributed to {k}?",
        "Somewhere the {a} of {k} is mentioned; what is it?",
        "State the {a} that belongs to {k}.",
        "What did we learn about {k}'s {a}: what is it?",
        "With regard to {k}, which {a} is named?",
        "In what was read above, what {a} is {k} said to have?",
        "How does the text give the {a} of {k}?",
        "Of what is written about {k}, what is the {a}?",
    ),
}  # fmt: skip

PREFIXES: dict[str, tuple[str, ...]] = {
    "train": ("The {a} for {k} is", "The {a} of {k} is", "It is", "The {a} is", "According to the text, it is"),
    "held-out": (
        "{K} has the {a}",
        "The book says that the {a} of {k} is",
        "It is stated that {k} has the {a}",
        "As far as {k} is concerned, the {a} is",
        "The text tells us that {k}'s {a} was",
        "The answer is that the {a} of {k} is",
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
        "Remember that the {a} is {v}.",
        "We had agreed that the {a} should be {v}.",
        "The {a}, as everyone on the estate knew, was {v}.",
        "They were told that {v} was the {a}.",
        "For the {a} they had chosen {v}.",
        "The notice in the hall gave the {a} as {v}.",
        "The secretary wrote down {v} as the {a}.",
        "From that day onward {v} was the {a}.",
        "The last line of the report says that the {a} is {v}.",
        "It turned out that the {a} was simply {v}.",
        "You may take it as certain that {v} is the {a}.",
        '"The {a} is {v}," said the captain, and shut the door behind him.',
        '"If anybody should ask you," she murmured, "the {a} is {v}."',
        "What the old man had been trying to tell them all evening was that the {a} was {v}.",
        "Of all that was said at supper I remember only this, that the {a} was {v}.",
        "After some hesitation, and with a glance at the window, he gave {v} as the {a}.",
        "The {a}, which had been kept from the children for so long, turned out to be {v}.",
        "It was {v}, and nothing else, that had been approved as the {a}.",
        "Though the paper was torn across, one could still read that the {a} was {v}.",
        "Correction to our last number: the {a} is {v}. The editor regrets the mistake.",
        "Telegram from Harwich: {a} is {v} stop inform the others stop.",
        "On the back of the envelope, in green ink: {a}, {v}.",
        "To whom it may concern: with effect from Monday the {a} will be {v}.",
        "Entered in the day-book after breakfast: {a}, {v}; weather fair.",
    ),
}  # fmt: skip

LONE_QUESTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "What is the {a}?", "What was the {a}?", "Tell me the {a}.", "What is the {a} mentioned in the text?",
        "Do you know the {a}?", "Which {a} is given?", "What does the text say the {a} is?", "Give the {a}.",
    ),
    "held-out": (
        "Please state the {a}.",
        "According to the book, what is the {a}?",
        "What is said to be the {a}?",
        "Do you recall the {a}? What is it?",
        "At one point the {a} is mentioned. What is it?",
        "What should one answer when asked for the {a}?",
        "Tell me what the {a} is.",
        "Which {a} did the reader learn?",
        "What, in the pages above, is the {a}?",
    ),
}  # fmt: skip

LONE_PREFIXES: dict[str, tuple[str, ...]] = {
    "train": ("The {a} is", "It is", "According to the text, the {a} is"),
    "held-out": (
        "The book says that the {a} is",
        "It is stated that the {a} was",
        "As the reader is told, the {a} is",
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
        "{K} has {participle} the {t} behind the {p}.",
        "{K} always {past} the {t} beside the {p}.",
        "The {t} is {participle} under the {p} by {k}.",
        "We saw that {k} had {participle} the {t} in the {p}.",
        "{K} will {base} the {t} in the {p} until the spring.",
        "As a rule {k} {third} the {t} near the {p}.",
        "That winter {k} {past} the {t} in the {p}.",
        "The neighbours know that {k} {third} the {t} in the {p}.",
        "{K} preferred to {base} the {t} in the {p}.",
        "For safety {k} {past} the {t} behind the {p}.",
        "{K} quietly {past} the {t} beneath the {p}.",
        "My brother says that {k} {past} the {t} in the {p}.",
        "Before leaving for church, {k} {past} the {t} in the {p}.",
        '"{K} {past} the {t} in the {p}," said the cook, "and there it is still."',
        '"You will not find the {t} here," he answered, "for {k} has {participle} it in the {p}."',
        "The {t}, which the whole household had been seeking since morning, had been {participle} by {k} in the {p}.",
        "Where others would have sold the {t}, {k} {past} it in the {p} and said no more about it.",
        "Behind the {p}, where nobody would have thought of looking, {k} had {participle} the {t}.",
        "It was the habit of {k}, as the maids knew very well, to {base} the {t} in the {p}.",
        "When the guests had gone and the fires were low, {k} {past} the {t} under the {p}.",
        "Nothing could persuade {k} to {base} the {t} anywhere but in the {p}.",
        "Having thought the matter over for some time, {k} {past} the {t} in the {p}.",
        '"Where is the {t}?" asked the lawyer. "In the {p}, sir, for {k} {past} it there," replied the boy.',
        "The {t} that {k} {third} in the {p} is thought to be very old.",
        "Not without some regret was the {t} {participle} by {k} beside the {p}.",
        "As the constable discovered the next day, the {p} was the place in which {k} had {participle} the {t}.",
        "I do not know what became of the other things, but {k} certainly {past} the {t} in the {p}.",
        "Under the {p}, if the old letters are to be believed, {k} {third} the {t}.",
        "Telegram: {k} has {participle} {t} in the {p} stop fetch it at once stop.",
        "Inventory, second sheet: one {t}, {participle} by {k} in the {p}; condition good.",
        'Note left on the hall table: "{K} has {participle} the {t} behind the {p}. Do not wait supper."',
        "Correction: the {t} mentioned in our last was {participle} by {k} in the {p}, and not as there reported.",
        "Rule for the summer months: {k} shall {base} the {t} in the {p} at dusk.",
        "P.S. About the {t}: {k} {third} it in the {p}. Tell no one.",
        "Statement of the witness: that {k} did {base} the {t} in the {p}, and then went home.",
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
        "Where should one look for the {t} that {k} has {participle}?",
        "Where, in the story, does {k} {base} the {t}?",
        "Where would one find the {t} which {k} {past}?",
        "Where does the book say that {k} {past} the {t}?",
        "Where is the {t} said to be {participle} by {k}?",
        "At what spot did {k} {base} the {t}?",
    ),
}  # fmt: skip

PLACE_PREFIXES: dict[str, tuple[str, ...]] = {
    "train": ("{K} {third} the {t} in the", "{K} {past} the {t} in the", "In the", "It is in the", "The {t} is in the"),
    "held-out": (
        "The {t} that {k} {past} is to be found in the",
        "The book says that {k} {third} the {t} in the",
        "The place in which {k} had {participle} the {t} was the",
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
