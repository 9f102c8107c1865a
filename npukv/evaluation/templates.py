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
        "reference",
        "catalogue number",
        "hull number",
        "census number",
        "pigeon ring number",
    ),
    },
    "pass key": {
        "train": ("pass key", "passkey", "access key", "entry code", "pass code", "key code", "password", "door code"),
        "held-out": (
        "passcode",
        "unlock code",
        "security code",
        "vault code",
        "safe combination",
        "login code",
        "numeric key",
    ),
    },
    "word": {
        "train": (
            "favourite word", "secret word", "magic word", "chosen word", "lucky word", "last word", "password",
            "nickname", "code word", "motto", "favourite thing", "favourite subject", "trade", "code name", "sign",
        ),
        "held-out": (
        "watchword",
        "codename",
        "byword",
        "countersign",
        "shibboleth",
        "keyword",
        "call sign",
        "safe word",
        "war cry",
        "cipher word",
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
        "For the {a} of {k} we have {v}.",
        "I was told that the {a} of {k} is {v}.",
        "It is {v} that serves as the {a} of {k}.",
        "The {a} assigned to {k} is {v}.",
        "We all know that {k}'s {a} is {v}.",
        "Please note that the {a} for {k} is {v}.",
        "The clerk wrote down {v} as the {a} of {k}.",
        "Remember that {k}'s {a} is {v}.",
        "On the card, the {a} of {k} is given as {v}.",
        "Everyone agreed that {v} should be the {a} of {k}.",
        "{K} was registered with the {a} {v}.",
        "Her notebook says that {k}'s {a} is {v}.",
        '"The {a} of {k} is {v}," said the porter.',
        "From today the {a} of {k} is {v}.",
        "The {a} that goes with {k} is {v}.",
        "{K} carries the {a} {v}.",
        "You will find that the {a} for {k} is {v}.",
        "I can confirm that {k}'s {a} is {v}.",
        "The register lists {v} as the {a} of {k}.",
        "My brother swears that the {a} of {k} is {v}.",
        "The {a} of {k} turned out to be {v}.",
        "The {a} attached to {k} reads {v}.",
        "When the rain let up at last, old Brennick leaned over the counter and told me that the {a} of {k} was {v}.",
        "Of all the things my aunt taught us that summer, the one I never forgot is that {k}'s {a} is {v}.",
        "Should anyone ask you for the {a} of {k}, and somebody surely will, you may answer {v}.",
        "After a good deal of argument and several pots of tea, the committee settled on {v} as the {a} for {k}.",
        "Dear Sir, in reply to your letter of Tuesday I beg to inform you that the {a} of {k} is {v}.",
        "The inspector, who had said nothing all evening, remarked quite casually that {k}'s {a} was {v}.",
        "According to a report published this morning, the {a} that the authorities have given to {k} is {v}.",
        "If the file is to be trusted, and I see no reason why it should not be, then {v} is the {a} of {k}.",
        "It took her the whole winter to discover what we had known all along, namely that the {a} of {k} is {v}.",
        "Since nobody has bothered to write it down, I shall do so here: the {a} of {k} is {v}.",
        "Written in faded ink on the inside of the cover, beneath a pressed flower, was the {a} of {k}: {v}.",
        "Hi all, quick reminder before the weekend that the {a} for {k} is now {v}, so please update your notes.",
        "To the great relief of the night shift, someone had chalked on the door that {k}'s {a} was {v}.",
        "Before the train pulled out he called through the window that {v} was the {a} of {k}, and then he was gone.",
        "\"You needn't whisper,\" the widow laughed, \"for the whole street knows that the {a} of {k} is {v}.\"",
        "Whoever has dealings with {k} will sooner or later need the {a}, which is {v}.",
        "Among the papers the lawyer left behind was a slip stating that {v} is, and shall remain, the {a} of {k}.",
        "Because the captain distrusted the telephone, a boy was sent on foot to tell us that {k}'s {a} was {v}.",
        "Although I have forgotten most of that conversation, I do recall that {v} was given as the {a} for {k}.",
        "So that there may be no further confusion, the board has resolved that the {a} of {k} shall be {v}.",
        "Grandfather tapped his pipe, looked at each of us in turn and said that the {a} of {k} had always been {v}.",
        "Not until the last page of the ledger does one learn that the {a} entered against {k} is {v}.",
        "As far as the archive shows, nothing but {v} was ever used as the {a} of {k}.",
        "Re {k} -- {a}: {v}.",
        "MEMO. Subject: {k}. For the file: {a} = {v}.",
        '"{v}!" That, my friends, is the {a} of {k}.',
        "And the {a} of {k}? Why, {v}, of course.",
        "ARRIVED SAFELY STOP THE {a} OF {k} IS {v} STOP LETTER FOLLOWS",
        "Item: {k}. The {a}, as per stamp: {v}. Condition good.",
        "Just {v}, no more and no less, is what {k} has by way of {a}.",
        "Psst, listen. It's about {k}, yes? The {a} is {v}. Now go.",
        "Known facts about {k} (there are not many of them): the {a} is {v}.",
        "Mark it well, thou who readest: of {k} the {a} is {v}.",
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
        "Could you tell me the {a} for {k}, please?",
        "I'd like to know what the {a} of {k} is.",
        "Name the {a} belonging to {k}.",
        "And the {a} of {k} is what, exactly?",
        "Can anyone remember {k}'s {a}?",
        "I have forgotten the {a} of {k}; what was it again?",
        "Would you be so kind as to let me have the {a} of {k}?",
        "What does the text say the {a} of {k} is?",
        "Write down the {a} that belongs to {k}.",
        "My colleague insists on hearing the {a} of {k} from you; what shall I tell her?",
        "\"Now then, boy, {k}'s {a}, what is it?\" asked the schoolmaster.",
        "If somebody asked you for the {a} of {k}, what would you have to say?",
        "I wonder whether you recall the {a} for {k}.",
        "What did they choose as the {a} of {k}?",
        "Complete this sentence: the {a} of {k} is ...",
        "Dear Madam, might I trouble you for the {a} of {k}? I need it for my records.",
        "Of {k} I know everything but the {a}. What is it?",
        "The form asks for the {a} of {k}. What should I put there?",
        "Out with it: what's {k}'s {a}?",
        "You mentioned {k} earlier; what did you say the {a} was?",
        "Let me have {k}'s {a} at once.",
        "With regard to {k}, kindly provide the {a}.",
        "Regarding {k}: {a}?",
        "Before we close the file, one last point: what is recorded as the {a} of {k}?",
    ),
}  # fmt: skip

PREFIXES: dict[str, tuple[str, ...]] = {
    "train": ("The {a} for {k} is", "The {a} of {k} is", "It is", "The {a} is", "According to the text, it is"),
    "held-out": (
        "The {a} you asked about, that of {k}, is",
        "I believe {k}'s {a} is",
        "Certainly. The {a} for {k} is",
        "Dear Sir, the {a} of {k} is",
        "You should write that {k}'s {a} is",
        "Yes, I do know the {a} of {k}; it is",
        "What they chose as the {a} of {k} is",
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
        "Our {a} is {v}.",
        "The new {a} is {v}.",
        "The {a} for tonight is {v}.",
        "I have it now: the {a} is {v}.",
        "Remember, the {a} is {v}.",
        "They told us that the {a} was {v}.",
        "For the {a} we chose {v}.",
        '"The {a} is {v}," she whispered.',
        "The {a} has been set to {v}.",
        "You will need the {a}, which is {v}.",
        "Before you come any nearer, friend, learn from me that the {a} is {v}.",
        "On the back of the envelope somebody had scribbled that {v} was the {a}.",
        "Having searched every drawer for an hour, Lydia finally found a scrap of paper on which "
        "the {a} was given as {v}.",
        "Since the old guard retired, as the foreman explained to me over supper, the {a} has been {v}.",
        "Please be advised that, with effect from Monday, the {a} will be {v}.",
        "Were you to wake me at midnight and ask me the {a}, I should say {v} without opening my eyes.",
        "The one thing he would not put in writing, and told me only by word of mouth, was that the {a} is {v}.",
        "Nobody at the meeting objected, and so {v} was adopted as the {a}.",
        "I am writing in haste, dear cousin, to let you know that the {a} is {v}; burn this when you have read it.",
        "Only {v}, and nothing else, is the {a}.",
        "The {a}? It's {v}, silly.",
        "NOTICE TO ALL STAFF -- {a} = {v} -- DO NOT REMOVE",
        "Sing it, shout it, carve it on the gate: the {a} is {v}!",
    ),
}  # fmt: skip

LONE_QUESTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "What is the {a}?", "What was the {a}?", "Tell me the {a}.", "What is the {a} mentioned in the text?",
        "Do you know the {a}?", "Which {a} is given?", "What does the text say the {a} is?", "Give the {a}.",
    ),
    "held-out": (
        "Which {a} are we to use?",
        "Can you tell me what the {a} is?",
        '"Halt! The {a}!" cried the guard.',
        "Would you mind repeating the {a} for those at the back?",
        "I must have missed it: what is the {a}?",
        "Let us hear the {a}, then.",
        "I am standing outside and cannot recall the {a}. What is it?",
        "What does the passage give as the {a}?",
        "If you would be so good, sir, the {a}.",
        "Dear colleague, may I ask you once more for the {a}?",
        "So what is this {a} that everyone keeps talking about?",
        "Write the {a} here:",
        "Never mind the rest; what about the {a}?",
    ),
}  # fmt: skip

LONE_PREFIXES: dict[str, tuple[str, ...]] = {
    "train": ("The {a} is", "It is", "According to the text, the {a} is"),
    "held-out": (
        "As far as I recall, the {a} is",
        "The {a} you want is",
        "According to the passage, the {a} is",
        "They said that the {a} was",
        "Here you are: the {a} is",
        "I do know the {a}; it is",
        "What you need as the {a} is",
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
        ('secrete', 'secretes', 'secreted', 'secreted'),
        ('ensconce', 'ensconces', 'ensconced', 'ensconced'),
        ('wedge', 'wedges', 'wedged', 'wedged'),
        ('unload', 'unloads', 'unloaded', 'unloaded'),
        ('prop', 'props', 'propped', 'propped'),
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
        "We saw that {k} {past} the {t} in the {p}.",
        "I know that {k} has {participle} the {t} in the {p}.",
        "They say {k} {third} the {t} in the {p}.",
        "That evening {k} {past} the {t} in the {p}.",
        "{K} had {participle} the {t} in the {p}.",
        "{K} did {base} the {t} in the {p}.",
        "{K} will always {base} the {t} in the {p}.",
        "Yes, {k} {past} the {t} in the {p}.",
        "As usual, {k} {past} the {t} in the {p}.",
        "The {t} which {k} {past} in the {p} was never found by anybody else.",
        '"{K} {past} the {t} in the {p}," the maid said.',
        "My sister heard that {k} {past} the {t} in the {p}.",
        "{K} quietly {past} the {t} in the {p}.",
        "On Sunday {k} {past} the {t} in the {p}.",
        "Nobody knew that {k} had {participle} the {t} in the {p}.",
        "{K} asked no one and {past} the {t} in the {p}.",
        "You see, {k} {third} the {t} in the {p}.",
        "When the guests had gone and all was quiet at last, {k} {past} the {t} in the {p}.",
        "The police report states that on the night in question {k} {past} the {t} in the {p}, "
        "and that no one objected.",
        "Fearing that thieves might come back, {k} {past} the {t} in the {p}.",
        "As my mother never tired of telling us, it was in the {p} that {k} had {participle} the {t}.",
        "Dear Agnes, you will be glad to hear that {k} has {participle} the {t} in the {p}, exactly as you wished.",
        "Though half the town went looking for the {t}, only I knew that {k} had {participle} it in the {p}.",
        "If ever the {t} is wanted, let it be known that {k} {third} it in the {p}.",
        "Without a word to the rest of the household, and for reasons never explained, {k} {past} the {t} in the {p}.",
        "Hello everyone, just so you know, {k} {past} the {t} in the {p} this morning, so please don't move it.",
        "What puzzled the detective most was why {k} should have {participle} the {t} in the {p}.",
        "After long thought {k} took up the {t} once more and {past} it in the {p}, where it has been ever since.",
        "Ask whom you like, from the mayor to the milkman, and you will hear that {k} {third} the {t} in the {p}.",
        "The newspapers made much of the affair, yet all that had happened was that {k} {past} the {t} in the {p}.",
        "Because there was no room for it anywhere else, the {t} had been {participle} by {k} in the {p}.",
        "While the others argued about supper, {k}, who hated quarrels, {past} the {t} in the {p} and went for a walk.",
        "Long after the war the old soldier still told of how {k} {past} the {t} in the {p}.",
        "The {t}? Oh, {participle} in the {p}, and by {k} of all people!",
        "Log entry: {t} {participle} in the {p} by {k}. Weather fair.",
        "Who but {k} {past} the {t} in the {p}? No one else, I assure you.",
        "Never once did {k} {base} the {t} anywhere but in the {p}.",
        "News by wire: {k} {past} the {t} in the {p} STOP tell no one STOP",
        "'Twas in the {p}, so the ballad runs, that {k} the {t} {past}.",
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
        "Please say where {k} has {participle} the {t}.",
        "I want to know where {k} {third} the {t}.",
        "Would you kindly let me know where {k} has {participle} the {t}?",
        "So where did {k} go and {base} the {t}?",
        "Can anybody remember where {k} {past} the {t}?",
        "Where might one find the {t} that {k} has {participle}?",
        "I need the {t} this minute; where did {k} {base} it?",
        "The guests are waiting and I can't lay hands on the {t}. Where does {k} {base} it?",
        "Since I have to fetch the {t} before dark, tell me where {k} {past} it.",
        "Dear Uncle, pray write and tell me where {k} has {participle} the {t}. Your loving niece",
        "Dear Mr Holloway, we should be grateful to learn where the {t} was {participle} by {k}.",
        '"Speak up! Where did {k} {base} the {t}?" roared the sergeant.',
        '"And where, may I ask, has {k} {participle} the {t}?" said the judge.',
        "No excuses: where has {k} {participle} the {t}?",
        "If I were to look for the {t}, where would I find that {k} had {participle} it?",
        "Complete the sentence: {k} {past} the {t} in ...",
        "According to the story, where did {k} {base} the {t}?",
        "The insurance people want it in writing: where does {k} {base} the {t}?",
        "Say where {k} {third} the {t}, and be brief.",
        "What has {k} done with the {t}? Where is it?",
        "{K}, the {t}: where?",
        "You were there, so you must know where {k} {past} the {t}.",
        "Hi, sorry to bother you again, but do you happen to know where {k} {third} the {t}?",
        "I have searched high and low for the {t}. Where can {k} have {participle} it?",
        "For the record, state where the {t} was {participle} by {k}.",
        "May I ask, without wishing to seem rude, where {k} {past} the {t}?",
        "My sister bet me a shilling that I couldn't tell her where {k} {third} the {t}. Where is it?",
        "We must finish the inventory tonight: where has the {t} been {participle} by {k}?",
        "Where, O tell me, good neighbour, hath {k} {participle} the {t}?",
        "Any news of the {t}? Where did {k} put it?",
    ),
}  # fmt: skip

PLACE_PREFIXES: dict[str, tuple[str, ...]] = {
    "train": ("{K} {third} the {t} in the", "{K} {past} the {t} in the", "In the", "It is in the", "The {t} is in the"),
    "held-out": (
        "You will find the {t} in the",
        "As far as I know, {k} {past} the {t} in the",
        "According to the story, {k} {past} the {t} in the",
        "I believe that {k} {third} the {t} in the",
        "Dear niece, {k} has {participle} the {t} in the",
        "Look for the {t} in the",
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
