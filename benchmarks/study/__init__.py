"""The study: does a router lessen modality dominance? Same budget for every arm; `python -m benchmarks.study`."""
