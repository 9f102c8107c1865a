"""KV caches for transformers, one file per method."""
