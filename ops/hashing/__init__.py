"""Hash codes of queries and keys, their Hamming scores, and the selection of keys by them."""
