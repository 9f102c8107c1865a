"""From files to one text, and from a text to tokens with their places in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from npukv.errors import InputError, ModelError

#: Characters per tokenised block: bounds the memory of a tokenizer's intermediate results.
BLOCK = 1 << 18

#: What stands between two files of one input.
SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Source:
    """One input: the text, and where each file begins in it (character offsets)."""

    text: str
    files: tuple[tuple[str, int], ...]

    def locate(self, offset: int) -> tuple[str, int]:
        """(file, offset within it) of a character of the text."""
        name, start = next((name, start) for name, start in reversed(self.files) if start <= offset)
        return name, offset - start


def read_source(paths: Sequence[str]) -> Source:
    """Read UTF-8 text files ("-" is standard input) into one text, in the order given.

    Raises:
        InputError: a file is missing, unreadable, empty or not text.
    """
    if not paths:
        raise InputError("got no file, expected one or more text files, or - for standard input")
    texts, files, position = [], [], 0
    for path in paths:
        text = _decode(path, sys.stdin.buffer.read() if path == "-" else _read(Path(path)))
        files.append(("<stdin>" if path == "-" else path, position))
        texts.append(text)
        position += len(text) + len(SEPARATOR)
    return Source(SEPARATOR.join(texts), tuple(files))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path (- reads standard input)") from None
    except IsADirectoryError:
        raise InputError(
            f"{path}: is a folder, expected a text file; name its files, for example {path}/*.txt"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def _decode(path: str, data: bytes) -> str:
    if b"\0" in data[: 1 << 16]:
        raise InputError(f"{path}: is a binary file, expected UTF-8 text; convert it to .txt or .md first")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not UTF-8 text (byte {data[error.start]:#04x} at {error.start}); convert it, "
            "for example with iconv -t UTF-8"
        ) from None
    if not text.strip():
        raise InputError(f"{path}: is empty, expected text")
    return text


@dataclass(frozen=True)
class Tokens:
    """A tokenised text.

    Attributes:
        ids: token ids, integers [n].
        starts: where each token begins in the text, in characters, integers [n].
        characters: the text's length.
        folder: where they are kept, for tokens mapped from a token store (`npukv.parallel.tokens`).
        fingerprint: a hash of the ids, where it is known without reading them.
    """

    ids: np.ndarray
    starts: np.ndarray
    characters: int
    folder: Path | None = None
    fingerprint: str = ""
    #: Sketches of the text that are at hand, by model (`npukv.relevance.sketch`).
    sketches: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The characters [from, to) that tokens [start, end) stand for; spans of adjoining ranges adjoin."""
        first = 0 if start == 0 else int(self.starts[start])
        return first, int(self.starts[end]) if end < len(self.starts) else self.characters


def tokenize(tokenizer: Any, text: str, progress: Callable[[int, int], None] | None = None) -> Tokens:
    """Tokenise a text of any length, block by block, without the special tokens of a beginning or end.

    Blocks end at line ends where there are any, so that words stay whole.

    Args:
        progress: called with (characters done, characters in all).

    Raises:
        ModelError: the tokenizer cannot tell where its tokens stand in the text.
    """
    check_tokenizer(tokenizer)
    # Filled in place: pieces joined at the end would need all of it twice. What is not filled takes no memory.
    ids, starts, count = np.empty(len(text) // 2 + 1024, np.int32), np.empty(len(text) // 2 + 1024, np.int64), 0
    for begin, end in blocks(text):
        found, places = tokenize_block(tokenizer, text[begin:end])
        if count + len(found) > len(ids):
            ids, starts = (
                np.concatenate([kept, np.empty(len(kept) + len(found), kept.dtype)]) for kept in (ids, starts)
            )
        ids[count : count + len(found)] = found
        starts[count : count + len(found)] = places + begin
        count += len(found)
        if progress is not None:
            progress(end, len(text))
    return Tokens(ids[:count], starts[:count], len(text))


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot tell where its tokens stand in the text."""
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"got a {type(tokenizer).__name__}, expected a tokenizer with a tokenizer.json (it tells where each token "
            "stands in the text); save the model's tokenizer with a recent transformers to make one"
        )


def tokenize_block(tokenizer: Any, block: str) -> tuple[np.ndarray, np.ndarray]:
    """(ids int32 [n], first characters int64 [n]) of a block of text, tokenised on its own."""
    encoded = tokenizer(
        block,
        add_special_tokens=False,
        split_special_tokens=True,  # a text that spells one out is text, not a command
        return_offsets_mapping=True,
        verbose=False,
    )
    offsets = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    return np.asarray(encoded["input_ids"], dtype=np.int32), offsets[:, 0]


def blocks(text: str, size: int = BLOCK) -> Iterator[tuple[int, int]]:
    """Cut [0, len(text)) into ranges of at most `size` characters that end after a line, else after a blank."""
    begin = 0
    while begin < len(text):
        end = min(begin + size, len(text))
        if end < len(text):
            middle = begin + size // 2
            cut = text.rfind("\n", middle, end) + 1 or text.rfind(" ", middle, end)
            end = cut if cut > begin else end
        yield begin, end
        begin = end
