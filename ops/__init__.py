"""Operators: what is computed. Each family has a plain-torch reference and tuned versions per device."""
