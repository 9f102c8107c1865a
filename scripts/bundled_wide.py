"""Training facts in sentences of any form: a grammar over phrases of real texts and words of the pool.

A form has the fields of npukv.evaluation.templates. What is constant in it is order and nearness: the value stands where
a reader looks for it. Every filled form is compared with the held-out ones and drawn again if it is one of them.
"""

from __future__ import annotations

import random
from dataclasses import replace

import bundled_variety as lists
from bundled_phrases import Phrases

from npukv.evaluation import templates
from npukv.evaluation.facts import Fact

# Held-out forms of earlier versions, which were looked at; those still held out are not used.
FORMER = {
    "STATEMENTS": (
        "{K} has been given the {a} {v}.", "According to the clerk, the {a} of {k} was {v}.", "Anyone asking about {k} should be told that its {a} is {v}.", "They settled on {v} as the {a} for {k}.", "In the ledger, beside the entry for {k}, the {a} reads {v}.", "Please remember that {v} is the {a} that belongs to {k}.", "{K} goes by the {a} {v}.", "As far as {k} is concerned, the correct {a} is {v}.", "When the list was drawn up, {k} received {v} as its {a}.",
        "It turned out that the {a} of {k} is {v}.", "Be assured that {v} is the {a} for {k}.",
        "The {a} entered beside {k} is {v}.", "By common consent the {a} for {k} is {v}.",
        "The {a} of {k}, I remember, is {v}.", "Even today the {a} for {k} remains {v}.",
    ),
    "QUESTIONS": (
        "Which {a} was given to {k}?", "Can you tell me the {a} of {k}?", "According to the text, what {a} does {k} have?", "Please state the {a} that belongs to {k}.", "If someone asked about {k}, what would you say its {a} is?", "Find the {a} mentioned in connection with {k}.", "Do you remember which {a} goes with {k}?",
        "Kindly give the {a} for {k}.", "From this account, what is the {a} of {k}?", "Which one is the {a} for {k}?",
        "Would you look up the {a} of {k}?", "What is the {a} listed for {k}?",
    ),
    "LONE_STATEMENTS": (
        "They finally agreed that {v} would be the {a}.", "On the back of the envelope someone had written the {a}, {v}.", "From this day on, {v} is to serve as the {a}.", "You will be asked for the {a}, and the right answer is {v}.",
        "Bear in mind that the {a} is {v}.", "The {a}, they told us, is {v}.", "From today the {a} is {v}.",
        "Whoever asks, the {a} is {v}.",
    ),
    "LONE_QUESTIONS": (
        "Which {a} is mentioned in the text?", "Please tell me the {a} that was given earlier.", "Can you recall what the {a} was?","Kindly give the {a}.", "From this account, what is the {a}?", "Would you look up the {a}?"),
    "PLACE_STATEMENTS": (
        "Before supper, {K} {past} the {t} in the {p}.", "Every evening {K} {third} the {t} in the {p}.", "It was in the {p} that {K} {past} the {t}.", "Nobody else knew that {K} had {participle} the {t} in the {p}.", "To be on the safe side, {K} decided to {base} the {t} in the {p}.", "As for the {t}, {K} {past} it in the {p}.",
        "It is certain that {K} {third} the {t} in the {p}.", "Early one morning {K} {past} the {t} in the {p}.",
        "We watched as {K} {past} the {t} in the {p}.", "The {t}, which {K} {past} in the {p}, was heavy.",
    ),
    "PLACE_QUESTIONS": (
        "In which place was the {t} {participle} by {K}?", "Can you tell me where {K} {past} the {t}?", "What place did {K} choose to {base} the {t} in?", "Name the place where the {t} was {participle} by {K}.",
        "Would you say where {K} {third} the {t}?", "Where in the world did {K} {base} the {t}?",
        "From this account, where does {K} {base} the {t}?",
    ),
    "PREFIXES": (
        "According to the text, the {a} for {k} is", "The {a} given to {k} was", "For {k}, the {a} mentioned is","The {a} for {k}, as I read, is", "The reply is that the {a} of {k} is"),
    "LONE_PREFIXES": (
        "The {a} mentioned in the text is", "As stated earlier, the {a} was","The {a}, as I read, is", "The reply is that the {a} is"),
    "PLACE_PREFIXES": (
        "According to the text, the {t} was {participle} by {K} in the", "The place where {K} {past} the {t} was the","I read that {K} {past} the {t} in the", "The reply is the"),
}  # fmt: skip
FORMER_ATTRIBUTES = {
    "number": (
        "routing code",
        "census figure",
        "invoice number",
        "catalogue code",
        "badge number",
        "private number",
        "ledger number",
        "order number",
        "special code",
    ),
    "pass key": (
        "vault key",
        "login password",
        "gate passcode",
        "access code",
        "secret pass key",
        "entry key",
        "gate code",
    ),
    "word": (
        "signal word",
        "pet name",
        "trade term",
        "private word",
        "best word",
        "special word",
        "secret name",
        "favourite name",
    ),
}
FORMER_VERBS = (
    ("stash", "stashes", "stashed", "stashed"),
    ("stow", "stows", "stowed", "stowed"),
    ("tuck", "tucks", "tucked", "tucked"),
    ("place", "places", "placed", "placed"),
    ("drop", "drops", "dropped", "dropped"),
)
NEAR = (
    "of", "of", "of", "for", "for", "for", "about", "above", "after", "against", "among", "around", "at", "before",
    "behind", "below", "beside", "between", "beyond", "by", "concerning", "from", "inside", "near", "next to", "on",
    "opposite", "over", "regarding", "round", "through", "to", "towards", "under", "upon", "with", "within",
    "close to", "in front of", "in respect of", "on account of", "as regards", "instead of", "along with", "per",
)  # fmt: skip
BE = (
    "is", "is", "is", "was", "was", "remains", "stays", "stayed", "remained", "stands as", "stands at", "proved",
    "proves to be", "turns out to be", "turned out", "continues to be", "still is", "equals", "means", "comes to",
    "came out as", "shall be", "must surely be", "cannot but be", "had to be", "being", "was always going to be",
    "is held to be", "counts as", "runs", "ran", "stood", "goes as", "is no other than", "will remain", "has always been",
    "has long been", "never was anything but", "is none other than", "is still", "was then", "is now", "might as well be",
)  # fmt: skip
SIGNS = (": ", " = ", " - ", ", ", " -- ", "; ", ", namely ", ", that is, ", ", to wit, ", ", i.e. ", "? ", "... ")
SAID = (
    "said", "cried", "asked", "answered", "whispered", "shouted", "replied", "wrote", "thought", "added", "repeated",
    "insisted", "muttered", "sang", "declared", "went on", "began",
)  # fmt: skip
WHO = (
    "he", "she", "they", "I", "we", "somebody", "the clerk", "an old man", "my aunt", "the boy", "everyone", "the judge",
    "a stranger", "the captain", "her brother", "the others", "nobody", "the teacher", "one of them", "you",
)  # fmt: skip
URGED = (
    "be sure", "mark well", "let nobody doubt", "rest easy", "never forget", "write down", "take note", "tell them",
    "believe me", "do not deny", "have no fear", "consider", "keep in mind", "let it be said", "be warned", "know",
    "learn", "suppose", "observe", "trust", "be told", "imagine", "admit", "grant", "please remember", "see to it",
)  # fmt: skip
ADJECTIVES = lists.ADJECTIVES
PLACES = (
    "in", "in", "in", "in", "inside", "within", "near", "by", "behind", "under", "beside", "at", "on", "into", "below",
    "above", "against", "next to", "beyond", "outside", "beneath", "close to", "deep in", "somewhere in", "down in",
    "up in", "over in", "out in", "on top of", "at the back of", "in front of", "in the corner of", "underneath",
)  # fmt: skip
DESCRIBED = ("heavy", "old", "broken", "new", "lost", "cheap", "useful", "well known", "of no use", "not hers", "wet")


class Wide:
    """Words facts freely; ``words`` are the pool (train split)."""

    def __init__(self, phrases: Phrases, words: list[str]):
        self.phrases, self.words = phrases, words
        held = {}
        for name in FORMER:
            held[name] = tuple(form.lower() for form in getattr(templates, name)["held-out"])
        self.held = held
        self.former = {
            name: tuple(form for form in forms if form.lower() not in held[name]) for name, forms in FORMER.items()
        }

    def reword(self, rng: random.Random, fact: Fact) -> Fact:
        """The same fact, stated, asked for and answered in other words."""
        kind = "PLACE_" if fact.kind == "place" else "" if fact.key else "LONE_"
        return replace(
            fact,
            statement=self._allowed(rng, fact, kind + "STATEMENTS"),
            question=self._allowed(rng, fact, kind + "QUESTIONS"),
            prefix=self._allowed(rng, fact, kind + "PREFIXES"),
        )

    def _allowed(self, rng: random.Random, fact: Fact, name: str) -> str:
        """A text that is none of the held-out forms of ``name``; after ten tries the fact's own of the templates."""
        make = {"STATEMENTS": self._state, "QUESTIONS": self._ask, "PREFIXES": self._begin}[name.rpartition("_")[2]]
        own = {"STATEMENTS": fact.statement, "QUESTIONS": fact.question, "PREFIXES": fact.prefix}
        held = [self._fill(fact, form).lower() for form in getattr(templates, name)["held-out"]]
        for _ in range(10):
            former = self.former[name]
            if former and rng.random() < 0.04:
                text = self._fill(fact, rng.choice(former))
            else:
                text = make(rng, fact)
            if rng.random() < 0.9 and not text.startswith(fact.value):  # an answer keeps its letters
                text = text[:1].upper() + text[1:]
            if not any(form in text.lower() for form in held):
                return text
        return own[name.rpartition("_")[2]]

    @staticmethod
    def _fill(fact: Fact, form: str) -> str:
        return fact.fill(form)

    # Small pieces

    def _clause(self, rng: random.Random) -> str:
        p = self.phrases
        draw = rng.random()
        if draw < 0.12:
            return " ".join(rng.choices(self.words, k=rng.randint(1, 4)))
        return rng.choice(rng.choices((p.clauses, p.subordinate, p.adverbials, p.relative), (4, 4, 2, 1))[0])

    def _aside(self, rng: random.Random, share: float) -> str:
        """ ", she thought," or nothing; what a comma opens it closes."""
        if rng.random() >= share:
            return ""
        text = rng.choice(lists.MIDDLES) if rng.random() < 0.25 else self._clause(rng)
        left, right = rng.choice(((", ", ","), (", ", ","), (", ", ","), (" (", ")"), (" - ", " -"), (" ", "")))
        return left + text + right

    def _who(self, rng: random.Random) -> str:
        return rng.choice(WHO) if rng.random() < 0.7 else "the " + rng.choice(self.words)

    def _past(self, rng: random.Random) -> str:
        draw = rng.random()
        if draw < 0.4:
            return rng.choice(lists.PARTICIPLES)
        return rng.choice(self.phrases.past) if draw < 0.8 else rng.choice(self.words) + "ed"

    def _third(self, rng: random.Random) -> str:
        return rng.choice(self.phrases.third) if rng.random() < 0.6 else rng.choice(self.words) + "s"

    def _adverb(self, rng: random.Random) -> str:
        return rng.choice(lists.ADVERBS) if rng.random() < 0.6 else rng.choice(self.phrases.adverbs)

    def _det(self, rng: random.Random) -> str:
        return rng.choice(("the", "the", "the", "the", "the", "a", "this", "that", "our", "their", "any", "some"))

    def _adjective(self, rng: random.Random, share: float) -> str:
        if rng.random() >= share:
            return ""
        return (rng.choice(ADJECTIVES) if rng.random() < 0.6 else rng.choice(self.words)) + " "

    def _be(self, rng: random.Random) -> str:
        draw = rng.random()
        if draw < 0.3:
            text = rng.choice(lists.COPULAS)
        elif draw < 0.62:
            text = rng.choice(BE)
        elif draw < 0.72:
            text = rng.choice((self._third(rng), self._past(rng)))
        elif draw < 0.8:
            text = (
                rng.choice((self._third(rng), self._past(rng))) + " " + rng.choice(("as", "to", "to be", "at", "into"))
            )
        else:
            be = rng.choice(("is", "was", "has been", "will be", "can be", "gets", "got", "had been", "must be"))
            text = f"{be} {self._past(rng)} {rng.choice(('as', 'as', 'to be', 'with', 'by', 'to', ''))}".rstrip()
        if rng.random() < 0.3:
            text = f"{text} {self._adverb(rng)}" if rng.random() < 0.6 else f"{self._adverb(rng)} {text}"
        return text

    def _value(self, rng: random.Random) -> str:
        draw = rng.random()
        if draw < 0.8:
            return "{v}"
        if draw < 0.9:
            return rng.choice(('"{v}"', "'{v}'", "“{v}”", "({v})", "*{v}*", "{v} itself"))
        return rng.choice(
            ("the word {v}", "this: {v}", "a certain {v}", "one {v}", "plain {v}", "simply {v}", "the {v}")
        )

    def _subject(self, rng: random.Random, key: str) -> str:
        """Attribute and key; {a} and {k} stand in it once each."""
        a = f"{self._det(rng)} {self._adjective(rng, 0.1)}{{a}}"
        if not key:
            return a + rng.choice(("", "", "", f" {self._past(rng)}", " " + rng.choice(self.phrases.relative)))
        draw = rng.random()
        if draw < 0.1:
            return rng.choice(("{k}'s {a}", "{K}'s {a}", "the {k} {a}", "{a} of {k}", "{k}'s own {a}"))
        middle = self._aside(rng, 0.06)
        if draw < 0.45:
            return f"{a}{middle} {rng.choice(('of', 'for'))} {{k}}"
        if draw < 0.55:
            return f"{a}{middle} {rng.choice(lists.RELATIONS).replace('{r}', self._past(rng))}"
        if draw < 0.68:
            return f"{a}{middle} {rng.choice(NEAR)} {{k}}"
        if draw < 0.84:
            return f"{a} {self._past(rng)}{middle} {rng.choice(NEAR)} {{k}}"
        that = rng.choice(("that", "which", ", which", "", "that"))
        does = rng.choice((
            f"{{k}} {self._past(rng)}", f"{{k}} {self._third(rng)}", f"{self._past(rng)} {{k}}", "{k} has",
            f"{self._who(rng)} {self._past(rng)} {rng.choice(NEAR)} {{k}}", f"{self._third(rng)} {rng.choice(NEAR)} {{k}}",
            f"was {self._past(rng)} {rng.choice(NEAR)} {{k}}", f"{self._who(rng)} had {self._past(rng)} {rng.choice(NEAR)} {{k}}",
        ))  # fmt: skip
        comma = "," if that.startswith(",") else ""
        return f"{a}{that if comma else ' ' + that if that else ''} {does}{comma}"

    # Statements

    def _state(self, rng: random.Random, fact: Fact) -> str:
        draw = rng.random()
        if draw < 0.06:
            text = fact.statement
        else:
            form = self._place(rng) if fact.kind == "place" else self._attribute(rng, fact.key)
            text = self._fill(fact, form).replace(",.", ".")
        return self._around(rng, text, fact)

    def _around(self, rng: random.Random, text: str, fact: Fact) -> str:
        """Something before, something behind, or marks of speech around a sentence."""
        draw = rng.random()
        if draw < 0.45:
            text = f"{self._lead(rng)} {self._lower(rng, text, fact)}"
        if text.endswith(".") and rng.random() < 0.25:
            comma = "," if rng.random() < 0.8 else rng.choice((";", " -", ":", ""))
            tail = rng.choice(lists.TAILS) if rng.random() < 0.2 else self._tail(rng, fact)
            text = f"{text[:-1]}{comma} {tail}."
        elif text.endswith(".") and rng.random() < 0.1:
            text = text[:-1] + rng.choice(("!", ";", "...", "", "?"))
        if rng.random() < 0.07 and '"' not in text:
            end = f" {rng.choice(SAID)} {self._who(rng)}."
            text = (
                f'"{text.rstrip(".")},"{end}'
                if rng.random() < 0.6
                else f'{self._who(rng)} {rng.choice(SAID)}: "{text}"'
            )
        return text

    def _tail(self, rng: random.Random, fact: Fact) -> str:
        """A clause; of a place no phrase that could name another."""
        if fact.kind == "place":
            return rng.choice(self.phrases.subordinate if rng.random() < 0.6 else self.phrases.clauses)
        return self._clause(rng)

    def _lead(self, rng: random.Random) -> str:
        draw = rng.random()
        if draw < 0.3:
            return rng.choice(self.phrases.that)
        if draw < 0.45:
            return rng.choice(lists.LEADS)
        if draw < 0.6:
            return self._clause(rng) + ","
        if draw < 0.7:
            return self._adverb(rng) + rng.choice((",", ""))
        if draw < 0.78:
            return rng.choice(self.phrases.adverbials) + rng.choice((",", ""))
        if draw < 0.86:
            return (
                f"{rng.choice(URGED)} {rng.choice(('that', 'that', 'this:', ',', ':', ''))}".replace(" ,", ",")
                .replace(" :", ":")
                .rstrip()
            )
        if draw < 0.93:
            verb = rng.choice(
                (
                    f"be {self._past(rng)}",
                    f"{rng.choice(self.words)} {self._adverb(rng)}",
                    f"do not {rng.choice(self.words)}",
                )
            )
            return f"{verb} that"
        return f"{self._who(rng)} {self._past(rng)} {rng.choice(('that', 'that', 'how', ':', 'as'))}".replace(" :", ":")

    def _lower(self, rng: random.Random, text: str, fact: Fact) -> str:
        if fact.kind == "place" and text.startswith(fact.key[:1].upper() + fact.key[1:]):
            return text
        return text[:1].lower() + text[1:]

    def _ordered(self, rng: random.Random) -> str:
        """Key, attribute and value in any order, with what may tie each to the next."""
        det = rng.choice(
            ("the", "the", "its", "its", "a", "his", "her", "their", "this", "no other", "the correct", "the right")
        )
        if rng.random() < 0.15:
            det += " " + (rng.choice(ADJECTIVES) if rng.random() < 0.6 else rng.choice(self.words))
        parts = {"k": "{k}", "a": f"{det} {{a}}", "v": self._value(rng)}
        order = rng.choice(("kav", "kav", "kva", "kva", "kva", "vka", "vka", "vak", "vak", "avk", "avk", "akv"))
        text = self._front(rng, order[0])
        for one, other in zip(order, order[1:], strict=False):
            text += parts[one] + self._tie(rng, one + other)
        text += parts[order[-1]] + self._aside(rng, 0.05)
        if rng.random() < 0.15:
            text += " " + rng.choice(
                (self._adverb(rng), rng.choice(self.phrases.adverbials), f"{rng.choice(NEAR)} {self._who(rng)}")
            )
        return text.strip() + "."

    def _front(self, rng: random.Random, first: str) -> str:
        """What may stand before a key, attribute or value that begins."""
        who, past = self._who(rng), self._past(rng)
        if first == "k":
            return rng.choice((
                "", "", "", "", f"when {who} {past} about ", f"{who}, asking about ", "where ", "whenever ", f"{who} {past} ",
                "for ", "as for ", "as far as ", "when it comes to ", f"if {who} should {rng.choice(self.words)} ", "in ",
                f"anyone {past} about ", f"people who {rng.choice(self.words)} ", "to ", "on the subject of ", "beside ",
                f"{rng.choice(self.phrases.subordinate)}, ", f"{rng.choice(self.phrases.adverbials)}, ", f"{who} gave ",
            ))  # fmt: skip
        if first == "v":
            return rng.choice((
                "", "", "", f"{who} {past} ", f"{who} {past} ", f"{who} {past} {rng.choice(('on', 'upon', 'to', 'in', 'for', 'with'))} ",
                "with ", f"{who} chose ", f"{who} agreed on ", "give ", "take ", "use ", f"{rng.choice(self.words)} ", "only ",
                f"{self._adverb(rng)} ", f"{rng.choice(URGED)} that ", f"{who} must {rng.choice(self.words)} ", "it is ",
            ))  # fmt: skip
        return rng.choice(
            ("", "", "as ", f"{who} {past} ", "under ", "by way of ", f"{who} {past} ", "of all, ", "for ")
        )

    def _tie(self, rng: random.Random, pair: str) -> str:
        """What may stand between two of key, attribute and value."""
        past, third, near = self._past(rng), self._third(rng), rng.choice(NEAR)
        be, who, comma = self._be(rng), self._who(rng), rng.choice((",", ",", "", " -", ":"))
        clause = self._clause(rng)
        ties = {
            "ka": (
                " goes by ", f" {third} ", f" {past} ", f" {past} {near} ", " has ", " had ", " answers to ", f" was {past} ", " has been given ",
                f" is {past} {near} ", " uses ", " received ", f"{comma} ", f"{comma} {clause}, ", " is concerned, ", f" came {near} ",
                f" is {past}, ", f" and {past} ", " with ", f", who {past} ", f", {past} {near} ", " needs ", f" will {rng.choice(self.words)} ",
            ),
            "kv": (
                f" {past} ", f" {third} ", f" {past} {near} ", " has ", " received ", " got ", " was given ", " uses ", " took ", " should be told that ",
                f"{comma} ", f" is {past} {near} ", " must be told ", " goes with ", " goes by ", f" {be} ", f", {clause}, ", " is concerned, ",
                " will find that ", " came to have ", f" was {past} ", f" has been {past} ", f", {who} {past} ", f" is known {near} ", " ended up with ",
            ),
            "av": (
                " ", " ", ": ", ", ", f" {be} ", f" {be} ", " of ", f", {past} {near} ", " -- ", f", {clause}, ", f", which {be} ", f" that {be} ", ", namely ",
                f" {near} ", f", {who} {past}, {be} ",
            ),
            "ak": (
                f" {near} ", f" {past} {near} ", f" that {past} ", f" that {third} ", f" which {who} {past} {near} ", f" {past} by ", " that belongs to ",
                f" which {be} {past} {near} ", f" {third} ", f" {who} {past} {near} ", " given to ", f" in use {near} ", f", {clause}, {near} ",
            ),
            "va": (
                " as ", " as ", " for ", " is ", f" {be} ", f" was {past} as ", " to be ", f", {past} as ", " by way of ", " under ", ", ", ", which is ",
                f" {past} as ", f" {be} {past} {near} ", " should be ", " will do for ", " in place of ", " counts as ", f", {clause}, as ", " makes ",
            ),
            "vk": (
                " to ", " for ", f" {near} ", f" {past} {near} ", f" {third} ", " belongs to ", f" was {past} {near} ", " was given to ", " goes with ",
                f" when {who} {past} about ", " stands beside ", f" is what {who} {past} {near} ", f" {be} {past} {near} ", f", {clause}, {near} ",
                f" is to be {past} {near} ", f" was {past} by ",
            ),
        }  # fmt: skip
        return rng.choice(ties[pair])

    def _attribute(self, rng: random.Random, key: str) -> str:
        if key and rng.random() < 0.4:
            return self._ordered(rng)
        draw = rng.random()
        subject, be, value = self._subject(rng, key), self._be(rng), self._value(rng)
        aside = self._aside(rng, 0.16)
        if draw < 0.42:
            return f"{subject}{aside} {be} {value}."
        if draw < 0.55:
            return f"{value}{aside} {be} {subject}."
        if draw < 0.6:
            return f"it {rng.choice(('is', 'was', 'must be', 'will be'))} {value} {rng.choice(('that', 'which', ', and nothing else,'))} {be} {subject}.".replace(
                " ,", ","
            )
        if draw < 0.65:
            return f"{subject}{rng.choice(SIGNS)}{value}."
        if draw < 0.69:
            return f"{value}{rng.choice((', ', ': ', ' - ', ' ('))}{subject}."
        if draw < 0.77:  # the key in one sentence, the value in the next
            first = rng.choice((
                f"{self._who(rng)} {self._past(rng)} {subject}", f"{subject} {be} {self._past(rng)}",
                f"there is {subject}", f"do you {rng.choice(self.words)} {subject}", f"{self._clause(rng)} {subject}",
                f"{rng.choice(lists.REQUESTS)} {subject}", f"here comes {subject}",
            ))  # fmt: skip
            stop = rng.choice((". ", ". ", "; ", "? ", ": ", "! ", ", and "))
            between = f"{self._clause(rng)}. ".capitalize() if stop in (". ", "? ", "! ") and rng.random() < 0.3 else ""
            pronoun = rng.choice(("it", "it", "it", "that", "this", "the answer", "the {a}", "which"))
            second = f"{pronoun} {self._be(rng)} {value}"
            if stop[0] in ".?!":
                second = second[:1].upper() + second[1:]
            return f"{first}{stop}{between}{second}."
        if draw < 0.81:
            return f"{value}. {rng.choice(('That', 'This', 'Such', 'It'))} {be} {subject}."
        if not key:
            return rng.choice(
                (
                    f"{self._who(rng)} {self._past(rng)} {value} {rng.choice(('as', 'for'))} {subject}.",
                    f"with {value} as {subject}, {self._clause(rng)}.",
                )
            )
        a = rng.choice(("{a}", "the {a}", "a {a}", "its {a}", "his {a}"))
        if draw < 0.88:
            front = f"{rng.choice(('for', 'of', 'as for', 'with', 'in the case of', 'regarding', 'about', 'concerning', 'to', 'at'))} {{k}}"
            return f"{front}{rng.choice((',', ',', ''))}{self._aside(rng, 0.1)} {rng.choice(('the {a}', 'the {a}', 'our {a}', 'a {a}'))} {be} {value}."
        if draw < 0.95:
            does = rng.choice(
                (self._past(rng), self._third(rng), "has", "had", "took", "got", "was given", "bears", "goes with")
            )
            link = rng.choice(("as", "for", "as", "by way of", "to be", "in place of", "as if it were", "under"))
            return rng.choice(
                (
                    f"{{K}}{aside} {does} {value} {link} {a}.",
                    f"{{K}}{aside} {does} {a} {value}.",
                    f"{{K}}, whose {{a}} {be} {value}, {self._clause(rng)}.",
                    f"{{K}} {does} {a}{rng.choice(SIGNS)}{value}.",
                )
            )
        return rng.choice((
            f"{self._who(rng)} {self._past(rng)} {value} {link_word(rng)} {subject}.",
            f"{subject}{aside} and {value} {rng.choice(('are one', 'are the same', 'mean the same', 'go together'))}.",
            f"without {value}, {rng.choice(('no {a}', 'the {a}'))} {rng.choice(NEAR)} {{k}}.",
            f"{self._clause(rng)}, so {subject} {be} {value}.",
            f"not {rng.choice(self.words)} but {value} {be} {subject}.",
            f'"what {rng.choice(("is", "was"))} {subject}?" {rng.choice(SAID)} {self._who(rng)}. "{value}," {self._who(rng)} {rng.choice(SAID)}.',
            f"if {self._who(rng)} {self._past(rng)} {subject}, {rng.choice(('it', 'that'))} {be} {value}.",
        ))  # fmt: skip

    def _place(self, rng: random.Random) -> str:
        det = rng.choice(("the", "the", "the", "the", "a", "his", "that", "her", "an old", "the same", "this"))
        where = f"{rng.choice(PLACES)} {det} {self._adjective(rng, 0.15)}{{p}}"
        thing = (
            f"{rng.choice(('the', 'the', 'the', 'the', 'a', 'his', 'her', 'that'))} {self._adjective(rng, 0.1)}{{t}}"
        )
        does = rng.choice((
            "{third}", "{past}", "{past}", "{third}", "has {participle}", "had {participle}", "will {base}", "used to {base}",
            "must {base}", "could {base}", "did {base}", "would {base}", "tried to {base}", "came to {base}", "never failed to {base}",
            "may have {participle}", "went and {past}", "was seen to {base}", "is said to {base}", "began to {base}", "is going to {base}",
        ))  # fmt: skip
        adverb = f" {self._adverb(rng)}" if rng.random() < 0.3 else ""
        aside, other = self._aside(rng, 0.12), self._aside(rng, 0.1)
        be = rng.choice(
            (
                "is",
                "was",
                "has been",
                "had been",
                "will be",
                "got",
                "gets",
                "must have been",
                "remains",
                "was being",
                "stays",
            )
        )
        draw = rng.random()
        if draw < 0.3:
            return f"{{K}}{aside}{adverb} {does} {thing}{other} {where}."
        if draw < 0.38:
            return f"{where}{rng.choice((',', ''))}{aside} {{K}}{adverb} {does} {thing}."
        if draw < 0.5:
            by = rng.choice((f"{{participle}} by {{K}}{other} {where}", f"{{participle}} {where}{other} by {{K}}"))
            return f"{thing}{aside} {be}{adverb} {by}."
        if draw < 0.66:  # a relative clause with the place in it, or before it
            comma = rng.choice((",", ",", ""))
            that = "which" if comma else rng.choice(("which", "that", ""))
            end = rng.choice(
                (
                    f"{rng.choice(('was', 'is', 'seemed', 'looked', 'proved'))} {rng.choice(DESCRIBED)}",
                    f"{self._past(rng)} {self._clause(rng)}",
                    f"{rng.choice(('was', 'is'))} {rng.choice(self.words)}",
                    f"belonged to {self._who(rng)}",
                )
            )
            clause = f"{comma} {that} {{K}}{adverb} {does} {where}{comma}".replace("  ", " ")
            return rng.choice(
                (
                    f"{thing}{clause} {end}.",
                    f"{thing}{clause} {end}.",
                    f"{self._who(rng)} {self._past(rng)} {thing}{clause}.",
                    f"{thing}{comma} {that} {{K}}{adverb} {does}{comma} {be} {where}.".replace("  ", " "),
                )
            )
        if draw < 0.74:
            there = rng.choice(("where", "in which", "the place where", ", where", ", in which"))
            first = rng.choice(
                (
                    f"the {{p}}{'' if there[0] == ',' else ' is'} {there} {{K}} {does} {thing}",
                    f"there is a {{p}} {there.lstrip(', ')} {{K}} {does} {thing}",
                    f"{self._who(rng)} {self._past(rng)} the {{p}} {there.lstrip(', ')} {{K}} {does} {thing}",
                    f"the {{p}} {self._third(rng)} {thing} that {{K}} {does}",
                    f"the {{p}} {rng.choice(('holds', 'has', 'contains', 'hides', 'received'))} {thing} {{K}} {does}",
                )
            )
            return first + (f", {self._clause(rng)}." if there[0] == "," else ".")
        if draw < 0.8:
            it = rng.choice(
                (
                    f"it {be} {where} that {{K}} {does} {thing}",
                    f"it {be} {{K}} who {does} {thing} {where}",
                    f"it {be} {thing} that {{K}} {does} {where}",
                    f"what {{K}} {does} {where} {be} {thing}",
                    f"where {{K}} {does} {thing} {be} {where}",
                )
            )
            return it + "."
        if draw < 0.9:  # two sentences
            first = rng.choice(
                (
                    f"{{K}} {rng.choice(('took', 'had', 'got', 'brought', 'wanted', self._past(rng)))} {thing}",
                    f"{thing} {be} {{K}}'s",
                    f"{{K}} {self._past(rng)} {thing} {self._clause(rng)}",
                    f"as for {{K}}'s {{t}}, {self._clause(rng)}",
                    f"{self._who(rng)} asked {{K}} about {thing}",
                )
            )
            pronoun = rng.choice(("he", "she", "he", "they", "the owner", "{K}"))
            second = rng.choice(
                (
                    f"{pronoun} {does} it {where}",
                    f"it {be} {where}",
                    f"{where} {pronoun} {does} it",
                    f"it {be} {{participle}} {where}",
                    f"{where}, that is where {pronoun} {does} it",
                )
            )
            stop = rng.choice((". ", ". ", "; ", ", and ", ": "))
            return f"{first}{stop}{second[:1].upper() + second[1:] if stop == '. ' and second[0] != '{' else second}."
        if draw < 0.94:
            return rng.choice(
                (
                    f"{{K}}'s {{t}}{aside} {be}{adverb} {where}.",
                    f"{thing} of {{K}}{aside} {be}{adverb} {where}.",
                    f"{thing} {where} {be} {{K}}'s.",
                    f"{thing} that {{K}} {does} {be} {where}.",
                )
            )
        return rng.choice((
            f"having {{participle}} {thing} {where}, {{K}} {self._past(rng)} {self._clause(rng)}.",
            f"{{K}}, {rng.choice(self.phrases.relative)}, {does} {thing} {where}.",
            f"{self._who(rng)} {self._past(rng)} {{K}} {{base}} {thing} {where}.", f"let {{K}} {{base}} {thing} {where}.",
            f"{self._who(rng)} {self._past(rng)} to the {{p}}: {{K}} {does} {thing} there.",
            f"{{K}}: {thing} - {where}.", f"{{K}} {self._past(rng)} {where} and {does} {thing} there.",
            f"to {{base}} {thing}, {{K}} {self._past(rng)} {where}.", f"{thing}? {{K}} {does} it {where}.",
            f"{self._who(rng)} {self._past(rng)} that {{K}} {does} {thing} {where}, {self._clause(rng)}.",
        ))  # fmt: skip

    # Questions and the beginnings of answers

    def _ask(self, rng: random.Random, fact: Fact) -> str:
        draw = rng.random()
        if draw < 0.5:
            text = fact.question
        elif fact.kind == "place":
            be = rng.choice(("{third}", "{past}", "had {participle}"))
            text = self._fill(fact, rng.choice((
                f"where{self._aside(rng, 0.2)} {rng.choice(('did', 'does', 'would', 'might', 'could'))} {{K}} {{base}} the {{t}}?",
                f"{rng.choice(lists.REQUESTS)} where {{K}} {be} the {{t}}?", f"the {{t}} that {{K}} {be}, where is it?",
                f"{self._clause(rng)} where {{K}} {be} the {{t}}?", f"where is the {{t}} {{K}} {be}?",
                f"where {rng.choice(('was', 'is', 'has been'))} the {{t}} {rng.choice(('{participle} by {K}', 'of {K}', 'that {K} ' + be))}?",
            )))  # fmt: skip
        else:
            subject = self._subject(rng, fact.key)
            if fact.key and rng.random() < 0.35:
                subject = rng.choice((
                    f"{rng.choice(('the', 'what', 'which'))} {{a}} {self._past(rng)} {self._tie(rng, 'ak').strip()} {{k}}",
                    f"the {{a}}{self._tie(rng, 'ak')}{{k}}", f"{{a}}{self._tie(rng, 'ak')}{{k}}",
                ))  # fmt: skip
            if fact.key and rng.random() < 0.25:
                who = self._who(rng)
                text = self._fill(fact, rng.choice((
                    f"{self._front(rng, 'k')}{{k}}{rng.choice((',', ':', ''))} what {rng.choice(('is', 'was', 'would be'))} {rng.choice(('its', 'the'))} {{a}}?",
                    f"which {{a}}{self._tie(rng, 'ak')}{{k}}?", f"{self._front(rng, 'k')}{{k}}, which {{a}} {self._be(rng)} {self._past(rng)}?",
                    f"{{k}}{self._tie(rng, 'ka')}which {{a}}?", f"what {{a}} {rng.choice(('does', 'did', 'would', 'could'))} {{k}} {rng.choice(self.words)}?",
                    f"if {who} {self._past(rng)} {{k}}, what {rng.choice(('is', 'would be', 'was'))} its {{a}}?",
                )))  # fmt: skip
                return text
            text = self._fill(fact, rng.choice((
                f"what{self._aside(rng, 0.1)} {rng.choice(('is', 'was', 'might be', 'would be'))} {subject}?",
                f"{rng.choice(lists.REQUESTS)} {subject}.", f"which {rng.choice(('one', 'of them', 'word', 'thing'))} {self._be(rng)} {subject}?",
                f"{self._adverb(rng)} {rng.choice(self.words)} {subject}.", f"{subject}, what {rng.choice(('is', 'was'))} it?",
            )))  # fmt: skip
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
            text = self._fill(
                fact,
                f"{{K}} {rng.choice(('{third}', '{past}', 'has {participle}'))} {rng.choice(('the {t}', 'it'))}{self._aside(rng, 0.1)} in the",
            )
        else:
            text = self._fill(fact, f"{self._subject(rng, fact.key)}{self._aside(rng, 0.15)} {rng.choice(BE)}")
        if rng.random() < 0.35:
            text = f"{self._lead(rng)} {self._lower(rng, text, fact)}"
        return text

    # Sentences with a question's words and no answer

    def empty(self, rng: random.Random, fact: Fact) -> str:
        """A sentence about what is asked that does not tell it."""
        if fact.kind == "place":
            form = rng.choice((
                f"{{K}} never {{third}} the {{t}} {self._adverb(rng)}.", "nobody knew where {K} {past} the {t}.",
                f"{self._who(rng)} {self._past(rng)} where {{K}} {{third}} the {{t}}.", "where did {K} {base} the {t}?",
                f"{{K}} {self._past(rng)} the {{t}} {self._adverb(rng)}.", f"the {{t}} of {{K}} was {self._past(rng)}.",
                f"{self._clause(rng)}, the {{t}} that {{K}} {{past}}.", f"{{K}} {self._past(rng)} {self._who(rng)} about the {{t}}.",
                "{K} may {base} the {t} or not.", f"will {{K}} {{base}} the {{t}}, {self._clause(rng)}?",
            ))  # fmt: skip
        else:
            subject = self._subject(rng, fact.key)
            form = rng.choice((
                f"{self._who(rng)} {self._past(rng)} {subject}.", f"nobody {self._past(rng)} {subject}, {self._clause(rng)}.",
                f"{subject} was {self._adverb(rng)} forgotten.", f"what {rng.choice(('is', 'was'))} {subject}?",
                f"{self._who(rng)} {rng.choice(('asked for', 'talked about', 'lost', 'hated', 'forgot'))} {subject}.",
                f"{subject} {rng.choice(('was unknown', 'is a secret', 'never came up', 'was long lost'))}.",
                f"there is no {{a}}{' for {k}' if fact.key else ''}.", f"{self._clause(rng)} {subject}, {self._clause(rng)}.",
            ))  # fmt: skip
        return self._around(rng, self._fill(fact, form), fact)


def link_word(rng: random.Random) -> str:
    """What ties a value to what it is the value of."""
    return rng.choice(("as", "for", "to be", "as being", "under", "into"))
