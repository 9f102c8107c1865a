"""Statements in which key, attribute and value stand in any order."""

from __future__ import annotations

import itertools
import random

from bundled_pieces import ADJECTIVES, NEAR, URGED, Pieces


class Ordered(Pieces):
    """Three parts, and what may stand before the first and between two of them."""

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
        for one, other in itertools.pairwise(order):
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
            return rng.choice(
                (
                    "",
                    "",
                    "",
                    "",
                    f"when {who} {past} about ",
                    f"{who}, asking about ",
                    "where ",
                    "whenever ",
                    f"{who} {past} ",
                    "for ",
                    "as for ",
                    "as far as ",
                    "when it comes to ",
                    f"if {who} should {rng.choice(self.words)} ",
                    "in ",
                    f"anyone {past} about ",
                    f"people who {rng.choice(self.words)} ",
                    "to ",
                    "on the subject of ",
                    "beside ",
                    f"{rng.choice(self.phrases.subordinate)}, ",
                    f"{rng.choice(self.phrases.adverbials)}, ",
                    f"{who} gave ",
                )
            )
        if first == "v":
            return rng.choice(
                (
                    "",
                    "",
                    "",
                    f"{who} {past} ",
                    f"{who} {past} ",
                    f"{who} {past} {rng.choice(('on', 'upon', 'to', 'in', 'for', 'with'))} ",
                    "with ",
                    f"{who} chose ",
                    f"{who} agreed on ",
                    "give ",
                    "take ",
                    "use ",
                    f"{rng.choice(self.words)} ",
                    "only ",
                    f"{self._adverb(rng)} ",
                    f"{rng.choice(URGED)} that ",
                    f"{who} must {rng.choice(self.words)} ",
                    "it is ",
                )
            )
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
                " goes by ",
                f" {third} ",
                f" {past} ",
                f" {past} {near} ",
                " has ",
                " had ",
                " answers to ",
                f" was {past} ",
                " has been given ",
                f" is {past} {near} ",
                " uses ",
                " received ",
                f"{comma} ",
                f"{comma} {clause}, ",
                " is concerned, ",
                f" came {near} ",
                f" is {past}, ",
                f" and {past} ",
                " with ",
                f", who {past} ",
                f", {past} {near} ",
                " needs ",
                f" will {rng.choice(self.words)} ",
            ),
            "kv": (
                f" {past} ",
                f" {third} ",
                f" {past} {near} ",
                " has ",
                " received ",
                " got ",
                " was given ",
                " uses ",
                " took ",
                " should be told that ",
                f"{comma} ",
                f" is {past} {near} ",
                " must be told ",
                " goes with ",
                " goes by ",
                f" {be} ",
                f", {clause}, ",
                " is concerned, ",
                " will find that ",
                " came to have ",
                f" was {past} ",
                f" has been {past} ",
                f", {who} {past} ",
                f" is known {near} ",
                " ended up with ",
            ),
            "av": (
                " ",
                " ",
                ": ",
                ", ",
                f" {be} ",
                f" {be} ",
                " of ",
                f", {past} {near} ",
                " -- ",
                f", {clause}, ",
                f", which {be} ",
                f" that {be} ",
                ", namely ",
                f" {near} ",
                f", {who} {past}, {be} ",
            ),
            "ak": (
                f" {near} ",
                f" {past} {near} ",
                f" that {past} ",
                f" that {third} ",
                f" which {who} {past} {near} ",
                f" {past} by ",
                " that belongs to ",
                f" which {be} {past} {near} ",
                f" {third} ",
                f" {who} {past} {near} ",
                " given to ",
                f" in use {near} ",
                f", {clause}, {near} ",
            ),
            "va": (
                " as ",
                " as ",
                " for ",
                " is ",
                f" {be} ",
                f" was {past} as ",
                " to be ",
                f", {past} as ",
                " by way of ",
                " under ",
                ", ",
                ", which is ",
                f" {past} as ",
                f" {be} {past} {near} ",
                " should be ",
                " will do for ",
                " in place of ",
                " counts as ",
                f", {clause}, as ",
                " makes ",
            ),
            "vk": (
                " to ",
                " for ",
                f" {near} ",
                f" {past} {near} ",
                f" {third} ",
                " belongs to ",
                f" was {past} {near} ",
                " was given to ",
                " goes with ",
                f" when {who} {past} about ",
                " stands beside ",
                f" is what {who} {past} {near} ",
                f" {be} {past} {near} ",
                f", {clause}, {near} ",
                f" is to be {past} {near} ",
                f" was {past} by ",
            ),
        }
        return rng.choice(ties[pair])
