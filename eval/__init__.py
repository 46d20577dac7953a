"""Benchmarks: everything in one run, baseline beside result."""
