"""Offline evaluation: tasks made from any text, methods that answer them, and reports."""
