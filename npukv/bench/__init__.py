"""Benchmarks a user can run: parity first, then raw samples."""
