"""Bundles against transformers, token for token: `python -m moir_edge.benchmarks.generations`."""
