"""A sketch of a text: sign bits of every token's key in one early layer, made once, searched for every question.

Segments whose tokens' keys resemble the question's are promising; only those are then scored by the whole model. The
sketch is built in one pass through the first layers. Keys are compared with keys (not queries): the question is read
alone, through the same layers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from npukv.errors import ModelError
from npukv.language_model import LanguageModel
from npukv.ops.hashing import hamming_scores
from npukv.parallel.ranks import ALONE, Ranks
from npukv.parallel.share import shares
from npukv.parallel.tokens import explained
from npukv.prompt import Prompt
from npukv.relevance.batches import batch_size
from npukv.relevance.cut import Segment, Windows
from npukv.relevance.fast_forward import FastForward, choose_forward
from npukv.relevance.journal import fingerprint
from npukv.text import Tokens

#: Sign bits per key and KV head; 32 lost two needles of forty.
BITS = 128
#: Tokens read together when the sketch is built; independent of how the text is cut into segments.
WINDOW = 512
#: Windows per part: what is written, and lost by a kill, at once.
PART = 512
#: Windows, evenly spaced, whose mean key stands for the text's.
SAMPLE = 256
#: Tokens times KV heads compared at once in a search.
CHUNK = 1 << 24

Progress = Callable[[str, int, int], None]


@dataclass
class Sketch:
    """Codes of a text's tokens, in parts of PART x WINDOW tokens.

    Attributes:
        layer: the layer whose keys are coded.
        mean: the text's mean key, float32 [Hkv, D].
        rotation: float32 [D, BITS], orthogonal within each D columns.
        folder: where parts are kept, one file each; None = in memory alone.
        parts: codes at hand on the device, uint8 [tokens, Hkv, BITS / 8], bit j of byte i = sign of column 8 i + j.
    """

    layer: int
    mean: torch.Tensor
    rotation: torch.Tensor
    tokens: int
    folder: Path | None = None
    parts: dict[int, torch.Tensor] = field(default_factory=dict, repr=False)

    def encode(self, keys: torch.Tensor) -> torch.Tensor:
        """Keys [..., Hkv, D] -> codes uint8 [..., Hkv, BITS / 8]."""
        signs = ((keys.float() - self.mean) @ self.rotation > 0).unflatten(-1, (BITS // 8, 8))
        weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=keys.device)
        return (signs * weights).sum(-1, dtype=torch.uint8)

    def file(self, part: int) -> Path | None:
        return None if self.folder is None else self.folder / f"codes-{part:06d}"

    @property
    def shape(self) -> tuple[int, int]:
        """Of one token's codes."""
        return self.mean.shape[0], BITS // 8

    def codes(self, start: int, end: int) -> torch.Tensor:
        """Codes of tokens [start, end), on the device."""
        size = PART * WINDOW
        pieces = []
        for part in range(start // size, -(-end // size)):
            first = part * size
            pieces.append(self.part(part)[max(0, start - first) : end - first])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def part(self, index: int) -> torch.Tensor:
        """A part's codes, from its file if need be; kept on the device from then on."""
        if index not in self.parts:
            path = self.file(index)
            count = min(PART * WINDOW, self.tokens - index * PART * WINDOW)
            if path is None:
                raise KeyError(f"part {index} of the sketch was never built")
            with explained(path):
                read = np.fromfile(path, np.uint8).reshape(count, *self.shape)
            self.parts[index] = torch.from_numpy(read).to(self.mean.device)
        return self.parts[index]


def open_sketch(
    lm: LanguageModel,
    tokens: Tokens,
    *,
    forward: str | FastForward = "auto",
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> Sketch:
    """The text's sketch by this model: at hand, or from the folder of the token store, or built now.

    Each rank builds its share of the parts. Parts appear whole or not at all: a build that was killed goes on where
    it stopped, with any number of ranks.

    Args:
        forward: how the early layers are read, as of `npukv.score_segments`.

    Raises:
        ModelError: the model's layers have no key projection of their own; RunError: the folder cannot be written.
    """
    key = fingerprint(lm.fingerprint, lm.device.name, BITS, WINDOW, layer_of(lm))[:16]
    kept = tokens.sketches.get(key)
    if kept is not None:
        return kept
    folder = None if tokens.folder is None else tokens.folder / f"sketch-{key}"
    sketch = _settle(lm, tokens, folder, ranks)
    count = -(-len(tokens) // (PART * WINDOW))
    with ThreadPoolExecutor(2) as writers:
        there = [i for i in range(count) if (path := sketch.file(i)) is not None and path.exists()]
        missing = sorted(set(range(count)) - set(ranks.agree(there, "share the sketch")))
        share = shares([1] * len(missing), ranks.size)[ranks.rank] if folder is not None else range(len(missing))
        work = len(missing) * PART * WINDOW * (sketch.layer + 1) // layers_of(lm)
        reading = choose_forward(lm, forward, work) if missing else None
        rows = ranks.agree(batch_size(lm, WINDOW + 1, 1), "share the sketch's batches")
        if reading is not None and ranks.size > 1:  # kernels differ in the last bits, too
            reading.settle(ranks.agree(reading.kernel(rows, WINDOW) if ranks.first else "", "choose a kernel"))
        writing: list[Future[None]] = []
        for done, i in enumerate(share):
            part = missing[i]
            sketch.parts[part] = _build_part(lm, tokens, sketch, part, rows, reading)
            if folder is not None:
                writing.append(writers.submit(_write, sketch, part))
            ranks.note((done + 1) * PART * WINDOW, last=True)
            if progress is not None:
                progress("sketch", min((part + 1) * PART * WINDOW, len(tokens)), len(tokens))
        for written in writing:
            written.result()
    ranks.meet("finish the sketch")
    tokens.sketches[key] = sketch
    return sketch


def _settle(lm: LanguageModel, tokens: Tokens, folder: Path | None, ranks: Ranks) -> Sketch:
    """What all parts share: decided by rank 0 and kept, because another machine's would differ in the last bits."""
    layer = layer_of(lm)
    place = lm.device.torch_device
    path = None if folder is None else folder / "common.npz"
    arrays: dict[str, np.ndarray] | None = None
    if ranks.first:
        if path is not None and path.exists():
            with explained(path), np.load(path) as found:
                arrays = dict(found)
        else:
            mean = _mean_key(lm, tokens, layer)
            arrays = {"mean": mean, "rotation": _rotation(mean.shape[1])}
            if path is not None:
                with explained(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    partial = path.with_name("partial-" + path.name)
                    np.savez(partial, **arrays)  # type: ignore[arg-type]
                    os.replace(partial, path)
    arrays = ranks.agree(arrays, "begin the sketch")
    center, rotation = (torch.from_numpy(arrays[name]).to(place) for name in ("mean", "rotation"))
    return Sketch(layer, center, rotation, len(tokens), folder)


def _rotation(width: int) -> np.ndarray:
    """Random orthogonal columns, float32 [width, BITS]."""
    generator = np.random.default_rng(0)
    blocks = [np.linalg.qr(generator.standard_normal((width, width)))[0] for _ in range(-(-BITS // width))]
    return np.concatenate(blocks, axis=1)[:, :BITS].astype(np.float32)


def _mean_key(lm: LanguageModel, tokens: Tokens, layer: int) -> np.ndarray:
    """Mean key of evenly spaced windows, float32 [Hkv, D]."""
    windows = Windows(len(tokens), WINDOW, 0, lambda start, end: (0, 0))
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(SAMPLE, len(windows))).round().astype(int))
    starts = [windows.start(int(i)) for i in chosen]
    means = []
    for at in range(0, len(starts), 64):
        ids = np.stack([tokens.ids[start : start + windows.length] for start in starts[at : at + 64]])
        means += [*early_keys(lm, ids, layer).float().mean(1)]  # [Hkv, D] per window
    return torch.stack(means).mean(0).cpu().numpy()


def layer_of(lm: LanguageModel) -> int:
    """The layer whose keys are coded, at an eighth of the model's depth.

    On the bundled model (160 questions among rivals) the keys at a quarter found no more in the best 1% beside the
    question's words, and take twice as long to read.
    """
    return max(1, layers_of(lm) // 8) if layers_of(lm) > 1 else 0


def layers_of(lm: LanguageModel) -> int:
    return lm.model.config.get_text_config().num_hidden_layers


def _build_part(
    lm: LanguageModel, tokens: Tokens, sketch: Sketch, part: int, rows: int, reading: FastForward | None = None
) -> torch.Tensor:
    """Codes uint8 [tokens of the part, Hkv, BITS / 8], read `rows` windows at a time."""
    start = part * PART * WINDOW
    ids = np.asarray(tokens.ids[start : start + PART * WINDOW])
    whole = len(ids) // WINDOW * WINDOW
    pieces = []
    for at in range(0, whole, rows * WINDOW):
        window = ids[at : min(at + rows * WINDOW, whole)].reshape(-1, WINDOW)
        if reading is None:
            keys = early_keys(lm, window, sketch.layer)
        else:  # what is compiled is compiled for one shape
            head = np.array([_beginning(lm)] * rows, np.int64).reshape(rows, -1)
            full = np.concatenate([window, np.repeat(window[-1:], rows - len(window), axis=0)]).astype(np.int64)
            given = torch.from_numpy(np.concatenate([head, full], axis=1)).to(lm.device.torch_device)
            keys = reading.keys(given, sketch.layer)[: len(window), head.shape[1] :]
        pieces.append(sketch.encode(keys).flatten(0, 1))
    if whole < len(ids):
        pieces.append(sketch.encode(early_keys(lm, ids[None, whole:], sketch.layer)).flatten(0, 1))
    return torch.cat(pieces)


def _write(sketch: Sketch, part: int) -> None:
    path = sketch.file(part)
    if path is None:
        return
    with explained(path):
        partial = path.with_suffix(".partial")
        sketch.parts[part].cpu().numpy().tofile(partial)
        os.replace(partial, path)


class _Reached(Exception):
    """The forward pass has come to the layer whose keys are wanted."""


@torch.inference_mode()
def early_keys(lm: LanguageModel, ids: np.ndarray, layer: int, head: Sequence[int] | None = None) -> torch.Tensor:
    """Keys of a layer before position is turned into them, [b, T, Hkv, D], of ids [b, T] read after `head`.

    The forward pass ends at that layer's key projection.

    Args:
        head: tokens before the ids; None = the beginning of sequence, for models that have one of its own.

    Raises:
        ModelError: the model has no such projection.
    """
    attention = _attention(lm, layer)
    before = _beginning(lm) if head is None else tuple(head)
    body = torch.from_numpy(ids.astype(np.int64)).to(lm.device.torch_device)
    given = torch.cat([body.new_tensor(before).expand(len(body), -1), body], dim=1)
    reached: list[torch.Tensor] = []

    def stop(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        reached.append(output)
        raise _Reached

    hook = attention.k_proj.register_forward_hook(stop)
    try:
        lm.model(given, use_cache=False, logits_to_keep=1)
    except _Reached:
        return reached[0][:, len(before) :].unflatten(-1, (-1, attention.head_dim))
    finally:
        hook.remove()
    raise ModelError(f"{lm.name}: its forward pass never reached layer {layer}; take --mode exact or words")


def _attention(lm: LanguageModel, layer: int) -> Any:
    for name, module in lm.model.named_modules():
        if name.endswith(f"layers.{layer}.self_attn") and hasattr(module, "k_proj") and hasattr(module, "head_dim"):
            return module
    raise ModelError(
        f"{lm.name}: is a {lm.model.config.model_type} model, expected one whose layers have a k_proj of their own, "
        "which a sketch is made from; take --mode exact or words"
    )


def _beginning(lm: LanguageModel) -> tuple[int, ...]:
    from npukv.prompt import build_prompt

    return build_prompt(lm.tokenizer, "?").head


def search(
    lm: LanguageModel, sketch: Sketch, prompt: Prompt, segments: Sequence[Segment], *, ranks: Ranks = ALONE
) -> np.ndarray:
    """Distance of every segment from the question, int64 [n]; lower = more promising.

    The nearer of a token's and KV head's smallest Hamming distances (of all tokens of a segment) are told apart by how
    unusual they are: `_unusual` of each, added up. What every segment has says nothing.
    """
    asked = np.array([prompt.after])
    keys = early_keys(lm, asked, sketch.layer, prompt.head)[0]
    own = _own(lm, prompt)
    question = sketch.encode(keys[own.start : own.stop]).contiguous().view(torch.int32)  # [Q, Hkv, words]
    share = shares(np.ones(len(segments)), ranks.size)[ranks.rank]
    length = segments[0].end - segments[0].start
    nearest = [torch.empty(0, len(question) * sketch.shape[0], dtype=torch.int64, device=question.device)]
    for first, last, stride in _runs(segments, share, length, CHUNK // sketch.shape[0]):
        start = _start(segments, first)
        codes = sketch.codes(start, _start(segments, last - 1) + length)
        nearest.append(_nearest(codes, question, last - first, length, stride))
    mine = torch.cat(nearest)  # [segments, Q Hkv]
    sums = torch.stack([mine.sum(0), (mine * mine).sum(0)]).cpu().numpy()
    gathered = ranks.gather(sums.tobytes(), "gather the sketch's sums")
    total, squares = np.sum([np.frombuffer(data, np.int64).reshape(sums.shape) for data in gathered], axis=0)
    table = torch.from_numpy(_unusual(total, squares, len(segments))).to(mine.device)  # [Q Hkv, BITS + 1]
    found = -table.T.gather(0, mine).sum(1)
    gathered = ranks.gather(found.cpu().numpy().tobytes(), "gather the sketch's distances")
    return np.concatenate([np.frombuffer(data, np.int64) for data in gathered])


def _own(lm: LanguageModel, prompt: Prompt) -> range:
    """Those of the question's tokens that the prompt does not always have around a question."""
    from npukv.prompt import build_prompt

    asked = [prompt.question, *(build_prompt(lm.tokenizer, word).question for word in ("?", "a"))]
    before, after = _alike(asked), _alike([question[::-1] for question in asked])
    own = range(before, len(prompt.question) - after)
    return own if own else range(len(prompt.question))


def _alike(questions: Sequence[Sequence[int]]) -> int:
    """How many first tokens all have in common."""
    shortest = min(len(question) for question in questions)
    differs = (at for at in range(shortest) if len({question[at] for question in questions}) > 1)
    return next(differs, shortest)


def _unusual(total: np.ndarray, squares: np.ndarray, count: int) -> np.ndarray:
    """How many standard deviations a distance is below the mean, int64 [k, BITS + 1] in thousandths, at least 0.

    Whole numbers, so that sums are the same in any order. The deviation counts as at least 1% of the bits: where all
    segments are about equally far, a bit's difference is chance.

    Args:
        total, squares: of k distances and their squares over `count` segments, int64 [k].
    """
    mean = total / count
    spread = np.maximum(np.sqrt(np.maximum(squares / count - mean**2, 0)), 0.01 * BITS)
    below = (mean[:, None] - np.arange(BITS + 1)) / spread[:, None]
    return np.rint(1000 * np.maximum(below, 0)).astype(np.int64)


def _start(segments: Sequence[Segment], index: int) -> int:
    return segments.start(index) if isinstance(segments, Windows) else segments[index].start


def _runs(segments: Sequence[Segment], share: range, length: int, most: int) -> Iterator[tuple[int, int, int]]:
    """(first, last, stride) of runs of evenly spaced segments, of about `most` tokens at most."""
    first = share.start
    while first < share.stop:
        stride = _start(segments, first + 1) - _start(segments, first) if first + 1 < share.stop else 1
        last = min(share.stop, first + max(2, (most - length) // max(1, stride)))
        if _start(segments, last - 1) - _start(segments, first) != (last - 1 - first) * stride:
            last -= 1  # the text's last segment is moved back to its end
        yield first, last, stride
        first = last


def _nearest(codes: torch.Tensor, question: torch.Tensor, count: int, length: int, stride: int) -> torch.Tensor:
    """Smallest distances, int64 [count, Q Hkv], in segments that begin every `stride` tokens.

    Args:
        codes: of the text's tokens, uint8 [n, Hkv, BITS / 8].
        question: codes of its tokens, int32 [Q, Hkv, BITS / 32].
    """
    words = codes.view(torch.int32).transpose(0, 1).contiguous()[None]  # [1, Hkv, n, words]
    heads, tokens = words.shape[1:3]
    found = []
    for token in question:
        apart = hamming_scores(token[None, :, None].contiguous(), words)[0]  # [Hkv, n]
        found.append(apart.as_strided((heads, count, length), (tokens, stride, 1)).amin(2))
    return torch.cat(found).T.long()
