"""A console of rich whose strings cannot steer the terminal; rich itself lets the escape character through."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from moir_edge.printable import printable

__all__ = ["PlainConsole"]


class PlainConsole(Console):
    """A console that spells steering characters of strings: lines, cells, headings. Its own colours stay."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text to be measured and drawn."""
        return super().render_str(printable(text), **options)
