"""The vendor's own shape functions, run from a downloaded wheel without CANN."""
