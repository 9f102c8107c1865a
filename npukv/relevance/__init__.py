"""Segment relevance (XL3M, arXiv 2405.17755): cut a long text, score each piece against a question, keep the best.

Flow: `cut` -> `score` (journalled) -> `pick` -> `answer`.
"""
