"""Tokens on disk are those of `npukv.text.tokenize`, whoever made them, and however often it was interrupted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npukv import text as text_module
from npukv.errors import RunError
from npukv.parallel import tokens as module
from npukv.parallel.tokens import open_tokens
from npukv.text import tokenize


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module.blocks, "__defaults__", (300,))
    monkeypatch.setattr(module, "PART", 700)


@pytest.fixture
def processors(monkeypatch: pytest.MonkeyPatch) -> Any:
    def have(count: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)), raising=False)

    return have


def assert_same(found: Any, expected: Any) -> None:
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.starts, expected.starts)
    assert found.characters == expected.characters


def test_worker_processes_make_the_same_tokens(tokenizer: Any, bible: str, tmp_path: Path, processors: Any) -> None:
    processors(3)
    text = bible[:9000] + " <|bos|> \N{SNOWMAN}\r\n\n é <|eos|>" + "x" * 700 + bible[9000:12000]
    told: list[tuple[int, int]] = []
    found = open_tokens(tokenizer, text, tmp_path, progress=lambda *at: told.append(at))
    assert_same(found, tokenize(tokenizer, text))
    assert found.ids.dtype == np.uint16
    assert isinstance(found.ids, np.memmap)
    assert told[-1] == (len(text), len(text))
    assert len(told) > 5
    assert [path.name for path in tmp_path.iterdir()] == [found.folder.name]
    assert sorted(path.name for path in found.folder.iterdir()) == ["ids", "starts", "store.json"]


@given(
    st.lists(
        st.sampled_from(["a", "word", " ", "\n", "\n\n", "  ", "\r\n", "12", ".", "é", "\N{SNOWMAN}", "<|bos|>", "\t"]),
        max_size=400,
    ).map("".join)
)
def test_raw_and_wrapped_tokenizers_agree_on_every_block(tokenizer: Any, text: str) -> None:
    """So a worker without transformers makes the same tokens, wherever a block ends."""
    raw = module.raw_encoder(tokenizer.backend_tokenizer.to_str())
    for begin, end in text_module.blocks(text, 64):
        ids, places = raw(text[begin:end])
        expected = text_module.tokenize_block(tokenizer, text[begin:end])
        assert np.array_equal(ids, expected[0])
        assert np.array_equal(places, expected[1])


def test_a_tokenizer_that_does_more_than_its_json_is_asked_itself(
    tokenizer: Any, bible: str, tmp_path: Path, processors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    processors(3)
    monkeypatch.setattr(module, "raw_encoder", lambda _: lambda block: (np.zeros(1, np.int32), np.zeros(1, np.int64)))
    monkeypatch.setattr(module, "_work", lambda *_: pytest.fail("no worker may run"))
    assert_same(open_tokens(tokenizer, bible[:3000], tmp_path), tokenize(tokenizer, bible[:3000]))


def test_opened_again_nothing_is_tokenised(
    tokenizer: Any, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_tokens(tokenizer, text, tmp_path)
    monkeypatch.setattr(module, "_write_parts", lambda *_: pytest.fail("tokenised again"))
    again = open_tokens(tokenizer, text, tmp_path)
    assert_same(again, first)
    assert again.fingerprint == first.fingerprint


def test_another_text_has_a_store_of_its_own(tokenizer: Any, text: str, tmp_path: Path) -> None:
    one, other = (open_tokens(tokenizer, given, tmp_path) for given in (text, text + "."))
    assert one.folder != other.folder
    assert_same(other, tokenize(tokenizer, text + "."))


def test_a_killed_build_goes_on(tokenizer: Any, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, wrote = module.write_part, []

    def dying(encode: Any, part: Any, piece: str) -> None:
        if len(wrote) == 2:
            raise KeyboardInterrupt
        wrote.append(part)
        real(encode, part, piece)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(module, "write_part", dying)
    with pytest.raises(KeyboardInterrupt):
        open_tokens(tokenizer, text, tmp_path)
    again: list[Any] = []
    monkeypatch.setattr(module, "write_part", lambda *args: again.append(args[1]) or real(*args))
    assert_same(open_tokens(tokenizer, text, tmp_path), tokenize(tokenizer, text))
    assert again
    assert not {part.path for part in wrote} & {part.path for part in again}


def test_a_full_disk_is_explained(tokenizer: Any, text: str, tmp_path: Path, processors: Any) -> None:
    processors(1)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_part", full)
        with pytest.raises(RunError, match="No space left on device; free some space"):
            open_tokens(tokenizer, text, tmp_path)
    assert_same(open_tokens(tokenizer, text, tmp_path), tokenize(tokenizer, text))


def test_a_worker_that_fails_is_reported(
    tokenizer: Any, bible: str, tmp_path: Path, processors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    processors(2)
    monkeypatch.setattr(module, "send_parts", lambda stream, *_: stream.write(b"no message\n"))
    with pytest.raises(RunError, match="a process that tokenises the text failed"):
        open_tokens(tokenizer, bible[:5000], tmp_path)


def test_a_damaged_store_is_refused(tokenizer: Any, text: str, tmp_path: Path) -> None:
    found = open_tokens(tokenizer, text, tmp_path)
    path = found.folder / "ids"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(RunError, match="is damaged"):
        open_tokens(tokenizer, text, tmp_path)
