"""The ways to find the numbers of a quantized weight: with and without data, a row of `registry` each."""

from __future__ import annotations
