"""Statements of facts in wide wording: sentences whose build is known, filled with any words."""

from __future__ import annotations

import random

import bundled_variety as lists
from bundled_ordered import Ordered
from bundled_pieces import DESCRIBED, NEAR, PLACES, SAID, SIGNS

from npukv.evaluation.facts import Fact


class Statements(Ordered):
    """States facts of all kinds."""

    def _state(self, rng: random.Random, fact: Fact) -> str:
        draw = rng.random()
        if draw < 0.06:
            text = fact.statement
        else:
            form = self._place(rng) if fact.kind == "place" else self._attribute(rng, fact.key)
            text = self._fill(fact, form).replace(",.", ".")
        return self._around(rng, text, fact)

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
            was, that = (
                rng.choice(("is", "was", "must be", "will be")),
                rng.choice((" that", " which", ", and nothing else,")),
            )
            return f"it {was} {value}{that} {be} {subject}."
        if draw < 0.65:
            return f"{subject}{rng.choice(SIGNS)}{value}."
        if draw < 0.69:
            return f"{value}{rng.choice((', ', ': ', ' - ', ' ('))}{subject}."
        if draw < 0.77:  # the key in one sentence, the value in the next
            first = rng.choice(
                (
                    f"{self._who(rng)} {self._past(rng)} {subject}",
                    f"{subject} {be} {self._past(rng)}",
                    f"there is {subject}",
                    f"do you {rng.choice(self.words)} {subject}",
                    f"{self._clause(rng)} {subject}",
                    f"{rng.choice(lists.REQUESTS)} {subject}",
                    f"here comes {subject}",
                )
            )
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
            near = rng.choice(
                ("for", "of", "as for", "with", "in the case of", "regarding", "about", "concerning", "to", "at")
            )
            comma, its = rng.choice((",", ",", "")), rng.choice(("the", "the", "our", "a"))
            return f"{near} {{k}}{comma}{self._aside(rng, 0.1)} {its} {{a}} {be} {value}."
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
        same = rng.choice(("are one", "are the same", "mean the same", "go together"))
        who, said, was = self._who(rng), rng.choice(SAID), rng.choice(("is", "was"))
        return rng.choice(
            (
                f"{self._who(rng)} {self._past(rng)} {value} {link_word(rng)} {subject}.",
                f"{subject}{aside} and {value} {same}.",
                f"without {value}, {rng.choice(('no {a}', 'the {a}'))} {rng.choice(NEAR)} {{k}}.",
                f"{self._clause(rng)}, so {subject} {be} {value}.",
                f"not {rng.choice(self.words)} but {value} {be} {subject}.",
                f'"what {was} {subject}?" {rng.choice(SAID)} {who}. "{value}," {self._who(rng)} {said}.',
                f"if {self._who(rng)} {self._past(rng)} {subject}, {rng.choice(('it', 'that'))} {be} {value}.",
            )
        )

    def _place(self, rng: random.Random) -> str:
        det = rng.choice(("the", "the", "the", "the", "a", "his", "that", "her", "an old", "the same", "this"))
        where = f"{rng.choice(PLACES)} {det} {self._adjective(rng, 0.15)}{{p}}"
        thing = (
            f"{rng.choice(('the', 'the', 'the', 'the', 'a', 'his', 'her', 'that'))} {self._adjective(rng, 0.1)}{{t}}"
        )
        does = rng.choice(
            (
                "{third}",
                "{past}",
                "{past}",
                "{third}",
                "has {participle}",
                "had {participle}",
                "will {base}",
                "used to {base}",
                "must {base}",
                "could {base}",
                "did {base}",
                "would {base}",
                "tried to {base}",
                "came to {base}",
                "never failed to {base}",
                "may have {participle}",
                "went and {past}",
                "was seen to {base}",
                "is said to {base}",
                "began to {base}",
                "is going to {base}",
            )
        )
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
        return rng.choice(
            (
                f"having {{participle}} {thing} {where}, {{K}} {self._past(rng)} {self._clause(rng)}.",
                f"{{K}}, {rng.choice(self.phrases.relative)}, {does} {thing} {where}.",
                f"{self._who(rng)} {self._past(rng)} {{K}} {{base}} {thing} {where}.",
                f"let {{K}} {{base}} {thing} {where}.",
                f"{self._who(rng)} {self._past(rng)} to the {{p}}: {{K}} {does} {thing} there.",
                f"{{K}}: {thing} - {where}.",
                f"{{K}} {self._past(rng)} {where} and {does} {thing} there.",
                f"to {{base}} {thing}, {{K}} {self._past(rng)} {where}.",
                f"{thing}? {{K}} {does} it {where}.",
                f"{self._who(rng)} {self._past(rng)} that {{K}} {does} {thing} {where}, {self._clause(rng)}.",
            )
        )


def link_word(rng: random.Random) -> str:
    """What ties a value to what it is the value of."""
    return rng.choice(("as", "for", "to be", "as being", "under", "into"))
