"""npukv: answer over inputs thousands of times longer than a model's context.

    import npukv

    lm = npukv.load()
    answer = npukv.answer(lm, text, "What is the pass key?")

Names are imported on first use, so that `import npukv` stays quick.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npukv.cache.clustered import ClusteredCache
    from npukv.cache.hashed import HashedCache
    from npukv.decode import generate
    from npukv.language_model import LanguageModel, load
    from npukv.relevance.answer import Answer, answer, answer_from
    from npukv.relevance.score import score_segments, stream_scores
    from npukv.relevance.scores import Scores

__all__ = [
    "Answer",
    "ClusteredCache",
    "HashedCache",
    "LanguageModel",
    "Scores",
    "answer",
    "answer_from",
    "generate",
    "load",
    "score_segments",
    "stream_scores",
]

_HOME = {
    "Answer": "npukv.relevance.answer",
    "ClusteredCache": "npukv.cache.clustered",
    "HashedCache": "npukv.cache.hashed",
    "LanguageModel": "npukv.language_model",
    "Scores": "npukv.relevance.scores",
    "answer": "npukv.relevance.answer",
    "answer_from": "npukv.relevance.answer",
    "generate": "npukv.decode",
    "load": "npukv.language_model",
    "score_segments": "npukv.relevance.score",
    "stream_scores": "npukv.relevance.score",
}

try:
    __version__ = version("npukv")
except PackageNotFoundError:  # imported from a checkout that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'npukv' has no attribute {name!r}")
