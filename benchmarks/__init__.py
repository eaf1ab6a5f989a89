"""Scripts that measure moir-edge, run from the root of a checkout as `python -m benchmarks.NAME`; not installed."""
