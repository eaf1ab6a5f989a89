"""Bounds on what a file or a prompt may ask of this machine, each with its reason; docs/security.md lists them."""

from __future__ import annotations

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "INDEX_BYTES",
    "JSON_BYTES",
    "TEMPLATE_BYTES",
    "TEMPLATE_STEPS",
    "TOKENIZER_BYTES",
]

JSON_BYTES = 4 << 20
"""One JSON file of settings: empty lists take 22 times their text in memory, and the largest manifest so far has 0.3 MB."""

INDEX_BYTES = 64 << 20
"""An index of weights: about 100 bytes for each tensor of a model with hundreds of experts in each layer."""

TOKENIZER_BYTES = 64 << 20
"""A `tokenizer.json`: the largest vocabulary in use, of 262,144 tokens, takes 33 MB."""

TEMPLATE_BYTES = 256 << 10
"""The source of a chat template: the longest in use, with tools and reasoning, have about 20 kB."""

TEMPLATE_STEPS = 1_000_000
"""Rounds of loops and calls of macros in one rendering: about a second; a conversation takes a few for each message and part."""

CHARACTERS_PER_TOKEN = 512
"""Characters that one token of a prompt may stand for on average; the longest tokens in use are runs of 128 blanks or so."""
