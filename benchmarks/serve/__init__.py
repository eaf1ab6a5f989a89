"""Load, latency and hostile requests on `moir-edge serve`."""
