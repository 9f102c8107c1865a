"""A toy data folder of the bundled model's training, and rows drawn from it."""

from __future__ import annotations

import json
import lzma
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from npukv.evaluation.words import split_words

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder made by bundled_data.py from made-up works."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnoprstuvw", k=rng.randint(4, 8))) for _ in range(400)]
    source = tmp_path_factory.mktemp("classics")
    for name, n in (("train_00", 4), ("valid", 1)):
        with lzma.open(source / f"{name}.jsonl.xz", "wt", encoding="utf-8") as file:
            for _ in range(n):
                sentences = (" ".join(rng.choices(words, k=9)) + "." for _ in range(500))
                file.write(json.dumps({"text": "\n\n".join(s.capitalize() + " " + s for s in sentences)}) + "\n")
    out = tmp_path_factory.mktemp("data")
    command = [sys.executable, str(SCRIPTS / "bundled_data.py"), "--classics", str(source), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def sequences(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Rows by the first mix."""
    sys.path.insert(0, str(SCRIPTS))
    import bundled_batches
    import bundled_sequences

    array = bundled_batches.unpack_tokens(data, tmp_path_factory.mktemp("array"))
    words = split_words((data / "words.txt").read_text().split(), "train")
    return bundled_sequences.Sequences(np.load(array), Tokenizer.from_file(str(data / "tokenizer.json")), words)
