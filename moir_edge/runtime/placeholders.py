"""Placeholders of an image in the prompt: one function per Hugging Face `model_type`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from moir_edge.errors import UnsupportedError, closest

__all__ = ["ImageTokens", "expander_for"]


@dataclass(frozen=True, kw_only=True)
class ImageTokens:
    """The strings and counts that an expansion is made of.

    Attributes:
        image: The image token, one per row of image features.
        tokens_per_tile: Rows of image features per tile.
        special_tokens: Named special tokens of the tokenizer.
    """

    image: str
    tokens_per_tile: int
    special_tokens: Mapping[str, str]


Expander = Callable[[ImageTokens, int, int], str]

_EXPANDERS: dict[str, Expander] = {}


def _expander(*model_types: str) -> Callable[[Expander], Expander]:
    def add(function: Expander) -> Expander:
        for model_type in model_types:
            if model_type in _EXPANDERS:
                raise ValueError(f"placeholder of {model_type} is registered twice")
            _EXPANDERS[model_type] = function
        return function

    return add


def expander_for(model_type: str) -> Expander:
    """Return the function (tokens, rows, columns) -> text that replaces one image token.

    Rows and columns are those of the tiles, 0 where the image was not split.

    Raises:
        UnsupportedError: No expansion is known for the model type.
    """
    if model_type not in _EXPANDERS:
        raise UnsupportedError(
            f"no prompt layout for model type {model_type!r}; {closest(model_type, _EXPANDERS)}"
        )
    return _EXPANDERS[model_type]


@_expander("smolvlm", "idefics3")
def _smolvlm(tokens: ImageTokens, rows: int, columns: int) -> str:
    around = tokens.special_tokens.get("fake_image_token", "<fake_token_around_image>")
    overview = tokens.special_tokens.get("global_image_token", "<global-img>")
    run = tokens.image * tokens.tokens_per_tile
    whole = f"{around}{overview}{run}{around}"
    if rows == 0 and columns == 0:
        return whole
    lines = [
        "".join(f"{around}<row_{row + 1}_col_{column + 1}>{run}" for column in range(columns))
        for row in range(rows)
    ]
    return "\n".join(lines) + "\n\n" + whole


@_expander("internvl")
def _internvl(tokens: ImageTokens, rows: int, columns: int) -> str:
    start = tokens.special_tokens.get("start_image_token", "<img>")
    end = tokens.special_tokens.get("end_image_token", "</img>")
    tiles = rows * columns + 1  # those of a split image, and the overview; or the one
    return f"{start}{tokens.image * (tokens.tokens_per_tile * tiles)}{end}"


@_expander("llava", "vipllava")
def _llava(tokens: ImageTokens, rows: int, columns: int) -> str:
    del rows, columns  # LLaVA looks at one square per image
    return tokens.image * tokens.tokens_per_tile
