"""Granite-Docling: pages as tiles with their places, and DeepStack features of each tile."""

from __future__ import annotations

from typing import ClassVar

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.runtime.families.base import ImageTokens
from moir_edge.runtime.families.deepstack import DeepstackFamily, Levels
from moir_edge.runtime.families.registry import register
from moir_edge.runtime.families.settings import FamilySettings, family_settings
from moir_edge.runtime.families.tiles import TileFamily
from moir_edge.runtime.image_processor import ImageShape

__all__ = ["GraniteDocling"]

# Its processor writes these two whatever the tokenizer calls them.
_AROUND, _OVERVIEW = "<fake_token_around_image>", "<global-img>"


class DoclingSettings(FamilySettings):
    """Settings of the config that the host needs.

    Attributes:
        levels: How many layers of the tower are tapped.
    """

    levels: Levels


@register
class GraniteDocling(DeepstackFamily, TileFamily):
    """A page of one tile has no overview; one of several tiles has it at the end.

    Args:
        facts: What the manifest says of the model.

    Raises:
        BundleError: A setting of the family is missing or out of range.
    """

    model_types: ClassVar[tuple[str, ...]] = ("granite_docling",)

    def __init__(self, facts: ModelFacts) -> None:
        super().__init__(facts)
        self.levels = family_settings(facts, DoclingSettings).levels

    def placeholders(self, tokens: ImageTokens, image: ImageShape) -> str:
        """Return one line for each row of tiles, then the overview of several."""
        run = self.run(tokens)
        rows, columns = max(1, image.rows), max(1, image.columns)
        text = "".join(
            "".join(f"{_AROUND}<row_{row + 1}_col_{column + 1}>{run}" for column in range(columns))
            + "\n"
            for row in range(rows)
        )
        return text if rows * columns == 1 else f"{text}\n{_AROUND}{_OVERVIEW}{run}{_AROUND}"
