"""Reading files, and knowing where each token stands in the text."""

from __future__ import annotations

import io
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from npukv import text as module
from npukv.errors import InputError, ModelError
from npukv.text import SEPARATOR, Source, blocks, read_source, tokenize

#: Line ends of all kinds, none, blanks, several bytes and several code points per character, what BPE never saw.
TEXTS = (
    st.lists(
        st.one_of(
            st.sampled_from(
                ["\n", "\r\n", " ", "  ", "\t", "é", "é", "日本語", "🙂", "👩‍👩‍👧", "\u2063", "And the LORD said "]
            ),
            st.text(max_size=5),
        ),
        min_size=1,
        max_size=30,
    )
    .map("".join)
    .filter(len)
)


@given(st.text("ab \n\r", max_size=60), st.integers(1, 25))
@example("a" * 50, 7)
@example("\n" * 50, 7)
@example(" " * 50, 2)
def test_blocks_cover_the_text_in_order(text: str, size: int) -> None:
    found = list(blocks(text, size))
    assert "".join(text[begin:end] for begin, end in found) == text
    assert [begin for begin, _ in found[1:]] == [end for _, end in found[:-1]]
    for begin, end in found:
        assert 0 < end - begin <= size
        window = text[begin + size // 2 : begin + size]
        if end < len(text) and "\n" in window:
            assert text[end - 1] == "\n"


def test_blocks_keep_words_whole_where_they_can() -> None:
    words = "in the beginning was the word " * 20
    for begin, end in blocks(words, 50):
        assert end == len(words) or words[end] == " "
        assert begin == 0 or words[begin] == " "


def variants(tokenizer: Any) -> dict[str, Any]:
    """Tokenizers whose offsets leave out blanks, or whose tokens stand for a changed text."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    def copy() -> Tokenizer:
        return Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())

    trimmed, folded, spaced = copy(), copy(), copy()
    trimmed.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)
    folded.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()])
    spaced.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    named = {"trimmed": trimmed, "folded": folded, "spaced": spaced}
    return {"plain": tokenizer} | {
        name: PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|eos|>") for name, inner in named.items()
    }


@pytest.mark.parametrize("kind", ["plain", "trimmed", "folded", "spaced"])
@given(text=TEXTS, size=st.integers(1, 40), length=st.integers(1, 9))
def test_windows_of_tokens_are_windows_of_the_text(
    tokenizer: Any, kind: str, text: str, size: int, length: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "blocks", partial(blocks, size=size))
        tokens = tokenize(variants(tokenizer)[kind], text)
    assert tokens.characters == len(text)
    assert tokens.ids.dtype == np.int32
    assert len(tokens) == len(tokens.ids) == len(tokens.starts)
    assert (np.diff(tokens.starts) >= 0).all()
    spans = [tokens.span(i, min(i + length, len(tokens))) for i in range(0, len(tokens), length)]
    if spans:
        assert "".join(text[begin:end] for begin, end in spans) == text
    if kind == "plain":
        assert tokenizer.decode(tokens.ids.tolist()) == text


def test_empty_text_is_no_tokens(tokenizer: Any) -> None:
    tokens = tokenize(tokenizer, "")
    assert (len(tokens), tokens.characters) == (0, 0)


@given(st.text("abc LORD.\n,", min_size=1, max_size=80))
def test_one_byte_characters_are_told_exactly(tokenizer: Any, text: str) -> None:
    tokens = tokenize(tokenizer, text)
    for i, token in enumerate(tokens.ids):
        begin, end = tokens.span(i, i + 1)
        assert text[begin:end] == tokenizer.decode([int(token)])


def test_a_character_of_several_tokens_belongs_to_one_window(tokenizer: Any) -> None:
    text = "a🙂b"
    tokens = tokenize(tokenizer, text)
    assert len(tokens) == 6  # four bytes between two letters
    cuts = [tokens.span(0, i)[1] for i in range(1, 6)]
    assert cuts == [1, 1, 1, 1, 2]
    assert all(tokens.span(i, 6) == (tokens.span(0, i)[1], 3) for i in range(1, 6))


def test_tokenize_long_text_reports_progress(tokenizer: Any, bible: str) -> None:
    text = bible[: (1 << 18) + 70_000]
    told: list[tuple[int, int]] = []
    tokens = tokenize(tokenizer, text, lambda *at: told.append(at))
    assert [total for _, total in told] == [len(text)] * 2
    assert 0 < told[0][0] < told[1][0] == len(text)
    assert text[told[0][0] - 1] == "\n"
    assert tokenizer.decode(tokens.ids[-300:].tolist()) == text[slice(*tokens.span(len(tokens) - 300, len(tokens)))]


def test_no_special_tokens_are_added(tokenizer: Any) -> None:
    tokens = tokenize(tokenizer, "And God said")
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(tokens.ids.tolist())


def test_tokenizer_that_cannot_place_its_tokens_is_refused() -> None:
    from transformers import ByT5Tokenizer

    with pytest.raises(ModelError, match=r"got a ByT5Tokenizer, expected a tokenizer with a tokenizer\.json"):
        tokenize(ByT5Tokenizer(), "text")


def test_several_files_become_one_text(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.md"
    first.write_bytes("Größe\r\n".encode())
    second.write_bytes(b"\xef\xbb\xbfsecond")  # with a byte order mark
    source = read_source([str(second), str(first)])
    assert source.text == f"second{SEPARATOR}Größe\r\n"
    assert source.files == ((str(second), 0), (str(first), 6 + len(SEPARATOR)))


@given(st.lists(st.text("ab\n", min_size=1, max_size=6), min_size=1, max_size=5))
def test_locate_finds_the_file_and_the_place_in_it(texts: list[str]) -> None:
    begins = [sum(len(text) + len(SEPARATOR) for text in texts[:i]) for i in range(len(texts))]
    source = Source(SEPARATOR.join(texts), tuple((str(i), begin) for i, begin in enumerate(begins)))
    for i, text in enumerate(texts):
        for offset, character in enumerate(text):
            assert source.text[begins[i] + offset] == character
            assert source.locate(begins[i] + offset) == (str(i), offset)


def test_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("file")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("typed é".encode())))
    source = read_source(["-", str(tmp_path / "a.txt")])
    assert source.text == f"typed é{SEPARATOR}file"
    assert source.locate(3) == ("<stdin>", 3)


def test_empty_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(InputError, match="is empty, expected text"):
        read_source(["-"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty, expected text"),
        (b" \n\t\r\n", "is empty, expected text"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "is a binary file, expected UTF-8 text.*convert"),
        ("UTF-16 text".encode("utf-16"), "is a binary file"),
        ("Größe".encode("latin-1"), r"is not UTF-8 text \(byte 0xf6 at 2\).*iconv -t UTF-8"),
        (b"cut in a character \xf0\x9f\x99", "is not UTF-8 text"),
    ],
)
def test_what_is_not_text_is_refused_by_name(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "input.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"input.txt: {message}"):
        read_source([str(path)])


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.txt: no such file; check the path"):
        read_source([str(tmp_path / "nothing.txt")])
    with pytest.raises(InputError, match=r"is a folder, expected a text file; name its files"):
        read_source([str(tmp_path)])
    with pytest.raises(InputError, match="expected one or more text files, or -"):
        read_source([])
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="cannot be read"):
        read_source([str(tmp_path / "file" / "below")])
    with pytest.raises(InputError):  # the second of two is as bad as the first
        read_source([str(tmp_path / "file"), str(tmp_path / "nothing.txt")])
