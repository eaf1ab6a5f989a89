"""Answers, times and memory over the share of image tokens that is dropped, for every way to choose them."""
