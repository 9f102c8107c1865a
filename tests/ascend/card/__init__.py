"""What scripts/on_device runs on a card: each module prints one JSON object per line."""
