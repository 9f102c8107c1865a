"""Words from which training facts are stated and asked for; bundled_wording.py puts them together.

A model that sees a few dozen sentences learns those sentences: asked in other words, it takes the fact for absent. None
of what stands here makes one of the held-out forms, attributes or verbs of npukv.evaluation.templates.
"""

from __future__ import annotations

ADJECTIVES = (
    "new", "old", "first", "second", "true", "false", "hidden", "sacred", "former", "royal", "common", "spare", "final",
    "usual", "early", "public", "silent", "golden", "broken", "own", "current", "next", "great", "main", "personal",
    "little", "large", "dark", "famous", "distant", "narrow", "white", "black", "green", "empty", "proper", "simple",
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
    "found", "shown", "claimed", "marked", "fixed", "proposed", "sold", "granted", "named", "chosen", "given",
    "written", "assigned", "recorded", "wanted", "accepted", "learnt", "prepared", "sent", "noted", "picked", "saved",
)  # fmt: skip
# How an attribute hangs on its key.
RELATIONS = (
    "of {k}", "of {k}", "of {k}", "for {k}", "for {k}", "for {k}", "belonging to {k}", "that {k} has", "that {k} {r}",
    "which {k} {r}", "{r} for {k}", "{r} by {k}", "{r} to {k}", "{r} with {k}", "{r} under {k}", "with {k}", "at {k}",
    "in the case of {k}", "on behalf of {k}", "that goes with {k}", "which belongs to {k}", "meant for {k}",
    "that was {r} for {k}", "that we {r} for {k}", "they {r} for {k}", "to be {r} for {k}", "against {k}",
)  # fmt: skip
COPULAS = (
    "is", "is", "is", "is", "was", "was", "has been", "had been", "will be", "must be", "may be", "would be", "can be",
    "became", "reads", "seems to be", "was said to be", "is called", "has become", "is given as", "is written",
    "is nothing but", "could only be", "appears to be", "was to be", "is and was", "happens to be", "ought to be",
    "is known to be", "should be", "goes by", "was found to be", "is said to be", "is, was and will be",
)  # fmt: skip
ADVERBS = (
    "now", "then", "always", "simply", "certainly", "surely", "really", "perhaps", "indeed", "in fact", "of course",
    "once more", "at present", "in the end", "after all", "for ever", "as before", "no doubt", "by law", "once again",
    "likewise", "also", "probably", "evidently", "strangely", "again", "therefore", "however", "today", "here",
    "merely", "exactly", "at last", "from now on", "as ever", "obviously", "as a rule", "plainly", "henceforth",
    "luckily", "in truth", "truly", "quite", "rather", "only", "just", "thus", "clearly", "at once", "already", "yet",
    "most likely", "nevertheless", "ever since", "alas", "oddly enough", "in short", "for once", "officially",
)  # fmt: skip
MIDDLES = (
    "as everybody knows", "he said", "she thought", "I believe", "it seems", "so they say", "my friend", "you see",
    "to be exact", "as I told you", "if you must know", "sir", "my dear", "I am told", "so far as I know", "we hear",
    "like it or not", "in my opinion", "as you may guess", "it was decided", "strange to say", "I suppose",
)  # fmt: skip
LEADS = (
    "He said that", "She whispered that", "We know that", "It is true that", "Some believe that", "As I told you,",
    "By the way,", "In those days,", "Once more:", "Listen:", "After all,", "Of course,", "To be exact,", "So",
    "But", "For", "Then", "Yet", "Indeed,", "Meanwhile,", "The letter said that", "My uncle told me that", "Hear this:",
    "On the wall stood the words:", "Nobody doubts that", "I am sure that", "You will remember that", "In short,",
    "It happened that", "The clerk wrote:", "In truth,", "If I am right,", "The record states that",
    "Suddenly he cried:", "And", "Now", "Because", "Although", "While", "Since", "When", "If", "It was written that",
    "They say that", "I saw that", "Somebody said that", "Let it be noted that", "You should know that", "At last",
    "I heard that", "It appears that", "There is no doubt that", "He swore that", "We were told that", "As usual,",
    "According to my notes,", "In the register,", "On that day", "Every child knows that", "I can prove that",
    "A voice answered that", "Do not forget that", "Please note:", "Here is the truth:", "He added that", "Even so,",
)  # fmt: skip
TAILS = (
    "as everybody knew", "he said", "and that was all", "so they told me", "I believe", "to my surprise", "it seems",
    "and nothing else", "in those days", "my dear", "for a long time", "according to the clerk", "at least for now",
    "and it opens every door", "which pleased him", "and she laughed", "as the paper shows", "but tell nobody",
    "if I am not mistaken", "and nobody minded", "until the end", "and so it was", "which is odd", "thank heaven",
    "though few knew it", "as I found out later", "and I wrote it down", "he replied", "and we all heard it",
)  # fmt: skip
# Whole sentences, of shapes the grammar does not make.
STATEMENTS = (
    "{v} was {r} as the {a} for {k}.", "The {a} of {k} had been {r}: it is {v}.", "With {k} goes the {a} {v}.",
    "{k}, {a}: {v}.", "They {r} the {a} of {k}, which is {v}.", "{v}, that is the {a} of {k}.", "{k} ({a}): {v}.",
    "And what is the {a} of {k}? It is {v}.", "Take {v} as the {a} for {k}.", "{K} has {v} as {a}.", "{k}: {a} {v}.",
    "I have {r} the {a} for {k}, namely {v}.", "No {a} but {v} would do for {k}.", "Of {k} the {a} is {v}.",
    "If you meet {k}, the {a} is {v}.", "{K} took {v} for {a}.", "They have changed the {a} of {k} to {v}.",
    "Write down the {a} of {k}, which is {v}.", "Let {v} be the {a} for {k}.", "{K} {r} {v} as the {a}.",
    "He asked for the {a} of {k} and was told: {v}.", "The {a} {v} belongs to {k}.", "The {a} {v} is {r} for {k}.",
    "It was written down that the {a} for {k} is {v}.", "And the {a} for {k} is still {v}.", "{k} - {a} - {v}.",
    "Who does not know that {v} is the {a} of {k}?", "Out of all words, {v} was the {a} of {k}.",
)  # fmt: skip
LONE_STATEMENTS = (
    "{v} was {r} as the {a}.", "I have {r} the {a}, namely {v}.", "Use {v} as the {a}.", "The {a}? It is {v}.",
    "A new {a} was {r}: {v}.", "No {a} but {v} will do.", "{v}, that is the {a}.", "{a}: {v}.", "The {a} {v} was {r}.",
    "They have changed the {a} to {v}.", "Write down the {a}, which is {v}.", "Let {v} be the {a}.",
    "He asked for the {a} and was told: {v}.", "Nothing but {v} is the {a}.", "You will need the {a} {v}.",
)  # fmt: skip
PREPOSITIONS = ("in", "in", "in", "in", "inside", "within", "near", "by", "behind", "under", "beside", "at", "on")
PLACE_STATEMENTS = (
    "{K}, {t}: in the {p}.", "To the {p} went {K} and {past} the {t} there.",
    "There is a {p} where {K} {third} the {t}.",
    "Look in the {p} for the {t} that {K} {third}.", "{K} used to {base} the {t} in the {p}.",
    "The {t} is in the {p}, for {K} {past} it there.", "{K} {third} it in the {p}: the {t}.",
    "{K} will {base} the {t} in the {p}.", "The {p} is where {K} {past} the {t}.",
    "{K} had to {base} the {t} in the {p}.",
    "Nobody but {K} {past} the {t} in the {p}.", "What {K} {past} in the {p} was the {t}.", "{t} of {k}: {p}.",
    "{K} wished to {base} the {t} in the {p}.", "Did you know that {K} {third} the {t} in the {p}?",
    "In the {p} is the {t} that {K} {past}.", "Having {participle} the {t} in the {p}, {K} went home.",
    "{K} came to the {p} to {base} the {t}.", "If the {t} is gone from the {p}, {K} {past} it there.",
)  # fmt: skip
VERBS = (
    ("carry", "carries", "carried", "carried"), ("find", "finds", "found", "found"), ("hang", "hangs", "hung", "hung"),
    ("lose", "loses", "lost", "lost"), ("throw", "throws", "threw", "thrown"), ("sell", "sells", "sold", "sold"),
    ("build", "builds", "built", "built"), ("break", "breaks", "broke", "broken"), ("make", "makes", "made", "made"),
    ("draw", "draws", "drew", "drawn"), ("wash", "washes", "washed", "washed"), ("read", "reads", "read", "read"),
    ("burn", "burns", "burned", "burned"), ("forget", "forgets", "forgot", "forgotten"), ("see", "sees", "saw", "seen"),
    ("pack", "packs", "packed", "packed"), ("shut", "shuts", "shut", "shut"), ("spread", "spreads", "spread", "spread"),
    ("steal", "steals", "stole", "stolen"), ("plant", "plants", "planted", "planted"),
    ("buy", "buys", "bought", "bought"), ("deposit", "deposits", "deposited", "deposited"),
    ("mend", "mends", "mended", "mended"), ("wear", "wears", "wore", "worn"), ("drag", "drags", "dragged", "dragged"),
    ("open", "opens", "opened", "opened"), ("hold", "holds", "held", "held"), ("tie", "ties", "tied", "tied"),
    ("fold", "folds", "folded", "folded"), ("clean", "cleans", "cleaned", "cleaned"), ("eat", "eats", "ate", "eaten"),
)  # fmt: skip
REQUESTS = (
    "Tell me", "Tell us", "Give me", "State", "Name", "Find", "Show", "Say", "Write", "Repeat", "Read out", "Recall",
    "Let me know", "Let me hear", "Point out", "I want", "I need", "I would like", "I am looking for", "They ask for",
    "Can you tell me", "Could you give me", "Will you name", "Would you tell us", "May I ask for", "Do you know",
    "Do you remember", "Please state", "Please find", "Who knows", "Who can tell me", "Have you seen", "Look for",
    "Could you find", "Remind me of", "Could you remind me of", "Quote", "Report", "Spell", "Please tell me",
)  # fmt: skip
QUESTIONS = (
    "Which {a} was {r} for {k}?", "The {a} of {k}?", "{a} of {k}?", "What did they call the {a} of {k}?", "{K}'s {a}?",
    "For {k}, what is the {a}?", "What does {k} have as {a}?", "Which {a} did {k} have?", "What {a} has {k}?",
    "With {k} goes which {a}?", "What {a} belongs to {k}?", "What was {r} as the {a} for {k}?", "{k}: which {a}?",
    "{K} took what for {a}?", "What is it that {k} {r} as the {a}?", "And the {a} of {k}?",
)  # fmt: skip
LONE_QUESTIONS = (
    "The {a}?", "What {a} was {r}?", "Which is the {a} that was {r}?", "And the {a}?", "What {a} is it?", "{a}?",
    "What do we use as the {a}?", "What is given as the {a}?", "Which {a} do I need?",
)  # fmt: skip
PLACE_QUESTIONS = (
    "Where is the {t} that {K} {past}?", "The {t} of {K} is where?", "In what place must {K} {base} the {t}?",
    "Where is the {t} {participle} by {K}?", "Where is {K}'s {t}?", "What place holds the {t} of {K}?",
    "To which place did {K} go with the {t}?", "Where do I find the {t} that {K} {third}?", "{K}'s {t} is where?",
    "Where can one see the {t} that {K} {past}?", "Which place has the {t} that {K} {third}?",
)  # fmt: skip
QUESTION_LEADS = (
    "Tell me, please:", "Well,", "Now,", "My friend,", "I wonder:", "I ask you:", "From the text:", "Think back:",
    "Quickly:", "Sir,", "One question:", "Look again:", "By the way,", "I forgot:", "Help me:", "Answer this:", "So",
    "From what you have read,", "As far as the text goes,", "If you remember,", "Given all this,", "In this text,",
    "In the story,", "And", "Then", "But", "According to the story,", "As told above,", "Excuse me,", "Once again:",
)  # fmt: skip
QUESTION_TAILS = (
    "please", "if you can", "my friend", "according to the story", "as told above", "sir", "by the way", "in short",
    "as far as you know", "do you think", "in the text", "in one word",
)  # fmt: skip
PREFIXES = (
    "The answer:",
    "I think it is",
    "That would be",
    "This is",
    "The text gives",
    "Here it is:",
    "The answer is",
)
