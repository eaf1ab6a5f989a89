"""`compare`: a checkpoint against bundles in size, latency, memory, accuracy and routing."""
