"""Batches of the bundled model's training, made by worker processes."""

from __future__ import annotations

import argparse
import lzma
import os
import random
import sys
from pathlib import Path

import numpy as np
import torch
from bundled_mixes import MIXES
from bundled_sequences import Sequences
from tokenizers import Tokenizer
from torch.utils.data import Dataset

SHORT_STEPS = 1500  # the first steps have short rows alone: copying is learnt sooner there


class Batches(Dataset):
    """A rank's batch of a step: tokens [B, T + 1] and weights in eighths [B, T + 1].

    What is in it follows from the seed and from ``step * ranks + rank``.
    """

    def __init__(
        self, array: Path, tokenizer: Path, words: list[str], options: argparse.Namespace, rank: int = 0, ranks: int = 1
    ):
        self.array, self.tokenizer, self.words = array, tokenizer, words
        self.seed, self.steps, self.tokens, self.length = options.seed, options.steps, options.tokens, options.length
        self.mix = MIXES[options.mix]
        self.rank, self.ranks = rank, ranks
        self.skipped = 0
        self.sequences: Sequences | None = None  # made in the worker: its tokenizer and memory map are its own

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.sequences is None:
            tokens = np.load(self.array, mmap_mode="r")
            tokenizer = Tokenizer.from_file(str(self.tokenizer))
            self.sequences = Sequences(tokens, tokenizer, self.words, self.mix)
        short = step < SHORT_STEPS or step % 5 in self.mix.short
        length = self.length // 4 if short else self.length
        batch = step * self.ranks + self.rank
        rows = [self._row(f"{self.seed} {batch} {row}", length) for row in range(self.tokens // length)]
        ids = torch.from_numpy(np.stack([row[0] for row in rows]).astype(np.int32))
        return ids, torch.from_numpy(np.stack([row[1] for row in rows]))

    def _row(self, seed: str, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The row of a seed; one that cannot be made costs a line and a row of another seed, not the run."""
        assert self.sequences is not None
        for again in range(3):
            try:
                return self.sequences.row(random.Random(seed + " again" * again), length)
            except (IndexError, ValueError, KeyError, StopIteration) as error:
                self.skipped += 1
                print(f"row {seed!r} skipped, {self.skipped} by this worker: {error!r}", file=sys.stderr, flush=True)
        return self.sequences.row(random.Random(seed + " the last try"), length)


def unpack_tokens(data: Path, state: Path) -> Path:
    """The token array as a .npy file that workers can map."""
    if (data / "train.npy").exists():
        return data / "train.npy"
    target = state / "train.npy"
    if not target.exists():
        state.mkdir(parents=True, exist_ok=True)
        with lzma.open(data / "train.u16.xz") as file:
            tokens = np.frombuffer(file.read(), dtype=np.uint16)
        temporary = state / "train.part.npy"
        np.save(temporary, tokens)
        os.replace(temporary, target)
    return target
