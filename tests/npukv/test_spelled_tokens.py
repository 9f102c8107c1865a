"""Special tokens spelled out in a text or a question are text."""

import npukv
from npukv.prompt import build_prompt
from npukv.text import tokenize


def test_spelled_special_tokens_are_text(llama: npukv.LanguageModel) -> None:
    special = set(llama.tokenizer.all_special_ids)
    spelled = f"one {llama.tokenizer.eos_token} two"
    assert special
    assert not special & set(tokenize(llama.tokenizer, spelled).ids.tolist())
    assert not special & set(llama.encode(spelled))
    assert not special & set(build_prompt(llama.tokenizer, spelled).question)
