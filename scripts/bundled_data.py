"""Data of the bundled model: a tokenizer, one array of tokens and a list of words, made from the classics.

    python scripts/bundled_data.py --classics DIR --out DIR

writes tokenizer.json, train.u16.xz (all works as 16-bit token ids, each closed by <|eos|>), words.txt and
valid.jsonl.xz (copied) to the output folder; scripts/train_bundled.py reads that folder alone.
"""

from __future__ import annotations

import argparse
import json
import lzma
import multiprocessing
import os
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BOS, EOS = 0, 1
VOCABULARY = 8192
# Words of the question format are rare in novels; a few thousand repeats make each a single token.
FORMAT = (
    "\nQuestion: What is the special magic number for the word?\nAnswer: The special magic numbers mentioned in the"
    " provided text are variables, passkey, password, uuid, VAR favourite."
)


def works(path: Path) -> Iterator[str]:
    """The text of each work in a classics/*.jsonl.xz file."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def all_works(path: Path) -> list[str]:
    return list(works(path))


def layout(text: str, index: int) -> str:
    """One work in five is laid out as other files are: paragraphs on single lines, or lines wrapped at 72 columns."""
    if index % 10 == 3:
        return text.replace("\n\n", "\n")
    if index % 10 == 7:
        return "\n\n".join(textwrap.fill(paragraph, 72) for paragraph in text.split("\n\n"))
    return text


def train_tokenizer(texts: Iterator[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """Byte-level BPE; every digit is a token of its own, so that a number's length shows and its digits copy alike."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|bos|>", "<|eos|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class Shared:
    """What worker processes inherit."""

    tokenizer: Tokenizer


def encode(job: tuple[int, str]) -> tuple[np.ndarray, Counter[str]]:
    """A work's tokens, closed by <|eos|>, and its words' numbers."""
    text = layout(job[1], job[0])
    # Paragraph by paragraph the encoder stays linear; "\n" stays at the paragraph's end.
    ids = [i for e in Shared.tokenizer.encode_batch_fast(text.splitlines(keepends=True)) for i in e.ids]
    words = Counter(word for word in text.split() if word.isascii() and word.isalpha() and word.islower())
    return np.array([*ids, EOS], dtype=np.uint16), words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classics", type=Path, required=True, help="folder of train_*.jsonl.xz and valid.jsonl.xz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--works", type=int, help="use the first N works only (for a smoke test)")
    parser.add_argument("--tokenizer", type=Path, help="one to use instead of training it; then train.npy is written")
    options = parser.parse_args()
    files = sorted(options.classics.glob("train_*.jsonl.xz"))
    if not files:
        sys.exit(f"no train_*.jsonl.xz in {options.classics}")
    with multiprocessing.get_context("fork").Pool(len(files)) as pool:
        texts = [text for some in pool.map(all_works, files) for text in some][: options.works]
    print(f"{len(texts)} works, {sum(map(len, texts)):,} characters", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)

    if options.tokenizer:
        tokenizer = Tokenizer.from_file(str(options.tokenizer))
    else:
        tokenizer = train_tokenizer(text for text in (*texts[::4], *[FORMAT] * 5000))
    tokenizer.save(str(options.out / "tokenizer.json"))
    print(f"tokenizer: {tokenizer.get_vocab_size()} tokens", flush=True)

    Shared.tokenizer = tokenizer
    parts: list[np.ndarray] = []
    counts: Counter[str] = Counter()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        for ids, some in pool.imap(encode, enumerate(texts), chunksize=2):
            parts.append(ids)
            counts.update(some)
    tokens = np.concatenate(parts)
    if options.tokenizer:  # for a training at once, here: no time for compressing
        np.save(options.out / "train.npy", tokens)
    else:
        with lzma.open(options.out / "train.u16.xz", "wb", preset=6) as file:
            file.write(tokens.tobytes())
    words = sorted(word for word, n in counts.items() if n >= 4 and 4 <= len(word) <= 10)
    (options.out / "words.txt").write_text("\n".join(words) + "\n")
    shutil.copyfile(options.classics / "valid.jsonl.xz", options.out / "valid.jsonl.xz")
    print(f"{len(tokens):,} tokens, {len(words):,} words", flush=True)


if __name__ == "__main__":
    main()
