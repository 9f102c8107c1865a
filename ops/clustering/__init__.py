"""Soft matching of keys and merging them into centroids."""
