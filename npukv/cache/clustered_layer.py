"""One layer of a `ClusteredCache`: when keys are merged, and how attention reads what is left."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from npukv.cache.layer import AttendingLayer
from npukv.cache.preallocated import Place
from npukv.cache.report import LayerReport
from npukv.cache.rotary import Rotary
from npukv.errors import InputError
from npukv.ops.attention import causal_attention, partial_attention
from npukv.ops.clustering import cluster, merge_pair, merge_plan

#: Tokens beyond the goal at which a decoding cache compresses.
SLACK = 128


@dataclass(frozen=True)
class Clustering:
    """How far, when and how one layer merges; see `ClusteredCache`."""

    keep: float | None
    budget: int | None
    chunk: int
    sink: int
    recent: int
    step: int
    share: float
    typical: float

    def goal(self, seen: int) -> int:
        """Keys to hold once a row has seen that many tokens."""
        wanted = self.budget if self.budget is not None else math.ceil((self.keep or 1.0) * seen)
        return min(seen, wanted)

    def until(self, kept: int, seen: int, slack: int) -> int:
        """The number of further tokens, at least 1, with which `slack` keys more than the goal are held."""
        growth = 1.0 if self.budget is not None else 1.0 - (self.keep or 1.0)
        if growth <= 0:
            return 1 << 60

        def full(tokens: int) -> bool:
            return kept + tokens - self.goal(seen + tokens) >= slack

        tokens = max(1, int((slack - (kept - self.goal(seen)) - 1) / growth))
        while tokens > 1 and full(tokens - 1):
            tokens -= 1
        while not full(tokens):
            tokens += 1
        return tokens


@dataclass(frozen=True)
class Row:
    """What one sequence of the batch has come to. Rows are stored from the left, without their padding.

    Attributes:
        padding: slots of padding it began with.
        seen: its own tokens so far.
        kept: keys held for them.
        done: the first of them that were merged already and, under a ratio, stay as they are.
    """

    padding: int
    seen: int = 0
    kept: int = 0
    done: int = 0


class ClusteredLayer(AttendingLayer):
    """Keys, values and log degrees of one layer, in buffers [B, Hkv, room, ...] whose rows fill from the left."""

    def __init__(self, settings: Clustering, rotary: Rotary) -> None:
        super().__init__()
        self.settings = settings
        self.rotary = rotary
        self.rows: list[Row] = []
        self.bias: torch.Tensor | None = None  # float32 [B, Hkv, room], log degree; 0 behind what is held
        self.positions: torch.Tensor | None = None  # int32 [B, Hkv, room], of centroids that may be merged again
        self._fresh: tuple[torch.Tensor, torch.Tensor] | None = None
        self._place: Place | None = None
        self._leads = False
        self._expected = 0

    @property
    def place(self) -> Place | None:
        """Where frozen steps write, on the device."""
        return self._place

    @property
    def overdue(self) -> bool:
        """Whether more is held than a decoding cache holds."""
        return any(row.kept - self.settings.goal(row.seen) >= SLACK for row in self.rows)

    @property
    def room(self) -> int:
        return self.keys.shape[2] if self.is_initialized else 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        batch, heads = key_states.shape[:2]
        self.keys = key_states.new_empty(batch, heads, 0, key_states.shape[3])
        self.values = value_states.new_empty(batch, heads, 0, value_states.shape[3])
        self.bias = key_states.new_empty(batch, heads, 0, dtype=torch.float32)
        if self.settings.budget is not None:
            self.positions = key_states.new_empty(batch, heads, 0, dtype=torch.int32)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take [B, Hkv, S, D]; `attend`, which learns of the padding, stores it. Returns what came, with the handle."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._place is not None:
            keys, values, slot = self.slots()
            rows = torch.arange(slot.shape[0], device=slot.device)
            keys[rows, :, slot] = key_states[:, :, 0]
            values[rows, :, slot] = value_states[:, :, 0]
            return self.handle(keys), values
        if self._fresh is not None:
            raise InputError(
                "the model attends without asking its ClusteredCache (keys came twice); make the cache from the "
                "configuration of the model that uses it, and leave its attention implementation as it is then"
            )
        self._fresh = key_states, value_states
        return self.handle(key_states), value_states

    def attend(self, query: torch.Tensor, scaling: float | None, mask: torch.Tensor | None) -> torch.Tensor:
        """See `AttendingLayer.attend`."""
        if self._place is not None:
            return partial_attention(query, self.keys, self.values, self.bias, self._place.length, scaling)[0]
        if self._fresh is None:
            raise InputError("attend came without new keys: call update first")
        (keys, values), self._fresh = self._fresh, None
        padding = self.pad(mask, query.shape[0])
        if not self.rows:
            self.rows = [Row(count) for count in padding]
        before, pieces, groups = self.seen, query.shape[2], list(self._groups())
        if len(groups) == 1 and groups[0][1].padding <= before:  # nothing to put together: nothing is copied
            out = self._read(*groups[0], query, keys, values, scaling, single=pieces == 1)
        else:
            out = torch.zeros_like(query)
            for part, row in groups:
                skip = min(pieces, max(0, row.padding - before))
                asked, new, held = (x[part, :, skip:] for x in (query, keys, values))
                out[part, :, skip:] = self._read(part, row, asked, new, held, scaling, single=pieces == 1)
        self.seen += pieces
        self.kept = max(row.kept for row in self.rows)
        return out

    def _groups(self) -> Iterator[tuple[slice, Row]]:
        """Neighbouring rows that have come to the same, which is mostly all of them."""
        first = 0
        for last in range(1, len(self.rows) + 1):
            if last == len(self.rows) or self.rows[last] != self.rows[first]:
                yield slice(first, last), self.rows[first]
                first = last

    def _set(self, part: slice, row: Row) -> Row:
        self.rows[part] = [row] * (part.stop - part.start)
        return row

    def _read(
        self,
        part: slice,
        row: Row,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float | None,
        single: bool,
    ) -> torch.Tensor:
        """Store and attend, piece by piece where the cache is to be compressed between.

        When that is depends on how many tokens came, not on how they were cut: each query sees the same keys.
        """
        settings, at, out = self.settings, 0, query
        if single and row.kept - settings.goal(row.seen) >= SLACK:
            row = self._compress(part, row)
            self._fit()
        while at < query.shape[2]:
            piece = min(query.shape[2] - at, 1 if single else settings.until(row.kept, row.seen, settings.step))
            now = slice(at, at + piece)
            end = row.kept + piece
            self._reserve(end)
            self.keys[part, :, row.kept : end] = keys[:, :, now]
            self.values[part, :, row.kept : end] = values[:, :, now]
            row = self._set(part, replace(row, seen=row.seen + piece, kept=end))
            found = self._attend(part, row, query[:, :, now], scaling)
            if piece == query.shape[2]:
                out = found
            else:
                out = torch.empty_like(query) if at == 0 else out
                out[:, :, now] = found
            if not single and row.kept - settings.goal(row.seen) >= settings.step:
                row = self._compress(part, row)
            at += piece
        return out

    def _attend(self, part: slice, row: Row, query: torch.Tensor, scaling: float | None) -> torch.Tensor:
        keys, values = (x[part, :, : row.kept] for x in (self.keys, self.values))
        if row.done == 0:  # nothing is merged yet: what a full cache computes
            return causal_attention(query, keys, values, scaling)
        bias = self.bias[part, :, : row.kept]  # type: ignore[index]
        return partial_attention(query, keys, values, bias, None, scaling, causal=True)[0]

    def _compress(self, part: slice, row: Row) -> Row:
        """Bring the rows down to their goal, as far as sinks and recent tokens allow. In place."""
        settings = self.settings
        wanted = settings.goal(row.seen)
        recent = min(settings.recent, max(1, wanted // 3))
        start = settings.sink if settings.budget is not None else max(settings.sink, row.done)
        end, goal = row.kept - recent, max(1, wanted - start - recent)
        if end - start <= goal:
            return row
        bias = self.bias[part]  # type: ignore[index]
        degrees = bias[:, :, start:end].exp().round()
        plan = merge_plan(end - start, goal, settings.chunk, settings.share)
        keys, values = (x[part, :, start:end] for x in (self.keys, self.values))
        turned, *table = self.rotary.halves(keys, self._standing(part, row, start, end), row.seen)
        places = cluster(turned, degrees, plan, settings.typical, *table)
        kept = start + goal + recent
        *means, counts = merge_pair(keys, values, degrees, places, goal)
        for x, mean in zip((self.keys, self.values), means, strict=True):
            x[part, :, start : start + goal] = mean
            x[part, :, start + goal : kept] = x[part, :, end : row.kept].clone()
        bias[:, :, start : start + goal] = counts.log()
        bias[:, :, start + goal : row.kept] = 0
        if self.positions is not None:
            self._merge_positions(part, row, start, end, places, goal)
        return self._set(part, replace(row, kept=kept, done=start + goal))

    def _standing(self, part: slice, row: Row, start: int, end: int) -> torch.Tensor:
        """Positions of the keys from start to end: a centroid's is that of the last token in it."""
        fresh = torch.arange(row.seen - row.kept + start, row.seen - row.kept + end, device=self.keys.device)
        if self.positions is None or row.done <= start:
            return fresh
        merged = self.positions[part, :, start : row.done]
        return torch.cat([merged, fresh[row.done - start :].expand(*merged.shape[:2], -1)], dim=2)

    def _merge_positions(self, part: slice, row: Row, start: int, end: int, places: torch.Tensor, goal: int) -> None:
        standing = self._standing(part, row, start, end).int().expand(places.shape)
        last = standing.new_zeros(*places.shape[:2], goal).scatter_reduce_(2, places.long(), standing, "amax")
        self.positions[part, :, start : start + goal] = last  # type: ignore[index]

    def compress(self) -> None:
        """Bring every row down to its goal now."""
        for part, row in list(self._groups()):
            if row.kept > self.settings.goal(row.seen):
                self._compress(part, row)
        self.kept = max((row.kept for row in self.rows), default=0)
        self._fit()

    # buffers

    def _reserve(self, tokens: int) -> None:
        if tokens > self.room:
            self._resize(max(tokens, min(self.room + self.settings.step, self.room * 3 // 2)))

    def _fit(self) -> None:
        """Give back the room of keys that were merged."""
        kept = max(row.kept for row in self.rows)
        if self._place is None and self.room > kept + SLACK:
            self._resize(kept + SLACK // 4)

    def _resize(self, room: int) -> None:
        held = min(self.room, room)

        def moved(x: torch.Tensor | None, fill: bool = False) -> Any:
            if x is None:
                return None
            shape = (*x.shape[:2], room, *x.shape[3:])
            larger = x.new_zeros(shape) if fill else x.new_empty(shape)
            larger[:, :, :held] = x[:, :, :held]
            return larger

        self.keys, self.values = moved(self.keys), moved(self.values)
        self.bias, self.positions = moved(self.bias, fill=True), moved(self.positions, fill=True)

    def report(self) -> LayerReport:
        if not self.is_initialized:
            return LayerReport(0, 0, 0, 0)
        per_token = sum(x.shape[0] * x.shape[1] * x.shape[3] * x.element_size() for x in (self.keys, self.values))
        tensors = [x for x in (self.keys, self.values, self.bias, self.positions) if x is not None]
        size = sum(x.numel() * x.element_size() for x in tensors)
        return LayerReport(self.seen, self.kept, self.seen * per_token, size)

    def reset(self) -> None:
        super().reset()
        self.rows, self._fresh = [], None
        if self.is_initialized:
            self.lazy_initialization(self.keys, self.values)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self._choose(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._choose(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._choose(torch.arange(len(self.rows)).repeat_interleave(repeats))

    def _choose(self, rows: torch.Tensor) -> None:
        if not self.rows:
            return
        chosen = rows.to(self.keys.device)
        self.keys, self.values = self.keys.index_select(0, chosen), self.values.index_select(0, chosen)
        self.bias = self.bias.index_select(0, chosen)  # type: ignore[union-attr]
        if self.positions is not None:
            self.positions = self.positions.index_select(0, chosen)
        self.rows = [self.rows[index] for index in chosen.tolist()]
        self.padding = [row.padding for row in self.rows]

    # captured decoding

    def reserve(self, tokens: int) -> None:
        """What `freeze` is to have room for, in tokens seen."""
        self._expected = tokens

    def freeze(self, place: Place | None = None) -> None:
        """See `AttendingLayer.freeze`. Needs `maintain` after every step, which compresses when the room is used up.

        Args:
            place: that of another layer whose rows have come to the same; it advances it for both.
        """
        if not self.rows:
            raise InputError("there is nothing to freeze yet: feed the prompt first")
        self._relieve()
        expected = max(self._expected, self.seen + SLACK)
        most = max(row.kept + max(0, self.settings.goal(expected) - self.settings.goal(row.seen)) for row in self.rows)
        self._resize(most + SLACK + 2)
        self._leads = place is None
        self._place = place or Place(0, self.room, [0] * len(self.rows), None, self.keys)
        self.blank([row.kept for row in self.rows])
        self.length, self.frozen = self._place.length, True
        self._tell()

    def thaw(self) -> None:
        """Count on the host again."""
        self._place = self.length = None
        self.frozen = False

    def slots(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For whoever writes a frozen step's key and value itself: keys, values [B, Hkv, room, D] and slot int32 [B].

        Counts the token: call it once per step, in the order of the layers.
        """
        if self._place is None:
            raise InputError("this layer is not frozen: call freeze() first")
        if self._leads:
            self._place.advance()
        return self.keys, self.values, self._place.slot

    def advanced(self, steps: int) -> None:
        super().advanced(steps)
        self.rows = [replace(row, seen=row.seen + steps, kept=row.kept + steps) for row in self.rows]

    def maintain(self) -> None:
        if self._relieve() and self._place is not None:
            self._tell()

    def _relieve(self) -> bool:
        """Compress the rows that hold too much; whether there were any."""
        full = [(part, row) for part, row in self._groups() if row.kept - self.settings.goal(row.seen) >= SLACK]
        for part, row in full:
            self._compress(part, row)
        self.kept = max((row.kept for row in self.rows), default=0)
        return bool(full)

    def _tell(self) -> None:
        """The rows' lengths to the device."""
        if self._place is not None and self._leads:
            self._place.length.copy_(torch.tensor([row.kept for row in self.rows], dtype=torch.int32))
