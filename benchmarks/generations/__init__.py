"""Bundles against transformers, token for token: `python -m benchmarks.generations`."""
