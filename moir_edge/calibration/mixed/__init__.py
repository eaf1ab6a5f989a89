"""Mixed precision by measurement: what each layer costs in each precision, and the smallest mix that keeps a score."""
