"""Facts as people write them, and questions about them: relations written by hand, filled with names and things.

    python scripts/bundled_natural.py --check FILE...      # names what is wrong with them

A file of scripts/natural/forms holds relations, one behind the other with an empty line between:

    L fabric: wool | sailcloth | lace            values of a type, here of this relation's alone
    S The curtains were of {fabric}, for {woman} could get nothing better.
    Q fabric: What stuff were the curtains of {woman} made from?

Each statement (S) tells the whole fact, each question (Q) is answered by what fills the slot before its colon. A slot
is named as its type, with a number behind it where it is another of the same ({person2}). Types that are not generated
here (`GENERATED`) are lists of `pools.txt`. Values that hold one of the words of held-out facts are left out.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from npukv.evaluation.words import held_out

FOLDER = Path(__file__).parent / "natural" / "forms"
POOLS = "pools.txt"
SLOT = re.compile(r"\{(\w+?)\}")
# Where a filler begins a sentence: first of all, or behind the end of another, in quotes or not.
BEGINS = re.compile(r"""(?:^|[.!?]["')]*\s)["'(]*$""")
LONELY = 5  # values of a list, without those that hold held-out words: fewer are no choice

SMALL = """one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen""".split()  # noqa: SIM905
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
MONTHS = """January February March April May June July August September October November
December""".split()  # noqa: SIM905

PAST = "half past", "a quarter to", "a quarter past", "ten to", "twenty past"

Pools = dict[str, tuple[str, ...]]


@dataclass
class Relation:
    """Statements that tell the same, and questions (slot asked for, text) about them."""

    statements: list[str] = field(default_factory=list)
    questions: list[tuple[str, str]] = field(default_factory=list)
    lists: Pools = field(default_factory=dict)
    where: str = ""  # file and line


def slots(text: str) -> list[str]:
    return SLOT.findall(text)


def kind_of(slot: str) -> str:
    """A slot's type: its name without the number behind it."""
    return slot.rstrip("0123456789")


def number_word(n: int) -> str:
    """1 to 99 in words."""
    if n < 20:
        return SMALL[n - 1]
    tens, ones = divmod(n, 10)
    return TENS[tens - 2] + (f"-{SMALL[ones - 1]}" if ones else "")


def either(rng: random.Random, few: int, many: int) -> int:
    """A number to ``few`` or, as often, to ``many``."""
    return rng.randint(2, rng.choice((few, many)))


def _time(rng: random.Random) -> str:
    hour, minute = rng.randint(1, 12), rng.choice((0, 15, 30, 45, rng.randrange(60)))
    return rng.choice(
        (
            f"{hour}:{minute:02d}",
            f"{hour}:{minute:02d}",
            f"{hour}:{minute:02d} {rng.choice(('a.m', 'p.m'))}",  # the answer's own period follows
            f"{rng.choice(PAST)} {number_word(hour)}",
            f"{number_word(hour)} o'clock",
        )
    )


def _price(rng: random.Random) -> str:
    n = rng.choice((rng.randint(2, 20), rng.randint(2, 99), rng.randint(20, 999), 10 * rng.randint(10, 999)))
    unit = rng.choice(
        """dollars pounds shillings euros francs crowns pence cents guineas rupees yen marks florins ducats
        kroner roubles pesos""".split()  # noqa: SIM905
    )
    amount = number_word(n) if n < 100 and rng.random() < 0.5 else f"{n:,}" if rng.random() < 0.5 else str(n)
    if rng.random() < 0.15:
        amount = rng.choice((f"{n % 90 + 1}.{rng.randrange(100):02d}", f"{n % 9 + 1}.{n % 10} million"))
    return f"{amount} {unit}"


def _measure(units: str) -> Callable[[random.Random], str]:
    names = units.split()

    def draw(rng: random.Random) -> str:
        n = either(rng, 12, 90)
        return f"{number_word(n) if rng.random() < 0.6 else n} {rng.choice(names)}"

    return draw


def _date(rng: random.Random) -> str:
    day, month = rng.randint(1, 28), rng.choice(MONTHS)
    return rng.choice((f"{day} {month}", f"{day} {month}", f"{month} {day}"))


def _code(rng: random.Random) -> str:
    letters = "".join(rng.choices("abcdefghijkmnprstuvwxyz", k=rng.randint(2, 7)))
    digits = str(rng.randrange(10, 10 ** rng.randint(2, 4)))
    return rng.choice((letters + digits, f"{letters.upper()}-{digits}", f"{letters}-{digits}", digits + letters[:2]))


GENERATED: dict[str, Callable[[random.Random], str]] = {
    "number": lambda rng: number_word(either(rng, 12, 99)),
    "count": lambda rng: str(either(rng, 40, 990)),
    "year": lambda rng: str(rng.randint(1100, 2030)),
    "percent": lambda rng: str(rng.randint(1, 99)),
    "temperature": lambda rng: str(rng.randint(2, 95)),
    "phone": lambda rng: f"{rng.randrange(200, 999)}-{rng.randrange(1000, 9999)}",
    "duration": _measure("years weeks months days hours minutes nights seasons"),
    "distance": _measure("miles miles kilometres yards feet leagues metres paces"),
    "weight": _measure("pounds ounces kg grams tons stone"),
    "time": _time,
    "price": _price,
    "date": _date,
    "code": _code,
}
PEOPLE = ("person", "man", "woman")  # made of the pools manfirst, womanfirst, surname and job
ALIASES = {"family": "surname"}
MALE = "Mr. Captain Sir Uncle Father Brother Professor Major Old Herr Signor Colonel Sergeant Judge".split()  # noqa: SIM905
FEMALE = "Mrs. Miss Aunt Lady Sister Grandmother Madame Cousin Mother Old Dame Senora Nurse".split()  # noqa: SIM905
EITHER = "Dr. Professor Inspector Captain Judge Cousin Doctor Councillor Constable Ms.".split()  # noqa: SIM905
BY_FIRST_NAME = frozenset(
    "Uncle Aunt Sister Brother Cousin Sir Lady Father Mother Dame Grandmother Old".split()  # noqa: SIM905
)
# Proper names: any invented word may be one, with a capital.
PROPER = frozenset(
    "town street river island mountain house inn ship company school club band petname surname family title".split()  # noqa: SIM905
)


def read_file(path: Path) -> list[Relation]:
    """The relations of a file; of ``pools.txt`` one that has nothing but lists."""
    relations = [Relation()]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.strip()
        if not line:
            if relations[-1].statements:
                relations.append(Relation())
            continue
        relation = relations[-1]
        relation.where = relation.where or f"{path.name}, line {number}"
        sign, _, rest = line.partition(" ")
        name, _, text = rest.partition(":")
        if sign == "S":
            relation.statements.append(rest.strip())
        elif sign == "Q":
            relation.questions.append((name.strip(), text.strip()))
        elif sign == "L":
            values = [value.strip() for value in text.split("|")]
            relation.lists[name.strip()] = tuple(dict.fromkeys(value for value in values if value))
        elif sign != "#":
            raise SystemExit(f"{path}, line {number}: expected S, Q, L or # and a space, got {line[:40]!r}")
    return [relation for relation in relations if relation.statements or relation.lists]


def free_of_held_out(value: str) -> bool:
    return not any(held_out(word) for word in re.findall(r"[a-z]{4,10}", value.lower()))


def faults(relation: Relation, pools: Pools) -> list[str]:
    """What is wrong with a relation: slots without values, questions that cannot be answered from every statement."""
    known = pools.keys() | GENERATED.keys() | relation.lists.keys() | ALIASES.keys() | set(PEOPLE) | {"first"}
    found = []
    shared = set(slots(relation.statements[0])) if relation.statements else set()
    for text in relation.statements:
        shared &= set(slots(text))
    for text in relation.statements + [text for _, text in relation.questions]:
        if re.sub(SLOT, "", text).count("{") + re.sub(SLOT, "", text).count("}") or not text.isascii():
            found.append(f"braces, or letters beyond ASCII: {text}")
        found += [f"no list of {slot!r}: {text}" for slot in slots(text) if kind_of(slot) not in known]
    for slot, text in relation.questions:
        if slot not in shared:
            found.append(f"{slot!r} is not in every statement: {text}")
        elif slot in slots(text):
            found.append(f"the answer stands in the question: {text}")
        elif missing := set(slots(text)) - shared:
            found.append(f"{', '.join(sorted(missing))} not in every statement: {text}")
    if not relation.statements or not relation.questions:
        found.append("expected statements and questions")
    for name, values in relation.lists.items():
        if name in pools:
            found.append(f"{name!r} is a type of all relations: name this list otherwise")
        elif len(values) < LONELY:
            found.append(f"the list of {name!r} has {len(values)} values, expected {LONELY} or more")
    return found


def read_pools(folder: Path = FOLDER) -> Pools:
    """Type -> values of all relations; those with held-out words are left out."""
    return {name: values for part in read_file(folder / POOLS) for name, values in _trainable(part.lists).items()}


def _trainable(lists: Pools) -> Pools:
    return {name: tuple(filter(free_of_held_out, values)) for name, values in lists.items()}


def read_relations(folder: Path = FOLDER) -> tuple[list[Relation], Pools]:
    """All relations of a folder, and `read_pools`; SystemExit names the first that is at fault."""
    pools = read_pools(folder)
    relations = []
    for path in sorted(folder.glob("*.txt")):
        for relation in read_file(path) if path.name != POOLS else ():
            relation.lists = _trainable(relation.lists)
            if named := faults(relation, pools):
                raise SystemExit(f"{relation.where}: {named[0]} (all: bundled_natural.py --check {path})")
            relations.append(relation)
    return relations, pools


class Fillers:
    """Draws what fills slots. ``words`` are for names that do not exist and, a share ``unlike`` of the time, for things
    of any other type: a model that knows what is a colour shall read all the same."""

    def __init__(self, pools: Pools, words: list[str], unlike: float = 0.12, invented: float = 0.3):
        self.pools, self.words, self.unlike, self.invented = pools, words, unlike, invented

    def __call__(self, rng: random.Random, kind: str, lists: Pools | None = None) -> str:
        kind = ALIASES.get(kind, kind)
        own = (lists or {}).get(kind)
        if own:
            return rng.choice(self.words) if rng.random() < self.unlike else rng.choice(own)
        if kind in GENERATED:
            return GENERATED[kind](rng)
        if kind in PEOPLE:
            return self._person(rng, kind)
        if kind == "first":
            kind = rng.choice(("manfirst", "womanfirst"))
        proper = kind in PROPER or kind in ("manfirst", "womanfirst")
        if proper and rng.random() < self.invented:
            return rng.choice(self.words).capitalize()
        # No word in the place of a relative: what it is whose tells nothing without it.
        if not proper and kind != "relative" and rng.random() < self.unlike:
            return rng.choice(self.words)
        return rng.choice(self.pools[kind])

    def _person(self, rng: random.Random, kind: str) -> str:
        draw = rng.random()
        if kind == "person" and draw < 0.2:
            return f"the {self(rng, 'job')}"
        man = kind == "man" or (kind == "person" and rng.random() < 0.5)
        first, last = self(rng, "manfirst" if man else "womanfirst"), self(rng, "surname")
        if draw < 0.5:
            return first
        if draw < 0.62:
            return f"{first} {last}"
        title = rng.choice(EITHER) if rng.random() < 0.3 else rng.choice(MALE if man else FEMALE)
        return f"{title} {first if title in BY_FIRST_NAME else last}"

    def fill(self, rng: random.Random, relation: Relation, given: dict[str, str] | None = None) -> dict[str, str]:
        """Slot -> filler, for all slots of a relation; those ``given`` stay.

        None holds another, so that an answer stands in one place; where eight draws give none, a word is taken.
        """
        filled = dict(given or {})
        every = [slot for text in relation.statements for slot in slots(text)]
        for slot in dict.fromkeys(every):
            for _ in range(8):
                if slot in filled:
                    break
                value = self(rng, kind_of(slot), relation.lists)
                if all(value.lower() not in other.lower() and other.lower() not in value.lower()
                       for other in filled.values()):  # fmt: skip
                    filled[slot] = value
            filled.setdefault(slot, rng.choice(self.words))
        return filled


def put_in(text: str, filled: dict[str, str]) -> str:
    """The text with its slots filled, with a capital where a sentence begins."""
    out = ""
    for i, part in enumerate(SLOT.split(text)):
        if i % 2:
            part = filled[part]
            out += part[:1].upper() + part[1:] if BEGINS.search(out) else part
        else:
            out += part
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, nargs="+", required=True, metavar="FILE")
    options = parser.parse_args()
    if missing := [str(path) for path in options.check if not path.is_file()]:
        parser.error(f"--check: no file {', '.join(missing)}; expected files of relations, such as those of {FOLDER}")
    pools = read_pools()
    wrong = relations = 0
    for path in options.check:
        for relation in read_file(path) if path.name != POOLS else ():
            relations += 1
            relation.lists = _trainable(relation.lists)
            named = faults(relation, pools)
            wrong += bool(named)
            for each in named:
                print(f"{relation.where}: {each}")
    print(f"{relations} relations, {wrong} with faults")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
