"""All methods by name: what of a context the model reads to answer. To add one, write a function and name it here.

A method is a function ``(case, i, *arguments) -> Choice`` for sample ``i`` of a case. Its arguments follow its name,
with colons between: "bm25:4", "xl3m:first:fill", "clustered:0.25".
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from npukv.cache.named import CacheChoice, parse_amount
from npukv.errors import InputError
from npukv.evaluation.case import Case, import_bm25s
from npukv.relevance.pick import Keep


class Inapplicable(Exception):
    """A method that has no meaning for a sample, with the reason: no result is better than a made-up one."""


@dataclass(frozen=True)
class Choice:
    """What the model reads.

    Attributes:
        spans: token ranges [start, end) of the context, in its order.
        ranking: all segments, best first, where the method ranks them.
        cache: what the spans are read into before the question is seen; None = the question is read with them.
    """

    spans: list[tuple[int, int]]
    ranking: np.ndarray | None = None
    cache: CacheChoice | None = None


def full(case: Case, i: int) -> Choice:
    """All of the context, where the model holds it."""
    if len(case.tokens) > case.room(i, len(case.tokens)):
        raise Inapplicable(f"{len(case.tokens)} tokens do not fit the model's context of {case.lm.context}")
    return Choice([(0, len(case.tokens))])


def last(case: Case, i: int) -> Choice:
    """The last tokens that fit."""
    return Choice([(max(0, len(case.tokens) - case.room(i)), len(case.tokens))])


def random_segments(case: Case, i: int, keep: str = "fill") -> Choice:
    """Random segments: what chance alone finds."""
    order = list(range(len(case.segments)))
    random.Random(f"{case.samples[i].question} {case.samples[i].meta.get('seed')}").shuffle(order)
    return _best(case, i, np.array(order), keep)


def bm25(case: Case, i: int, keep: str = "4") -> Choice:
    """Segments that share the question's rare words (BM25, by the bm25s library, English stop words left out)."""
    bm25s, question = import_bm25s(), case.samples[i].question
    [words] = bm25s.tokenize([question], stopwords="en", return_ids=False, show_progress=False)
    return _best(case, i, np.argsort(-case.word_index.get_scores(words), kind="stable"), keep)


def xl3m(case: Case, i: int, measure: str = "", keep: str = "") -> Choice:
    """The most relevant segments (XL3M, arXiv 2405.17755); measure and keep as in ``npukv.answer``, its defaults too.

    Unlike there, a context that fits the model is not read whole: the method itself is under test.
    """
    return _relevant(case, i, measure, keep, second_look=False)


def xl3m_twice(case: Case, i: int, measure: str = "", keep: str = "") -> Choice:
    """The same with a second look at the best ones (``npukv.relevance.second_look``)."""
    if not case.ahead:
        raise Inapplicable("a second look has the question ahead, and this suite is read with it behind alone")
    return _relevant(case, i, measure, keep, second_look=True)


def oracle(case: Case, i: int) -> Choice:
    """The segments with the evidence and nothing else, as many as fit: the most that choosing segments can reach."""
    if not case.samples[i].evidence:
        raise Inapplicable("the sample has no evidence in one place")
    wanted = case.covering(i)
    others = sorted(set(range(len(case.segments))) - set(wanted))
    return Choice(_best(case, i, np.array([*wanted, *others]), str(len(wanted))).spans)


def clustered(case: Case, i: int, amount: str = "0.25") -> Choice:
    """All of the context, through `npukv.ClusteredCache`: compressed before the question is seen."""
    return Choice(full(case, i).spans, cache=cache_of(f"clustered:{amount}"))


def hashed(case: Case, i: int, amount: str = "2048") -> Choice:
    """All of the context, through `npukv.HashedCache`: every new token attends to the best few."""
    return Choice(full(case, i).spans, cache=cache_of(f"hashed:{amount}"))


METHODS: dict[str, Callable[..., Choice]] = {
    "full": full,
    "last": last,
    "random": random_segments,
    "bm25": bm25,
    "xl3m": xl3m,
    "xl3m-twice": xl3m_twice,
    "oracle": oracle,
    "clustered": clustered,
    "hashed": hashed,
}

ARGUMENTS = {
    "random": ("keep",),
    "bm25": ("keep",),
    "xl3m": ("measure", "keep"),
    "xl3m-twice": ("measure", "keep"),
    "clustered": ("amount",),
    "hashed": ("amount",),
}


def find_method(name: str) -> Callable[[Case, int], Choice]:
    """The method of a name with its arguments, e.g. "xl3m:first:4".

    Raises:
        InputError: an unknown method, measure or number of segments.
    """
    from npukv.relevance import measures
    from npukv.relevance.pick import parse_keep

    base, *given = name.split(":")
    if base not in METHODS:
        raise InputError(f"got method {name!r}, expected one of: {', '.join(METHODS)}")
    names = ARGUMENTS.get(base, ())
    if "keep" in names and len(given) > len(names):  # "margin:0.5" holds a colon itself
        given = [*given[: len(names) - 1], ":".join(given[len(names) - 1 :])]
    if len(given) > len(names):
        raise InputError(f"got method {name!r}, expected {':'.join([base, *names])}")
    for argument, value in zip(names, given, strict=False):
        if argument == "amount":
            cache_of(name)
        if argument == "measure" and value:
            measures.check(value)
        if argument == "keep" and _scored(parse_keep(value)) and "measure" not in names:
            raise InputError(
                f"got method {name!r}: margins and passages need scores in nats, which only xl3m's are; give a number "
                "or fill"
            )
    return lambda case, i: METHODS[base](case, i, *given)


def _scored(keep: Keep) -> bool:
    """Whether it takes scores in nats to know what is kept."""
    return keep.margin is not None or keep.passages


def cache_of(name: str) -> CacheChoice | None:
    """The cache a method reads through; None for those that read with the model's own.

    Raises:
        InputError: an amount that is none.
    """
    base, _, amount = name.partition(":")
    if ARGUMENTS.get(base) != ("amount",):
        return None
    return CacheChoice(base, parse_amount(amount or inspect.signature(METHODS[base]).parameters["amount"].default))


def _best(case: Case, i: int, order: np.ndarray, keep: str, values: np.ndarray | None = None) -> Choice:
    """The first segments of ``order`` by npukv's own rule; ``values`` are what "margin:..." compares."""
    from npukv.relevance.pick import merge, parse_keep, pick

    if values is None:
        values = np.empty(len(order))
        values[order] = np.arange(len(order), dtype=np.float64)
    chosen = pick(values, case.segments, case.room(i), parse_keep(keep))
    return Choice(merge([case.segments[index] for index in chosen]), order)


def _relevant(case: Case, i: int, measure: str, keep: str, second_look: bool) -> Choice:
    """The best segments or passages by a measure, and all segments as the measure ranks them, the last look first."""
    from npukv.relevance import measures
    from npukv.relevance.answer import default_keep
    from npukv.relevance.pick import merge, parse_keep, pick

    scores = replace(case.scores[i], measure=measure or measures.DEFAULT)
    wanted = parse_keep(keep) if keep else default_keep(scores.measure, second_look)
    room = case.room(i)
    found = case.rank_again(i, scores, wanted, room, second_look)
    chosen = pick(found.values, found.segments, room, wanted)
    order = scores.ranking()
    if not wanted.passages:
        first = found.ranking()[: len(order) if found.shortlist is None else len(found.shortlist)]
        order = np.concatenate([first, order[~np.isin(order, first)]])
    return Choice(merge([found.segments[index] for index in chosen]), order)
