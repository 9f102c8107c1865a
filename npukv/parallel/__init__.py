"""Several cards, on one machine or many: ranks, shares, token stores.

Under torchrun (or `--devices`), `join` gives a process its place; `score_segments(..., ranks=ranks)` does the rest.
"""
