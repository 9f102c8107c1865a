"""Tokens and bytes as they are."""

from __future__ import annotations

from npukv.cache.report import CacheReport, LayerReport, total


def test_sums_and_ratio() -> None:
    report = total([LayerReport(100, 25, 1000, 300), LayerReport(100, 50, 1000, 500)], other_layers=3)
    assert isinstance(report, CacheReport)
    assert (report.logical_tokens, report.physical_tokens) == (100, 50)
    assert (report.logical_bytes, report.physical_bytes) == (2000, 800)
    assert report.ratio == 0.375
    assert str(report) == (
        "100 tokens seen, 50 held (37.5%); 2.0 KiB as a full cache, 800 B in memory; 3 layers of other kinds"
    )


def test_empty() -> None:
    report = total([])
    assert report.ratio == 1.0
    assert report.logical_bytes == report.physical_bytes == report.physical_tokens == 0


def test_large_sizes_are_readable() -> None:
    report = total([LayerReport(1_000_000, 250_000, 3 << 30, 5 << 20)])
    assert "3.00 GiB as a full cache, 5.0 MiB in memory" in str(report)
