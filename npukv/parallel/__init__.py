"""Scoring over several cards: ranks, shards, gathering."""
