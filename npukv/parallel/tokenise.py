"""A worker process that tokenises parts of a text: `python -m npukv.parallel.tokenise`, spoken to over its pipes.

In: one line of JSON with the tokenizer's own JSON; then, for each part, a line of JSON that describes it (see `Part`)
and its text in UTF-8. Out: for each part, a line with its number of characters. A process of its own, and not
multiprocessing, because that would import the user's main module again; it loads no torch.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

#: Tokenises one block on its own: (ids, first characters).
Encode = Callable[[str], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Part:
    """Some adjoining blocks of a text.

    Attributes:
        path: files `path`.ids and `path`.starts receive the tokens.
        begin: the part's first character.
        ends: where its blocks end, in characters of the text.
        ids, starts: types of numbers on disk.
    """

    path: str
    begin: int
    ends: tuple[int, ...]
    ids: str
    starts: str

    def file(self, kind: str) -> Path:
        return Path(f"{self.path}.{kind}")

    @property
    def finished(self) -> bool:
        return self.file("ids").exists() and self.file("starts").exists()


def write_part(encode: Encode, part: Part, text: str) -> None:
    """Tokenise a part's text, block by block, into its two files; each appears whole or not at all."""
    ids, starts, begin = [], [], part.begin
    for end in part.ends:
        found, places = encode(text[begin - part.begin : end - part.begin])
        ids.append(found.astype(part.ids))
        starts.append((places + begin).astype(part.starts))
        begin = end
    for kind, pieces in (("starts", starts), ("ids", ids)):
        partial = part.file(f"{kind}.partial")
        with partial.open("wb") as file:
            for piece in pieces:
                file.write(piece.tobytes())
        os.replace(partial, part.file(kind))


def raw_encoder(tokenizer: str) -> Encode:
    """An encoder from a tokenizer.json, without transformers: special tokens that a text spells are text."""
    from tokenizers import Tokenizer

    raw = Tokenizer.from_str(tokenizer)
    raw.no_padding()
    raw.no_truncation()
    raw.encode_special_tokens = True

    def encode(block: str) -> tuple[np.ndarray, np.ndarray]:
        encoded = raw.encode(block, add_special_tokens=False)
        offsets = np.asarray(encoded.offsets, dtype=np.int64).reshape(-1, 2)
        return np.asarray(encoded.ids, dtype=np.int32), offsets[:, 0]

    return encode


def send(stream: BinaryIO, head: Any, text: str = "") -> None:
    """One message to a worker: a line of JSON, then so many bytes of text."""
    data = text.encode()
    stream.write(json.dumps({**head, "bytes": len(data)}).encode() + b"\n" + data)


def send_parts(stream: BinaryIO, tokenizer: str, parts: Sequence[Part], text: str) -> None:
    """All a worker is told."""
    send(stream, {}, tokenizer)
    for part in parts:
        send(stream, asdict(part), text[part.begin : part.ends[-1]])


def main() -> None:
    """Work until the pipe closes."""
    stream = sys.stdin.buffer
    encode: Encode | None = None
    while line := stream.readline():
        head = json.loads(line)
        text = stream.read(head.pop("bytes")).decode()
        if encode is None:
            encode = raw_encoder(text)
            continue
        part = Part(**head | {"ends": tuple(head["ends"])})
        write_part(encode, part, text)
        print(part.ends[-1] - part.begin, flush=True)


if __name__ == "__main__":
    main()
