"""How many segments go through the model at once."""

from __future__ import annotations

from npukv.language_model import LanguageModel

#: Share of the free memory a batch may plan with; the rest covers what the estimate leaves out.
SHARE = 0.6


def batch_size(lm: LanguageModel, length: int, logits: int) -> int:
    """Rows of `length` tokens, with logits at `logits` positions each, that one forward pass should take.

    No more than saturate the device, and no more than fit its measured free memory; at least 1.
    """
    saturating = max(1, lm.device.batch_tokens // length)
    fitting = int(lm.device.free_memory() * SHARE) // memory_per_row(lm, length, logits)
    return max(1, min(saturating, fitting))


def memory_per_row(lm: LanguageModel, length: int, logits: int) -> int:
    """Bytes one row takes at the peak of a forward pass, by the shapes of the model's layers.

    Keys and values of every layer stay; of the activations, one layer's at a time.
    """
    config = lm.model.config.get_text_config()
    size = lm.model.dtype.itemsize
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
    kept = 2 * config.num_hidden_layers * kv_heads * width * size
    passing = (6 * config.hidden_size + 3 * inner + 4 * heads * width) * 4  # norms and rotations widen to float32
    return length * (kept + passing) + logits * config.vocab_size * size + config.vocab_size * 12
